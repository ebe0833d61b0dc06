"""Labelling the structures of a chunk one after the other; each label is kept as soon as it is there."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from surveyor.errors import AttemptFailed, LabelClaimed, SurveyorError
from surveyor.labelling.requests import Chunk
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, Reason
from surveyor.reference.labelling import attempt_label, label_structure
from surveyor.reference.reference import Reference

LABELLED = "labelled"  # beside the reasons of failures

# What a calculator may raise at a structure that its author has not thought of. Others come from the machine.
BUGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of a chunk.

    Attributes:
        counts: how many structures have a label now, and how many have none, by reason.
        broken: failures that are not recorded, as the reference broke its promise: it raised an exception.
        claimed: keys of structures that others compute, and that were passed over.
    """

    counts: Mapping[str, int]
    broken: Mapping[str, LabelFailure] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()


def label_chunk(chunk: Chunk, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path) -> Tally:
    """Label the structures of a chunk; running it twice is harmless, as what is in the store is not computed.

    Args:
        chunk: the structures.
        reference: computes the labels.
        theory: its level of theory.
        store: where labels and failures are kept.
        scratch: folder for the files of the calculations.
    """
    return _label_each(chunk, lambda atoms: label_structure(atoms, reference, theory, store, scratch))


def attempt_chunk(chunk: Chunk, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path) -> Tally:
    """Label the structures of a chunk, but try each once: for whoever can try again elsewhere.

    What another live process computes is passed over.

    Args:
        chunk: the structures.
        reference: computes the labels.
        theory: its level of theory.
        store: where labels and failures are kept.
        scratch: folder for the files of the calculations.

    Raises:
        AttemptFailed: an attempt failed, and its reason allows another one; the others were made all the same, unless
            no program starts here.
    """
    return _label_each(chunk, lambda atoms: attempt_label(atoms, reference, theory, store, scratch))


def _label_each(chunk: Chunk, label: Callable[[Atoms], Label | LabelFailure]) -> Tally:
    outcomes: list[Label | LabelFailure] = []
    broken: dict[str, LabelFailure] = {}
    claimed: list[str] = []
    failed: AttemptFailed | None = None
    for key, atoms in chunk.structures.items():
        try:
            outcomes.append(label(atoms))
        except AttemptFailed as error:
            if error.is_worker_unfit:
                raise
            failed = error
        except LabelClaimed:
            claimed.append(key)
        except SurveyorError:
            raise  # it says what is wrong for all structures
        except BUGS as error:
            reason: Reason = "memory" if isinstance(error, MemoryError) else "crash"
            broken[key] = LabelFailure(reason, f"{type(error).__name__}: {error}")
    if failed is not None:
        raise failed
    return Tally(count([*outcomes, *broken.values()]), broken, tuple(claimed))


def count(outcomes: Iterable[Label | LabelFailure]) -> dict[str, int]:
    """Return how many are labels, and how many are failures, by reason."""
    names = (each.reason if isinstance(each, LabelFailure) else LABELLED for each in outcomes)
    return dict(sorted(Counter(names).items()))
