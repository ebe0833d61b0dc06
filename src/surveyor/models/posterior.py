"""The last-layer posterior of a model: how far its training set determines the weights of the readout.

If the readout were linear, with weights w, the energy and the forces of a structure would be linear in them. Each label
is a row of the design matrix J, in units of the error sigma of the model:

    energy per atom:  sum_i phi_i / (N sigma_E)
    force component:  -d(sum_i phi_i)/dr / sigma_F

The posterior covariance of the weights is P = (sum J^T J + lambda 1)^-1, over the training set. J P J^T is then the
covariance, in units of sigma squared, with which the model predicts the labels of a structure. It contracts by known
formulas if another structure is labelled, before its label is known (MacKay, Neural Comput. 4 (1992) 590).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.dataset.metrics import errors_of
from surveyor.dataset.weights import counted, counts
from surveyor.errors import InputError
from surveyor.files import read_arrays, write_arrays
from surveyor.models.batches import batches
from surveyor.models.uncertainty import FeaturePotential, inverse_root
from surveyor.words import number_of

logger = logging.getLogger(__name__)

FILE = "posterior.npz"  # beside the native file of a model
SCHEMA_VERSION = 1
LOWEST_RMSE = 1e-6  # eV/atom and eV/Å: smaller errors are rounding
ATOMS_AT_ONCE = 1000  # whose gradients are in memory


class GradientPotential(FeaturePotential, Protocol):
    """A potential that also shows how its features change with positions."""

    posterior_file: Path | None

    def feature_gradients(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return the derivatives of the sum of features over the atoms of each structure.

        Returns:
            Each in 1/Å, of shape (n_atoms, 3, n_features).

        Raises:
            InputError: the network shows no features.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The last-layer posterior of a model.

    Attributes:
        whitening: matrix W with P = W W^T, shape (n_features, n_features).
        atoms_whitening: the same for P_a = (sum phi phi^T + lambda 1)^-1 over the atoms of the training set.
        means: features of each structure of the training set, averaged over its atoms, shape (n_train, n_features).
        energy_rmse: sigma_E in eV/atom, the error on the validation set.
        forces_rmse: sigma_F in eV/Å.
    """

    whitening: np.ndarray
    atoms_whitening: np.ndarray
    means: np.ndarray
    energy_rmse: float
    forces_rmse: float

    def rows(self, features: np.ndarray, gradients: np.ndarray) -> np.ndarray:
        """Return J of a structure, shape (1 + 3 n_atoms, n_features): its energy first.

        Args:
            features: shape (n_atoms, n_features).
            gradients: shape (n_atoms, 3, n_features).
        """
        return _rows(features, gradients, self.energy_rmse, self.forces_rmse)

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_arrays(
            path,
            {
                "schema_version": np.asarray(SCHEMA_VERSION),
                "whitening": self.whitening,
                "atoms_whitening": self.atoms_whitening,
                "means": self.means,
                "energy_rmse": np.asarray(self.energy_rmse),
                "forces_rmse": np.asarray(self.forces_rmse),
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Posterior":
        """Load the posterior that `save` wrote; a file that was read before is not read again.

        Raises:
            InputError: a newer surveyor wrote it.
        """
        return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path: Path, _modified_ns: int) -> Posterior:
    arrays = read_arrays(path, SCHEMA_VERSION)
    errors = {name: float(arrays[name]) for name in ("energy_rmse", "forces_rmse")}
    return Posterior(arrays["whitening"], arrays["atoms_whitening"], arrays["means"], **errors)


class HasPosterior:
    """Base of potentials of single models with a field `posterior_file`: the file, or None if there is none."""

    __slots__ = ()

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the model; None if it was not computed."""
        path: Path | None = self.posterior_file  # type: ignore[attr-defined]  # a field of those that inherit
        return None if path is None else Posterior.load(path)


def compute_posterior(potential: GradientPotential, train: Dataset, valid: Dataset, path: Path) -> None:
    """Write the posterior of a trained model to a file, unless it is there.

    Args:
        potential: of the model.
        train: structures that the training has fitted; labels of weight 0 are left out.
        valid: those of its validation set, for sigma; if it is empty, sigma is that of the training set.
        path: the file.

    Raises:
        InputError: the network shows no features, or nothing is left of the training set.
    """
    if path.exists():
        return
    if not hasattr(potential, "feature_gradients"):
        raise InputError(f"{path}: found a potential without feature_gradients, expected one of MACE, NequIP or pair")
    train, valid = counted(without_isolated_atoms(train)), counted(without_isolated_atoms(valid))
    if not train:
        raise InputError(f"{path}: found no structure with labels that count, expected a training set")
    posterior_of(potential, train, valid or train).save(path)
    logger.info("computed the posterior of the model from %s", number_of(len(train), "structure"))


def posterior_of(potential: GradientPotential, train: Dataset, valid: Dataset) -> Posterior:
    """Return the posterior of a trained model; see `compute_posterior`."""
    errors = errors_of(valid, potential.evaluate(valid))
    energy_rmse, forces_rmse = (max(each or 0.0, LOWEST_RMSE) for each in (errors.energy_rmse, errors.forces_rmse))
    of_rows, of_atoms, means = np.zeros(()), np.zeros(()), []
    for atoms, features, gradients in gradients_of(potential, train):
        rows = _counted_rows(atoms, _rows(features, gradients, energy_rmse, forces_rmse))
        of_rows = of_rows + rows.T @ rows
        of_atoms = of_atoms + features.T @ features
        means.append(features.mean(axis=0))
    return Posterior(inverse_root(of_rows), inverse_root(of_atoms), np.array(means), energy_rmse, forces_rmse)


def gradients_of(
    potential: GradientPotential, structures: Sequence[Atoms]
) -> Iterator[tuple[Atoms, np.ndarray, np.ndarray]]:
    """Yield each structure with its features and their gradients, some structures at a time."""
    for batch in batches(structures, ATOMS_AT_ONCE):
        features, gradients = potential.features(batch), potential.feature_gradients(batch)
        for atoms, own, of_own in zip(batch, features, gradients, strict=True):
            yield atoms, np.asarray(own, dtype=np.float64), np.asarray(of_own, dtype=np.float64)


def _rows(features: np.ndarray, gradients: np.ndarray, energy_rmse: float, forces_rmse: float) -> np.ndarray:
    energy = features.sum(axis=0) / (len(features) * energy_rmse)
    forces = -gradients.reshape(3 * len(features), -1) / forces_rmse
    return np.concatenate([energy[None], forces])


def _counted_rows(atoms: Atoms, rows: np.ndarray) -> np.ndarray:
    n_energies, n_forces = int(counts(atoms, "energy")), len(rows) - 1 if counts(atoms, "forces") else 0
    return np.concatenate([rows[:1][:n_energies], rows[1:][:n_forces]])
