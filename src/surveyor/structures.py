"""Canonical coordinates, identity and checks of structures; a structure is a plain `ase.Atoms`.

Charge and multiplicity live in `atoms.info["charge"]` and `atoms.info["multiplicity"]`, the kinds of atoms (for levels
of theory that treat atoms of one element differently) in `atoms.arrays["kinds"]`.
"""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from surveyor.errors import InputError
from surveyor.words import number_of

MOMENTS = "initial_magmoms"  # in atoms.arrays, by ASE's name
DECIMALS = 8  # extxyz keeps so many: what it gives back is the structure that was labelled
OVERLAP = 0.5  # atoms closer than this fraction of the sum of their covalent radii are on top of each other
THINNEST_A = 0.1  # cells thinner than this are mistakes, and hold so many images that no neighbour list ends


def canonical(atoms: Atoms) -> Atoms:
    """Return a copy with positions, cell (to 1e-8 Å) and magnetic moments rounded, and without a calculator.

    The rounded coordinates are labelled, so that a structure keeps its identity through an extxyz file.
    """
    copy = atoms.copy()
    copy.calc = None
    copy.set_cell(_rounded(atoms.cell.array), scale_atoms=False)
    copy.arrays["positions"] = _rounded(atoms.positions)
    if MOMENTS in copy.arrays:
        copy.arrays[MOMENTS] = _rounded(copy.arrays[MOMENTS].astype(float))
    return copy


def at_rest(atoms: Atoms) -> Atoms:
    """Return a canonical copy without momenta and constraints."""
    copy = atoms.copy()
    copy.set_constraint()
    copy.arrays.pop("momenta", None)
    return canonical(copy)


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(values, DECIMALS) + 0.0  # adding zero turns -0.0 into 0.0


def charge_of(atoms: Atoms) -> int:
    """Return the total charge in units of e; 0 where none is given."""
    return _integer(atoms, "charge", 0)


def multiplicity_of(atoms: Atoms) -> int:
    """Return the spin multiplicity 2S+1; where none is given, the lowest that the number of electrons allows."""
    return _integer(atoms, "multiplicity", lowest_multiplicity(atoms))


def lowest_multiplicity(atoms: Atoms) -> int:
    """Return 1 for an even number of electrons and 2 for an odd one."""
    return 1 + (int(atoms.numbers.sum()) - charge_of(atoms)) % 2


def _integer(atoms: Atoms, name: str, default: int) -> int:
    value = atoms.info.get(name, default)
    if not isinstance(value, Real) or not float(value).is_integer():
        raise InputError(f"{name} is {value!r} in a structure; expected an integer")
    return round(float(value))


def identity_of(atoms: Atoms, *, kinds: bool = False) -> dict[str, Any]:  # Any: numbers, lists of numbers and strings
    """Return the identity of a structure, with lengths as integers of 1e-8 Å, ready for JSON.

    Args:
        atoms: a structure.
        kinds: whether `atoms.arrays["kinds"]` distinguishes atoms of one element.
    """
    identity = {
        "numbers": atoms.numbers.tolist(),
        "positions": _integers(atoms.positions),
        "cell": _integers(atoms.cell.array),
        "pbc": atoms.pbc.tolist(),
        "charge": charge_of(atoms),
        "multiplicity": multiplicity_of(atoms),
        "magnetic_moments": _rounded(np.asarray(atoms.get_initial_magnetic_moments(), dtype=float)).tolist(),
    }
    if kinds:
        identity["kinds"] = kinds_of(atoms)
    return identity


def _integers(lengths: np.ndarray) -> list[list[int]]:
    return np.rint(lengths * 10**DECIMALS).astype(np.int64).tolist()  # type: ignore[no-any-return]


def kinds_of(atoms: Atoms) -> list[str]:
    """Return the kind of each atom; where none is given, its chemical symbol."""
    if "kinds" in atoms.arrays:
        return [str(kind) for kind in atoms.arrays["kinds"]]
    return list(atoms.get_chemical_symbols())


