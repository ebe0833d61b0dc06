"""Walkers: where they start, how they move, and the state that they have reached."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from surveyor.files import load_arrays, write_arrays
from surveyor.reading import Reading, read_structures
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.placement import WINDOW_CENTRE, WINDOW_VARIABLE, centre_at, place
from surveyor.structures import at_rest

# 3: no ramps by labels; 2: the digest of a walker depends on its guards; 1: no observables, stop or convergence
SCHEMA_VERSION = 4
START_INFO = {"charge", "multiplicity"}  # what samples inherit from a start, beside coordinates and constraints
START_ARRAYS = {"numbers", "positions", "masses", "kinds", "initial_magmoms"}
UNITS = {
    "force": "eV/Å",
    "distance": "Å",
    "temperature": "K",
    "not_finite": "numbers that are not finite",
    "volume": "times the volume",
    "energy_drift": "meV/atom",
    "uncertainty": "meV/Å",
    "disagreement": "meV/Å",  # what earlier versions called the uncertainty of a committee
    "wall_time": "min",
}  # of what guards find, by reason
PLAIN = ("positions", "momenta", "cell", "random_state", "n_steps")  # of the state


@dataclass(frozen=True, slots=True, eq=False)
class WalkerState:
    """The state of a walker, as plain arrays.

    Attributes:
        positions: positions in Å, shape (n_atoms, 3).
        momenta: momenta in ASE's units, shape (n_atoms, 3).
        cell: cell vectors in Å, shape (3, 3).
        random_state: state of the random generator, as JSON.
        n_steps: number of steps since the start or the last reset.
        memory: internal variables of integrator or optimiser, by name; see `surveyor.sampling.integrators`.
        history: text of the files from which PLUMED continues (hills), by name.
    """

    positions: np.ndarray
    momenta: np.ndarray
    cell: np.ndarray
    random_state: str
    n_steps: int
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)
    history: Mapping[str, str] = field(default_factory=dict)


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
        plumed: its PLUMED input; empty without one.
        n_good_labels: number of labels since its start or last reset that moved it along its ramp; 0 if its ramp is by
            steps.
    """

    index: int
    start: Atoms
    conditions: Walkers
    seed: int
    state: WalkerState | None = None
    n_resets: int = 0
    plumed: str = ""
    n_good_labels: int = 0

    @property
    def structure(self) -> Atoms:
        """The structure that the walker has reached, in canonical coordinates, without momenta and constraints."""
        atoms = self.in_window(self.start)
        if self.state is not None:
            atoms.set_cell(self.state.cell, scale_atoms=False)
            atoms.positions = self.state.positions
        return at_rest(atoms)

    @property
    def progress(self) -> float:
        """Progress of the walker along its ramp, from 0 to 1."""
        n_steps = 0 if self.state is None else self.state.n_steps
        return self.conditions.progress_after(n_steps=n_steps, n_good_labels=self.n_good_labels)

    @property
    def ramp(self) -> dict[str, float] | None:
        """Progress of the walker along its ramp, and the conditions there; None without a ramp."""
        conditions, progress = self.conditions, self.progress
        if not conditions.has_ramp:
            return None
        found = {"progress": progress}
        if conditions.final_temperature_K is not None:
            found["temperature_K"] = conditions.temperature_at(progress)
        if conditions.final_pressure_MPa is not None:
            found["pressure_MPa"] = conditions.pressure_at(progress)
        return found

    @property
    def window(self) -> dict[str, Any] | None:  # Any: JSON
        """Variable and centre of its window, where it is now; None without a distribution."""
        info = self.in_window(self.start).info
        if WINDOW_CENTRE not in info:
            return None
        return {"variable": info[WINDOW_VARIABLE], "centre": info[WINDOW_CENTRE]}

    def in_window(self, atoms: Atoms) -> Atoms:
        """Return a copy of a structure with the present centre of the walker's window in its `info`, if that moves."""
        copy = atoms.copy()
        if self.conditions.has_moving_centres:
            copy.info[WINDOW_CENTRE] = centre_at(self.conditions, self.plumed, self.progress)
        return copy

    def reset(self) -> "Walker":
        """Return the walker at its start, also of its ramp, with another seed."""
        return replace(self, state=None, seed=self.seed + 1, n_resets=self.n_resets + 1, n_good_labels=0)


