"""Running the trainer of MACE: its own program, in a process of its own, that continues where it was killed.

The trainer is configured by one file, reports the errors of each epoch as lines of JSON, saves a checkpoint whenever
the validation loss has improved, and after each epoch all that it needs to go on (see `mace_program`).
"""

import logging
import math
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ase.data import atomic_numbers

from surveyor.dataset import ENERGY, FORCES, STRESS, Dataset
from surveyor.files import publish, write_atomically
from surveyor.models.mace_cells import with_vacuum
from surveyor.models.model import Epoch
from surveyor.models.trainer import (
    LOG,
    TRAIN_FILE,
    VALID_FILE,
    Record,
    bare,
    check_outcome,
    failed,
    following,
    run_with_batches_that_fit,
)
from surveyor.programs import run_program

logger = logging.getLogger(__name__)

NAME = "training"
CONFIGURATION = "config.yaml"
PROGRAM = ("-m", "surveyor.models.mace_program")
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=gpu")  # a process for each GPU
BATCH_SIZES = ("batch_size", "valid_batch_size")
STATE = "state.pt"  # of a training that goes on
REPLAY_FILE = "replay.extxyz"
HEAD, REPLAY_HEAD = "Default", "pt_head"  # readouts, as MACE calls them
NETWORK = "mace.model"  # the native file, there when the training is complete


@dataclass(frozen=True, slots=True)
class Training:
    """What one training needs.

    Attributes:
        settings: options of the trainer that the user chose, by their own names.
        atomic_energies: in eV by chemical symbol; the elements of the network.
        seed: of the weights and of the order of batches.
        start: network from whose weights the training starts; None for new ones.
        time_limit_minutes: after which the training ends, with the best epoch so far.
        replay: labelled structures of what `start` was trained on, to be trained on as well.
    """

    settings: Mapping[str, Any]  # Any: whatever the trainer takes
    atomic_energies: Mapping[str, float]
    seed: int
    start: Path | None = None
    time_limit_minutes: float | None = None
    replay: Dataset | None = None


def configuration(
    training: Training, train: Dataset, valid: Dataset
) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return all options of the trainer, by their own names.

    The batch is never larger than the set: the trainer drops incomplete batches, and would train on nothing.
    """
    settings = dict(training.settings)
    energies = {atomic_numbers[symbol]: energy for symbol, energy in training.atomic_energies.items()}
    has_stress = settings["stress_weight"] > 0 and any(STRESS in atoms.info for atoms in train)
    return {
        "loss": "stress" if has_stress else "weighted",
        **settings,
        **_start(training),
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
        "skip_evaluate_heads": f"{HEAD},{REPLAY_HEAD}",
        **({"launcher": "torchrun"} if settings.get("distributed") else {}),
    }


def _given_to_mace(structures: Dataset) -> Dataset:
    return Dataset(with_vacuum(bare(atoms)) for atoms in structures)


def _start(training: Training) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return the options by which a training begins from another network."""
    if training.start is None:
        return {}
    start = {"foundation_model": str(training.start), "multiheads_finetuning": training.replay is not None}
    if training.replay is None:
        return start
    # Without force_mh_ft_lr, MACE would set a learning rate and an average of its own.
    return {**start, "pt_train_file": REPLAY_FILE, "num_samples_pt": len(training.replay), "force_mh_ft_lr": True}


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
    _given_to_mace(train).save(directory / TRAIN_FILE)
    _given_to_mace(valid).save(directory / VALID_FILE)
    if training.replay is not None:
        _given_to_mace(training.replay).save(directory / REPLAY_FILE)
    options = configuration(training, train, valid)
    returncode = run_with_batches_that_fit(
        lambda sizes: _run_program(training, options | dict(sizes), directory),
        {name: options[name] for name in BATCH_SIZES},
        directory,
    )
    check_outcome(returncode, "MACE", directory)
    trained = _outcome(directory)
    publish(trained if training.replay is None else _without_replay(trained), network)
    (directory / STATE).unlink(missing_ok=True)
    return network


def _run_program(training: Training, options: Mapping[str, Any], directory: Path) -> int:  # Any: as `configuration`
    write_atomically(directory / CONFIGURATION, yaml.safe_dump(dict(options)))
    _remove_torn_checkpoints(directory / "checkpoints")
    limit_s = math.inf if training.time_limit_minutes is None else 60 * training.time_limit_minutes
    ranks = RANKS if options.get("distributed") else ()
    command = [sys.executable, *ranks, *PROGRAM, STATE, str(limit_s), "--config", CONFIGURATION]
    with following(directory / "results" / f"{NAME}_run-{training.seed}_train.txt", _epoch, directory):
        return run_program(command, directory=directory, output=directory / LOG).returncode


def _remove_torn_checkpoints(folder: Path) -> None:
    # The trainer writes checkpoints in place. One that it was killed in has no end, and would break the restart.
    for checkpoint in folder.glob("*.pt"):
        if not zipfile.is_zipfile(checkpoint):
            logger.warning("removing %s, in the writing of which a training was killed", checkpoint)
            checkpoint.unlink()


def _epoch(record: Record) -> Epoch | None:
    if record["mode"] != "eval" or record["epoch"] is None or record["head"] != HEAD:  # None: before the first epoch
        return None
    return Epoch(record["epoch"], record["loss"], record.get("rmse_e_per_atom"), record.get("rmse_f"))


def _outcome(directory: Path) -> Path:
    # Where the options ask for a second stage of training (swa), that is the one to use.
    for path in (directory / f"{NAME}_stagetwo.model", directory / f"{NAME}.model"):
        if path.is_file():
            return path
    raise failed("the trainer of MACE has left no network", directory)


def _without_replay(trained: Path) -> Path:
    """Return the network without the readout for the replay data."""
    single, log = trained.with_name(f"single-{trained.name}"), "select_head.log"
    command = [sys.executable, "-m", "mace.cli.select_head", "-n", HEAD, "-o", single.name, trained.name]
    result = run_program(command, directory=trained.parent, output=trained.with_name(log))
    if result.returncode != 0 or not single.is_file():
        raise failed("MACE could not take the readout for the replay data away", trained.parent, log)
    return single
