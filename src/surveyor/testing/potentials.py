"""Conformance suite of potentials: those of surveyor, and those of others."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from surveyor.potentials import Potential, Prediction, predict
from surveyor.structures import is_periodic
from surveyor.testing.checks import check_close, check_equal

FAR_A = 100.0  # beyond the reach of any potential
N_DERIVATIVES = 6  # forces components compared with finite differences, for each structure
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, slots=True)
class Tolerances:
    """Largest differences allowed; the defaults suit potentials evaluated in float64.

    Attributes:
        energy: in eV.
        forces: in eV/Å.
        stress: in eV/Å³.
        displacement: step of the finite differences of positions, in Å.
        strain: step of the finite differences of the cell.
    """

    energy: float = 1e-7
    forces: float = 1e-5
    stress: float = 1e-5
    displacement: float = 1e-3
    strain: float = 1e-4


def check_potential(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    tolerances: Tolerances | None = None,
    is_symmetric: bool = True,
) -> None:
    """Check a potential on some structures.

    Forces and stress are the derivatives of the energy, the result depends on nothing but the structure, two copies
    have twice the energy, `evaluate` and `calculator` agree, the structures stay as they are, and the potential can
    travel to a worker.

    Args:
        potential: to be checked.
        structures: preferably of different compositions and periodicities.
        tolerances: by default those for float64.
        is_symmetric: whether the energy does not change when the structure is moved, turned, or its atoms are
            renumbered, and doubles with the structure; not so for walls and other potentials that are fixed in space.

    Raises:
        AssertionError: a property does not hold; the message names it, with the values found and allowed.
    """
    tolerances = tolerances or Tolerances()
    _check_inputs_stay(potential, structures)
    _check_evaluations_agree(potential, structures, tolerances)
    for atoms in structures:
        _check_forces(potential, atoms, tolerances)
        if is_periodic(atoms):
            _check_stress(potential, atoms, tolerances)
        if is_symmetric:
            _check_symmetry(potential, atoms, tolerances)
            _check_extensivity(potential, atoms, tolerances)


def _check_inputs_stay(potential: Potential, structures: Sequence[Atoms]) -> None:
    copies = [atoms.copy() for atoms in structures]
    potential.evaluate(structures)
    for index, (atoms, copy) in enumerate(zip(structures, copies, strict=True)):
        check_equal(
            f"structure {index} after evaluate()", atoms == copy and atoms.info.keys() == copy.info.keys(), True
        )
        check_equal(f"calculator of structure {index} after evaluate()", atoms.calc, None)


def _check_evaluations_agree(potential: Potential, structures: Sequence[Atoms], tolerances: Tolerances) -> None:
    together = potential.evaluate(structures)
    calculator = potential.calculator()
    others = {
        "a second evaluate()": potential.evaluate(structures),
        "evaluate() in reverse order": potential.evaluate(structures[::-1])[::-1],
        "one calculator for all": [predict(calculator, atoms) for atoms in structures],
        "a new calculator for each": [predict(potential.calculator(), atoms) for atoms in structures],
        "the potential after pickling": pickle.loads(pickle.dumps(potential)).evaluate(structures),
    }
    for name, predictions in others.items():
        check_equal(f"number of predictions of {name}", len(predictions), len(structures))
        for index, (expected, found) in enumerate(zip(together, predictions, strict=True)):
            check_same_prediction(f"{name}, structure {index}", found, expected, tolerances)


def check_same_prediction(name: str, found: Prediction, expected: Prediction, tolerances: Tolerances) -> None:
    """Check that two predictions agree."""
    check_close(f"energy of {name}", found.energy, expected.energy, tolerances.energy)
    check_close(f"forces of {name}", found.forces, expected.forces, tolerances.forces)
    check_equal(f"presence of a stress of {name}", found.stress is None, expected.stress is None)
    if found.stress is not None and expected.stress is not None:
        check_close(f"stress of {name}", found.stress, expected.stress, tolerances.stress)


def _check_forces(potential: Potential, atoms: Atoms, tolerances: Tolerances) -> None:
    (prediction,) = potential.evaluate([atoms])
    check_equal(f"shape of the forces on {atoms.symbols}", prediction.forces.shape, (len(atoms), 3))
    components = np.random.default_rng(0).permutation(3 * len(atoms))[:N_DERIVATIVES]
    for index, direction in (divmod(int(component), 3) for component in components):
        energies = []
        for step in (tolerances.displacement, -tolerances.displacement):
            moved = atoms.copy()
            moved.positions[index, direction] += step
            energies.append(potential.evaluate([moved])[0].energy)
        slope = (energies[0] - energies[1]) / (2 * tolerances.displacement)
        name = f"force on atom {index} of {atoms.symbols} along {'xyz'[direction]} against finite differences"
        check_close(name, prediction.forces[index, direction], -slope, tolerances.forces)


def _check_stress(potential: Potential, atoms: Atoms, tolerances: Tolerances) -> None:
    stress = potential.evaluate([atoms])[0].stress
    if stress is None:
        raise AssertionError(f"stress of {atoms.symbols}, which is periodic: found none, expected six components")
    check_equal(f"shape of the stress of {atoms.symbols}", stress.shape, (6,))
    expected = []
    for a, b in VOIGT:
        energies = []
        for step in (tolerances.strain, -tolerances.strain):
            strain = np.zeros((3, 3))
            strain[a, b] += step / 2
            strain[b, a] += step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(potential.evaluate([strained])[0].energy)
        expected.append((energies[0] - energies[1]) / (2 * tolerances.strain * atoms.get_volume()))
    check_close(f"stress of {atoms.symbols} against finite strain", stress, expected, tolerances.stress)


def _check_extensivity(potential: Potential, atoms: Atoms, tolerances: Tolerances) -> None:
    """Check that copies far apart, or more cells of a crystal, have as much more energy, and each the same forces."""
    if atoms.pbc.any():
        twice = atoms.repeat([2 if periodic else 1 for periodic in atoms.pbc])
    else:
        twice = atoms + atoms
        twice.positions[len(atoms) :] += FAR_A
    n = len(twice) // len(atoms)
    one, several = potential.evaluate([atoms, twice])
    name = f"{n} copies of {atoms.symbols}"
    check_close(f"energy of {name}", several.energy, n * one.energy, n * tolerances.energy)
    check_close(f"forces on {name}", several.forces, np.tile(one.forces, (n, 1)), tolerances.forces)


def _check_symmetry(potential: Potential, atoms: Atoms, tolerances: Tolerances) -> None:
    (prediction,) = potential.evaluate([atoms])
    moved, turned = atoms.copy(), atoms.copy()
    moved.positions += (0.7, -1.3, 2.1)
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turning = Atoms("H3", positions=np.eye(3))
    turning.rotate(40, (1, 2, 3))
    order = np.random.default_rng(0).permutation(len(atoms))
    for name, other, forces in (
        ("translation", moved, prediction.forces),
        ("rotation", turned, prediction.forces @ turning.positions),
        ("permutation", atoms[order], prediction.forces[order]),
    ):
        (found,) = potential.evaluate([other])
        check_close(f"energy of {atoms.symbols} after {name}", found.energy, prediction.energy, tolerances.energy)
        check_close(f"forces on {atoms.symbols} after {name}", found.forces, forces, tolerances.forces)
