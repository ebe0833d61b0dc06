import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.constraints import FixAtoms

from surveyor.biases.plumed import PlumedRun
from surveyor.errors import InputError
from surveyor.events.kinds import Rejected, Sampled, TryRejected
from surveyor.events.log import EventLog, of_kind
from surveyor.events.recording import reporting
from surveyor.potentials import UNCERTAINTY, evaluate_one_by_one
from surveyor.sampling import segments
from surveyor.sampling.conditions import UNDER_BAROSTAT, Walkers
from surveyor.sampling.frames import independent_frames
from surveyor.sampling.integrators import MPA
from surveyor.sampling.propagation import propagate
from surveyor.sampling.states import state_at_start
from surveyor.sampling.walkers import Rejection, load_walker, make_walkers, save_walker, walker_to_arrays
from surveyor.structures import canonical
from surveyor.testing.calculators import CalculatorPotential

EMT_POTENTIAL = CalculatorPotential("ase.calculators.emt.EMT")


@dataclass(frozen=True)
class Using:
    """The potential that one calculator of a test gives."""

    make: Callable[[], Calculator]

    def calculator(self):
        return self.make()

    def evaluate(self, structures):
        return evaluate_one_by_one(self, structures)


def unused():
    raise AssertionError("a finished sample needs no potential")


class CountingEMT(EMT):
    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def calculate(self, *args, **kwargs):
        self.n_calls += 1
        super().calculate(*args, **kwargs)


class Wrong(Calculator):
    """Forces that no structure has, from some call on; before that, none."""

    implemented_properties = ("energy", "forces")

    def __init__(self, forces, *, first=1, last=10**9):
        super().__init__()
        self.wrong_forces, self.first, self.last, self.n_calls = forces, first, last, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n_calls += 1
        is_wrong = self.first <= self.n_calls <= self.last
        forces = self.wrong_forces(atoms) if is_wrong else np.zeros((len(atoms), 3))
        self.results = {"energy": 0.0, "forces": forces}


def towards_the_first_atom(atoms):
    return 20 * (atoms.positions[0] - atoms.positions)


def same(force):
    return lambda atoms: np.full((len(atoms), 3), force)


def walker_of(tmp_path, structure, **fields):
    path = tmp_path / "start.traj"  # this format keeps constraints
    ase.io.write(path, structure)
    settings = {"n_walkers": 1, "timestep_fs": 3, "n_steps": 20, **fields}
    return make_walkers([Walkers(start=path, **settings)], seed=11)[0]


def copper(tmp_path, **fields):
    return walker_of(tmp_path, bulk("Cu", cubic=True), **fields)


