"""Propagation of one walker, for the sampling pool: idempotent, and resumable at any moment.

Molecular dynamics advances in segments. Each begins from plain arrays alone, with a calculator that has forgotten what
it computed before, so a propagation that was killed and continues from its last segment is the undisturbed one, bit
for bit, even with calculators whose neighbour lists or orbitals carry a history.
"""

import json
import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import thermalize_momenta

from surveyor.events import announce
from surveyor.potentials import Potential
from surveyor.sampling.guards import check, check_distances
from surveyor.sampling.integrators import barostat_of, make_integrator
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.samples import load_sample, save_sample
from surveyor.sampling.walkers import Rejection, Sample, Walker, Walkers, WalkerState

logger = logging.getLogger(__name__)

N_TEMPERATURES = 100  # as many are recorded along a propagation
DISTANCE_STRIDE = 10  # steps between two checks of distances, which cost more than the other guards


def propagate(
    walker: Walker,
    potential: Potential | None,
    *,
    directory: Path,
    name: str,
    n_tries: int = 5,
    checkpoint_steps: int = 100,
) -> Sample:
    """Propagate a walker until it brings one structure, and write the sample before returning it.

    A walker that a guard stops is reset to its start with another seed and tries again. Repeated on the same directory
    and name, a finished sample is returned from its file, and one under way is continued from its last checkpoint.
    Constraints of the start hold during molecular dynamics; the structure of the sample has none.

    Args:
        walker: as it was before; it continues from its state.
        potential: gives the forces; None for walkers that perturb.
        directory: where the sample and its checkpoint are written; of one generation, so of one potential.
        name: of the file of the sample; unique in the directory.
        n_tries: how often a walker may try in all; then the sample has no structure.
        checkpoint_steps: steps of molecular dynamics between two checkpoints.

    Returns:
        The sample, with the walker as it is afterwards.

    Raises:
        ValueError: the files under this name belong to another walker or another state of it.
    """
    finished, checkpoint = directory / f"{name}.npz", directory / f"{name}.checkpoint.npz"
    if (sample := _found(finished, walker)) is not None:
        _announce(name, sample, "found on disk")
        return sample
    began = time.monotonic()
    sample = _found(checkpoint, walker) or Sample(walker, None)
    calculator = None if potential is None or walker.conditions.method == "perturbation" else potential.calculator()
    while sample.structure is None and len(sample.rejections) < n_tries:
        outcome = _advance(sample, calculator, checkpoint_steps)
        if isinstance(outcome, Rejection):
            sample = Sample(sample.walker.reset(), None, rejections=(*sample.rejections, outcome))
        else:
            sample = outcome
        if sample.structure is None:
            save_sample(checkpoint, sample, origin=walker)
    save_sample(finished, sample, origin=walker)
    checkpoint.unlink(missing_ok=True)
    _announce(name, sample, f"in {time.monotonic() - began:.1f} s")
    return sample


def _found(path: Path, walker: Walker) -> Sample | None:
    try:
        return load_sample(path, origin=walker)
    except FileNotFoundError:
        return None


def _announce(name: str, sample: Sample, how: str) -> None:
    reasons = Counter(rejection.reason for rejection in sample.rejections)
    details = {"name": name, "walker": sample.walker.index, "rejections": dict(reasons)}
    rejected = (
        f"; stopped by guards: {', '.join(f'{n} x {reason}' for reason, n in reasons.items())}" if reasons else ""
    )
    if sample.structure is None:
        announce(logger, "rejected", f"{name}: no sample {how}{rejected}", **details)
    else:
        at = "" if sample.temperature_K is None else f" at {sample.temperature_K:.0f} K"
        announce(logger, "sampled", f"{name}: {sample.n_steps} steps{at} {how}{rejected}", **details)


