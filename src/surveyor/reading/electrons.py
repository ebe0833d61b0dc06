"""Charge and multiplicity under the names that other programs write."""

import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.reading.report import Notes
from surveyor.words import number_of

CHARGE, MULTIPLICITY = "charge", "multiplicity"  # atoms.info: the names that surveyor knows
MOMENTS, CHARGES = "initial_magmoms", "initial_charges"  # atoms.arrays, by ASE's names

# Names of the same quantity, as `_plain` returns them.
CHARGE_NAMES = ("charge", "totalcharge", "netcharge", "molecularcharge", "systemcharge")
MULTIPLICITY_NAMES = ("multiplicity", "spinmultiplicity", "mult")
UNPAIRED_NAMES = ("uhf", "nunpaired", "nunpairedelectrons", "unpairedelectrons")  # 2S
# The data and calculators of OMol25 and MACE write 2S+1. PySCF writes 2S, and some files hold S.
SPIN_NAMES = ("spin", "totalspin")
# Names, and parts of names, of which a user should know.
SUSPICIOUS_NAMES = ("q", "ms", "sz", "2s+1", "nalpha", "nbeta")
SUSPICIOUS = ("charge", "spin", "mult", "magmom", "magneti", "unpaired", "electrons", "nelec")
N_SUSPICIOUS = 3  # numbers under one name that may be a charge and a spin
# Columns with the results of other programs, as `_plain` returns their names.
CHARGE_COLUMN = re.compile(r"(?:.*(?:ref|dft|formal|partial|atomic|mulliken|l(?:oe|ö|o)wdin|hirshfeld|bader))?charges?")
MOMENT_COLUMN = re.compile(r".*(?:magmoms?|magneticmoments?|spins?|spindensity|spindensities|spinpopulations?)")

WHOLE = 0.1  # sums of partial charges and moments that differ less from an integer are that integer
CONTRADICTION = 0.5  # a sum that differs more from what is stated contradicts it


def read_electrons(atoms: Atoms, notes: Notes) -> Atoms:
    """Return a structure with the charge and multiplicity that its fields state, under surveyor's names.

    Raises:
        InputError: fields contradict each other or the number of electrons, or can mean several things.
    """
    charge = _charge(atoms, notes)
    multiplicity = _multiplicity(atoms, charge or 0, notes)
    _check_columns(atoms, charge, multiplicity, notes)
    _warn_of_unused(atoms, notes)
    found = {CHARGE: charge, MULTIPLICITY: multiplicity}
    return with_info(atoms, {name: value for name, value in found.items() if value is not None})


def note_electrons(atoms: Atoms, notes: Notes) -> Atoms:
    """Return a structure as `read_electrons` does, for data on which charge and spin have no influence.

    Where the spin is wrong, the charge alone is kept: an isolated ion gives no atomic energy.
    """
    try:
        return read_electrons(atoms, Notes())
    except InputError:
        notes.warn("charge and spin contradict each other or the number of electrons; models do not use them")
    try:
        charge = _charge(atoms, Notes())
    except InputError:
        return atoms
    return atoms if charge is None else with_info(atoms, {CHARGE: charge})


def with_info(atoms: Atoms, fields: Mapping[str, Any]) -> Atoms:  # Any: what `atoms.info` takes
    """Return the structure with further fields; itself where it has them already."""
    if all(isinstance(atoms.info.get(name), Real) and atoms.info[name] == value for name, value in fields.items()):
        return atoms
    changed = atoms.copy()
    changed.calc = atoms.calc
    changed.info.update(fields)
    return changed


def _charge(atoms: Atoms, notes: Notes) -> int | None:
    """Return the total charge; None where nothing states it."""
    stated = {name: _integer(name, value) for name, value in _named(atoms, CHARGE_NAMES)}
    charge = _one(stated, CHARGE)
    total = _sum(atoms, CHARGES)
    notes.use(*stated, *([] if total is None else [CHARGES]))
    if charge is None:
        return _charge_of_sum(total, notes)
    if total is not None and abs(total - charge) > CONTRADICTION:
        raise InputError(
            f"{next(iter(stated))} is {charge}, but {CHARGES} sum to {total:g}; correct one of them, or remove the "
            f"column {CHARGES}"
        )
    _note_other_names(stated, CHARGE, f"the {CHARGE}", notes)
    return charge


def _charge_of_sum(total: float | None, notes: Notes) -> int | None:
    if total is None or abs(total) <= WHOLE:
        return None
    if abs(total - round(total)) > WHOLE:
        raise InputError(f"{CHARGES} sum to {total:g}, which is no integer; write {CHARGE}=N, the total charge in e")
    notes.warn(f"the sum of {CHARGES} is taken as the {CHARGE}")
    return round(total)


