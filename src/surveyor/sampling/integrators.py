"""Integrators of molecular dynamics: ASE's, with what surveyor asks of them."""

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics

from surveyor.sampling.walkers import Walkers

MPA = 1e6 * units.Pascal


def make_integrator(
    atoms: Atoms, conditions: Walkers, *, generator: np.random.Generator, barostat: np.ndarray
) -> MolecularDynamics:
    """Return an integrator for the method of a walker.

    The centre of mass moves: a thermostat that holds it fixed (ASE's default) samples small systems wrongly.

    Args:
        atoms: a structure with momenta and a calculator, which the integrator changes as it steps.
        conditions: method and its settings.
        generator: source of the random forces.
        barostat: momentum of the barostat as `barostat_of` gave it, shape (1,); shape (0,) at the start.
    """
    if conditions.method == "npt":
        return _constant_pressure(atoms, conditions, generator, barostat)
    return Langevin(
        atoms,
        conditions.timestep_fs * units.fs,
        temperature_K=conditions.temperature_K,
        friction=1 / (conditions.thermostat_time_fs * units.fs),
        fixcm=False,
        rng=generator,
    )


def _constant_pressure(
    atoms: Atoms, conditions: Walkers, generator: np.random.Generator, barostat: np.ndarray
) -> LangevinBAOAB:
    # The cell keeps its shape: in ASE 3.29 the flexible cell couples diagonal strain rates into shear.
    barostat_time = conditions.barostat_time_fs * units.fs
    # Mass of the barostat: Martyna et al., Mol. Phys. 87, 1117 (1996), section 2.3.
    mass = (atoms.get_number_of_degrees_of_freedom() + 3) * units.kB * conditions.temperature_K * barostat_time**2
    integrator = LangevinBAOAB(
        atoms,
        conditions.timestep_fs * units.fs,
        temperature_K=conditions.temperature_K,
        externalstress=-conditions.pressure_MPa * MPA,  # a pressure is a negative stress
        hydrostatic=True,
        T_tau=conditions.thermostat_time_fs * units.fs,
        P_tau=barostat_time,
        P_mass=mass,
        rng=generator,
    )
    if len(barostat):
        integrator.p_eps = float(barostat[0])
    return integrator


def barostat_of(integrator: MolecularDynamics) -> np.ndarray:
    """Return the momentum of the barostat in ASE's units, shape (1,), or shape (0,) where there is none."""
    return np.array([integrator.p_eps]) if isinstance(integrator, LangevinBAOAB) else np.zeros(0)
