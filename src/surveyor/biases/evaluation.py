"""Collective variables and bias energies of given structures."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from surveyor.biases.bias import BiasValues
from surveyor.biases.plumed import evaluate_plumed
from surveyor.biases.restraints import Restraint, evaluate_restraints


def evaluate_bias(
    structures: Sequence[Atoms],
    *,
    restraints: Sequence[Restraint] = (),
    plumed: str = "",
    files: Mapping[str, bytes] | None = None,
) -> list[BiasValues]:
    """Return collective variables and bias of structures, without any history.

    Args:
        structures: their numbers of atoms may differ.
        restraints: those that need no PLUMED.
        plumed: a PLUMED input; empty for none.
        files: other files that the PLUMED input reads, by the name it gives them.

    Raises:
        InputError: there is no PLUMED, or it rejects the input; with its own message.

    Example:
        >>> from ase.build import molecule
        >>> bond = Restraint(variable="distance", atoms=(0, 1), centre=1.0, force_constant=2.0)
        >>> (values,) = evaluate_bias([molecule("H2")], restraints=[bond])
        >>> round(values.variables["distance(0,1)"], 4), round(values.energy, 4)
        (0.7373, 0.069)
    """
    found = [evaluate_restraints(restraints, atoms) for atoms in structures]
    if not plumed:
        return found
    return [
        _sum(one, other)
        for one, other in zip(found, evaluate_plumed(plumed, structures, files=files or {}), strict=True)
    ]


def _sum(one: BiasValues, other: BiasValues) -> BiasValues:
    stress = None if one.stress is None or other.stress is None else one.stress + other.stress
    forces: np.ndarray = one.forces + other.forces
    return BiasValues(one.energy + other.energy, forces, stress, {**one.variables, **other.variables})
