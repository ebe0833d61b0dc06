"""Atoms and their masses: structures need whole atoms of known mass."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses

from surveyor.errors import InputError
from surveyor.reading.report import Notes

OCCUPANCY = "occupancy"  # atoms.info of a CIF file, by site; atoms.arrays of a PDB file
MASSES = "masses"  # atoms.arrays, by ASE's name, in u
KINDS = "kinds"  # atoms.arrays
MOMENTA = "momenta"  # atoms.arrays, by ASE's name
CONSTRAINTS = "constraints"  # what reports call ASE's constraints
OTHER_MASSES = ("mass", "atomic_masses", "atomic_mass")
LARGEST_FACTOR = 10.0  # a mass that is further from that of its element is one in another unit


def read_sites(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure, whose sites must hold one whole atom each.

    Raises:
        InputError: a site is partly occupied.
    """
    if OCCUPANCY in atoms.info or OCCUPANCY in atoms.arrays:
        notes.use(OCCUPANCY)
    for site, atoms_on_it in _occupancies(atoms).items():
        if len(atoms_on_it) > 1 or any(0 < share < 1 for share in atoms_on_it.values()):
            shares = ", ".join(f"{symbol} {share:g}" for symbol, share in atoms_on_it.items())
            raise InputError(
                f"site {site} is partly occupied ({shares}); expected one whole atom at each site: write an ordered "
                "structure, such as a supercell with the atoms distributed"
            )
    return atoms


def _occupancies(atoms: Atoms) -> dict[str, Mapping[str, float]]:
    """Return how much of each element is at a site, by the name of the site."""
    by_site = atoms.info.get(OCCUPANCY)
    if isinstance(by_site, Mapping):
        return {str(site): shares for site, shares in by_site.items() if isinstance(shares, Mapping)}
    column = atoms.arrays.get(OCCUPANCY)
    if column is None:
        return {}
    if column.ndim != 1 or column.dtype.kind not in "fiu":
        raise InputError(f"the column {OCCUPANCY} holds no numbers; correct or remove it")
    pairs = enumerate(zip(atoms.symbols, column, strict=True))
    return {str(index): {symbol: float(share)} for index, (symbol, share) in pairs}


def read_kinds(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure, whose kinds of atoms are used where the reference distinguishes them."""
    if KINDS in atoms.arrays:
        notes.use(KINDS)
    return atoms


def read_motion(*, with_momenta: bool) -> Callable[[Atoms, Notes], Atoms]:
    """Return the reading step that keeps the constraints and, optionally, the momenta of a start."""

    def read(atoms: Atoms, notes: Notes) -> Atoms:
        if atoms.constraints:
            notes.use(CONSTRAINTS)
        if with_momenta and MOMENTA in atoms.arrays:
            notes.use(MOMENTA)
        return atoms

    return read


def read_masses(atoms: Atoms, notes: Notes) -> Atoms:
    """Return the structure with the masses that its file states, in u, under ASE's name.

    Raises:
        InputError: masses are not positive, are in another unit, or two columns contradict each other.
    """
    names = [name for name in (MASSES, *OTHER_MASSES) if name in atoms.arrays]
    for name in names:
        _check_masses(name, atoms)
    notes.use(*names)
    if not names or names == [MASSES]:
        return atoms
    for name in names[1:]:
        if not np.allclose(atoms.arrays[name], atoms.arrays[names[0]], rtol=1e-3):
            raise InputError(f"the columns {names[0]} and {name} contradict each other; remove one of them")
    if names[0] == MASSES:
        return atoms
    notes.warn(f"the column {names[0]} is taken as {MASSES} (u)")
    changed = atoms.copy()
    changed.calc = atoms.calc
    changed.set_masses(atoms.arrays[names[0]])
    return changed


def _check_masses(name: str, atoms: Atoms) -> None:
    masses: Any = atoms.arrays[name]  # Any: a column of whatever a file holds
    if masses.ndim != 1 or masses.dtype.kind not in "fiu" or not np.isfinite(masses).all() or not (masses > 0).all():
        bad = f"; atom {_first_bad(masses)} has {masses[_first_bad(masses)]}"
        raise InputError(f"the column {name} holds no masses{bad}; expected positive numbers in u, or no such column")
    ratio = masses / atomic_masses[atoms.numbers]
    if name != MASSES and (ratio.max() > LARGEST_FACTOR or ratio.min() < 1 / LARGEST_FACTOR):
        index = int(np.argmax(np.abs(np.log(ratio))))
        raise InputError(
            f"the column {name} gives atom {index} ({atoms.symbols[index]}) the mass {masses[index]:g}, which is none "
            f"in u; write a column {MASSES} in u, or remove {name}"
        )


def _first_bad(masses: Any) -> int:  # Any: a column of whatever a file holds
    if masses.ndim != 1 or masses.dtype.kind not in "fiu":
        return 0
    return int(np.argmin(np.where(np.isfinite(masses), masses, -np.inf)))
