"""The uncertainty of a single model: how far its atoms are from the training data, in the features of its last layer.

The energy of an atom is a function of features phi, which the network computes anyway. Over the atoms of the training
set, P = (sum phi phi^T + lambda 1)^-1 measures how well each direction of the features is covered, and

    u = sqrt(phi^T P phi)

is large for an atom whose features lie where there are few data. A factor q in eV/Å makes it a bound on the error of
forces, by split conformal prediction: on n structures that the training has not fitted, r = max|error of a force| /
max u, and q is the r of rank ceil(0.9 (n + 1)). For a further structure of the same kind, max|error| <= q max u holds
with a probability of at least 0.9, whatever the distribution of errors (Vovk, Gammerman and Shafer, Algorithmic
Learning in a Random World, 2005).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.metrics import largest_errors, typical_error
from surveyor.dataset.weights import counted, counts
from surveyor.errors import InputError
from surveyor.events.kinds import UncertaintyCalibrated
from surveyor.events.recording import announce
from surveyor.files import read_arrays, write_arrays
from surveyor.models.batches import batches
from surveyor.potentials import Potential
from surveyor.words import number_of

logger = logging.getLogger(__name__)

FILE = "uncertainty.npz"  # beside the native file of a model
SCHEMA_VERSION = 1
N_MIN = 20  # structures, below which there is no calibration
COVERAGE = (9, 10)  # fraction of structures whose largest error the uncertainty covers
RIDGE = 1e-6  # lambda, in units of the mean square of the features, summed over the atoms
ATOMS_AT_ONCE = 10_000  # whose features are in memory


class FeaturePotential(Potential, Protocol):
    """A potential that shows the features from which it computes energies."""

    def features(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the features of each structure, of shape (n_atoms, n_features).

        Raises:
            InputError: the network shows none.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Uncertainty:
    """The uncertainty of the forces of a single model.

    Attributes:
        whitening: matrix W with P = W W^T, shape (n_features, n_features); u is the length of phi W, which, unlike
            phi^T P phi, is precise for features in single precision.
        factor: q in eV/Å.
        n_structures: number of structures of the calibration.
        typical_error: on the validation set, in eV/Å; see `surveyor.dataset.metrics.typical_error`.
    """

    whitening: np.ndarray
    factor: float
    n_structures: int
    typical_error: float

    def of(self, features: np.ndarray) -> np.ndarray:
        """Return the uncertainty of the force on each atom in eV/Å, shape (n_atoms,).

        Args:
            features: of the atoms, shape (n_atoms, n_features).
        """
        return self.factor * distances(features, self.whitening)

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_arrays(
            path,
            {
                "schema_version": np.asarray(SCHEMA_VERSION),
                "whitening": self.whitening,
                "factor": np.asarray(self.factor),
                "n_structures": np.asarray(self.n_structures),
                "typical_error": np.asarray(self.typical_error),
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Uncertainty":
        """Load the uncertainty that `save` wrote; a file that was read before is not read again.

        Raises:
            InputError: a newer surveyor wrote it.
        """
        return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _load(path: Path, _modified_ns: int) -> Uncertainty:
    arrays = read_arrays(path, SCHEMA_VERSION)
    factor, n, error = (arrays[name].item() for name in ("factor", "n_structures", "typical_error"))
    return Uncertainty(arrays["whitening"], factor, n, error)


class StatesUncertainty:
    """Base of potentials of single models with a field `uncertainty_file`: the file, or None if they state none."""

    __slots__ = ()

    @property
    def uncertainty(self) -> Uncertainty | None:
        """The uncertainty of the model; None if it states none."""
        path: Path | None = self.uncertainty_file  # type: ignore[attr-defined]  # a field of those that inherit
        return None if path is None else Uncertainty.load(path)

    @property
    def typical_error(self) -> float | None:
        """Largest error of a force that is typical of the validation set, in eV/Å; None if it is not known."""
        return None if self.uncertainty is None else self.uncertainty.typical_error

    @property
    def coverage(self) -> float | None:
        """Fraction of structures whose largest error the uncertainty is to cover; None if there is none."""
        return None if self.uncertainty is None else COVERAGE[0] / COVERAGE[1]


@lru_cache(maxsize=8)
def invariant_columns(irreps: Sequence[str]) -> list[int]:
    """Return which of the features of all layers, one layer after the other, are invariant.

    Args:
        irreps: representations of each layer. The order of features within one of them may be either of those that
            e3nn and cuEquivariance have: for scalars, it is the same.
    """
    from e3nn.o3 import Irreps  # type: ignore[import-untyped] # it has no types

    columns: list[int] = []
    begin = 0
    for of_layer in map(Irreps, irreps):
        for (_, irrep), part in zip(of_layer, of_layer.slices(), strict=True):
            columns += range(begin + part.start, begin + part.stop) if str(irrep) == "0e" else ()
        begin += of_layer.dim
    return columns


def distances(features: np.ndarray, whitening: np.ndarray) -> np.ndarray:
    """Return the distance u of each atom to the training data, shape (n_atoms,)."""
    return np.asarray(np.linalg.norm(np.asarray(features, dtype=np.float64) @ whitening, axis=1))


def whitening_of(features: Iterable[np.ndarray]) -> np.ndarray:
    """Return the matrix W of `Uncertainty` from the features of the training set, some atoms at a time."""
    parts = (np.asarray(each, dtype=np.float64) for each in features)
    return inverse_root(sum((each.T @ each for each in parts), start=np.zeros(())))


def inverse_root(moments: np.ndarray) -> np.ndarray:
    """Return a matrix W with W W^T = (moments + lambda 1)^-1, where lambda is `RIDGE` times the mean eigenvalue.

    Args:
        moments: symmetric, without negative eigenvalues, shape (n_features, n_features).
    """
    squares, directions = np.linalg.eigh(moments)
    ridge = RIDGE * np.trace(moments) / len(moments)
    return np.asarray(directions / np.sqrt(np.maximum(squares, 0.0) + ridge))


def conformal_factor(ratios: np.ndarray) -> float:
    """Return the ratio of rank ceil(0.9 (n + 1)), from 1, of n ratios; NaN counts as larger than all others.

    Args:
        ratios: at least nine.
    """
    part, whole = COVERAGE
    rank = -(-part * (len(ratios) + 1) // whole)  # rounded up
    return float(np.sort(ratios)[rank - 1])


def calibrate_uncertainty(
    potential: FeaturePotential, train: Dataset, valid: Dataset, others: Dataset, path: Path
) -> None:
    """Write the uncertainty of a trained model to a file, unless it is there; none if there are too few data for it.

    Args:
        potential: of the model.
        train: structures that the training has fitted.
        valid: those of its validation set.
        others: further structures that the training has not fitted, such as a test set.
        path: the file.
    """
    if path.exists():
        return
    valid, others = _with_forces(valid), _with_forces(others)
    n, factor = len(valid) + len(others), None
    try:
        found = _calibrated(potential, train, valid, others)
        found.save(path)
        factor = found.factor
        text = f"the uncertainty of the model is calibrated on {number_of(n, 'structure')} that it was not fitted to"
    except InputError as reason:
        text = f"the model states no uncertainty: {reason}"
    announce(logger, UncertaintyCalibrated(message=text, n_structures=n, n_expected=N_MIN, factor=factor))


def _calibrated(potential: FeaturePotential, train: Dataset, valid: Dataset, others: Dataset) -> Uncertainty:
    """Return the uncertainty.

    Raises:
        InputError: it cannot be calibrated.
    """
    unseen = valid + others
    n = len(unseen)
    if n < N_MIN:
        raise InputError(f"found {number_of(n, 'structure')} that it was not fitted to, expected at least {N_MIN}")
    whitening = whitening_of(_features(potential, counted(without_isolated_atoms(train))))
    predictions = potential.evaluate(unseen)
    factor = conformal_factor(largest_errors(unseen, predictions) / _farthest(potential, unseen, whitening))
    error = typical_error(valid, predictions[: len(valid)])
    if error is None or not np.isfinite(factor):
        raise InputError("there is no validation set, or some predictions are not finite numbers")
    return Uncertainty(whitening, factor, n, error)


def _with_forces(structures: Dataset) -> Dataset:
    return without_isolated_atoms(structures).where(lambda atoms: counts(atoms, "forces"))


def _features(potential: FeaturePotential, structures: Dataset) -> Iterator[np.ndarray]:
    for batch in batches(structures, ATOMS_AT_ONCE):
        yield np.concatenate(potential.features(batch))


def _farthest(potential: FeaturePotential, structures: Dataset, whitening: np.ndarray) -> np.ndarray:
    """Return the largest distance of an atom of each structure, shape (n_structures,)."""
    of_atoms = np.concatenate([distances(each, whitening) for each in _features(potential, structures)])
    begins = np.cumsum([0, *(len(atoms) for atoms in structures[:-1])])
    return np.asarray(np.maximum.reduceat(of_atoms, begins))
