"""Walkers on a given potential, without learning: a model in, structures and trajectories out."""

import logging
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from surveyor.events.kinds import WorkBegins, WorkEnds
from surveyor.events.recording import announce
from surveyor.flows.opening import opened, relayed
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.sample_commands import SAMPLING_VIEW
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.flows.users_flow import users_flow
from surveyor.pools.choice import LOCAL
from surveyor.reading import announce_readings
from surveyor.sampling.batching import batch_size, in_batches, name_of_batch
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import Sample
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.resolve import ask_about_biases
from surveyor.tasks.sample import sample
from surveyor.works.sampling import SAMPLING, Sampling, check_yield, write_results

logger = logging.getLogger(__name__)


@users_flow(SAMPLING_VIEW)
def sample_walkers(
    potential: Path,
    output_directory: Path,
    walkers: list[Walkers],
    n_samples: int = 1,
    n_tries: int = 5,
    min_difference_A: float = 0.01,
    walkers_per_batch: int | None = None,
    seed: int = 0,
    pool: str = LOCAL,
) -> Path:
    """Run walkers on a given potential; the same call on the same folder continues where it stopped.

    Args:
        potential: Folder of a saved model, of a campaign or of a training, an absolute path.
        output_directory: Folder of the results, an absolute path.
        walkers: Groups of walkers.
        n_samples: Number of structures that each walker returns.
        n_tries: Maximum number of tries per sample, if guards stop the walker.
        min_difference_A: Keep only one of several structures that differ by less, in Å; 0 keeps all.
        walkers_per_batch: Number of walkers that move together; by default the fastest for the potential.
        seed: Seed of all random numbers.
        pool: Pool that runs the walkers.

    Returns:
        The file of the final states; beside it are the trajectories, their independent frames and `summary.json`.

    Raises:
        NothingLearned: no walker returned a structure.
    """
    with opened(SAMPLING, locals()) as work, relayed(work.directory, work.pools):
        return walk(work)


def walk(work: Sampling) -> Path:
    """Run the walkers, within a flow, and write their samples.

    Args:
        work: the open sampling.

    Returns:
        The file of the final states.

    Raises:
        NothingLearned: no walker returned a structure.
    """
    parameters, checked = work.parameters, work.checked
    path, url = work.directory.path, run_url()
    n_samples = parameters.n_samples * len(checked.walkers)
    announce(logger, WorkBegins(message=f"{path}{of_run(url)}", url=url, n_samples=n_samples))
    announce_readings(checked.reports)
    if asked := ask_about_biases(work.sampling, parameters.walkers):
        asked.result()
    brought = _move(work)
    summary = write_results(work, brought)
    from surveyor.report.walkers import write_observables_figure  # matplotlib takes its time

    write_observables_figure(work.directory.path / "walkers.png", brought)
    counts = ", ".join(f"{n} in {file}" for file, n in summary["n_structures"].items())
    announce(logger, WorkEnds(message=f"structures: {counts}", n_structures=summary["n_structures"]))
    check_yield(summary, work.directory)
    return path / "samples.extxyz"


def _move(work: Sampling) -> list[tuple[str, Sample]]:
    """Move the walkers, and return their samples."""
    parameters, checked, pool = work.parameters, work.checked, work.pools.sampling
    samples = TaskQueue(partial(n_at_once, pool), SimpleQueue())
    size = batch_size(parameters.walkers_per_batch, checked.potential, len(checked.walkers), pool.size)
    for batch in in_batches(work.plans, size):
        name = name_of_batch(batch)
        submit = partial(
            submit_unlinked,
            sample,
            work.sampling,
            batch,
            checked.potential,
            directory=work.samples,
            n_tries=parameters.n_tries,
            name=name,
        )
        samples.add(name, submit)
    samples.wait()
    return [each for future in samples.futures.values() for each in future.result()]
