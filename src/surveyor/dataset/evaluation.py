"""Evaluation of a potential on a dataset, and storage of the predictions."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.dataset.dataset import Dataset
from surveyor.files import write_arrays
from surveyor.potentials import Potential, Prediction
from surveyor.words import number_of


def evaluate_dataset(potential: Potential, dataset: Path, destination: Path) -> Path:
    """Evaluate a potential on all structures of an extxyz file; a function for the training pool.

    Args:
        potential: the potential.
        dataset: the extxyz file.
        destination: file for the predictions; if it exists for the same structures, nothing is done.

    Returns:
        The file with the predictions.
    """
    digest = hashlib.sha256(dataset.read_bytes()).hexdigest()
    if not _is_for(destination, digest):
        structures = Dataset.load(dataset)
        save_predictions(destination, potential.evaluate(structures) if structures else [], digest=digest)
    return destination


def _is_for(destination: Path, digest: str) -> bool:
    if not destination.exists():
        return False
    with np.load(destination, allow_pickle=False) as arrays:
        return str(arrays["dataset"]) == digest


def save_predictions(path: Path, predictions: Sequence[Prediction], *, digest: str = "") -> None:
    """Write predictions as plain arrays (npz), atomically.

    The arrays are `energies` in eV, shape (n,); `forces` in eV/Å, shape (sum of n_atoms, 3); `stresses` in eV/Å³, shape
    (n, 6), NaN where undefined; and, of potentials that state one, `uncertainties` in eV/Å, shape (sum of n_atoms,).

    Args:
        path: the file.
        predictions: one prediction per structure.
        digest: hash of the dataset; stored as `dataset`.
    """
    no_stress = np.full(6, np.nan)
    stresses = np.array([no_stress if each.stress is None else each.stress for each in predictions])
    arrays = {
        "dataset": np.asarray(digest),
        "energies": np.array([prediction.energy for prediction in predictions]),
        "forces": np.concatenate([np.empty((0, 3)), *(prediction.forces for prediction in predictions)]),
        "stresses": stresses.reshape(-1, 6),
    }
    uncertainties = [each.uncertainty for each in predictions if each.uncertainty is not None]
    if predictions and len(uncertainties) == len(predictions):
        arrays["uncertainties"] = np.concatenate(uncertainties)
    write_arrays(path, arrays)


def load_predictions(path: Path, structures: Sequence[Atoms]) -> list[Prediction]:
    """Load the predictions that `save_predictions` wrote.

    Args:
        path: the file.
        structures: those for which the predictions were made, in the same order.

    Raises:
        ValueError: the predictions are those of other structures.
    """
    with np.load(path, allow_pickle=False) as arrays:
        energies, forces, stresses = arrays["energies"], arrays["forces"], arrays["stresses"]
        uncertainties = arrays.get("uncertainties")
    sizes = [len(atoms) for atoms in structures]
    if len(energies) != len(sizes) or len(forces) != sum(sizes):
        raise ValueError(
            f"{path} holds {number_of(len(energies), 'prediction')} with {number_of(len(forces), 'atom')}, "
            f"expected {json.dumps(sizes)}"
        )
    by_structure = partial(np.split, indices_or_sections=np.cumsum(sizes)[:-1])
    return [
        Prediction(float(energy), force, None if np.isnan(stress).any() else stress, uncertainty)
        for energy, force, stress, uncertainty in zip(
            energies,
            by_structure(forces) if sizes else [],
            stresses,
            [None] * len(sizes) if uncertainties is None else by_structure(uncertainties),
            strict=True,
        )
    ]
