"""The MACE trainer: runs the training program in a separate process, and resumes it after a kill.

The trainer is configured by one file, reports the errors of each epoch as lines of JSON, saves a checkpoint whenever
the validation loss has improved, and its complete state after each epoch (see `mace_program`).
"""

import logging
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from ase.data import atomic_numbers

from surveyor.dataset import ENERGY, FORCES, STRESS, Dataset
from surveyor.dataset.weights import counted, has_stress
from surveyor.errors import InputError
from surveyor.files import publish, write_atomically
from surveyor.models.fitted_energies import FITTED
from surveyor.models.mace_cells import with_vacuum
from surveyor.models.mace_energies import HEAD
from surveyor.models.mace_program import Job
from surveyor.models.model import Epoch
from surveyor.models.plausibility import Beginning, from_foundation, from_scratch, from_weights
from surveyor.models.preloaded import run_preloaded
from surveyor.models.trainer import (
    BEFORE,
    LOG,
    TRAIN_FILE,
    VALID_FILE,
    Record,
    Trainer,
    failed,
    run_trainer,
    training_copy,
)
from surveyor.programs.program import run_program

logger = logging.getLogger(__name__)

NAME = "training"
CONFIGURATION = "config.yaml"
MODULE = "surveyor.models.mace_program"
PROGRAM = ("-m", MODULE)
JOB = "job.json"
RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=gpu")  # a process for each GPU
BATCH_SIZES = ("batch_size", "valid_batch_size")
STATE = "state.pt"  # of a training that goes on
REPLAY_FILE = "replay.extxyz"
REPLAY_HEAD = "pt_head"  # readout for the replay data, as MACE calls it
# What MACE may leave. Where the options ask for a second stage of training (swa), its network is the one to use.
OUTCOMES = (f"{NAME}_stagetwo.model", f"{NAME}.model")
RESULT = "result.model"
REFUSAL = "kernels-refused.txt"  # there when kernels for GPUs do not work
RESULTS = f"results/{NAME}_run-{{seed}}_train.txt"  # to which the trainer appends lines of JSON
NETWORK = "mace.model"  # the native file, there when the training is complete


@dataclass(frozen=True, slots=True)
class TrainerInput:
    """The input of one training.

    Attributes:
        settings: options of the trainer that the user chose, by their own names.
        atomic_energies: in eV by chemical symbol; the elements of the network.
        seed: of the weights and of the order of batches.
        start: network from whose weights the training starts; None for new ones.
        time_limit_minutes: after which the training ends, with the best epoch so far.
        replay: labelled structures of what `start` was trained on, to be trained on as well.
        is_foundation: whether `start` is a foundation model, which may belong to another level of theory.
        fits: elements whose atomic energies are fitted to what the interactions of `start` leave of the energies.
    """

    settings: Mapping[str, Any]  # Any: whatever the trainer takes
    atomic_energies: Mapping[str, float]
    seed: int
    start: Path | None = None
    time_limit_minutes: float | None = None
    replay: Dataset | None = None
    is_foundation: bool = False
    fits: Sequence[str] = ()

    def beginning(self, train: Dataset) -> Beginning:
        """Return the starting point of a training, and the plausible errors for it."""
        begin = from_scratch
        if self.start is not None:
            begin = from_foundation if self.is_foundation else from_weights
        return replace(begin(train, self.atomic_energies), learns_forces=self.settings["forces_weight"] > 0)


def configuration(
    training: TrainerInput, train: Dataset, valid: Dataset
) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return all options of the trainer, by their own names.

    The batch is never larger than the set: the trainer drops incomplete batches, and would train on nothing.

    Raises:
        InputError: the loss that is chosen needs a stress, which some structures do not have.
    """
    settings = dict(training.settings)
    if settings.get("loss") == "huber" and not all(map(has_stress, train + valid)):
        raise InputError(
            "options of MACE: loss huber takes a stress that is missing for zero; give one to each structure"
        )
    energies = {atomic_numbers[symbol]: energy for symbol, energy in training.atomic_energies.items()}
    with_stress = settings["stress_weight"] > 0 and any(has_stress(atoms) for atoms in train)
    return {
        "loss": "stress" if with_stress else "weighted",
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
    return Dataset(with_vacuum(training_copy(atoms)) for atoms in structures)


def _start(training: TrainerInput) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return the options by which a training begins from another network."""
    if training.start is None:
        return {}
    start = {"foundation_model": str(training.start), "multiheads_finetuning": training.replay is not None}
    if training.replay is None:
        return start
    # Without force_mh_ft_lr, MACE would set a learning rate and an average of its own.
    return {**start, "pt_train_file": REPLAY_FILE, "num_samples_pt": len(training.replay), "force_mh_ft_lr": True}


