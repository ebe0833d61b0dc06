"""The figures of one generation, or of one training on files, as images."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from surveyor.files import read_json, write_atomically
from surveyor.models.history import epoch_to_json, load_history
from surveyor.progress import errors_table
from surveyor.report.activity import walkers_figure
from surveyor.report.figures import History, learning_curve_figure, parity_figure, training_figure
from surveyor.report.parity import parity_points
from surveyor.report.style import to_png
from surveyor.report.tables import Manifest, walkers_of
from surveyor.report.walkers import observables_figure, read_courses
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.sampling.conditions import UNDER_THERMOSTAT


def generation_figures(directory: RunDirectory, generation: int) -> dict[str, bytes]:
    """Return the figures of a generation as PNG, by name; those for which there are no data are left out.

    The names are "parity", "learning_curve", "walkers", "observables" and "training".

    Args:
        directory: of the campaign.
        generation: number of a complete generation.

    Raises:
        InputError: it is not complete.
    """
    return {name: to_png(figure) for name, figure in _figures(directory, generation)}


def _figures(directory: RunDirectory, generation: int) -> Iterator[tuple[str, Figure]]:
    manifests = [directory.read_manifest(number) for number in range(generation + 1)]
    points = parity_points(directory.generation(generation))
    if points:
        yield "parity", parity_figure(points)
    if generation > 0:
        yield "learning_curve", learning_curve_figure(errors_table(directory)[: generation + 1])
    if any(walkers_of(manifest) for manifest in manifests):
        yield "walkers", walkers_figure(manifests, thermostats_K(directory))
    if courses := read_courses(directory.generation(generation).samples):
        yield "observables", observables_figure(courses)
    if has_history(manifests[-1]):
        yield "training", training_figure(histories_of(manifests[-1:]))


def histories_of(manifests: Sequence[Manifest]) -> list[History]:
    """Return the courses of the trainings of generations."""
    return [History(each["number"], each["details"].get("history", ())) for each in manifests]


def has_history(manifest: Manifest) -> bool:
    """Return whether a manifest contains the history of the training of its generation."""
    return bool(manifest["details"].get("history"))


def thermostats_K(directory: RunDirectory) -> list[float]:
    """Return the temperatures of the thermostats of a campaign, each once, from low to high."""
    groups = read_json(directory.parameters)["parameters"]["walkers"]
    return sorted({group["temperature_K"] for group in groups if group["method"] in UNDER_THERMOSTAT})


def write_figures(directory: RunDirectory, generation: int) -> tuple[Path, ...]:
    """Write the figures of a generation to its folder `figures`, and return the files."""
    return _write(directory.generation(generation).figures, generation_figures(directory, generation))


def history_of_training(directory: GenerationDirectory) -> History:
    """Return the course of a training on files."""
    return History(None, [epoch_to_json(epoch) for epoch in load_history(directory.model)])


def write_training_figures(directory: GenerationDirectory) -> tuple[Path, ...]:
    """Write the figures of a training on files to its folder `figures`, and return the files.

    They are "parity", and "training" if there was more than one epoch.

    Args:
        directory: output directory of a complete training.
    """
    figures = {"parity": parity_figure(parity_points(directory))}
    history = history_of_training(directory)
    if len(history.epochs) > 1:
        figures["training"] = training_figure([history])
    return _write(directory.figures, {name: to_png(figure) for name, figure in figures.items()})


def _write(folder: Path, images: Mapping[str, bytes]) -> tuple[Path, ...]:
    files = {folder / f"{name}.png": image for name, image in images.items()}
    for path, image in files.items():
        write_atomically(path, image)
    return tuple(files)
