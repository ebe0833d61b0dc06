"""Temperatures and potential energies against equipartition, for the methods that conserve the momenta of the whole."""

import itertools

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixLinearTriatomic
from ase.md.velocitydistribution import thermalize_momenta

from surveyor.sampling.conditions import Walkers
from surveyor.sampling.integrators import degrees_of_freedom, make_integrator, temperature_of, without_drift

TEMPERATURE_K = 20.0  # springs are harmonic, and turn no molecule round
KT = units.kB * TEMPERATURE_K
TIMESTEP_FS, TIME_FS = 1.5, 10.0
N_STEPS = 3000


class Network(Calculator):
    """Springs that keep all distances of a structure, and a stiff angle for three atoms in a line.

    The energy does not depend on where the structure is, and how it is turned.
    """

    implemented_properties = ("energy", "forces")
    spring_constant = 20.0  # eV/Å²

    def __init__(self, reference):
        super().__init__()
        self.lengths = reference.get_all_distances()
        self.is_line = len(reference) == 3 and np.isclose(self.lengths.max(), self.lengths.sum() / 4)
        self.pairs = [(0, 1), (0, 2)] if self.is_line else list(itertools.combinations(range(len(reference)), 2))

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        first, second = np.array(self.pairs).T
        bonds = atoms.positions[second] - atoms.positions[first]
        lengths = np.linalg.norm(bonds, axis=1)
        excess = lengths - self.lengths[first, second]
        pulls = self.spring_constant * (excess / lengths)[:, None] * bonds
        forces = np.zeros((len(atoms), 3))
        np.add.at(forces, first, pulls)
        np.subtract.at(forces, second, pulls)
        energy = self.spring_constant / 2 * (excess**2).sum()
        if self.is_line:
            bend = atoms.positions[1] + atoms.positions[2] - 2 * atoms.positions[0]
            forces -= self.spring_constant / 4 * np.array([-2, 1, 1])[:, None] * bend
            energy += self.spring_constant / 8 * (bend**2).sum()
        self.results = {"energy": energy, "forces": forces}


class Crystal(Calculator):
    """Each atom is held at its place in a lattice that moves with all of them."""

    implemented_properties = ("energy", "forces")

    def __init__(self, reference):
        super().__init__()
        self.places = reference.positions.copy()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        moved = atoms.positions - self.places
        moved -= moved.mean(axis=0)
        springs = np.array([10, 20, 35])  # eV/Å², along each axis
        self.results = {"energy": (springs / 2 * moved**2).sum(), "forces": -springs * moved}


def hydrogen():
    return Atoms("C2", positions=[[0, 0, 0], [0.3, 0.5, 0.4]])


def carbon_dioxide():
    return Atoms("CO2", positions=[[0, 0, 0], [0.6, 0.6, 0.8], [-0.6, -0.6, -0.8]])


