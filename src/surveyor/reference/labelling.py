"""Labelling one structure, so that the label is never lost and never bought twice."""

import logging
import time
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from surveyor import files
from surveyor.calculations import folders_of, is_judged, keep_failed, new_folder, remove_folders
from surveyor.claims import Watch
from surveyor.errors import AttemptFailed, LabelClaimed, Preempted, StorageFailed
from surveyor.events.kinds import LabelFailed, Labelled
from surveyor.events.recording import announce
from surveyor.files import FULL
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, former_keys, label_key
from surveyor.reference.reference import Reference, Resumable, limits_of

logger = logging.getLogger(__name__)


def label_structure(
    atoms: Atoms, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path
) -> Label | LabelFailure:
    """Return the label of a structure from the store, or compute it and put it there before returning.

    Calling it twice for one structure is harmless: the second call waits for the label. A failure is also recorded,
    and returned if its reason allows no further attempt. The complete output of an interrupted calculation
    is read instead of computing it again.

    Args:
        atoms: the structure; its canonical coordinates are labelled.
        reference: the reference.
        theory: the reference's level of theory, resolved when the campaign began.
        store: the label store.
        scratch: folder in which each calculation gets its own folder; failed and killed ones are kept.

    Raises:
        Preempted: the program was terminated from outside; a policy limits all other attempts, but not these.
    """
    watch = Watch(store.claims)
    while True:
        try:
            return attempt_label(atoms, reference, theory, store.ignoring(watch.dead), scratch)
        except Preempted:
            raise
        except LabelClaimed as claimed:
            watch.wait(claimed.key)
        except AttemptFailed:
            continue


def attempt_label(
    atoms: Atoms, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path
) -> Label | LabelFailure:
    """Return the label of a structure like `label_structure`, but make one attempt: for callers that retry elsewhere.

    Args:
        atoms: the structure.
        reference: the reference.
        theory: the reference's level of theory.
        store: the label store.
        scratch: folder in which the calculation gets its own folder.

    Raises:
        LabelClaimed: another live process computes it.
        AttemptFailed: the attempt failed, and its reason allows another one; `Preempted` if the program was terminated
            from outside.
    """
    structure = theory.with_electrons(atoms)
    key = label_key(structure, theory)
    _take_over_former(structure, key, theory, store)
    outcome = stored_label(key, store, reference)
    if outcome is not None:
        return outcome
    with store.claimed(key):
        return _compute(structure, key, reference, theory, store, scratch)


def _compute(
    structure: Atoms, key: str, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path
) -> Label | LabelFailure:
    outcome = stored_label(key, store, reference)  # whoever had the claim before may have computed it since
    if outcome is not None:
        return outcome
    begin, failure = time.monotonic(), None
    if not _resume(structure, key, reference, theory, store, scratch):
        failure = _attempt(structure, key, reference, theory, store, scratch)
    outcome = store.outcome(key, limits_of(reference))
    if outcome is None:
        raise _not_final(key, failure)
    _announce(key, outcome, new=True, wall_time_s=time.monotonic() - begin)
    return outcome


def _take_over_former(structure: Atoms, key: str, theory: LevelOfTheory, store: LabelStore) -> None:
    """Keep a label under its key that a former version of surveyor has computed under another one."""
    if not theory.former or store.get(key) is not None:
        return
    for former in former_keys(structure, theory):
        label = store.get(former)
        if label is not None:
            store.put(key, structure, theory, replace(label, provenance={**label.provenance, "former_key": former}))
            return


def _not_final(key: str, failure: LabelFailure | None) -> AttemptFailed:
    if failure is None:
        return AttemptFailed(f"label {key[:11]} was computed, but the store does not have it")
    return AttemptFailed(
        f"label {key[:11]} failed ({failure.reason}): {failure.message}", is_worker_unfit=failure.reason == "launch"
    )


def stored_label(key: str, store: LabelStore, reference: Reference | None = None) -> Label | LabelFailure | None:
    """Return the label under a key, or its final failure; None where work is to be done.

    Args:
        key: of the label.
        store: where it may be.
        reference: whose limits may have been raised since a failure; None takes failures at a limit as final.
    """
    outcome = store.outcome(key, {} if reference is None else limits_of(reference))
    if outcome is not None:
        _announce(key, outcome, new=False, wall_time_s=0.0)
    return outcome


def _announce(key: str, outcome: Label | LabelFailure, *, new: bool, wall_time_s: float) -> None:
    how = f"computed in {wall_time_s:.1f} s" if new else "found in the store"
    if isinstance(outcome, LabelFailure):
        text = f"failure of {key[:11]} {how}: {outcome.reason}"
        announce(logger, LabelFailed(message=text, key=key, new=new, reason=outcome.reason))
    else:
        announce(logger, Labelled(message=f"label {key[:11]} {how}", key=key, new=new, wall_time_s=wall_time_s))


def _resume(
    structure: Atoms, key: str, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path
) -> bool:
    """Store the finished label of an interrupted attempt, if any; return whether there was one."""
    if not isinstance(reference, Resumable):
        return False
    # What belongs to a recorded failure has been judged, with the status of the program, which no file tells.
    failures = store.failures(key)
    for directory in folders_of(scratch, key):
        label = None if is_judged(directory, failures) else reference.read(structure, directory)
        if label is not None:
            logger.info("label %s had been computed in %s", key[:11], directory)
            _keep(structure, key, theory, store, label, directory)
            remove_folders(scratch, key)
            return True
    return False


def _attempt(
    structure: Atoms, key: str, reference: Reference, theory: LevelOfTheory, store: LabelStore, scratch: Path
) -> LabelFailure | None:
    attempt = len(store.failures(key)) + 1
    try:
        directory = new_folder(scratch, key, attempt)
    except OSError as error:
        if error.errno not in FULL:
            raise
        directory = scratch
        result: Label | LabelFailure = LabelFailure("disk", str(error))
    else:
        result = reference.compute(structure, directory)
    if isinstance(result, LabelFailure):
        limit = limits_of(reference).get(result.reason)
        failure = replace(result, attempt=attempt, output=result.output or str(directory), limit=limit)
        store.put_failure(key, structure, theory, failure)
        logger.warning("label %s failed (%s): %s", key[:11], failure.reason, failure.message)
        if directory != scratch:
            keep_failed(directory, f"{failure.reason}: {failure.message}")
        return failure
    _keep(structure, key, theory, store, result, directory)
    remove_folders(scratch, key)
    return None


def _keep(structure: Atoms, key: str, theory: LevelOfTheory, store: LabelStore, label: Label, directory: Path) -> None:
    """Put a label into the store; wait a while for a store that is full or away, as the label is paid for."""
    deadline = time.monotonic() + files.PATIENCE_S
    while True:
        try:
            store.put(key, structure, theory, label)
        except OSError as error:
            if time.monotonic() > deadline:
                raise StorageFailed(
                    f"label {key[:11]} is computed, but could not be kept in {store} for {files.PATIENCE_S / 60:g} "
                    f"min: {error}; make room or mend the disk, and start the campaign again. The calculation is in "
                    f"{directory}"
                ) from error
            logger.warning("label %s is computed, but cannot be kept now, and waits: %s", key[:11], error)
            time.sleep(files.RETRY_S)
        else:
            return
