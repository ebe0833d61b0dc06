"""Benchmark of labels as a kind of work: checks, the points of its curves, and folders."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ase import Atoms

from surveyor.benchmark.parameters import BASELINE, COMMITTEE, Arm, BenchmarkParameters, Structures
from surveyor.benchmark.points import Point
from surveyor.benchmark.sets import SETS, check_sets, divided, frames_of, marked, save_sets, thinned
from surveyor.dataset import Dataset
from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.pools.choice import LOCAL
from surveyor.reading import Reading, ReadingReport, read_labelled, read_unchecked
from surveyor.reference.choice import make_reference
from surveyor.reference.reference import Reference
from surveyor.sampling.batching import SamplePlan
from surveyor.sampling.checks import check_auto_limits, checked_walkers
from surveyor.sampling.walkers import Walker
from surveyor.works.work import Kind, Work
from surveyor.works.workspaces import refuse_workspaces


@dataclass(frozen=True, slots=True)
class CheckedBenchmark:
    """Results of the checks of a benchmark.

    Attributes:
        reference: the teacher; None if files have the labels.
        readings: on the files of structures, by the field of the set.
        walkers: those of each other set, by the field of the set.
        reports: on all files.
    """

    reference: Reference | None
    readings: dict[str, Reading]
    walkers: dict[str, tuple[Walker, ...]]
    reports: tuple[ReadingReport, ...]


class Benchmark(Work[BenchmarkParameters, CheckedBenchmark]):
    """A benchmark of labels, checked and open."""

    @property
    def samples(self) -> Path:
        """Folder of the trajectories on the reference."""
        return self.directory.path / "samples"

    @property
    def sets(self) -> Path:
        """Folder of the labelled sets."""
        return self.directory.path / SETS

    @property
    def plans(self) -> list[SamplePlan]:
        """The trajectories on the reference: one sample of each walker."""
        walkers = [walker for group in self.checked.walkers.values() for walker in group]
        return [SamplePlan(walker, (name_of_sample(walker),)) for walker in walkers]

    @property
    def unlabelled(self) -> Path:
        """File of all structures, for the reference."""
        return self.directory.path / "structures.extxyz"

    def structures(self) -> Dataset:
        """Return the structures of all sets, each with the number of its set."""
        sets = self.parameters.sets
        return Dataset(
            atoms for number, name in enumerate(sets) for atoms in marked(self._structures_of(name, sets[name]), number)
        )

    def _structures_of(self, name: str, asked: Structures) -> list[Atoms]:
        if name in self.checked.readings:
            found = [*without_isolated_atoms(self.checked.readings[name].structures)]
        else:
            names = map(name_of_sample, self.checked.walkers[name])
            found = frames_of(self.samples, names, asked.skip_steps)
        return thinned(found, asked.n_structures)

    def keep_sets(self, labelled: Dataset) -> None:
        """Write the sets of labelled structures.

        Args:
            labelled: structures as `structures` returns them, with labels.

        Raises:
            InputError: there are too few candidates, or a test set is empty or shares structures with them.
        """
        candidates, *others = divided(labelled, len(self.parameters.sets))
        tests = {test.name: structures for test, structures in zip(self.parameters.tests, others, strict=True)}
        check_sets(candidates, tests, self.parameters.n_labels[-1])
        save_sets(self.sets, candidates, tests)

    def point(self, arm: Arm, number: int, n_points: int) -> Point:
        """Return a point of a curve; see `point_of`."""
        return point_of(self.parameters, arm, number, n_points)

    @property
    def first_points(self) -> list[Point]:
        """The first points of all curves; arms share that of a seed, but for `committee`."""
        arms = [arm for arm in self.parameters.arms if arm in (BASELINE, COMMITTEE)]
        return [self.point(arm, number, 1) for number in range(self.parameters.n_seeds) for arm in arms]

    def next_points(self, point: Point) -> list[Point]:
        """Return the points that can be computed when another one is complete."""
        n_points, number = len(point.n_labels) + 1, point.seed - self.parameters.seed
        if n_points > len(self.parameters.n_labels):
            return []
        is_shared = point.is_first and point.arm == BASELINE
        arms = [arm for arm in self.parameters.arms if arm != COMMITTEE] if is_shared else [point.arm]
        return [self.point(arm, number, n_points) for arm in arms]


def point_of(parameters: BenchmarkParameters, arm: Arm, number: int, n_points: int) -> Point:
    """Return a point of a curve of a benchmark.

    Args:
        parameters: parameters of the benchmark.
        arm: how labels are chosen.
        number: number of the seed, from 0.
        n_points: number of points of the curve up to this one.
    """
    return Point(
        arm=arm,
        seed=parameters.seed + number,
        n_labels=tuple(parameters.n_labels[:n_points]),
        n_at_end=parameters.n_labels[-1],
        valid_fraction=parameters.valid_fraction,
        model=parameters.model,
        n_members=parameters.n_members,
        folder=parameters.folder,
    )


def points_of(parameters: BenchmarkParameters) -> list[Point]:
    """Return the points of all curves of a benchmark; points that arms share appear once."""
    numbers = range(1, len(parameters.n_labels) + 1)
    points = (
        point_of(parameters, arm, seed, n)
        for arm in parameters.arms
        for seed in range(parameters.n_seeds)
        for n in numbers
    )
    return [*{point.name: point for point in points}.values()]


def name_of_sample(walker: Walker) -> str:
    """Return the name of the trajectory of a walker."""
    return f"w{walker.index:03d}"


def _make(parameters: BenchmarkParameters) -> CheckedBenchmark:
    """Read the files, make the walkers, and read the input of the reference."""
    walkers, reports = _walkers(parameters)
    readings = {name: _read(parameters, name, each.file) for name, each in parameters.sets.items() if each.file}
    codes = parameters.codes.without_blocks
    return CheckedBenchmark(
        None if parameters.reference is None else make_reference(parameters.reference, codes),
        readings,
        walkers,
        (*reports, *(reading.report for reading in readings.values())),
    )


def _walkers(parameters: BenchmarkParameters) -> tuple[dict[str, tuple[Walker, ...]], tuple[ReadingReport, ...]]:
    """Return the walkers of each set that has some, by the field of the set, and the reports on their starts."""
    moving = {name: each.walkers for name, each in parameters.sets.items() if each.walkers}
    if not moving:
        return {}, ()
    groups = [group for each in moving.values() for group in each]
    check_auto_limits(groups, "a reference states no uncertainty")
    walkers, reports = checked_walkers(groups, parameters.seed, has_plumed=parameters.pools.sampling == LOCAL)
    left = iter(walkers)
    by_set = {name: tuple(islice(left, sum(group.n_walkers for group in each))) for name, each in moving.items()}
    return by_set, reports


def _read(parameters: BenchmarkParameters, name: str, file: Path) -> Reading:
    if parameters.reference is None:
        return read_labelled(file, f"{name}.file", keys=parameters.label_keys)
    return read_unchecked(file, f"{name}.file")


BENCHMARK = Kind(
    name="benchmark",
    parameters=BenchmarkParameters,
    work=Benchmark,
    field="candidates",
    expected="candidates, tests, model and output_directory",
    may_change=("output_directory", "pools", "codes", "labels", "storage", "arms", "n_seeds", "reference_labels"),
    advice="choose another output directory, or restore the parameters and files; the labels are in the store in any "
    "case",
    make=_make,
    check_sites=lambda parameters, _, sites: refuse_workspaces(parameters, sites, "benchmark"),
)
