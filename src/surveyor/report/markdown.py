"""A generation, or a training on files, as Markdown, for the artifact in Prefect's interface."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from surveyor.labels import LabelStore, load_theory
from surveyor.progress import errors_table
from surveyor.report.activity import failures_by_reason
from surveyor.report.failures import failed_labels_table
from surveyor.report.pictures import CampaignPictures, Picture, history_of_training, training_pictures
from surveyor.report.style import data_uri
from surveyor.report.tables import (
    NOTHING,
    Manifest,
    Table,
    chosen_table,
    generation_caption,
    generations_table,
    make_table,
    number,
    sets_table,
    walkers_of,
    walkers_table,
)
from surveyor.report.trust import trust_lines
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.words import generation_name, number_of

N_ROWS = 30  # of a table; an artifact shall stay small
DPI = 80  # at which pictures are shown; they have more points
NUMBER = re.compile(r"[-+]?\d*\.?\d+(e[-+]?\d+)?")
# Characters by which Markdown would change a text; not underscores within words.
SPECIAL = re.compile(r"([\\`*~|\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


def generation_markdown(
    directory: RunDirectory,
    generation: int,
    pictures: CampaignPictures | None = None,
    store: LabelStore | None = None,
) -> str:
    """Return a generation as Markdown with its key figures in it, less than 300 kB.

    Args:
        directory: of the campaign.
        generation: number of a complete generation.
        pictures: figures that are drawn already.
        store: label store of the campaign, which has to be given if it is in a bucket.

    Raises:
        InputError: it is not complete.
    """
    drawn, manifest = pictures or CampaignPictures(directory), directory.read_manifest(generation)
    rows = errors_table(directory)[: generation + 1]
    parts = [f"# Generation {generation_name(generation)}"]
    if directory.theory.exists():
        parts.append(
            f"{number_of(manifest['n_labels'], 'label')} requested so far, "
            f"at {_escaped(load_theory(directory.theory).name)}."
        )
    parts.append(_table(generations_table(rows[-N_ROWS:])))
    if lines := trust_lines(directory, manifest):
        trust = "\n".join(f"- {_escaped(line)}" for line in lines[-N_ROWS:])
        parts += ["## How far the potential can be trusted", trust]
    if parity := drawn.parity(generation):
        parts += ["## Predictions and labels", _picture(parity, "parity"), _errors(manifest)]
    if curve := drawn.learning_curve(rows):
        parts += ["## Learning curve", _picture(curve, "learning curve")]
    parts += _walkers(manifest)
    labels, guards = failures_by_reason([manifest])
    failures = [[f"label: {name}", str(n)] for name, n in labels.items()]
    failures += [[f"guard: {name}", str(n)] for name, n in guards.items()]
    if failures:
        parts += [
            "## Failures",
            _table(make_table(["Reason", "Number"], failures, "Failed labels and stopped tries of walkers.")),
        ]
    if failed := failed_labels_table(directory, [manifest], store):
        parts.append(_table(failed))
    times = [[stage, number(seconds)] for stage, seconds in manifest["details"].get("wall_time_s", {}).items()]
    if times:
        parts += ["## Wall time", _table(make_table(["Stage", "Time (s)"], times, "Sampling and labelling overlap."))]
    return "\n\n".join(parts) + "\n"


def _walkers(manifest: Manifest) -> list[str]:
    parts = ["## Walkers", _table(walkers_table(manifest))] if walkers_of(manifest) else []
    chosen = chosen_table(manifest)
    return parts if chosen is None else [*parts, "## Chosen structures", _table(chosen)]


def training_markdown(
    directory: RunDirectory,
    summary: Mapping[str, Any],  # Any: whatever JSON holds
    pictures: Mapping[str, Picture] | None = None,
) -> str:
    """Return a training on files as Markdown with its figures in it, less than 300 kB.

    Args:
        directory: of the training, complete.
        summary: of the training.
        pictures: its figures, if they are drawn already; see `training_pictures`.
    """
    files = GenerationDirectory(directory.path)
    drawn = pictures or training_pictures(files)
    counts, history = summary["n_structures"], history_of_training(files)
    used = f"{number_of(counts['train'], 'structure')}, {counts['valid']} for validation, {counts['test']} for the test"
    logs = "".join(f"; log: `{log}`" for log in summary.get("logs", ())[:N_ROWS])
    parts = [
        f"# Training of {_escaped(directory.path.name)}",
        f"{used}; {number_of(len(history.epochs), 'epoch')}. The files are in `{directory.path}`{logs}.",
        "## Predictions and labels",
        _picture(drawn["parity"], "parity"),
        _table(sets_table(summary["errors"], "Errors of the model on each set.")),
    ]
    if course := drawn.get("training"):
        parts += ["## Course of the training", _picture(course, "training")]
    energies = [[symbol, f"{energy:.6f}"] for symbol, energy in summary["atomic_energies"].items()]
    parts += ["## Atomic energies", _table(make_table(["Element", "Energy (eV)"], energies, "Of the model."))]
    return "\n\n".join(parts) + "\n"


def _errors(manifest: Manifest) -> str:
    return _table(sets_table(manifest["errors"], generation_caption(manifest["number"])))


def _table(content: Table) -> str:
    columns = [*zip(*content.rows, strict=True)] or [()] * len(content.head)
    lines = [_line(content.head), _line(["---", *("--:" if _has_numbers(each) else "---" for each in columns[1:])])]
    lines += [_line([_escaped(cell) for cell in row]) for row in content.rows[:N_ROWS]]
    n_left = len(content.rows) - N_ROWS
    more = [f"\n… and {n_left} more."] if n_left > 0 else []
    return "\n".join([content.caption, "", *lines, *more])


def _has_numbers(cells: Sequence[str]) -> bool:
    """Return whether a column has no words: it is then aligned to the right."""
    return all(cell == NOTHING or NUMBER.fullmatch(cell) for cell in cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def _escaped(text: str) -> str:
    return SPECIAL.sub(r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def _picture(drawn: Picture, name: str) -> str:
    return f'<img width="{DPI * drawn.width:.0f}" alt="{name}" src="{data_uri(drawn.small_png, "png")}">'
