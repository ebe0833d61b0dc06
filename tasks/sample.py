from concurrent.futures import Executor
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from surveyor.pools.terms import Terms
from surveyor.potentials import Potential
from surveyor.sampling.propagation import propagate
from surveyor.sampling.samples import walker_digest
from surveyor.sampling.walkers import Sample, Walker
from surveyor.tasks.execution import run_under, worker_was_lost


@task(
    task_run_name="sample {name}",
    # Only for a dead worker; a walker that explodes is tried again by the domain. It goes on from its last checkpoint.
    retries=12,
    retry_delay_seconds=[1, 10, *[60] * 10],
    retry_condition_fn=worker_was_lost,
    cache_policy=NO_CACHE,  # the sample's file in the generation is its record
)
def sample(
    pool: Executor | None, walker: Walker | Sample, potential: Potential, *, directory: Path, n_tries: int, name: str
) -> Sample:
    """Move a walker on, from where it is, and return what it brought.

    Args:
        pool: where to run; None runs here.
        walker: the walker, or its last sample.
        potential: on which it moves.
        directory: for checkpoints and the finished sample, which is not computed again.
        n_tries: how often guards may stop it.
        name: of the sample in this directory.
    """
    start = walker.walker if isinstance(walker, Sample) else walker
    terms = Terms(f"sample {directory / name} from {walker_digest(start)}")
    return run_under(pool, terms, propagate, start, potential, directory=directory, n_tries=n_tries, name=name)
