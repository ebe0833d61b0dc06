"""Labels in the fields of structure files, with their weights."""

from numbers import Real

import numpy as np
from ase import Atoms

from surveyor.dataset import with_label
from surveyor.dataset.weights import NAMES as WEIGHTS
from surveyor.dataset.weights import PROPERTY_WEIGHTS, WEIGHT, is_counted
from surveyor.errors import InputError
from surveyor.labels import Label
from surveyor.reading.keys import (
    LOPSIDED,
    NAMES,
    REF_KEYS,
    Advice,
    Fields,
    LabelKeys,
    in_parameters,
    keys_in,
    looks_like,
    number_in,
    numbers_in,
)
from surveyor.reading.report import Notes
from surveyor.reading.stress import read_stress
from surveyor.reading.weights import GivenWeights, read_weights
from surveyor.structures import is_periodic

SAME_ENERGY_EV = 1e-6  # energy and free energy that are closer are the same
IN_PARAMETERS = in_parameters("label_keys")
ANY_LABEL = tuple(name for keys in (REF_KEYS, LabelKeys(prefix="")) for each in NAMES for name in keys.names(each))


def read_label(atoms: Atoms, notes: Notes, keys: LabelKeys = REF_KEYS, advice: Advice = IN_PARAMETERS) -> Atoms:
    """Return a structure with its label under surveyor's names, and with its weights other than 1.

    A structure whose labels all have weight 0 is returned with weight 0 and without the label, which may be anything.

    Raises:
        InputError: the label is missing, incomplete or contradictory; or a weight is invalid.
    """
    fields = fields_of(atoms)
    weights = read_weights(fields, notes)
    if weights.structure == 0:
        return _left_out(atoms, keys, notes)
    energy, forces = _energy_and_forces(fields, keys, notes, advice)
    stress, of_stress = read_stress(atoms, fields, keys, weights, notes)
    label = Label(energy, forces, stress)
    if not label.is_complete_for(atoms):
        raise InputError(
            "the label has numbers that are not finite, or another shape; expected one energy, three forces for each "
            "atom, and six components of the stress or none"
        )
    if stress is None and is_periodic(atoms):
        _note_unused_stress(fields, keys, notes, advice)
    read = with_label(_without_labels(atoms, keys), None, label)
    read.info |= _named(weights, of_stress)
    return read if is_counted(read) else _left_out(atoms, keys, notes)


def fields_of(atoms: Atoms) -> Fields:
    """Return all that a file gives a structure, by name: ASE takes some fields for the results of a calculator."""
    fields = {**atoms.info, **atoms.arrays, **({} if atoms.calc is None else atoms.calc.results)}
    return {"stress" if name == LOPSIDED else name: value for name, value in fields.items()}


def _left_out(atoms: Atoms, keys: LabelKeys, notes: Notes) -> Atoms:
    notes.warn(f"{WEIGHT}, or the weights of all labels, are 0: left out")
    left_out = _without_labels(atoms, keys)
    left_out.info[WEIGHT] = 0.0
    return left_out


def _without_labels(atoms: Atoms, keys: LabelKeys) -> Atoms:
    """Return a copy without weights, and without the labels under the given names and surveyor's own."""
    copy = atoms.copy()
    labels = {name for each in (keys, REF_KEYS) for label in NAMES for name in each.names(label)}
    for name in labels - {"numbers", "positions"}:
        copy.info.pop(name, None)
        copy.arrays.pop(name, None)
    for name in WEIGHTS:
        copy.info.pop(name, None)
    return copy


def _named(weights: GivenWeights, of_stress: float) -> dict[str, float]:
    named = {
        WEIGHT: weights.structure,
        PROPERTY_WEIGHTS["energy"]: weights.energy,
        PROPERTY_WEIGHTS["forces"]: weights.forces,
        PROPERTY_WEIGHTS["stress"]: of_stress,
    }
    return {name: weight for name, weight in named.items() if weight != 1}


def _energy_and_forces(fields: Fields, keys: LabelKeys, notes: Notes, advice: Advice) -> tuple[float, np.ndarray]:
    energy, forces = keys.found("energy", fields), keys.found("forces", fields)
    if energy is None or forces is None:
        raise InputError(_missing_label(fields, keys, advice))
    notes.use(energy, forces)
    _note_other_energy(fields, energy, notes)
    return number_in(fields, energy), numbers_in(fields, forces)


def _missing_label(fields: Fields, keys: LabelKeys, advice: Advice) -> str:
    expected = f"expected {keys.names('energy')[-1]} (eV) and {keys.names('forces')[-1]} (eV/Å)"
    there = [name for name in (keys.found("energy", fields), keys.found("forces", fields)) if name is not None]
    alone = f", found {there[0]} alone" if there else ""
    other = keys_in(fields)
    if other is None:
        return f"found no label; {expected}{alone}"
    meant = LabelKeys(**other)
    names = f"{meant.found('energy', fields)} and {meant.found('forces', fields)}"
    return f"found no label; {expected}{alone}; the file has {names}: if they are the label, write {advice(other)}"


def _note_other_energy(fields: Fields, taken: str, notes: Notes) -> None:
    """Note which energy is used if there are energies with and without the entropy of smeared electrons."""
    is_free = "free_energy" in taken
    other = taken.replace("free_energy", "energy") if is_free else taken.replace("energy", "free_energy")
    value = fields.get(other)
    if other != taken and isinstance(value, Real) and not abs(float(value) - number_in(fields, taken)) < SAME_ENERGY_EV:
        notes.warn(
            f"{taken} is used as the energy, not {other}, which differs; the one whose derivative the forces are counts"
        )


def _note_unused_stress(fields: Fields, keys: LabelKeys, notes: Notes, advice: Advice) -> None:
    """Say that something like a stress is not used."""
    own = {name for label in NAMES for name in keys.names(label)}
    for word, label in (("stress", "stress"), ("virial", "virials")):
        for name, value in fields.items():
            if looks_like(name, word) and name not in own and np.size(value) in (6, 9):
                stated = keys.model_dump(exclude_defaults=True)
                notes.warn(f"{name} is not used; if it belongs to the label, write {advice({**stated, label: name})}")


def pass_over_label(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure; a label that it carries is not used, which is noted."""
    found = [name for name in ANY_LABEL if name in fields_of(atoms)]
    if found:
        notes.warn(f"{', '.join(found)}: labels in the file are not used; where needed they are computed anew")
    return atoms
