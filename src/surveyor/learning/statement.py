"""A statement of how far the potential of a campaign can be trusted: the evidence of audits, and its limits."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from surveyor.learning.audits import Audit, Examined
from surveyor.learning.intervals import Estimate, share_bound
from surveyor.learning.parameters import Learning
from surveyor.learning.trust import (
    WINDOW,
    Evidence,
    Sample,
    beyond,
    has_targets,
    missing_evidence,
    percent,
)
from surveyor.sampling.conditions import OPTIMISATIONS, UNDER_BAROSTAT, UNDER_THERMOSTAT, Walkers
from surveyor.words import number_of

TOO_FEW = "too few to say"
REJECTED, FAILED, NEAR = "rejected by guards", "with a failed label", "almost the same as a known structure"
N_NAMED = 3  # more compositions are counted


@dataclass(frozen=True, slots=True)
class Statement:
    """Evidence about the potential for one group of walkers.

    Attributes:
        name: the group and its conditions.
        conditions: its conditions.
        evidence: of its newest generations, up to `WINDOW` audits and more.
        limit_energy: error that is beyond what is acceptable, meV/atom; None for none.
        limit_forces: likewise, meV/Å.
    """

    name: str
    conditions: Walkers
    evidence: Evidence
    limit_energy: float | None
    limit_forces: float | None

    @property
    def n_beyond(self) -> int:
        """Number of audits with an error beyond the limits."""
        return self.evidence.n_beyond(self.limit_energy, self.limit_forces)

    @property
    def in_words(self) -> str:
        """The statement as a few sentences."""
        if not self.evidence.is_enough:
            n = len(self.evidence.audits)
            found = f"{self.name}: {TOO_FEW} ({number_of(n, 'audit')}, expected {WINDOW})"
            return ". ".join([found, *_without_label(self.evidence)]) + "."
        parts = [_errors(self.evidence), _beyond(self), *_coverage(self.evidence), _time(self)]
        unknown = f"Not examined: {'; '.join(_not_examined(self.evidence.audits))}"
        return ". ".join([f"{self.name}: {'; '.join(parts)}", *_without_label(self.evidence), unknown]) + "."


def verdict(history: Sequence[Examined], learning: Learning) -> str:
    """Return whether audits show that the targets are met; empty without targets."""
    if not has_targets(learning):
        return ""
    if missing := missing_evidence(history, learning):
        return f"Audits do not show that the targets are met: {'; '.join(missing)}."
    return "Audits show that the targets are met, in two successive generations."


def make_statements(
    history: Sequence[Examined], learning: Learning, groups: Sequence[Walkers]
) -> tuple[Statement, ...]:
    """Return the statement on each group of walkers.

    Args:
        history: what all generations so far show.
        learning: gives the targets; without them, what is discarded is beyond what is acceptable.
        groups: the groups of walkers.
    """
    energy, forces = beyond(learning.target_energy_meV_per_atom), beyond(learning.target_forces_meV_per_A)
    if not has_targets(learning):
        energy, forces = learning.discard_energy_meV_per_atom, learning.discard_forces_meV_per_A
    statements, n_before = [], 0
    for number, group in enumerate(groups):
        indices = range(n_before, n_before + group.n_walkers)
        evidence = Evidence.of([each.of_group(number, indices) for each in history])
        name = f"group {number + 1}, {_conditions(group)}" if len(groups) > 1 else _conditions(group)
        statements.append(Statement(name, group, evidence, energy, forces))
        n_before = indices.stop
    return tuple(statements)


def _conditions(group: Walkers) -> str:
    words = [] if group.method in UNDER_THERMOSTAT else [group.method.replace("_", " ")]
    if group.method in UNDER_THERMOSTAT:
        final = group.final_temperature_K
        words.append(f"{group.temperature_K:g} K" if final is None else f"{group.temperature_K:g} to {final:g} K")
    if group.method in (*UNDER_BAROSTAT, "cell_optimisation"):
        last = group.final_pressure_MPa
        words.append(f"{group.pressure_MPa:g} MPa" if last is None else f"{group.pressure_MPa:g} to {last:g} MPa")
    if group.restraints or group.plumed:
        words.append("with a bias")
    return ", ".join(words)


def _errors(evidence: Evidence) -> str:
    forces, energy, generations = evidence.forces, evidence.energy, evidence.generations
    symbols = sorted({symbol for audit in evidence.audits for symbol in audit.n_atoms})
    by_element = [_on_element(evidence, symbol) for symbol in symbols] if len(symbols) > 1 else []
    first, last = generations or (0, 0)
    when = f"generation {first}" if first == last else f"generations {first} to {last}"
    audits = number_of(len(evidence.audits), "audit")
    error = f"forces {_value(forces, 'meV/Å', f'{audits} before training, {when}')}"
    elements = f", on {', '.join(by_element)}" if by_element else ""
    return f"{error}{elements}; energies {_value(energy, 'meV/atom')}"


def _on_element(evidence: Evidence, symbol: str) -> str:
    return f"{symbol} {_value(evidence.forces_on(symbol))}"


def _value(estimate: Estimate | None, unit: str = "", how: str = "") -> str:
    if estimate is None:
        return TOO_FEW
    value = f"{_digits(estimate.value)} {unit}".strip()
    interval = f"{_digits(estimate.low)} to {_digits(estimate.high)}"
    return f"{value} (95 %: {interval}; {how})" if how else f"{value} ({interval})"


def _digits(value: float) -> str:
    """Return a number with three significant digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _beyond(statement: Statement) -> str:
    n, n_beyond = len(statement.evidence.audits), statement.n_beyond
    pairs = ((statement.limit_forces, "meV/Å"), (statement.limit_energy, "meV/atom"))
    limits = " or ".join(f"{limit:g} {unit}" for limit, unit in pairs if limit is not None)
    return f"{n_beyond} of {n} beyond {limits} (at most {percent(share_bound(n_beyond, n))})"


