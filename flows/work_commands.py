"""The common parts of the commands that run work."""

import argparse
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from surveyor.flows.display import View, following, quieten_prefect
from surveyor.run_directory import RunDirectory
from surveyor.works.parameters import WorkParameters

LARGE = 2**18  # bytes of parameters, half of what Prefect stores by default


def add_work_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    view: View,
    check_here: Callable[[Any], None] = lambda _: None,  # Any: parameters of this kind of work
) -> None:
    """Add the command of a kind of work.

    Args:
        commands: commands of `surveyor`.
        name: name of the command.
        summary: its summary.
        view: view of the kind of work.
        check_here: additional checks before a server is started.
    """
    command = commands.add_parser(name, help=summary, epilog=f"example: surveyor {name} ethanol.yaml")
    command.add_argument("parameters", type=Path, help="parameter file (YAML)")
    command.add_argument("--json", action="store_true", help="only print the valid parameters, for a deployment")
    command.set_defaults(command=partial(_run, view, check_here))


def _run(view: View, check_here: Callable[[Any], None], options: argparse.Namespace, console: Console) -> int:
    parameters = view.kind.load(options.parameters)
    check_fits(parameters)
    checked = view.kind.check(parameters)
    if options.json:
        console.print(parameters.model_dump_json(), markup=False)
        return 0
    check_here(parameters)
    return run_work(view, parameters, checked, console)


def check_fits(parameters: WorkParameters) -> None:
    """Check that Prefect can store the parameters; it is imported only if they are large.

    Raises:
        InputError: they are too large; the message names the largest field.
    """
    if len(parameters.model_dump_json()) > LARGE:
        from surveyor.flows.users_flow import check_size

        check_size(parameters)


def run_work(view: View, parameters: WorkParameters, checked: object, console: Console) -> int:
    """Run the flow of work, with a display, and print the results; return the exit status.

    Args:
        view: view of the kind of work.
        parameters: parameters with absolute paths.
        checked: result of the checks.
        console: console for the display.
    """
    path = call_flow(view, parameters, checked, console)
    return view.conclude(console, RunDirectory(parameters.folder), path)


def call_flow(view: View, parameters: WorkParameters, checked: object, console: Console) -> Path:
    """Run the flow of work with a display; return the main file of the results.

    Args:
        view: view of the kind of work.
        parameters: parameters with absolute paths.
        checked: result of the checks; None if the flow is to check.
        console: console for the display.
    """
    quieten_prefect()
    from surveyor.flows.server import using_server

    module = f"surveyor.flows.{view.flow}"
    with using_server(meanwhile=partial(import_module, module)) as server:
        console.print(server)
        from surveyor.flows.opening import handing_over

        flow = getattr(import_module(module), view.flow)
        with following(RunDirectory(parameters.folder), console, view), handing_over(parameters, checked):
            path: Path = flow(**dict(parameters), display=False)
    return path
