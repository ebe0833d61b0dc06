"""Labelling of the structures of a chunk in sequence; each label is stored as soon as it is computed."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from surveyor.errors import UNFORESEEN, AttemptFailed, LabelClaimed, SurveyorError
from surveyor.labels import Label, LabelFailure, LabelRequest, Reason
from surveyor.reference.labelling import Labeller, attempt_label, label_structure
from surveyor.works.labelling.requests import Chunk

LABELLED = "labelled"  # beside the reasons of failures

# What a calculator may raise at a structure that its author has not thought of. Others come from the machine.
BUGS = (*UNFORESEEN, MemoryError)


@dataclass(frozen=True, slots=True)
class Tally:
    """The outcome of a chunk.

    Attributes:
        counts: numbers of structures with a label, and of failures by reason.
        broken: failures that are not recorded, because the reference raised an exception instead of returning a
            failure.
        claimed: keys of structures in computation by other processes, which were skipped.
    """

    counts: Mapping[str, int]
    broken: Mapping[str, LabelFailure] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()


def label_chunk(chunk: Chunk, labeller: Labeller) -> Tally:
    """Label the structures of a chunk; calling it twice is harmless, because stored labels are not computed again."""
    return _label_each(chunk, lambda request: label_structure(request, labeller))


def attempt_chunk(chunk: Chunk, labeller: Labeller) -> Tally:
    """Label the structures of a chunk with one attempt each, for callers that can retry elsewhere.

    Labels in computation by other live processes are skipped.

    Raises:
        AttemptFailed: an attempt failed, and its reason allows another one; all other attempts were still made, unless
            programs do not start here.
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
