"""Observables along a propagation, and frames of its trajectory on disk."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from surveyor.biases.biased import BiasedCalculator
from surveyor.files import append_text, make_folder, patiently, write_with
from surveyor.potentials import UNCERTAINTY, Prediction
from surveyor.sampling.conditions import MOVING_CELL, Walkers
from surveyor.sampling.integrators import MPA, temperature_of
from surveyor.sampling.walkers import Sample
from surveyor.structures import is_periodic

N_RECORDS = 100  # as many are kept along a propagation
COLVAR, BIAS = "COLVAR", "bias_energy"
UNBIASED = (
    "step",
    "temperature_K",
    "potential_energy",
    "total_energy",
    "pressure_MPa",
    "volume_A3",
    "uncertainty_eV_per_A",
)


@dataclass(slots=True)
class Recorder:
    """A recorder of observables and frames of one propagation in memory, between two checkpoints.

    Attributes:
        conditions: of the walker.
        n_degrees: how many degrees of freedom share its kinetic energy.
        records: observables by name, as lists.
        frames: kept since the last checkpoint, with their observables and step.
    """

    conditions: Walkers
    n_degrees: int
    records: dict[str, list[float]] = field(default_factory=dict)
    frames: list[Atoms] = field(default_factory=list)

    @classmethod
    def after(cls, conditions: Walkers, n_degrees: int, observables: Mapping[str, np.ndarray]) -> "Recorder":
        """Return a recorder that continues from earlier records."""
        return cls(conditions, n_degrees, {name: list(values) for name, values in observables.items()})

    @property
    def observables(self) -> dict[str, np.ndarray]:
        """The records so far, each of shape (n_records,)."""
        return {name: np.array(values) for name, values in self.records.items()}

    def is_due(self, step: int) -> bool:
        """Return whether the structure of a step is recorded."""
        return self._is_record(step) or self._is_frame(step)

    def _is_record(self, step: int) -> bool:
        return step % -(-self.conditions.n_steps // N_RECORDS) == 0  # rounded up

    def _is_frame(self, step: int) -> bool:
        return self.conditions.frame_interval is not None and step % self.conditions.frame_interval == 0

    def see(self, atoms: Atoms, step: int) -> None:
        """Record a structure with its calculator, if its step is one of those that are recorded.

        Args:
            atoms: as the walker has it.
            step: of the propagation, from 1.
        """
        if not self.is_due(step):
            return
        observed = observe(atoms, self.conditions, self.n_degrees)
        if self._is_record(step):
            for name, value in {"step": float(step), **observed}.items():
                self.records.setdefault(name, []).append(value)
        if self._is_frame(step):
            self.frames.append(_frame(atoms, {"step": step, **observed}))


def observe(atoms: Atoms, conditions: Walkers, n_degrees: int) -> dict[str, float]:
    """Return the observables of a structure with its calculator; see `Sample`."""
    calculator = atoms.calc
    energy = float(atoms.get_potential_energy())
    bias = calculator.bias_energy if isinstance(calculator, BiasedCalculator) else 0.0
    observed = {} if conditions.is_optimisation else {"temperature_K": temperature_of(atoms, n_degrees)}
    observed |= {"potential_energy": energy - bias, "total_energy": energy + float(atoms.get_kinetic_energy())}
    if _has_stress(atoms):
        stress = atoms.get_stress(include_ideal_gas=True, apply_constraint=False)
        observed["pressure_MPa"] = float(-stress[:3].mean() / MPA)
    if conditions.method in MOVING_CELL:
        observed["volume_A3"] = float(atoms.get_volume())
    if isinstance(calculator, BiasedCalculator):
        observed |= {BIAS: bias, **calculator.variables}
    if UNCERTAINTY in calculator.results:
        observed["uncertainty_eV_per_A"] = float(calculator.results[UNCERTAINTY].max())
    return observed


def _has_stress(atoms: Atoms) -> bool:
    return is_periodic(atoms) and "stress" in atoms.calc.implemented_properties


def _frame(atoms: Atoms, info: Mapping[str, float]) -> Atoms:
    """Return a copy with the results of the potential, without the bias, whose energy is one of the observables."""
    frame, found = atoms.copy(), _of_potential(atoms)
    frame.info |= info
    frame.calc = SinglePointCalculator(frame, energy=found.energy, forces=found.forces, stress=found.stress)
    return frame


def _of_potential(atoms: Atoms) -> Prediction:
    forces = atoms.get_forces(apply_constraint=False)  # evaluates the structure, if it has not been yet
    if isinstance(atoms.calc, BiasedCalculator) and atoms.calc.unbiased is not None:
        return atoms.calc.unbiased
    stress = atoms.get_stress(apply_constraint=False) if _has_stress(atoms) else None
    return Prediction(float(atoms.get_potential_energy()), forces, stress)


def files_of_bias(sample: Sample) -> dict[str, str]:
    """Return text files for PLUMED's own tools, by name: its history files, and collective variables.

    Args:
        sample: sample of a walker; there are no files without a bias, or if every try was rejected.
    """
    state = sample.walker.state
    if state is None or sample.structure is None:
        return {}
    return {**state.history, **({COLVAR: _colvar(sample)} if BIAS in sample.observables else {})}


def _colvar(sample: Sample) -> str:
    """Return the observables that only biased walkers have, with the time since the walker's start in ps."""
    assert sample.walker.state is not None
    first_step = sample.walker.state.n_steps - sample.n_steps
    times = (first_step + sample.observables["step"]) * sample.walker.conditions.timestep_fs / 1000
    columns = {name: values for name, values in sample.observables.items() if name not in UNBIASED}
    rows = np.column_stack([times, *columns.values()])
    lines = [" ".join(["#! FIELDS time", *columns]), *(" ".join(f"{value:.10g}" for value in row) for row in rows)]
    return "\n".join(lines) + "\n"


