"""Running the trainer of MACE: its own program, in a process of its own, that continues where it was killed.

The trainer is configured by one file, reports the errors of each epoch as lines of JSON, saves a checkpoint whenever
the validation loss has improved, and after each epoch all that it needs to go on (see `mace_program`).
"""

import logging
import math
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from ase import Atoms
from ase.data import atomic_numbers

from surveyor.dataset import ENERGY, FORCES, STRESS, Dataset
from surveyor.errors import TrainingFailed
from surveyor.events import announce, read_lines
from surveyor.files import publish, read_json, write_atomically, write_json
from surveyor.models.history import report_epoch, reported_epochs
from surveyor.models.mace_program import DIVERGED, OUT_OF_MEMORY
from surveyor.models.model import Epoch
from surveyor.programs import run_program

logger = logging.getLogger(__name__)

NAME = "training"
TRAIN_FILE, VALID_FILE = "train.extxyz", "valid.extxyz"
CONFIGURATION = "config.yaml"
PROGRAM = ("-m", "surveyor.models.mace_program")
BATCH_SIZES = ("batch_size", "valid_batch_size")
FITTING = "batch_sizes.json"  # there when memory was lacking for those that were asked for
STATE = "state.pt"  # of a training that goes on
LOG = "trainer.log"
NETWORK = "mace.model"  # the native file, there when the training is complete
POLL_S = 0.2
LOG_LINES = 15  # of the trainer's log, in the message of a failure


@dataclass(frozen=True, slots=True)
class Training:
    """What one training needs.

    Attributes:
        settings: options of the trainer that the user chose, by their own names.
        atomic_energies: in eV by chemical symbol; the elements of the network.
        seed: of the weights and of the order of batches.
        start: network from whose weights the training starts; None for new ones.
        time_limit_minutes: after which the training ends, with the best epoch so far.
    """

    settings: Mapping[str, Any]  # Any: whatever the trainer takes
    atomic_energies: Mapping[str, float]
    seed: int
    start: Path | None = None
    time_limit_minutes: float | None = None


