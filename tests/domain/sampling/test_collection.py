from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.cluster import Octahedron

from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.collection import SampleCollector, structures_of
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.frames import independent_frames, spread
from surveyor.sampling.walkers import Sample, make_walkers
from surveyor.testing.calculators import CalculatorPotential

EMT_POTENTIAL = CalculatorPotential("ase.calculators.emt.EMT")


@dataclass
class Field:
    """Walkers in a folder, and the samples that were taken of them."""

    folder: Path
    plans: list[SamplePlan]
    taken: dict[str, Sample] = field(default_factory=dict)

    def collector(self, *numbers: int) -> SampleCollector:
        self.taken = {}
        collector = SampleCollector(self.taken.__setitem__)
        for number in numbers:
            collector.expect(self.plans[number], self.folder)
        return collector

    def walk(self, *numbers: int) -> list[tuple[str, Sample]]:
        return propagate_together([self.plans[number] for number in numbers], EMT_POTENTIAL, directory=self.folder)


@pytest.fixture
def ground(tmp_path: Path) -> Field:
    ase.io.write(tmp_path / "start.extxyz", Octahedron("Cu", 2))
    moving = Walkers(start=tmp_path / "start.extxyz", n_walkers=2, timestep_fs=3, n_steps=60, frame_interval=2)
    names = ("0-0", "0-1"), ("1-0",)
    walkers = make_walkers([moving], seed=1)
    plans = [SamplePlan(walker, each) for walker, each in zip(walkers, names, strict=True)]
    return Field(tmp_path / "samples", plans)


def test_samples_are_taken_as_they_come_and_each_once(ground):
    collector = ground.collector(0, 1)
    collector.look()
    assert ground.taken == {}
    brought = ground.walk(1)
    collector.look()
    assert list(ground.taken) == ["1-0"]
    collector.take([*brought, *ground.walk(0)])
    collector.look()
    assert list(ground.taken) == ["1-0", "0-0", "0-1"]
    for name, sample in ground.walk(0, 1):
        assert ground.taken[name].structure == sample.structure


def test_samples_that_were_taken_before_are_not_expected(ground):
    brought = dict(ground.walk(0))
    collector = ground.collector(1)
    collector.expect(ground.plans[0], ground.folder, n_taken=1)
    collector.look()
    assert list(ground.taken) == ["0-1"]
    assert ground.taken["0-1"].structure == brought["0-1"].structure


def test_independent_frames_may_be_labelled_beside_the_sample(ground):
    ((name, sample),) = ground.walk(1)
    structures = structures_of(name, sample, ground.folder, 3)
    assert structures.pop(name) == sample.structure
    steps = sorted(int(each.removeprefix("1-0-step-")) for each in structures)
    frames = independent_frames(ground.folder, "1-0")
    assert 1 <= len(steps) <= 3
    assert set(steps) < set(frames)
    assert 60 in frames  # the end, which is the sample
    assert 60 not in steps
    trajectory = ase.io.read(ground.folder / "1-0.traj", ":")
    frame = structures[f"1-0-step-{steps[0]}"]
    assert abs(frame.positions - trajectory[steps[0] // 2 - 1].positions).max() < 1e-7
    assert frame.calc is None
    assert set(frame.arrays) == {"numbers", "positions"}
    assert list(structures_of(name, sample, ground.folder, 0)) == [name]
    assert structures_of(name, Sample(sample.walker, None), ground.folder, 3) == {}


def test_frames_are_spread_over_the_trajectory():
    frames = {step: Atoms() for step in range(10, 110, 10)}
    assert list(spread(frames, 3)) == [10, 50, 100]
    assert list(spread(frames, 100)) == list(frames)
    assert spread({}, 3) == spread(frames, 0) == {}
