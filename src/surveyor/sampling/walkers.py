"""Walkers: where they start, how they move, and the state that they have reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from pydantic import Field, model_validator

from surveyor.errors import InputError
from surveyor.files import publish, temporary_beside
from surveyor.parameters import Parameters
from surveyor.structures import canonical, is_periodic, read_structures

SCHEMA_VERSION = 1
START_INFO = {"charge", "multiplicity"}  # what samples inherit from a start, beside coordinates and constraints
START_ARRAYS = {"numbers", "positions", "masses", "kinds", "initial_magmoms"}


class Walkers(Parameters):
    """A group of walkers that share their starts and conditions."""

    start: Path = Field(
        title="Start structures (file)",
        description="File with one or more structures, in a format that ASE reads; the walkers take them in turn. "
        "Atoms that it marks as fixed stay fixed in molecular dynamics.",
    )
    n_walkers: int = Field(
        8, ge=1, le=100_000, title="Number of walkers", description="How many walkers this group has."
    )
    method: Literal["langevin", "npt", "perturbation"] = Field(
        "langevin",
        title="Method",
        description="langevin: molecular dynamics at constant volume and temperature (Langevin thermostat). "
        "npt: molecular dynamics at constant pressure and temperature (Langevin thermostat and barostat); the cell "
        "keeps its shape. perturbation: random displacements and strain of the start.",
    )
    temperature_K: float = Field(
        300.0, gt=0, le=100_000, title="Temperature (K)", description="Temperature of the thermostat."
    )
    pressure_MPa: float = Field(
        0.1,
        ge=-100_000,
        le=1_000_000,
        title="Pressure (MPa)",
        description="Pressure of the barostat; only npt uses it.",
    )
    timestep_fs: float = Field(0.5, gt=0, le=10, title="Time step (fs)", description="Time step of molecular dynamics.")
    n_steps: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        title="Steps per sample",
        description="Steps of molecular dynamics between two samples.",
    )
    thermostat_time_fs: float = Field(
        100.0, gt=0, title="Thermostat time constant (fs)", description="Inverse of the Langevin friction coefficient."
    )
    barostat_time_fs: float = Field(
        1000.0,
        gt=0,
        title="Barostat time constant (fs)",
        description="Time in which the volume follows the pressure; only npt uses it.",
    )
    amplitude_A: float = Field(
        0.05,
        ge=0,
        le=2,
        title="Displacement (Å)",
        description="Perturbation: standard deviation of each coordinate's displacement.",
    )
    amplitude_strain: float = Field(
        0.05,
        ge=0,
        le=0.5,
        title="Strain",
        description="Perturbation: largest component of the random symmetric strain of periodic directions.",
    )
    max_force_eV_per_A: float = Field(
        40.0,
        gt=0,
        title="Guard: force (eV/Å)",
        description="A walker on which the potential exerts a larger force is stopped and reset.",
    )
    min_distance_A: float = Field(
        0.5,
        ge=0,
        title="Guard: distance (Å)",
        description="A walker in which two atoms come closer is stopped and reset.",
    )
    max_temperature_factor: float = Field(
        5.0,
        gt=1,
        title="Guard: temperature (factor)",
        description="A walker hotter than so many times its thermostat is stopped and reset.",
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        # Faster couplings cannot be integrated: the volume of a hard solid swings ten times faster than the barostat.
        shortest = {"thermostat_time_fs": 2 * self.timestep_fs}
        if self.method == "npt":
            shortest["barostat_time_fs"] = 50 * self.timestep_fs
        for name, limit in shortest.items():
            if getattr(self, name) < limit:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, timestep_fs is {self.timestep_fs:g}; expected at least "
                    f"{limit:g}: make {name} longer or the time step shorter"
                )
        return self


@dataclass(frozen=True, slots=True, eq=False)
class WalkerState:
    """What a walker has reached, as plain arrays.

    Attributes:
        positions: in Å, shape (n_atoms, 3).
        momenta: in ASE's units, shape (n_atoms, 3).
        cell: in Å, shape (3, 3).
        random_state: state of the random generator, as JSON.
        n_steps: steps since the start or the last reset.
        barostat: momentum of the barostat in ASE's units, shape (1,); shape (0,) without a barostat.
    """

    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    random_state: str
    n_steps: int
    barostat: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True, eq=False)
class Walker:
    """Start structure, conditions and seed of one walker, and the state that it has reached.

    Attributes:
        index: its number in the campaign.
        start: where it begins, and begins again after a reset.
        conditions: how it moves.
        seed: of its random generator; another one after each reset.
        state: None at the start.
        n_resets: how often it was sent back to its start.
    """

    index: int
    start: Atoms
    conditions: Walkers
    seed: int
    state: WalkerState | None = None
    n_resets: int = 0

    @property
    def structure(self) -> Atoms:
        """The structure that the walker has reached, in canonical coordinates, without momenta and constraints."""
        atoms = self.start.copy()
        atoms.set_constraint()
        if self.state is not None:
            atoms.set_cell(self.state.cell, scale_atoms=False)
            atoms.positions = self.state.positions
        return canonical(atoms)

    def reset(self) -> "Walker":
        """Return the walker at its start, with another seed."""
        return replace(self, state=None, seed=self.seed + 1, n_resets=self.n_resets + 1)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a walker was stopped, and where.

    Attributes:
        reason: which guard stopped it.
        step: of this propagation, from 0.
        value: what the guard found, in the unit of its limit; for "not_finite" the number of such components.
        limit: what the guard allows.
    """

    reason: Literal["force", "distance", "temperature", "not_finite"]
    step: int
    value: float
    limit: float


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one propagation of a walker brought.

    Attributes:
        walker: the walker afterwards.
        structure: to be labelled, in canonical coordinates; None where every try was rejected.
        n_steps: steps made in the try that counted.
        temperature_K: mean over the propagation; None where there is none.
        rejections: one for each rejected try.
        temperatures_K: along the try that counted, evenly spaced, at most 100 of them.
    """

    walker: Walker
    structure: Atoms | None
    n_steps: int = 0
    temperature_K: float | None = None
    rejections: tuple[Rejection, ...] = ()
    temperatures_K: np.ndarray = field(default_factory=lambda: np.zeros(0))


def make_walkers(groups: Sequence[Walkers], seed: int) -> tuple[Walker, ...]:
    """Return the walkers of all groups, numbered through, at their starts and with seeds of their own.

    Args:
        groups: what the user asked for.
        seed: of the campaign.

    Raises:
        InputError: a start file cannot be used.
    """
    walkers: list[Walker] = []
    for group in groups:
        starts = [bare(atoms) for atoms in read_structures(group.start)]
        for number in range(group.n_walkers):
            index = len(walkers)
            walkers.append(Walker(index, starts[number % len(starts)], group, _walker_seed(seed, index)))
    return tuple(walkers)


def bare(atoms: Atoms) -> Atoms:
    """Return a copy without labels and momenta, which belong to that one structure: samples must not inherit them."""
    copy = atoms.copy()
    copy.info = {name: value for name, value in atoms.info.items() if name in START_INFO}
    for name in set(copy.arrays) - START_ARRAYS:
        del copy.arrays[name]
    return copy


def _walker_seed(seed: int, index: int) -> int:
    # Resets count upwards from here, so seeds of different walkers must lie far apart.
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) * 2**16


def check_walkers(groups: Sequence[Walkers]) -> None:
    """Check that every walker can start, before any work begins.

    Raises:
        InputError: there is no walker, a start file cannot be used, or a structure in it does not suit the method or
            the guards of its group; says which group and which structure.
    """
    if not groups:
        raise InputError("no walkers are given; give at least one group of walkers")
    for number, group in enumerate(groups):
        try:
            starts = read_structures(group.start)
            for index, atoms in enumerate(starts):
                _check_start(atoms, group, f"structure {index} of {group.start}")
        except InputError as error:
            raise InputError(f"walkers[{number}]: {error}") from error


def _check_start(atoms: Atoms, group: Walkers, name: str) -> None:
    shortest = shortest_distance(atoms, group.min_distance_A)
    if shortest is not None:
        raise InputError(
            f"{name}: two atoms are {shortest:.3f} Å apart, but the guard min_distance_A is {group.min_distance_A:g}; "
            "correct the structure or lower the guard"
        )
    if group.method != "perturbation" and atoms.get_number_of_degrees_of_freedom() <= 0:
        raise InputError(f"{name}: no atom can move under its constraints; free some atoms")
    if group.method == "npt" and not is_periodic(atoms):
        raise InputError(
            f"{name} has pbc {atoms.pbc.tolist()}, but method npt needs a cell that is periodic in three directions; "
            "give the structure one, or use method langevin"
        )
    if group.method == "npt" and atoms.constraints:
        raise InputError(f"{name} has constraints, which method npt cannot keep; remove them, or use method langevin")


def shortest_distance(atoms: Atoms, cutoff_A: float) -> float | None:
    """Return the shortest distance in Å between atoms and periodic images; None where it is above the cutoff."""
    if cutoff_A == 0:
        return None
    distances = neighbor_list("d", atoms, cutoff_A)
    return float(distances.min()) if len(distances) else None


def save_walker(path: Path, walker: Walker) -> None:
    """Write the seed, the resets and the state of a walker as plain arrays (npz), atomically."""
    write_arrays(path, walker_to_arrays(walker))


def load_walker(path: Path, walker: Walker) -> Walker:
    """Return a walker with the seed, resets and state that `save_walker` wrote.

    Args:
        path: the file.
        walker: the walker as it was made from the parameters.

    Raises:
        ValueError: the file is that of another walker, or of a newer surveyor.
    """
    with np.load(path, allow_pickle=False) as arrays:
        return walker_from_arrays(arrays, walker, path)


def walker_to_arrays(walker: Walker) -> dict[str, np.ndarray]:
    """Return the seed, the resets and the state of a walker as plain arrays by name."""
    state = walker.state
    values = {"schema_version": SCHEMA_VERSION, "index": walker.index, "seed": walker.seed, "n_resets": walker.n_resets}
    if state is not None:
        values |= {name: getattr(state, name) for name in WalkerState.__slots__}
    return {name: np.asarray(value) for name, value in values.items()}


def walker_from_arrays(arrays: Mapping[str, np.ndarray], walker: Walker, path: Path) -> Walker:
    """Return a walker with what `walker_to_arrays` gave.

    Args:
        arrays: by name; others among them are left alone.
        walker: the walker as it was made from the parameters.
        path: where they come from, for the message.

    Raises:
        ValueError: they are those of another walker, or of a newer surveyor.
    """
    if int(arrays["schema_version"]) > SCHEMA_VERSION or int(arrays["index"]) != walker.index:
        raise ValueError(
            f"{path} holds walker {arrays['index']} in schema version {arrays['schema_version']}; "
            f"expected walker {walker.index} in schema version {SCHEMA_VERSION} or older"
        )
    state = None
    if "positions" in arrays:
        state = WalkerState(
            positions=arrays["positions"],
            momenta=arrays["momenta"],
            cell=arrays["cell"],
            random_state=str(arrays["random_state"]),
            n_steps=int(arrays["n_steps"]),
            barostat=arrays["barostat"],
        )
    return replace(walker, seed=int(arrays["seed"]), n_resets=int(arrays["n_resets"]), state=state)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write plain arrays by name (npz), atomically."""
    with temporary_beside(path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options
        publish(temporary, path)
