import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from processes import PATIENCE_S

from surveyor.errors import AttemptFailed, LabelClaimed, Preempted
from surveyor.files import read_json, write_json
from surveyor.labels import (
    POLICIES,
    Label,
    LabelFailure,
    LabelStore,
    LevelOfTheory,
    Reason,
    claims,
    label_key,
    save_theory,
)
from surveyor.reference.ase import EMTParameters, EMTReference
from surveyor.reference.labelling import Labeller, attempt_label, label_structure
from surveyor.reference.rehearsal import Rehearsal
from surveyor.testing.references import launches
from surveyor.works.continuation import frozen_theory


@dataclass(frozen=True)
class Failing:
    """A reference that leaves a file, and fails for one reason until an attempt, and then succeeds."""

    reason: Reason
    n_failures: int = 1000
    time_limit_s: float = 60.0
    names_output: bool = False
    attempts: list[Path] = field(default_factory=list)

    def resolve(self) -> LevelOfTheory:
        return LevelOfTheory("failing", {})

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        assert not list(directory.iterdir())
        self.attempts.append(directory)
        (directory / "output.txt").write_text("what the program said")
        if len(self.attempts) > self.n_failures:
            return EMTReference().compute(atoms, directory)
        output = str(directory / "output.txt") if self.names_output else None
        return LabelFailure(self.reason, "as it was told", output=output)


def counting(tmp_path: Path, delay_s: float = 0.0) -> EMTReference:
    return EMTReference(EMTParameters(rehearsal=Rehearsal(log=str(tmp_path / "log"), delay_s=delay_s)))


def rattled_copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=3)
    return atoms


def test_second_call_launches_nothing_and_gives_the_same_label(tmp_path: Path) -> None:
    reference, store = counting(tmp_path), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    first = label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    second = label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert isinstance(first, Label)
    assert isinstance(second, Label)
    assert first.energy == second.energy
    np.testing.assert_array_equal(first.forces, second.forces)
    np.testing.assert_array_equal(first.stress, second.stress)
    assert len(launches(tmp_path / "log")) == 1


def test_a_label_that_a_former_version_kept_under_another_key_is_not_computed_again(tmp_path: Path) -> None:
    reference, store = counting(tmp_path), LabelStore.in_folder(tmp_path / "labels")
    former = reference.resolve()
    first = label_structure(rattled_copper(), Labeller(reference, former, store, tmp_path / "scratch"))
    theory = replace(former, content={**former.content, "written": "otherwise"}, former=(former.digest,))
    second = label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert isinstance(first, Label)
    assert isinstance(second, Label)
    assert second.energy == first.energy
    assert second.provenance == {**first.provenance, "former_key": label_key(rattled_copper(), former)}
    assert store.get(label_key(rattled_copper(), theory)) is not None
    assert len(launches(tmp_path / "log")) == 1


def test_work_of_an_earlier_version_finds_its_labels_and_those_of_later_ones(tmp_path: Path) -> None:
    reference, store = counting(tmp_path), LabelStore.in_folder(tmp_path / "labels")
    earlier = reference.resolve()
    now = replace(earlier, content={**earlier.content, "written": "otherwise"}, former=(earlier.digest,))
    save_theory(tmp_path / "level_of_theory.json", earlier)
    record = read_json(tmp_path / "level_of_theory.json")
    for name in ("former", "unusable", "is_neutral"):  # which earlier versions did not write
        del record[name]
    write_json(tmp_path / "level_of_theory.json", record)
    own, other = rattled_copper(), rattled_copper()
    other.rattle(0.01, seed=7)
    first = label_structure(own, Labeller(reference, earlier, store, tmp_path / "scratch"))
    second = label_structure(other, Labeller(reference, now, store, tmp_path / "scratch"))  # of another campaign
    frozen = frozen_theory(tmp_path / "level_of_theory.json", now, "campaign")
    assert label_key(own, frozen) == label_key(own, earlier)
    for atoms, label in ((own, first), (other, second)):
        found = label_structure(atoms, Labeller(reference, frozen, store, tmp_path / "scratch"))
        assert isinstance(label, Label)
        assert isinstance(found, Label)
        assert found.energy == label.energy
    assert len(launches(tmp_path / "log")) == 2