def assert_same_walker(one, other):
    arrays, others = walker_to_arrays(one), walker_to_arrays(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert np.array_equal(array, others[name]), name


def assert_same_sample(one, other):
    assert_same_walker(one.walker, other.walker)
    assert one.structure == other.structure
    assert (one.n_steps, one.temperature_K, one.rejections) == (other.n_steps, other.temperature_K, other.rejections)
    assert one.observables.keys() == other.observables.keys()
    for name, values in one.observables.items():
        assert np.array_equal(values, other.observables[name]), name


def test_a_sample_is_canonical_and_its_walker_has_moved(tmp_path):
    walker = copper(tmp_path)
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert (sample.structure.positions == canonical(sample.structure).positions).all()
    assert sample.structure == sample.walker.structure
    assert sample.structure.calc is None
    assert "momenta" not in sample.structure.arrays
    assert np.abs(sample.structure.positions - walker.start.positions).max() > 1e-3
    assert (sample.n_steps, sample.walker.state.n_steps, len(sample.temperatures_K)) == (20, 20, 20)
    assert sample.temperature_K == sample.temperatures_K.mean()


@pytest.mark.parametrize("method", ["langevin", "npt", "perturbation"])
def test_a_finished_sample_is_returned_without_any_work(tmp_path, method):
    walker = copper(tmp_path, method=method)
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert_same_sample(propagate(walker, Using(unused), directory=tmp_path, name="0"), first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "start.traj"]


def test_a_sample_without_a_structure_is_finished_too(tmp_path):
    walker = copper(tmp_path)
    failed = propagate(walker, Using(lambda: Wrong(same(100))), directory=tmp_path, name="0", n_tries=2)
    again = propagate(walker, Using(unused), directory=tmp_path, name="0", n_tries=2)
    assert failed.structure is again.structure is None
    assert failed.rejections == again.rejections


@pytest.mark.parametrize("change", [{"seed": 1}, {"n_resets": 1}, {"conditions": {"temperature_K": 310.0}}])
def test_the_sample_of_another_propagation_is_refused(tmp_path, change):
    walker = copper(tmp_path, method="perturbation")
    propagate(walker, None, directory=tmp_path, name="0")
    if "conditions" in change:
        change = {"conditions": walker.conditions.model_copy(update=change["conditions"])}
    with pytest.raises(ValueError, match="is no sample of walker 0"):
        propagate(replace(walker, **change), None, directory=tmp_path, name="0")


KILLED = """
import os, signal, sys
from pathlib import Path
from ase.calculators.emt import EMT
from surveyor.sampling.propagation import propagate
from surveyor.sampling.conditions import UNDER_BAROSTAT, Walkers
from surveyor.sampling.frames import independent_frames
from surveyor.sampling.walkers import make_walkers

class Fatal(EMT):
    n_left = int(sys.argv[3])

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        Fatal.n_left -= 1
        if Fatal.n_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

class Potential:
    calculator = Fatal

walker = make_walkers([Walkers.model_validate_json(sys.argv[1])], seed=11)[0]
propagate(walker, Potential(), directory=Path(sys.argv[2]), name="0", checkpoint_steps=10)
"""


PULL = {"variable": "distance", "atoms": (0, 3), "centre": 3.0, "force_constant": 20.0}
METHODS = ["langevin", "bussi", "nose_hoover", "nve", "npt", "npt_flexible", "optimisation", "cell_optimisation"]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_propagation_continues_bit_for_bit(tmp_path, method):
    settings = {"frame_interval": 3, "fmax_eV_per_A": 1e-9, "final_temperature_K": 400, "ramp_steps": 100}
    if method in METHODS[:6]:
        distribution = {"variable": "distance(0,3)", "minimum": 2.5, "maximum": 3.0, "moves": True}
        settings |= {"restraints": [PULL], "distribution": distribution}
    if method in UNDER_BAROSTAT:
        settings["final_pressure_MPa"] = 5000
    structure = bulk("Cu", a=3.75, cubic=True)
    structure.rattle(0.05, seed=1)
    walker = walker_of(tmp_path, structure, method=method, n_steps=60, **settings)
    undisturbed = propagate(walker, EMT_POTENTIAL, directory=tmp_path / "undisturbed", name="0", checkpoint_steps=10)

    # In the first segment, in the third, and in the fifth.
    for n_calls in (5, 27, 27) if method in ("langevin", "npt") else (27,):
        arguments = [
            sys.executable,
            "-c",
            KILLED,
            walker.conditions.model_dump_json(),
            str(tmp_path / "killed"),
            str(n_calls),
        ]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    calculator = CountingEMT()
    resumed = propagate(walker, Using(lambda: calculator), directory=tmp_path / "killed", name="0", checkpoint_steps=10)

    if method in ("langevin", "npt"):
        assert calculator.n_calls == 22  # two segments of 10 steps and the forces at the beginning of each
    assert_same_sample(resumed, undisturbed)
    frames, expected = (ase.io.read(tmp_path / each / "0.traj", ":") for each in ("killed", "undisturbed"))
    assert [frame.info["step"] for frame in frames] == list(range(3, 61, 3))
    assert frames == expected
    for frame, other in zip(frames, expected, strict=True):
        assert frame.info == other.info
        assert np.array_equal(frame.get_forces(), other.get_forces())


def test_two_short_propagations_equal_a_long_one(tmp_path):
    walker = copper(tmp_path, n_steps=20)
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="first")
    save_walker(tmp_path / "walker.npz", first.walker)
    restored = load_walker(tmp_path / "walker.npz", walker)
    second = propagate(restored, EMT_POTENTIAL, directory=tmp_path, name="second")

    long = copper(tmp_path, n_steps=40)
    both = propagate(long, EMT_POTENTIAL, directory=tmp_path, name="both", checkpoint_steps=20)
    assert_same_walker(second.walker, both.walker)


@pytest.mark.parametrize("method", METHODS[:6])
def test_segments_equal_one_run(tmp_path, method):
    walker = copper(tmp_path, n_steps=20, method=method, barostat_time_fs=150)
    whole = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="whole", checkpoint_steps=20)
    parts = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="parts", checkpoint_steps=3)
    np.testing.assert_allclose(parts.structure.positions, whole.structure.positions, atol=2e-8)
    np.testing.assert_allclose(parts.walker.state.momenta, whole.walker.state.momenta, atol=1e-10)


