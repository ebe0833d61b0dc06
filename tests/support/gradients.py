"""Gradients of features, against finite differences."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from surveyor.models.posterior import GradientPotential


def sums_of(potential: GradientPotential, atoms: Atoms) -> np.ndarray:
    return potential.features([atoms])[0].sum(axis=0, dtype=float)


def by_differences(potential: GradientPotential, atoms: Atoms, step_A: float = 1e-4) -> np.ndarray:
    """Derivatives of the features' sum from displaced structures."""
    found = np.zeros((len(atoms), 3, len(sums_of(potential, atoms))))
    for index, axis in np.ndindex(len(atoms), 3):
        forth, back = atoms.copy(), atoms.copy()
        forth.positions[index, axis] += step_A
        back.positions[index, axis] -= step_A
        found[index, axis] = (sums_of(potential, forth) - sums_of(potential, back)) / (2 * step_A)
    return found


def check_gradients(potential: GradientPotential, structures: Sequence[Atoms]) -> None:
    """Gradients are those of finite differences, alone and together."""
    together = potential.feature_gradients(structures)
    for atoms, found in zip(structures, together, strict=True):
        np.testing.assert_allclose(found, by_differences(potential, atoms), atol=1e-6 * (1 + np.abs(found).max()))
        np.testing.assert_allclose(potential.feature_gradients([atoms])[0], found, atol=1e-12)
    assert max(np.abs(each).max() for each in together) > 0.1
