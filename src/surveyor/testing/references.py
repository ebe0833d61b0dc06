"""The conformance suite of references, and the reader of rehearsal logs."""

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.labels import Label
from surveyor.reference.reference import Reference
from surveyor.reference.rehearsal import structure_id
from surveyor.structures import canonical, is_periodic

__all__ = ["Energies", "check_reference", "launches", "structure_id"]

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def check_reference(
    reference: Reference,
    structures: Sequence[Atoms],
    directory: Path,
    *,
    step: float = 2e-3,
    forces_tolerance: float = 1e-3,
    stress_tolerance: float = 1e-4,
) -> None:
    """Check that a reference meets its requirements, for a few small structures of low symmetry.

    Args:
        reference: the reference.
        structures: structures that it can label.
        directory: folder for the files of the calculations.
        step: step of finite differences: Å for positions, none for strain.
        forces_tolerance: tolerance in eV/Å.
        stress_tolerance: tolerance in eV/Å³.

    Raises:
        AssertionError: a requirement is not met.
    """
    theory = reference.resolve()
    assert theory.digest == reference.resolve().digest, "resolve() gives another level of theory the second time"
    travelled: Reference = pickle.loads(pickle.dumps(reference))
    assert travelled.resolve().digest == theory.digest, "a pickled reference has another level of theory"
    energies = Energies(travelled, directory)
    for given in structures:
        atoms = theory.with_electrons(given)
        before = copy.deepcopy(atoms)
        label = energies.label(atoms)
        assert atoms == before, "compute() changes its structure"
        assert atoms.info == before.info, "compute() changes the charge or multiplicity of its structure"
        assert label.is_complete_for(atoms), "the label has too few numbers, or some that are not finite"
        assert (label.stress is not None) == is_periodic(atoms), "a stress belongs to three periodic directions"
        _check_determinism(label, energies.label(atoms))
        _check_forces(label, atoms, energies, step, forces_tolerance)
        if label.stress is not None:
            _check_stress(label.stress, atoms, energies, step, stress_tolerance)


class Energies:
    """Labels by a reference, each in a new folder; a failure is an assertion error.

    Args:
        reference: computes the labels.
        directory: for the folders.
    """

    def __init__(self, reference: Reference, directory: Path) -> None:
        self._reference = reference
        self._directory = directory
        self._count = 0

    def label(self, atoms: Atoms) -> Label:
        """Return the label of a structure."""
        self._count += 1
        folder = self._directory / f"check-{self._count:04d}"
        folder.mkdir(parents=True)
        outcome = self._reference.compute(canonical(atoms), folder)
        assert isinstance(outcome, Label), f"no label, but {outcome}"
        return outcome

    def slope(self, low: Atoms, high: Atoms, distance: float) -> float:
        """Return the difference of the energies of two structures by their distance."""
        return (self.label(high).energy - self.label(low).energy) / distance


def _check_determinism(first: Label, second: Label) -> None:
    # Not bit for bit: threads and processes add up in any order.
    np.testing.assert_allclose(second.energy, first.energy, rtol=1e-10, err_msg="another energy the second time")
    np.testing.assert_allclose(second.forces, first.forces, atol=1e-6, err_msg="other forces the second time")


def _check_forces(label: Label, atoms: Atoms, energies: Energies, step: float, tolerance: float) -> None:
    for atom in range(len(atoms)):
        for axis in range(3):
            low, high = atoms.copy(), atoms.copy()
            low.positions[atom, axis] -= step
            high.positions[atom, axis] += step
            np.testing.assert_allclose(
                label.forces[atom, axis],
                -energies.slope(low, high, 2 * step),
                rtol=0,
                atol=tolerance,
                err_msg=f"the force on atom {atom} along axis {axis} is not the slope of the energy",
            )


def _check_stress(stress: np.ndarray, atoms: Atoms, energies: Energies, step: float, tolerance: float) -> None:
    for component, (row, column) in enumerate(VOIGT):
        strain = np.zeros((3, 3))
        strain[row, column] += step / 2
        strain[column, row] += step / 2
        slope = energies.slope(_strained(atoms, -strain), _strained(atoms, strain), 2 * step)
        np.testing.assert_allclose(
            stress[component],
            slope / atoms.get_volume(),
            rtol=0,
            atol=tolerance,
            err_msg=f"component {component} of the stress is not the slope of the energy",
        )


def _strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    copy_ = atoms.copy()
    copy_.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy_


def launches(log: Path, event: str = "begin") -> list[str]:
    """Return the structures whose computation began, or ended, in a label or a failure, once for each time, in order.

    Args:
        log: file of a rehearsal, `Rehearsal.log`; no launch is no file. `structure_id` names structures in it.
        event: "begin" or "end".
    """
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith(f"{event} ")]