def _multiplicity(atoms: Atoms, charge: int, notes: Notes) -> int | None:
    """Return the multiplicity 2S+1; None where nothing states it."""
    n_electrons = int(atoms.numbers.sum()) - charge
    stated = {name: _integer(name, value) for name, value in _named(atoms, MULTIPLICITY_NAMES)}
    unpaired = {name: _integer(name, value) + 1 for name, value in _named(atoms, UNPAIRED_NAMES)}
    spins = {
        name: multiplicity
        for name, value in _named(atoms, SPIN_NAMES)
        if (multiplicity := _multiplicity_of_spin(atoms, name, value, n_electrons, notes)) is not None
    }
    everything = {**stated, **unpaired, **spins}
    multiplicity = _one(everything, MULTIPLICITY)
    notes.use(*everything)
    total = _sum(atoms, MOMENTS)
    moment = None if total is None else abs(total)
    if np.any(atoms.arrays.get(MOMENTS, 0)):
        notes.use(MOMENTS)
    if multiplicity is None:
        return _multiplicity_of_moment(atoms, moment, n_electrons, notes)
    if moment is not None and abs(moment - (multiplicity - 1)) > CONTRADICTION:
        _object_to_moment(atoms, moment, next(iter(everything)), multiplicity, notes)
    _note_other_names({**stated, **spins}, MULTIPLICITY, f"the {MULTIPLICITY} (2S+1)", notes)
    _note_other_names(unpaired, MULTIPLICITY, "the number of unpaired electrons (2S)", notes)
    return multiplicity


def _multiplicity_of_spin(
    atoms: Atoms, name: str, value: Any, n_electrons: int, notes: Notes
) -> int | None:  # Any: what a file holds
    """Return 2S+1 where a field called "spin" can be nothing else; 2S and S are refused.

    Of the integers, the number of electrons allows either 2S+1 or 2S, so that most files with 2S are noticed.
    """
    number = _scalar(value)
    if atoms.pbc.any() and number == 0:
        notes.warn(f"{name} is 0 in a periodic structure, which is no multiplicity; it is not used")
        return None
    if number is not None and number >= 1 and number.is_integer() and (n_electrons + int(number)) % 2:
        return int(number)
    raise InputError(
        f"{name} is {value}, which is no multiplicity 2S+1 of {number_of(n_electrons, 'electron')}; it may be S or 2S, "
        f"or {CHARGE} may be missing: write {CHARGE} and {MULTIPLICITY}=2S+1, and remove {name}"
    )


def _multiplicity_of_moment(atoms: Atoms, moment: float | None, n_electrons: int, notes: Notes) -> int | None:
    """Return the multiplicity that the moments of a molecule state; those of a crystal only start a calculation."""
    if moment is None or atoms.pbc.any():
        return None
    n_unpaired = round(moment)
    if abs(moment - n_unpaired) > WHOLE or (n_electrons + n_unpaired) % 2:
        raise InputError(
            f"{MOMENTS} sum to {moment:g}, which is no number of unpaired electrons out of {n_electrons}; "
            f"write {CHARGE} and {MULTIPLICITY}, and correct or remove the column {MOMENTS}"
        )
    if n_unpaired:
        notes.warn(f"the sum of {MOMENTS} is taken as the number of unpaired electrons (2S)")
    return n_unpaired + 1 if n_unpaired else None


def _object_to_moment(atoms: Atoms, moment: float, field: str, multiplicity: int, notes: Notes) -> None:
    if atoms.pbc.any():
        notes.warn(f"{MOMENTS} do not sum to 2S of the {MULTIPLICITY}; they are only where a calculation starts")
        return
    raise InputError(
        f"{field} says multiplicity {multiplicity}, but {MOMENTS} sum to {moment:g}, expected {multiplicity - 1}; "
        f"correct one of them, or remove the column {MOMENTS}"
    )


def _check_columns(atoms: Atoms, charge: int | None, multiplicity: int | None, notes: Notes) -> None:
    """Compare charge and multiplicity with the sums of charges and moments that another program has computed.

    Raises:
        InputError: they differ, and the structure does not state the one concerned.
    """
    for name, total in _sums(atoms, CHARGE_COLUMN):
        if abs(total - (charge or 0)) > CONTRADICTION:
            _object_to_sum(name, total, CHARGE, "the total charge in e", charge, notes)
    if atoms.pbc.any():
        return
    n_unpaired = (multiplicity or 1 + (int(atoms.numbers.sum()) - (charge or 0)) % 2) - 1
    for name, total in _sums(atoms, MOMENT_COLUMN):
        if abs(abs(total) - n_unpaired) > CONTRADICTION:
            _object_to_sum(name, total, MULTIPLICITY, "2S+1", multiplicity, notes)


