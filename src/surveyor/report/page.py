"""The report of a campaign: one page that needs nothing but itself."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import yaml

from surveyor.files import read_json, write_atomically
from surveyor.labels import LabelStore, load_theory
from surveyor.progress import CampaignProgress, read_progress, rejections_in_words
from surveyor.report.activity import failures_by_reason
from surveyor.report.failures import failed_labels_table
from surveyor.report.html import Content, definitions, document, element, folded, picture, table
from surveyor.report.pictures import CampaignPictures, Picture
from surveyor.report.tables import (
    Manifest,
    chosen_table,
    generation_caption,
    generations_table,
    make_table,
    sets_table,
    walkers_of,
    walkers_table,
)
from surveyor.report.trust import trust_lines
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of

Record = Mapping[str, Any]  # Any: whatever JSON holds
Section = tuple[str, str, Sequence[Content]]  # identifier, title and content

MODELS = {"mace": "MACE", "nequip": "NequIP", "pair": "pair model"}

PARITY = (
    "Energies per atom, force components and stress components by the model of generation {}, against the labels; "
    "below, model minus label. Energies are relative to the mean (where there are several compositions, to atomic "
    "energies that are fitted to the labels). The numbers are root mean square errors."
)
LEARNING_CURVE = (
    "Root mean square error against the number of labels that had been requested when the model was trained: on the "
    "structures that its walkers then brought, before the next training, and on the final test set (before the "
    "campaign is complete, on the test set of that time), which no model was trained on. Where a generation brought 20 "
    "structures or more, the band shows the 95 % interval of the error before training."
)
AUDITS = (
    "What audits show about the models on which the walkers moved: structures that these models had not seen, drawn at "
    "random from what the walkers brought. The newest model has learned from more. Errors are root mean squares with "
    "their 95 % intervals; bounds hold at 95 %."
)
COVERAGE = (
    "Largest error of the force on an atom of each audit, against the largest uncertainty that the model stated. Below "
    "the line, the error is within the uncertainty: of a single model 90 % of the audits should be, of a committee, "
    "which states the scale of an error, far fewer."
)
WALKERS = (
    "Above: mean temperature of each sample; bars show the standard deviation of the temperature along it, which is "
    "large where there are few atoms. Walkers stand side by side within a generation. Below: which walkers were sent "
    "back to their start, and which brought no sample because guards stopped every try."
)
OBSERVABLES = "What walkers went through in the newest generation: one line per sample."
TIMELINE = (
    "Above: when each walker moved; the colour tells the generation of the model on which it moved. Middle: how many "
    "labels were awaited, in computation or waiting for a place. Below: when the model of each generation was trained. "
    "A walker without a bar waits for its turn."
)
WALL_TIME = "Wall time of each stage. Sampling and labelling go on side by side, so that their bars overlap."
TRAINING = (
    "Loss and root mean square errors on the validation set during training, and the learning rate where the engine "
    "tells it; one line per generation."
)


def write_report(
    directory: RunDirectory, pictures: CampaignPictures | None = None, store: LabelStore | None = None
) -> Path:
    """Write the report of a campaign, as far as it is complete, and return its file.

    Args:
        directory: of the campaign.
        pictures: figures that are drawn already.
        store: label store of the campaign, which has to be given if it is in a bucket.

    Raises:
        InputError: the folder is not the run directory of a campaign.
    """
    progress = read_progress(directory)
    drawn, parameters = pictures or CampaignPictures(directory), read_json(directory.parameters)["parameters"]
    manifests = [directory.read_manifest(number) for number in range(progress.n_complete)]
    sections = [
        *_results(directory, progress, manifests, drawn),
        *_activity(directory, manifests, drawn, store),
        *_origins(directory, parameters),
    ]
    page = document(
        f"Online learning: {directory.path.name}",
        [_header(directory, progress, parameters)],
        [section for section in sections if section[2]],
        "Written by surveyor.",
    )
    write_atomically(directory.report, page)
    return directory.report


def _header(directory: RunDirectory, progress: CampaignProgress, parameters: Record) -> Element:
    theory = load_theory(directory.theory).name if directory.theory.exists() else "not resolved yet"
    kind = next((name for name, value in parameters["model"].items() if value is not None), "")
    pairs: list[tuple[str, Content]] = [
        ("Status", _status(progress)),
        *([("Failure", progress.failure)] if progress.failure else []),
        ("Level of theory", theory),
        ("Model", MODELS.get(kind, kind)),
        ("Generations", f"bootstrap and {max(progress.n_complete - 1, 0)} of {progress.n_generations}"),
        ("Labels requested", str(progress.n_labels)),
    ]
    if progress.errors:
        newest = directory.generation(progress.errors[-1].generation).model
        pairs.append(("Newest potential", element("code", newest.relative_to(directory.path).as_posix())))
    return definitions(pairs)


def _status(progress: CampaignProgress) -> str:
    if progress.state == "complete":
        return f"complete: {progress.reason}" if progress.reason else "complete"
    where = "" if progress.generation is None else f", in generation {progress.generation} ({progress.stage})"
    rejected = rejections_in_words(progress)
    state = "failed" if progress.failure else progress.state
    return state + where + (f"; {rejected}" if rejected else "")


def _results(
    directory: RunDirectory, progress: CampaignProgress, manifests: Sequence[Manifest], drawn: CampaignPictures
) -> list[Section]:
    if not manifests:
        return []
    newest = manifests[-1]["number"]
    curve = _figure(drawn.learning_curve(progress.errors), LEARNING_CURVE)
    parity = _figure(drawn.parity(newest), PARITY.format(newest))
    return [
        ("trust", "How far the potential can be trusted", _trust(directory, manifests, drawn)),
        ("errors", "Errors per generation", [table(generations_table(progress.errors))]),
        ("learning-curve", "Learning curve", curve),
        (
            "parity",
            "Predictions and labels",
            [*parity, table(sets_table(manifests[-1]["errors"], generation_caption(newest)))],
        ),
    ]


def _figure(drawn: Picture | None, caption: str) -> list[Content]:
    """Return a figure with its caption, if there is one."""
    return [] if drawn is None else [picture(drawn, caption)]


def _trust(directory: RunDirectory, manifests: Sequence[Manifest], drawn: CampaignPictures) -> list[Content]:
    lines = trust_lines(directory, manifests[-1])
    if not lines:
        return []
    coverage = _figure(drawn.coverage(manifests), COVERAGE)
    return [element("p", AUDITS), element("ul", *(element("li", line) for line in lines)), *coverage]


def _activity(
    directory: RunDirectory, manifests: Sequence[Manifest], drawn: CampaignPictures, store: LabelStore | None
) -> list[Section]:
    if not manifests:
        return []
    return [
        ("walkers", "Walkers", _walkers(manifests, drawn)),
        ("failures", "Failures", _failures(directory, manifests, drawn, store)),
        (
            "wall-time",
            "Wall time",
            [*_figure(drawn.timeline(), TIMELINE), *_figure(drawn.wall_time(manifests), WALL_TIME)],
        ),
        ("training", "Trainings", _figure(drawn.trainings(manifests), TRAINING)),
    ]


def _walkers(manifests: Sequence[Manifest], drawn: CampaignPictures) -> list[Content]:
    moved = [each for each in manifests if walkers_of(each)]
    if not moved:
        return []
    newest, chosen = moved[-1]["number"], chosen_table(moved[-1])
    return [
        *_figure(drawn.walkers(manifests), WALKERS),
        *_figure(drawn.observables(newest), OBSERVABLES),
        element("details", element("summary", f"Walkers of generation {newest}"), table(walkers_table(moved[-1]))),
        *([] if chosen is None else [element("details", element("summary", "Chosen structures"), table(chosen))]),
    ]


def _failures(
    directory: RunDirectory, manifests: Sequence[Manifest], drawn: CampaignPictures, store: LabelStore | None
) -> list[Content]:
    labels, guards = failures_by_reason(manifests)
    if not labels and not guards:
        return [element("p", "No label failed, and no walker was stopped by a guard.")]
    stopped = number_of(guards.total(), "try", "tries")
    caption = f"{number_of(labels.total(), 'label')} failed, and guards stopped {stopped} of walkers."
    failed = failed_labels_table(directory, manifests, store)
    return [
        *_figure(drawn.failures(manifests), caption),
        *([] if failed is None else [table(failed, is_text=True)]),
    ]


def _origins(directory: RunDirectory, parameters: Record) -> list[Section]:
    resolved = [
        folded("All parameters of the campaign", yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True))
    ]
    return [
        ("level-of-theory", "Level of theory", _theory(directory)),
        ("runs", "Runs and versions", _runs(directory)),
        ("parameters", "Parameters", resolved),
    ]


def _theory(directory: RunDirectory) -> list[Content]:
    if not directory.theory.exists():
        return []
    theory = load_theory(directory.theory)
    content = json.dumps(theory.content, indent=2, ensure_ascii=False)
    parts: list[Content] = [
        definitions([("Name", theory.name), ("Hash", element("code", theory.digest))]),
        folded("Scientific input", content),
    ]
    if directory.atomic_energies.exists():
        energies = read_json(directory.atomic_energies)["energies_eV"]
        rows = [[symbol, f"{energy:.6f}"] for symbol, energy in energies.items()]
        parts.append(table(make_table(["Element", "Energy (eV)"], rows, "Energies of isolated atoms.")))
    return parts


def _runs(directory: RunDirectory) -> list[Content]:
    if not directory.provenance.exists():
        return []
    runs = read_json(directory.provenance)["runs"]
    rows = [
        [
            run["begin"],
            run["host"],
            run["python"],
            ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
        ]
        for run in runs
    ]
    caption = "When the campaign was started or continued, and with what."
    return [table(make_table(["Begin", "Host", "Python", "Versions"], rows, caption), is_text=True)]
