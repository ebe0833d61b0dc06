"""Ramps of temperature, pressure and restraint centres, against what mechanics and thermodynamics say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from pydantic import ValidationError

from surveyor.biases.plumed_centres import with_moving_centre
from surveyor.errors import InputError
from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.sampling.checks import checked_walkers
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.frames import independent_frames
from surveyor.sampling.integrators import MPA
from surveyor.sampling.propagation import propagate
from surveyor.sampling.samples import walker_digest
from surveyor.sampling.walkers import Walker, load_walker, make_walkers, save_walker


class Bond(Calculator):
    """A harmonic bond between two atoms."""

    implemented_properties = ("energy", "forces")
    spring_constant, length = 2.0, 3.0  # eV/Å², Å

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        vector = atoms.positions[1] - atoms.positions[0]
        excess = np.linalg.norm(vector) - self.length
        force = self.spring_constant * excess * vector / np.linalg.norm(vector)
        self.results = {"energy": self.spring_constant / 2 * excess**2, "forces": np.array([force, -force])}


VOLUME, BULK_MODULUS, SHEAR_MODULUS = 729.0, 0.1, 0.02  # Å³, eV/Å³


class ElasticBox(Calculator):
    """Atoms that feel no forces in a compressible neo-Hookean cube, whose pressure is linear in its volume."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        excess = atoms.get_volume() / VOLUME - 1
        metric = atoms.cell.array.T @ atoms.cell.array / atoms.get_volume() ** (2 / 3)
        deviator = metric - np.trace(metric) / 3 * np.eye(3)
        energy = BULK_MODULUS / 2 * excess**2 * VOLUME + SHEAR_MODULUS / 2 * VOLUME * (np.trace(metric) - 3)
        stress = BULK_MODULUS * excess * np.eye(3) + SHEAR_MODULUS * VOLUME / atoms.get_volume() * deviator
        forces = np.zeros((len(atoms), 3))
        self.results = {"energy": energy, "forces": forces, "stress": full_3x3_to_voigt_6_stress(stress)}


@dataclass(frozen=True)
class Using:
    """The potential that one calculator gives."""

    calculator: type[Calculator]

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        return evaluate_one_by_one(self, structures)


def walker_of(path: Path, structure: Atoms, **fields: Any) -> Walker:
    ase.io.write(path / "start.traj", structure)
    return make_walkers([Walkers(start=path / "start.traj", n_walkers=1, **fields)], seed=3)[0]


def bond() -> Atoms:
    length = Bond.length + 1e-6  # nothing is asked again of a structure in which no atom moves at all
    return Atoms("Ar2", positions=[[0, 0, 0], [0, 0, length]], masses=[40, 40])


PULL = {"variable": "distance", "atoms": (0, 1), "centre": 7.0, "force_constant": 5.0}
STIFFNESS = PULL["force_constant"] / (PULL["force_constant"] + Bond.spring_constant)
MOVES = {"variable": "distance(1,0)", "minimum": 3.0, "maximum": 4.0, "moves": True}
BY_STEPS = {"restraints": [PULL], "distribution": MOVES, "ramp_steps": 200}
BY_LABELS = {"restraints": [PULL], "distribution": MOVES, "ramp_by": "labels", "ramp_labels": 4}
IN_PLUMED = "UNITS LENGTH=A ENERGY=eV\nd: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=7 KAPPA=5\n"


FREQUENCY = np.sqrt((PULL["force_constant"] + Bond.spring_constant) / 20) * units.fs  # of the reduced mass, 1/fs
AT_REST = {"method": "nve", "initial_velocities": "zero", "timestep_fs": 1}


def dragged(times_fs: np.ndarray, end_fs: float) -> np.ndarray:
    """Return the length of the bond of which a restraint drags the end, from rest, at a constant speed: exact."""
    speed = STIFFNESS * (MOVES["maximum"] - MOVES["minimum"]) / end_fs
    return Bond.length + speed * times_fs - speed / FREQUENCY * np.sin(FREQUENCY * times_fs)