def configuration(
    training: Training, train: Dataset, valid: Dataset
) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return all options of the trainer, by their own names.

    The batch is never larger than the set: the trainer drops incomplete batches, and would train on nothing.
    """
    settings = dict(training.settings)
    energies = {atomic_numbers[symbol]: energy for symbol, energy in training.atomic_energies.items()}
    has_stress = settings["stress_weight"] > 0 and any(STRESS in atoms.info for atoms in train)
    start = {} if training.start is None else {"foundation_model": str(training.start), "multiheads_finetuning": False}
    return {
        "loss": "stress" if has_stress else "weighted",
        **settings,
        **start,
        "batch_size": min(settings["batch_size"], len(train)),
        "valid_batch_size": min(settings["valid_batch_size"], len(valid)),
        "name": NAME,
        "seed": training.seed,
        "train_file": TRAIN_FILE,
        "valid_file": VALID_FILE,
        "E0s": str(energies),
        "atomic_numbers": str(sorted(energies)),
        "energy_key": ENERGY,
        "forces_key": FORCES,
        "stress_key": STRESS,
        "restart_latest": bool(settings.get("distributed")),  # that alone is left to MACE's own loop
        "save_cpu": True,
        "plot": False,
        "skip_evaluate_heads": "Default",
    }


def run_training(training: Training, train: Dataset, valid: Dataset, directory: Path) -> Path:
    """Train a network, and return its file.

    A training that was killed continues with the epoch that it was in, as if it had not been; a complete one is not
    repeated.

    Args:
        training: what is to be trained.
        train: labelled structures to fit.
        valid: labelled structures by which checkpoints are chosen.
        directory: of the training.

    Raises:
        TrainingFailed: the trainer ended without a network, or its loss was never a number.
    """
    network = directory.absolute() / NETWORK
    if network.is_file():
        return network
    directory.mkdir(parents=True, exist_ok=True)
    Dataset(_for_trainer(atoms) for atoms in train).save(directory / TRAIN_FILE)
    Dataset(_for_trainer(atoms) for atoms in valid).save(directory / VALID_FILE)
    options = configuration(training, train, valid) | _batch_sizes_that_fit(directory)
    while (returncode := _run_program(training, options, directory)) == OUT_OF_MEMORY and options["batch_size"] > 1:
        options |= {name: max(1, options[name] // 2) for name in BATCH_SIZES}
        write_json(directory / FITTING, {name: options[name] for name in BATCH_SIZES})
        text = f"there is no memory for so large a batch: it has {options['batch_size']} structures from now on"
        announce(logger, "batch_halved", text, batch_size=options["batch_size"])
    publish(_outcome(returncode, directory), network)
    (directory / STATE).unlink(missing_ok=True)
    return network


def _batch_sizes_that_fit(directory: Path) -> dict[str, int]:
    """Return the sizes to which batches were halved before, so far as they were."""
    return dict(read_json(directory / FITTING)) if (directory / FITTING).exists() else {}


def _run_program(training: Training, options: Mapping[str, Any], directory: Path) -> int:  # Any: as `configuration`
    write_atomically(directory / CONFIGURATION, yaml.safe_dump(dict(options)))
    _remove_torn_checkpoints(directory / "checkpoints")
    limit_s = math.inf if training.time_limit_minutes is None else 60 * training.time_limit_minutes
    command = [sys.executable, *PROGRAM, STATE, str(limit_s), "--config", CONFIGURATION]
    with _following(directory / "results" / f"{NAME}_run-{training.seed}_train.txt", directory):
        return run_program(command, directory=directory, output=directory / LOG).returncode


def _for_trainer(atoms: Atoms) -> Atoms:
    # The trainer gives meaning to further fields, such as config_type; nothing but structure and label shall reach it.
    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {name: atoms.info[name] for name in (ENERGY, STRESS) if name in atoms.info}
    bare.arrays[FORCES] = atoms.arrays[FORCES]
    return bare


def _remove_torn_checkpoints(folder: Path) -> None:
    # The trainer writes checkpoints in place. One that it was killed in has no end, and would break the restart.
    for checkpoint in folder.glob("*.pt"):
        if not zipfile.is_zipfile(checkpoint):
            logger.warning("removing %s, in the writing of which a training was killed", checkpoint)
            checkpoint.unlink()


@contextmanager
def _following(results: Path, directory: Path) -> Iterator[None]:
    """Report epochs as they end, as long as this lasts."""
    ended = threading.Event()
    # In a copy of this context, what the thread announces is reported as this call's.
    follow = partial(copy_context().run, _follow, results, directory, ended)
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _follow(results: Path, directory: Path, ended: threading.Event) -> None:
    # The trainer appends to its results over restarts, so what was reported before is a matter of counting.
    to_skip, offset = len(reported_epochs(directory)), 0
    is_last = False
    while not is_last:
        is_last = ended.wait(POLL_S)
        records, offset = read_lines(results, offset)
        for epoch in filter(None, map(_epoch, records)):
            if to_skip > 0:
                to_skip -= 1
                continue
            report_epoch(directory, epoch)


def _epoch(record: Mapping[str, Any]) -> Epoch | None:  # Any: whatever JSON holds
    if record["mode"] != "eval" or record["epoch"] is None:  # None: before the first epoch
        return None
    return Epoch(record["epoch"], record["loss"], record.get("rmse_e_per_atom"), record.get("rmse_f"))


def _outcome(returncode: int, directory: Path) -> Path:
    # Where the options ask for a second stage of training (swa), that is the one to use.
    networks = [path for path in (directory / f"{NAME}_stagetwo.model", directory / f"{NAME}.model") if path.is_file()]
    if returncode == OUT_OF_MEMORY:
        raise TrainingFailed(
            "there is no memory to train on a single structure; take a smaller network, or a pool with more memory",
            directory,
        )
    if returncode == DIVERGED:
        raise TrainingFailed(
            "the training diverged: the validation loss was never a number, or much larger than that of the untrained "
            "network; check the data, or lower the learning rate",
            directory,
        )
    if returncode != 0 or not networks:
        lines = (directory / LOG).read_text(errors="replace").splitlines()[-LOG_LINES:]
        raise TrainingFailed(
            "\n".join([f"the trainer of MACE ended with exit code {returncode}:", *lines, ""]), directory
        )
    return networks[0]
