from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure
from surveyor.reference.xtb import XTBParameters, XTBReference, check_installed
from surveyor.testing.references import check_reference

pytestmark = pytest.mark.xtb


def compute(atoms: Atoms, directory: Path, **parameters: object) -> Label | LabelFailure:
    reference = XTBReference(XTBParameters.model_validate(parameters))
    return reference.compute(reference.resolve().with_electrons(atoms), directory)


@pytest.mark.parametrize("method", ["GFN2-xTB", "GFN1-xTB"])
def test_xtb_keeps_the_promises_of_a_reference_for_molecules(method: str, tmp_path: Path) -> None:
    water, radical = molecule("H2O"), molecule("OH")
    water.rattle(0.05, seed=1)
    radical.rattle(0.05, seed=2)
    reference = XTBReference(XTBParameters.model_validate({"method": method}))
    check_reference(reference, [water, radical], tmp_path, step=1e-3, forces_tolerance=1e-4)


@pytest.mark.parametrize("method", ["GFN2-xTB", "GFN1-xTB"])
def test_xtb_keeps_the_promises_of_a_reference_for_crystals(method: str, tmp_path: Path) -> None:
    ice = molecule("H2O", cell=[[3.5, 0, 0], [0.3, 3.6, 0], [0.1, 0.2, 3.4]], pbc=True)
    ice.rattle(0.03, seed=1)
    reference = XTBReference(XTBParameters.model_validate({"method": method}))
    check_reference(reference, [ice], tmp_path, step=1e-3, forces_tolerance=1e-4, stress_tolerance=1e-4)


def test_energy_is_that_of_the_bare_library(tmp_path: Path) -> None:
    from ase.units import Bohr, Hartree
    from tblite.interface import Calculator

    water = molecule("H2O")
    bare = Calculator("GFN2-xTB", water.numbers, water.positions / Bohr)
    bare.set("verbosity", 0)
    bare.set("accuracy", 0.01)
    label = compute(water, tmp_path)
    assert isinstance(label, Label)
    assert label.energy == pytest.approx(bare.singlepoint()["energy"] * Hartree, rel=1e-9)


def test_charge_and_multiplicity_of_the_structure_count(tmp_path: Path) -> None:
    energies = {}
    for charge, multiplicity in [(0, 1), (1, 2), (0, 3)]:
        water = molecule("H2O")
        water.info.update(charge=charge, multiplicity=multiplicity)
        label = compute(water, tmp_path)
        assert isinstance(label, Label)
        energies[charge, multiplicity] = label.energy
    # The ionisation energy of water is 12.6 eV, its first triplet lies at about 7 eV; GFN2-xTB overestimates both.
    assert 12 < energies[1, 2] - energies[0, 1] < 20
    assert 6 < energies[0, 3] - energies[0, 1] < 17


@pytest.mark.parametrize("method", ["GFN2-xTB", "GFN1-xTB"])
def test_molecule_in_a_large_periodic_cell_is_a_free_molecule(method: str, tmp_path: Path) -> None:
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]])
    free = compute(hydrogen, tmp_path, method=method)
    hydrogen.set_cell([20, 20, 20])
    celled = compute(hydrogen, tmp_path, method=method)
    hydrogen.pbc = True
    periodic = compute(hydrogen, tmp_path, method=method)
    assert isinstance(free, Label)
    assert isinstance(celled, Label)
    assert isinstance(periodic, Label)
    assert celled.energy == free.energy  # the cell of what is not periodic counts for nothing
    assert periodic.energy == pytest.approx(free.energy, abs=1e-3)
    np.testing.assert_allclose(periodic.forces, free.forces, atol=1e-3)
    # All stress is that of the bond: the virial by the volume.
    assert periodic.stress is not None
    virial = np.einsum("ai,aj->ij", hydrogen.positions, periodic.forces) / 20**3
    assert periodic.stress[2] == pytest.approx(-virial[2, 2], abs=1e-6)


def test_unconverged_scf_is_a_failure(tmp_path: Path) -> None:
    outcome = compute(molecule("H2O"), tmp_path, max_iterations=2)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "scf_not_converged"


def test_slab_without_third_period_is_refused(tmp_path: Path) -> None:
    slab = Atoms("C2", [[0, 0, 0], [0, 1.42, 0]], cell=[2.46, 4.26, 15], pbc=[True, True, False])
    outcome = compute(slab, tmp_path)
    assert isinstance(outcome, LabelFailure)
    assert outcome.reason == "invalid_input"


def test_level_of_theory_depends_on_the_method_and_ends_at_radon() -> None:
    gfn1 = XTBReference(XTBParameters(method="GFN1-xTB")).resolve()
    gfn2 = XTBReference().resolve()
    assert gfn1.digest != gfn2.digest
    assert gfn2.elements is not None
    assert (gfn2.elements[0], gfn2.elements[-1]) == ("H", "Rn")


def test_missing_tblite_is_an_input_error_with_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(InputError, match=r'pip install "surveyor\[xtb\]"'):
        check_installed()


def test_label_is_plain_numbers(tmp_path: Path) -> None:
    label = compute(molecule("H2O"), tmp_path)
    assert isinstance(label, Label)
    assert type(label.energy) is float
    assert label.forces.dtype == np.float64
    assert label.stress is None