@pytest.mark.parametrize(
    ("bias", "checkpoint_steps"),
    [("restraints", 100), ("restraints", 7), pytest.param("plumed", 7, marks=pytest.mark.plumed)],
)
def test_a_bond_is_dragged_as_its_equation_of_motion_says(tmp_path, bias, checkpoint_steps):
    fields = {**AT_REST, "n_steps": 150, "frame_interval": 50}
    fields |= {**BY_STEPS, "distribution": {**MOVES, "variable": "d"}} if bias == "plumed" else BY_STEPS
    if bias == "plumed":
        (tmp_path / "plumed.dat").write_text(IN_PLUMED)
        fields |= {"restraints": [], "plumed": tmp_path / "plumed.dat"}
    walker = walker_of(tmp_path, bond(), **fields)
    sample = propagate(walker, Using(Bond), directory=tmp_path, name="0", checkpoint_steps=checkpoint_steps)
    name = "d" if bias == "plumed" else "distance(0,1)"
    steps, lengths = sample.observables["step"], sample.observables[name]
    assert sample.n_steps == 150
    assert np.allclose(lengths, dragged(steps, 200.0), atol=2e-4)  # by Verlet with a phase of 0.06 per step
    centres = 3 + steps / 200
    assert np.allclose(sample.observables["bias_energy"], 2.5 * (lengths - centres) ** 2, atol=1e-6)
    # The work on the bond and its restraint is the integral of the force on the moving centre.
    work = np.trapezoid(5 * (centres - lengths), centres)
    first, last = sample.observables["total_energy"][[0, -1]]
    assert last - first == pytest.approx(work, abs=2e-4)
    assert sample.walker.window == {"variable": MOVES["variable"] if bias != "plumed" else "d", "centre": 3.75}
    assert [atoms.info["window_centre"] for atoms in ase.io.read(tmp_path / "0.traj", ":")] == [3.25, 3.5, 3.75]

    after = propagate(sample.walker, Using(Bond), directory=tmp_path, name="1")
    assert after.walker.window["centre"] == 4.0  # and it stays there
    assert after.observables["bias_energy"][-1] == pytest.approx(2.5 * (after.observables[name][-1] - 4) ** 2, abs=1e-6)


@pytest.mark.parametrize("method", ["npt", pytest.param("npt_flexible", marks=pytest.mark.long)])
def test_the_volume_follows_a_pressure_that_rises(tmp_path, method):
    box = Atoms("Ar8", positions=4.5 * np.indices((2, 2, 2)).reshape(3, -1).T, cell=9 * np.eye(3), pbc=True)
    fields = {"temperature_K": 100, "timestep_fs": 4, "thermostat_time_fs": 50, "barostat_time_fs": 200}
    guards = {"min_distance_A": 0, "min_distance_factor": 0, "max_volume_factor": 5}
    ramp = {"pressure_MPa": 0, "final_pressure_MPa": 5000, "ramp_steps": 1600}
    walker = walker_of(tmp_path, box, method=method, n_steps=1600, **fields, **guards, **ramp)
    sample = propagate(walker, Using(ElasticBox), directory=tmp_path, name="0")
    steps, volumes = sample.observables["step"], sample.observables["volume_A3"]
    expected = np.array([mean_volume(5000 * step / 1600) for step in steps])
    assert expected[-1] < 0.75 * expected[0]
    # Volumes fluctuate by 1 %, and follow within about 200 fs, while they shrink by 0.4 % in that time.
    for quarter in np.split(np.arange(100), 4):
        assert volumes[quarter].mean() == pytest.approx(expected[quarter].mean(), rel=0.015)
    assert sample.walker.ramp == {"progress": 1.0, "pressure_MPa": 5000.0}


def mean_volume(pressure_MPa: float) -> float:
    """Return the mean of V^N exp(-(PV + B/2 (V - V0)²/V0)/kT), on a grid."""
    grid = np.linspace(0.5, 1.3, 4000) * VOLUME
    energies = pressure_MPa * MPA * grid + BULK_MODULUS / 2 * (grid - VOLUME) ** 2 / VOLUME
    logarithms = 8 * np.log(grid) - energies / (units.kB * 100)
    return float(np.average(grid, weights=np.exp(logarithms - logarithms.max())))