@pytest.mark.parametrize(
    ("reason", "calculator"),
    [
        ("force", lambda: Wrong(same(25))),
        ("not_finite", lambda: Wrong(same(np.nan), first=4)),
        ("distance", lambda: Wrong(towards_the_first_atom)),
        ("temperature", lambda: Wrong(same(10))),
    ],
)
def test_each_guard_stops_a_walker_on_a_wrong_potential(tmp_path, reason, calculator):
    argon = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    settings = {"max_force_eV_per_A": 40.0, "max_temperature_factor": 1e6 if reason == "distance" else 5.0}
    walker = walker_of(tmp_path, argon, n_steps=300, timestep_fs=1, thermostat_time_fs=1000, **settings)
    events = EventLog(tmp_path / "events.jsonl")
    with reporting(events):
        sample = propagate(walker, Using(calculator), directory=tmp_path, name="0", n_tries=3)
    assert [rejection.reason for rejection in sample.rejections] == [reason] * 3
    *tries, last = events.read()[0]
    assert isinstance(last, Rejected)
    assert [(each.name, each.reason) for each in of_kind(tries, TryRejected)] == [("0", reason)] * 3
    assert "0: try 2 was stopped by a guard: 1 x " in tries[1].message
    assert sample.structure is None
    assert sample.temperature_K is None
    assert (sample.walker.n_resets, sample.walker.state, sample.walker.seed) == (3, None, walker.seed + 3)


class Bond(Calculator):
    """A spring between two atoms, as stiff as that of hydrogen."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        bond = atoms.positions[1] - atoms.positions[0]
        length = np.linalg.norm(bond)
        pull = 35 * (length - 0.74) * bond / length
        self.results = {"energy": 17.5 * (length - 0.74) ** 2, "forces": np.array([pull, -pull])}


@pytest.mark.parametrize("method", ["bussi", "langevin"])
def test_hydrogen_at_its_temperature_is_not_too_hot(tmp_path, method):
    hydrogen = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    walker = walker_of(tmp_path, hydrogen, method=method, timestep_fs=0.5, thermostat_time_fs=10, n_steps=300)
    walkers = [replace(walker, seed=1000 * number) for number in range(8)]
    samples = [propagate(each, Using(Bond), directory=tmp_path, name=str(each.seed)) for each in walkers]
    assert [rejection for sample in samples for rejection in sample.rejections] == []
    if method == "bussi":  # two and more times five would be improbable for many atoms
        assert max(sample.temperatures_K.max() for sample in samples) > 5 * 300


def test_after_a_reset_the_walker_begins_at_its_start_with_another_seed(tmp_path):
    walker = copper(tmp_path, thermostat_time_fs=30)
    one_bad_moment = Using(lambda: Wrong(same(100), first=7, last=7))
    sample = propagate(walker, one_bad_moment, directory=tmp_path, name="disturbed")
    directly = propagate(walker.reset(), Using(lambda: Wrong(same(0))), directory=tmp_path, name="direct")
    (rejection,) = sample.rejections
    assert (rejection.reason, rejection.step) == ("force", 6)
    assert_same_sample(replace(sample, rejections=()), directly)


def test_the_mean_temperature_of_a_cluster_is_that_of_its_thermostat(tmp_path):
    walker = walker_of(tmp_path, Octahedron("Cu", 2), timestep_fs=5, thermostat_time_fs=50, n_steps=4000)
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    # 100 temperatures, 200 fs apart, of 18 degrees of freedom: a standard error of 3.3 %.
    assert len(sample.temperatures_K) == 100
    assert np.isclose(sample.temperature_K, 300, rtol=0.1)


def test_atoms_that_the_start_fixes_stay_and_the_sample_is_free(tmp_path):
    start = Octahedron("Cu", 2)
    start.set_constraint(FixAtoms([0, 3]))
    sample = propagate(walker_of(tmp_path, start), EMT_POTENTIAL, directory=tmp_path, name="0")
    moved = np.abs(sample.structure.positions - canonical(start).positions).max(axis=1) > 1e-6
    assert moved.tolist() == [False, True, True, False, True, True]
    assert not sample.structure.constraints


def test_perturbations_need_no_potential_and_differ(tmp_path):
    walker = walker_of(tmp_path, molecule("H2O"), method="perturbation")
    first = propagate(walker, None, directory=tmp_path, name="first")
    second = propagate(first.walker, None, directory=tmp_path, name="second")
    assert not np.allclose(first.structure.positions, second.structure.positions)
    assert np.abs(second.structure.positions - walker.start.positions).max() < 0.3  # both around the start


def test_perturbations_that_bring_atoms_together_are_rejected(tmp_path):
    dense = Atoms("H20", positions=np.arange(20)[:, None] * [0.75, 0, 0])
    walker = walker_of(tmp_path, dense, method="perturbation", amplitude_A=0.2, min_distance_A=0.7)
    sample = propagate(walker, None, directory=tmp_path, name="0", n_tries=4)
    assert [rejection.reason for rejection in sample.rejections] == ["distance"] * 4


def test_molecular_dynamics_without_a_potential_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a potential"):
        propagate(copper(tmp_path), None, directory=tmp_path, name="0")


def test_one_line_is_logged_per_finished_sample(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="surveyor.sampling"):
        propagate(copper(tmp_path), EMT_POTENTIAL, directory=tmp_path, name="0")
    (record,) = caplog.records
    assert record.getMessage().startswith("0: 20 steps at")
    assert (type(record.event), record.event.walker) == (Sampled, 0)


class Constant(Calculator):
    """The same stress, and the same uncertainty of all forces, for all structures; forces that do no work."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, *, energies=(0.0,), pressure=0.0, uncertainties=(0.0,)):
        super().__init__()
        self.energies, self.pressure, self.uncertainties, self.n_calls = energies, pressure, uncertainties, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        energy = self.energies[min(self.n_calls, len(self.energies) - 1)]
        uncertainty = self.uncertainties[min(self.n_calls, len(self.uncertainties) - 1)]
        self.n_calls += 1
        self.results = {
            "energy": energy,
            "forces": np.zeros((len(atoms), 3)),
            "stress": -self.pressure * np.array([1, 1, 1, 0, 0, 0]),
            UNCERTAINTY: np.full(len(atoms), uncertainty),
        }


