"""Labelling a dataset: structures in, labelled and failed structures out."""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ase import Atoms
from prefect import runtime
from prefect.futures import PrefectFuture

from surveyor.dataset import Dataset
from surveyor.errors import AttemptFailed, StorageFailed, WorkerLost
from surveyor.events.kinds import LabelFailed, Labelled, LabellingBegins, LabellingComplete, LabelsRequested
from surveyor.events.recording import announce
from surveyor.files import publish, temporary_beside
from surveyor.flows.label_commands import LABELLING_VIEW
from surveyor.flows.opening import opened, relayed
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.task_queue import TaskQueue, n_at_once
from surveyor.flows.users_flow import users_flow
from surveyor.labels import Label, LabelFailure, LevelOfTheory, load_theory
from surveyor.labels.claims import Claimant, Watch
from surveyor.labels.look_ups import reading_ahead
from surveyor.pools.choice import LOCAL
from surveyor.reading import announce_readings
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.reference.labelling import Labeller
from surveyor.reference.reference import limits_of
from surveyor.storage.buckets import StorageName, StoreAddress
from surveyor.tasks.execution import submit_unlinked
from surveyor.tasks.label import label_several
from surveyor.tasks.report import tag_run
from surveyor.tasks.resolve import resolve_theory
from surveyor.words import number_of
from surveyor.works.continuation import frozen_theory
from surveyor.works.labelling import LABELLING, Chunk, Labelling, Requests, write_results
from surveyor.works.labelling.chunks import LABELLED, Tally, count
from surveyor.works.labelling.results import labelled_file

TOGETHER_S = [1.0, 10.0]  # delays of the retries at several structures together
LINE_S = 5.0  # a line of progress at most so often: each costs the server something

logger = logging.getLogger(__name__)


@users_flow(LABELLING_VIEW)
def label_dataset(
    structures: Path,
    output_directory: Path,
    reference: ReferenceParameters,
    pool: str = LOCAL,
    codes: Codes = Codes(),
    labels: StoreAddress | None = None,
    storage: StorageName | None = None,
    chunk_size: int | None = None,
) -> Path:
    """Label the structures of a file; the same call on the same folder continues where it stopped.

    Args:
        structures: File with structures, an absolute path; labels in the file are ignored.
        output_directory: Folder of the results, an absolute path.
        reference: The level of theory that labels structures; give exactly one.
        pool: Pool that runs the reference.
        codes: Command and limits of reference programs at this site.
        labels: Folder of the label store, or a bucket such as s3://bucket/labels; by default
            `labels` beside the output directory.
        storage: Block with the endpoint and credentials of that bucket, such as s3/minio.
        chunk_size: Number of structures that a task labels in sequence; by default one, or more if labels are cheap.

    Returns:
        The file with the labelled structures; beside it are `failed.extxyz` and `summary.json`.
    """
    with opened(LABELLING, locals()) as labelling, _followed(labelling):
        return label_everything(labelling)


def label_everything(labelling: Labelling) -> Path:
    """Label all structures without a label, within a flow, and write the results.

    Args:
        labelling: the open labelling.

    Returns:
        The file with the labelled structures.
    """
    theory, requests, missing = _requested(labelling)
    lost = _label_missing(labelling, theory, requests, missing)
    return _conclude(labelling, theory, requests, lost)


def label_structures(structures: Iterable[Atoms], output_directory: Path, **parameters: Any) -> Dataset:
    """Label structures in memory, such as a `Dataset`; the same call continues where it stopped.

    Args:
        structures: the structures.
        output_directory: folder of the results.
        parameters: other parameters of `label_dataset`.

    Returns:
        The structures with a label, in order; the others are in `failed.extxyz` of the folder.
    """
    with temporary_beside(output_directory.absolute() / "structures.extxyz") as temporary:
        Dataset(structures).save(temporary)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        path = temporary.with_name(f"structures-{digest[:12]}.extxyz")
        publish(temporary, path)
    return Dataset.load(label_dataset(structures=path, output_directory=output_directory, **parameters))