def test_temperature_is_linear_by_steps_and_in_its_inverse_by_labels(tmp_path):
    ends = {"start": tmp_path / "unused.xyz", "temperature_K": 300, "final_temperature_K": 600}
    by_steps, by_labels = Walkers(**ends, ramp_steps=100), Walkers(**ends, ramp_by="labels", ramp_labels=4)
    assert [by_steps.progress_after(n_steps=n, n_good_labels=9) for n in (0, 25, 100, 999)] == [0, 0.25, 1, 1]
    assert [by_labels.progress_after(n_steps=99, n_good_labels=n) for n in (0, 1, 4, 5)] == [0, 0.25, 1, 1]
    assert [by_steps.temperature_at(progress) for progress in (0, 0.5, 1)] == [300, 450, 600]
    # 1/300, 3/1200 = 1/400, 1/600
    assert [by_labels.temperature_at(progress) for progress in (0, 0.5, 1)] == pytest.approx([300, 400, 600])
    constant = Walkers(start=tmp_path / "unused.xyz", pressure_MPa=7)
    assert (constant.progress_after(n_steps=5, n_good_labels=5), constant.temperature_at(1)) == (0, 300)
    assert (constant.pressure_at(1), constant.has_ramp) == (7, False)


@pytest.mark.parametrize(("n_good_labels", "centre"), [(0, 3.0), (1, 3.25), (3, 3.75), (4, 4.0), (7, 4.0)])
def test_good_labels_decide_where_a_bond_is_held(tmp_path, n_good_labels, centre):
    fields = {"method": "optimisation", "fmax_eV_per_A": 1e-6, "n_steps": 100, "frame_interval": 1, **BY_LABELS}
    walker = replace(walker_of(tmp_path, bond(), **fields), n_good_labels=n_good_labels)
    sample = propagate(walker, Using(Bond), directory=tmp_path, name="0")
    again = propagate(walker, Using(Bond), directory=tmp_path, name="0")  # from its file
    balance = Bond.length + STIFFNESS * (centre - Bond.length)
    for each in (sample, again):
        assert each.structure is not None
        assert each.structure.get_distance(0, 1) == pytest.approx(balance, abs=1e-6)
        assert each.structure.info["window_centre"] == centre
        assert each.walker.n_good_labels == n_good_labels
        assert each.walker.ramp == {"progress": min(1.0, n_good_labels / 4)}
    assert all(frame.info["window_centre"] == centre for frame in independent_frames(tmp_path, "0").values())


def test_pressure_by_labels_compresses_a_cell_that_is_optimised(tmp_path):
    box = Atoms("Ar8", positions=4.5 * np.indices((2, 2, 2)).reshape(3, -1).T, cell=9 * np.eye(3), pbc=True)
    fields = {"pressure_MPa": 0, "final_pressure_MPa": 3000, "ramp_by": "labels", "ramp_labels": 3}
    walker = walker_of(tmp_path, box, method="cell_optimisation", fmax_eV_per_A=1e-5, n_steps=100, **fields)
    for n_good_labels in (0, 2):
        walker = replace(walker, n_good_labels=n_good_labels)
        sample = propagate(walker, Using(ElasticBox), directory=tmp_path, name=str(n_good_labels))
        walker = sample.walker
        expected = VOLUME * (1 - 1000 * n_good_labels * MPA / BULK_MODULUS)
        assert sample.structure.get_volume() == pytest.approx(expected, rel=1e-4)
    assert walker.ramp == {"progress": 2 / 3, "pressure_MPa": pytest.approx(2000)}


@pytest.mark.parametrize("bias", ["restraints", pytest.param("plumed", marks=pytest.mark.plumed)])
def test_a_centre_jumps_between_two_samples(tmp_path, bias):
    fields = {**AT_REST, **BY_LABELS, "n_steps": 40}
    name = "distance(0,1)"
    if bias == "plumed":
        (tmp_path / "plumed.dat").write_text(IN_PLUMED)
        plumed = {"plumed": tmp_path / "plumed.dat", "distribution": {**MOVES, "variable": "d"}}
        fields, name = {**fields, "restraints": [], **plumed}, "d"
    first = propagate(walker_of(tmp_path, bond(), **fields), Using(Bond), directory=tmp_path, name="0")
    assert np.allclose(first.observables[name], Bond.length, atol=1e-5)
    there = replace(first.walker, n_good_labels=2)
    second = propagate(there, Using(Bond), directory=tmp_path, name="1", checkpoint_steps=7)
    exact = Bond.length + STIFFNESS * 0.5 * (1 - np.cos(FREQUENCY * second.observables["step"]))
    assert np.allclose(second.observables[name], exact, atol=5e-4)


