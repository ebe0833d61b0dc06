"""Samples on disk: plain arrays in one file each, finished ones and those under way."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.files import load_arrays, write_arrays
from surveyor.sampling.conditions import GUARDS
from surveyor.sampling.walkers import (
    SCHEMA_VERSION,
    Rejection,
    Sample,
    Walker,
    named,
    walker_from_arrays,
    walker_to_arrays,
)
from surveyor.structures import at_rest, identity_of
from surveyor.words import number_of

OBSERVABLE = "observable."
LIMIT = "max_uncertainty_meV_per_A"


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """A try of a propagation under way: its sample so far, and the memory of its guards.

    Attributes:
        sample: as it would be if it ended here, without a structure.
        n_frames: how many frames the trajectory has.
        energy: potential and kinetic, in eV, when the try began; None before its first step.
        was_certain: whether the uncertainty of the potential has been within its limit since.
    """

    sample: Sample
    n_frames: int = 0
    energy: float | None = None
    was_certain: bool = False


def save_sample(path: Path, sample: Sample, *, origin: Walker) -> None:
    """Write a finished sample as plain arrays (npz), atomically.

    Args:
        path: the file.
        sample: the sample.
        origin: the walker before the propagation; its digest identifies the owner of the file.
    """
    write_arrays(path, _to_arrays(sample, origin))


def save_attempt(path: Path, attempt: Attempt, *, origin: Walker) -> None:
    """Write a try under way as plain arrays (npz), atomically; see `save_sample`."""
    own = {
        "n_frames": attempt.n_frames,
        "energy": np.nan if attempt.energy is None else attempt.energy,
        "was_certain": attempt.was_certain,
    }
    arrays = {name: np.asarray(value) for name, value in own.items()}
    write_arrays(path, _to_arrays(attempt.sample, origin) | arrays)


def _to_arrays(sample: Sample, origin: Walker) -> dict[str, np.ndarray]:
    arrays = walker_to_arrays(sample.walker)
    arrays["origin"] = np.asarray(walker_digest(origin))
    arrays["rejections"] = np.asarray(json.dumps([asdict(rejection) for rejection in sample.rejections]))
    arrays["stop"] = np.asarray(json.dumps(None if sample.stop is None else asdict(sample.stop)))
    arrays["is_converged"] = np.asarray(json.dumps(sample.is_converged))
    arrays["sample_n_steps"] = np.asarray(sample.n_steps)
    if sample.max_uncertainty_meV_per_A is not None:
        arrays[LIMIT] = np.asarray(sample.max_uncertainty_meV_per_A)
    arrays |= {OBSERVABLE + name: values for name, values in sample.observables.items()}
    if sample.structure is not None:
        arrays["sample_positions"] = sample.structure.positions
        arrays["sample_cell"] = sample.structure.cell.array
    return arrays


def load_sample(path: Path, *, origin: Walker) -> Sample:
    """Return a sample that `save_sample` wrote.

    Args:
        path: the file.
        origin: the walker as it was before the propagation.

    Raises:
        ValueError: the file belongs to another walker, or to another state or other conditions of it.
    """
    arrays = load_arrays(path)
    _check_origin(arrays, origin, path)
    return _from_arrays(arrays, origin, path)


def read_sample(path: Path, walker: Walker) -> Sample:
    """Return a sample that is known to be of a walker, in whatever state that is now.

    Args:
        path: the file.
        walker: the walker, which gives start and conditions.

    Raises:
        ValueError: the file belongs to another walker.
    """
    return _from_arrays(load_arrays(path), walker, path)


def load_attempt(path: Path, *, origin: Walker) -> Attempt:
    """Return a try that `save_attempt` wrote; see `load_sample`."""
    arrays = load_arrays(path)
    _check_origin(arrays, origin, path)
    sample = _from_arrays(arrays, origin, path)
    energy = float(arrays["energy"]) if "energy" in arrays else np.nan
    return Attempt(
        sample,
        n_frames=int(arrays["n_frames"]) if "n_frames" in arrays else 0,
        energy=None if np.isnan(energy) else energy,
        was_certain=bool(arrays["was_certain"]) if "was_certain" in arrays else False,
    )


def _check_origin(arrays: Mapping[str, np.ndarray], origin: Walker, path: Path) -> None:
    # The digest is that of all parameters, and an older surveyor had fewer.
    if int(arrays["schema_version"]) == SCHEMA_VERSION and str(arrays["origin"]) != walker_digest(origin):
        raise ValueError(
            f"{path} is no sample of walker {origin.index} with seed {origin.seed} and "
            f"{number_of(origin.n_resets, 'reset')}: its start, conditions or state were others; give the sample "
            "another name or directory"
        )


def _from_arrays(arrays: Mapping[str, np.ndarray], origin: Walker, path: Path) -> Sample:
    walker = walker_from_arrays(arrays, origin, path)
    version = int(arrays["schema_version"])
    stop = json.loads(str(arrays["stop"])) if version > 1 else None
    return Sample(
        walker=walker,
        structure=_structure(arrays, walker),
        n_steps=int(arrays["sample_n_steps"]),
        rejections=tuple(Rejection(**rejection) for rejection in json.loads(str(arrays["rejections"]))),
        stop=None if stop is None else Rejection(**stop),
        is_converged=json.loads(str(arrays["is_converged"])) if version > 1 else None,
        observables=named(arrays, OBSERVABLE) if version > 1 else {"temperature_K": arrays["temperatures_K"]},
        max_uncertainty_meV_per_A=float(arrays[LIMIT]) if LIMIT in arrays else None,
    )


def _structure(arrays: Mapping[str, np.ndarray], walker: Walker) -> Atoms | None:
    if "sample_positions" not in arrays:
        return None
    structure = walker.in_window(walker.start)
    structure.set_cell(arrays["sample_cell"], scale_atoms=False)
    structure.positions = arrays["sample_positions"]
    return at_rest(structure)


def walker_digest(walker: Walker) -> str:
    """Return the hash of everything that a propagation depends on, except guards and potential."""
    conditions = walker.conditions
    content = {
        "start": identity_of(walker.start),
        # Where files came from, and how many walkers share them, does not matter; the PLUMED input is the walker's own.
        # Guards may change in the middle of a generation.
        "conditions": conditions.model_dump(
            mode="json", exclude={"start", "n_walkers", "plumed", "plumed_files", *GUARDS}
        ),
        "plumed": walker.plumed,
        "plumed_files": [hashlib.sha256(path.read_bytes()).hexdigest() for path in conditions.plumed_files],
        "walker": {name: _content(array) for name, array in walker_to_arrays(walker).items()},
    }
    if conditions.initial_velocities == "given":
        content["momenta"] = walker.start.get_momenta().tolist()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(array: np.ndarray) -> list[str]:
    return [str(array.dtype), str(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
