"""Weights of single structures in the fields of structure files."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset.weights import NAMES, PROPERTY_WEIGHTS, VIRIALS_WEIGHT, WEIGHT, without_weights
from surveyor.errors import InputError
from surveyor.reading.keys import Fields, number_in
from surveyor.reading.report import Notes

OTHER_NAME = re.compile(r".*(?<!atomic)(?<!atom)(?<!molecular)(?<!mol)(?<!formula)weights?")  # of a weight, not a mass
SIGMA = re.compile(r".*(?:energy|force|atom|stress|virial|hessian)s?sigma")  # of GAP: a large one is a small weight


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
        InputError: one is no number, negative or not finite; or has a name that is not known.
    """
    _check_other_names(fields, notes)
    notes.use(*(name for name in NAMES if name in fields and name != VIRIALS_WEIGHT))
    return GivenWeights(*(_weight(fields, name) for name in NAMES))


def _check_other_names(fields: Fields, notes: Notes) -> None:
    """Refuse weights under names that are not known; warn of the sigmas of GAP."""
    for name in _other_weights(fields):
        known = ", ".join([WEIGHT, *PROPERTY_WEIGHTS.values()])
        raise InputError(f"{name} is a weight under a name that is not known; write {known}, or remove it")
    for name in fields:
        if SIGMA.fullmatch(_plain(name)):
            notes.warn(f"{name} is not used; a weight of the structure is written as {WEIGHT}")


def _other_weights(fields: Fields) -> list[str]:
    """Return the names of weights other than 1 under names that are not known."""
    names = [name for name in fields if name not in NAMES and OTHER_NAME.fullmatch(_plain(name))]
    return [name for name in names if _is_weight(fields[name])]


def _plain(name: str) -> str:
    return re.sub(r"\W|_", "", name.lower())


def _is_weight(value: Any) -> bool:  # Any: what a file holds
    values = np.asarray(value)
    return values.dtype.kind in "iuf" and bool(np.any(values != 1))


def pass_over_weights(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure without its weights, which is noted."""
    others = _other_weights({**atoms.info, **atoms.arrays})
    if not others and not any(name in atoms.info for name in NAMES):
        return atoms
    notes.warn("weights are passed over, as by the earlier surveyor that began this campaign")
    (unweighted,) = without_weights([atoms])
    unweighted.calc = atoms.calc
    for name in others:
        unweighted.info.pop(name, None)
        unweighted.arrays.pop(name, None)
    return unweighted


def _weight(fields: Fields, name: str) -> float:
    if name not in fields:
        return 1.0
    weight = number_in(fields, name)
    if not 0 <= weight < float("inf"):
        raise InputError(f"{name} is {weight:g}; expected a finite number that is not negative")
    return weight
