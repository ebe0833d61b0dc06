from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase import Atoms
from ase.cluster import Octahedron

from surveyor.events.kinds import NearDuplicate, Sampled
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.collection import SampleCollector
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.frames import independent_frames, spread
from surveyor.sampling.walkers import make_walkers
from surveyor.testing.calculators import CalculatorPotential

EMT_POTENTIAL = CalculatorPotential("ase.calculators.emt.EMT")


@dataclass
class Field:
    """Walkers in a folder, and what was labelled of what they brought."""

    folder: Path
    plans: list[SamplePlan]
    labelled: dict[str, Atoms] = field(default_factory=dict)

    def collector(self, **others: Any) -> SampleCollector:
        self.labelled = {}
        options = {"record": self.folder / "duplicates.jsonl", "known": (), "tolerance_A": 0.01, **others}
        return SampleCollector(self.plans, self.folder / "samples", label=self.labelled.__setitem__, **options)

    def walk(self, *numbers: int) -> None:
        chosen = [self.plans[number] for number in numbers]
        propagate_together(chosen, EMT_POTENTIAL, directory=self.folder / "samples")


@pytest.fixture
def ground(tmp_path: Path) -> Field:
    ase.io.write(tmp_path / "start.extxyz", Octahedron("Cu", 2))
    start = tmp_path / "start.extxyz"
    moving = Walkers(start=start, n_walkers=2, timestep_fs=3, n_steps=60, frame_interval=2)
    still = Walkers(start=start, n_walkers=2, method="optimisation")
    names = ("0-0", "0-1"), ("1-0",), ("2-0",), ("3-0",)
    walkers = make_walkers([moving, still], seed=1)
    return Field(tmp_path, [SamplePlan(walker, each) for walker, each in zip(walkers, names, strict=True)])


def test_samples_are_taken_as_they_come_and_each_once(ground):
    collector = ground.collector()
    collector.look()
    assert ground.labelled == {}
    ground.walk(1)
    collector.look()
    assert list(ground.labelled) == ["1-0"]
    ground.walk(0)
    collector.look()
    collector.look()
    collector.take([("1-0", collector.samples["1-0"])])
    assert list(ground.labelled) == ["1-0", "0-0", "0-1"]
    assert ground.labelled["0-1"] == collector.samples["0-1"].structure


def test_near_duplicates_are_not_labelled_and_the_same_are_not_after_a_restart(ground):
    ground.walk(2)
    collector = ground.collector()
    collector.look()
    ground.walk(0, 1, 3)
    collector.look()
    assert set(ground.labelled) == {"2-0", "0-0", "0-1", "1-0"}  # 3 is where 2 is
    assert "3-0" in collector.samples
    again = ground.collector()
    again.look()
    assert set(ground.labelled) == {"2-0", "0-0", "0-1", "1-0"}
    assert len((ground.folder / "duplicates.jsonl").read_text().splitlines()) == 1
    ground.collector(tolerance_A=0.0, record=ground.folder / "none.jsonl").look()
    assert set(ground.labelled) == {"2-0", "3-0", "0-0", "0-1", "1-0"}


def test_what_the_campaign_has_is_not_labelled_again(ground):
    ground.walk(2)
    first = ground.collector()
    first.look()
    known = ground.labelled["2-0"]
    ground.collector(known=[known], record=ground.folder / "other.jsonl").look()
    assert ground.labelled == {}


def test_independent_frames_are_labelled_on_request(ground):
    ground.walk(1, 2)
    collector = ground.collector(n_frames=3)
    collector.look()
    steps = sorted(int(name.removeprefix("1-0-step-")) for name in ground.labelled if name.startswith("1-0-step-"))
    frames = independent_frames(ground.folder / "samples", "1-0")
    assert 1 <= len(steps) <= 3
    assert set(steps) < set(frames)
    assert 60 in frames  # the end, which is the sample
    assert 60 not in steps
    trajectory = ase.io.read(ground.folder / "samples" / "1-0.traj", ":")
    frame = ground.labelled[f"1-0-step-{steps[0]}"]
    assert abs(frame.positions - trajectory[steps[0] // 2 - 1].positions).max() < 1e-7
    assert frame.calc is None
    assert set(frame.arrays) == {"numbers", "positions"}
    assert independent_frames(ground.folder / "samples", "2-0") == {}


def test_frames_are_spread_over_the_trajectory():
    frames = {step: Atoms() for step in range(10, 110, 10)}
    assert list(spread(frames, 3)) == [10, 50, 100]
    assert list(spread(frames, 100)) == list(frames)
    assert spread({}, 3) == spread(frames, 0) == {}


def test_what_a_former_run_has_left_is_told_and_needs_no_walker(ground, caplog):
    caplog.set_level("INFO", "surveyor")
    ground.walk(0, 2, 3)
    collector = ground.collector()
    caplog.clear()
    collector.look_at_former_run()
    told = {(type(record.event), record.event.name) for record in caplog.records if hasattr(record, "event")}
    assert {(Sampled, name) for name in ("0-0", "0-1", "2-0", "3-0")} | {(NearDuplicate, "3-0")} == told
    assert [collector.has_all_of([plan]) for plan in ground.plans] == [True, False, True, True]
    assert not collector.has_all_of(ground.plans)
