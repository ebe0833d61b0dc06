"""Small datasets to be labelled, and a reference that counts what it computes."""

from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from surveyor.dataset import with_label
from surveyor.labels import Label
from surveyor.potentials import predict


def copper(n_structures: int) -> list[Atoms]:
    """Return different structures."""
    structures = []
    for seed in range(n_structures):
        structures.append(bulk("Cu", cubic=True))
        structures[-1].rattle(0.05, seed=seed)
    return structures


def counting(log: Path, delay_s: float = 0.0) -> dict[str, Any]:  # Any: what a parameter file holds
    """Return the field `reference` of EMT that leaves a trace of each launch (see `surveyor.testing.references`)."""
    return {"emt": {"rehearsal": {"log": str(log), "delay_s": delay_s}}}


def written(path: Path, structures: list[Atoms]) -> Path:
    """Write structures to an extxyz file, and return its path."""
    ase.io.write(path, structures, format="extxyz")
    return path


def bad_structures() -> dict[str, Atoms]:
    """Return a structure for each reason why the file of a user may hold one that cannot be labelled by EMT."""
    overlapping = bulk("Cu", cubic=True)
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    charged = bulk("Cu", cubic=True)
    charged.info["charge"] = "plus"
    impossible = bulk("Cu", cubic=True)
    impossible.info["multiplicity"] = 2
    flat = bulk("Cu", cubic=True)
    flat.cell[2] = 0.0
    return {
        "overlap": overlapping,
        "cannot treat U": Atoms("U2", positions=[[0, 0, 0], [0, 0, 3]]),
        "is of no known element": Atoms("X"),
        "expected an integer": charged,
        "exclude each other": impossible,
        "has no cell vector there": flat,
    }


def labelled(structures: list[Atoms]) -> list[Atoms]:
    """Return structures with labels by EMT."""
    predictions = [predict(EMT(), atoms) for atoms in structures]
    return [
        with_label(atoms, None, Label(each.energy, each.forces, each.stress))
        for atoms, each in zip(structures, predictions, strict=True)
    ]
