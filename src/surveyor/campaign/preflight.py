"""Preflight: what would otherwise fail hours later, looked at before a campaign begins.

Each check gives findings; a fault is a finding with the line that mends it. Nothing is labelled, and nothing is left in
the folders of the campaign.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from surveyor.campaign.checks import check_campaign, check_sites
from surveyor.campaign.continuation import check_continuation
from surveyor.campaign.findings import FIELDS, Finding, Subject, fault, fault_of, remark
from surveyor.campaign.parameters import CampaignParameters
from surveyor.campaign.pool_checks import examine_pools
from surveyor.errors import InputError
from surveyor.files import make_folder
from surveyor.lease import holder_of
from surveyor.pools.probe import WRITTEN_HERE, free_GB
from surveyor.pools.sites import JobQueueSite
from surveyor.reference.choice import make_reference
from surveyor.reference.reference import time_limit_of
from surveyor.storage import FolderStorage
from surveyor.words import number_of

HERE = "here"


def examine(subject: Subject) -> Iterator[Finding]:
    """Look at a campaign: first what can be seen from here, then what workers of its pools see.

    Pools are opened for it, with one job at most, and closed again. Those that were opened by hand are used.
    """
    for check in CHECKS:
        yield from check(subject)
    with ExitStack() as made:
        folders: dict[str, Path] = {}
        for name, path in subject.folders.items():
            try:
                folders[name] = _written(made.enter_context(temporary_in(path)))
                yield Finding(name, HERE, f"{path}: writable, {free_GB(path):.0f} GB are free")
            except OSError as error:
                line = f"{FIELDS[name]}: FOLDER  # that this machine can write to; or mend {path}"
                yield fault(name, HERE, f"{path} cannot be written: {error.strerror}", line)
        yield from examine_pools(subject, folders)


def check_inputs(subject: Subject) -> Iterator[Finding]:
    """Check the parameters and the files that they name."""
    try:
        checked = check_campaign(subject.parameters)
    except InputError as error:
        yield fault_of(error, "campaign file", HERE, f"edit {subject.file}")
        return
    yield Finding("campaign file", HERE, f"{subject.file}: {number_of(len(checked.walkers), 'walker')}")
    for report in checked.reports:
        yield Finding("structures", HERE, report.summary)
        yield from (remark("structures", HERE, line) for line in report.warnings)
    path = subject.directory.path
    try:
        check_continuation(subject.directory, subject.parameters)
    except InputError as error:
        line = f"run_directory: {path.with_name(f'{path.name}-2')}  # or restore the parameters that differ"
        yield fault("continuation", HERE, str(error), line)
        return
    n_complete, is_there = subject.directory.n_complete(), subject.directory.parameters.exists()
    found = f"goes on after {n_complete} complete generations" if is_there else "begins anew"
    yield Finding("continuation", HERE, f"the campaign in {path} {found}")


def check_lease(subject: Subject) -> Iterator[Finding]:
    """Check that nobody works in the run directory."""
    holder = holder_of(subject.directory.lease)
    if holder is not None:
        pid, host = holder.get("pid"), holder.get("host")
        found = f"{subject.directory.path} is in use by process {pid} on {host}"
        yield fault("lease", HERE, found, f"kill {pid}  # on {host}; or wait for its end")


def check_walltime(subject: Subject) -> Iterator[Finding]:
    """Check the walltimes of jobs against what has to end within them."""
    pools = subject.parameters.pools
    site = subject.sites.get(pools.labelling)
    limit = _time_limit(subject.parameters)
    if isinstance(site, JobQueueSite) and limit is not None:
        lasts = f"a label ends within {limit / 60:g} min, a job lasts {site.walltime_minutes:g} min"
        try:
            check_sites(subject.parameters, subject.sites)
            yield Finding("walltime", pools.labelling, lasts)
        except InputError as error:
            minutes = math.ceil(limit / 60 + site.walltime_minutes - site.longest_function_s / 60)
            yield fault_of(error, "walltime", pools.labelling, f"walltime_minutes: {minutes}")
    unlimited = {pools.sampling: "a walk", pools.training: "a training"}
    if limit is None:
        unlimited[pools.labelling] = "a label"
    for name, work in unlimited.items():
        site = subject.sites.get(name)
        if isinstance(site, JobQueueSite):
            found = f"a job lasts {site.walltime_minutes:g} min; {work} has no time limit: see that the slowest fits"
            yield remark("walltime", name, found)


def _time_limit(parameters: CampaignParameters) -> float | None:
    with suppress(InputError):  # then the campaign file has a fault
        return time_limit_of(make_reference(parameters.reference, parameters.codes))
    return None


CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (check_inputs, check_lease, check_walltime)


@contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """Give a new folder in a folder, and leave all as it was.

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


def _written(folder: Path) -> Path:
    FolderStorage(folder).put_new(WRITTEN_HERE, b"written by surveyor doctor\n")
    return folder