@pytest.mark.plumed
def test_plumed_holds_a_walker_where_its_good_labels_say_and_keeps_its_kernels(tmp_path):
    # A bias of at most 5 meV, which does not matter.
    (tmp_path / "plumed.dat").write_text(f"{IN_PLUMED}OPES_METAD ARG=d PACE=8 BARRIER=0.005 SIGMA=0.1 TEMP=10")
    plumed = {"plumed": tmp_path / "plumed.dat", "distribution": {**MOVES, "variable": "d"}, "restraints": []}
    fields = {"temperature_K": 10, "timestep_fs": 2, "n_steps": 300, "thermostat_time_fs": 20, **BY_LABELS, **plumed}
    walker = walker_of(tmp_path, bond(), max_temperature_factor=1000, **fields)
    assert "RESTRAINT ARG=d AT=3 KAPPA=5" in walker.plumed
    samples = []
    for n_good_labels in (0, 2):
        there = replace(walker, n_good_labels=n_good_labels)
        samples.append(propagate(there, Using(Bond), directory=tmp_path, name=f"{n_good_labels}", checkpoint_steps=70))
        walker = samples[-1].walker
    expected = [Bond.length + STIFFNESS * (centre - Bond.length) for centre in (3.0, 3.5)]
    found = [np.mean(sample.observables["d"][40:]) for sample in samples]
    assert np.allclose(found, expected, atol=0.03)  # kT at 10 K: 0.01 Å
    # Samples and segments begin in between, and no kernel is left out or laid down twice.
    times = [float(line.split()[0]) for line in walker.state.history["KERNELS"].splitlines() if line[0] != "#"]
    assert times == pytest.approx([0.002 * step for step in range(8, 601, 8)])


def test_a_reset_takes_a_walker_back_to_the_start_of_its_ramp(tmp_path):
    walker = replace(walker_of(tmp_path, bond(), n_steps=20, **BY_LABELS), n_good_labels=3)
    save_walker(tmp_path / "walker.npz", walker)
    assert load_walker(tmp_path / "walker.npz", walker.reset()).n_good_labels == 3
    assert walker_digest(walker) != walker_digest(replace(walker, n_good_labels=2))
    assert (walker.progress, walker.reset().progress) == (0.75, 0.0)

    stopped = propagate(
        replace(walker, conditions=walker.conditions.model_copy(update={"max_force_eV_per_A": 3.0})),
        Using(Bond),
        directory=tmp_path,
        name="0",
    )
    # The restraint pulls with 3.75 eV/Å where the walker begins, and with nothing at the start of the ramp.
    assert [each.reason for each in stopped.rejections] == ["force"]
    assert (stopped.walker.n_good_labels, stopped.structure.info["window_centre"]) == (0, 3.0)


def test_a_walker_of_before_has_no_good_labels(tmp_path):
    walker = walker_of(tmp_path, bond())
    save_walker(tmp_path / "walker.npz", walker)
    with np.load(tmp_path / "walker.npz") as arrays:
        older = {name: array for name, array in arrays.items() if name != "n_good_labels"}
    np.savez(tmp_path / "older.npz", **{**older, "schema_version": 3})
    assert load_walker(tmp_path / "older.npz", replace(walker, n_good_labels=1)).n_good_labels == 0


def test_all_walkers_begin_at_the_minimum_and_the_nearest_start(tmp_path):
    ase.io.write(tmp_path / "starts.extxyz", [Atoms("Ar2", positions=[[0, 0, 0], [0, 0, z]]) for z in (4.0, 3.1)])
    group = Walkers(start=tmp_path / "starts.extxyz", n_walkers=2, **BY_STEPS)
    walkers, _ = checked_walkers([group], seed=0)
    assert [walker.start.get_distance(0, 1) for walker in walkers] == [3.1, 3.1]
    assert [walker.conditions.restraints[0].centre for walker in walkers] == [3.0, 3.0]
    assert [walker.window["centre"] for walker in walkers] == [3.0, 3.0]


def test_walls_without_a_restraint_move_together_and_torsions_the_whole_way(tmp_path):
    walls = [PULL | {"kind": kind, "centre": centre} for kind, centre in (("lower_wall", 1.0), ("upper_wall", 2.0))]
    walker = walker_of(tmp_path, bond(), **{**BY_LABELS, "restraints": walls})
    assert [each.centre for each in walker.conditions.restraints] == [2.5, 3.5]
    twisted = Atoms("Ar4", positions=[[0, 3, 0], [0, 0, 0], [3, 0, 0], [3, 0, 3]])
    torsion = {"variable": "torsion", "atoms": (0, 1, 2, 3), "centre": 0, "force_constant": 1.0}
    turn = {"variable": "torsion(0,1,2,3)", "minimum": 90, "maximum": 270, "moves": True}
    walker = walker_of(tmp_path, twisted, **{**BY_LABELS, "restraints": [torsion], "distribution": turn})
    centres = [replace(walker, n_good_labels=n).window["centre"] for n in range(5)]
    assert centres == [90, 135, 180, -135, -90]


