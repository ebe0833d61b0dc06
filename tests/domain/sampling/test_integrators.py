"""Each integrator against what statistical mechanics says, with a fixed seed."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import thermalize_momenta
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.biased import BiasedCalculator
from surveyor.biases.plumed import PlumedRun
from surveyor.biases.restraints import Restraint, evaluate_restraints
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.integrators import MPA, degrees_of_freedom, make_integrator, without_drift

TEMPERATURE_K = 300.0
KT = units.kB * TEMPERATURE_K

pytestmark = pytest.mark.slow  # its process would end alone

SHEAR_MODULUS = 0.02  # eV/Å³


class Springs(Calculator):
    """Holds each atom at the origin by a spring."""

    implemented_properties = ("energy", "forces")
    spring_constant = 2.0  # eV/Å²

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = self.spring_constant / 2 * (atoms.positions**2).sum()
        self.results["forces"] = -self.spring_constant * atoms.positions


class Morse(Calculator):
    """Morse potential between all atoms, about that of copper: anharmonic, and cheap."""

    implemented_properties = ("energy", "forces")
    depth, stiffness, distance = 0.34, 1.36, 2.87  # eV, 1/Å, Å

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        first, second = np.triu_indices(len(atoms), 1)
        vectors = atoms.positions[first] - atoms.positions[second]
        lengths = np.linalg.norm(vectors, axis=1)
        decay = np.exp(-self.stiffness * (lengths - self.distance))
        slopes = 2 * self.depth * self.stiffness * (decay - decay**2)
        pulls = (slopes / lengths)[:, np.newaxis] * vectors
        self.results["energy"] = self.depth * (decay**2 - 2 * decay).sum()
        self.results["forces"] = np.zeros((len(atoms), 3))
        np.add.at(self.results["forces"], first, -pulls)
        np.add.at(self.results["forces"], second, pulls)


class ElasticBox(Calculator):
    """Atoms that feel no forces in a cube of a compressible neo-Hookean solid.

    Its energy is B/2 (V - V0)²/V0 + G V0/2 (tr b - 3), where b is the part of the left Cauchy-Green tensor that does
    not change the volume: the distribution of volumes does not depend on G.
    """

    implemented_properties = ("energy", "forces", "stress")
    default_parameters = {"bulk_modulus": 0.0, "shear_modulus": 0.0, "volume": 1.0}  # noqa: RUF012  # as ASE declares it

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        modulus, volume = self.parameters["bulk_modulus"], self.parameters["volume"]
        excess = atoms.get_volume() - volume
        metric = atoms.cell.array.T @ atoms.cell.array / atoms.get_volume() ** (2 / 3)
        deviator = metric - np.trace(metric) / 3 * np.eye(3)
        shear = self.parameters["shear_modulus"] * volume
        self.results["energy"] = modulus / 2 * excess**2 / volume + shear / 2 * (np.trace(metric) - 3)
        self.results["forces"] = np.zeros((len(atoms), 3))
        stress = modulus * excess / volume * np.eye(3) + shear / atoms.get_volume() * deviator
        self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def conditions(tmp_path, **fields):
    return Walkers(start=tmp_path / "unused.xyz", temperature_K=TEMPERATURE_K, **fields)


def integrator_of(atoms, walkers):
    generator = np.random.default_rng(3)
    thermalize_momenta(atoms, walkers.temperature_K, rng=generator)
    return make_integrator(atoms, walkers, generator=generator, memory={})


def volumes(atoms, integrator, n_steps):
    found = []
    for _ in range(n_steps):
        integrator.step()
        found.append(atoms.get_volume())
    return np.array(found[n_steps // 10 :])


def test_langevin_obeys_equipartition_in_all_3n_degrees_of_freedom(tmp_path):
    atoms = Atoms("C8", positions=np.zeros((8, 3)), calculator=Springs())
    integrator = integrator_of(atoms, conditions(tmp_path, timestep_fs=2, thermostat_time_fs=25))
    temperatures, squares, centre = [], [], []
    for _ in range(15_000):
        integrator.step()
        temperatures.append(2 * atoms.get_kinetic_energy() / (3 * len(atoms) * units.kB))
        squares.append((atoms.positions**2).mean())
        centre.append((atoms.get_momenta().sum(axis=0) ** 2).sum() / (3 * atoms.get_masses().sum() * units.kB))
    # 30 ps at correlation times of about 25 fs: standard errors of about 1 %, and of 4 % for the centre of mass.
    assert np.isclose(np.mean(temperatures), TEMPERATURE_K, rtol=0.04)
    assert np.isclose(np.mean(squares), KT / Springs.spring_constant, rtol=0.04)
    assert np.isclose(np.mean(centre), TEMPERATURE_K, rtol=0.15)


@pytest.mark.parametrize(
    ("method", "n_fixed"), [("langevin", 0), ("langevin", 2), ("bussi", 0), ("bussi", 2), ("nose_hoover", 0)]
)
def test_thermostats_give_the_canonical_distribution_of_kinetic_energies(tmp_path, method, n_fixed):
    atoms = Octahedron("Cu", 2)
    atoms.set_constraint([FixAtoms(list(range(n_fixed)))] if n_fixed else [])
    atoms.calc = Morse()
    walkers = conditions(tmp_path, method=method, timestep_fs=5, thermostat_time_fs=40)
    # Momentum and angular momentum are zero, but for Langevin's random forces; about two fixed atoms, one rotation is.
    n_degrees = 3 * (len(atoms) - n_fixed) - (0 if method == "langevin" else 1 if n_fixed else 6)
    assert degrees_of_freedom(atoms, walkers) == n_degrees
    generator = np.random.default_rng(3)
    thermalize_momenta(atoms, walkers.temperature_K, rng=generator)
    without_drift(atoms, walkers)
    integrator = make_integrator(atoms, walkers, generator=generator, memory={})
    energies = []
    for _ in range(8_000):
        integrator.step()
        energies.append(atoms.get_kinetic_energy())
    # A gamma distribution. 40 ps at correlation times of at most 100 fs: standard errors of about 2 % and 7 %.
    assert np.isclose(np.mean(energies), n_degrees * KT / 2, rtol=0.05)
    assert np.isclose(np.var(energies), n_degrees * KT**2 / 2, rtol=0.2)
    if not n_fixed and method != "langevin":
        assert np.allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-8)
        assert np.allclose(atoms.get_angular_momentum(), 0, atol=1e-6)


def test_constant_energy_drifts_with_the_square_of_the_time_step(tmp_path):
    fluctuations = []
    for timestep_fs in (4, 2):
        atoms = Octahedron("Cu", 2)
        atoms.calc = EMT()
        integrator = integrator_of(atoms, conditions(tmp_path, method="nve", timestep_fs=timestep_fs))
        energies = []
        for _ in range(4000 // timestep_fs):
            integrator.step()
            energies.append(atoms.get_total_energy())
        assert np.ptp(energies) / len(atoms) < 2e-3
        fluctuations.append(np.std(energies))
    assert 3 < fluctuations[0] / fluctuations[1] < 5


N_GAS, GAS_PRESSURE_MPA = 8, 100.0
GAS_VOLUME = (N_GAS + 1) * KT / (GAS_PRESSURE_MPA * MPA)  # the mean of an ideal gas


def gas(**moduli):
    atoms = Atoms(f"Ar{N_GAS}", positions=np.zeros((N_GAS, 3)), cell=np.eye(3) * GAS_VOLUME ** (1 / 3), pbc=True)
    atoms.calc = ElasticBox(shear_modulus=SHEAR_MODULUS, volume=GAS_VOLUME, **moduli)
    return atoms


def check_volumes(tmp_path, atoms, method, bulk_modulus):
    """Check that volumes are distributed as V^N exp(-(PV + B/2 (V - V0)²/V0)/kT), integrated on a grid."""
    fields = {"timestep_fs": 2, "thermostat_time_fs": 20, "barostat_time_fs": 100, "pressure_MPa": GAS_PRESSURE_MPA}
    sampled = volumes(atoms, integrator_of(atoms, conditions(tmp_path, method=method, **fields)), 20_000)
    grid = np.linspace(1, 8 * GAS_VOLUME, 20_000)
    energies = GAS_PRESSURE_MPA * MPA * grid + bulk_modulus / 2 * (grid - GAS_VOLUME) ** 2 / GAS_VOLUME
    logarithms = N_GAS * np.log(grid) - energies / KT
    weights = np.exp(logarithms - logarithms.max())
    mean = np.average(grid, weights=weights)
    variance = np.average((grid - mean) ** 2, weights=weights)
    # About 300 independent volumes: standard errors of at most 2 % and 8 %. V^(N-1) would lower the first mean by 11 %.
    assert np.isclose(sampled.mean(), mean, rtol=0.06)
    assert np.isclose(sampled.var(), variance, rtol=0.3)


@pytest.mark.parametrize(
    ("bulk_modulus", "method"),
    [
        pytest.param(0.0, "npt", id="ideal gas-npt", marks=pytest.mark.long),
        pytest.param(0.0, "npt_flexible", id="ideal gas-npt_flexible", marks=pytest.mark.long),
        pytest.param(0.005, "npt", id="elastic box-npt", marks=pytest.mark.long),
        pytest.param(0.005, "npt_flexible", id="elastic box-npt_flexible"),
    ],
)
def test_constant_pressure_gives_the_exact_distribution_of_volumes(tmp_path, bulk_modulus, method):
    check_volumes(tmp_path, gas(bulk_modulus=bulk_modulus), method, bulk_modulus)


@pytest.mark.long
def test_a_restraint_on_the_volume_acts_as_a_bulk_modulus(tmp_path):
    atoms, modulus = gas(), 0.005
    restraint = Restraint(variable="volume", centre=GAS_VOLUME, force_constant=modulus / GAS_VOLUME)
    atoms.calc = BiasedCalculator(atoms.calc, [lambda atoms, _: evaluate_restraints([restraint], atoms)])
    check_volumes(tmp_path, atoms, "npt_flexible", modulus)


@pytest.mark.plumed
def test_plumed_acts_on_the_volume_at_constant_pressure(tmp_path):
    atoms, modulus = gas(), 0.005
    text = f"UNITS LENGTH=A ENERGY=eV\nv: VOLUME\nRESTRAINT ARG=v AT={GAS_VOLUME} KAPPA={modulus / GAS_VOLUME}"
    run = PlumedRun(text, atoms, timestep_fs=2, temperature_K=TEMPERATURE_K, files={}, history={})
    atoms.calc = BiasedCalculator(atoms.calc, [lambda atoms, energy: run.evaluate(atoms, step=0, energy=energy)])
    check_volumes(tmp_path, atoms, "npt", modulus)
    run.close()


def test_constant_pressure_compresses_copper_as_its_stress_says(tmp_path):
    pressure_MPa = 5000.0
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()

    def pressure_at(volume):
        static = atoms.copy()
        static.calc = EMT()
        static.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
        return -static.get_stress()[:3].mean()

    grid = np.linspace(0.9, 1.05, 31) * atoms.get_volume()
    pressures = np.array([pressure_at(volume) for volume in grid])
    expected, unloaded = np.interp([-pressure_MPa * MPA, 0], -pressures, grid)
    fields = {"timestep_fs": 4, "thermostat_time_fs": 50, "barostat_time_fs": 600, "pressure_MPa": pressure_MPa}
    walkers = conditions(tmp_path, method="npt", **fields).model_copy(update={"temperature_K": 60.0})

    sampled = volumes(atoms, integrator_of(atoms, walkers), 1500)

    # The static estimate leaves out that copper expands by 0.3 % at 60 K; the pressure compresses it by ten times that.
    assert unloaded / expected > 1.03
    assert np.isclose(sampled.mean(), expected, rtol=0.006)


@pytest.mark.long
def test_a_flexible_cell_has_thermal_shear_and_keeps_its_atoms_at_the_temperature(tmp_path):
    atoms = Atoms("Ar8", positions=np.zeros((8, 3)), cell=np.eye(3) * 9, pbc=True)
    atoms.calc = calculator = ElasticBox(bulk_modulus=0.1, shear_modulus=SHEAR_MODULUS, volume=atoms.get_volume())
    fields = {"timestep_fs": 2, "thermostat_time_fs": 20, "barostat_time_fs": 100}
    integrator = integrator_of(atoms, conditions(tmp_path, method="npt_flexible", **fields))
    shear, temperatures = [], []
    for _ in range(20_000):
        integrator.step()
        excess = atoms.get_volume() - calculator.parameters["volume"]
        volumetric = 0.1 / 2 * excess**2 / calculator.parameters["volume"]
        shear.append(atoms.get_potential_energy() - volumetric)
        temperatures.append(atoms.get_temperature())
    # Five shears, each with kT/2 as long as they are small.
    assert np.isclose(np.mean(shear), 5 / 2 * KT, rtol=0.1)
    assert np.isclose(np.mean(temperatures), TEMPERATURE_K, rtol=0.05)


def test_a_flexible_cell_follows_an_uneven_stress(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * [1.04, 1, 0.98], scale_atoms=True)
    atoms.calc = EMT()
    fields = {"timestep_fs": 4, "thermostat_time_fs": 50, "barostat_time_fs": 300}
    walkers = conditions(tmp_path, method="npt_flexible", **fields).model_copy(update={"temperature_K": 20.0})
    integrator = integrator_of(atoms, walkers)
    lengths = []
    for _ in range(1500):
        integrator.step()
        lengths.append(atoms.cell.lengths())
    assert np.allclose(np.mean(lengths[500:], axis=0), atoms.cell.lengths().mean(), rtol=0.01)