def append_frames(path: Path, frames: Sequence[Atoms], *, n_before: int) -> int:
    """Append frames to a trajectory in ASE's format, after its first `n_before` frames.

    Later frames, written by an interrupted propagation after its last checkpoint, are dropped.

    Args:
        path: the trajectory, which does not exist before the first frame.
        frames: frames to append.
        n_before: number of existing frames to keep.

    Returns:
        The number of frames in the trajectory.

    Raises:
        StorageFailed: the disk stays full.
    """
    patiently(partial(_append_frames, path, frames, n_before), path)
    return n_before + len(frames)


def _append_frames(path: Path, frames: Sequence[Atoms], n_before: int) -> None:
    if path.exists():
        _cut(path, n_before)
    if frames:
        make_folder(path.parent)
        _write_frames(path, frames, is_new=n_before == 0)


def _write_frames(path: Path, frames: Sequence[Atoms], *, is_new: bool) -> None:
    trajectory = Trajectory(str(path), "w" if is_new else "a")
    try:
        with trajectory:
            for frame in frames:
                trajectory.write(frame)
    except OSError:
        with suppress(OSError):
            trajectory.backend.fd.close()  # which ASE leaves open
        raise


def _cut(path: Path, n_frames: int) -> None:
    if n_frames == 0:
        path.unlink()
        return
    with Trajectory(str(path), "r") as trajectory:
        if len(trajectory) == n_frames:
            return
        kept = [trajectory[index] for index in range(n_frames)]
    write_with(partial(_write_frames, frames=kept, is_new=True), path)


def keep_last_good(path: Path, atoms: Atoms, record: Mapping[str, object]) -> None:
    """Append the last structure of a rejected try that passed all guards to a file (extxyz), with the rejection."""
    copy, text = atoms.copy(), StringIO()
    copy.info["rejection"] = json.dumps(record)
    ase.io.write(text, copy, format="extxyz")
    append_text(path, text.getvalue())
