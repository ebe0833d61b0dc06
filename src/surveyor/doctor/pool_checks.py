"""Checks on the workers of a campaign's pools, before the campaign begins."""

import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from surveyor.doctor.host_checks import check_hosts
from surveyor.doctor.opened_pools import UNANSWERED, OpenedPool, no_worker, opened_pool
from surveyor.doctor.probe import Question, WorkerView, look_around
from surveyor.doctor.results import CheckResult, Subject, fault, fault_of, remark
from surveyor.doctor.worker_checks import WORKER_CHECKS, AskedForCampaign, stages_of, wants_gpu
from surveyor.doctor.workspaces import proven_part, through_workspace
from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory, load_theory
from surveyor.models.choice import check_model_parameters, with_contents
from surveyor.pools.site import WorkersSite
from surveyor.pools.sites import JobQueueSite
from surveyor.pools.ssh.site import SSHSite
from surveyor.storage.object_storage import ObjectStorage
from surveyor.works.campaign import CheckedCampaign, check_theory
from surveyor.works.workspaces import workspace_of

# What is to be edited where a reference cannot be computed, by what is said of it.
LINES = (
    ("was not found", "codes: {cp2k: {command: /FULL/PATH/cp2k.psmp}}"),
    ("--version", "codes: {cp2k: {command: …}}  # one that starts CP2K there, as tried by hand"),
    ("data directory", "codes: {cp2k: {data_directory: FOLDER}}"),
    ("the scratch of CP2K", "codes: {cp2k: {scratch: FOLDER}}  # one that every worker has"),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Examined:
    """A pool of a campaign, with the questions sent to its worker.

    All is asked at once: between two questions a job that has nothing to do may end.
    """

    subject: Subject
    pool: OpenedPool
    question: Question
    view: Future[WorkerView]
    theory: Future[LevelOfTheory] | None
    engine: Future[None] | None


def examine_pools(
    subject: Subject, folders: Mapping[str, Path], bucket: ObjectStorage | None = None
) -> Iterator[CheckResult]:
    """Check a worker of each pool of a campaign.

    Args:
        subject: the campaign.
        folders: the folders that all pools have to see, by purpose.
        bucket: a part of the bucket that all pools have to see.
    """
    of_closing: list[CheckResult] = []
    with ExitStack() as stack:
        pools = []
        for name in subject.parameters.pools.names:
            site = subject.sites.get(name)
            if site is None or (isinstance(site, WorkersSite) and "run directory" not in folders):
                lacks = "where it is, is not known" if site is None else "its process needs the run directory"
                yield remark("worker", name, f"not asked, as {lacks}")
                continue
            if isinstance(site, SSHSite) and not (yield from _is_any_host_good(subject, name, site, folders)):
                continue
            subject.on_progress(f"opening pool {name}")
            try:
                pools.append(stack.enter_context(_asked(subject, name, folders, bucket, of_closing)))
            except InputError as error:
                yield no_worker(name, site, error)
        deadline = time.monotonic() + subject.wait_s
        for pool in pools:
            yield from _hear(pool, deadline)
        subject.on_progress("closing pools")
    yield from of_closing


def _is_any_host_good(
    subject: Subject, name: str, site: SSHSite, folders: Mapping[str, Path]
) -> Generator[CheckResult, None, bool]:
    """Check the machines of a pool by ssh; return whether it can be opened."""
    subject.on_progress(f"asking the machines of pool {name}")
    results = list(check_hosts(name, site, folders, wants_gpu=wants_gpu(subject.parameters, name, site)))
    yield from results
    return any(each.severity != "fault" for each in results)


@contextmanager
def _asked(
    subject: Subject,
    name: str,
    folders: Mapping[str, Path],
    bucket: ObjectStorage | None,
    of_closing: list[CheckResult],
) -> Iterator[_Examined]:
    site, run_directory = subject.sites[name], folders.get("run directory")
    folder = None if run_directory is None else run_directory / "pools"
    question = _question(subject, name, folders, bucket)
    with (
        opened_pool(name, site, folder, subject.by_hand, subject.on_progress, of_closing) as pool,
        ExitStack() as stack,
    ):
        if (address := workspace_of(site)) is not None:
            part = stack.enter_context(proven_part(address, subject.accesses.get(name)))
            pool, question = stack.enter_context(through_workspace(pool, question, part, subject.directory.path))
        view = pool.submit(look_around, question)
        is_open = not view.done() or view.exception() is None
        theory = _asked_theory(subject, pool) if is_open else None
        engine = _asked_engine(subject, pool) if is_open else None
        yield _Examined(subject, pool, question, view, theory, engine)


def _question(subject: Subject, name: str, folders: Mapping[str, Path], bucket: ObjectStorage | None) -> Question:
    site = subject.sites[name]
    return Question(
        answer=f"from-{name.replace('/', '-')}",
        folders=folders if workspace_of(site) is None else {},
        scratch=site.scratch if isinstance(site, JobQueueSite) else None,
        wants_gpu=wants_gpu(subject.parameters, name, site),
        bucket=bucket,
    )


def _asked_theory(subject: Subject, pool: OpenedPool) -> Future[LevelOfTheory] | None:
    if subject.checked is None or "labelling" not in stages_of(subject.parameters, pool.name):
        return None  # a campaign file with a fault has been reported
    return pool.submit(subject.checked.reference.resolve)


def _asked_engine(subject: Subject, pool: OpenedPool) -> Future[None] | None:
    if stages_of(subject.parameters, pool.name) == ["labelling"]:
        return None
    try:
        parameters = with_contents(subject.parameters.model)
    except InputError:
        return None  # reported as a fault of the campaign file
    return pool.submit(check_model_parameters, parameters, subject.parameters.features_for)


def _hear(examined: _Examined, deadline: float) -> Iterator[CheckResult]:
    """Wait for the worker of a pool, and yield the results of all checks on it."""
    subject, pool = examined.subject, examined.pool
    if not pool.is_done(examined.view, deadline):
        yield pool.without_worker(subject.wait_s)
        return
    try:
        view = examined.view.result()
    except UNANSWERED as error:
        yield no_worker(pool.name, pool.site, error)
        return
    waited_s = max(0.0, view.time - pool.began)
    asked = AskedForCampaign(pool.name, pool.site, examined.question, view, waited_s, subject.parameters)
    for check in WORKER_CHECKS:
        yield from check(asked)
    if examined.theory is not None and subject.checked is not None:
        yield from _check_theory(examined, examined.theory, subject.checked)
    if examined.engine is not None:
        yield from _check_engine(examined, examined.engine)


def _check_theory(examined: _Examined, asked: Future[LevelOfTheory], checked: CheckedCampaign) -> Iterator[CheckResult]:
    subject, name = examined.subject, examined.pool.name
    try:
        theory = examined.pool.answer(asked)
        check_theory(subject.parameters, checked.walkers, theory)
    except UNANSWERED as error:
        yield fault_of(error, "reference", name, _line_for_reference(subject, str(error)))
        return
    program = f"{theory.content.get('program', theory.name)} {theory.content.get('version', '')}".strip()
    yield CheckResult("reference", name, f"{program}; level of theory {theory.name} ({theory.digest[:12]})")
    yield from _check_frozen(subject, name, theory)


def _line_for_reference(subject: Subject, said: str) -> str:
    chosen = subject.parameters.reference
    if chosen.cp2k is None:
        return f"edit reference in {subject.file}"
    return next((line for text, line in LINES if text in said), f"edit {chosen.cp2k.input or subject.file}")


def _check_frozen(subject: Subject, name: str, theory: LevelOfTheory) -> Iterator[CheckResult]:
    path = subject.directory.theory
    if path.exists() and not theory.is_same_as(load_theory(path)):
        found = f"another level of theory than the one with which the campaign in {subject.directory.path} began"
        line = "run_directory: FOLDER  # a new one; or restore the program, its input and its data files"
        yield fault("reference", name, found, line)


def _check_engine(examined: _Examined, asked: Future[None]) -> Iterator[CheckResult]:
    subject, name = examined.subject, examined.pool.name
    (kind,) = subject.parameters.model.model_dump(exclude_none=True)
    try:
        examined.pool.answer(asked)
        yield CheckResult("model", name, f"{kind}: its engine is there, and knows its options")
    except UNANSWERED as error:
        yield fault_of(error, "model", name, f"edit model in {subject.file}, or the environment of pool {name}")