@contextmanager
def _followed(labelling: Labelling) -> Iterator[None]:
    """Relay events to the event log and to the log of the run, which gets no line for a label: there are thousands."""
    with relayed(labelling.directory, labelling.pools, passed_over=(Labelled,)):
        url, n = run_url(), len(labelling.structures)
        text = f"{labelling.directory.path}: {number_of(n, 'structure')}{of_run(url)}"
        announce(logger, LabellingBegins(message=text, url=url, n_structures=n))
        announce_readings([labelling.checked.reading.report])
        yield


def _requested(labelling: Labelling) -> tuple[LevelOfTheory, Requests, set[str]]:
    """Return the level of theory, the requests, and the keys without a label.

    The labels in the store are reported before the pool is needed; if nothing is missing, the pool is not used.

    Raises:
        PoolFailed: the pool cannot be opened.
        InputError: the pool lacks a requirement, or the level of theory has changed since the labelling began.
    """
    path, counted = labelling.directory.theory, None
    if path.exists():
        theory = load_theory(path)
        requests, missing = counted = _counted(labelling, theory)
        if not missing:
            return theory, requests, missing
    theory = frozen_theory(path, resolve_theory(labelling.labelling, labelling.checked.reference), "labelling")
    return theory, *(counted or _counted(labelling, theory))


def _counted(labelling: Labelling, theory: LevelOfTheory) -> tuple[Requests, set[str]]:
    """Return the requests and the keys without a label, and report their numbers."""
    requests = labelling.requests(theory)
    missing, n_requested = (
        set(requests.missing(labelling.store, limits_of(labelling.checked.reference))),
        len(requests.by_key),
    )
    found = tuple(key for key in requests.by_key if key not in missing)
    text = f"labels: {n_requested} requested, {len(found)} in the store"
    announce(logger, LabelsRequested(message=text, n_requested=n_requested, n_found=len(found), found=found))
    return requests, missing


def _label_missing(
    labelling: Labelling, theory: LevelOfTheory, requests: Requests, missing: set[str]
) -> dict[str, LabelFailure]:
    """Label all structures without a label, in parallel.

    Returns:
        Failures that are not recorded, by key: the next run tries them again.
    """
    if not missing:
        return {}
    chunks = [chunk for chunk in labelling.chunks(requests) if not missing.isdisjoint(chunk.structures)]
    n_requested = len(requests.by_key)
    progress = _ProgressLog(n_requested, n_requested - sum(map(len, chunks)))
    work = _Work(labelling, theory, progress, TaskQueue(partial(n_at_once, labelling.pools.labelling), SimpleQueue()))
    for chunk in chunks:
        work.add(chunk)
    work.queue.wait()
    return work.lost


