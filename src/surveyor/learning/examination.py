"""The examination of a model on the structures of its walkers, before the next model learns from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset import KEY, Dataset, DataSets, label_of
from surveyor.dataset.metrics import structure_error
from surveyor.learning.audits import BAND, RECORD, Audit, audited, shortest_distances_A
from surveyor.learning.intervals import estimate_rmse
from surveyor.learning.labelled_samples import LabelledSample, audits_among
from surveyor.potentials import Prediction
from surveyor.sampling.collection import FRAME
from surveyor.sampling.conditions import MOVING_CELL, UNDER_THERMOSTAT, Walkers
from surveyor.sampling.walkers import Sample


def examine(
    structures: Dataset,
    data: DataSets,
    predictions: Mapping[str, Prediction],
    samples: Sequence[LabelledSample],
    groups: Sequence[Walkers],
    coverage: float | None = None,
) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the record of the examination for the manifest: audits, and intervals of the errors of all structures.

    Args:
        structures: new ones, labelled or failed.
        data: all sets, which they have joined.
        predictions: of the model that had not seen them, by key.
        samples: of this generation.
        groups: the groups of walkers.
        coverage: see `Audit`.
    """
    owners, discarded = _owners(samples), {*data.discarded.keys()}
    audits = [
        replace(
            _audit(atoms, predictions[key], owners.get(key), groups), is_discarded=key in discarded, coverage=coverage
        ).to_json()
        for atoms in audited(structures, data, audits_among(samples))
        for key in [str(atoms.info[KEY])]
    ]
    return {RECORD: audits, BAND: _intervals(structures.labelled(), predictions)}


def _owners(samples: Sequence[LabelledSample]) -> dict[str, Sample]:
    """Return the sample of each structure by key; the structure is that of the sample, or a frame of its trajectory."""
    by_name = {each.name: each.sample for each in samples if each.sample is not None}
    names = {each.key: each.name for each in samples if each.key is not None}
    owners = {key: by_name.get(name, by_name.get(name.rpartition(FRAME)[0])) for key, name in names.items()}
    return {key: owner for key, owner in owners.items() if owner is not None}


def _audit(atoms: Atoms, prediction: Prediction, sample: Sample | None, groups: Sequence[Walkers]) -> Audit:
    error, uncertainty = structure_error(atoms, prediction), prediction.uncertainty
    differences = 1e3 * (prediction.forces - label_of(atoms).forces)
    symbols = np.array(atoms.get_chemical_symbols())
    by_element = {str(symbol): differences[symbols == symbol] for symbol in np.unique(symbols)}
    return Audit(
        key=str(atoms.info[KEY]),
        energy=_finite(error.energy),
        forces=_finite(error.forces),
        forces_by_element={symbol: _finite(np.sqrt(np.mean(np.square(each)))) for symbol, each in by_element.items()},
        largest_error=_finite(np.linalg.norm(differences, axis=1).max()),
        uncertainty=None if uncertainty is None else _finite(1e3 * uncertainty.max()),
        n_atoms={symbol: len(each) for symbol, each in by_element.items()},
        distances_A=shortest_distances_A(atoms),
        **({} if sample is None else _circumstances(atoms, sample, groups)),
    )


def _circumstances(atoms: Atoms, sample: Sample, groups: Sequence[Walkers]) -> dict[str, Any]:  # Any: numbers and None
    conditions = sample.walker.conditions
    return {
        "group": group_of(sample.walker.index, groups),
        "is_stopped": sample.is_stopped,
        "temperature_K": _temperature_K(sample),
        "volume_A3": _finite(atoms.get_volume() / len(atoms)) if conditions.method in MOVING_CELL else None,
    }


def _temperature_K(sample: Sample) -> float | None:
    walker = sample.walker
    if walker.conditions.method not in UNDER_THERMOSTAT:
        return sample.temperature_K
    return walker.conditions.temperature_at(walker.progress)


def group_of(index: int, groups: Sequence[Walkers]) -> int:
    """Return the number of the group of a walker, from 0; walkers are numbered through all groups."""
    return int(np.searchsorted(np.cumsum([group.n_walkers for group in groups]), index, side="right"))


def _intervals(labelled: Dataset, predictions: Mapping[str, Prediction]) -> dict[str, list[float]]:
    """Return the 95 % intervals of the errors of all structures, meV/atom and meV/Å; none of too few structures."""
    errors = [structure_error(atoms, predictions[str(atoms.info[KEY])]) for atoms in labelled]
    energy = estimate_rmse([each.energy for each in errors], [1.0] * len(errors))
    forces = estimate_rmse([each.forces for each in errors], [3.0 * len(atoms) for atoms in labelled])
    found = {"energy": energy, "forces": forces}
    return {
        name: [each.low, each.high] for name, each in found.items() if each is not None and math.isfinite(each.value)
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
