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
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from surveyor.potentials import Potential
from surveyor.sampling.guards import check, check_distances
from surveyor.sampling.integrators import barostat_of, make_integrator
from surveyor.sampling.perturbation import perturb
from surveyor.sampling.samples import load_sample, save_sample
from surveyor.sampling.walkers import Rejection, Sample, Walker, WalkerState

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
    if finished.exists():
        return load_sample(finished, origin=walker)
    began = time.monotonic()
    sample = load_sample(checkpoint, origin=walker) if checkpoint.exists() else Sample(walker, None)
    calculator = None if potential is None or walker.conditions.method == "perturbation" else potential.calculator()
    while sample.structure is None and len(sample.rejections) < n_tries:
        segment = _advance(sample, calculator, checkpoint_steps)
        if isinstance(segment, Rejection):
            sample = Sample(sample.walker.reset(), None, rejections=(*sample.rejections, segment))
        elif segment.structure is None:
            sample = segment
            save_sample(checkpoint, sample, origin=walker)
        else:
            sample = segment
    save_sample(finished, sample, origin=walker)
    checkpoint.unlink(missing_ok=True)
    _log(sample, time.monotonic() - began)
    return sample


def _log(sample: Sample, seconds: float) -> None:
    reasons = Counter(rejection.reason for rejection in sample.rejections)
    rejected = ", ".join(f"{count} × {reason}" for reason, count in reasons.items()) or "none"
    mean = "" if sample.temperature_K is None else f" at {sample.temperature_K:.0f} K"
    outcome = f"{sample.n_steps} steps{mean}" if sample.structure is not None else "no sample"
    logger.info("walker %d: %s in %.1f s; rejected tries: %s", sample.walker.index, outcome, seconds, rejected)


def _advance(sample: Sample, calculator: Calculator | None, n_steps: int) -> Sample | Rejection:
    """Return the sample after some more steps, with a structure where it is finished."""
    if sample.walker.conditions.method == "perturbation":
        return _perturbed(sample)
    if calculator is None:
        raise ValueError(f"walker {sample.walker.index} moves by {sample.walker.conditions.method}, which needs a potential")
    walker = sample.walker if sample.walker.state is not None else _at_start(sample.walker)
    return _segment(replace(sample, walker=walker), calculator, n_steps)


def _perturbed(sample: Sample) -> Sample | Rejection:
    walker, conditions = sample.walker, sample.walker.conditions
    generator = _generator(walker)
    structure = perturb(
        walker.start, amplitude_A=conditions.amplitude_A, amplitude_strain=conditions.amplitude_strain, generator=generator
    )
    rejection = check_distances(structure, conditions, step=0)
    if rejection is not None:
        return rejection
    return replace(sample, walker=replace(walker, state=_state(structure, generator, n_steps=0)), structure=structure)


def _at_start(walker: Walker) -> Walker:
    generator = _generator(walker)
    atoms = walker.start.copy()
    MaxwellBoltzmannDistribution(atoms, temperature_K=walker.conditions.temperature_K, rng=generator)
    return replace(walker, state=_state(atoms, generator, n_steps=0))


def _segment(sample: Sample, calculator: Calculator, n_steps: int) -> Sample | Rejection:
    walker, conditions = sample.walker, sample.walker.conditions
    assert walker.state is not None  # `_at_start` gave it one
    atoms, generator = _moving(walker), _generator(walker)
    calculator.reset()
    atoms.calc = calculator
    integrator = make_integrator(atoms, conditions, generator=generator, barostat=walker.state.barostat)
    last = min(sample.n_steps + n_steps, conditions.n_steps)
    stride = -(-conditions.n_steps // N_TEMPERATURES)
    temperatures = list(sample.temperatures_K)
    for step in range(sample.n_steps, last):
        if (rejection := _check(atoms, sample, step)) is not None:
            return rejection
        integrator.step()
        if (step + 1) % stride == 0:
            temperatures.append(atoms.get_temperature())
    if last == conditions.n_steps and (rejection := _check(atoms, sample, last)) is not None:
        return rejection
    state = _state(atoms, generator, n_steps=walker.state.n_steps + last - sample.n_steps, barostat=barostat_of(integrator))
    return _with_progress(sample, state, last, np.array(temperatures))
