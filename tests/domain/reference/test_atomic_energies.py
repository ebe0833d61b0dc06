from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import chemical_symbols

from surveyor.errors import AtomicEnergyFailed
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory
from surveyor.reference.ase import EMTParameters, EMTReference
from surveyor.reference.atomic_energies import atomic_energy, isolated_atoms, lowest_energy
from surveyor.reference.labelling import Labeller
from surveyor.reference.rehearsal import Rehearsal
from surveyor.reference.xtb import XTBParameters, XTBReference
from surveyor.structures import multiplicity_of
from surveyor.testing.references import launches

# Ground states of free atoms (NIST), as multiplicities, from hydrogen to radon; then uranium.
GROUND_STATES = {
    "H": 2, "He": 1,
    "Li": 2, "Be": 1, "B": 2, "C": 3, "N": 4, "O": 3, "F": 2, "Ne": 1,
    "Na": 2, "Mg": 1, "Al": 2, "Si": 3, "P": 4, "S": 3, "Cl": 2, "Ar": 1,
    "K": 2, "Ca": 1, "Sc": 2, "Ti": 3, "V": 4, "Cr": 7, "Mn": 6, "Fe": 5, "Co": 4, "Ni": 3, "Cu": 2, "Zn": 1,
    "Ga": 2, "Ge": 3, "As": 4, "Se": 3, "Br": 2, "Kr": 1,
    "Rb": 2, "Sr": 1, "Y": 2, "Zr": 3, "Nb": 6, "Mo": 7, "Tc": 6, "Ru": 5, "Rh": 4, "Pd": 1, "Ag": 2, "Cd": 1,
    "In": 2, "Sn": 3, "Sb": 4, "Te": 3, "I": 2, "Xe": 1,
    "Cs": 2, "Ba": 1, "La": 2, "Ce": 1, "Pr": 4, "Nd": 5, "Pm": 6, "Sm": 7, "Eu": 8, "Gd": 9, "Tb": 6, "Dy": 5,
    "Ho": 4, "Er": 3, "Tm": 2, "Yb": 1, "Lu": 2, "Hf": 3, "Ta": 4, "W": 5, "Re": 6, "Os": 5, "Ir": 4, "Pt": 3,
    "Au": 2, "Hg": 1, "Tl": 2, "Pb": 3, "Bi": 4, "Po": 3, "At": 2, "Rn": 1,
    "U": 5,
}  # fmt: skip


def multiplicities(element: str) -> list[int]:
    return [atoms.info["multiplicity"] for atoms in isolated_atoms(element)]


def test_scan_of_well_known_atoms() -> None:
    assert multiplicities("H") == [2]
    assert multiplicities("C") == [1, 3, 5]
    assert multiplicities("N") == [2, 4]
    assert multiplicities("Cr") == [1, 3, 5, 7]


def test_ground_states_are_known_of_all_elements_up_to_radon() -> None:
    assert list(GROUND_STATES)[:86] == chemical_symbols[1:87]


@pytest.mark.parametrize("element", GROUND_STATES)
def test_scan_holds_the_ground_state(element: str) -> None:
    assert GROUND_STATES[element] in multiplicities(element)


@pytest.mark.parametrize("element", chemical_symbols[1:104])
def test_scan_has_the_right_parity_and_no_gap(element: str) -> None:
    scan = multiplicities(element)
    lowest = 1 + chemical_symbols.index(element) % 2
    assert scan == list(range(lowest, scan[-1] + 1, 2))


def test_atoms_are_neutral_and_alone() -> None:
    for atoms in isolated_atoms("O"):
        assert len(atoms) == 1
        assert atoms.info["charge"] == 0
        assert not atoms.pbc.any()


def test_lowest_energy_passes_over_failures() -> None:
    def label(energy: float) -> Label:
        return Label(energy, isolated_atoms("H")[0].positions)

    failure = LabelFailure("scf_not_converged", "no")
    assert lowest_energy([failure, label(-1.0), label(-2.0), failure]) == -2.0
    assert lowest_energy([failure]) is None


