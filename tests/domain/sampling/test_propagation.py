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

from surveyor.potentials import evaluate_one_by_one
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import load_walker, make_walkers, save_walker, walker_to_arrays
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
from surveyor.sampling.conditions import Walkers
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


@pytest.mark.parametrize("method", ["langevin", "npt"])
def test_a_killed_propagation_continues_bit_for_bit(tmp_path, method):
    walker = copper(tmp_path, method=method, n_steps=60)
    undisturbed = propagate(walker, EMT_POTENTIAL, directory=tmp_path / "undisturbed", name="0", checkpoint_steps=10)

    for n_calls in (5, 27, 27):  # in the first segment, in the third, and in the fifth
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

    assert calculator.n_calls == 22  # two segments of 10 steps and the forces at the beginning of each
    assert_same_sample(resumed, undisturbed)


def test_two_short_propagations_equal_a_long_one(tmp_path):
    walker = copper(tmp_path, n_steps=20)
    first = propagate(walker, EMT_POTENTIAL, directory=tmp_path, name="first")
    save_walker(tmp_path / "walker.npz", first.walker)
    restored = load_walker(tmp_path / "walker.npz", walker)
    second = propagate(restored, EMT_POTENTIAL, directory=tmp_path, name="second")

    long = copper(tmp_path, n_steps=40)
    both = propagate(long, EMT_POTENTIAL, directory=tmp_path, name="both", checkpoint_steps=20)
    assert_same_walker(second.walker, both.walker)


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
    sample = propagate(walker, Using(calculator), directory=tmp_path, name="0", n_tries=3)
    assert [rejection.reason for rejection in sample.rejections] == [reason] * 3
    assert sample.structure is None
    assert sample.temperature_K is None
    assert (sample.walker.n_resets, sample.walker.state, sample.walker.seed) == (3, None, walker.seed + 3)


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
    assert (record.event, record.details["walker"]) == ("sampled", 0)
