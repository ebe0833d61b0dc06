"""Disks that are full or read-only: a real small file system, mounted for the test."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from processes import PATIENCE_S, wait_until

from surveyor import files
from surveyor.dataset import Dataset, with_label
from surveyor.errors import InputError, StorageFailed
from surveyor.events.kinds import EpochEnds, Labelled
from surveyor.events.log import EventLog
from surveyor.events.relay import Relay
from surveyor.files import write_arrays, write_json
from surveyor.labels import POLICIES, Label, LabelFailure, LabelStore, label_key
from surveyor.models.choice import load_model
from surveyor.models.history import history_of
from surveyor.models.model import Epoch
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.plausibility import Beginning
from surveyor.models.trainer import Trainer, run_trainer
from surveyor.models.training import train_model
from surveyor.pools.workspace.translation import translating
from surveyor.programs.program import run_program
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.sampling.observables import append_frames, keep_last_good
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


@dataclass(frozen=True)
class Writing(EMTReference):
    """EMT that writes 100 kB into its folder first, and crashes where there is no room for them."""

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        try:
            (directory / "output.txt").write_bytes(bytes(100_000))
        except OSError:
            return LabelFailure("crash", "end of file")
        return super().compute(atoms, directory)


@pytest.mark.parametrize("needs", ["a folder", "an output"])
def test_a_calculation_waits_for_room_in_the_run_directory(
    needs: str, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.1)
    reference, store = Writing(), LabelStore.in_folder(tmp_path / "labels")
    labeller = Labeller(reference, reference.resolve(), store, disk / "run" / "calculations")
    if needs == "a folder":
        subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(disk)], check=True)
    ballast = fill(disk) if needs == "an output" else None
    outcomes: list[object] = []
    worker = threading.Thread(target=lambda: outcomes.append(label_structure(bulk("Cu"), labeller)))
    worker.start()
    wait_until(lambda: "this waits" in caplog.text, lambda: caplog.text)
    assert f"No space left on device; the file system at {disk} has " in caplog.text
    if ballast is None:
        subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(disk)], check=True)
    else:
        ballast.unlink()
    worker.join(PATIENCE_S)
    assert isinstance(outcomes[0], Label)
    assert store.failures(label_key(bulk("Cu"), labeller.theory)) == ()
    assert list(labeller.scratch.iterdir()) == []


def test_a_run_directory_that_stays_full_ends_the_work_and_fails_no_label(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    reference, store = Writing(), LabelStore.in_folder(tmp_path / "labels")
    labeller = Labeller(reference, reference.resolve(), store, disk / "calculations")
    fill(disk)
    with pytest.raises(StorageFailed, match=rf"No space left on device; the file system at {disk} has .*Make room"):
        label_structure(bulk("Cu"), labeller)
    assert store.failures(label_key(bulk("Cu"), labeller.theory)) == ()


def test_a_full_disk_of_one_worker_is_a_failure_that_another_worker_may_not_have(disk: Path, tmp_path: Path) -> None:
    reference, store = EMTReference(), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(disk)], check=True)
    with translating(lambda text: text.replace(str(disk), "/run")):  # a worker without the run directory
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


FRAMES = [bulk("Cu", cubic=True).repeat(4)] * 3


@pytest.mark.parametrize("kind", ["json", "arrays", "structures", "trajectory", "rejections"])
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
        "trajectory": lambda: append_frames(path, FRAMES, n_before=0),
        "rejections": lambda: keep_last_good(path, FRAMES[0], {"reason": "force"}),
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
    assert not path.exists() or path.stat().st_size == 0
    ballast.unlink()
    writer.join(PATIENCE_S)
    assert path.stat().st_size > 2000
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_has_room_for_a_part_leaves_no_part(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trajectory, rejected = disk / "walker.traj", disk / "rejected.extxyz"
    append_frames(trajectory, FRAMES[:1], n_before=0)
    keep_last_good(rejected, FRAMES[0], {"reason": "force"})
    size = rejected.stat().st_size
    (disk / "ballast").write_bytes(bytes(150_000))
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    with pytest.raises(StorageFailed):
        append_frames(trajectory, FRAMES * 10, n_before=1)
    with pytest.raises(StorageFailed):
        keep_last_good(rejected, bulk("Cu").repeat(20), {"reason": "force"})
    assert rejected.stat().st_size == size

    (disk / "ballast").unlink()
    assert append_frames(trajectory, FRAMES, n_before=1) == 4
    keep_last_good(rejected, FRAMES[0], {"reason": "distance"})
    assert len(ase.io.read(trajectory, ":")) == 4
    kept = [json.loads(each.info["rejection"])["reason"] for each in ase.io.read(rejected, ":")]
    assert kept == ["force", "distance"]


PROGRAM = """
import json
with open("state", "wb") as state:
    state.write(bytes(100_000))
with open("results.txt", "a") as results:
    results.write(json.dumps({"epoch": 0, "loss": 1.0}) + "\\n")
"""


def test_a_training_waits_for_room_and_continues(
    disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.1)
    ballast, statuses, command = fill(disk), [], [sys.executable, "-c", PROGRAM]

    def run(_sizes: Mapping[str, int]) -> int:
        statuses.append(run_program(command, directory=disk, output=disk / "log").returncode)
        return statuses[-1]

    trainer = Trainer("a model", disk, disk / "results.txt", lambda record: Epoch(record["epoch"], record["loss"]))
    training = threading.Thread(target=run_trainer, args=(run, {"batch_size": 1}, trainer, Beginning(highest=1.0)))
    training.start()
    wait_until(lambda: "this waits" in caplog.text, lambda: caplog.text)
    assert f"{disk} cannot be written: No space left on device; the file system at {disk} has 0 " in caplog.text
    ballast.unlink()
    training.join(PATIENCE_S)
    assert {*statuses[:-1]} == {1}
    assert statuses[-1] == 0
    assert [epoch.number for epoch in history_of(disk)] == [0]


def test_a_training_whose_disk_stays_full_is_no_fault_of_the_model(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    fill(disk)
    trainer = Trainer("a model", disk, disk / "results.txt", lambda _: None)
    with pytest.raises(StorageFailed, match="Make room, then give the same command"):
        run_trainer(lambda _: 1, {"batch_size": 1}, trainer, Beginning(highest=1.0))


def test_a_model_waits_for_room(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "RETRY_S", 0.1)
    for name in ("train", "valid"):
        Dataset([labelled_copper(seed) for seed in range(3)]).save(tmp_path / name)
    model = PairModel(PairParameters(n_basis=4)).initialize(
        Dataset.load(tmp_path / "train"), atomic_energies=None, seed=0
    )
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(disk)], check=True)
    trained: list[object] = []
    training = threading.Thread(
        target=lambda: trained.append(
            train_model(
                model,
                tmp_path / "train",
                tmp_path / "valid",
                directory=tmp_path / "training",
                destination=disk / "model",
            )
        )
    )
    training.start()
    wait_until(lambda: f"{disk / 'model'} cannot be written: No space left" in caplog.text, lambda: caplog.text)
    subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(disk)], check=True)
    training.join(PATIENCE_S)
    assert trained
    assert load_model(disk / "model").weights is not None
    assert [path.name for path in disk.iterdir()] == ["model"]


def labelled_copper(seed: int) -> Atoms:
    atoms, reference = bulk("Cu", cubic=True), EMTReference()
    atoms.rattle(0.05, seed=seed)
    label = reference.compute(atoms, Path())
    return with_label(atoms, label_key(atoms, reference.resolve()), label)


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