@pytest.mark.parametrize("method", ["npt", "npt_flexible"])
def test_a_walker_that_swells_is_stopped(tmp_path, method):
    walker = copper(tmp_path, method=method, barostat_time_fs=150, n_steps=2000, max_volume_factor=1.1)
    sample = propagate(walker, Using(lambda: Constant(pressure=0.05)), directory=tmp_path, name="0", n_tries=2)
    assert [rejection.reason for rejection in sample.rejections] == ["volume"] * 2
    assert all(rejection.value > rejection.limit == 1.1 for rejection in sample.rejections)


def test_energy_that_is_not_conserved_stops_a_walker(tmp_path):
    leaking = Using(lambda: Constant(energies=[0.0] * 8 + [0.1]))
    walker = walker_of(tmp_path, Octahedron("Cu", 2), method="nve", n_steps=20, timestep_fs=1)
    sample = propagate(walker, leaking, directory=tmp_path, name="0", n_tries=1)
    (rejection,) = sample.rejections
    assert (rejection.reason, rejection.step, rejection.limit) == ("energy_drift", 8, 10.0)
    assert rejection.value == pytest.approx(1e3 * 0.1 / 6)


def test_a_walker_stops_where_the_members_of_a_committee_disagree(tmp_path):
    disagreeing = Using(lambda: Constant(uncertainties=[0.1] * 7 + [0.9]))
    walker = walker_of(tmp_path, Octahedron("Cu", 2), n_steps=20)
    sample = propagate(walker, disagreeing, directory=tmp_path, name="0")
    assert (sample.stop.reason, sample.stop.step, sample.stop.value, sample.stop.limit) == ("uncertainty", 7, 900, 500)
    assert sample.n_steps == sample.walker.state.n_steps == 7  # and it goes on from there
    assert sample.structure == sample.walker.structure
    again = propagate(walker, Using(unused), directory=tmp_path, name="0")
    assert again.stop == sample.stop


