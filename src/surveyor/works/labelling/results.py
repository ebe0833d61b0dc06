"""The files that a labelling leaves: labelled and failed structures, and a summary, which is written last."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io

from surveyor.dataset import with_label
from surveyor.files import patiently, publish, temporary_beside
from surveyor.labels import WORK, Label, LabelFailure, LevelOfTheory
from surveyor.run_directory import RunDirectory
from surveyor.works.labelling.chunks import LABELLED
from surveyor.works.labelling.requests import Requests
from surveyor.works.summary import write_summary


def labelled_file(directory: RunDirectory) -> Path:
    """Return the file with the structures that have a label, in the order of the input."""
    return directory.path / "labelled.extxyz"


def failed_file(directory: RunDirectory) -> Path:
    """Return the file with the structures that have none, each with the reason and where the output is."""
    return directory.path / "failed.extxyz"


def write_results(
    directory: RunDirectory,
    requests: Requests,
    theory: LevelOfTheory,
    outcome_of: Callable[[str], Label | LabelFailure],
    run: str,
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Write the files of a finished labelling, structure by structure, and return the summary.

    Args:
        directory: output directory.
        requests: the requests.
        theory: the level of theory.
        outcome_of: returns the outcome of a key.
        run: name of this run, which is in the provenance of the labels that it computed.
    """
    outcomes = patiently(lambda: _write_structures(directory, requests, outcome_of, run), directory.path)
    counts = Counter(outcome for outcome, _ in outcomes)
    n_labelled = counts.pop(LABELLED, 0)
    summary = {
        "level_of_theory": {"name": theory.name, "digest": theory.digest},
        "n_structures": len(requests.structures),
        "n_labelled": n_labelled,
        "n_new": len({key for key, (_, is_new) in zip(requests.keys, outcomes, strict=True) if is_new}),
        "n_failed": len(outcomes) - n_labelled,
        "failures": dict(sorted(counts.items())),
        "structures": [{"key": key, "outcome": each} for key, (each, _) in zip(requests.keys, outcomes, strict=True)],
    }
    return write_summary(directory, summary)


def _write_structures(
    directory: RunDirectory, requests: Requests, outcome_of: Callable[[str], Label | LabelFailure], run: str
) -> list[tuple[str, bool]]:
    """Write the labelled and the failed structures.

    Returns:
        For each structure, that it has a label or the reason why it has none, and whether this run computed its label.
    """
    labelled, failed = labelled_file(directory), failed_file(directory)
    outcomes: list[tuple[str, bool]] = []
    with temporary_beside(labelled) as good, temporary_beside(failed) as bad:
        with good.open("w") as with_labels, bad.open("w") as with_reasons:
            for index, (key, atoms) in enumerate(zip(requests.keys, requests.structures, strict=True)):
                outcome = requests.refused[index] if key is None else outcome_of(key)
                is_failure = isinstance(outcome, LabelFailure)
                ase.io.write(with_reasons if is_failure else with_labels, with_label(atoms, key, outcome), "extxyz")
                name = outcome.reason if isinstance(outcome, LabelFailure) else LABELLED
                outcomes.append((name, not is_failure and outcome.provenance.get(WORK) == run))
        publish(good, labelled)
        publish(bad, failed)
    return outcomes
