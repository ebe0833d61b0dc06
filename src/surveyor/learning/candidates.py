"""Candidates: structures that walkers have brought, among which a selector chooses those to be labelled."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surveyor.learning.entries import RunBegins

ALL_SAMPLES = "walkers"  # the selector that labels what each walker has brought
N_MODELS = 2  # a candidate is forgotten when this number of models has been trained after the one that has brought it


@dataclass(frozen=True, slots=True)
class Candidate:
    """A structure that may be labelled: that of a sample, or a frame of its trajectory.

    Attributes:
        sample: name of the sample.
        round: round of its walker.
        generation: whose model moved the walker.
        lag: number of other unlearned samples when the sample began.
        n_frames: maximum number of frames that the sample has brought.
    """

    sample: str
    round: int
    generation: int
    lag: int = 0
    n_frames: int = 0


def earned(name: str, structures: Sequence[str], rules: RunBegins) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the structures of a sample that are to be labelled at once, its candidates, and whether it is an audit.

    Args:
        name: name of the sample.
        structures: names of its structures that are no near-duplicates: that of the sample, first, and frames.
        rules: the selector, the fraction of audits, and the seed.
    """
    if rules.select == ALL_SAMPLES:
        return tuple(structures), (), False
    if name in structures and is_audit(name, rules):
        return (name,), tuple(each for each in structures if each != name), True
    return (), tuple(structures), False


def is_audit(name: str, rules: RunBegins) -> bool:
    """Return whether the label of a sample is an audit; this depends on nothing but its name and the seed."""
    digest = hashlib.sha256(f"audit {rules.seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < rules.audit_fraction * 2**64


def assigned(chosen: Sequence[str], candidates: Mapping[str, Candidate], waiting: Sequence[str]) -> dict[str, str]:
    """Return on which structure each sample spends its label, by name of the sample.

    A sample spends it on its own structure, or else on a frame of its own, if chosen; the others follow in order.

    Args:
        chosen: names of candidates, not more than there are samples.
        candidates: all candidates.
        waiting: names of the samples that have a label to spend.
    """
    by_preference = [*reversed(chosen), *(name for name in chosen if candidates[name].sample == name)]
    own = {candidates[name].sample: name for name in by_preference if candidates[name].sample in waiting}
    others = (name for name in chosen if name not in own.values())
    free = (name for name in waiting if name not in own)
    return own | dict(zip(free, others, strict=False))


def without_expired(candidates: Mapping[str, Candidate], generation: int, n_waiting: int) -> dict[str, Candidate]:
    """Return the candidates that are not forgotten; enough are kept for all samples that have a label to spend.

    Args:
        candidates: all, the oldest first.
        generation: number of the newest complete generation.
        n_waiting: number of samples that have a label to spend.
    """
    old = [name for name, each in candidates.items() if each.generation + N_MODELS <= generation]
    forgotten = set(old[: max(0, len(candidates) - n_waiting)])
    return {name: each for name, each in candidates.items() if name not in forgotten}
