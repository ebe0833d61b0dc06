"""Walkers on a given potential, without learning: a model in, structures and trajectories out."""

import logging
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from prefect import runtime

from surveyor.blocks.pools import load_sites
from surveyor.events.kinds import WorkBegins, WorkEnds
from surveyor.events.recording import announce
from surveyor.exploration import (
    Exploration,
    ExplorationParameters,
    check_yield,
    open_exploration,
    write_results,
)
from surveyor.flows.paths import of_run, run_url, with_absolute_paths
from surveyor.flows.pool_commands import users_pools
from surveyor.flows.sample_commands import SAMPLING
from surveyor.flows.sampling import batch_size, check_plumed, relayed
from surveyor.flows.users_flow import users_flow
from surveyor.flows.window import Window, n_at_once
from surveyor.pools.choice import LOCAL
from surveyor.reading import announce_readings
from surveyor.sampling.batching import in_batches, name_of_batch
from surveyor.sampling.conditions import Walkers
from surveyor.tasks.sample import sample

logger = logging.getLogger(__name__)


def _sampling_name() -> str:
    return f"sampling of {Path(runtime.flow_run.parameters['output_directory']).name}"


@users_flow(ExplorationParameters, SAMPLING, run_name=_sampling_name)
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
    parameters = with_absolute_paths(ExplorationParameters(**locals()))
    sites = load_sites([parameters.pool])
    with (
        open_exploration(parameters, sites, users_pools()) as exploration,
        relayed(exploration.directory, [exploration.pool]),
    ):
        return walk(exploration)


def walk(exploration: Exploration) -> Path:
    """Let the walkers move, within a flow, and write what they brought.

    Args:
        exploration: open.

    Returns:
        The file of the final states.

    Raises:
        NothingLearned: no walker returned a structure.
    """
    parameters, path, url = exploration.parameters, exploration.directory.path, run_url()
    n_samples = parameters.n_samples * len(exploration.walkers)
    announce(logger, WorkBegins(message=f"{path}{of_run(url)}", url=url, n_samples=n_samples))
    announce_readings(exploration.reports)
    check_plumed(exploration.executor, parameters.walkers)
    samples = Window(partial(n_at_once, exploration.pool), SimpleQueue())
    size = batch_size(parameters.walkers_per_batch, exploration.potential, len(exploration.walkers), exploration.pool)
    options = {"directory": exploration.samples, "n_tries": parameters.n_tries}
    for batch in in_batches(exploration.itineraries, size):
        name = name_of_batch(batch)
        samples.add(
            name, partial(sample.submit, exploration.executor, batch, exploration.potential, name=name, **options)
        )
    samples.wait()
    brought = [each for future in samples.futures.values() for each in future.result()]
    summary = write_results(exploration, brought)
    from surveyor.report.walkers import write_observables_figure  # matplotlib takes its time

    write_observables_figure(exploration.directory.path / "walkers.png", brought)
    counts = ", ".join(f"{n} in {file}" for file, n in summary["n_structures"].items())
    announce(logger, WorkEnds(message=f"structures: {counts}", n_structures=summary["n_structures"]))
    check_yield(summary, path)
    return path / "samples.extxyz"
