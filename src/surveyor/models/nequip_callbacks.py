"""Callbacks and data loaders for NequIP's training program, which its configuration names."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sized
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Sampler

from surveyor.models.nequip_config import ENERGY_RMSE, FORCES_RMSE
from surveyor.models.trainer_process import DIVERGED, EXPLODED, end_if_absurd

LEARNING_RATE, TRAINING_LOSS = "learning_rate", "training_loss"


class ShuffledByEpoch(Sampler):  # type: ignore[misc]  # torch is optional
    """A sampler of all structures, in an order that depends only on a seed and the number of the epoch.

    Args:
        data: the structures.
        seed: seed of all orders.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self.data = data
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; Lightning calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(len(self.data), generator=generator).tolist())

    def __len__(self) -> int:
        return len(self.data)


def shuffled(dataset: Any, generator: torch.Generator, **options: Any) -> DataLoader:  # Any: as the loader of torch
    """Return a loader of torch that shuffles by epoch, with the seed of a generator."""
    return DataLoader(dataset, sampler=ShuffledByEpoch(dataset, generator.initial_seed()), **options)


class Newest(Callback):  # type: ignore[misc]  # so is Lightning
    """A callback that saves, after each epoch, all that the next one depends on.

    A checkpoint at the end of an epoch lacks the step of the learning rate that follows, and one at the beginning of
    the next is counted as if that epoch had been trained. So this saves at the beginning, with the counts of the end.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.counts: dict[str, Any] = {}  # Any: of Lightning
        self.is_saving = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the counts."""
        self.counts = deepcopy(trainer.fit_loop.state_dict())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        if self.counts:
            self.is_saving = True
            trainer.save_checkpoint(self.path)
            self.is_saving = False

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: dict[str, Any],  # Any: of Lightning
    ) -> None:
        """Put the counts in place."""
        if self.is_saving:
            checkpoint["loops"]["fit_loop"] = self.counts
            checkpoint["epoch"] -= 1


class Reports(Callback):  # type: ignore[misc]  # so is Lightning
    """A callback that appends each epoch as a line of JSON to a file, and ends a training that diverges.

    A loss that is not a number, or exceeds that of the untrained network by the factor `EXPLODED`, ends it; if there
    was no better one, with the exit code `DIVERGED`.

    Energies that are absurd before the first epoch end it with the exit code `ABSURD`. The errors before the first
    epoch are a line, too, without the number of an epoch.

    Args:
        path: of the file.
        highest: largest plausible error of the energies before the first epoch, in eV/atom.
    """

    def __init__(self, path: str, highest: float) -> None:
        self.path = Path(path)
        self.highest = highest
        self.initial_loss: float | None = None
        self.has_good_epoch = False
        self.losses: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the losses of the epoch before."""
        self.losses = []

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Any],  # Any: of NequIP
        batch: Any,  # Any: of NequIP
        batch_idx: int,
    ) -> None:
        """Keep the loss of a batch."""
        self.losses.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the errors on the validation set."""
        loss, errors = _loss_of(pl_module.val_metrics[0])
        if self.initial_loss is None:
            self.initial_loss = loss
        if trainer.sanity_checking:
            if trainer.is_global_zero and not self.path.exists():
                self._report(None, loss, errors)
            end_if_absurd(errors.get(ENERGY_RMSE), self.highest)
            return
        is_good = loss < EXPLODED * self.initial_loss or loss == 0
        self.has_good_epoch |= is_good
        trainer.should_stop |= not is_good
        if trainer.is_global_zero:
            rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
            known = {LEARNING_RATE: float(max(rates)), TRAINING_LOSS: float(np.mean(self.losses))}
            self._report(trainer.current_epoch, loss, {**errors, **known})

    def _report(self, number: int | None, loss: float, errors: Mapping[str, float]) -> None:
        epoch = {"epoch": number, "loss": loss, "energy_rmse": errors.get(ENERGY_RMSE)}
        epoch |= {"forces_rmse": errors.get(FORCES_RMSE), LEARNING_RATE: errors.get(LEARNING_RATE)}
        epoch[TRAINING_LOSS] = errors.get(TRAINING_LOSS)
        with self.path.open("a") as file:
            file.write(json.dumps(epoch) + "\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the process with `DIVERGED` if the training had no good epoch."""
        if not self.has_good_epoch:
            sys.exit(DIVERGED)

    def state_dict(self) -> dict[str, Any]:  # Any: of the interface
        """Return the state to resume from."""
        return {"initial_loss": self.initial_loss, "has_good_epoch": self.has_good_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # Any: of the interface
        """Restore the state returned by `state_dict`."""
        self.initial_loss, self.has_good_epoch = state_dict["initial_loss"], state_dict["has_good_epoch"]


def _loss_of(metrics: Any) -> tuple[float, dict[str, float]]:  # Any: a metrics manager of NequIP
    """Return the weighted sum of the metrics of an epoch, and all of them by name."""
    errors = {name: value for name, value in metrics.metrics_values_epoch.items() if value is not None}
    weights = {name: entry.coeff for name, entry in metrics.entries.items() if entry.coeff is not None}
    loss = sum(weight * errors[name] for name, weight in weights.items()) if errors else math.nan
    return float(loss), errors