def test_the_limit_follows_the_error_of_the_potential_and_is_recorded_while_the_walker_keeps_its_conditions(tmp_path):
    @dataclass(frozen=True)
    class Sloppy(Using):
        typical_error: float = 0.25  # eV/Å

    uncertain = Sloppy(lambda: Constant(uncertainties=[0.1] * 7 + [0.9]))
    walker = walker_of(tmp_path, Octahedron("Cu", 2), n_steps=20, max_uncertainty_meV_per_A="auto")
    sample = propagate(walker, uncertain, directory=tmp_path, name="0")
    assert (sample.stop.value, sample.stop.limit, sample.max_uncertainty_meV_per_A) == (900, 750, 750)
    again = propagate(walker, Using(unused), directory=tmp_path, name="0")
    assert again.max_uncertainty_meV_per_A == 750
    assert again.walker.conditions == sample.walker.conditions == walker.conditions  # automatic in the next generation
    sloppier = Sloppy(lambda: Constant(uncertainties=[0.1] * 7 + [0.9]), typical_error=0.5)
    sample = propagate(walker, sloppier, directory=tmp_path, name="1")
    assert (sample.stop, sample.max_uncertainty_meV_per_A) == (None, 1500)


def test_what_a_stopped_walker_brings_has_passed_all_guards(tmp_path):
    argon = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])

    class Drawing(Constant):  # together, so that they are too close when they disagree
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["forces"] = 20 * (atoms.positions[::-1] - atoms.positions)

    settings = {"timestep_fs": 1, "n_steps": 100, "max_temperature_factor": 1e6, "min_distance_A": 1.1}
    walker = walker_of(tmp_path, argon, initial_velocities="zero", min_distance_factor=0, **settings)
    disagreeing = Using(lambda: Drawing(uncertainties=[0.1] * 7 + [0.9]))
    sample = propagate(walker, disagreeing, directory=tmp_path, name="0", n_tries=1)
    assert [(rejection.reason, rejection.step) for rejection in sample.rejections] == [("distance", 7)]


def test_a_walker_that_begins_where_they_disagree_goes_on_until_they_agree_and_disagree_again(tmp_path):
    disagreeing = Using(lambda: Constant(uncertainties=[0.9] * 4 + [0.1] * 3 + [0.9]))
    walker = walker_of(tmp_path, Octahedron("Cu", 2), n_steps=20)
    sample = propagate(walker, disagreeing, directory=tmp_path, name="0", checkpoint_steps=3)
    assert (sample.stop.reason, sample.n_steps) == ("uncertainty", 6)  # each segment computes its beginning again


def test_a_walker_whose_time_is_up_brings_what_it_has_and_says_so(tmp_path, caplog):
    walker = copper(tmp_path, max_wall_time_minutes=1e-9)
    with caplog.at_level(logging.INFO, logger="surveyor.sampling"):
        sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert (sample.stop.reason, sample.n_steps, sample.walker.state.n_steps) == ("wall_time", 1, 1)
    assert ": 1 step at" in caplog.records[0].getMessage()
    assert "ended early by its guard of wall time" in caplog.records[0].getMessage()


def test_the_last_good_structure_of_a_rejected_try_is_kept(tmp_path):
    walker = copper(tmp_path, thermostat_time_fs=30)
    propagate(walker, Using(lambda: Wrong(same(100), first=7, last=7)), directory=tmp_path, name="0")
    short = copper(tmp_path, thermostat_time_fs=30, n_steps=5)
    before = propagate(short, Using(lambda: Wrong(same(0))), directory=tmp_path, name="short")
    kept = ase.io.read(tmp_path / "0.rejected.extxyz")
    assert np.allclose(kept.positions, before.structure.positions, atol=1e-7)
    rejection = Rejection(**json.loads(kept.info["rejection"]))
    assert (rejection.reason, rejection.step, rejection.limit) == ("force", 6, 40.0)


def test_observables_are_recorded_along_the_way(tmp_path):
    sample = propagate(copper(tmp_path, method="npt", n_steps=250), EMT_POTENTIAL, directory=tmp_path, name="0")
    found = sample.observables
    assert found.keys() == {"step", "temperature_K", "potential_energy", "total_energy", "pressure_MPa", "volume_A3"}
    assert found["step"].tolist() == list(range(3, 250, 3))
    assert (found["total_energy"] > found["potential_energy"]).all()
    assert not (tmp_path / "0.traj").exists()