AT_TWO_PLACES = """\
d: DISTANCE ATOMS=1,2
RESTRAINT ...   # held
  LABEL=r ARG=d,e
  AT={7 1}      # AT=9
  KAPPA=5,6
...
"""


def test_a_restraint_of_plumed_becomes_one_that_moves():
    moving = with_moving_centre(AT_TWO_PLACES, "d", 3.0, 4.5, 100)
    assert moving.splitlines()[1:-1] == [
        "MOVINGRESTRAINT ...   # held",
        "  LABEL=r ARG=d,e",
        "  STEP0=0 AT0=3,1 STEP1=100 AT1=4.5,1      # AT=9",
        "  KAPPA0=5,6",
    ]
    with pytest.raises(InputError, match="found SLOPE of RESTRAINT"):
        with_moving_centre("RESTRAINT ARG=d AT=1 KAPPA=1 SLOPE=2", "d", 3.0, 4.5, 100)
    with pytest.raises(InputError, match="found no KAPPA of RESTRAINT on one line"):
        with_moving_centre("RESTRAINT ARG=d AT=1", "d", 3.0, 4.5, 100)


LABELS = {"ramp_by": "labels", "ramp_labels": 5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"final_pressure_MPa": 5, "ramp_steps": 5},
            "found final_pressure_MPa with method langevin, which has no barostat",
        ),
        ({"final_pressure_MPa": 5, "method": "npt"}, "expected final_pressure_MPa and ramp_steps together"),
        ({"final_temperature_K": 5, "ramp_by": "labels"}, "expected final_temperature_K and ramp_labels together"),
        (
            {"final_temperature_K": 5, "ramp_steps": 5, "ramp_by": "labels"},
            "found ramp_steps with ramp_by labels; expected",
        ),
        ({"final_temperature_K": 5, "ramp_labels": 5}, "found ramp_labels with ramp_by steps; expected ramp_steps"),
        ({"ramp_by": "labels"}, "expected a ramp to have an end, .*; found ramp_by: labels alone"),
        ({"ramp_steps": 5}, "found ramp_steps alone"),
        ({**LABELS, "final_temperature_K": 5, "method": "nve"}, "method nve, which has no thermostat"),
        ({**BY_STEPS, "ramp_steps": None}, "expected distribution.moves and ramp_steps together"),
        ({**BY_STEPS, "restraints": []}, "found distribution without restraints or plumed"),
        ({**BY_STEPS, "method": "optimisation"}, "found a ramp by steps with method optimisation"),
        (
            {"final_pressure_MPa": 5, "ramp_steps": 5, "method": "cell_optimisation"},
            "found a ramp by steps with method cell_optimisation",
        ),
    ],
)
def test_ramps_that_cannot_work_are_refused(tmp_path, fields, message):
    with pytest.raises(ValidationError, match=message):
        Walkers(start=tmp_path / "unused.xyz", **fields)


def test_a_centre_that_the_variable_does_not_reach_is_refused(tmp_path):
    far = {"variable": "angle(0,1,2)", "minimum": 90, "maximum": 200, "moves": True}
    angle = {"variable": "angle", "atoms": (0, 1, 2), "centre": 90, "force_constant": 1.0}
    bent = Atoms("Ar3", positions=[[3, 0, 0], [0, 0, 0], [0, 3, 0]])
    with pytest.raises(
        InputError, match=re.escape("found a centre of 200 for angle(0,1,2), expected one between 0 and")
    ):
        walker_of(tmp_path, bent, **{**BY_STEPS, "restraints": [angle], "distribution": far})


def test_a_final_temperature_without_a_thermostat_is_warned_of(tmp_path):
    ase.io.write(tmp_path / "start.extxyz", bond())
    group = Walkers(start=tmp_path / "start.extxyz", method="nve", final_temperature_K=600, ramp_steps=5)
    _, (report,) = checked_walkers([group], seed=0)
    assert "walkers[0]: final_temperature_K has no effect with method nve" in str(report)
