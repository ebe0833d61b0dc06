"""Geometry optimisation: ASE's BFGS, on positions or on positions and cell."""

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from surveyor.sampling.conditions import Walkers
from surveyor.sampling.integrators import MPA


def make_optimiser(atoms: Atoms, conditions: Walkers, *, pressure_MPa: float, memory: Mapping[str, np.ndarray]) -> BFGS:
    """Return an optimiser for the method of a walker; `converged()` returns whether it has finished.

    Args:
        atoms: a structure with a calculator, which the optimiser changes as it steps.
        conditions: method and threshold.
        pressure_MPa: external pressure on the cell.
        memory: result of `memory_of_optimiser`, empty at the start.
    """
    moving = atoms
    if conditions.method == "cell_optimisation":
        moving = FrechetCellFilter(atoms, scalar_pressure=pressure_MPa * MPA)
    optimiser = BFGS(moving, logfile=None)
    optimiser.fmax = conditions.fmax_eV_per_A
    if "hessian" in memory:
        optimiser.H0 = memory["hessian"].copy()
    return optimiser


def memory_of_optimiser(optimiser: BFGS) -> dict[str, np.ndarray]:
    """Return the memory of an optimiser: the Hessian of its degrees of freedom, in eV/Å²."""
    return {"hessian": np.array(optimiser.H0 if optimiser.state is None else optimiser.H)}
