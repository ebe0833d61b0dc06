"""The disagreement of the members of a committee, and its calibration against true errors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from scipy.special import fdtr

from surveyor.dataset import label_of
from surveyor.dataset.weights import counts
from surveyor.potentials import Prediction
from surveyor.words import number_of

N_MIN = 3  # values, below which a calibration says nothing
RESOLUTION = 1e-9  # eV/atom and eV/Å: members that differ by no more agree, up to rounding


@dataclass(frozen=True, slots=True, eq=False)
class Disagreement:
    """Sample standard deviations over the members of a committee, for one structure.

    Attributes:
        energy: of the energy per atom, eV/atom.
        forces: for each atom, the root of the variances of its force components, summed; eV/Å, shape (n_atoms,).
    """

    energy: float
    forces: np.ndarray


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """Return the mean of the members' predictions for one structure."""
    stresses = [each.stress for each in predictions if each.stress is not None]
    return Prediction(
        energy=float(np.mean([each.energy for each in predictions])),
        forces=np.mean([each.forces for each in predictions], axis=0),
        stress=np.mean(stresses, axis=0) if stresses else None,
        contact=predictions[0].contact,
    )


def disagreement_of(predictions: Sequence[Prediction]) -> Disagreement:
    """Return how far the members disagree on one structure.

    Args:
        predictions: of at least two members.
    """
    forces = np.array([each.forces for each in predictions])
    return Disagreement(
        energy=float(np.std([each.energy for each in predictions], ddof=1)) / forces.shape[1],
        forces=np.sqrt(np.var(forces, axis=0, ddof=1).sum(axis=1)),
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The relation between disagreement and true error.

    Attributes:
        n: number of values that were compared.
        factor: the error in units of the disagreement, see `student_factor`; None for the reason in `reason`.
        rank_correlation: Spearman's rank correlation: 1 if larger disagreement always means a larger error.
        within: fraction of errors that are at most as large as the disagreement times the factor.
        expected_within: this fraction for normal errors, see `expected_within`.
        n_agreed: number of values without disagreement, which are not compared.
        reason: why there is no factor.
    """

    n: int
    factor: float | None = None
    rank_correlation: float | None = None
    within: float | None = None
    expected_within: float | None = None
    n_agreed: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Calibrations:
    """The calibration of a committee.

    Attributes:
        energy: of the energy per atom, over structures.
        forces: of the forces, over atoms.
    """

    energy: Calibration
    forces: Calibration

    def to_json(self) -> dict[str, Any]:  # Any: numbers and None
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Calibrations":  # Any: numbers and None
        """Return the calibrations that `to_json` recorded."""
        return cls(Calibration(**record["energy"]), Calibration(**record["forces"]))


def calibrate(structures: Sequence[Atoms], predictions: Sequence[Sequence[Prediction]]) -> Calibrations:
    """Compare the disagreement of a committee with the errors of its mean.

    Args:
        structures: labelled; no member was trained on them.
        predictions: of all structures, for each member.
    """
    energies: list[tuple[float, float]] = []
    forces: list[tuple[float, float]] = []
    for atoms, of_members in zip(structures, zip(*predictions, strict=True), strict=True):
        label, mean, spread = label_of(atoms), mean_of(of_members), disagreement_of(of_members)
        if counts(atoms, "energy"):
            energies.append((abs(mean.energy - label.energy) / len(atoms), spread.energy))
        if counts(atoms, "forces"):
            forces.extend(zip(np.linalg.norm(mean.forces - label.forces, axis=1), spread.forces, strict=True))
    n_members = len(predictions)
    return Calibrations(_calibration(energies, n_members, 1), _calibration(forces, n_members, 3))


def _calibration(pairs: Sequence[tuple[float, float]], n_members: int, n_components: int) -> Calibration:
    """Compare errors with disagreements, of scalars (one component) or vectors (three)."""
    values = np.array(pairs).reshape(-1, 2)
    if not np.isfinite(values).all():
        return Calibration(0, reason="some predictions are not finite numbers")
    compared = values[values[:, 1] > RESOLUTION]
    n, n_agreed = len(compared), len(values) - len(compared)
    if n < N_MIN:
        found = f"found {number_of(n, 'value')}" + (f", and {n_agreed} on which all members agree" if n_agreed else "")
        return Calibration(n, n_agreed=n_agreed, reason=f"{found}; expected {N_MIN} or more on which members disagree")
    errors, disagreements = compared.T
    factor = student_factor(errors / disagreements, n_members)
    if factor is None:
        return Calibration(n, n_agreed=n_agreed, reason="most errors are exactly zero")
    return Calibration(
        n,
        factor,
        _rank_correlation(errors, disagreements),
        within=float(np.mean(errors <= factor * disagreements)),
        expected_within=expected_within(n_members, n_components),
        n_agreed=n_agreed,
    )


def student_factor(ratios: np.ndarray, n_members: int) -> float | None:
    """Return the scale of errors relative to the disagreement of few members.

    The model: the error of a value is normal, its standard deviation is `factor` times that of the distribution from
    which the M members are drawn. Their sample variance has M - 1 degrees of freedom, so the ratio of error to
    disagreement is no normal number but one of Student's, with M - 1 degrees of freedom, times the factor. The root
    mean square of such ratios grows without bounds for two and three members; the maximum of the likelihood does not.
    It is where, for the ratios r,

        mean(r² / (r² + (M - 1) factor²)) = 1 / M

    The same equation holds for vectors with d components, whose r²/factor² has the F distribution with d and d (M - 1)
    degrees of freedom (a d-dimensional t distribution: Lange, Little and Taylor, J. Am. Stat. Assoc. 84 (1989) 881).
    For many members it becomes the root mean square (Musil et al., J. Chem. Theory Comput. 15 (2019) 906). Where M > 3,
    moments give an estimate, too (Imbalzano et al., J. Chem. Phys. 154 (2021) 074102); it is less precise.

    Args:
        ratios: error divided by disagreement, of energies or of the norms of forces; finite, not negative.
        n_members: M, at least two.

    Returns:
        The factor; None where all but 1/M of the ratios are zero, so that the likelihood has no maximum.
    """
    squares = np.square(ratios)
    positive = squares[squares > 0]
    excess = n_members * len(positive) / len(squares) - 1
    if excess <= 0:
        return None
    degrees = n_members - 1
    # Both bounds follow from the equation, with the smallest and with the mean square; 2 is for rounding.
    lowest, highest = positive.min() * excess / degrees / 2, 2 * squares.mean() * n_members / degrees

    def balance(log_square: float) -> float:
        return float(np.mean(squares / (squares + degrees * np.exp(log_square)))) - 1 / n_members

    from scipy.optimize import brentq  # this and `scipy.stats` would cost each process of a campaign half a second

    return float(np.exp(brentq(balance, np.log(lowest), np.log(highest)) / 2))


def expected_within(n_members: int, n_components: int) -> float:
    """Return the fraction of normal errors that are at most as large as the disagreement times the true factor.

    For scalars it is 0.50 for two members and 0.68 for many; for vectors, whose components are independent and equally
    large, 0.50 and 0.61.

    Args:
        n_members: at least two.
        n_components: of each error: 1 for energies, 3 for forces.
    """
    return float(fdtr(n_components, n_components * (n_members - 1), 1.0))


def _rank_correlation(errors: np.ndarray, disagreements: np.ndarray) -> float | None:
    if np.ptp(errors) == 0 or np.ptp(disagreements) == 0:  # no ranks
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(errors, disagreements).statistic)
