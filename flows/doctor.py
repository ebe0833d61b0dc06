"""`surveyor doctor`: checks before a campaign begins, for faults that would otherwise stop it hours later."""

import argparse
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from surveyor.doctor.one_pool import examine_pool
from surveyor.doctor.preflight import HERE, examine, proof_of
from surveyor.doctor.results import CheckResult, Subject, fault, fault_of, remark
from surveyor.errors import InputError
from surveyor.flows.pool_commands import stored_site, users_pools
from surveyor.flows.stores import access_to, add_storage_option, store_argument
from surveyor.pools.choice import BLOCK, plain_site
from surveyor.pools.site import BorderSite, Site
from surveyor.reference.choice import Codes
from surveyor.storage.buckets import Bucket, BucketAccess
from surveyor.storage.object_storage import ObjectStorage, prove
from surveyor.words import number_of
from surveyor.works.campaign import CAMPAIGN, CampaignParameters

MARKS = {"good": ("ok", "green"), "remark": ("note", "yellow"), "fault": ("FAULT", "bold red")}


def add_doctor_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="check files, machines and pools for faults before a run",
        epilog="example: surveyor doctor campaign.yaml --wait-minutes 30",
    )
    doctor.add_argument(
        "subject",
        type=_subject,
        metavar="SUBJECT",
        help="campaign file (YAML); or the kind and name of the block of a pool, such as ec2/gpu; or the bucket of a "
        "label store, such as s3://bucket/labels",
    )
    add_storage_option(doctor)
    doctor.add_argument(
        "--wait-minutes", type=float, default=10.0, metavar="N", help="maximum time to wait for workers; 10 by default"
    )
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    with console.status("looking") as status:
        results = list(_results(options, _progress_printer(console, status)))
    console.print(results_table(results))
    faults = [result for result in results if result.severity == "fault"]
    for result in faults:
        console.print(Text(f"\n{result.check}, {result.where}: {result.found}", "red"))
        console.print(Text(f"  fix: {result.remedy}", "bold"))
    console.print(f"\n{number_of(len(faults), 'fault')} in {number_of(len(results), 'result')}")
    return 1 if faults else 0


def _subject(text: str) -> Path | str:
    """Return a campaign file, the address of a bucket, or the name of a block of a pool."""
    return text if BLOCK.fullmatch(text) and not Path(text).exists() else store_argument(text)


def _results(options: argparse.Namespace, on_progress: Callable[[str], None]) -> Iterator[CheckResult]:
    subject, wait_s = options.subject, 60 * options.wait_minutes
    if isinstance(subject, str) and not BLOCK.fullmatch(subject):
        return look_at_bucket(subject, options.storage)
    if options.storage is not None:
        raise InputError("--storage: expected only with a bucket; a campaign file has its own field `storage`")
    if isinstance(subject, str):
        return look_at_pool(subject, wait_s, on_progress)
    return look(subject, wait_s, on_progress)


def _progress_printer(console: Console, status: Status) -> Callable[[str], None]:
    """Return a function that shows the waits of `doctor`: in place in a terminal, line by line elsewhere."""
    printed = [""]

    def on_progress(text: str) -> None:
        if console.is_terminal:
            status.update(text)
        elif text != printed[-1]:
            console.print(text, markup=False)
            printed.append(text)

    return on_progress


def results_table(results: Sequence[CheckResult]) -> Table:
    """Return the results of all checks as a table for the terminal; faults are described in full below it."""
    table = Table("", "check", "where", "found")
    for each in results:
        mark, style = MARKS[each.severity]
        table.add_row(Text(mark, style), each.check, Text(each.where), Text(each.found.partition("\n")[0]))
    return table


def look(file: Path, wait_s: float, on_progress: Callable[[str], None]) -> Iterator[CheckResult]:
    """Check everything that a campaign needs: its file, the Prefect server, the folders, the pools.

    Args:
        file: campaign file.
        wait_s: maximum time to wait for a worker.
        on_progress: called with a description of each wait.
    """
    try:
        parameters = CAMPAIGN.load(file)
    except InputError as error:
        yield fault_of(error, "campaign file", HERE, f"edit {file}")
        return
    sites = {name: site for name in parameters.pools.names if (site := plain_site(name)) is not None}
    on_progress("asking the Prefect server")
    stored = yield from _check_server(parameters, sites)
    parameters = parameters.model_copy(update={"codes": stored.codes})
    subject = Subject(
        file, parameters, sites, users_pools(), wait_s, on_progress, access=stored.access, accesses=stored.accesses
    )
    yield from examine(subject, has_access=stored.has_access)


