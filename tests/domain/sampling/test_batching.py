from dataclasses import dataclass, field
from typing import ClassVar

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.cluster import Octahedron

from surveyor.potentials import Prediction, evaluate_one_by_one
from surveyor.sampling.batching import SamplePlan, in_batches, name_of_batch, propagate_together
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import Walker, make_walkers
from surveyor.testing.calculators import CalculatorPotential
from surveyor.words import number_of

FORCES_EV_PER_A = 1e-10  # neighbour lists with a skin add in another order than fresh ones
POSITIONS_A = 1e-8  # after some steps


@dataclass(frozen=True)
class Together:
    """EMT that counts how many structures come at once."""

    sizes: list[int] = field(default_factory=list)
    evaluates_together: ClassVar[bool] = True

    def calculator(self) -> Calculator:
        return EMT()

    def evaluate(self, structures: list[Atoms]) -> list[Prediction]:
        self.sizes.append(len(structures))
        return evaluate_one_by_one(self, structures)


def walkers_of(tmp_path, structure, n_walkers=4, **fields) -> tuple[Walker, ...]:
    path = tmp_path / "start.traj"
    ase.io.write(path, structure)
    return make_walkers(
        [Walkers(start=path, n_walkers=n_walkers, **{"timestep_fs": 3, "n_steps": 30, **fields})], seed=2
    )


@pytest.mark.parametrize(
    ("method", "structure"),
    [
        ("langevin", Octahedron("Cu", 2)),
        ("bussi", Octahedron("Cu", 2)),
        ("nose_hoover", Octahedron("Cu", 2)),
        ("nve", Octahedron("Cu", 2)),
        ("npt", bulk("Cu", cubic=True)),
        ("npt_flexible", bulk("Cu", cubic=True)),
        ("optimisation", Octahedron("Cu", 2)),
        ("cell_optimisation", bulk("Cu", a=3.8, cubic=True)),
    ],
)
def test_batched_walkers_go_where_they_go_alone(tmp_path, method, structure):
    walkers = walkers_of(tmp_path, structure, method=method, max_energy_drift_meV_per_atom=100)
    potential = Together()
    batched = propagate_together(
        [SamplePlan(walker, (f"{walker.index}",)) for walker in walkers], potential, directory=tmp_path / "batched"
    )
    assert max(potential.sizes) == 4
    for walker, (_, sample) in zip(walkers, batched, strict=True):
        alone = propagate(walker, potential, directory=tmp_path / "alone", name=f"{walker.index}")
        assert (sample.n_steps, sample.is_converged, sample.rejections) == (alone.n_steps, alone.is_converged, ())
        assert np.abs(sample.structure.positions - alone.structure.positions).max() < POSITIONS_A
        assert np.abs(sample.structure.cell.array - alone.structure.cell.array).max() < POSITIONS_A
        assert sample.walker.state.random_state == alone.walker.state.random_state


def test_walkers_wait_for_room_and_bring_several_samples(tmp_path):
    potential = Together()
    walkers = walkers_of(tmp_path, Octahedron("Cu", 2), n_walkers=3, n_steps=10)
    plans = [SamplePlan(walker, tuple(f"{walker.index}-{turn}" for turn in range(2))) for walker in walkers]
    samples = propagate_together(plans, potential, directory=tmp_path / "samples", n_at_once=2)
    assert max(potential.sizes) == 2
    assert [name for name, _ in samples] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert [sample.walker.state.n_steps for _, sample in samples] == [10, 20] * 3


def test_a_batch_that_was_cut_off_goes_on_where_its_walkers_are(tmp_path):
    class Failing(Together):
        def evaluate(self, structures: list[Atoms]) -> list[Prediction]:
            if len(self.sizes) == 150:
                raise MemoryError
            return super().evaluate(structures)

    walkers = walkers_of(tmp_path, Octahedron("Cu", 2), n_walkers=2, n_steps=200)
    plans = [SamplePlan(walker, (f"{walker.index}",)) for walker in walkers]
    with pytest.raises(MemoryError):
        propagate_together(plans, Failing(), directory=tmp_path / "cut")
    potential = Together()
    continued = propagate_together(plans, potential, directory=tmp_path / "cut")
    assert len(potential.sizes) == 101  # from the checkpoint after 100 steps
    undisturbed = propagate_together(plans, Together(), directory=tmp_path / "whole")
    for one, other in zip(continued, undisturbed, strict=True):
        assert one[1].structure == other[1].structure


def test_what_does_not_gain_from_batches_moves_alone(tmp_path):
    walkers = walkers_of(tmp_path, Octahedron("Cu", 2), n_walkers=2, n_steps=5)
    plans = [SamplePlan(walker, (f"{walker.index}",)) for walker in walkers]
    potential = CalculatorPotential("ase.calculators.emt.EMT")
    samples = propagate_together(plans, potential, directory=tmp_path / "together")
    for walker, (_, sample) in zip(walkers, samples, strict=True):
        alone = propagate(walker, potential, directory=tmp_path / "alone", name=str(walker.index))
        assert sample.structure == alone.structure  # bit for bit


def test_guards_stop_walkers_one_by_one(tmp_path):
    class WrongForSome(Together):
        def evaluate(self, structures: list[Atoms]) -> list[Prediction]:
            found = super().evaluate(structures)
            if len(self.sizes) == 5:
                found[1] = Prediction(found[1].energy, np.full((6, 3), 100.0))
            return found

    walkers = walkers_of(tmp_path, Octahedron("Cu", 2), n_walkers=3, n_steps=10)
    plans = [SamplePlan(walker, (f"{walker.index}",)) for walker in walkers]
    samples = propagate_together(plans, WrongForSome(), directory=tmp_path / "samples")
    assert [[rejection.reason for rejection in sample.rejections] for _, sample in samples] == [[], ["force"], []]
    assert [sample.walker.n_resets for _, sample in samples] == [0, 1, 0]
    assert all(sample.n_steps == 10 for _, sample in samples)


@pytest.mark.parametrize(("size", "expected"), [(1, [1] * 5), (2, [1, 2, 2]), (3, [2, 3]), (5, [5]), (100, [5])])
def test_batches_are_even(tmp_path, size, expected):
    walkers = walkers_of(tmp_path, Octahedron("Cu", 2), n_walkers=5)
    plans = [SamplePlan(walker, (str(walker.index),)) for walker in walkers]
    batches = in_batches(plans, size)
    assert sorted(len(batch) for batch in batches) == expected
    assert [each for batch in batches for each in batch] == plans
    assert in_batches([], size) == []
    assert name_of_batch(batches[0]) == (
        "0" if len(batches[0]) == 1 else f"0 and {number_of(len(batches[0]) - 1, 'more walker')}"
    )
