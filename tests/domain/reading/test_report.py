"""Texts of reports, and their announcement."""

import logging
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from surveyor.events.kinds import FileRead, FileSuspicious
from surveyor.events.log import EventLog
from surveyor.events.recording import reporting
from surveyor.reading import announce_readings, read_labelled, read_structures, read_unchecked
from surveyor.reading.report import Finding, Notes, ReadingReport


def labelled():
    atoms = molecule("H2O")
    atoms.info["REF_energy"] = -1.0
    atoms.arrays["REF_forces"] = np.zeros((3, 3))
    return atoms


def test_a_file_with_nothing_remarkable_takes_one_line(tmp_path):
    ase.io.write(tmp_path / "data.extxyz", [labelled()] * 3)
    report = read_labelled(tmp_path / "data.extxyz", "train").report
    assert report.lines == ["train: data.extxyz: 3 structures; used: REF_energy, REF_forces"]


def test_a_kind_of_finding_takes_one_line_with_the_number_of_structures_and_the_first():
    notes = Notes()
    for notes.index in range(5):
        if notes.index % 2:
            notes.warn("odd")
    assert [finding.line for finding in notes.findings] == ["odd (2 structures, the first is 1)"]


UNUSED = "REF_energy, REF_forces: labels in the file are not used; where needed they are computed anew"


@pytest.mark.parametrize("read", [read_structures, read_unchecked])
def test_labels_that_are_not_used_are_told_of(tmp_path, read):
    ase.io.write(tmp_path / "some.extxyz", [molecule("H2O"), labelled(), labelled()])
    report = read(tmp_path / "some.extxyz").report
    assert report.findings == (Finding(UNUSED, 2, 1),)
    assert report.unused == ("REF_energy", "REF_forces")


def test_a_report_is_announced_with_warnings_that_are_warnings(tmp_path):
    report = ReadingReport(Path("some.extxyz"), 2, ("charge",), (), (), "train")
    events = EventLog(tmp_path / "events.jsonl")
    logging.getLogger("surveyor").setLevel(logging.INFO)
    with reporting(events):
        announce_readings([report.with_findings(Finding("odd", 1, 1))])
    first, second = events.read()[0]
    assert (type(first), first.level, first.used) == (FileRead, logging.INFO, ("charge",))
    assert (type(second), second.level, second.first) == (FileSuspicious, logging.WARNING, 1)
    assert second.message == "train: some.extxyz: odd (1 structure, the first is 1)"
