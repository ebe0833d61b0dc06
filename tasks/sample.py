import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from prefect import task

from surveyor.pools.submission import SubmitOptions
from surveyor.potentials import Potential
from surveyor.sampling.batching import SamplePlan, propagate_together
from surveyor.sampling.samples import walker_digest
from surveyor.sampling.walkers import Sample
from surveyor.tasks.execution import retried, run_with, with_known_signature


# A walker that explodes is tried again by the domain. It goes on from its last checkpoint; its files are the record.
@task(task_run_name="sample {name}", **retried(12))
@with_known_signature
def sample(
    pool: Executor | None,
    plans: Sequence[SamplePlan],
    potential: Potential | None,
    *,
    directory: Path,
    n_tries: int,
    name: str,
) -> list[tuple[str, Sample]]:
    """Propagate walkers together from their current states, and return their samples.

    Args:
        pool: pool that runs the walkers; None runs them here.
        plans: the walkers, with the names of their samples in this directory.
        potential: the potential.
        directory: folder of checkpoints and finished samples, which are not computed again.
        n_tries: maximum number of tries per sample.
        name: name for people.
    """
    digests = [f"{walker_digest(each.walker)} {each.names}" for each in plans]
    key = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    outputs = tuple(f"{directory}/{sample_name}." for each in plans for sample_name in each.names)
    options = SubmitOptions(f"sample {directory} {key}", outputs=outputs, continues=True)
    return run_with(pool, options, propagate_together, plans, potential, directory=directory, n_tries=n_tries)