def _object_to_sum(name: str, total: float, field: str, meaning: str, stated: int | None, notes: Notes) -> None:
    if stated is not None:
        notes.warn(f"the sum of {name} is not what the {field} says; {name} is not used")
        return
    raise InputError(
        f"the sum of {name} is {total:.3g}, but no {field} is stated; write {field}=N, {meaning}, or remove the "
        f"column {name}"
    )


def _sums(atoms: Atoms, names: re.Pattern[str]) -> Iterator[tuple[str, float]]:
    """Give the sums of the columns of numbers with such names, without those of `MOMENTS` and `CHARGES`."""
    results = {} if atoms.calc is None else atoms.calc.results
    for name, values in {**atoms.arrays, **results}.items():
        is_column = name not in (MOMENTS, CHARGES) and names.fullmatch(_plain(name))
        if is_column and np.shape(values) == (len(atoms),) and np.asarray(values).dtype.kind in "iuf":
            yield name, float(np.sum(values))


def _warn_of_unused(atoms: Atoms, notes: Notes) -> None:
    """Warn of values that look like a charge or a spin, but whose meaning is not known."""
    known = (*CHARGE_NAMES, *MULTIPLICITY_NAMES, *UNPAIRED_NAMES, *SPIN_NAMES)
    results = {} if atoms.calc is None else atoms.calc.results
    numbers = {name: value for name, value in results.items() if np.ndim(value) == 0}  # not the columns
    for name, value in {**atoms.info, **numbers}.items():
        plain = _plain(name)
        is_like = plain in SUSPICIOUS_NAMES or any(part in plain for part in SUSPICIOUS)
        if plain not in known and is_like and _says_something(value):
            notes.warn(f"{name} is not used; if it states charge or spin, write {CHARGE} or {MULTIPLICITY}")


def _says_something(value: Any) -> bool:  # Any: what a file holds
    """Return whether a value is a word, or some numbers that are not all zero."""
    if isinstance(value, bool | np.bool_) or np.ndim(value) > 1 or np.size(value) > N_SUSPICIOUS:
        return False
    return bool(np.any(value)) if np.asarray(value).dtype.kind in "iuf" else isinstance(value, str) and bool(value)


def _note_other_names(stated: Mapping[str, int], name: str, meaning: str, notes: Notes) -> None:
    for other in stated:
        if name not in stated and other != name:
            notes.warn(f"{other} is taken as {meaning}")


def _one(stated: Mapping[str, int], name: str) -> int | None:
    """Return the common value of the fields; None without fields."""
    if len(set(stated.values())) > 1:
        fields = ", ".join(f"{field} says {value}" for field, value in stated.items())
        raise InputError(f"fields contradict each other on the {name}: {fields}; write {name} alone")
    return next(iter(stated.values()), None)


def _named(atoms: Atoms, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:  # Any: what a file holds
    """Return the fields of a structure with one of several names, ignoring case, hyphens and underscores."""
    return ((name, value) for name, value in atoms.info.items() if _plain(name) in names)


def _plain(name: str) -> str:
    """Return a name in lower case without punctuation; `charge:` is how sentences in comments of xyz files write it."""
    return re.sub(r"[^\w+]|_", "", str(name).lower())


def _integer(name: str, value: Any) -> int:  # Any: what a file holds
    number = _scalar(value)
    if number is None or not number.is_integer():
        raise InputError(f"{name} is {value}; expected an integer")
    return int(number)


def _scalar(value: Any) -> float | None:  # Any: what a file holds
    """Return the number that a field holds, alone or as the only one of an array; None where it holds another thing."""
    single = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    return float(single) if isinstance(single, Real) and not isinstance(single, bool) else None


def _sum(atoms: Atoms, column: str) -> float | None:
    """Return the sum of a column of numbers; None if it is missing, or all zeros, as ASE writes by default.

    Raises:
        InputError: a number is not finite.
    """
    values = atoms.arrays.get(column)
    if values is None or values.ndim != 1 or not np.any(values):
        return None
    if not np.isfinite(values).all():
        raise InputError(f"{column} has numbers that are not finite; correct or remove the column {column}")
    return float(values.sum())
