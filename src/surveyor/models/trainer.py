"""Running the training program of an engine, in a process of its own."""

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ase import Atoms

from surveyor.dataset import ENERGY, FORCES, STRESS, label_of
from surveyor.dataset.weights import PROPERTY_WEIGHTS, has_stress, weight_of
from surveyor.errors import TrainingFailed
from surveyor.events.kinds import BatchHalved
from surveyor.events.log import read_lines
from surveyor.events.recording import announce
from surveyor.files import is_disk_full, patiently, read_json, write_json
from surveyor.models.history import history_of, report_epoch, reported_epochs
from surveyor.models.model import Epoch
from surveyor.models.plausibility import Beginning, check_beginning, check_result
from surveyor.models.trainer_process import ABSURD, DIVERGED, OTHER_ATOMIC_ENERGIES, OUT_OF_MEMORY
from surveyor.words import number_of

logger = logging.getLogger(__name__)

TRAIN_FILE, VALID_FILE = "train.extxyz", "valid.extxyz"
LOG = "trainer.log"
FITTING = "batch_sizes.json"  # there when memory was lacking for those that were asked for
POLL_S = 0.2
LOG_LINES = 15  # of the trainer's log, in the message of a failure
BEFORE = -1  # number of what precedes the first epoch
SHELL_ADDS = 128  # to the number of a signal, in the exit code of a script
# Signals that do not come from a fault of the program, and who may have sent them.
FROM_OUTSIDE: Mapping[signal.Signals, str] = {
    signal.SIGKILL: "out of memory?",
    signal.SIGTERM: "ended by a queue, an administrator or a user?",
    signal.SIGINT: "interrupted by a user?",
    signal.SIGHUP: "was its terminal closed?",
    signal.SIGQUIT: "ended by a user?",
    signal.SIGUSR1: "the warning of a queue?",
    signal.SIGUSR2: "the warning of a queue?",
    signal.SIGALRM: "a time limit?",
    signal.SIGXCPU: "the limit of CPU time?",
    signal.SIGXFSZ: "the limit of the size of files?",
}

FAULTS: Mapping[int, str] = {
    OUT_OF_MEMORY: "there is no memory to train on a single structure; take a smaller network, or a pool with more "
    "memory",
    DIVERGED: "the training diverged: the validation loss was never a number, or much larger than that of the "
    "untrained network; check the data, or lower the learning rate",
    ABSURD: "absurd energies: those of the validation set are far off before the first epoch; check their unit, their "
    "level of theory and the atomic energies",
}

Record = Mapping[str, Any]  # Any: whatever JSON holds
Errors = Callable[[Record], Epoch | None]


@dataclass(frozen=True, slots=True)
class Trainer:
    """A training program.

    Attributes:
        engine: name of its engine, for messages.
        directory: folder of the training.
        results: file to which it appends lines of JSON, over all restarts.
        errors_in: returns the epoch in such a line, with the number `BEFORE` for errors before the first epoch;
            None for other lines.
    """

    engine: str
    directory: Path
    results: Path
    errors_in: Errors


def training_copy(atoms: Atoms) -> Atoms:
    """Return structure, label and weights alone: trainers give meaning to further fields, such as config_type.

    The weight of the structure is a factor of the weights of its properties.
    """
    label = label_of(atoms)
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    copy.info[ENERGY] = label.energy
    copy.arrays[FORCES] = label.forces
    if has_stress(atoms):
        copy.info[STRESS] = label.stress
    weights = {PROPERTY_WEIGHTS[name]: weight_of(atoms, name) for name in PROPERTY_WEIGHTS}
    copy.info |= {name: weight for name, weight in weights.items() if weight != 1}
    return copy


def run_trainer(
    run: Callable[[Mapping[str, int]], int], sizes: Mapping[str, int], trainer: Trainer, beginning: Beginning
) -> None:
    """Run a trainer to its end, and check that it has learned.

    Epochs are reported as they end. If a batch does not fit into memory, batches are halved. If the disk is full, the
    trainer is run again when there is room, and continues.

    Args:
        run: runs the trainer with given sizes of batches, of which `batch_size` is that of the training, and
            returns its exit code.
        sizes: requested sizes of batches.
        trainer: the trainer.
        beginning: plausible errors.

    Raises:
        TrainingFailed: it ended without a network, its loss was never a number, or its errors are implausible.
        StorageFailed: the disk stays full.
    """
    directory = trainer.directory
    with _following(trainer.results, trainer.errors_in, directory):
        returncode = patiently(partial(_run_with_room, run, sizes, directory), directory)
    records, _ = read_lines(trainer.results, 0)
    first = next((each for each in _epochs(records, trainer.errors_in) if each.number == BEFORE), None)
    check_beginning(first, beginning, directory)
    check_outcome(returncode, trainer.engine, directory)
    check_result(first, history_of(directory), beginning, directory)


