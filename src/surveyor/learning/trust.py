"""The rule by which a campaign stops early: it has shown that its targets are met."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surveyor.learning.audits import Audit, Examined
from surveyor.learning.intervals import (
    FEWEST,
    Coverage,
    Estimate,
    coverage_of_bound,
    coverage_of_scale,
    estimate_rmse,
    share_bound,
)
from surveyor.learning.parameters import Learning
from surveyor.words import number_of

WINDOW = 30  # audits; 0 of 30 bound a share below 10 %, 0 of 28 do not
N_CALIBRATION = 50  # audits before the window, from which the factor of an uncertainty is taken
IN_SUCCESSION = 2  # generations
FACTOR_BEYOND = 3.0  # times the target
MAX_BEYOND = 0.10  # bound of the share of audits beyond that
MAX_STOPPED = 0.05  # share of samples that guards stop

Sample = Mapping[str, Any]  # Any: JSON; the outcome of a sample, as in the manifest


def newest(history: Sequence[Examined], n_audits: int = WINDOW) -> tuple[Examined, ...]:
    """Return the newest generations that have this many audits together; all if there are fewer.

    Whole generations, so that nothing is chosen within one. More of them would say more, but about older models.
    """
    found: list[Examined] = []
    for examined in reversed(history):
        if sum(len(each.audits) for each in found) >= n_audits:
            break
        found.insert(0, examined)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The audits and samples of the newest generations, and the audits before them.

    Attributes:
        audits: of the newest generations.
        samples: of the same generations.
        earlier: newest audits before them.
        generations: first and last number; None without any generation after the bootstrap.
    """

    audits: tuple[Audit, ...]
    samples: tuple[Sample, ...]
    earlier: tuple[Audit, ...]
    generations: tuple[int, int] | None

    @classmethod
    def of(cls, history: Sequence[Examined]) -> "Evidence":
        """Return the evidence at the end of a number of generations."""
        moved = [each for each in history if each.generation > 0]
        window = newest(moved)
        before = [audit for each in moved[: len(moved) - len(window)] for audit in each.audits]
        return cls(
            tuple(audit for each in window for audit in each.audits),
            tuple(sample for each in window for sample in each.samples),
            tuple(before[-N_CALIBRATION:]),
            (window[0].generation, window[-1].generation) if window else None,
        )

    @property
    def is_enough(self) -> bool:
        """True if there are enough audits to say something."""
        return len(self.audits) >= FEWEST

    @property
    def energy(self) -> Estimate | None:
        """Root mean square error of the energy, meV/atom; None for too few audits."""
        return estimate_rmse([audit.energy for audit in self.audits], [1.0] * len(self.audits))

    @property
    def forces(self) -> Estimate | None:
        """Root mean square error of the force components, meV/Å; None for too few audits."""
        return estimate_rmse([audit.forces for audit in self.audits], [audit.n_components for audit in self.audits])

    def forces_on(self, symbol: str) -> Estimate | None:
        """Return the error of the forces on one element, meV/Å; None for too few audits with it."""
        audits = [audit for audit in self.audits if symbol in audit.n_atoms]
        return estimate_rmse(
            [audit.forces_by_element.get(symbol) for audit in audits], [3 * audit.n_atoms[symbol] for audit in audits]
        )

    def n_beyond(self, energy: float | None, forces: float | None) -> int:
        """Return the number of audits with an error beyond limits in meV/atom and meV/Å, and of discarded ones."""
        return sum(audit.exceeds(energy, forces) for audit in self.audits)

    @property
    def coverage(self) -> Coverage | None:
        """Coverage of the stated uncertainty; None without one, and for too few audits."""
        bounded = [audit for audit in self.audits if audit.coverage is not None]
        if bounded and bounded[-1].coverage is not None:
            return coverage_of_bound(_ratios(bounded), bounded[-1].coverage)
        return coverage_of_scale(_ratios(self.audits), _ratios(self.earlier))

    @property
    def n_stopped(self) -> int:
        """Number of samples whose walker was stopped by a guard, in any try."""
        return sum(map(is_stopped, self.samples))


def _ratios(audits: Sequence[Audit]) -> list[float]:
    return [ratio for audit in audits if (ratio := audit.ratio) is not None]