def water():
    return Atoms("OH2", positions=[[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], masses=[16, 12, 12])


def cluster(n_fixed=0):
    places = np.random.default_rng(2).uniform(-1, 1, (9, 3)) + 2 * np.array([*np.ndindex(3, 3, 1)])
    return Atoms("C9", positions=places, constraint=[FixAtoms(range(n_fixed))] if n_fixed else None)


def chain():
    places = np.random.default_rng(2).uniform(-0.3, 0.3, (4, 3)) + np.arange(4)[:, None] * [0, 0, 1.5]
    return Atoms("C4", positions=places, cell=[0, 0, 6], pbc=[False, False, True])


def crystal():
    return Atoms("C4", positions=[[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], cell=[2, 2, 2], pbc=True)


# 3N - 6; 3N - 5 for two atoms; 3N - 3 where the structure is periodic; those of free atoms, less the rotations about
# one fixed atom (3) or about the line of two (1).
STRUCTURES = {
    "diatomic": (hydrogen(), 1),
    "linear": (carbon_dioxide(), 3),
    "bent": (water(), 3),
    "nine atoms": (cluster(), 21),
    "one fixed": (cluster(1), 21),
    "two fixed": (cluster(2), 20),
    "four fixed": (cluster(4), 15),
    "crystal": (crystal(), 9),
}
CASES = [(name, "bussi") for name in STRUCTURES]
CASES += [(name, "nose_hoover") for name in ("diatomic", "linear", "nine atoms", "crystal")]  # it keeps no atoms fixed


def conditions(tmp_path, method):
    return Walkers(
        start=tmp_path / "unused.xyz",
        method=method,
        temperature_K=TEMPERATURE_K,
        timestep_fs=TIMESTEP_FS,
        thermostat_time_fs=TIME_FS,
    )


def begin(atoms, walkers, seed=1):
    generator = np.random.default_rng(seed)
    atoms.calc = Crystal(atoms) if atoms.pbc.all() else Network(atoms)
    thermalize_momenta(atoms, TEMPERATURE_K, rng=generator)
    without_drift(atoms, walkers)
    return make_integrator(atoms, walkers, generator=generator, memory={})


def n_vibrations(atoms):
    """Return how many directions the potential resists, from a Hessian by finite differences."""
    free = [index for index in np.ndindex(len(atoms), 3) if index[0] not in atoms.constraints[0].index]
    hessian = []
    for index in free:
        forces = []
        for step in (1e-4, -1e-4):
            moved = atoms.copy()
            moved.set_constraint()
            moved.positions[index] += step
            moved.calc = atoms.calc
            forces.append(moved.get_forces())
        hessian.append([(forces[1] - forces[0])[other] / 2e-4 for other in free])
    return int((np.linalg.eigvalsh(hessian) > 1e-3).sum())


@pytest.mark.parametrize(("name", "method"), CASES)
def test_each_degree_of_freedom_has_half_kt(tmp_path, name, method):
    atoms, n_degrees = STRUCTURES[name][0].copy(), STRUCTURES[name][1]
    walkers = conditions(tmp_path, method)
    integrator = begin(atoms, walkers)
    if atoms.constraints:
        assert n_vibrations(atoms) == n_degrees
    kinetic, potential = [], []
    for step in range(N_STEPS):
        integrator.step()
        if step >= N_STEPS // 10:
            kinetic.append(atoms.get_kinetic_energy())
            potential.append(atoms.get_potential_energy())
    # About 250 independent values of a gamma distribution: five standard errors.
    tolerance = 5 * np.sqrt(2 / n_degrees / 250)
    assert degrees_of_freedom(atoms, walkers) == n_degrees
    assert np.mean(kinetic) / (n_degrees * KT / 2) == pytest.approx(1, abs=tolerance)
    assert np.mean(potential) / (n_degrees * KT / 2) == pytest.approx(1, abs=tolerance)


def test_vibrations_of_free_molecules_have_as_much_as_under_langevin(tmp_path):
    # Random forces turn and shift the molecule; what is left without that is what the other thermostats count.
    atoms, walkers = carbon_dioxide(), conditions(tmp_path, "langevin")
    integrator = begin(atoms, walkers)
    assert degrees_of_freedom(atoms, walkers) == 9
    vibrational = []
    for step in range(4 * N_STEPS):
        integrator.step()
        if step % 4 == 0:
            still = atoms.copy()
            without_drift(still, conditions(tmp_path, "bussi"))
            assert np.abs(still.get_momenta().sum(axis=0)).max() < 1e-8
            assert np.abs(still.get_angular_momentum()).max() < 1e-8
            vibrational.append(still.get_kinetic_energy())
    # A stiff bend: within 2 % of 3N - 6. Values of 1000 correlation times: five standard errors are 13 %.
    assert np.mean(vibrational) / (KT / 2) == pytest.approx(3, rel=0.13)


@pytest.mark.parametrize(
    ("atoms", "n_degrees"),
    [
        (chain(), 8),  # 3N - 3, and the rotation about the axis
        (Atoms("He", positions=[[1, 2, 3]]), 3),
        (carbon_dioxide()[[0, 1]], 1),
        (crystal()[[0]], 3),
    ],
)
def test_degrees_of_freedom_of_other_structures(tmp_path, atoms, n_degrees):
    assert degrees_of_freedom(atoms, conditions(tmp_path, "bussi")) == n_degrees
    assert degrees_of_freedom(atoms, conditions(tmp_path, "langevin")) == 3 * len(atoms)


def test_a_molecule_that_is_constrained_to_a_line_has_two_rotations(tmp_path):
    pair = carbon_dioxide() + carbon_dioxide()
    pair.positions[3:] += [3, 0, 1]
    pair.set_constraint(FixLinearTriatomic([(1, 0, 2), (4, 3, 5)]))
    assert degrees_of_freedom(pair, conditions(tmp_path, "langevin")) == 10
    assert degrees_of_freedom(pair, conditions(tmp_path, "bussi")) == 4
    single = carbon_dioxide()
    single.set_constraint(FixLinearTriatomic([(1, 0, 2)]))
    assert degrees_of_freedom(single, conditions(tmp_path, "bussi")) == 0


@pytest.mark.parametrize("method", ["bussi", "nose_hoover"])
@pytest.mark.parametrize("atoms", [carbon_dioxide(), water(), cluster(), chain(), crystal()], ids=str)
def test_the_drift_of_the_momenta_is_removed_at_each_step(tmp_path, method, atoms):
    walkers = conditions(tmp_path, method)
    begin(atoms, walkers)
    atoms.set_momenta(atoms.get_momenta() + 1e-3 * np.arange(1, 4))  # such as rounding errors that have grown
    integrator = make_integrator(atoms, walkers, generator=np.random.default_rng(3), memory={})
    for _ in range(3):
        integrator.step()
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-12
    if not atoms.pbc.any():
        assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    if atoms.pbc.tolist() == [False, False, True]:
        assert abs(atoms.get_angular_momentum()[2]) < 1e-12


def test_a_start_in_a_line_moves_without_turning(tmp_path):
    atoms, walkers = carbon_dioxide(), conditions(tmp_path, "bussi")
    begin(atoms, walkers)
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert temperature_of(atoms, 3) > 0