def test_structure_that_went_through_a_file_is_not_computed_again(tmp_path: Path) -> None:
    reference, store = counting(tmp_path), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    write(tmp_path / "copper.extxyz", rattled_copper())
    label_structure(read(tmp_path / "copper.extxyz"), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert len(launches(tmp_path / "log")) == 1


def test_files_of_a_label_are_removed(tmp_path: Path) -> None:
    reference = Failing("crash", n_failures=0)
    store = LabelStore.in_folder(tmp_path / "labels")
    label_structure(rattled_copper(), Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert len(reference.attempts) == 1
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("reason", ["scf_not_converged", "timeout", "invalid_input", "crash", "disk"])
def test_failure_is_final_after_the_attempts_of_its_reason(reason: Reason, tmp_path: Path) -> None:
    reference, store = Failing(reason), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    outcomes = [
        label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch")) for _ in range(2)
    ]
    n_attempts = POLICIES[reason].attempts
    assert len(reference.attempts) == n_attempts
    for outcome in outcomes:
        assert isinstance(outcome, LabelFailure)
        assert (outcome.reason, outcome.attempt) == (reason, n_attempts)
    assert len(store.failures(label_key(rattled_copper(), theory))) == n_attempts


@pytest.mark.parametrize(("reason", "is_unfit"), [("launch", True), ("crash", False)])
def test_one_attempt_tells_that_another_one_elsewhere_is_due(reason: Reason, is_unfit: bool, tmp_path: Path) -> None:
    reference, store = Failing(reason), LabelStore.in_folder(tmp_path / "labels")
    with pytest.raises(AttemptFailed, match=reason) as failure:
        attempt_label(rattled_copper(), Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert failure.value.is_worker_unfit is is_unfit
    assert len(reference.attempts) == 1


def test_failures_of_other_reasons_do_not_use_up_the_attempts(tmp_path: Path) -> None:
    theory, store = Failing("crash").resolve(), LabelStore.in_folder(tmp_path / "labels")
    for reason in ("launch", "disk"):
        with pytest.raises(AttemptFailed):
            attempt_label(rattled_copper(), Labeller(Failing(reason), theory, store, tmp_path / "scratch"))
    crashing = Failing("crash")
    label_structure(rattled_copper(), Labeller(crashing, theory, store, tmp_path / "scratch"))
    assert len(crashing.attempts) == POLICIES["crash"].attempts


def test_label_is_tried_again_when_its_time_limit_was_raised(tmp_path: Path) -> None:
    store = LabelStore.in_folder(tmp_path / "labels")
    theory = Failing("timeout").resolve()
    for time_limit_s, n_attempts in ((60.0, 1), (60.0, 0), (30.0, 0), (90.0, 1), (90.0, 0)):
        reference = Failing("timeout", time_limit_s=time_limit_s)
        outcome = label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
        assert isinstance(outcome, LabelFailure)
        assert len(reference.attempts) == n_attempts
    assert [each.limit for each in store.failures(label_key(rattled_copper(), theory))] == [60.0, 90.0]


def test_label_whose_program_was_ended_by_somebody_is_no_failure_and_no_loop(tmp_path: Path) -> None:
    class Ended(Failing):
        def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
            raise Preempted("by the queue")

    reference, store = Ended("crash"), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    for labelled in (label_structure, attempt_label):
        with pytest.raises(Preempted, match="by the queue"):
            labelled(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert store.failures(label_key(rattled_copper(), theory)) == ()


@dataclass(frozen=True)
class Finished(Failing):
    """A reference whose interrupted calculations can be read."""

    def read(self, atoms: Atoms, directory: Path) -> Label | None:
        if not (directory / "finished").exists():
            return None
        outcome = EMTReference().compute(atoms, directory)
        return outcome if isinstance(outcome, Label) else None


def test_what_an_interrupted_label_has_finished_is_read(tmp_path: Path) -> None:
    reference, store = Finished("crash"), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    key = label_key(rattled_copper(), theory)
    for number, name in enumerate(("unfinished", "finished")):
        folder = tmp_path / "scratch" / f"{key.partition(':')[2][:16]}-1-{number}"
        folder.mkdir(parents=True)
        (folder / name).touch()
    assert isinstance(
        label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch")), Label
    )
    assert not reference.attempts
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("names_output", [False, True])
def test_what_was_judged_a_failure_is_not_read_as_a_label(names_output: bool, tmp_path: Path) -> None:
    reference, store = Finished("crash", names_output=names_output), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    with pytest.raises(AttemptFailed):
        attempt_label(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    (reference.attempts[0] / "finished").touch()
    with pytest.raises(AttemptFailed):
        attempt_label(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert len(reference.attempts) == 2


def test_output_of_a_failure_is_kept_and_named(tmp_path: Path) -> None:
    reference, store = Failing("timeout"), LabelStore.in_folder(tmp_path / "labels")
    outcome = label_structure(rattled_copper(), Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert isinstance(outcome, LabelFailure)
    assert outcome.output is not None
    assert (Path(outcome.output) / "output.txt").read_text() == "what the program said"


def test_crash_that_does_not_come_again_becomes_a_label(tmp_path: Path) -> None:
    reference, store = Failing("crash", n_failures=1), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    outcome = label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch"))
    assert isinstance(outcome, Label)
    assert len(reference.attempts) == 2
    assert [each.reason for each in store.failures(label_key(rattled_copper(), theory))] == ["crash"]


def test_files_of_a_killed_attempt_are_not_mistaken_for_new_ones(tmp_path: Path) -> None:
    reference, store = Failing("crash", n_failures=0), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    key = label_key(rattled_copper(), theory)
    left = tmp_path / "scratch" / f"{key.partition(':')[2][:16]}-1"
    left.mkdir(parents=True)
    (left / "output.txt").write_text("of one who was killed")
    assert isinstance(
        label_structure(rattled_copper(), Labeller(reference, theory, store, tmp_path / "scratch")), Label
    )


def test_of_two_processes_at_once_one_computes_and_the_other_takes_its_label(tmp_path: Path) -> None:
    reference, store = counting(tmp_path, delay_s=0.5), LabelStore.in_folder(tmp_path / "labels")
    theory = reference.resolve()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        calls = [
            pool.apply_async(
                label_structure, (rattled_copper(), Labeller(reference, theory, store, tmp_path / f"scratch-{name}"))
            )
            for name in "ab"
        ]
        labels = [call.get(timeout=PATIENCE_S) for call in calls]
    assert list(store.keys()) == [label_key(rattled_copper(), theory)]
    assert labels[0].energy == labels[1].energy
    assert len(list((tmp_path / "labels").rglob("*.json"))) == 1
    assert len(launches(tmp_path / "log")) == 1


@dataclass(frozen=True)
class Blocking(Failing):
    """A reference that fails only when it is told to."""

    began: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        self.began.set()
        assert self.go_on.wait(PATIENCE_S)
        return super().compute(atoms, directory)


def test_who_waits_computes_when_the_other_has_failed_in_a_way_that_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "LOOK_S", 0.01)
    failing, good, store = Blocking("crash"), counting(tmp_path), LabelStore.in_folder(tmp_path / "labels")
    theory, atoms = failing.resolve(), rattled_copper()
    with ThreadPoolExecutor() as threads:
        first = threads.submit(attempt_label, atoms, Labeller(failing, theory, store, tmp_path / "scratch"))
        assert failing.began.wait(PATIENCE_S)
        with pytest.raises(LabelClaimed):
            attempt_label(atoms, Labeller(good, theory, store, tmp_path / "scratch"))
        second = threads.submit(label_structure, atoms, Labeller(good, theory, store, tmp_path / "scratch"))
        time.sleep(0.2)
        assert not launches(tmp_path / "log")
        failing.go_on.set()
        assert isinstance(second.result(PATIENCE_S), Label)
        with pytest.raises(AttemptFailed):
            first.result()
    assert len(launches(tmp_path / "log")) == 1
    assert [each.attempt for each in store.failures(label_key(atoms, theory))] == [1]
    assert not list(store.storage.list("claims/"))
