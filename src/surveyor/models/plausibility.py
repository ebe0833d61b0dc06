"""Plausibility of trainings: errors before the first epoch, and errors of the result.

A training that begins with absurd energies ruins the network before it learns anything else, and its loss still falls.
So errors are compared with what the data themselves allow, and the result with the beginning. Atomic energies are in eV
by chemical symbol.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.dataset import label_of
from surveyor.dataset.weights import counts
from surveyor.errors import TrainingFailed
from surveyor.events.kinds import NoBetterEpoch
from surveyor.events.recording import announce
from surveyor.models.model import Epoch

logger = logging.getLogger(__name__)

BONDS = 10.0  # eV/atom: no element has a larger cohesive energy (tungsten: 8.9)
LEVELS = 2.0  # eV/atom: two levels of theory differ by less for the same bonds
LENGTH_A = 1.0  # over which forces make differences of energies
UNTRAINED = 10.0  # an untrained network may exceed the spread of the data by this factor
WORSE = 2.0  # errors after a training may exceed those before it by this factor: optimizers and small sets are noisy


@dataclass(frozen=True, slots=True)
class Beginning:
    """The start of a training, and the errors that are plausible there.

    Attributes:
        highest: largest plausible error of the energies before the first epoch, in eV/atom.
        has_weights: whether the network was trained before.
        is_foundation: whether these weights are of a foundation model, which may belong to another level of theory.
        learns_forces: whether the loss has forces; otherwise their error may become anything.
    """

    highest: float
    has_weights: bool = False
    is_foundation: bool = False
    learns_forces: bool = True


def from_scratch(train: Sequence[Atoms], atomic_energies: Mapping[str, float]) -> Beginning:
    """Return the plausible errors for new weights.

    An untrained network reproduces at most the scale of the data: its energies are off by a multiple of their spread,
    or by the work of the forces along a bond.
    """
    energies, forces = _learned(train, atomic_energies)
    return Beginning(max(BONDS, UNTRAINED * float(np.std(energies)), UNTRAINED * forces * LENGTH_A))


def from_weights(train: Sequence[Atoms], atomic_energies: Mapping[str, float]) -> Beginning:
    """Return the plausible errors for a network that was trained before with the same atomic energies.

    It may have been trained for only one epoch, so the limit is that of new weights.
    """
    return Beginning(from_scratch(train, atomic_energies).highest, has_weights=True)


def from_foundation(train: Sequence[Atoms], atomic_energies: Mapping[str, float]) -> Beginning:
    """Return the plausible errors for a foundation model.

    It knows bonds, so it is off by less than twice what an empty network would be off by, and at most by `BONDS`.
    Below `LEVELS`, the difference may be one of the levels of theory.
    """
    energies, _ = _learned(train, atomic_energies)
    of_nothing = float(np.sqrt(np.mean(np.square(energies))))
    return Beginning(min(BONDS, max(LEVELS, 2 * of_nothing)), has_weights=True, is_foundation=True)


def _learned(train: Sequence[Atoms], atomic_energies: Mapping[str, float]) -> tuple[np.ndarray, float]:
    """Return the remainders of the energies, in eV/atom by structure, and the root mean square of the forces, in eV/Å.

    Labels of weight 0 are ignored. Without any label, a single energy or force of zero is used.
    """
    energies = [
        (label_of(atoms).energy - sum(atomic_energies[symbol] for symbol in atoms.symbols)) / len(atoms)
        for atoms in train
        if counts(atoms, "energy")
    ]
    squares = [np.square(label_of(atoms).forces).ravel() for atoms in train if counts(atoms, "forces")]
    return np.array(energies or [0.0]), float(np.sqrt(np.mean(np.concatenate(squares or [np.zeros(1)]))))


def check_beginning(first: Epoch | None, beginning: Beginning, directory: Path) -> None:
    """Check the energies before the first epoch.

    Raises:
        TrainingFailed: the energies are absurd.
    """
    if first is not None:
        _check_energies(first, beginning, "before the first epoch", directory)


def check_result(first: Epoch | None, history: Sequence[Epoch], beginning: Beginning, directory: Path) -> None:
    """Check that a training has not made its network worse.

    New weights are judged only by the forces: their energies start at the mean of the data and may move away from it
    in the first epochs.

    Raises:
        TrainingFailed: errors are more than `WORSE` times as large as before, or energies are absurd.
    """
    best = best_of(history)
    if best is None:
        return
    _check_energies(best, beginning, "in the best epoch", directory)
    if first is None:
        return
    if beginning.learns_forces:
        _check_not_worse("error of forces (eV/Å)", first.forces_rmse, best.forces_rmse, WORSE, directory)
    if beginning.has_weights:
        _check_not_worse("loss", first.loss, best.loss, WORSE**2, directory)
        if best.loss > first.loss:
            text = (
                f"no epoch was better than the network that the training began with: loss {best.loss:.4g}, before "
                f"{first.loss:.4g}; lower the learning rate, or train longer"
            )
            announce(logger, NoBetterEpoch(message=text, loss=best.loss, first_loss=first.loss))


def best_of(history: Sequence[Epoch]) -> Epoch | None:
    """Return the epoch with the lowest loss; None where no loss is a number."""
    return min((epoch for epoch in history if math.isfinite(epoch.loss)), key=lambda epoch: epoch.loss, default=None)


def _check_energies(epoch: Epoch, beginning: Beginning, when: str, directory: Path) -> None:
    if epoch.energy_rmse is None or not epoch.energy_rmse > beginning.highest:
        return
    found = (
        f"absurd energies: {when}, those of the validation set are off by {epoch.energy_rmse:.4g} eV/atom, where at "
        f"most {beginning.highest:.3g} is plausible; "
    )
    if beginning.is_foundation:
        advice = (
            "give the energies of isolated atoms at the level of theory of the data as atomic_energies, check that all "
            "energies are in eV, or train without the foundation model"
        )
    else:
        advice = (
            "check that the energies of training and validation data are total energies in eV at one level of theory, "
            "and that the atomic energies belong to it"
        )
    raise TrainingFailed(found + advice, directory)


def _check_not_worse(what: str, first: float | None, best: float | None, factor: float, directory: Path) -> None:
    if first is None or best is None or not best > factor * first:
        return
    raise TrainingFailed(
        f"the training made the network worse: the {what} on the validation set was {first:.4g} before the first "
        f"epoch, and {best:.4g} in the best one; lower the learning rate, and check that training and validation data "
        "are of one level of theory",
        directory,
    )