def _advance(sample: Sample, calculator: Calculator | None, n_steps: int) -> Sample | Rejection:
    """Return the sample after some more steps, with a structure where it is finished."""
    if sample.walker.conditions.method == "perturbation":
        return _perturbed(sample)
    if calculator is None:
        raise ValueError(
            f"walker {sample.walker.index} moves by {sample.walker.conditions.method}, which needs a potential"
        )
    return _segment(sample, sample.walker.state or _state_at_start(sample.walker), calculator, n_steps)


def _perturbed(sample: Sample) -> Sample | Rejection:
    walker, conditions = sample.walker, sample.walker.conditions
    generator = _generator(walker.seed, walker.state)
    structure = perturb(
        walker.start,
        amplitude_A=conditions.amplitude_A,
        amplitude_strain=conditions.amplitude_strain,
        generator=generator,
    )
    rejection = check_distances(structure, conditions, step=0)
    if rejection is not None:
        return rejection
    return replace(sample, walker=replace(walker, state=_state(structure, generator, n_steps=0)), structure=structure)


def _state_at_start(walker: Walker) -> WalkerState:
    generator = _generator(walker.seed, None)
    atoms = walker.start.copy()
    thermalize_momenta(atoms, walker.conditions.temperature_K, rng=generator)
    return _state(atoms, generator, n_steps=0)


def _segment(sample: Sample, state: WalkerState, calculator: Calculator, n_steps: int) -> Sample | Rejection:
    walker, conditions = sample.walker, sample.walker.conditions
    atoms, generator = _moving(walker.start, state), _generator(walker.seed, state)
    calculator.reset()
    atoms.calc = calculator
    integrator = make_integrator(atoms, conditions, generator=generator, barostat=state.barostat)
    last = min(sample.n_steps + n_steps, conditions.n_steps)
    stride = -(-conditions.n_steps // N_TEMPERATURES)  # rounded up
    temperatures = list(sample.temperatures_K)
    for step in range(sample.n_steps, last):
        if (rejection := _check(atoms, conditions, step)) is not None:
            return rejection
        integrator.step()
        if (step + 1) % stride == 0:
            temperatures.append(atoms.get_temperature())
    # The end of a segment is checked at the beginning of the next one; that of the last one here.
    if last == conditions.n_steps and (rejection := _check(atoms, conditions, last)) is not None:
        return rejection
    reached = _state(atoms, generator, n_steps=state.n_steps + last - sample.n_steps, barostat=barostat_of(integrator))
    return _progress(sample, reached, last, np.array(temperatures))


def _check(atoms: Atoms, conditions: Walkers, step: int) -> Rejection | None:
    rejection = check(atoms, atoms.get_forces(), conditions, step=step)
    if rejection is None and (step % DISTANCE_STRIDE == 0 or step == conditions.n_steps):
        return check_distances(atoms, conditions, step=step)
    return rejection


def _progress(sample: Sample, reached: WalkerState, n_steps: int, temperatures_K: np.ndarray) -> Sample:
    walker = replace(sample.walker, state=reached)
    progress = replace(sample, walker=walker, n_steps=n_steps, temperatures_K=temperatures_K)
    if n_steps < walker.conditions.n_steps:
        return progress
    return replace(progress, structure=walker.structure, temperature_K=float(temperatures_K.mean()))


def _moving(start: Atoms, state: WalkerState) -> Atoms:
    atoms = start.copy()
    atoms.set_cell(state.cell, scale_atoms=False)
    atoms.positions = state.positions
    atoms.set_array("momenta", state.momenta)
    return atoms


def _state(
    atoms: Atoms, generator: np.random.Generator, *, n_steps: int, barostat: np.ndarray | None = None
) -> WalkerState:
    return WalkerState(
        positions=atoms.positions.copy(),
        momenta=atoms.get_momenta(),
        cell=atoms.cell.array.copy(),
        random_state=json.dumps(generator.bit_generator.state),
        n_steps=n_steps,
        barostat=np.zeros(0) if barostat is None else barostat,
    )


def _generator(seed: int, state: WalkerState | None) -> np.random.Generator:
    generator = np.random.default_rng(seed)
    if state is not None:
        generator.bit_generator.state = json.loads(state.random_state)
    return generator
