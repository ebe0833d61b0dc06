"""From the plain arrays of a walker to structures that move, and back."""

import json
from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.md.velocitydistribution import thermalize_momenta

from surveyor.biases.bias import BiasValues
from surveyor.sampling.integrators import without_drift
from surveyor.sampling.walkers import Walker, WalkerState

BIAS = "bias."  # begins the names of what a bias remembers


def state_at_start(walker: Walker) -> WalkerState:
    """Return the initial state of a walker: its start, with its initial velocities.

    For methods that conserve the total momentum, the total momentum is set to zero.
    """
    conditions, generator = walker.conditions, generator_of(walker.seed, None)
    atoms = walker.start.copy()
    if conditions.is_optimisation or conditions.initial_velocities == "zero":
        atoms.set_momenta(np.zeros((len(atoms), 3)))
    elif conditions.initial_velocities == "thermal":
        thermalize_momenta(atoms, conditions.temperature_at(0), rng=generator)
    if atoms.get_momenta().any():
        without_drift(atoms, conditions)
    return state_of(atoms, generator, n_steps=0)


def moving(start: Atoms, state: WalkerState) -> Atoms:
    """Return the structure of a walker with its momenta and constraints, without a calculator."""
    atoms = start.copy()
    atoms.set_cell(state.cell, scale_atoms=False)
    atoms.positions = state.positions
    atoms.set_array("momenta", state.momenta)
    return atoms


def state_of(
    atoms: Atoms,
    generator: np.random.Generator,
    *,
    n_steps: int,
    memory: Mapping[str, np.ndarray] | None = None,
    history: Mapping[str, str] | None = None,
) -> WalkerState:
    """Return the state of a walker as plain arrays.

    Args:
        atoms: with momenta.
        generator: of the walker.
        n_steps: since its start or last reset.
        memory: of integrator or optimiser, and of the bias.
        history: of the bias.
    """
    return WalkerState(
        positions=atoms.positions.copy(),
        momenta=atoms.get_momenta(),
        cell=atoms.cell.array.copy(),
        random_state=json.dumps(generator.bit_generator.state),
        n_steps=n_steps,
        memory=memory or {},
        history=history or {},
    )


def generator_of(seed: int, state: WalkerState | None) -> np.random.Generator:
    """Return the random generator of a walker, as its state has left it."""
    generator = np.random.default_rng(seed)
    if state is not None:
        generator.bit_generator.state = json.loads(state.random_state)
    return generator


def memory_of_bias(values: BiasValues) -> dict[str, np.ndarray]:
    """Return the last values of a bias with a history, as plain arrays; they may change with its next hill."""
    memory = {f"{BIAS}energy": np.array(values.energy), f"{BIAS}forces": values.forces}
    return memory if values.stress is None else memory | {f"{BIAS}stress": values.stress}


def remembered_bias(memory: Mapping[str, np.ndarray]) -> BiasValues | None:
    """Return the values that `memory_of_bias` stored, without collective variables; None if it stored none."""
    if f"{BIAS}forces" not in memory:
        return None
    return BiasValues(float(memory[f"{BIAS}energy"]), memory[f"{BIAS}forces"], memory.get(f"{BIAS}stress"))


def without_bias(memory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the part of a memory that belongs to the integrator or the optimiser."""
    return {name: array for name, array in memory.items() if not name.startswith(BIAS)}
