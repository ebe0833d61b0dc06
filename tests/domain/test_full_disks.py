"""Disks that are full or read-only: a real small file system, mounted for the test."""

import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from processes import PATIENCE_S

from surveyor import files
from surveyor.dataset import Dataset
from surveyor.errors import InputError, StorageFailed
from surveyor.events.kinds import EpochEnds, Labelled
from surveyor.events.log import EventLog
from surveyor.events.relay import Relay
from surveyor.files import write_arrays, write_json
from surveyor.labels import POLICIES, Label, LabelFailure, LabelStore, label_key
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.works.campaign import CAMPAIGN, CampaignParameters
from surveyor.works.labelling import LABELLING, LabellingParameters

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
    monkeypatch.setattr(files, "RETRY_S", 0.1)
    reference, store = EMTReference(), LabelStore.in_folder(disk / "labels")
    theory, atoms = reference.resolve(), bulk("Cu")
    ballast = fill(disk)
    outcomes: list[object] = []
    labeller = threading.Thread(
        target=lambda: outcomes.append(label_structure(atoms, Labeller(reference, theory, store, tmp_path / "scratch")))
    )
    labeller.start()
    deadline = time.monotonic() + PATIENCE_S
    while "Until this is fixed, the work waits" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ballast.unlink()
    labeller.join(PATIENCE_S)
    assert isinstance(outcomes[0], Label)
    assert store.get(label_key(atoms, theory)) is not None


def test_a_store_that_stays_full_is_said(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    reference = EMTReference()
    fill(disk)
    with pytest.raises(
        StorageFailed, match=r"is computed, but cannot be kept in .*labels.*No space left.*waiting. Make room"
    ):
        label_structure(
            bulk("Cu"),
            Labeller(reference, reference.resolve(), LabelStore.in_folder(disk / "labels"), tmp_path / "scratch"),
        )
    assert list((tmp_path / "scratch").iterdir())


def test_a_full_scratch_is_a_failure_of_the_disk(disk: Path, tmp_path: Path) -> None:
    reference, store = EMTReference(), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(disk)], check=True)
    outcome = label_structure(bulk("Cu"), Labeller(reference, theory, store, disk / "scratch"))
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
        CAMPAIGN.open(parameters),
    ):
        pass


@pytest.mark.parametrize("kind", ["json", "arrays", "structures"])
def test_a_file_of_a_run_waits_for_room_and_says_so(
    kind: str, disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.1)
    path = disk / "run" / "file"
    path.parent.mkdir()
    writers: dict[str, Callable[[], None]] = {
        "json": lambda: write_json(path, list(range(2000))),
        "arrays": lambda: write_arrays(path, {"numbers": np.zeros(2000)}),
        "structures": lambda: Dataset([bulk("Cu", cubic=True)] * 50).save(path),
    }
    ballast = fill(disk)
    writer = threading.Thread(target=writers[kind])
    writer.start()
    deadline = time.monotonic() + PATIENCE_S
    while "this waits" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    expected = f"{path} cannot be written: No space left on device; the file system at {disk} has 0 of 0.2"
    assert expected in caplog.text
    assert not path.exists()
    ballast.unlink()
    writer.join(PATIENCE_S)
    assert path.stat().st_size > 2000
    assert list(path.parent.iterdir()) == [path]


def test_a_run_directory_that_stays_full_is_said_with_its_file_system(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    fill(disk)
    disks = rf"the file system at {disk} has 0 of 0.2\d* MB free, after 0 min of waiting"
    expected = rf"{disk}/run.json cannot be written: No space left on device; {disks}. Make room, then give the same"
    with pytest.raises(StorageFailed, match=expected):
        write_json(disk / "run.json", list(range(2000)))
    with pytest.raises(OSError, match="No space left"):
        write_json(disk / "run.json", list(range(2000)), is_patient=False)
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_whatever_else_finds_a_full_disk_ends_the_run_with_the_names_of_its_disks(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "copper.xyz").write_text("1\n\nCu 0 0 0\n")
    parameters = LabellingParameters.model_validate(
        {
            "structures": tmp_path / "copper.xyz",
            "output_directory": disk / "run",
            "reference": {"emt": {}},
            "labels": tmp_path / "labels",
        }
    )
    with pytest.raises(StorageFailed) as failure, LABELLING.open(parameters):
        (disk / "run" / "checkpoint").write_bytes(bytes(10**6))
    assert "a file cannot be written: No space left on device; the file system at " in str(failure.value)
    # The lease is gone by then, and left some room.
    assert re.search(rf"the file system at {disk} has 0(\.00\d+)? of 0\.2\d* MB free", str(failure.value))


def test_events_that_find_no_room_come_when_there_is_some(disk: Path, tmp_path: Path) -> None:
    workers, events, seen = tmp_path / "workers", EventLog(disk / "events.jsonl"), []
    relay = Relay(workers, events, lambda event: seen.append(event.key))
    ballast = fill(disk)
    events.path.touch()
    with relay.running(interval_s=0.01):
        EventLog(workers / "one.jsonl").append(Labelled(key="v1:a"))
        time.sleep(0.2)
        assert seen == []
        ballast.unlink()
        deadline = time.monotonic() + PATIENCE_S
        while not seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert seen == ["v1:a"]


def test_an_event_that_found_room_for_half_of_it_does_not_spoil_the_next_one(disk: Path) -> None:
    events = EventLog(disk / "events.jsonl")
    (disk / "ballast").write_bytes(bytes(150_000))

    def append_for_ever() -> None:
        for number in count():
            events.append(EpochEnds(number=number, message="x" * 3000))

    with pytest.raises(OSError, match=r"No space left on device: '.*/events.jsonl'"):
        append_for_ever()
    assert not events.path.read_bytes().endswith(b"\n")
    found = [event.number for event in events.read()[0]]
    (disk / "ballast").unlink()
    events.append(EpochEnds(number=100))
    assert [event.number for event in events.read()[0]] == [*found, 100]
    assert found == [*range(len(found))] != []
