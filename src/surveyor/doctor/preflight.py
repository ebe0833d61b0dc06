"""Preflight: checks before a campaign begins, for faults that would otherwise stop it hours later.

Each check gives results; a fault is a result with the line that fixes it. Nothing is labelled, and nothing is left in
the folders of the campaign.
"""

import math
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from surveyor.doctor.pool_checks import examine_pools
from surveyor.doctor.probe import WRITTEN_HERE, free_GB, temporary_part
from surveyor.doctor.results import FIELDS, CheckResult, Subject, fault, fault_of, remark
from surveyor.errors import InputError
from surveyor.files import make_folder
from surveyor.lease import holder_of
from surveyor.pools.site import WorkersSite
from surveyor.reference.reference import time_limit_of
from surveyor.storage import FolderStorage
from surveyor.storage.object_storage import ObjectStorage
from surveyor.words import number_of
from surveyor.works.campaign import CAMPAIGN, CheckedCampaign, advice_on_ahead
from surveyor.works.store import check_bucket

HERE = "here"


def examine(subject: Subject, *, has_access: bool = True) -> Iterator[CheckResult]:
    """Check a campaign, first from this machine, then on workers of its pools.

    Pools are opened for it, with one job at most, and closed again. Those that were opened by hand are used.

    Args:
        subject: the campaign.
        has_access: whether the access to the bucket of its label store is known; without it, the bucket is not asked.
    """
    subject = replace(subject, checked=(yield from check_inputs(subject)))
    yield from check_lease(subject)
    yield from check_walltime(subject)
    yield from check_overlap(subject)
    with ExitStack() as made:
        folders: dict[str, Path] = {}
        for name, path in subject.folders.items():
            try:
                folders[name] = written(made.enter_context(temporary_in(path)))
                yield CheckResult(name, HERE, f"{path}: writable, {free_GB(path):.0f} GB are free")
            except OSError as error:
                line = f"{FIELDS[name]}: FOLDER  # that this machine can write to; or repair {path}"
                yield fault(name, HERE, f"{path} cannot be written: {error.strerror}", line)
        part = (yield from _check_bucket(subject, made)) if has_access else None
        yield from examine_pools(subject, folders, part)


def _check_bucket(subject: Subject, made: ExitStack) -> Generator[CheckResult, None, ObjectStorage | None]:
    """Prove that the bucket of the label store keeps its promises; return a part of it to show to workers."""
    if subject.bucket is None:
        return None
    try:
        check_bucket(subject.directory, subject.parameters, subject.access)
        part = made.enter_context(temporary_part(subject.bucket))
    except (InputError, OSError) as error:
        yield fault_of(error, "label store", HERE, "labels: s3://BUCKET/labels")
        return None
    yield proof_of(subject.bucket)
    return part


def proof_of(bucket: ObjectStorage, check: str = "label store") -> CheckResult:
    """Return the result for a bucket that keeps its promises."""
    return CheckResult(check, HERE, f"{bucket}: writable; of several writers of one object, exactly one wins")


def check_inputs(subject: Subject) -> Generator[CheckResult, None, CheckedCampaign | None]:
    """Check the parameters and their files, and return the results."""
    try:
        CAMPAIGN.check_files(subject.parameters)
        checked = CAMPAIGN.make(subject.parameters)
    except InputError as error:
        yield fault_of(error, "campaign file", HERE, f"edit {subject.file}")
        return None
    yield CheckResult("campaign file", HERE, f"{subject.file}: {number_of(len(checked.walkers), 'walker')}")
    for report in checked.reports:
        yield CheckResult("structures", HERE, report.summary)
        yield from (remark("structures", HERE, line) for line in report.warnings)
    path = subject.directory.path
    try:
        CAMPAIGN.check_continuation(subject.parameters)
    except InputError as error:
        line = f"run_directory: {path.with_name(f'{path.name}-2')}  # or restore the parameters that differ"
        yield fault("continuation", HERE, str(error), line)
        return checked
    n_complete, is_there = subject.directory.n_complete(), subject.directory.parameters.exists()
    found = f"continues after {number_of(n_complete, 'complete generation')}" if is_there else "is new"
    yield CheckResult("continuation", HERE, f"the campaign in {path} {found}")
    return checked


def check_lease(subject: Subject) -> Iterator[CheckResult]:
    """Check that no process works in the run directory."""
    holder = holder_of(subject.directory.lease)
    if holder is not None:
        pid, host = holder.get("pid"), holder.get("host")
        found = f"{subject.directory.path} is in use by process {pid} on {host}"
        yield fault("lease", HERE, found, f"kill {pid}  # on {host}; or wait for its end")


def check_walltime(subject: Subject) -> Iterator[CheckResult]:
    """Check the walltimes of jobs against the labels, walks and trainings that have to end within them."""
    pools = subject.parameters.pools
    site, checked = subject.sites.get(pools.labelling), subject.checked
    limit = None if checked is None else time_limit_of(checked.reference)
    if isinstance(site, WorkersSite) and checked is not None and limit is not None:
        lasts = f"a label ends within {limit / 60:g} min, a job lasts {site.walltime_s / 60:g} min"
        try:
            CAMPAIGN.check_sites(subject.parameters, checked, subject.sites)
            yield CheckResult("walltime", pools.labelling, lasts)
        except InputError as error:
            minutes = math.ceil((limit + site.walltime_s - site.longest_function_s) / 60)
            yield fault_of(error, "walltime", pools.labelling, f"{site.limit_field}: {minutes}")
    unlimited = {pools.sampling: "a walk", pools.training: "a training"}
    if limit is None:
        unlimited[pools.labelling] = "a label"
    for name, work in unlimited.items():
        site = subject.sites.get(name)
        if isinstance(site, WorkersSite):
            found = f"a job lasts {site.walltime_s / 60:g} min; {work} has no time limit: see that the slowest fits"
            yield remark("walltime", name, found)


def check_overlap(subject: Subject) -> Iterator[CheckResult]:
    """Check that the labelling pool is kept busy."""
    name = subject.parameters.pools.labelling
    with suppress(InputError):  # there is no room for a worker, which the check of the pool finds
        if advice := advice_on_ahead(subject.parameters, subject.sites.get(name)):
            yield remark("overlap", name, advice)


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Provide a new folder in a folder, and remove all that was made at the end.

    Args:
        folder: is made, with those above it, where it is missing, and then removed again.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        make_folder(folder)
        path = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
    finally:
        for each in missing:
            with suppress(OSError):  # it was never made, or somebody else uses it by now
                each.rmdir()


def written(folder: Path) -> Path:
    """Write a record of this process into a folder, for workers to find, and return the folder."""
    FolderStorage(folder).put_new(WRITTEN_HERE, b"written by surveyor doctor\n")
    return folder
