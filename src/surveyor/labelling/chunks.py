"""Labelling the structures of a chunk one after the other; each label is kept as soon as it is there."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from surveyor.errors import AttemptFailed, LabelClaimed, SurveyorError
from surveyor.labelling.requests import Chunk
from surveyor.labels import Label, LabelFailure, LabelRequest, Reason
from surveyor.reference.labelling import Labeller, attempt_label, label_structure

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


def label_chunk(chunk: Chunk, labeller: Labeller) -> Tally:
    """Label the structures of a chunk; running it twice is harmless, as what is in the store is not computed.

    Args:
        chunk: the structures.
        labeller: computes the labels and keeps them.
    """
    return _label_each(chunk, lambda request: label_structure(request, labeller))


def attempt_chunk(chunk: Chunk, labeller: Labeller) -> Tally:
    """Label the structures of a chunk, but try each once: for whoever can try again elsewhere.

    What another live process computes is passed over.

    Args:
        chunk: the structures.
        labeller: computes the labels and keeps them.

    Raises:
        AttemptFailed: an attempt failed, and its reason allows another one; the others were made all the same, unless
            no program starts here.
    """
    return _label_each(chunk, lambda request: attempt_label(request, labeller))


def _label_each(chunk: Chunk, label: Callable[[LabelRequest], Label | LabelFailure]) -> Tally:
    outcomes: list[Label | LabelFailure] = []
    broken: dict[str, LabelFailure] = {}
    claimed: list[str] = []
    failed: AttemptFailed | None = None
    for key, structure in chunk.structures.items():
        try:
            outcomes.append(label(LabelRequest(key, structure)))
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
