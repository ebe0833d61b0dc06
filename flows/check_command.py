"""`surveyor check`: what a parameter file holds and what is read from its structures, without running anything."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.console import Console

from surveyor.campaign import check_campaign, check_continuation, check_theory, load_campaign
from surveyor.errors import InputError
from surveyor.exploration import check_exploration, load_exploration
from surveyor.labelling import Requests, check_labelling, load_labelling, make_requests, read_for_labels
from surveyor.labels import LevelOfTheory
from surveyor.models.choice import ModelParameters, check_model_parameters, replay_reports
from surveyor.parameter_files import read_fields
from surveyor.parameters import Parameters
from surveyor.pools.choice import LOCAL
from surveyor.reading import ReadingReport
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.reference import Reference
from surveyor.run_directory import RunDirectory
from surveyor.structures import elements_of
from surveyor.training import check_training, is_complete, load_training

N_SHOWN = 8  # refused structures


def add_check_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check`."""
    check = commands.add_parser(
        "check",
        help="check a parameter file and its structures, without running anything",
        epilog="example: surveyor check campaign.yaml",
    )
    check.add_argument(
        "parameters", type=Path, help="parameter file of a campaign, a labelling, a training or a sampling (YAML)"
    )
    check.add_argument("--json", action="store_true", help="only print the valid parameters, for a deployment")
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace, console: Console) -> None:
    fields = read_fields(options.parameters, "parameter file", "run_directory, structures, train or potential")
    if "run_directory" not in fields and fields.keys().isdisjoint(CHECKS):
        raise InputError(
            f"{options.parameters}: it is not clear what this file is of. Expected one of: `run_directory` of a "
            "campaign, `structures` of a labelling, `train` of a training, `potential` of a sampling; found "
            f"{', '.join(map(str, fields))}"
        )
    check = next((check for field, check in CHECKS.items() if field in fields), _check_campaign)
    parameters = check(options.parameters, Console(quiet=True) if options.json else console)
    if options.json:
        console.print(parameters.model_dump_json(), markup=False)


def _check_campaign(file: Path, console: Console) -> Parameters:
    parameters = load_campaign(file)
    checked = check_campaign(parameters)
    directory = RunDirectory(parameters.run_directory)
    check_continuation(directory, parameters)
    _show(console, (*checked.reports, *replay_reports(parameters.model, checked.elements)))
    elements = elements_of([walker.start for walker in checked.walkers])
    n_groups, n_walkers = len(parameters.walkers), len(checked.walkers)
    console.print(f"walkers: {n_walkers} in {n_groups} group(s), elements {', '.join(elements)}")
    # What only another machine can know is asked there, before the first generation.
    if parameters.pools.labelling == LOCAL:
        theory = _theory(console, _reference(parameters.reference, parameters.codes))
        check_theory(parameters, checked.walkers, theory)
    _check_model(parameters.model, parameters.pools.training)
    n_complete = directory.n_complete()
    state = f"has {n_complete} complete generations" if n_complete else "is new"
    console.print(f"{file} is valid; the campaign in {parameters.run_directory} {state}")
    return parameters


def _check_labelling(file: Path, console: Console) -> Parameters:
    parameters = load_labelling(file)
    directory = check_labelling(parameters)
    reading = read_for_labels(parameters)
    _show(console, [reading.report])
    if parameters.pool == LOCAL:
        reference = _reference(parameters.reference, parameters.codes)
        _show_requests(
            console, make_requests(reading.structures, _theory(console, reference), reference, reading.refused)
        )
    else:
        _show_refused(console, {index: f"structure {index}: {reason}" for index, reason in reading.refused.items()})
    _show_end(console, file, "labelling", directory)
    return parameters


def _check_training(file: Path, console: Console) -> Parameters:
    parameters = load_training(file)
    checked = check_training(parameters)
    elements = checked.model.atomic_energies or {}
    _show(console, (*checked.reports, *replay_reports(parameters.model, elements)))
    _check_model(parameters.model, parameters.pool)
    sets = ", ".join(f"{len(getattr(checked.data, name))} for {name}" for name in ("train", "valid", "test"))
    console.print(f"structures: {sets}; elements {', '.join(elements_of(checked.data.train))}")
    _show_end(console, file, "training", checked.directory)
    return parameters


def _check_exploration(file: Path, console: Console) -> Parameters:
    parameters = load_exploration(file)
    checked = check_exploration(parameters)
    _show(console, checked.reports)
    elements = elements_of([walker.start for walker in checked.walkers])
    console.print(f"walkers: {len(checked.walkers)}, elements {', '.join(elements)}")
    _show_end(console, file, "sampling", checked.directory)
    return parameters


# Tells what a parameter file is of; a file with `run_directory` and none of these fields is that of a campaign.
CHECKS: Mapping[str, Callable[[Path, Console], Parameters]] = {
    "structures": _check_labelling,
    "train": _check_training,
    "potential": _check_exploration,
}


def _show(console: Console, reports: Iterable[ReadingReport]) -> None:
    for report in reports:
        console.print(report.summary, markup=False)
        for line in report.warnings:
            console.print(f"warning: {line}", style="yellow", markup=False)


def _show_requests(console: Console, requests: Requests) -> None:
    _show_refused(console, {index: failure.message for index, failure in requests.refused.items()})
    console.print(f"{len(requests.by_key)} different labels would be requested")


def _show_refused(console: Console, refused: Mapping[int, str]) -> None:
    if refused:
        console.print(f"warning: {len(refused)} structure(s) cannot be labelled:", style="yellow")
    for index in sorted(refused)[:N_SHOWN]:
        console.print(f"  {refused[index]}", markup=False)
    if len(refused) > N_SHOWN:
        console.print(f"  and {len(refused) - N_SHOWN} more")


def _show_end(console: Console, file: Path, work: str, directory: RunDirectory) -> None:
    state = "has begun; the same call continues it" if directory.parameters.exists() else "is new"
    if work == "training" and is_complete(directory):
        state = "is complete"
    console.print(f"{file} is valid; the {work} in {directory.path} {state}")


def _check_model(model: ModelParameters | None, pool: str) -> None:
    if pool == LOCAL and model is not None:
        check_model_parameters(model)


def _reference(reference: ReferenceParameters, codes: Codes) -> Reference:
    return make_reference(reference, _loaded(codes))


def _theory(console: Console, reference: Reference) -> LevelOfTheory:
    theory = reference.resolve()
    console.print(f"level of theory: {theory.name} ({theory.digest[:12]})")
    return theory


def _loaded(codes: Codes) -> Codes:
    """Return codes with what a block of the Prefect server holds; it is asked only where one is named."""
    if codes.cp2k_block is None:
        return codes
    from surveyor.blocks.codes import load_codes
    from surveyor.flows.server import using_server

    with using_server():
        return load_codes(codes)