def test_emt_energy_of_an_atom_is_what_is_left_far_away(tmp_path: Path) -> None:
    reference, store = EMTReference(), LabelStore.in_folder(tmp_path / "labels")
    energy = atomic_energy("Cu", Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    (pair,) = isolated_atoms("Cu")
    pair += isolated_atoms("Cu")[0]
    pair.positions[1] += [0, 0, 40.0]
    far = reference.compute(pair, tmp_path)
    assert isinstance(far, Label)
    assert energy == pytest.approx(far.energy / 2, abs=1e-9)


def test_each_multiplicity_is_computed_once(tmp_path: Path) -> None:
    reference = EMTReference(EMTParameters(rehearsal=Rehearsal(log=str(tmp_path / "log"))))
    store, theory = LabelStore.in_folder(tmp_path / "labels"), reference.resolve()
    energies = {atomic_energy("O", Labeller(reference, theory, store, tmp_path / "scratch")) for _ in range(2)}
    assert len(energies) == 1
    assert len(launches(tmp_path / "log")) == len(isolated_atoms("O"))


def test_atom_without_any_energy_is_a_named_error(tmp_path: Path) -> None:
    reference = EMTReference()
    store = LabelStore.in_folder(tmp_path / "labels")
    with pytest.raises(AtomicEnergyFailed, match="Fe"):
        atomic_energy("Fe", Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))


@dataclass(frozen=True)
class Partial:
    """A reference that fails in some multiplicities, and has the higher energies the lower they are."""

    failing: tuple[int, ...]

    def resolve(self) -> LevelOfTheory:
        return LevelOfTheory("partial", {"failing": list(self.failing)})

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        if multiplicity_of(atoms) in self.failing:
            return LabelFailure("scf_not_converged", "as it was told")
        return Label(-float(multiplicity_of(atoms)), np.zeros((1, 3)))


def test_failure_of_the_ground_state_is_a_failure_and_no_higher_energy(tmp_path: Path) -> None:
    store = LabelStore.in_folder(tmp_path / "labels")
    reference = Partial(failing=(7,))
    with pytest.raises(AtomicEnergyFailed, match=r"Cr atom .* ground state, 7 \(scf_not_converged: as it was told\)"):
        atomic_energy("Cr", Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))


def test_failure_of_an_excited_state_is_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LabelStore.in_folder(tmp_path / "labels")
    reference = Partial(failing=(1, 3))
    assert atomic_energy("Cr", Labeller(reference, reference.resolve(), store, tmp_path / "scratch")) == -7.0
    assert "Cr atom without multiplicity 3 (scf_not_converged)" in caplog.text


@pytest.mark.xtb
@pytest.mark.parametrize("element", ["C", "O"])
def test_atoms_that_are_far_apart_have_the_energies_of_atoms(element: str, tmp_path: Path) -> None:
    """The energy is that of the atom alone: two of them, 50 Å apart, with all spins parallel, have twice as much."""
    reference, store = XTBReference(XTBParameters()), LabelStore.in_folder(tmp_path / "labels")
    energy = atomic_energy(element, Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    singles = [reference.compute(atom, tmp_path) for atom in isolated_atoms(element)]
    labels = [label for label in singles if isinstance(label, Label)]
    assert energy == min(label.energy for label in labels)
    (lowest,) = [atom for atom, label in zip(isolated_atoms(element), labels, strict=True) if label.energy == energy]
    pair = lowest + lowest
    pair.positions[1] += [0, 0, 50.0]
    pair.info["multiplicity"] = 2 * lowest.info["multiplicity"] - 1
    far = reference.compute(pair, tmp_path)
    assert isinstance(far, Label)
    assert far.energy == pytest.approx(2 * energy, abs=1e-4)


@pytest.mark.xtb
def test_xtb_binds_hydrogen(tmp_path: Path) -> None:
    reference, store = XTBReference(XTBParameters()), LabelStore.in_folder(tmp_path / "labels")
    atom = atomic_energy("H", Labeller(reference, reference.resolve(), store, tmp_path / "scratch"))
    (molecule,) = isolated_atoms("H")
    molecule += isolated_atoms("H")[0]
    molecule.positions[1] += [0, 0, 0.75]
    molecule.info["multiplicity"] = 1
    bound = reference.compute(molecule, tmp_path)
    assert isinstance(bound, Label)
    # An atom of one electron has the energy of its level in the Hamiltonian, -10.707 eV in GFN2-xTB.
    assert atom == pytest.approx(-10.707, abs=0.01)
    assert 3.5 < 2 * atom - bound.energy < 6.5  # experiment: 4.5 eV