def look_at_bucket(address: str, storage: str | None) -> Iterator[CheckResult]:
    """Check that a bucket can keep labels.

    Args:
        address: address of the bucket.
        storage: name of the block with the access to it; None for the access that the environment gives.

    Raises:
        InputError: the address or the name of the block is wrong.
    """
    bucket = ObjectStorage(Bucket.at(address), access_to(address, storage))
    try:
        prove(bucket)
    except InputError as error:
        yield fault_of(error, "label store", HERE, f"edit {f'block {storage}' if storage else 'the environment'}")
    else:
        yield proof_of(bucket)


def look_at_pool(name: str, wait_s: float, on_progress: Callable[[str], None]) -> Iterator[CheckResult]:
    """Start one job of a pool, and check the environment of its worker; its files are in the current folder meanwhile.

    Args:
        name: kind and name of its block.
        wait_s: maximum time to wait for a worker.
        on_progress: called with a description of each wait.

    Raises:
        InputError: there is no such block, or none with the access to its workspace.
    """
    site = stored_site(name)
    yield from examine_pool(
        name,
        site,
        Path.cwd(),
        by_hand=users_pools(),
        access=access_to(site.workspace, site.storage) if isinstance(site, BorderSite) and site.workspace else None,
        wait_s=wait_s,
        on_progress=on_progress,
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    """Contents of blocks.

    `has_access` is false if the access to the bucket of the label store is not known; `accesses` are those to the
    workspaces of pools.
    """

    codes: Codes
    access: BucketAccess | None = None
    has_access: bool = True
    accesses: Mapping[str, BucketAccess] = field(default_factory=dict)


def _check_server(parameters: CampaignParameters, sites: dict[str, Site]) -> Generator[CheckResult, None, _Stored]:
    """Check the server and the blocks; add the sites that they hold, and return the rest."""
    # Prefect takes seconds to import, and a campaign file with a fault needs none of it.
    from prefect.settings import PREFECT_API_URL

    from surveyor.flows.server import HOST, PORT, ServerUnreachable, answers, using_server
    from surveyor.flows.server_checks import check_installed, check_server

    missing = [name for name in parameters.pools.names if name not in sites]
    codes, storage, configured = parameters.codes, parameters.storage, PREFECT_API_URL.value()
    url = configured or f"http://{HOST}:{PORT}/api"
    yield from check_installed()
    if not (configured or missing or codes.cp2k_block or storage or answers(url)):
        yield remark("Prefect server", HERE, "none is configured; `surveyor run` starts one on this machine")
        return _Stored(codes)
    with ExitStack() as stack:
        try:
            stack.enter_context(using_server())
        except ServerUnreachable as error:
            yield fault_of(error, "Prefect server", HERE, "prefect server start")
            return _Stored(codes, has_access=storage is None)
        yield from check_server(url)
        for name in missing:
            yield _load(name, sites)
        codes = yield from _load_codes(codes)
        accesses = yield from _load_accesses(sites)
        return replace((yield from _load_storage(storage, codes)), accesses=accesses)


def _load(name: str, sites: dict[str, Site]) -> CheckResult:
    from surveyor.blocks.pools import load_sites

    try:
        sites |= load_sites([name])
    except InputError as error:
        return _fault_of_block(error, name)
    return CheckResult("block", name, f"a pool of kind {sites[name].kind}")


def _load_codes(codes: Codes) -> Generator[CheckResult, None, Codes]:
    from surveyor.blocks.codes import load_codes

    name = codes.cp2k_block
    if name is None:
        return codes
    try:
        loaded = load_codes(codes)
    except InputError as error:
        yield _fault_of_block(error, name)
        return codes
    yield CheckResult("block", name, f"runs `{loaded.cp2k_code.command}`")
    return loaded


def _load_accesses(sites: dict[str, Site]) -> Generator[CheckResult, None, dict[str, BucketAccess]]:
    """Load the blocks of the workspaces of pools; a pool whose block cannot be loaded is not asked."""
    from surveyor.blocks.storages import load_accesses

    accesses: dict[str, BucketAccess] = {}
    for name, site in list(sites.items()):
        try:
            accesses |= load_accesses({name: site})
        except InputError as error:
            yield _fault_of_block(error, name)
            del sites[name]
    return accesses


def _load_storage(name: str | None, codes: Codes) -> Generator[CheckResult, None, _Stored]:
    from surveyor.blocks.storages import load_access

    try:
        access = load_access(name)
    except InputError as error:
        yield _fault_of_block(error, name or "")
        return _Stored(codes, has_access=False)
    if access is not None and name is not None:
        yield CheckResult("block", name, f"access to buckets, of kind {access.kind}")
    return _Stored(codes, access)


def _fault_of_block(error: InputError, name: str) -> CheckResult:
    is_missing = "there is no such block" in str(error)
    line = "surveyor blocks register  # then create it" if is_missing else f"edit block {name}"
    return fault("block", name, str(error), line)
