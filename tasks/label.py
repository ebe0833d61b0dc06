from concurrent.futures import Executor

from ase import Atoms
from prefect import State, task
from prefect.states import Completed

from surveyor.dataset import FAILURE, with_label
from surveyor.errors import LabelClaimed
from surveyor.labels import Label, LabelFailure, LabelRequest, LabelStore
from surveyor.labels.claims import ANYBODY
from surveyor.pools.submission import Priority, SubmitOptions
from surveyor.reference.labelling import Labeller, attempt_label, label_structure
from surveyor.reference.reference import time_limit_of
from surveyor.sampling.walkers import Sample
from surveyor.tasks.execution import retried, run_unclaimed, run_with, with_known_signature
from surveyor.works.labelling.chunks import LABELLED, Tally, attempt_chunk, count, label_chunk
from surveyor.works.labelling.requests import Chunk

# More often than the store allows attempts; only for what may be the fault of a worker: any other failure is a result.
RETRIED = retried(12)  # the label store is the cache
CLAIMED = "Computed by others"  # state of a task that leaves a label to the process that computes it


@task(task_run_name="label {name}", **RETRIED)
@with_known_signature
def label(
    pool: Executor | None,
    structure: Atoms | Sample,
    *,
    labeller: Labeller,
    name: str,
    request: LabelRequest | None = None,
) -> State:
    """Label a structure or a sample, unless the label is in the store or in computation by another process.

    Args:
        pool: pool that runs the reference; None runs it here.
        structure: structure or sample to label; a sample without a structure is skipped.
        labeller: the reference, its level of theory, and the folders. The task waits for a label in computation by
            another process, unless the store is used on behalf of a claimant, which then asks again later.
        name: name for people.
        request: request of the label, if it was made before.

    Returns:
        The structure with its label, or with its failure (the state then has the name of the reason); None for a
        sample without a structure, and for a label in computation elsewhere (the state then has the name `CLAIMED`).
    """
    atoms = structure.structure if isinstance(structure, Sample) else structure
    if atoms is None:
        return Completed(name="Nothing to label", data=None)
    request, store = request or labeller.request(atoms), labeller.store
    limit, left = time_limit_of(labeller.reference), (f"{labeller.scratch}/",)
    options = SubmitOptions(f"label {request.key} in {store}", limit, Priority.LABELLING, left)
    compute = label_structure if pool is None else attempt_label
    outcome = labeller.stored(request.key)
    if outcome is None:

        def run(mine: LabelStore) -> Label | LabelFailure:
            return run_with(pool, options, compute, request, labeller.with_store(mine))

        try:
            outcome = run_unclaimed(store, run) if store.claimant == ANYBODY else run(store)
        except LabelClaimed:
            return Completed(name=CLAIMED, data=None)
    labelled = with_label(atoms, request.key, outcome)
    return Completed(name=str(labelled.info.get(FAILURE, "Labelled")), data=labelled)


@task(task_run_name="labels {name}", **RETRIED)
@with_known_signature
def label_several(
    pool: Executor | None,
    chunk: Chunk,
    *,
    labeller: Labeller,
    name: str,
) -> State:
    """Label structures in sequence; each label is stored at once, and labels in the store are not computed again.

    On a pool, labels in computation by other processes are skipped.

    Args:
        pool: pool that runs the reference; None runs it here.
        chunk: the structures, by the keys of their labels.
        labeller: the reference, its level of theory, and the folders.
        name: name for people.

    Returns:
        The outcome of the chunk, a `Tally`, which names the state; the labels themselves are in the store.
    """
    found = [outcome for key in chunk.structures if (outcome := labeller.stored(key)) is not None]
    if len(found) == len(chunk):
        tally = Tally(count(found))
    else:
        limit = time_limit_of(labeller.reference)
        options = SubmitOptions(
            f"labels {chunk.digest} in {labeller.store}",
            None if limit is None else limit * len(chunk),
            Priority.LABELLING,
            (f"{labeller.scratch}/",),
        )
        compute = label_chunk if pool is None else attempt_chunk
        tally = run_with(pool, options, compute, chunk, labeller)
    return Completed(name=_name(tally), data=tally)


def _name(tally: Tally) -> str:
    n_labelled = tally.counts.get(LABELLED, 0)
    n_failed = sum(tally.counts.values()) - n_labelled
    claimed = f", {len(tally.claimed)} computed by others" if tally.claimed else ""
    return f"{n_labelled} labelled, {n_failed} failed{claimed}"
