"""`surveyor check`: checks a parameter file and its structures without running anything."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from surveyor.benchmark import BENCHMARK, BenchmarkParameters, CheckedBenchmark
from surveyor.benchmark.benchmark import points_of
from surveyor.errors import InputError
from surveyor.flows.work_commands import check_fits
from surveyor.labels import LevelOfTheory
from surveyor.models.choice import ModelParameters, check_model_parameters
from surveyor.parameters.files import read_fields
from surveyor.pools.choice import LOCAL, plain_site
from surveyor.reading import ReadingReport
from surveyor.reference.choice import with_codes
from surveyor.reference.reference import Reference
from surveyor.run_directory import RunDirectory
from surveyor.structures import elements_of
from surveyor.words import number_of
from surveyor.works.campaign import (
    CAMPAIGN,
    CampaignParameters,
    CheckedCampaign,
    advice_on_ahead,
    check_theory,
    warning_of_ramps,
    warning_of_stop,
)
from surveyor.works.labelling import LABELLING, CheckedLabelling, LabellingParameters, Requests, make_requests
from surveyor.works.sampling import SAMPLING, CheckedSampling, SamplingParameters
from surveyor.works.summary import is_complete
from surveyor.works.training import SETS, TRAINING, CheckedTraining, TrainingParameters
from surveyor.works.work import Kind

N_SHOWN = 8  # refused structures


def add_check_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `check`."""
    check = commands.add_parser(
        "check",
        help="check a parameter file and its structures, without running anything",
        epilog="example: surveyor check campaign.yaml",
    )
    check.add_argument(
        "parameters", type=Path, help="parameter file of a campaign or of other work, such as a labelling (YAML)"
    )
    check.add_argument("--json", action="store_true", help="only print the valid parameters, for a deployment")
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace, console: Console) -> None:
    file, fields = options.parameters, "run_directory, structures, train, potential or candidates"
    given = read_fields(file, "parameter file", fields)
    kind = next((kind for kind in DESCRIPTIONS if kind.field in given), CAMPAIGN)
    if kind is CAMPAIGN and "run_directory" not in given:
        raise InputError(
            f"{file}: the kind of work is not clear. Expected one of: `run_directory` of a campaign, `structures` of a "
            "labelling, `train` of a training, `potential` of a sampling, `candidates` of a benchmark; found "
            f"{', '.join(map(str, given))}"
        )
    parameters = kind.load(file)
    check_fits(parameters)
    checked = kind.check(parameters)
    said = Console(quiet=True) if options.json else console
    _show(said, checked.reports)
    DESCRIPTIONS[kind](parameters, checked, said)
    said.print(
        f"{file} is valid; the {kind.name} in {parameters.folder} {_state(kind, RunDirectory(parameters.folder))}"
    )
    if options.json:
        console.print(parameters.model_dump_json(), markup=False)


def _state(kind: Kind[Any, Any, Any], directory: RunDirectory) -> str:  # Any: of any kind
    if kind is CAMPAIGN and (n_complete := directory.n_complete()):
        return f"has {number_of(n_complete, 'complete generation')}"
    if is_complete(directory):
        return "is complete"
    return "has begun; the same call continues it" if directory.parameters.exists() else "is new"


def _describe_campaign(parameters: CampaignParameters, checked: CheckedCampaign, console: Console) -> None:
    elements = elements_of(checked.structures)
    n_groups, n_walkers = len(parameters.walkers), len(checked.walkers)
    console.print(f"walkers: {n_walkers} in {number_of(n_groups, 'group')}, elements {', '.join(elements)}")
    # What only another machine can know is asked there, before the first generation.
    if parameters.pools.labelling == LOCAL:
        theory = _theory(console, _reference(parameters, checked.reference))
        check_theory(parameters, checked.walkers, theory)
    _check_model(parameters.model, parameters.pools.training, parameters.features_for)
    for warning in filter(None, (warning_of_stop(parameters), warning_of_ramps(parameters))):
        console.print(f"warning: {warning}", style="yellow", markup=False)
    if advice := advice_on_ahead(parameters, plain_site(parameters.pools.labelling)):
        console.print(f"advice: {advice}", markup=False)


