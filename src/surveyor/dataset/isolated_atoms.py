"""Isolated atoms among labelled structures: they provide atomic energies (E0s), but a model cannot learn from them.

For an atom without neighbours, a model predicts the atomic energy for any weights. A fit of atomic energies to
molecules and isolated atoms together is wrong for both by electronvolts.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from surveyor.dataset.dataset import Dataset, label_of
from surveyor.errors import InputError
from surveyor.structures import charge_of, multiplicity_of

CONFIG_TYPE = "config_type"  # atoms.info: "IsolatedAtom" by the convention of MACE's and GAP's files
BOX_A = 6.0  # between images: the cutoff of usual models, beyond which they see none
SAME_ATOM_MEV = 10.0  # energies of one atom agree better: two decimals and the size of the box make less
FREE_FORCE = 0.05  # eV/Å: grids of plane waves leave up to 0.02 on a free atom


def is_isolated_atom(atoms: Atoms) -> bool:
    """Return whether a structure is an isolated atom.

    This is a single atom without periodic directions. A single periodic atom is a crystal in a cell of any size,
    because calculations of crystals at large volumes end in states that no free atom has. It counts as isolated only if
    its config_type says so and its images are at least `BOX_A` away.
    """
    if len(atoms) != 1:
        return False
    return not atoms.pbc.any() or (is_stated(atoms) and is_single_and_far(atoms))


def is_stated(atoms: Atoms) -> bool:
    """Return whether the config_type of a structure is IsolatedAtom, in any spelling."""
    stated = str(atoms.info.get(CONFIG_TYPE, "")).lower().replace("_", "").replace("-", "").replace(" ", "")
    return stated.removesuffix("s") == "isolatedatom"


def is_single_and_far(atoms: Atoms) -> bool:
    """Return whether a structure is a single atom whose images are at least `BOX_A` away."""
    if len(atoms) != 1:
        return False
    vectors = atoms.cell.array[atoms.pbc]
    if (np.linalg.norm(vectors, axis=1) < BOX_A).any():
        return False
    reduced, _ = minkowski_reduce(atoms.cell.array, atoms.pbc)
    return bool((np.linalg.norm(reduced[atoms.pbc], axis=1) >= BOX_A).all())


def without_isolated_atoms(structures: Iterable[Atoms]) -> Dataset:
    """Return the structures that a model can learn from, in order."""
    return Dataset(atoms for atoms in structures if not is_isolated_atom(atoms))


def named(structures: Mapping[int, Atoms], origin: str = "the data") -> dict[str, Atoms]:
    """Return the isolated atoms among structures by the name that messages give them."""
    return {f"structure {i} of {origin}": atoms for i, atoms in structures.items() if is_isolated_atom(atoms)}


def energies_of(isolated: Mapping[str, Atoms]) -> dict[str, float]:
    """Return the atomic energy in eV of each element of which there is a neutral isolated atom.

    Of several multiplicities that are stated, the one of the lowest energy is the ground state.

    Raises:
        InputError: one multiplicity of an element has two energies, or an isolated atom has forces.
    """
    levels: dict[str, dict[int, tuple[str, float]]] = {}
    for name, atom in isolated.items():
        _check_forces(name, atom)
        charge, multiplicity = _electrons(name, atom)
        if charge != 0:
            continue
        energy = label_of(atom).energy
        other, other_energy = levels.setdefault(atom.symbols[0], {}).setdefault(multiplicity, (name, energy))
        if differ(energy, other_energy):
            raise InputError(
                f"{name} and {other} are isolated {atom.symbols[0]} atoms of multiplicity {multiplicity} with the "
                f"energies {energy:.6f} and {other_energy:.6f} eV, more than {SAME_ATOM_MEV:g} meV apart; expected one "
                "energy, or the multiplicity of each: state it, or remove the atom that is wrong"
            )
    return {symbol: min(energy for _, energy in of.values()) for symbol, of in levels.items()}


def _electrons(name: str, atom: Atoms) -> tuple[int, int]:
    """Return charge and multiplicity."""
    try:
        return charge_of(atom), multiplicity_of(atom)
    except InputError as error:
        raise InputError(f"{name}, an isolated atom: {error}") from error


def _check_forces(name: str, atom: Atoms) -> None:
    force = float(np.linalg.norm(label_of(atom).forces))
    if force > FREE_FORCE:
        raise InputError(
            f"{name} is an isolated atom with a force of {force:.3g} eV/Å; expected none, at most {FREE_FORCE} eV/Å: "
            "the label belongs to another structure, so correct or remove it"
        )


def differ(one: float, other: float) -> bool:
    """Return whether two energies in eV are too far apart to be those of one atom."""
    return 1e3 * abs(one - other) > SAME_ATOM_MEV


def check_agreement(given: Mapping[str, float], isolated: Mapping[str, float], name: str, advice: str) -> None:
    """Check atomic energies against those of isolated atoms in the data.

    Args:
        given: in eV by chemical symbol.
        isolated: in eV by chemical symbol; elements that are not given are passed over.
        name: of what gives the former, for the message.
        advice: what to do, for the message.

    Raises:
        InputError: an element's energies differ by more than `SAME_ATOM_MEV`.
    """
    for symbol, energy in given.items():
        if symbol in isolated and differ(energy, isolated[symbol]):
            raise InputError(
                f"{name}: found {energy:.6f} eV for {symbol}, whose isolated atom in the data has "
                f"{isolated[symbol]:.6f} eV; expected them within {SAME_ATOM_MEV:g} meV of each other: {advice}"
            )


def format_energies(energies: Mapping[str, float]) -> str:
    """Return atomic energies as text."""
    return ", ".join(f"{symbol} {energy:.4f} eV" for symbol, energy in energies.items())