def _run_with_room(run: Callable[[Mapping[str, int]], int], sizes: Mapping[str, int], directory: Path) -> int:
    """Run a trainer, and return its exit code.

    Raises:
        OSError: it failed on a full disk.
    """
    returncode = _run_with_batches_that_fit(run, sizes, directory)
    if returncode not in (0, *FAULTS) and is_disk_full(directory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    return returncode


def _run_with_batches_that_fit(
    run: Callable[[Mapping[str, int]], int], sizes: Mapping[str, int], directory: Path
) -> int:
    """Run a trainer, halving batches that do not fit into memory, and return its exit code."""
    fitting = dict(sizes) | (read_json(directory / FITTING) if (directory / FITTING).exists() else {})
    while (returncode := run(fitting)) == OUT_OF_MEMORY and fitting["batch_size"] > 1:
        fitting = {name: max(1, size // 2) for name, size in fitting.items()}
        write_json(directory / FITTING, fitting)
        size = fitting["batch_size"]
        text = f"no memory for a batch of this size: it has {number_of(size, 'structure')} from now on"
        announce(logger, BatchHalved(message=text, batch_size=size))
    return returncode


@contextmanager
def _following(results: Path, errors_in: Errors, directory: Path) -> Iterator[None]:
    """Report epochs as they end within the block."""
    ended = threading.Event()
    # In a copy of this context, what the thread announces is reported as this call's.
    follow = partial(copy_context().run, _follow, results, errors_in, directory, ended)
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _follow(results: Path, errors_in: Errors, directory: Path, ended: threading.Event) -> None:
    # The trainer appends to its results over restarts, so what was reported before is a matter of counting.
    to_skip, offset = len(reported_epochs(directory)), 0
    is_last = False
    while not is_last:
        is_last = ended.wait(POLL_S)
        records, offset = read_lines(results, offset)
        for epoch in _epochs(records, errors_in):
            if epoch.number == BEFORE:
                continue
            if to_skip > 0:
                to_skip -= 1
                continue
            report_epoch(directory, epoch)


def _epochs(records: Iterable[Record], errors_in: Errors) -> Iterator[Epoch]:
    return filter(None, map(errors_in, records))


def check_outcome(returncode: int, engine: str, directory: Path) -> None:
    """Check that a trainer has succeeded.

    Raises:
        TrainingFailed: it has not; the message gives the reason.
    """
    if returncode == 0:
        return
    if returncode in FAULTS:
        raise TrainingFailed(FAULTS[returncode], directory)
    if returncode == OTHER_ATOMIC_ENERGIES:
        raise failed(
            f"the network of {engine} has other atomic energies than those that were given; if {directory} was begun "
            "by an older surveyor, delete it to have the network trained anew",
            directory,
        )
    check_not_killed(returncode, f"the trainer of {engine}", directory)
    raise failed(f"the trainer of {engine} {how_it_ended(returncode)}", directory)


def check_not_killed(returncode: int, program: str, directory: Path) -> None:
    """Check that no signal from outside has ended a program, whose last words then say nothing of the reason.

    Args:
        returncode: of the program; a shell's 128 + n stands for the signal n, too.
        program: what it is, for the message.
        directory: of the training.

    Raises:
        TrainingFailed: one has; the message names it.
    """
    number = _signal_of(returncode)
    if number is not None and number in FROM_OUTSIDE:
        killed = f"killed by {number.name} ({FROM_OUTSIDE[number]})"
        raise TrainingFailed(f"{program} was {killed}; the same call continues", directory)


def _signal_of(returncode: int) -> signal.Signals | None:
    number = -returncode if returncode < 0 else returncode - SHELL_ADDS
    return signal.Signals(number) if number in set(signal.Signals) else None


def how_it_ended(returncode: int) -> str:
    """Return how a program ended, for a message."""
    number = _signal_of(returncode)
    return f"ended with exit code {returncode}" if number is None else f"crashed with {number.name}"


def failed(message: str, directory: Path, log: str = LOG) -> TrainingFailed:
    """Return an error with the last lines of a log in the directory of a training."""
    path = directory / log
    lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:] if path.exists() else ["it has left no log"]
    return TrainingFailed("\n".join([f"{message}:", *lines, ""]), directory)
