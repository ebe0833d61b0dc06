"""Frames of trajectories that are worth a label: independent of each other."""

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from surveyor.sampling.correlation import decorrelated
from surveyor.sampling.duplicates import fingerprint
from surveyor.sampling.placement import WINDOW_CENTRE, WINDOW_VARIABLE
from surveyor.sampling.propagation import SampleFiles
from surveyor.sampling.walkers import START_INFO
from surveyor.structures import at_rest

KEPT_INFO = START_INFO | {WINDOW_VARIABLE, WINDOW_CENTRE}


def independent_frames(samples: Path, name: str) -> dict[int, Atoms]:
    """Return statistically independent frames of a trajectory.

    The correlation time is that of the slowest length in `fingerprint`. Energies are not suitable, because they follow
    the fastest vibrations.

    Returns:
        Structures in canonical coordinates by their step; empty without a trajectory.
    """
    path = SampleFiles(samples, name).trajectory
    if not path.exists():
        return {}
    frames = ase.io.read(path, ":")
    chosen = decorrelated(np.array([fingerprint(frame) for frame in frames], dtype=float))
    return {int(frames[index].info["step"]): without_motion(frames[index]) for index in chosen}


def without_motion(frame: Atoms) -> Atoms:
    """Return a frame in canonical coordinates, without momenta, constraints, results, and the fields of its walker."""
    atoms = at_rest(frame)
    atoms.info = {name: atoms.info[name] for name in KEPT_INFO if name in atoms.info}
    return atoms


def spread(frames: dict[int, Atoms], n: int) -> dict[int, Atoms]:
    """Return at most a given number of frames, spread evenly over the steps."""
    steps = sorted(frames)
    chosen = np.linspace(0, len(steps) - 1, min(n, len(steps))).round().astype(int)
    return {steps[index]: frames[steps[index]] for index in chosen}
