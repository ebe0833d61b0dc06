"""Stress and virials in the fields of structure files."""

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from surveyor.dataset.weights import VIRIALS_WEIGHT
from surveyor.errors import InputError
from surveyor.reading.keys import Fields, LabelKeys, numbers_in
from surveyor.reading.report import Notes
from surveyor.reading.weights import GivenWeights
from surveyor.structures import is_periodic
from surveyor.words import number_of

# Rounding leaves such differences between components that are equal, or in one stress that is given twice.
SAME = 1e-3  # of the largest component
SAME_STRESS = 1e-5  # eV/Å³, or eV of a virial


def read_stress(
    atoms: Atoms, fields: Fields, keys: LabelKeys, weights: GivenWeights, notes: Notes
) -> tuple[np.ndarray | None, float]:
    """Return the stress of a structure, from stress or virials, and its weight.

    The stress of a structure that is not periodic in three directions is not used, because its value depends on the
    vacuum in the cell. Energy and forces of such a structure are correct.

    Returns:
        Six Voigt components in eV/Å³ with ASE's sign, or None; and the weight of the stress alone.

    Raises:
        InputError: the number of components is not six or nine, the matrix is not symmetric, or stress and virials
            contradict each other.
    """
    stress, virials = keys.found("stress", fields), keys.found("virials", fields)
    names = [name for name in (stress, virials) if name is not None]
    if names and not is_periodic(atoms):
        notes.warn(
            f"{' and '.join(names)} not used: a stress has no meaning where a structure is not periodic in three "
            "directions"
        )
        return None, 1.0
    notes.use(*names)
    of_stress = _matrix(fields, stress) if stress is not None and weights.stress > 0 else None
    of_virials = _from_virials(atoms, fields, virials) if virials is not None and weights.virials > 0 else None
    if of_stress is not None and of_virials is not None:
        _check_agreement(of_stress, of_virials, f"{stress} and {virials}")
    if of_stress is not None:
        return _voigt(of_stress), weights.stress
    if of_virials is not None:
        notes.use(*([VIRIALS_WEIGHT] if VIRIALS_WEIGHT in fields else []))
        return _voigt(of_virials), weights.virials
    return None, 1.0


def is_symmetric(matrix: np.ndarray) -> bool:
    """Return whether a stress or virial is symmetric up to rounding; another check refuses numbers that are not finite.

    The tolerance is absolute, because the stress of a relaxed cell is mostly rounding.
    """
    if not np.isfinite(matrix).all():
        return True
    return bool(np.abs(matrix - matrix.T).max() <= SAME * np.abs(matrix).max() + SAME_STRESS)


def _voigt(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(full_3x3_to_voigt_6_stress(matrix), dtype=float)


def _matrix(fields: Fields, name: str) -> np.ndarray:
    """Return the symmetric matrix that six or nine components stand for, shape (3, 3)."""
    values = numbers_in(fields, name)
    if values.size == 6:
        return np.array(voigt_6_to_full_3x3_stress(values.ravel()))
    if values.size != 9:
        raise InputError(
            f"{name} has {number_of(values.size, 'component')}; expected six (xx, yy, zz, yz, xz, xy) "
            "or a matrix of nine"
        )
    matrix = values.reshape(3, 3)
    if not is_symmetric(matrix):
        raise InputError(f"{name} is not symmetric: {matrix.tolist()}; expected equal components such as xy and yx")
    symmetric: np.ndarray = 0.5 * (matrix + matrix.T)
    return symmetric


def _from_virials(atoms: Atoms, fields: Fields, name: str) -> np.ndarray:
    """Return the stress in eV/Å³ that virials in eV stand for: minus their quotient by the volume."""
    volume = abs(np.linalg.det(atoms.cell.array))
    if volume == 0:
        raise InputError(f"{name} gives no stress where the cell has no volume")
    stress: np.ndarray = -_matrix(fields, name) / volume
    return stress


def _check_agreement(stress: np.ndarray, from_virials: np.ndarray, names: str) -> None:
    tolerance = SAME * np.abs(stress).max() + SAME_STRESS
    if np.abs(stress - from_virials).max() <= tolerance:
        return
    has_other_sign = np.abs(stress + from_virials).max() <= tolerance
    hint = "; one of them has the other sign" if has_other_sign else ""
    raise InputError(
        f"{names} contradict each other: {_voigt(stress).tolist()} and {_voigt(from_virials).tolist()} eV/Å³{hint}; "
        "expected virials that are minus the stress times the volume; remove one of them"
    )