@pytest.mark.parametrize("method", ["langevin", "bussi", "nose_hoover", "npt"])
def test_a_ramp_goes_on_over_propagations_and_begins_again_after_a_reset(tmp_path, method):
    settings = {"temperature_K": 50, "final_temperature_K": 600, "ramp_steps": 1500, "thermostat_time_fs": 30}
    structure = bulk("Cu", cubic=True)
    walker = walker_of(tmp_path, structure, method=method, n_steps=1000, max_temperature_factor=20, **settings)
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="first")
    second = propagate(first.walker, EMT_POTENTIAL, directory=tmp_path, name="second")
    assert walker.conditions.temperature_at(0.5) == 325
    # 20 temperatures of 12 degrees of freedom: standard errors of about 10 %.
    assert np.isclose(first.temperatures_K[40:60].mean(), 233, rtol=0.3)
    assert np.isclose(second.temperatures_K[60:].mean(), 600, rtol=0.25)
    assert first.walker.reset().state is None


def test_an_optimisation_finds_the_lattice_constant(tmp_path):
    def energy(a):
        return EMT().get_potential_energy(bulk("Cu", a=a, cubic=True))

    lattice_constants = np.linspace(3.5, 3.7, 41)
    fitted = np.polynomial.Polynomial.fit(lattice_constants, [energy(a) for a in lattice_constants], 6)
    minimum = min((root.real for root in fitted.deriv().roots() if 3.5 < root.real < 3.7), key=fitted)
    start = bulk("Cu", a=3.8, cubic=True)
    start.rattle(0.05, seed=3)
    walker = walker_of(tmp_path, start, method="cell_optimisation", n_steps=200, fmax_eV_per_A=1e-4, pressure_MPa=0)
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert sample.is_converged
    assert sample.n_steps < 200
    assert sample.structure.get_volume() ** (1 / 3) == pytest.approx(minimum, abs=1e-4)
    assert sample.temperature_K is None


def test_outer_pressure_compresses_what_is_optimised_until_it_is_balanced(tmp_path):
    settings = {"method": "cell_optimisation", "n_steps": 200, "fmax_eV_per_A": 1e-4, "pressure_MPa": 5000}
    sample = propagate(copper(tmp_path, **settings), EMT_POTENTIAL, directory=tmp_path, name="0")
    compressed = sample.structure
    compressed.calc = EMT()
    assert -compressed.get_stress()[:3].mean() / MPA == pytest.approx(5000, abs=5)


def test_an_optimisation_that_runs_out_of_steps_says_so(tmp_path, caplog):
    start = bulk("Cu", cubic=True)
    start.rattle(0.1, seed=3)
    walker = walker_of(tmp_path, start, method="optimisation", n_steps=2, fmax_eV_per_A=1e-6)
    with caplog.at_level(logging.INFO, logger="surveyor.sampling"):
        sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert (sample.is_converged, sample.n_steps) == (False, 2)
    assert "not converged" in caplog.records[0].getMessage()


def test_velocities_are_those_that_the_start_has(tmp_path):
    start = Octahedron("Cu", 2)
    start.set_momenta(np.random.default_rng(1).normal(size=(6, 3)))
    walker = walker_of(tmp_path, start, method="langevin", initial_velocities="given")
    assert np.array_equal(state_at_start(walker).momenta, start.get_momenta())
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    assert "momenta" not in sample.structure.arrays
    assert not state_at_start(walker_of(tmp_path, start, initial_velocities="zero")).momenta.any()


def test_restraints_hold_a_walker_and_their_variables_are_recorded(tmp_path):
    restraint = {"variable": "distance", "atoms": (0, 3), "centre": 4.0, "force_constant": 20.0}
    settings = {"method": "optimisation", "n_steps": 100}
    free = propagate(walker_of(tmp_path, Octahedron("Cu", 2), **settings), EMT_POTENTIAL, directory=tmp_path, name="0")
    walker = walker_of(tmp_path, Octahedron("Cu", 2), restraints=[restraint], **settings)
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="1")
    held, unheld = (each.structure.get_distance(0, 3) for each in (sample, free))
    assert abs(held - 4.0) < abs(unheld - 4.0) / 2
    assert sample.observables["distance(0,3)"][-1] == pytest.approx(held, abs=1e-6)
    assert sample.observables["bias_energy"][-1] == pytest.approx(10 * (held - 4.0) ** 2, abs=1e-5)


PULL_BY_PLUMED = "UNITS LENGTH=A ENERGY=eV\nd: DISTANCE ATOMS=1,4\nRESTRAINT ARG=d AT=3 KAPPA=20"