def _describe_labelling(parameters: LabellingParameters, checked: CheckedLabelling, console: Console) -> None:
    reading = checked.reading
    if parameters.pool == LOCAL:
        reference = _reference(parameters, checked.reference)
        _show_requests(
            console, make_requests(reading.structures, _theory(console, reference), reference, reading.refused)
        )
    else:
        _show_refused(console, {index: f"structure {index}: {reason}" for index, reason in reading.refused.items()})


def _describe_training(parameters: TrainingParameters, checked: CheckedTraining, console: Console) -> None:
    _check_model(parameters.model, parameters.pool)
    sets = ", ".join(f"{len(getattr(checked.data, name))} for {name}" for name in SETS)
    console.print(f"structures: {sets}; elements {', '.join(elements_of(checked.data.train))}")


def _describe_sampling(_parameters: SamplingParameters, checked: CheckedSampling, console: Console) -> None:
    elements = elements_of([walker.start for walker in checked.walkers])
    console.print(f"walkers: {len(checked.walkers)}, elements {', '.join(elements)}")


def _describe_benchmark(parameters: BenchmarkParameters, checked: CheckedBenchmark, console: Console) -> None:
    _check_model(parameters.model, parameters.pools.training, parameters.features_for)
    if checked.reference is not None and parameters.pools.labelling == LOCAL:
        _theory(console, _reference(parameters, checked.reference))
    n_models, n_walkers = len(points_of(parameters)), sum(map(len, checked.walkers.values()))
    console.print(f"arms: {', '.join(parameters.arms)}; models to train: {n_models}; walkers: {n_walkers}")


# Any: parameters of each kind of work, and what was checked of them.
DESCRIPTIONS: Mapping[Kind[Any, Any, Any], Callable[[Any, Any, Console], None]] = {
    LABELLING: _describe_labelling,
    TRAINING: _describe_training,
    SAMPLING: _describe_sampling,
    BENCHMARK: _describe_benchmark,
    CAMPAIGN: _describe_campaign,
}


def _show(console: Console, reports: Iterable[ReadingReport]) -> None:
    for report in reports:
        console.print(report.summary, markup=False)
        for line in report.warnings:
            console.print(f"warning: {line}", style="yellow", markup=False)


def _show_requests(console: Console, requests: Requests) -> None:
    _show_refused(console, {index: failure.message for index, failure in requests.refused.items()})
    console.print(f"{number_of(len(requests.by_key), 'different label')} would be requested")


def _show_refused(console: Console, refused: Mapping[int, str]) -> None:
    if refused:
        console.print(f"warning: {number_of(len(refused), 'structure')} cannot be labelled:", style="yellow")
    for index in sorted(refused)[:N_SHOWN]:
        console.print(f"  {refused[index]}", markup=False)
    if len(refused) > N_SHOWN:
        console.print(f"  and {len(refused) - N_SHOWN} more")


def _check_model(model: ModelParameters | None, pool: str, features_for: str = "") -> None:
    if pool == LOCAL and model is not None:
        check_model_parameters(model, features_for)


def _reference(
    parameters: CampaignParameters | LabellingParameters | BenchmarkParameters, made: Reference
) -> Reference:
    """Return the reference with the settings in its block; the Prefect server is asked only if a block is named."""
    if parameters.codes.cp2k_block is None:
        return made
    from surveyor.blocks.codes import load_codes
    from surveyor.flows.server import using_server

    with using_server():
        return with_codes(made, load_codes(parameters.codes))


def _theory(console: Console, reference: Reference) -> LevelOfTheory:
    theory = reference.resolve()
    console.print(f"level of theory: {theory.name} ({theory.digest[:12]})")
    return theory
