"""Labelling of datasets: as a Python call and by the command, on a local pool, with a real Prefect server."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from ase.io import read
from deadly_reference import DeadlyEMT
from labelling_inputs import bad_structures, copper, counting, written
from prefect import flow
from prefect_server import prefect_environment
from processes import PATIENCE_S, wait_until
from rich.console import Console

from surveyor.dataset import FAILURE, KEY, MESSAGE, Dataset
from surveyor.errors import InputError
from surveyor.events.kinds import LabelFailed, LabelsRequested
from surveyor.events.log import of_kind
from surveyor.flows import label_dataset as module
from surveyor.flows.label_commands import LABELLING_VIEW
from surveyor.flows.label_dataset import label_dataset, label_everything, label_structures
from surveyor.labels import LabelStore
from surveyor.pools.sites import LocalSite
from surveyor.run_directory import RunDirectory
from surveyor.testing.references import launches, structure_id
from surveyor.works.labelling import LABELLING, Labelling, LabellingParameters
from surveyor.works.summary import read_summary

pytestmark = [pytest.mark.slow]


def test_a_call_labels_a_file_and_the_same_call_computes_nothing(tmp_path: Path) -> None:
    good, log = copper(4), tmp_path / "launches.log"
    structures = [*good, *bad_structures().values(), good[1]]
    parameters: dict[str, Any] = {
        "structures": written(tmp_path / "copper.extxyz", structures),
        "output_directory": tmp_path / "out",
        "reference": counting(log),
        "chunk_size": 3,
    }
    labelled = Dataset.load(label_dataset(**parameters))

    assert [structure_id(atoms) for atoms in labelled] == [structure_id(atoms) for atoms in [*good, good[1]]]
    assert len(labelled.labelled()) == 5
    begun = Counter(launches(log))
    assert [begun[structure_id(atoms)] for atoms in good] == [1] * 4
    directory = RunDirectory(tmp_path / "out")
    summary = read_summary(directory)
    assert (summary["n_labelled"], summary["failures"]) == (5, {"geometry": 1, "invalid_input": 5})
    failed = read(tmp_path / "out" / "failed.extxyz", ":")
    assert [atoms.info[FAILURE] == "geometry" for atoms in failed] == [True, *[False] * 5]
    assert [atoms.info[MESSAGE] != "" for atoms in failed] == [True] * 6
    assert not directory.lease.exists()

    assert summary["n_new"] == 4
    directory.events.path.unlink()  # as where the disk was full
    assert "5 of 11 structures labelled; 4 new labels" in concluded(directory)

    label_dataset(**parameters)
    assert Counter(launches(log)) == begun
    assert read_summary(directory) == {**summary, "n_new": 0}


def concluded(directory: RunDirectory) -> str:
    """Return what the command prints at the end."""
    console = Console(file=StringIO(), width=200)
    LABELLING_VIEW.conclude(console, directory, directory.summary)
    return console.file.getvalue()


def test_a_dataset_is_labelled_and_what_the_pool_lacks_is_said_before_the_first_label(tmp_path: Path) -> None:
    labelled = label_structures(Dataset(copper(2)), tmp_path / "out", reference={"emt": {}})
    assert len(labelled) == 2

    text = "&FORCE_EVAL\n&DFT\n BASIS_SET_FILE_NAME NOWHERE\n&END DFT\n&SUBSYS\n&KIND Cu\n BASIS_SET SZV-GTH\n"
    (tmp_path / "copper.inp").write_text(f"{text} POTENTIAL GTH-PBE\n&END KIND\n&END SUBSYS\n&END FORCE_EVAL\n")
    with pytest.raises(InputError, match=r"NOWHERE|there is no program"):
        label_structures(copper(2), tmp_path / "cp2k", reference={"cp2k": {"input": tmp_path / "copper.inp"}})
    assert not (tmp_path / "cp2k" / "calculations").exists()


class Command:
    """`surveyor label` in a process of its own, with labels that take their time."""

    def __init__(self, folder: Path, api_url: str, n_structures: int, delay_s: float) -> None:
        self.folder, self.log, self.output = folder, folder / "launches.log", folder / "output.txt"
        self.directory = RunDirectory(folder / "out")
        self.store = LabelStore.in_folder(folder / "labels")
        self.structures = copper(n_structures)
        written(folder / "copper.extxyz", self.structures)
        self.environment = prefect_environment(folder / "prefect", api_url)
        fields = {
            "structures": "copper.extxyz",
            "output_directory": "out",
            "reference": counting(self.log, delay_s),
            "chunk_size": 4,
        }
        (folder / "label.yaml").write_text(yaml.safe_dump(fields))

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "surveyor.flows.command_line", "label", "label.yaml"]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=output, stderr=output)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.output.read_text)


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, prefect_api_url: str) -> None:
    command = Command(tmp_path, prefect_api_url, n_structures=12, delay_s=0.5)
    first = command.start()
    try:
        command.wait_for(lambda: len(launches(command.log, "end")) >= 3)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    finished, begun = set(command.store.keys()), len(launches(command.log))
    assert 3 <= len(finished) < 12
    assert not (command.directory.path / "summary.json").exists()

    assert command.start().wait(PATIENCE_S) == 0, command.output.read_text()
    printed = command.output.read_text()
    assert "12 of 12 structures labelled" in printed
    kept = {structure_id(a) for a in Dataset.load(tmp_path / "out" / "labelled.extxyz") if a.info[KEY] in finished}
    # What had begun when the command was killed may end, or begin once more; what was finished does not.
    assert not kept & set(launches(command.log)[begun + 2 :])
    status = [sys.executable, "-m", "surveyor.flows.command_line", "status", str(command.directory.path)]
    output = subprocess.run(status, env=command.environment, capture_output=True, text=True, check=True).stdout
    assert "complete: 12 of 12 structures labelled\nlabelled" in output
    found = re.search(r"(\d+) from the store", output)
    assert found is not None
    assert len(finished) <= int(found[1]) <= begun  # one may have ended since it was counted
    assert max(Counter(launches(command.log, "end")).values()) == 1


def kill_worker(log: Path, n_finished: int) -> None:
    """Wait until some labels are finished and another has begun, then kill the process that it is in."""
    wait_until(lambda: len(launches(log, "end")) >= n_finished < len(launches(log)), log.name.__str__)
    os.kill(int(log.read_text().splitlines()[-1].split()[2]), signal.SIGKILL)


def test_a_chunk_whose_worker_dies_is_retried_and_finds_what_it_had_finished(tmp_path: Path) -> None:
    log = tmp_path / "launches.log"
    killer = threading.Thread(target=kill_worker, args=(log, 2))
    killer.start()
    parameters: dict[str, Any] = {"reference": counting(log, 0.5), "chunk_size": 4}
    assert len(label_structures(copper(4), tmp_path / "out", **parameters)) == 4
    killer.join()
    begun = Counter(launches(log))
    assert sorted(begun.values()) == [1, 1, 1, 2]
    assert set(Counter(launches(log, "end")).values()) == {1}


def test_a_structure_that_ends_every_worker_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The delays of retries are minutes, which a test has not.
    monkeypatch.setattr(module, "label_several", module.label_several.with_options(retries=1, retry_delay_seconds=0))
    monkeypatch.setattr(module, "TOGETHER_S", [0.0])
    structures = copper(4)
    structures[1].positions[0, 0] = 0.5

    @flow(validate_parameters=False)
    def label(labelling: Labelling) -> Path:
        return label_everything(labelling)

    parameters = LabellingParameters(
        structures=written(tmp_path / "structures.extxyz", structures),
        output_directory=tmp_path / "out",
        reference={"emt": {}},
        pool="local/one",
        chunk_size=4,
    )
    with LABELLING.open(parameters, {"local/one": LocalSite(cores=1)}) as opened:
        deadly = replace(opened.checked, reference=DeadlyEMT(limit_A=0.3))
        labelled = Dataset.load(label(replace(opened, checked=deadly)))
    assert [structure_id(a) for a in labelled] == [structure_id(structures[index]) for index in (0, 2, 3)]
    (failed,) = read(tmp_path / "out" / "failed.extxyz", ":")
    assert failed.info[FAILURE] == "crash"
    assert "a worker of pool local/one died" in failed.info[MESSAGE]
    failures = of_kind([record.event for record in caplog.records if hasattr(record, "event")], LabelFailed)
    assert [(each.key, each.reason) for each in failures] == [(failed.info[KEY], "crash")]


def test_labels_are_imported_by_the_command_and_found_by_a_labelling(tmp_path: Path, prefect_api_url: str) -> None:
    label_structures(copper(2), tmp_path / "first", reference={"emt": {}}, labels=tmp_path / "elsewhere")
    command = [sys.executable, "-m", "surveyor.flows.command_line", "labels", "import", "first/labelled.extxyz"]
    theory = ["--store", "labels", "--level-of-theory", "first/level_of_theory.json"]
    environment = prefect_environment(tmp_path / "prefect", prefect_api_url)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run(*theory)
    assert done.returncode == 0, done.stderr
    assert "2 new labels in labels" in done.stdout
    unchecked = run(*theory, "--check", "1")
    assert unchecked.returncode == 2
    assert "does not say how to compute a label" in unchecked.stderr

    label_structures(copper(2), tmp_path / "second", reference={"emt": {}})
    events = RunDirectory(tmp_path / "second").events.read()[0]
    assert [event.n_found for event in of_kind(events, LabelsRequested)] == [2]