@pytest.mark.parametrize(
    ("bias", "method"),
    [
        ("restraints", "langevin"),
        ("restraints", "npt"),
        ("restraints", "optimisation"),
        pytest.param("plumed", "npt", marks=pytest.mark.plumed),
    ],
)
def test_frames_have_the_energies_of_the_potential_and_the_bias_beside_them(tmp_path, bias, method):
    (tmp_path / "plumed.dat").write_text(PULL_BY_PLUMED)
    fields = {"restraints": [PULL]} if bias == "restraints" else {"plumed": tmp_path / "plumed.dat"}
    propagate(copper(tmp_path, method=method, frame_interval=5, **fields), EMT_POTENTIAL, directory=tmp_path, name="0")
    frames = ase.io.read(tmp_path / "0.traj", ":")
    assert len(frames) >= 2
    for frame in frames:
        length = frame.get_distance(0, 3, mic=True)
        assert frame.info["bias_energy"] == pytest.approx(
            10 * (length - 3) ** 2, rel=1e-6
        )  # ASE and PLUMED differ in kJ/mol
        expected = frame.copy()
        expected.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-10)
        assert frame.info["potential_energy"] == pytest.approx(frame.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(frame.get_forces(), expected.get_forces(), atol=1e-10)
        np.testing.assert_allclose(frame.get_stress(), expected.get_stress(), atol=1e-12)


def test_a_window_is_in_what_its_walker_brings(tmp_path):
    distribution = {"variable": "distance(3,0)", "minimum": 2.5, "maximum": 3.0}
    walker = copper(tmp_path, restraints=[PULL], distribution=distribution, frame_interval=10)
    expected = {"window_variable": "distance(3,0)", "window_centre": 2.5}
    sample = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    again = propagate(walker, Using(unused), directory=tmp_path, name="0")  # from its file
    frames = [*ase.io.read(tmp_path / "0.traj", ":"), *independent_frames(tmp_path, "0").values()]
    for atoms in (sample.structure, again.structure, *frames):
        assert atoms.info.items() >= expected.items()


@pytest.mark.plumed
def test_hills_and_collective_variables_are_plain_files(tmp_path):
    (tmp_path / "plumed.dat").write_text(METAD)
    walker = copper(tmp_path, plumed=tmp_path / "plumed.dat")
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")
    second = propagate(first.walker, EMT_POTENTIAL, directory=tmp_path, name="1")
    assert (tmp_path / "1.HILLS").read_text() == second.walker.state.history["HILLS"]
    header, *rows = (tmp_path / "1.COLVAR").read_text().splitlines()
    assert header == "#! FIELDS time bias_energy d"
    columns = np.array([row.split() for row in rows], dtype=float).T
    assert columns[0] == pytest.approx(np.arange(21, 41) * 0.003)  # ps, on from the first sample
    assert columns[1] == pytest.approx(second.observables["bias_energy"], rel=1e-8)
    assert columns[2] == pytest.approx(second.observables["d"], rel=1e-8)


def test_walkers_without_a_bias_leave_no_files_of_one(tmp_path):
    propagate(copper(tmp_path), EMT_POTENTIAL, directory=tmp_path, name="0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.npz", "start.traj"]


METAD = "d: DISTANCE ATOMS=1,4\nm: METAD ARG=d PACE=4 HEIGHT=2 SIGMA=0.02\n"


def hills_of(walker):
    return [line for line in walker.state.history["HILLS"].splitlines() if not line.startswith("#!")]


@pytest.mark.plumed
@pytest.mark.parametrize("method", ["langevin", "npt"])
def test_hills_belong_to_the_walker(tmp_path, method):
    (tmp_path / "plumed.dat").write_text(METAD)
    walker = copper(tmp_path, method=method, plumed=tmp_path / "plumed.dat")
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="first", checkpoint_steps=7)
    second = propagate(first.walker, EMT_POTENTIAL, directory=tmp_path, name="second")
    assert (len(hills_of(first.walker)), len(hills_of(second.walker))) == (5, 10)  # every 4 of 20 steps
    assert hills_of(second.walker)[:5] == hills_of(first.walker)
    assert second.observables["bias_energy"][-1] > first.observables["bias_energy"][0]
    from_reset = propagate(second.walker.reset(), EMT_POTENTIAL, directory=tmp_path, name="reset")
    assert len(hills_of(from_reset.walker)) == 5


