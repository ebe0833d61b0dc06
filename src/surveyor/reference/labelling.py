"""Labelling one structure, so that the label is never lost and never bought twice."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, label_key
from surveyor.reference.reference import Reference

logger = logging.getLogger(__name__)


def label_structure(atoms: Atoms, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path) -> Label | LabelFailure:
    """Return the label of a structure from the store, or compute it and put it there before returning.

    Running it twice for one structure is harmless. A failure is recorded too, and returned as long as its reason allows
    no further attempt.

    Args:
        atoms: the structure; what is labelled are its canonical coordinates.
        reference: computes the label.
        theory: the reference's level of theory, as it was resolved when the campaign began.
        store: where the label is kept.
        scratch: folder in which each calculation gets a folder of its own; that of a failure is kept.
    """
    structure = theory.with_electrons(atoms)
    key = label_key(structure, theory)
    while (outcome := store.outcome(key)) is None:
        _attempt(structure, key, reference, theory, store, scratch)
    return outcome


def _attempt(structure: Atoms, key: str, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path) -> None:
    attempt = len(store.failures(key)) + 1
    directory = scratch / f"{key.partition(':')[2][:16]}-{attempt}"
    # What a killed attempt has left would be mistaken for this one's.
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    result = reference.compute(structure, directory)
    if isinstance(result, LabelFailure):
        failure = replace(result, attempt=attempt, output=result.output or str(directory))
        store.put_failure(key, structure, theory, failure)
        logger.warning("label %s failed (%s): %s", key[:11], failure.reason, failure.message)
        return
    store.put(key, structure, theory, result)
    shutil.rmtree(directory, ignore_errors=True)