def elements_of(structures: Iterable[Atoms]) -> tuple[str, ...]:
    """Return the chemical symbols in the structures, by atomic number."""
    symbols = {
        (number, symbol) for atoms in structures for number, symbol in zip(atoms.numbers, atoms.symbols, strict=True)
    }
    return tuple(symbol for _, symbol in sorted(symbols))


def is_periodic(atoms: Atoms) -> bool:
    """Return whether the structure is periodic in three directions, so that it has a stress."""
    return bool(atoms.pbc.all())


def check_structure(atoms: Atoms, name: str) -> None:
    """Check that a structure can be worked with.

    Raises:
        InputError: as in `check_description` and `check_overlap`.
    """
    check_description(atoms, name)
    check_overlap(atoms, name)


def check_description(atoms: Atoms, name: str) -> None:
    """Check that a structure is one, wherever its atoms are.

    Raises:
        InputError: there are no atoms, numbers that are not finite, unknown elements, a cell that is missing or flat,
            or a multiplicity that the number of electrons does not allow.
    """
    if len(atoms) == 0:
        raise InputError(f"{name} has no atoms")
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise InputError(
            f"{name} has positions or a cell that are not finite numbers (NaN or infinity); correct the file"
        )
    if (atoms.numbers < 1).any():
        index = int(np.argmax(atoms.numbers < 1))
        raise InputError(f"{name}: atom {index} is of no known element (found {atoms.symbols[index]!r})")
    _check_cell(atoms, name)
    try:
        check_multiplicity(atoms)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_cell(atoms: Atoms, name: str) -> None:
    for direction, periodic in enumerate(atoms.pbc):
        if periodic and not atoms.cell[direction].any():
            raise InputError(
                f"{name} is periodic along direction {direction} but has no cell vector there; "
                "give one, or set pbc to false"
            )
    vectors = atoms.cell.array[atoms.cell.array.any(axis=1)]
    # No height of the cell is smaller than the smallest singular value of its vectors.
    if len(vectors) and np.linalg.svd(vectors, compute_uv=False).min() < THINNEST_A:
        raise InputError(
            f"{name} has a cell without volume, or thinner than {THINNEST_A} Å: {atoms.cell.array.tolist()}; "
            "correct its vectors"
        )


def check_multiplicity(atoms: Atoms) -> None:
    """Check that the number of electrons allows the multiplicity of a structure."""
    multiplicity = multiplicity_of(atoms)
    if multiplicity < 1 or (multiplicity - lowest_multiplicity(atoms)) % 2:
        electrons = int(atoms.numbers.sum()) - charge_of(atoms)
        expected = "an odd multiplicity" if electrons % 2 == 0 else "an even multiplicity"
        raise InputError(
            f"{number_of(electrons, 'electron')} and multiplicity {multiplicity} exclude each other; "
            f"expected {expected}"
        )
    if multiplicity - 1 > int(atoms.numbers.sum()) - charge_of(atoms):
        raise InputError(f"found multiplicity {multiplicity}, which needs more unpaired electrons than there are")


def check_overlap(atoms: Atoms, name: str) -> None:
    """Check that no atoms are on top of each other."""
    first, second, distance = neighbor_list("ijd", atoms, OVERLAP * covalent_radii[atoms.numbers])
    if len(first):
        closest = int(np.argmin(distance))
        i, j = int(first[closest]), int(second[closest])
        raise InputError(
            f"{name}: atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) overlap: "
            f"they are {distance[closest]:.3f} Å apart, "
            f"expected at least {OVERLAP * covalent_radii[atoms.numbers[[i, j]]].sum():.3f} Å"
        )


def check_structures(structures: Sequence[Atoms], name: str) -> None:
    """Check each of several structures; a bad one is named by its index.

    Raises:
        InputError: as in `check_structure`.
    """
    for index, atoms in enumerate(structures):
        check_structure(atoms, f"structure {index} of {name}")