@pytest.mark.plumed
def test_hills_of_a_rejected_try_are_forgotten(tmp_path):
    (tmp_path / "plumed.dat").write_text(METAD)
    walker = walker_of(tmp_path, Octahedron("Cu", 2), plumed=tmp_path / "plumed.dat")
    late = Using(lambda: Wrong(same(100), first=15, last=15))
    sample = propagate(walker, late, directory=tmp_path, name="0", checkpoint_steps=5)
    assert [rejection.reason for rejection in sample.rejections] == ["force"]
    assert len(hills_of(sample.walker)) == 5


@pytest.mark.plumed
@pytest.mark.parametrize("method", ["langevin", "npt", "npt_flexible", "bussi"])
@pytest.mark.parametrize(
    "action", ["METAD ARG=d PACE=4 HEIGHT=2 SIGMA=0.02", "OPES_METAD ARG=d PACE=3 BARRIER=50 SIGMA=0.02"]
)
def test_biased_walkers_in_segments_are_as_without_segments(tmp_path, method, action):
    (tmp_path / "plumed.dat").write_text(f"d: DISTANCE ATOMS=1,4\n{action}")
    walker = copper(tmp_path, plumed=tmp_path / "plumed.dat", n_steps=40, method=method, barostat_time_fs=200)
    whole = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="whole", checkpoint_steps=40)
    parts = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="parts", checkpoint_steps=10)
    assert np.ptp(whole.observables["bias_energy"]) > 1e-3
    # Integrators round where segments begin.
    np.testing.assert_allclose(parts.structure.positions, whole.structure.positions, atol=2e-8)
    np.testing.assert_allclose(parts.observables["bias_energy"], whole.observables["bias_energy"], atol=1e-12)


@pytest.mark.plumed
def test_plumed_starts_once_for_each_try(tmp_path, monkeypatch):
    starts = []

    class Counted(PlumedRun):
        def __init__(self, *args, **kwargs):
            starts.append(kwargs["history"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(segments, "PlumedRun", Counted)
    (tmp_path / "plumed.dat").write_text(METAD)
    walker = walker_of(tmp_path, Octahedron("Cu", 2), plumed=tmp_path / "plumed.dat")
    late = Using(lambda: Wrong(same(100), first=15, last=15))
    propagate(walker, late, directory=tmp_path, name="0", checkpoint_steps=5)
    assert starts == [{}, {}]  # one is rejected


@pytest.mark.plumed
def test_a_variable_that_leaves_its_grid_is_said_with_the_walker(tmp_path):
    (tmp_path / "plumed.dat").write_text(METAD.replace("PACE", "GRID_MIN=0.25 GRID_MAX=0.26 PACE"))
    walker = copper(tmp_path, plumed=tmp_path / "plumed.dat", n_steps=40)
    with pytest.raises(InputError, match=r"walker 0: PLUMED cannot go on .* step \d+: .*outside the grid.*wider grid"):
        propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="0")


@pytest.mark.plumed
@pytest.mark.parametrize("text", [METAD, "d: DISTANCE ATOMS=1,4\nOPES_METAD ARG=d PACE=4 BARRIER=50 SIGMA=0.02"])
def test_a_biased_walker_that_was_cut_off_goes_on_from_its_hills(tmp_path, text):
    class CutOff(EMT):
        n_left = 33

        def calculate(self, *args, **kwargs):
            CutOff.n_left -= 1
            if CutOff.n_left == 0:
                raise KeyboardInterrupt
            super().calculate(*args, **kwargs)

    (tmp_path / "plumed.dat").write_text(text)
    walker = copper(tmp_path, plumed=tmp_path / "plumed.dat", n_steps=40)
    options = {"name": "0", "checkpoint_steps": 10}
    with pytest.raises(KeyboardInterrupt):
        propagate(walker, Using(CutOff), directory=tmp_path / "cut", **options)
    continued = propagate(walker, EMT_POTENTIAL, directory=tmp_path / "cut", **options)
    undisturbed = propagate(walker, EMT_POTENTIAL, directory=tmp_path / "whole", **options)
    # PLUMED reads its history from text in one of them alone, and writes its heading again.
    assert continued.structure == undisturbed.structure
    np.testing.assert_array_equal(continued.walker.state.momenta, undisturbed.walker.state.momenta)
    for name, values in undisturbed.observables.items():
        np.testing.assert_array_equal(continued.observables[name], values)
    assert numbers_of(continued) == numbers_of(undisturbed)


def numbers_of(sample):
    history = sample.walker.state.history
    return {name: [line for line in text.splitlines() if line[:2] != "#!"] for name, text in history.items()}
