"""Benchmark of labels: do chosen labels bring a model further than random ones?"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from surveyor.benchmark import BENCHMARK, Benchmark, Point
from surveyor.benchmark.parameters import ARMS, N_LABELS, Arm, HeldOut, Structures
from surveyor.benchmark.results import write_results
from surveyor.dataset import Dataset
from surveyor.events.kinds import EpochEnds, TrainingEnds, WorkBegins, WorkEnds
from surveyor.events.recording import announce
from surveyor.flows.benchmark_commands import BENCHMARK_VIEW
from surveyor.flows.label_dataset import label_dataset
from surveyor.flows.opening import opened, relayed
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.flows.users_flow import users_flow
from surveyor.models.choice import ModelParameters
from surveyor.pools.choice import Pools
from surveyor.reading import announce_readings
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.reference.potential import ReferencePotential
from surveyor.reference.reference import Reference
from surveyor.storage.buckets import StorageName, StoreAddress
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.learn import learn
from surveyor.tasks.report import report_benchmark
from surveyor.tasks.resolve import resolve_theory
from surveyor.tasks.sample import sample

logger = logging.getLogger(__name__)


@users_flow(BENCHMARK_VIEW)
def benchmark_labels(
    candidates: Structures,
    tests: list[HeldOut],
    output_directory: Path,
    model: ModelParameters,
    reference: ReferenceParameters | None = None,
    arms: list[Arm] = ARMS,
    n_labels: list[int] = N_LABELS,
    reference_labels: int = 80,
    n_seeds: int = 5,
    valid_fraction: float = 0.2,
    n_members: int = 4,
    label_keys: LabelKeys = REF_KEYS,
    seed: int = 0,
    pools: Pools = Pools(),
    codes: Codes = Codes(),
    labels: StoreAddress | None = None,
    storage: StorageName | None = None,
) -> Path:
    """Compare ways to choose labels; the same call on the same folder continues where it stopped.

    Args:
        candidates: Structures from which labels are chosen.
        tests: Structures on which the models are compared.
        output_directory: Folder of the results, an absolute path.
        model: The single model that is trained on each set of labels.
        reference: The fast reference (teacher) that labels all structures; without it, the files have the labels.
        arms: Selectors to compare; random is the baseline.
        n_labels: Numbers of labels at which a model is trained.
        reference_labels: Number of labels with which the arm random has the error that all arms are to reach.
        n_seeds: Number of repetitions.
        valid_fraction: Fraction of the labels for validation, drawn at random in all arms.
        n_members: Number of models in the committee of the arm `committee`.
        label_keys: Names of energy, forces and stress in files with labels.
        seed: Seed of all random numbers.
        pools: Pools that run sampling, labelling and training.
        codes: Command and limits of reference programs at this site.
        labels: Folder of the label store, or a bucket such as s3://bucket/labels; by default
            `labels` beside the output directory.
        storage: Block with the endpoint and credentials of that bucket, such as s3/minio.

    Returns:
        The comparison, a Markdown file; beside it are the learning curves as a figure, and `summary.json`.
    """
    with opened(BENCHMARK, locals()) as benchmark, _followed(benchmark):
        prepare_sets(benchmark)
        learn_curves(benchmark)
        return conclude(benchmark)


@contextmanager
def _followed(benchmark: Benchmark) -> Iterator[None]:
    """Pass events on to the event file and to the log of the run, except those of single trainings."""
    with relayed(benchmark.directory, benchmark.pools, passed_over=(EpochEnds, TrainingEnds)):
        url = run_url()
        announce(logger, WorkBegins(message=f"{benchmark.directory.path}{of_run(url)}", url=url))
        announce_readings(benchmark.checked.reports)
        yield


def prepare_sets(benchmark: Benchmark) -> None:
    """Sample and label the candidates and the test sets, unless that is done."""
    if benchmark.sets.exists():
        return
    reference = benchmark.checked.reference
    if reference is not None and benchmark.checked.walkers:
        _sample(benchmark, reference)
    structures = benchmark.structures()
    if reference is not None:
        structures = _labelled(benchmark, structures)
    benchmark.keep_sets(structures)


def _sample(benchmark: Benchmark, reference: Reference) -> None:
    """Run the walkers on the reference."""
    potential = ReferencePotential(reference, resolve_theory(benchmark.sampling, reference))
    samples = TaskQueue(partial(n_at_once, benchmark.pools.sampling), SimpleQueue())
    for plan in benchmark.plans:
        (name,) = plan.names
        samples.add(
            name,
            partial(
                submit_unlinked,
                sample,
                benchmark.sampling,
                [plan],
                potential,
                directory=benchmark.samples,
                n_tries=5,
                name=name,
            ),
        )
    samples.wait()
    for future in samples.futures.values():
        future.result()


def _labelled(benchmark: Benchmark, structures: Dataset) -> Dataset:
    """Return the structures with the labels of the reference; those that fail are left out."""
    parameters = benchmark.parameters
    structures.save(benchmark.unlabelled)
    labelled = label_dataset(
        structures=benchmark.unlabelled,
        output_directory=benchmark.directory.path / "labelling",
        reference=parameters.reference,
        pool=parameters.pools.labelling,
        codes=parameters.codes,
        labels=parameters.label_store,
        storage=parameters.storage,
    )
    return Dataset.load(labelled)


def learn_curves(benchmark: Benchmark) -> None:
    """Compute all points of all curves; those of different curves run side by side.

    Where a point fails, its curve ends, and the other curves are computed before the failure is raised.
    """
    points = TaskQueue(partial(n_at_once, benchmark.pools.training), SimpleQueue())

    def add(point: Point) -> None:
        submit = partial(submit_unlinked, learn, benchmark.training, point, name=point.name)
        points.add(point.name, submit, partial(go_on, point))

    def go_on(point: Point) -> None:
        if points.futures[point.name].state.is_completed():
            for each in benchmark.next_points(point):
                add(each)

    for point in benchmark.first_points:
        add(point)
    points.wait()
    for future in points.futures.values():
        future.result()


def conclude(benchmark: Benchmark) -> Path:
    """Write the results and show them in the interface; return the file with the comparison."""
    path = write_results(benchmark)
    announce(logger, WorkEnds(message=f"all models are compared: {path}"))
    state = report_benchmark(benchmark.directory, return_state=True)
    if state.is_failed():
        logger.error("the report failed: %s", state.message)  # the files are there
    return path
