"""The figures of one generation, or of one training on files, as files."""

from collections.abc import Mapping
from pathlib import Path

from surveyor.files import write_atomically
from surveyor.progress import errors_table
from surveyor.report.pictures import CampaignPictures, Picture, training_pictures
from surveyor.run_directory import GenerationDirectory, RunDirectory


def generation_figures(
    directory: RunDirectory, generation: int, pictures: CampaignPictures | None = None
) -> dict[str, bytes]:
    """Return the figures of a generation as PNG, by name; those for which there are no data are left out.

    The names are "parity", "learning_curve", "walkers", "observables" and "training".

    Args:
        directory: of the campaign.
        generation: number of a complete generation.
        pictures: figures that are drawn already.

    Raises:
        InputError: it is not complete.
    """
    drawn = pictures or CampaignPictures(directory)
    manifests = [directory.read_manifest(number) for number in range(generation + 1)]
    figures = {
        "parity": drawn.parity(generation),
        "learning_curve": drawn.learning_curve(errors_table(directory)[: generation + 1]),
        "walkers": drawn.walkers(manifests),
        "observables": drawn.observables(generation),
        "training": drawn.trainings(manifests[-1:]),
    }
    return {name: picture.png for name, picture in figures.items() if picture is not None}


def write_figures(
    directory: RunDirectory, generation: int, pictures: CampaignPictures | None = None
) -> tuple[Path, ...]:
    """Write the figures of a generation to its folder `figures`, and return the files; see `generation_figures`."""
    return _write(directory.generation(generation).figures, generation_figures(directory, generation, pictures))


def write_training_figures(
    directory: GenerationDirectory, pictures: Mapping[str, Picture] | None = None
) -> tuple[Path, ...]:
    """Write the figures of a training on files to its folder `figures`, and return the files.

    Args:
        directory: output directory of a complete training.
        pictures: its figures, if they are drawn already; see `training_pictures`.
    """
    drawn = pictures or training_pictures(directory)
    return _write(directory.figures, {name: picture.png for name, picture in drawn.items()})


def _write(folder: Path, images: Mapping[str, bytes]) -> tuple[Path, ...]:
    files = {folder / f"{name}.png": image for name, image in images.items()}
    for path, image in files.items():
        write_atomically(path, image)
    return tuple(files)