class _Work:
    """Chunks that are labelled in parallel; labels in computation by other processes come last.

    Args:
        labelling: the open labelling.
        theory: the level of theory.
        progress: receives the outcome of each chunk.
        queue: queue of the tasks.

    Attributes:
        lost: failures that are not recorded, by key.
    """

    def __init__(self, labelling: Labelling, theory: LevelOfTheory, progress: "_ProgressLog", queue: TaskQueue) -> None:
        self.labelling, self.theory, self.progress, self.queue = labelling, theory, progress, queue
        self.watch = Watch(labelling.store.claims)
        self.lost: dict[str, LabelFailure] = {}
        # Within a run, no structure is in two tasks at once: a claim of the same run is that of a lost worker.
        self.name = str(runtime.flow_run.id)

    def add(self, chunk: Chunk) -> None:
        """Have a chunk labelled."""
        self.queue.add(
            chunk.name,
            partial(self._submit, chunk),
            partial(self._take, chunk),
            lambda: all(self.watch.is_held(key, self.name) for key in chunk.structures),
        )

    def _submit(self, chunk: Chunk) -> PrefectFuture[Any]:  # Any: a tally
        labelling, task = self.labelling, label_several
        if len(chunk) > 1:
            # What is unlabelled after a few goes to tasks of one each, so that no structure holds up others for long.
            task = task.with_options(retries=len(TOGETHER_S), retry_delay_seconds=TOGETHER_S)
        return submit_unlinked(
            task,
            labelling.labelling,
            chunk,
            labeller=Labeller(
                labelling.checked.reference,
                self.theory,
                labelling.store.on_behalf_of(Claimant(self.name, self.watch.dead)),
                labelling.directory.scratch,
            ),
            name=chunk.name,
        )

    def _take(self, chunk: Chunk) -> None:
        outcome = self.queue.futures.pop(chunk.name).result(raise_on_failure=False)
        if isinstance(outcome, WorkerLost | AttemptFailed) and len(chunk) > 1:
            # One structure may have ended every worker: each of them gets a task of its own.
            for each in chunk.of_one():
                self.add(each)
            return
        if isinstance(outcome, WorkerLost | AttemptFailed):
            (key,) = chunk.structures
            outcome = _given_up(self.labelling, key, outcome)
        if isinstance(outcome, BaseException):
            raise outcome
        self._lose(outcome.broken)
        self.progress.add(outcome.counts)
        if outcome.claimed:
            self.add(chunk.only(outcome.claimed))

    def _lose(self, failures: Mapping[str, LabelFailure]) -> None:
        self.lost.update(failures)
        for key, failure in failures.items():
            text = f"no label of {key[:11]} in this run ({failure.reason}): {failure.message}"
            announce(logger, LabelFailed(message=text, key=key, reason=failure.reason, new=True))


def _given_up(labelling: Labelling, key: str, error: Exception) -> Tally:
    """Return the failure of a structure, as all retries have come to nothing."""
    recorded = labelling.store.failures(key)
    failure = recorded[-1] if recorded else LabelFailure("crash", str(error))
    return Tally(count([failure]), {key: failure})


@dataclass(slots=True)
class _ProgressLog:
    """A log of the progress, written from time to time.

    Attributes:
        n_requested: number of different structures to label.
        n_found: number of structures without a task, because the outcome of their whole chunk is known.
        counts: outcomes of the others so far.
        logged: time of the last line.
    """

    n_requested: int
    n_found: int
    counts: "Counter[str]" = field(default_factory=Counter)
    logged: float = field(default_factory=time.monotonic)

    def add(self, counts: Mapping[str, int]) -> None:
        """Add the outcomes of some structures."""
        self.counts.update(counts)
        if time.monotonic() > self.logged + LINE_S:
            self.logged = time.monotonic()
            n_done = min(self.n_requested, self.n_found + self.counts.total())
            n_failed = self.counts.total() - self.counts[LABELLED]
            logger.info("%d of %d labels are done, %d failed", n_done, self.n_requested, n_failed)


def _conclude(
    labelling: Labelling, theory: LevelOfTheory, requests: Requests, lost: Mapping[str, LabelFailure]
) -> Path:
    """Write the results, and report them."""
    with reading_ahead(labelling.store, requests.by_key) as stored:

        def outcome_of(key: str) -> Label | LabelFailure:
            outcome = stored(key) or lost.get(key)
            if outcome is None:
                raise StorageFailed(f"label {key[:11]} was computed, but {labelling.store} does not have it any more")
            return outcome

        summary = write_results(labelling.directory, requests, theory, outcome_of, str(runtime.flow_run.id))
    reasons = "".join(f", {n} {reason}" for reason, n in summary["failures"].items())
    text = f"{summary['n_labelled']} of {number_of(summary['n_structures'], 'structure')} labelled{reasons}"
    announce(logger, LabellingComplete(message=text))
    tag_run(sorted(summary["failures"]))
    return labelled_file(labelling.directory)
