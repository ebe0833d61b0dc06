"""Audits: structures that a generation brought at random, with the errors of the model that had not seen them."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from surveyor.dataset import KEY, Dataset, DataSets

REACH_A = 5.0  # pairs of atoms further apart are not looked at
RECORD = "audits"  # in the details of a manifest
BAND = "before_training_95"  # likewise: 95 % intervals of the errors of all new structures before training


@dataclass(frozen=True, slots=True)
class Audit:
    """One audit, with errors of the model on which its walker moved; None for errors that are not finite.

    Attributes:
        key: key of its label.
        group: number of its group of walkers, from 0; None if it is not known.
        energy: absolute error of the energy, meV/atom.
        forces: root mean square error of the force components, meV/Å.
        forces_by_element: likewise, by chemical symbol.
        largest_error: largest error of the force on an atom, meV/Å.
        uncertainty: largest uncertainty that the model stated for the force on an atom, meV/Å; None without one.
        coverage: share of structures whose largest error the largest uncertainty is to bound; None if the uncertainty
            is the scale of the error, as that of committees.
        n_atoms: number of atoms, by chemical symbol.
        is_discarded: whether the error kept the structure from the sets.
        is_stopped: whether a guard stopped its walker, also in an earlier try.
        temperature_K: temperature of the thermostat, without one the mean temperature of the sample; None if neither.
        volume_A3: volume per atom, if the cell can change.
        distances_A: shortest distance of each pair of elements, such as "H-O", up to 5 Å.
    """

    key: str
    group: int | None = None
    energy: float | None = None
    forces: float | None = None
    forces_by_element: Mapping[str, float | None] = field(default_factory=dict)
    largest_error: float | None = None
    uncertainty: float | None = None
    coverage: float | None = None
    n_atoms: Mapping[str, int] = field(default_factory=dict)
    is_discarded: bool = False
    is_stopped: bool = False
    temperature_K: float | None = None
    volume_A3: float | None = None
    distances_A: Mapping[str, float] = field(default_factory=dict)

    @property
    def formula(self) -> str:
        """Number of atoms of each element, such as H2O."""
        return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(self.n_atoms.items()))

    @property
    def n_components(self) -> int:
        """Number of force components."""
        return 3 * sum(self.n_atoms.values())

    @property
    def ratio(self) -> float | None:
        """Largest error in units of the largest uncertainty; None without an uncertainty."""
        if not self.uncertainty:
            return None
        return math.inf if self.largest_error is None else self.largest_error / self.uncertainty

    def exceeds(self, energy: float | None, forces: float | None) -> bool:
        """Return whether an error exceeds its limit, if one is given; that of a discarded structure always does."""
        pairs = ((self.energy, energy), (self.forces, forces))
        return self.is_discarded or any(
            limit is not None and (error is None or error > limit) for error, limit in pairs
        )

    def to_json(self) -> dict[str, Any]:  # Any: whatever JSON holds
        """Return the fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:  # Any: whatever JSON holds
        """Return the audit that `to_json` recorded."""
        return cls(**record)


@dataclass(frozen=True, slots=True)
class Examined:
    """Evidence of a generation about the model on which its walkers moved.

    Attributes:
        generation: its number.
        audits: its audits; none in the bootstrap, and in manifests of a surveyor that did not know them.
        samples: outcome of each sample, as in the manifest.
    """

    generation: int
    audits: tuple[Audit, ...]
    samples: tuple[Mapping[str, Any], ...] = ()  # Any: whatever JSON holds

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:  # Any: whatever JSON holds
        """Return the audits and samples in the manifest of a generation."""
        details = manifest["details"]
        audits = tuple(Audit.from_json(each) for each in details.get(RECORD, ()))
        return cls(manifest["number"], audits, tuple(details.get("walkers", ())))

    def of_group(self, group: int, indices: range) -> "Examined":
        """Return the audits and samples of one group of walkers.

        Args:
            group: its number.
            indices: of its walkers.
        """
        return Examined(
            self.generation,
            tuple(audit for audit in self.audits if audit.group == group),
            tuple(sample for sample in self.samples if sample["index"] in indices),
        )


def audited(structures: Dataset, data: DataSets, audits: Collection[str] | None = None) -> Dataset:
    """Return the structures of a generation that are audits, in the order of their keys.

    Without a selector, structures join the sets in the order of their keys, which are hashes, so the first ones are a
    random draw from what the walkers brought. Audits are those before the first that joins the training set: the new
    structures of the validation and test sets, and what was discarded between them. Without the latter the errors
    would look too small.

    Args:
        structures: new ones, labelled or failed.
        data: all sets, which they have joined.
        audits: keys of those that were labelled as audits, as a selector has chosen the others; None without one.
    """
    if audits is not None:
        return structures.labelled().ordered_by_key().where(lambda atoms: atoms.info[KEY] in audits)
    labelled, train = structures.labelled().ordered_by_key(), set(data.train.keys())
    joins = (index for index, key in enumerate(labelled.keys()) if key in train)
    return labelled[: next(joins, len(labelled))]


def shortest_distances_A(atoms: Atoms) -> dict[str, float]:
    """Return the shortest distance in Å of each pair of elements, such as "H-O"; pairs beyond 5 Å are left out."""
    symbols = np.array(atoms.get_chemical_symbols())
    first, second, distances = neighbor_list("ijd", atoms, REACH_A)
    shortest: dict[str, float] = {}
    for name in np.unique(symbols):
        for other in np.unique(symbols[symbols >= name]):
            of_pair = distances[(symbols[first] == name) & (symbols[second] == other)]
            if len(of_pair):
                shortest[f"{name}-{other}"] = round(float(of_pair.min()), 3)
    return shortest