def is_stopped(sample: Sample) -> bool:
    """Return whether a guard stopped the walker of a sample; see `Sample.is_stopped`."""
    stop = sample.get("stop")
    return bool(sample.get("rejections")) or (stop is not None and stop["reason"] != "wall_time")


def percent(share: float) -> str:
    """Return a share in percent, with two digits."""
    return f"{100 * share:.{2 if share < 0.995 else 3}g} %"


def has_targets(learning: Learning) -> bool:
    """Return whether a campaign shall stop when targets are met."""
    return learning.target_energy_meV_per_atom is not None or learning.target_forces_meV_per_A is not None


def n_audits_expected(learning: Learning, n_walkers: int, n_first: int) -> int:
    """Return about how many audits there are one generation before the last, when a stop by targets has to begin.

    Args:
        learning: generations, structures in each, budget and fractions.
        n_walkers: number of walkers.
        n_first: number of labels of the bootstrap that count towards the budget.
    """
    n_new = (learning.n_states or n_walkers) * (1 + learning.n_frames)
    n_all = learning.n_generations * n_new
    if learning.max_labels is not None:
        n_all = min(n_all, learning.max_labels - n_first)
    n_generations = max(0, n_all // n_new - (IN_SUCCESSION - 1))
    fractions = (learning.valid_fraction, learning.test_fraction)
    least = sum(fraction > 0 for fraction in fractions) if n_new >= 3 else 0  # see `decide_membership`
    return n_generations * max(round(sum(fractions) * n_new), least)


def beyond(target: float | None) -> float | None:
    """Return the error that only few audits may exceed; None without a target."""
    return None if target is None else FACTOR_BEYOND * target


def missing_evidence(history: Sequence[Examined], learning: Learning) -> list[str]:
    """Return the evidence for the targets that audits lack, in words; empty if the campaign may stop.

    Targets must be met in two successive generations.

    Args:
        history: what all generations so far show.
        learning: the targets.
    """
    for n_last in range(IN_SUCCESSION):
        missing = _missing(Evidence.of(history[: len(history) - n_last]), learning)
        if missing:
            return missing if n_last == 0 else ["they are met in the newest generation, but not in the one before"]
    return []


def _missing(evidence: Evidence, learning: Learning) -> list[str]:
    n = len(evidence.audits)
    if not evidence.is_enough:
        return [f"too few to say: {number_of(n, 'audit')}, expected {WINDOW}"]
    checks: tuple[Callable[[Evidence, Learning], str], ...] = (_error, _outliers, _uncertainty, _guards)
    return [missing for check in checks if (missing := check(evidence, learning))]


def _error(evidence: Evidence, learning: Learning) -> str:
    energy, forces = learning.target_energy_meV_per_atom, learning.target_forces_meV_per_A
    missing = []
    if energy is not None and (found := evidence.energy) and found.bound >= energy:
        missing.append(f"the error of energies is at most {found.bound:.3g} meV/atom, expected less than {energy:g}")
    if forces is not None and (found := evidence.forces) and found.bound >= forces:
        missing.append(f"the error of forces is at most {found.bound:.3g} meV/Å, expected less than {forces:g}")
    return "; ".join(missing)


def _outliers(evidence: Evidence, learning: Learning) -> str:
    limits = beyond(learning.target_energy_meV_per_atom), beyond(learning.target_forces_meV_per_A)
    n, n_beyond = len(evidence.audits), evidence.n_beyond(*limits)
    bound = share_bound(n_beyond, n)
    if bound < MAX_BEYOND:
        return ""
    return (
        f"beyond {FACTOR_BEYOND:g} times a target: {n_beyond} of {number_of(n, 'audit')}, at most {percent(bound)}, "
        f"expected less than {percent(MAX_BEYOND)}"
    )


def _uncertainty(evidence: Evidence, _learning: Learning) -> str:
    coverage = evidence.coverage
    if coverage is None or not coverage.is_too_small:
        return ""
    return (
        f"the stated uncertainty covers {coverage.n_covered} of {number_of(coverage.n, 'audit')}, "
        f"expected at least {percent(coverage.low)}"
    )


def _guards(evidence: Evidence, _learning: Learning) -> str:
    n, n_stopped = len(evidence.samples), evidence.n_stopped
    if n_stopped < MAX_STOPPED * n or not n_stopped:
        return ""
    return f"guards stopped {n_stopped} of {number_of(n, 'sample')}, expected less than {percent(MAX_STOPPED)}"
