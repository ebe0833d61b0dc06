"""Weights of single structures in the fields of structure files."""

from dataclasses import dataclass

from ase import Atoms

from surveyor.errors import InputError
from surveyor.reading.keys import Fields, number_in
from surveyor.reading.report import Notes
from surveyor.weights import NAMES, VIRIALS_WEIGHT, without_weights


@dataclass(frozen=True, slots=True)
class GivenWeights:
    """The weights that a file gives a structure; 1 where it gives none.

    Attributes:
        structure: factor of all others.
        energy: of the energy.
        forces: of the forces.
        stress: of the stress, where it is given as such.
        virials: of the stress, where it is given as virials.
    """

    structure: float
    energy: float
    forces: float
    stress: float
    virials: float


def read_weights(fields: Fields, notes: Notes) -> GivenWeights:
    """Return the weights of a structure.

    Raises:
        InputError: one is no number, negative or not finite.
    """
    notes.use(*(name for name in NAMES if name in fields and name != VIRIALS_WEIGHT))
    return GivenWeights(*(_weight(fields, name) for name in NAMES))


def pass_over_weights(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure without its weights, which is noted."""
    if not any(name in atoms.info for name in NAMES):
        return atoms
    notes.warn("weights are passed over, as by the earlier surveyor that began this campaign")
    (unweighted,) = without_weights([atoms])
    return unweighted


def _weight(fields: Fields, name: str) -> float:
    if name not in fields:
        return 1.0
    weight = number_in(fields, name)
    if not 0 <= weight < float("inf"):
        raise InputError(f"{name} is {weight:g}; expected a finite number that is not negative")
    return weight
