"""How far the members of a committee disagree, and how well that tells how far they are off."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms
from scipy.stats import spearmanr

from surveyor.dataset import label_of
from surveyor.potentials import Prediction
from surveyor.weights import counts

N_MIN = 3  # values, below which a calibration says nothing


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
    """Return the mean of what the members say of one structure."""
    stresses = [each.stress for each in predictions if each.stress is not None]
    return Prediction(
        energy=float(np.mean([each.energy for each in predictions])),
        forces=np.mean([each.forces for each in predictions], axis=0),
        stress=np.mean(stresses, axis=0) if stresses else None,
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
    """How disagreement and true error compare; None where there are too few values, or members that all agree.

    Attributes:
        n: how many values were compared.
        factor: by which disagreement is to be multiplied to be as large as the error, in the root mean square of
            their ratios: the maximum of the likelihood of normal errors (Musil et al., J. Chem. Theory Comput. 15
            (2019) 906).
        rank_correlation: Spearman's: 1 where larger disagreement always means a larger error.
        within: fraction of errors that are at most as large as the disagreement times the factor; 0.68 where errors
            are normal.
    """

    n: int
    factor: float | None = None
    rank_correlation: float | None = None
    within: float | None = None


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
        """Return what `to_json` gave."""
        return cls(Calibration(**record["energy"]), Calibration(**record["forces"]))


def calibrate(structures: Sequence[Atoms], predictions: Sequence[Sequence[Prediction]]) -> Calibrations:
    """Compare the disagreement of a committee with the errors of its mean.

    Args:
        structures: labelled; such as no member was trained on.
        predictions: of all structures, for each member.
    """
    energies: list[tuple[float, float]] = []
    forces: list[tuple[float, float]] = []
    for atoms, of_members in zip(structures, zip(*predictions, strict=True), strict=True):
        label, mean, spread = label_of(atoms), mean_of(of_members), disagreement_of(of_members)
        if counts(atoms, "energy"):
            energies.append((abs(mean.energy - label.energy) / len(atoms), spread.energy))
        if counts(atoms, "forces"):
            # Per component, as three components make up an atom's disagreement.
            errors = np.linalg.norm(mean.forces - label.forces, axis=1) / 3**0.5
            forces.extend(zip(errors, spread.forces / 3**0.5, strict=True))
    return Calibrations(_calibration(energies), _calibration(forces))


def _calibration(pairs: Sequence[tuple[float, float]]) -> Calibration:
    """Compare errors with disagreements."""
    compared = np.array([pair for pair in pairs if pair[1] > 0]).reshape(-1, 2)
    errors, disagreements = compared.T
    if len(compared) < N_MIN or not np.isfinite(compared).all():
        return Calibration(len(compared))
    factor = float(np.sqrt(np.mean((errors / disagreements) ** 2)))
    correlation = float(spearmanr(errors, disagreements).statistic)
    within = float(np.mean(errors <= factor * disagreements))
    return Calibration(len(compared), factor, correlation if np.isfinite(correlation) else None, within)
