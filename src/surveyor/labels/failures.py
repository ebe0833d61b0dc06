"""Failures of labels: their reasons and consequences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

Reason = Literal[
    "invalid_input",
    "missing_data_file",
    "scf_not_converged",
    "geometry",
    "timeout",
    "memory",
    "launch",
    "crash",
    "disk",
    "unparsable",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
NO_LIMITS_KNOWN: Mapping[Reason, float | None] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Policy:
    """Consequences of a failure for one reason.

    Attributes:
        attempts: how often it may fail for this reason before the failure is final: once where the same input gives
            the same end wherever it is run.
        is_repaired: whether the reference changes the settings of its solver, within the attempt, before it gives up.
        is_by_machine: whether the label can be had once the machine is repaired, so that `surveyor labels retry` takes
            it unasked.
        has_limit: whether a limit of the code is the cause, so that the failure is final only until that is raised.
    """

    attempts: int = 1
    is_repaired: bool = False
    is_by_machine: bool = False
    has_limit: bool = False


# A job that is being ended, or a node that is broken, fails to start programs, or ends them, whatever they compute.
POLICIES: Mapping[Reason, Policy] = {
    "invalid_input": Policy(),
    "missing_data_file": Policy(attempts=2, is_by_machine=True),
    "scf_not_converged": Policy(is_repaired=True),
    "geometry": Policy(),
    "timeout": Policy(has_limit=True),
    "memory": Policy(attempts=2, has_limit=True),
    "launch": Policy(attempts=4, is_by_machine=True),
    "crash": Policy(attempts=3, is_by_machine=True),
    "disk": Policy(attempts=3, is_by_machine=True),
    "unparsable": Policy(),
}


@dataclass(frozen=True, slots=True)
class LabelFailure:
    """The failure of a label, which is also a result.

    Attributes:
        reason: one of a closed set.
        message: description for people.
        output: path of the output of the program, or None.
        attempt: number of the attempt at this label, from 1.
        last_lines: last lines of the output, which outlive its file; empty without output.
        limit: the limit that was reached (timeout: in seconds, memory: in GB), or None.
        provenance: as for a label.
    """

    reason: Reason
    message: str
    output: str | None = None
    attempt: int = 1
    last_lines: str = ""
    limit: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, hash=False)  # Any: whatever JSON holds


def is_final(failures: Sequence[LabelFailure], limits: Mapping[Reason, float | None]) -> bool:
    """Return whether no further attempt is due.

    Args:
        failures: of one label, in the order of the attempts.
        limits: see `surveyor.labels.LabelStore.outcome`.
    """
    if not failures:
        return False
    reason = failures[-1].reason
    alike = [failure for failure in failures if failure.reason == reason and not _has_been_raised(failure, limits)]
    return len(alike) >= POLICIES[reason].attempts


def _has_been_raised(failure: LabelFailure, limits: Mapping[Reason, float | None]) -> bool:
    if not POLICIES[failure.reason].has_limit or failure.limit is None or failure.reason not in limits:
        return False
    now = limits[failure.reason]
    return now is None or now > failure.limit
