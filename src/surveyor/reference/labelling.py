"""Labelling one structure, so that the label is never lost and never bought twice."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ase import Atoms

from surveyor.dataset import with_label
from surveyor.errors import AttemptFailed, LabelClaimed, Preempted
from surveyor.events.kinds import LabelFailed, Labelled
from surveyor.events.recording import announce
from surveyor.files import is_disk_full, is_full, outlast, patiently
from surveyor.labels import WORK, Label, LabelFailure, LabelRequest, LabelStore, LevelOfTheory, Reason, former_keys
from surveyor.labels.calculations import folders_of, is_judged, keep_failed, new_folder, remove_folders
from surveyor.pools.workspace.translation import translated
from surveyor.reference.reference import Reference, Resumable, limits_of

# Programs that find no room for a file end in many ways.
OF_FULL_DISKS: Sequence[Reason] = ("disk", "crash", "launch", "unparsable")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Labeller:
    """A reference at its level of theory, with the folders in which labels and calculations are kept.

    It is a function, too: from a structure to the structure with its label. Any executor can call it.

    Attributes:
        reference: the reference.
        theory: its level of theory, resolved when the work began.
        store: the label store.
        scratch: folder in which each calculation gets its own folder; failed and killed ones are kept.
    """

    reference: Reference
    theory: LevelOfTheory
    store: LabelStore
    scratch: Path

    def __post_init__(self) -> None:
        """Take a string for the path that it is."""
        object.__setattr__(self, "scratch", Path(self.scratch))

    @classmethod
    def in_folder(cls, folder: Path | str, reference: Reference) -> "Labeller":
        """Return a labeller whose store is `labels` in a folder, and whose calculations are beside it.

        Raises:
            InputError: the program of the reference is missing, or lacks what is needed.
        """
        store = LabelStore.in_marked_folder(Path(folder) / "labels")
        return cls(reference, reference.resolve(), store, Path(folder) / "calculations")

    def __call__(self, atoms: Atoms) -> Atoms:
        """Return a structure with its label, or with the reason why it has none."""
        request = self.request(atoms)
        return with_label(atoms, request.key, label_structure(request, self))

    def with_store(self, store: LabelStore) -> "Labeller":
        """Return the labeller with another store, or the same one on behalf of somebody."""
        return replace(self, store=store)

    def request(self, structure: Atoms | LabelRequest) -> LabelRequest:
        """Return the request of the label of a structure; a request is returned as it is."""
        return structure if isinstance(structure, LabelRequest) else LabelRequest.of(structure, self.theory)

    def stored(self, key: str) -> Label | LabelFailure | None:
        """Return the label under a key from the store, or its final failure; None where work is to be done."""
        outcome = self.store.outcome(key, limits_of(self.reference))
        if outcome is not None:
            _announce(key, outcome, new=False, wall_time_s=0.0)
        return outcome


def label_structure(structure: Atoms | LabelRequest, labeller: Labeller) -> Label | LabelFailure:
    """Return the label of a structure from the store, or compute it and put it there before returning.

    Calling it twice for one structure is harmless: the second call waits for the label. A failure is also recorded,
    and returned if its reason allows no further attempt. The complete output of an interrupted calculation
    is read instead of computing it again.

    Args:
        structure: the structure; its canonical coordinates are labelled.
        labeller: the reference, its level of theory, and the folders.

    Raises:
        Preempted: the program was terminated from outside; a policy limits all other attempts, but not these.
    """
    request, watch = labeller.request(structure), labeller.store.claims.watch()
    while True:
        try:
            return attempt_label(request, labeller.with_store(labeller.store.ignoring(watch.dead)))
        except Preempted:
            raise
        except LabelClaimed as claimed:
            watch.wait(claimed.key)
        except AttemptFailed:
            continue


def attempt_label(structure: Atoms | LabelRequest, labeller: Labeller) -> Label | LabelFailure:
    """Return the label of a structure like `label_structure`, but make one attempt: for callers that retry elsewhere.

    Args:
        structure: the structure.
        labeller: the reference, its level of theory, and the folders.

    Raises:
        LabelClaimed: another live process computes it.
        AttemptFailed: the attempt failed, and its reason allows another one; `Preempted` if the program was terminated
            from outside.
    """
    request = labeller.request(structure)
    _take_over_former(request, labeller)
    outcome = labeller.stored(request.key)
    if outcome is not None:
        return outcome
    with labeller.store.claimed(request.key):
        return _compute(request, labeller)


def _compute(request: LabelRequest, labeller: Labeller) -> Label | LabelFailure:
    key = request.key
    outcome = labeller.stored(key)  # whoever had the claim before may have computed it since
    if outcome is not None:
        return outcome
    begin, failure = time.monotonic(), None
    if not _resume(request, labeller):
        failure = _attempt(request, labeller)
    outcome = labeller.store.outcome(key, limits_of(labeller.reference))
    if outcome is None:
        raise _not_final(key, failure)
    _announce(key, outcome, new=True, wall_time_s=time.monotonic() - begin)
    return outcome


def _take_over_former(request: LabelRequest, labeller: Labeller) -> None:
    """Store a label, which a former version of surveyor stored under another key, under its present key."""
    key, structure, theory, store = request.key, request.structure, labeller.theory, labeller.store
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


def _announce(key: str, outcome: Label | LabelFailure, *, new: bool, wall_time_s: float) -> None:
    how = f"computed in {wall_time_s:.1f} s" if new else "found in the store"
    if isinstance(outcome, LabelFailure):
        text = f"failure of {key[:11]} {how}: {outcome.reason}"
        announce(logger, LabelFailed(message=text, key=key, new=new, reason=outcome.reason))
    else:
        announce(logger, Labelled(message=f"label {key[:11]} {how}", key=key, new=new, wall_time_s=wall_time_s))


def _resume(request: LabelRequest, labeller: Labeller) -> bool:
    """Store the finished label of an interrupted attempt, if any; return whether there was one."""
    key, reference, scratch = request.key, labeller.reference, labeller.scratch
    if not isinstance(reference, Resumable):
        return False
    # What belongs to a recorded failure has been judged, with the status of the program, which no file tells.
    failures = labeller.store.failures(key)
    for directory in folders_of(scratch, key):
        label = None if is_judged(directory, failures) else reference.read(request.structure, directory)
        if label is not None:
            logger.info("label %s had been computed in %s", key[:11], directory)
            _keep(request, labeller, label, directory)
            remove_folders(scratch, key)
            return True
    return False


def _attempt(request: LabelRequest, labeller: Labeller) -> LabelFailure | None:
    key, scratch, store = request.key, labeller.scratch, labeller.store
    attempt = len(store.failures(key)) + 1
    directory, result = patiently(partial(_computed, request, labeller, attempt), scratch)
    if isinstance(result, LabelFailure):
        limit = limits_of(labeller.reference).get(result.reason)
        failure = replace(result, attempt=attempt, output=translated(result.output or str(directory)), limit=limit)
        store.put_failure(key, request.structure, labeller.theory, failure)
        logger.warning("label %s failed (%s): %s", key[:11], failure.reason, failure.message)
        if directory != scratch:
            keep_failed(directory, f"{failure.reason}: {failure.message}")
        return failure
    _keep(request, labeller, result, directory)
    remove_folders(scratch, key)
    return None


def _computed(request: LabelRequest, labeller: Labeller, attempt: int) -> tuple[Path, Label | LabelFailure]:
    """Compute a label in a folder of its own, and return both.

    Raises:
        OSError: the disk of the run directory is full, so that any other worker would fail, too.
    """
    scratch = labeller.scratch
    is_shared = translated(str(scratch)) == str(scratch)  # and not a copy on the disk of this worker alone
    try:
        directory = new_folder(scratch, request.key, attempt)
        result = labeller.reference.compute(request.structure, directory)
    except OSError as error:
        if is_shared or not is_full(error):
            raise
        return scratch, LabelFailure("disk", str(error))
    is_suspect = isinstance(result, LabelFailure) and result.reason in OF_FULL_DISKS
    if is_suspect and is_shared and is_disk_full(scratch):
        shutil.rmtree(directory, ignore_errors=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    return directory, result


def _keep(request: LabelRequest, labeller: Labeller, label: Label, directory: Path) -> None:
    """Put a label into the store; wait a while for a store that is full or away, as the label is paid for."""
    key, store = request.key, labeller.store
    if store.claimant.work is not None:
        label = replace(label, provenance={**label.provenance, WORK: store.claimant.work})
    problem = f"label {key[:11]} is computed, but cannot be kept in {store}"
    remedy = f"Make room or repair the disk, and start the campaign again. The calculation is in {directory}"
    outlast(lambda: store.put(key, request.structure, labeller.theory, label), problem, remedy)
