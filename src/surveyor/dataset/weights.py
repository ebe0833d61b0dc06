"""Weights of single structures: how much their labels count in a loss, by the names that MACE gives them.

The weight of an energy is `config_weight` times `config_energy_weight`, those of forces and stress likewise. A label of
weight 0 counts nowhere: in no loss, no fit and no error. Other weights count in losses and in the fit of atomic
energies alone: an error that is reported is the same for each structure.
"""

from collections.abc import Iterable
from typing import Literal

from ase import Atoms

from surveyor.dataset.dataset import Dataset, label_of

Property = Literal["energy", "forces", "stress"]

WEIGHT = "config_weight"  # atoms.info, absent where it is 1
PROPERTY_WEIGHTS: dict[Property, str] = {  # atoms.info, absent where they are 1
    "energy": "config_energy_weight",
    "forces": "config_forces_weight",
    "stress": "config_stress_weight",
}
VIRIALS_WEIGHT = "config_virials_weight"  # of the stress, in files that give it as virials
NAMES = (WEIGHT, *PROPERTY_WEIGHTS.values(), VIRIALS_WEIGHT)


def weight_of(atoms: Atoms, name: Property) -> float:
    """Return the weight of one property of a labelled structure."""
    return float(atoms.info.get(WEIGHT, 1.0)) * float(atoms.info.get(PROPERTY_WEIGHTS[name], 1.0))


def counts(atoms: Atoms, name: Property) -> bool:
    """Return whether the label of one property counts."""
    return weight_of(atoms, name) > 0


def is_counted(atoms: Atoms) -> bool:
    """Return whether any property of a labelled structure counts."""
    return counts(atoms, "energy") or counts(atoms, "forces") or has_stress(atoms)


def has_stress(atoms: Atoms) -> bool:
    """Return whether a labelled structure has a stress that counts."""
    return counts(atoms, "stress") and label_of(atoms).stress is not None


def counted(structures: Dataset) -> Dataset:
    """Return the structures with any label of nonzero weight, in order."""
    return structures.where(is_counted)


def without_weights(structures: Iterable[Atoms]) -> Dataset:
    """Return copies of structures without weights, in order."""
    copies = [atoms.copy() for atoms in structures]
    for atoms in copies:
        for name in NAMES:
            atoms.info.pop(name, None)
    return Dataset(copies)


def weighted_properties(structures: Dataset) -> tuple[Property, ...]:
    """Return the properties that have a weight other than 1 in some structure that counts."""
    return tuple(name for name in PROPERTY_WEIGHTS if any(weight_of(atoms, name) != 1 for atoms in counted(structures)))
