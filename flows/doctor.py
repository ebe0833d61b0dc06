"""`surveyor doctor`: what would fail hours later, found before a campaign begins."""

import argparse
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from surveyor.campaign import CAMPAIGN, CampaignParameters
from surveyor.doctor.preflight import HERE, examine
from surveyor.doctor.results import CheckResult, Subject, fault, fault_of, remark
from surveyor.errors import InputError
from surveyor.flows.pool_commands import users_pools
from surveyor.pools.choice import plain_site
from surveyor.pools.site import Site
from surveyor.reference.choice import Codes
from surveyor.words import number_of

MARKS = {"good": ("ok", "green"), "remark": ("note", "yellow"), "fault": ("FAULT", "bold red")}


def add_doctor_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    doctor = commands.add_parser(
        "doctor",
        help="check files, machines and pools for faults before a run",
        epilog="example: surveyor doctor campaign.yaml --wait-minutes 30",
    )
    doctor.add_argument("campaign", type=Path, help="campaign file (YAML)")
    doctor.add_argument(
        "--wait-minutes", type=float, default=10.0, metavar="N", help="maximum time to wait for workers; 10 by default"
    )
    doctor.set_defaults(command=_doctor)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    with console.status("looking") as status:
        results = list(look(options.campaign, 60 * options.wait_minutes, _progress_printer(console, status)))
    console.print(results_table(results))
    faults = [result for result in results if result.severity == "fault"]
    for result in faults:
        console.print(Text(f"\n{result.check}, {result.where}: {result.found}", "red"))
        console.print(Text(f"  mend: {result.mend}", "bold"))
    console.print(f"\n{number_of(len(faults), 'fault')} in {number_of(len(results), 'result')}")
    return 1 if faults else 0


def _progress_printer(console: Console, status: Status) -> Callable[[str], None]:
    """Return a function that shows what `doctor` waits for: in place in a terminal, line by line elsewhere."""
    told = [""]

    def on_progress(text: str) -> None:
        if console.is_terminal:
            status.update(text)
        elif text != told[-1]:
            console.print(text, markup=False)
            told.append(text)

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
    codes = yield from _check_server(parameters, sites)
    parameters = parameters.model_copy(update={"codes": codes})
    yield from examine(Subject(file, parameters, sites, users_pools(), wait_s, on_progress))


def _check_server(parameters: CampaignParameters, sites: dict[str, Site]) -> Generator[CheckResult, None, Codes]:
    """Check the server and the blocks of pools and codes; add the sites that they hold, and return the codes."""
    # Prefect takes seconds to import, and a campaign file with a fault needs none of it.
    from prefect.settings import PREFECT_API_URL

    from surveyor.flows.server import HOST, PORT, ServerUnreachable, answers, using_server
    from surveyor.flows.server_checks import check_installed, check_server

    missing = [name for name in parameters.pools.names if name not in sites]
    codes, configured = parameters.codes, PREFECT_API_URL.value()
    url = configured or f"http://{HOST}:{PORT}/api"
    yield from check_installed()
    if not configured and not missing and codes.cp2k_block is None and not answers(url):
        yield remark("Prefect server", HERE, "none is configured; `surveyor run` starts one on this machine")
        return codes
    with ExitStack() as stack:
        try:
            stack.enter_context(using_server())
        except ServerUnreachable as error:
            yield fault_of(error, "Prefect server", HERE, "prefect server start")
            return codes
        yield from check_server(url)
        for name in missing:
            yield _load(name, sites)
        return (yield from _load_codes(codes))


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


def _fault_of_block(error: InputError, name: str) -> CheckResult:
    is_missing = "there is no such block" in str(error)
    line = "surveyor blocks register  # then create it" if is_missing else f"edit block {name}"
    return fault("block", name, str(error), line)
