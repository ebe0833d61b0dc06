from concurrent.futures import Executor
from pathlib import Path

from ase import Atoms
from prefect import State, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from surveyor.claims import ANYBODY
from surveyor.dataset import FAILURE, with_label
from surveyor.errors import LabelClaimed
from surveyor.labelling.chunks import LABELLED, Tally, attempt_chunk, count, label_chunk
from surveyor.labelling.requests import Chunk
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, label_key
from surveyor.pools.terms import Terms
from surveyor.reference.labelling import attempt_label, label_structure, stored_label
from surveyor.reference.reference import Reference, time_limit_of
from surveyor.sampling.walkers import Sample
from surveyor.tasks.execution import run_unclaimed, run_under, with_known_signature, worker_was_lost

# Only for what may be the fault of its worker, and more often than the store allows attempts: any other failed
# calculation is a result.
RETRIES = 12
DELAYS_S = [1.0, 10.0, *[60.0] * 10]

CLAIMED = "Computed by others"  # state of a task that leaves a label to the process that computes it


@task(
    task_run_name="label {name}",
    retries=RETRIES,
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=worker_was_lost,
    cache_policy=NO_CACHE,  # the label store is the cache
)
@with_known_signature
def label(
    pool: Executor | None,
    structure: Atoms | Sample,
    *,
    reference: Reference,
    theory: LevelOfTheory,
    store: LabelStore,
    scratch: Path,
    name: str,
) -> State:
    """Label a structure or a sample, unless the label is in the store or in computation by another process.

    Args:
        pool: pool that runs the reference; None runs it here.
        structure: structure or sample to label; a sample without a structure is skipped.
        reference: the reference.
        theory: its level of theory.
        store: the label store. The task waits for a label in computation by another process, unless the store is
            used on behalf of a claimant, which then asks again later.
        scratch: folder for the files of the calculation.
        name: name for people.

    Returns:
        The structure with its label, or with its failure (the state then has the name of the reason); None for a
        sample without a structure, and for a label in computation elsewhere (the state then has the name `CLAIMED`).
    """
    atoms = structure.structure if isinstance(structure, Sample) else structure
    if atoms is None:
        return Completed(name="Nothing to label", data=None)
    key = label_key(atoms, theory)
    terms = Terms(f"label {key} in {store}", time_limit_of(reference))
    compute = label_structure if pool is None else attempt_label
    outcome = stored_label(key, store, reference)
    if outcome is None:

        def run(mine: LabelStore) -> Label | LabelFailure:
            return run_under(pool, terms, compute, atoms, reference, theory, mine, scratch)

        try:
            outcome = run_unclaimed(store, run) if store.claimant == ANYBODY else run(store)
        except LabelClaimed:
            return Completed(name=CLAIMED, data=None)
    labelled = with_label(atoms, key, outcome)
    return Completed(name=str(labelled.info.get(FAILURE, "Labelled")), data=labelled)


@task(
    task_run_name="labels {name}",
    retries=RETRIES,
    retry_delay_seconds=DELAYS_S,
    retry_condition_fn=worker_was_lost,
    cache_policy=NO_CACHE,  # the label store is the cache
)
@with_known_signature
def label_several(
    pool: Executor | None,
    chunk: Chunk,
    *,
    reference: Reference,
    theory: LevelOfTheory,
    store: LabelStore,
    scratch: Path,
    name: str,
) -> State:
    """Label structures in sequence; each label is stored at once, and labels in the store are not computed again.

    On a pool, labels in computation by other processes are skipped.

    Args:
        pool: pool that runs the reference; None runs it here.
        chunk: the structures, by the keys of their labels.
        reference: the reference.
        theory: its level of theory.
        store: the label store.
        scratch: folder for the files of the calculations.
        name: name for people.

    Returns:
        The outcome of the chunk, a `Tally`, which names the state; the labels themselves are in the store.
    """
    found = [outcome for key in chunk.structures if (outcome := stored_label(key, store, reference)) is not None]
    if len(found) == len(chunk):
        tally = Tally(count(found))
    else:
        limit = time_limit_of(reference)
        terms = Terms(f"labels {chunk.digest} in {store}", None if limit is None else limit * len(chunk))
        compute = label_chunk if pool is None else attempt_chunk
        tally = run_under(pool, terms, compute, chunk, reference, theory, store, scratch)
    return Completed(name=_name(tally), data=tally)


def _name(tally: Tally) -> str:
    n_labelled = tally.counts.get(LABELLED, 0)
    n_failed = sum(tally.counts.values()) - n_labelled
    claimed = f", {len(tally.claimed)} computed by others" if tally.claimed else ""
    return f"{n_labelled} labelled, {n_failed} failed{claimed}"
