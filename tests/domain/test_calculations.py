"""Which folders of calculations are kept."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, calculations, label_key
from surveyor.labels.calculations import FAILURE, clean, folder_in, new_folder
from surveyor.labels.claims import Claims
from surveyor.lease import this_process
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller, label_structure

FORK = multiprocessing.get_context("fork")  # quick, and these processes have no threads


class Stumbling:
    """EMT, but for the first attempts, which fail and leave 1 kB."""

    def __init__(self, n_failures: int) -> None:
        self.n_failures = n_failures

    def resolve(self) -> LevelOfTheory:
        return EMTReference().resolve()

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        (directory / "output.txt").write_bytes(bytes(1000))
        self.n_failures -= 1
        return LabelFailure("crash", "as told") if self.n_failures >= 0 else EMTReference().compute(atoms, directory)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.scratch, self.store = folder / "calculations", LabelStore.in_folder(folder / "labels")
        self.theory = EMTReference().resolve()
        self.n_structures = 0

    def atoms(self) -> Atoms:
        self.n_structures += 1
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=self.n_structures)
        return atoms

    def label(self, n_failures: int, atoms: Atoms | None = None) -> str:
        atoms = atoms or self.atoms()
        label_structure(atoms, Labeller(Stumbling(n_failures), self.theory, self.store, self.scratch))
        return label_key(atoms, self.theory)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.scratch.iterdir())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_with_a_label_go_the_folders_of_all_attempts_at_it_and_no_others(scene: Scene) -> None:
    other = scene.label(1000)  # in vain
    atoms = scene.atoms()
    new_folder(scene.scratch, label_key(atoms, scene.theory), 1)  # of an attempt that was killed
    (scene.scratch / "wavefunctions").mkdir()
    scene.label(2, atoms)
    digits = other.partition(":")[2][:16]
    assert [name[:17] for name in scene.left()] == sorted([*[f"{digits}-"] * 3, "wavefunctions"])


def test_a_failed_attempt_says_why_in_its_folder(scene: Scene) -> None:
    scene.label(1000)
    assert {(scene.scratch / name / FAILURE).read_text() for name in scene.left()} == {"crash: as told\n"}


def test_folders_of_failed_attempts_are_bounded_and_the_oldest_ones_go(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calculations, "N_FAILED", 4)
    interrupted = new_folder(scene.scratch, "v1:" + "0" * 64, 1)
    scene.label(1000)
    for age, name in enumerate(scene.left()):
        os.utime(scene.scratch / name, (age, age))  # long ago
    last = scene.label(1000)
    assert interrupted.exists()
    left = [name for name in scene.left() if name != interrupted.name]
    assert len(left) == 4
    assert sum(name.startswith(last.partition(":")[2][:16]) for name in left) == 3
    assert len(scene.store.failures(last)) == 3


def test_cleaning_removes_failed_and_finished_ones_but_no_interrupted_and_no_running_ones(scene: Scene) -> None:
    scene.label(1000)
    good = scene.label(0)
    (new_folder(scene.scratch, good, 1) / "left").write_bytes(bytes(500))
    old = scene.label(1000)
    for name in scene.left():  # of a version that left no such file
        (scene.scratch / name / FAILURE).unlink(missing_ok=True)
    interrupted = new_folder(scene.scratch, "v1:" + "0" * 64, 1)
    running = new_folder(scene.scratch, "v1:" + "1" * 64, 1)
    (scene.scratch / "wavefunctions").mkdir()
    with scene.store.claimed("v1:" + "1" * 64):
        done = clean(scene.scratch, scene.store)
    assert (done.n_removed, done.n_bytes, done.n_kept) == (7, 6 * 1000 + 500, 2)
    assert scene.left() == sorted([interrupted.name, running.name, "wavefunctions"])
    assert len(scene.store.failures(old)) == 3
    assert clean(scene.scratch, scene.store, interrupted=True).n_removed == 2
    assert scene.left() == ["wavefunctions"]


@pytest.mark.parametrize("output", [".", "output.txt", "1/output.txt"])
def test_an_attempt_that_no_failure_names_is_not_taken_for_a_failure_of_its_label(scene: Scene, output: str) -> None:
    atoms, digits = scene.atoms(), "4" * 64
    failed, killed = (new_folder(scene.scratch, f"v1:{digits}", attempt) for attempt in (1, 2))
    failure = LabelFailure("crash", "as told", output=str(failed / output))
    scene.store.put_failure(f"v1:{digits}", atoms, scene.theory, failure)
    assert clean(scene.scratch, scene.store).n_removed == 1
    assert scene.left() == [killed.name]


@pytest.mark.parametrize("output", [".", "output.txt", "1/output.txt"])
def test_the_folder_of_an_attempt_is_found_by_its_output(scene: Scene, output: str) -> None:
    folder = new_folder(scene.scratch, "v1:" + "5" * 64, 1)
    assert folder_in(str(folder / output)) == folder
    assert folder_in(str(scene.scratch)) == scene.scratch  # there was no room for a folder


def claim_and_die(claims: Claims, key: str) -> None:
    with claims.held(key):
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_has_claimed_is_not_being_computed(scene: Scene) -> None:
    key, another = f"v1:{'2' * 64}", f"v1:{'3' * 64}"
    left, elsewhere = (new_folder(scene.scratch, each, 1) for each in (key, another))
    process = FORK.Process(target=claim_and_die, args=(scene.store.claims, key))
    process.start()
    process.join()
    claim = {"token": "t0", "holder": {**this_process(), "host": "another"}, "work": None, "beats": 0}
    scene.store.storage.put_new(f"claims/v1/33/{'3' * 64}.json", json.dumps(claim).encode())
    assert scene.store.claims.of(key) is not None
    assert clean(scene.scratch, scene.store).n_removed == 0
    assert left.exists()
    done = clean(scene.scratch, scene.store, interrupted=True)
    assert scene.left() == [elsewhere.name]
    assert [str(each) for each in done.claimed] == [f"process {os.getpid()} on another"]


def test_cleaning_keeps_as_many_failed_ones_as_it_is_told_the_newest(scene: Scene) -> None:
    scene.label(1000)
    for age, name in enumerate(reversed(scene.left())):
        os.utime(scene.scratch / name, (age, age))
    newest = scene.left()[0]
    assert clean(scene.scratch, scene.store, n_failed=1).n_removed == 2
    assert scene.left() == [newest]


def test_where_nothing_was_computed_there_is_nothing_to_clean(scene: Scene) -> None:
    assert clean(scene.scratch, scene.store).n_removed == 0