def _coverage(evidence: Evidence) -> list[str]:
    if all(audit.uncertainty is None for audit in evidence.audits):
        return []
    coverage = evidence.coverage
    if coverage is None:
        return [f"stated uncertainty: {TOO_FEW}"]
    scaled = ", scaled by earlier audits," if coverage.is_scaled else ""
    by_chance = f"by chance {percent(coverage.low)} to {percent(coverage.high)}"
    expected = f"expected {percent(coverage.expected)}, {by_chance}"
    return [f"stated uncertainty{scaled} covered {percent(coverage.share)} ({expected})"]


def _time(statement: Statement) -> str:
    samples, conditions = statement.evidence.samples, statement.conditions
    n, n_stopped = len(samples), statement.evidence.n_stopped
    n_steps = sum(
        (sample.get("n_steps") or 0) + sum(each["step"] for each in sample.get("rejections", ())) for sample in samples
    )
    moves = conditions.method not in (*OPTIMISATIONS, "perturbation")
    time = f"{n_steps * conditions.timestep_fs / 1e3:.3g} ps" if moves else number_of(n, "sample")
    if n_stopped == 0:
        return f"{time} without a guard"
    stops = f"guards stopped {n_stopped} of {number_of(n, 'sample')} (at most {percent(share_bound(n_stopped, n))})"
    return f"{stops} in {time}" if moves else stops


def _without_label(evidence: Evidence) -> list[str]:
    """Return how many samples brought no label, and why."""
    fates = Counter(_why_without_label(sample) for sample in evidence.samples)
    counts = [f"{fates[why]} {why}" for why in (REJECTED, FAILED, NEAR) if fates[why]]
    return [f"Samples without a new label: {', '.join(counts)}"] if counts else []


def _why_without_label(sample: Sample) -> str:
    reason = str(sample.get("reason") or "")
    if reason == "no sample":
        return REJECTED
    if sample.get("is_near_duplicate"):
        return NEAR
    return FAILED if reason.startswith("label failed") else ""


def _not_examined(audits: Sequence[Audit]) -> list[str]:
    """Return the conditions outside the ranges of the audits, in words."""
    formulas = sorted({audit.formula for audit in audits})
    named = ", ".join(formulas) if len(formulas) <= N_NAMED else f"the {number_of(len(formulas), 'examined one')}"
    return [
        *_temperatures([audit.temperature_K for audit in audits if audit.temperature_K is not None]),
        f"compositions other than {named}",
        *_volumes([audit.volume_A3 for audit in audits if audit.volume_A3 is not None]),
        *_distances(audits),
    ]


def _temperatures(temperatures_K: Sequence[float]) -> list[str]:
    return [f"above {max(temperatures_K):.0f} K"] if temperatures_K else []


def _volumes(volumes_A3: Sequence[float]) -> list[str]:
    if not volumes_A3:
        return []
    return [f"volumes below {min(volumes_A3):.4g} or above {max(volumes_A3):.4g} Å³ per atom"]


def _distances(audits: Sequence[Audit]) -> list[str]:
    pairs = sorted({pair for audit in audits for pair in audit.distances_A})
    shortest = {pair: min(audit.distances_A.get(pair, float("inf")) for audit in audits) for pair in pairs}
    return [", ".join(f"{pair} below {distance:.2f} Å" for pair, distance in shortest.items())] if shortest else []
