"""Slabs and chains in other settings of the axes: MACE sees the structure that it sees in its own setting."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from labelling_inputs import labelled

from surveyor.dataset import Dataset
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.potentials import Potential, predict

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]

TINY = MACEParameters(
    r_max_A=4.0,
    num_channels=4,
    max_L=0,
    correlation=1,
    num_interactions=1,
    max_num_epochs=1,
    device="cpu",
    options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
)


def slab() -> Atoms:
    atoms = fcc111("Cu", (1, 1, 3), vacuum=6.0, periodic=False)
    atoms.pbc = [True, True, False]
    atoms.rattle(0.1, seed=1)
    return atoms


def chain() -> Atoms:
    return Atoms("Cu2", [[0, 0, 0.1], [0.3, 0.2, 2.4]], cell=[12, 12, 4.6], pbc=[False, False, True])


def with_axes(atoms: Atoms, axes: list[int], vectors: list[int]) -> Atoms:
    """Return a structure with permuted Cartesian axes, and its cell vectors in another order."""
    return Atoms(
        atoms.numbers,
        positions=atoms.positions[:, axes],
        cell=atoms.cell.array[vectors][:, axes],
        pbc=atoms.pbc[vectors],
    )


SETTINGS = {
    "slab with its vacuum along y, in the third vector": (slab(), [0, 2, 1], [0, 1, 2]),
    "slab with its vacuum along x, in the third vector": (slab(), [2, 0, 1], [0, 1, 2]),
    "slab with its vacuum along x, in the second vector": (slab(), [2, 0, 1], [0, 2, 1]),
    "chain along y, in the third vector": (chain(), [0, 2, 1], [0, 1, 2]),
    "chain along y, in the first vector": (chain(), [0, 2, 1], [2, 0, 1]),
}


@pytest.fixture(scope="module")
def potential(tmp_path_factory: pytest.TempPathFactory) -> Potential:
    """A network that was trained on a slab in one of those settings."""
    folder = tmp_path_factory.mktemp("slabs")
    frames = labelled([with_axes(*SETTINGS["slab with its vacuum along y, in the third vector"])] * 2)
    model = MACEModel(TINY).initialize(Dataset(frames), atomic_energies=None, seed=0)
    trained, _ = model.train(Dataset(frames[:1]), Dataset(frames[1:]), folder / "training")
    trained.save(folder / "model")
    return replace(trained.deploy(), path=folder / "model" / "mace.model")


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_setting_of_the_axes_makes_no_difference(potential: Potential, setting: str) -> None:
    atoms, axes, vectors = SETTINGS[setting]
    other = with_axes(atoms, axes, vectors)
    expected, *found = *potential.evaluate([atoms, other]), predict(potential.calculator(), other)
    for each in found:
        assert each.energy == pytest.approx(expected.energy, abs=1e-9)
        np.testing.assert_allclose(each.forces, expected.forces[:, axes], atol=1e-9)
        assert each.stress is None


def test_a_slab_is_that_of_a_crystal_with_much_vacuum(potential: Potential) -> None:
    atoms = slab()
    crystal = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    crystal.cell[2] = [0, 0, 60]
    expected, found = potential.evaluate([crystal, atoms])
    assert found.energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-9)


def test_a_calculator_computes_a_slab_once(potential: Potential, tmp_path: Path) -> None:
    atoms = with_axes(*SETTINGS["chain along y, in the first vector"])
    atoms.calc = potential.calculator()
    atoms.get_potential_energy()
    assert not atoms.calc.calculation_required(atoms, ["forces"])


def test_crystals_are_left_as_they_are(potential: Potential) -> None:
    atoms = bulk("Cu", cubic=True)
    one, other = potential.evaluate([atoms])[0], predict(potential.calculator(), atoms)
    assert one.energy == pytest.approx(other.energy, abs=1e-9)
    assert one.stress is not None
