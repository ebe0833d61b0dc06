"""The interface of trainable models."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.parameters import Parameters
from surveyor.potentials import Potential

EVENTS = "events.jsonl"  # in the directory of a training: one event "epoch" per epoch, as it happens


@dataclass(frozen=True, slots=True)
class Epoch:
    """One step of the history of a training.

    Attributes:
        number: number of the epoch, from 0.
        loss: loss on the validation set, in the units of the engine.
        energy_rmse: energy error on the validation set, in eV/atom; None if the engine does not report it.
        forces_rmse: force error on the validation set, in eV/Å; None if the engine does not report it.
        learning_rate: learning rate at the end of the epoch, the largest of several; None if the engine does not report
            it.
        training_loss: mean over the batches of the epoch, in the units of the engine; None if the engine does not
            report it.
    """

    number: int
    loss: float
    energy_rmse: float | None = None
    forces_rmse: float | None = None
    learning_rate: float | None = None
    training_loss: float | None = None


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Model(Protocol):
    """A trainable potential: a small immutable value, which refers to its weights by a path.

    The order of calls is `initialize`, then `train` any number of times; `deploy` works after `train`.
    """

    @property
    def parameters(self) -> Parameters:
        """Hyper-parameters."""

    @property
    def atomic_energies(self) -> Mapping[str, float] | None:
        """Energies in eV of isolated atoms by chemical symbol; None before `initialize`."""

    @property
    def seed(self) -> int:
        """Seed of the weights and of the order of batches."""

    @property
    def weights(self) -> Path | None:
        """Native file with the weights; None before `train`."""

    @property
    def is_trained(self) -> bool:
        """True if there are weights to deploy."""

    def initialize(self, train: Dataset, *, atomic_energies: Mapping[str, float] | None, seed: int) -> Self:
        """Return an untrained model for these data, with atomic energies and the seed of its weights.

        Args:
            train: labelled structures.
            atomic_energies: known energies of isolated atoms in eV. The energies of other elements are taken from
                isolated atoms in the data, or else fitted: to the total energies, minus the interaction energies of the
                foundation model if the training starts from one.
            seed: seed of the weights and of the order of batches.

        Raises:
            InputError: the data are empty, or contradict the given energies.
        """

    def train(self, train: Dataset, valid: Dataset, directory: Path) -> tuple[Self, Sequence[Epoch]]:
        """Return the model trained on the data, from the weights that it has, and the history of the training.

        Repeated on the same directory it continues from the last epoch that was saved there. Each epoch is appended to
        `EVENTS` in the directory as it ends.

        Args:
            train: labelled structures to fit; isolated atoms among them are passed over, here and in `valid`.
            valid: labelled structures that tell when to stop; may be empty for models that need none.
            directory: where checkpoints, logs and the resulting weights go.

        Raises:
            TrainingFailed: there is no model at the end.
        """

    def deploy(self) -> Potential:
        """Return the potential for sampling and evaluation."""

    def save(self, directory: Path) -> None:
        """Write the native file and `model.json`, with hyper-parameters and versions, into a new directory."""

    def unsupported(self, structures: Sequence[Atoms]) -> tuple[str, ...]:
        """Return the symbols of elements in the structures that the model cannot treat."""


def digest_of(model: Model) -> str:
    """Return a hash of everything that a training of the model depends on except the data: contents, never paths."""
    weights = b"" if model.weights is None else model.weights.read_bytes()
    energies = None if model.atomic_energies is None else dict(model.atomic_energies)
    record = {"kind": type(model).__name__, "energies": energies, "seed": model.seed}
    text = json.dumps(record, sort_keys=True) + model.parameters.model_dump_json()
    return hashlib.sha256(text.encode() + weights).hexdigest()
