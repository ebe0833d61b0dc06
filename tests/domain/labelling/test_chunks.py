from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ase import Atoms
from labelling_inputs import copper

from surveyor.errors import AttemptFailed, InputError
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, Reason
from surveyor.reference.ase import EMTReference
from surveyor.reference.labelling import Labeller
from surveyor.structures import canonical
from surveyor.works.labelling import Chunk, make_requests
from surveyor.works.labelling.chunks import attempt_chunk, label_chunk

STRUCTURES = copper(3)


@dataclass(frozen=True)
class Stumbling:
    """EMT, but for the second structure, at which it does something else."""

    stumble: Callable[[], Label | LabelFailure]

    def resolve(self) -> LevelOfTheory:
        return EMTReference().resolve()

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        if atoms == canonical(STRUCTURES[1]):
            return self.stumble()
        return EMTReference().compute(atoms, directory)


def failing(reason: Reason) -> Stumbling:
    return Stumbling(lambda: LabelFailure(reason, "as it was told"))


def raising(error: Exception) -> Stumbling:
    def stumble() -> Label:
        raise error

    return Stumbling(stumble)


@pytest.fixture
def chunk() -> Chunk:
    (chunk,) = make_requests(STRUCTURES, EMTReference().resolve()).chunks(3)
    return chunk


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore.in_folder(tmp_path / "labels")


def test_a_failure_is_counted_by_its_reason_and_the_others_are_labelled(
    chunk: Chunk, store: LabelStore, tmp_path: Path
) -> None:
    reference = failing("scf_not_converged")
    tally = attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert tally.counts == {"labelled": 2, "scf_not_converged": 1}
    assert len(list(store.keys())) == 2


def test_another_attempt_is_asked_for_when_the_others_are_done(chunk: Chunk, store: LabelStore, tmp_path: Path) -> None:
    reference = failing("crash")
    for _ in range(2):
        with pytest.raises(AttemptFailed, match="crash"):
            attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
        assert len(list(store.keys())) == 2
    tally = attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert tally.counts == {"crash": 1, "labelled": 2}


def test_where_no_program_starts_nothing_more_is_tried(chunk: Chunk, store: LabelStore, tmp_path: Path) -> None:
    reference = failing("launch")
    with pytest.raises(AttemptFailed, match="launch"):
        attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert len(list(store.keys())) == 1


def test_in_place_attempts_follow_each_other(chunk: Chunk, store: LabelStore, tmp_path: Path) -> None:
    reference = failing("launch")
    tally = label_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    assert tally.counts == {"labelled": 2, "launch": 1}


@pytest.mark.parametrize(("error", "reason"), [(KeyError("sigma"), "crash"), (MemoryError(), "memory")])
def test_an_exception_of_the_calculator_is_the_failure_of_one_structure(
    error: Exception, reason: Reason, chunk: Chunk, store: LabelStore, tmp_path: Path
) -> None:
    reference = raising(error)
    tally = attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    (key,) = tally.broken
    assert key == list(chunk.structures)[1]
    assert (tally.broken[key].reason, tally.counts) == (reason, {"labelled": 2, reason: 1})
    assert type(error).__name__ in tally.broken[key].message
    assert store.failures(key) == ()  # the next run tries it again


def test_what_is_wrong_for_all_is_raised(chunk: Chunk, store: LabelStore, tmp_path: Path) -> None:
    reference = raising(InputError("no tblite here"))
    with pytest.raises(InputError, match="no tblite here"):
        attempt_chunk(chunk, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
