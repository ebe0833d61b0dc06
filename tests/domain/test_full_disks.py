"""Disks that are full or read-only: a real small file system, mounted for the test."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase.build import bulk

from surveyor.campaign import CampaignParameters, open_campaign
from surveyor.errors import InputError, StorageFailed
from surveyor.labels import POLICIES, Label, LabelFailure, LabelStore, label_key
from surveyor.reference import labelling
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import label_structure

PATIENCE_S = 20.0

pytestmark = pytest.mark.mount


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(10**6))
    return ballast


def test_a_label_waits_for_room_in_a_full_store(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(labelling, "RETRY_S", 0.1)
    reference, store = EMTReference(), LabelStore.in_folder(disk / "labels")
    theory, atoms = reference.resolve(), bulk("Cu")
    ballast = fill(disk)
    outcomes: list[object] = []
    labeller = threading.Thread(
        target=lambda: outcomes.append(label_structure(atoms, reference, theory, store, tmp_path / "scratch"))
    )
    labeller.start()
    deadline = time.monotonic() + PATIENCE_S
    while "cannot be kept now" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ballast.unlink()
    labeller.join(PATIENCE_S)
    assert isinstance(outcomes[0], Label)
    assert store.get(label_key(atoms, theory)) is not None


def test_a_store_that_stays_full_is_said(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "PATIENCE_S", 0.0)
    reference = EMTReference()
    fill(disk)
    with pytest.raises(
        StorageFailed, match=r"is computed, but could not be kept in .*labels.*No space left.*make room"
    ):
        label_structure(
            bulk("Cu"), reference, reference.resolve(), LabelStore.in_folder(disk / "labels"), tmp_path / "scratch"
        )
    assert list((tmp_path / "scratch").iterdir())


def test_a_full_scratch_is_a_failure_of_the_disk(disk: Path, tmp_path: Path) -> None:
    reference, store = EMTReference(), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(disk)], check=True)
    outcome = label_structure(bulk("Cu"), reference, theory, store, disk / "scratch")
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "disk"
    assert len(store.failures(label_key(bulk("Cu"), theory))) == POLICIES["disk"].attempts


@pytest.mark.parametrize("field", ["run_directory", "labels"])
def test_folders_that_are_read_only_are_said_before_work_starts(disk: Path, tmp_path: Path, field: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    (tmp_path / "copper.xyz").write_text("1\n\nCu 0 0 0\n")
    parameters = CampaignParameters.model_validate(
        {
            "run_directory": tmp_path / "run",
            "walkers": [{"start": tmp_path / "copper.xyz"}],
            "reference": {"emt": {}},
            "model": {"pair": {}},
            field: disk / "here",
        }
    )
    with (
        pytest.raises(InputError, match=rf"{field}: .*here cannot be written to \(Read-only file system\)"),
        open_campaign(parameters),
    ):
        pass
