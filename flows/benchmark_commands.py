"""`surveyor benchmark-labels`: compare ways to choose labels."""

import argparse
from functools import partial
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from surveyor.benchmark import BENCHMARK
from surveyor.benchmark.benchmark import points_of
from surveyor.benchmark.parameters import BenchmarkParameters
from surveyor.events.kinds import FileRead, SampleEnds, WorkBegins, WorkEnds
from surveyor.events.log import of_kind
from surveyor.flows.display import WAITS, View, show_work, with_waits
from surveyor.flows.work_commands import add_work_command
from surveyor.models.choice import check_model_parameters
from surveyor.pools.choice import LOCAL
from surveyor.run_directory import RunDirectory
from surveyor.works.continuation import recorded_parameters
from surveyor.works.summary import read_summary


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    events = directory.events.read()[0]
    n_frames = len({event.name for event in of_kind(events, SampleEnds)})
    recorded = recorded_parameters(directory, BenchmarkParameters)
    points = points_of(recorded.model_copy(update={"output_directory": directory.path}))  # it may have been moved
    n_done = sum(point.record.exists() for point in points)
    line = f"models: {n_done} of {len(points)}" if n_done else f"trajectories: {n_frames}" if n_frames else ""
    return with_waits(directory, events, line), line


def _show_results(console: Console, directory: RunDirectory) -> None:
    header, *rows = read_summary(directory)["table"]
    table = Table(title="mean errors, and labels that random needs / labels that the arm needs", title_justify="left")
    for column in header:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _conclude(console: Console, directory: RunDirectory, comparison: Path) -> int:
    _show_results(console, directory)
    console.print(f"comparison: {comparison}")
    return 0


BENCHMARK_VIEW = View(
    begins=WorkBegins,
    milestones=(WorkBegins, FileRead, *WAITS, WorkEnds),
    look=_look,
    conclude=_conclude,
    show=partial(show_work, results=_show_results, look=_look, none_yet="no model is trained yet"),
    kind=BENCHMARK,
    flow="benchmark_labels",
    run_name="benchmark of {}",
)


def add_benchmark_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `benchmark-labels`."""
    summary = "compare selectors with random choice, or continue the comparison"
    add_work_command(commands, "benchmark-labels", summary, BENCHMARK_VIEW, _check_here)


def _check_here(parameters: BenchmarkParameters) -> None:
    """Check that the engine of the model is installed, if models are trained on this machine."""
    if parameters.pools.training == LOCAL:
        check_model_parameters(parameters.model, parameters.features_for)
