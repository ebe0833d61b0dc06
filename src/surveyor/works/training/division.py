"""Training, validation and test set of a training on given files."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from surveyor.dataset import Dataset, DataSets
from surveyor.errors import InputError
from surveyor.reading.learnable import TrainingData
from surveyor.words import number_of
from surveyor.works.training.parameters import TrainingParameters

SETS = ("train", "valid", "test")


def begun(folder: Path) -> DataSets | None:
    """Return the sets of a training that has begun, which do not change; None before it begins."""
    is_begun = all((folder / f"{each.name}.extxyz").is_file() for each in fields(DataSets))
    return DataSets.load(folder) if is_begun else None


def divided(parameters: TrainingParameters, given: Mapping[str, TrainingData]) -> DataSets:
    """Return the sets, with a part of the training data for validation where no file has such data.

    Copies of one structure stay together.
    """
    train, valid, test = (Dataset(given[name].structures if name in given else ()) for name in SETS)
    if parameters.valid is None and parameters.valid_fraction > 0:
        n_valid = max(1, round(parameters.valid_fraction * len(train)))
        held_out = _held_out(given["train"].first_copies, n_valid, parameters.seed)
        if held_out.all():
            raise InputError(
                f"train: {parameters.train} has {number_of(len(train), 'structure')}, of which {held_out.sum()} would "
                "be for validation, where copies of one stay together; expected more, or a file `valid`"
            )
        train, valid = (
            Dataset(atoms for atoms, is_held_out in zip(train, held_out, strict=True) if is_held_out == which)
            for which in (False, True)
        )
    return DataSets(train=train, valid=valid, test=test)


def _held_out(first_copies: np.ndarray, n_least: int, seed: int) -> np.ndarray:
    """Return which structures are held out, at random: as few as there may be with all copies of each.

    Args:
        first_copies: index of the first copy of each, shape (n_structures,).
        n_least: how many to hold out at least.
        seed: of the order in which structures are drawn.
    """
    drawn = first_copies[np.random.default_rng(seed).permutation(len(first_copies))]
    in_order = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    sizes = np.bincount(first_copies)[in_order]
    n_drawn = int(np.searchsorted(np.cumsum(sizes), n_least)) + 1
    return np.isin(first_copies, in_order[:n_drawn])
