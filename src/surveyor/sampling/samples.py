"""Samples on disk: plain arrays in one file each, finished ones and those under way."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from surveyor.sampling.walkers import Rejection, Sample, Walker, walker_from_arrays, walker_to_arrays, write_arrays
from surveyor.structures import canonical, identity_of


def save_sample(path: Path, sample: Sample, *, origin: Walker) -> None:
    """Write a sample as plain arrays (npz), atomically.

    Args:
        path: the file.
        sample: what the propagation brought.
        origin: the walker as it was before the propagation; a digest of it tells to whom the file belongs.
    """
    arrays = walker_to_arrays(sample.walker)
    arrays["origin"] = np.asarray(walker_digest(origin))
    arrays["rejections"] = np.asarray(json.dumps([asdict(rejection) for rejection in sample.rejections]))
    arrays["sample_n_steps"] = np.asarray(sample.n_steps)
    arrays["temperatures_K"] = sample.temperatures_K
    if sample.temperature_K is not None:
        arrays["temperature_K"] = np.asarray(sample.temperature_K)
    if sample.structure is not None:
        arrays["sample_positions"] = sample.structure.positions
        arrays["sample_cell"] = sample.structure.cell.array
    write_arrays(path, arrays)


def load_sample(path: Path, *, origin: Walker) -> Sample:
    """Return a sample that `save_sample` wrote.

    Args:
        path: the file.
        origin: the walker as it was before the propagation.

    Raises:
        ValueError: the file belongs to another walker, or to another state or other conditions of it.
    """
    with np.load(path, allow_pickle=False) as arrays:
        walker = walker_from_arrays(arrays, origin, path)
        if str(arrays["origin"]) != walker_digest(origin):
            raise ValueError(
                f"{path} is no sample of walker {origin.index} with seed {origin.seed} and {origin.n_resets} resets: "
                "its start, conditions or state were others; give the sample another name or directory"
            )
        structure = None
        if "sample_positions" in arrays:
            structure = origin.start.copy()
            structure.set_constraint()
            structure.set_cell(arrays["sample_cell"], scale_atoms=False)
            structure.positions = arrays["sample_positions"]
            structure = canonical(structure)
        return Sample(
            walker=walker,
            structure=structure,
            n_steps=int(arrays["sample_n_steps"]),
            temperature_K=float(arrays["temperature_K"]) if "temperature_K" in arrays else None,
            rejections=tuple(Rejection(**rejection) for rejection in json.loads(str(arrays["rejections"]))),
            temperatures_K=arrays["temperatures_K"],
        )


def walker_digest(walker: Walker) -> str:
    """Return the hash of all that a propagation depends on, but for the potential: that is the generation's."""
    content = {
        "start": identity_of(walker.start),
        # Where the start came from, and how many walkers share it, does not matter.
        "conditions": walker.conditions.model_dump(mode="json", exclude={"start", "n_walkers"}),
        "walker": {name: array.tolist() for name, array in walker_to_arrays(walker).items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