def run_training(training: TrainerInput, train: Dataset, valid: Dataset, directory: Path) -> Path:
    """Train a network, and return its file.

    A killed training continues with the interrupted epoch, with the same result as without the interruption; a complete
    training is not repeated.

    Raises:
        TrainingFailed: the trainer ended without a network, or its loss was never a number.
    """
    network = directory.absolute() / NETWORK
    if network.is_file():
        return network
    directory.mkdir(parents=True, exist_ok=True)
    train, valid = counted(train), counted(valid)
    _given_to_mace(train).save(directory / TRAIN_FILE)
    _given_to_mace(valid).save(directory / VALID_FILE)
    if training.replay is not None:
        _given_to_mace(training.replay).save(directory / REPLAY_FILE)
    options = configuration(training, train, valid)
    beginning = training.beginning(train)
    run_trainer(
        lambda sizes: _run_program(training, options | dict(sizes), beginning, directory),
        {name: options[name] for name in BATCH_SIZES},
        Trainer("MACE", directory, directory / RESULTS.format(seed=training.seed), _errors),
        beginning,
    )
    if (directory / REFUSAL).exists():
        logger.warning((directory / REFUSAL).read_text())
    if not (directory / RESULT).is_file():
        raise failed("the trainer of MACE has left no network", directory)
    publish(directory / RESULT, network)
    (directory / STATE).unlink(missing_ok=True)
    return network


def _run_program(
    training: TrainerInput, options: Mapping[str, Any], beginning: Beginning, directory: Path
) -> int:  # Any: as `configuration`
    write_atomically(directory / CONFIGURATION, yaml.safe_dump(dict(options)))
    _job(training, beginning, directory).save(directory / JOB)
    _remove_torn_checkpoints(directory / "checkpoints")
    ranks = RANKS if options.get("distributed") else ()
    arguments = [JOB, "--config", CONFIGURATION]
    log = directory / LOG
    if options["device"] == "cpu" and not ranks:
        # A fork of a process that has imported MACE; on a GPU this was never tried.
        code = run_preloaded(MODULE, arguments, directory=directory, output=log)
        if code is not None:
            return code
    command = [sys.executable, *ranks, *PROGRAM, *arguments]
    return run_program(command, directory=directory, output=log).returncode


def _job(training: TrainerInput, beginning: Beginning, directory: Path) -> Job:
    # A training that an older surveyor began without a fit goes on without it.
    is_fitted = bool(training.fits) and ((directory / FITTED).exists() or not (directory / STATE).exists())
    return Job(
        state=STATE,
        outcomes=OUTCOMES,
        result=RESULT,
        limit_s=None if training.time_limit_minutes is None else 60 * training.time_limit_minutes,
        highest=beginning.highest,
        atomic_energies={str(atomic_numbers[name]): energy for name, energy in training.atomic_energies.items()},
        fits=[atomic_numbers[name] for name in training.fits],
        fitted=FITTED if is_fitted else None,
        refusal=REFUSAL,
    )


def _remove_torn_checkpoints(folder: Path) -> None:
    # The trainer writes checkpoints in place. One that it was killed in has no end, and would break the restart.
    for checkpoint in folder.glob("*.pt"):
        if not zipfile.is_zipfile(checkpoint):
            logger.warning("removing %s, in the writing of which a training was killed", checkpoint)
            checkpoint.unlink()


def _errors(record: Record) -> Epoch | None:
    if record["mode"] != "eval" or record["head"] != HEAD:
        return None
    number = BEFORE if record["epoch"] is None else record["epoch"]
    errors = record.get("rmse_e_per_atom"), record.get("rmse_f")
    return Epoch(number, record["loss"], *errors, record.get("learning_rate"), record.get("training_loss"))