@dataclass(frozen=True, slots=True)
class Rejection:
    """The rejection of a walker by a guard: its reason, and the step.

    Attributes:
        reason: which guard stopped it.
        step: of this propagation, from 0.
        value: what the guard found, in the unit of its limit; for "not_finite" the number of such components.
        limit: what the guard allows.
    """

    reason: Literal[
        "force",
        "distance",
        "temperature",
        "not_finite",
        "volume",
        "energy_drift",
        "uncertainty",
        "disagreement",
        "wall_time",
    ]
    step: int
    value: float
    limit: float

    @property
    def brings_structure(self) -> bool:
        """True if the structure at which the walker was stopped is its sample, rather than one that makes no sense."""
        return self.reason in ("uncertainty", "disagreement", "wall_time")

    @property
    def in_words(self) -> str:
        """Value that the guard found and its limit, such as "1234 K, 900 K are allowed"."""
        unit = UNITS[self.reason]
        if self.reason == "not_finite":
            return f"{self.value:g} {unit}"
        bound = "at least" if self.reason == "distance" else "at most"
        return f"{self.value:.4g} {unit}, {bound} {self.limit:.4g} {unit} are allowed"


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The result of one propagation of a walker.

    Attributes:
        walker: the walker after the propagation.
        structure: the structure to label, in canonical coordinates; None if every try was rejected.
        n_steps: number of steps in the last try.
        rejections: one rejection for each rejected try.
        stop: why the last try ended early, or None.
        is_converged: whether an optimisation reached its threshold; None for other methods.
        observables: observables along the last try, at most 100 values of each, by name: `step`, `temperature_K`,
            `potential_energy` and `total_energy` (eV), `pressure_MPa`, `volume_A3`, `bias_energy` (eV),
            `uncertainty_eV_per_A` and collective variables, as available.
        max_uncertainty_meV_per_A: limit of the guard of uncertainty; None for perturbations, and in files of earlier
            versions.
    """

    walker: Walker
    structure: Atoms | None
    n_steps: int = 0
    rejections: tuple[Rejection, ...] = ()
    stop: Rejection | None = None
    is_converged: bool | None = None
    observables: Mapping[str, np.ndarray] = field(default_factory=dict)
    max_uncertainty_meV_per_A: float | None = None

    @property
    def temperatures_K(self) -> np.ndarray:
        """Temperatures along the last try, evenly spaced; empty if there are none."""
        return self.observables.get("temperature_K", np.zeros(0))

    @property
    def temperature_K(self) -> float | None:
        """Mean temperature, or None."""
        return float(self.temperatures_K.mean()) if len(self.temperatures_K) and self.structure is not None else None

    @property
    def is_stopped(self) -> bool:
        """True if a guard stopped the walker, in any try; a time limit says nothing about the potential."""
        return bool(self.rejections) or (self.stop is not None and self.stop.reason != "wall_time")


def stops_in_words(rejections: Sequence[Rejection]) -> str:
    """Return how often each guard stopped walkers, with the first finding of each."""
    first: dict[str, Rejection] = {}
    for each in rejections:
        first.setdefault(each.reason, each)
    counts: Counter[str] = Counter(each.reason for each in rejections)
    return "; ".join(
        f"{counts[reason]} x {reason.replace('_', ' ')} ({each.in_words}, at step {each.step})"
        for reason, each in first.items()
    )


def make_walkers(groups: Sequence[Walkers], seed: int, *, by_former_rule: bool = False) -> tuple[Walker, ...]:
    """Return the walkers of all groups, numbered through, at their starts and with seeds of their own.

    Args:
        groups: what the user asked for.
        seed: of the campaign.
        by_former_rule: whether windows are those of a former surveyor; see `place`.

    Raises:
        InputError: a start file cannot be used.
    """
    walkers: list[Walker] = []
    for group in groups:
        walkers += walkers_of(group, read_starts(group).structures, seed, len(walkers), by_former_rule=by_former_rule)
    return tuple(walkers)


def walkers_of(
    group: Walkers, starts: Sequence[Atoms], seed: int, n_before: int = 0, *, by_former_rule: bool = False
) -> list[Walker]:
    """Return the walkers of a group.

    Raises:
        InputError: no restraint acts on the variable of its distribution, or a file cannot be read.
    """
    has_momenta = group.initial_velocities == "given"
    placed = place(
        group, [start_copy(atoms, with_momenta=has_momenta) for atoms in starts], by_former_rule=by_former_rule
    )
    return [
        Walker(index, start, conditions, _walker_seed(seed, index), plumed=plumed)
        for index, (conditions, start, plumed) in enumerate(placed, n_before)
    ]


def read_starts(group: Walkers, parameter: str = "") -> Reading:
    """Read the starts of a group, and check that they can be worked with.

    Raises:
        InputError: the file cannot be used.
    """
    return read_structures(group.start, parameter, with_momenta=group.initial_velocities == "given")


def start_copy(atoms: Atoms, *, with_momenta: bool = False) -> Atoms:
    """Return a copy without labels and momenta, which belong to that one structure: samples must not inherit them."""
    copy = atoms.copy()
    copy.info = {name: value for name, value in atoms.info.items() if name in START_INFO}
    for name in set(copy.arrays) - START_ARRAYS - ({"momenta"} if with_momenta else set()):
        del copy.arrays[name]
    return copy


def _walker_seed(seed: int, index: int) -> int:
    # Resets count upwards from here, so seeds of different walkers must lie far apart.
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0]) * 2**16


def save_walker(path: Path, walker: Walker) -> None:
    """Write the seed, the resets and the state of a walker as plain arrays (npz), atomically."""
    write_arrays(path, walker_to_arrays(walker))


def load_walker(path: Path, walker: Walker) -> Walker:
    """Return a walker with the seed, resets and state that `save_walker` wrote.

    Raises:
        ValueError: the file is that of another walker, or of a newer surveyor.
    """
    return walker_from_arrays(load_arrays(path), walker, path)


def walker_to_arrays(walker: Walker) -> dict[str, np.ndarray]:
    """Return the seed, the resets and the state of a walker as plain arrays by name."""
    state = walker.state
    values: dict[str, Any] = {  # Any: whatever becomes an array
        "schema_version": SCHEMA_VERSION,
        "index": walker.index,
        "seed": walker.seed,
        "n_resets": walker.n_resets,
        "n_good_labels": walker.n_good_labels,
    }
    if state is not None:
        values |= {name: getattr(state, name) for name in PLAIN}
        values |= {f"memory.{name}": remembered for name, remembered in state.memory.items()}
        # As bytes: an array of text would take four for each character.
        values |= {f"history.{name}": np.frombuffer(text.encode(), np.uint8) for name, text in state.history.items()}
    return {name: np.asarray(value) for name, value in values.items()}


def walker_from_arrays(arrays: Mapping[str, np.ndarray], walker: Walker, path: Path) -> Walker:
    """Return a walker in the state that `walker_to_arrays` stored.

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
            memory=_memory(arrays),
            history={name: text.tobytes().decode() for name, text in named(arrays, "history.").items()},
        )
    n_good_labels = int(arrays["n_good_labels"]) if "n_good_labels" in arrays else 0
    seed, n_resets = int(arrays["seed"]), int(arrays["n_resets"])
    return replace(walker, seed=seed, n_resets=n_resets, state=state, n_good_labels=n_good_labels)


def _memory(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if int(arrays["schema_version"]) == 1:
        return {"barostat": arrays["barostat"]} if arrays["barostat"].size else {}
    return named(arrays, "memory.")


def named(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin with a prefix, by the rest of the name."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
