"""Integrators of molecular dynamics: those of ASE, extended for surveyor."""

from collections.abc import Mapping

import numpy as np
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from surveyor.sampling.conditions import UNDER_BAROSTAT, Walkers
from surveyor.sampling.rigid_motions import n_conserved_momenta, without_rigid_motions

MPA = 1e6 * units.Pascal
GLOBAL = ("bussi", "nose_hoover", "nve")  # they leave the momenta of the whole system what they are

Memory = Mapping[str, np.ndarray]


def make_integrator(
    atoms: Atoms, conditions: Walkers, *, generator: np.random.Generator, memory: Memory
) -> MolecularDynamics:
    """Return an integrator for the method of a walker.

    With the Langevin thermostat the centre of mass moves: one that holds it fixed (ASE's default) samples small systems
    wrongly.

    Args:
        atoms: a structure with momenta and a calculator, which the integrator changes as it steps.
        conditions: method and its settings.
        generator: source of random numbers.
        memory: what `memory_of` gave, empty at the start.
    """
    make = {
        "langevin": _langevin,
        "bussi": _bussi,
        "nose_hoover": lambda *_: NoseHooverChain(atoms, conditions),
        "nve": lambda *_: VelocityVerlet(atoms, conditions.timestep_fs * units.fs),
        "npt": _constant_pressure,
        "npt_flexible": _constant_pressure,
    }[conditions.method]
    integrator = make(atoms, conditions, generator)
    for name, values in memory.items():
        setattr(integrator, REMEMBERED[name], float(values[0]) if values.shape == (1,) else values.copy())
    return integrator


def _langevin(atoms: Atoms, conditions: Walkers, generator: np.random.Generator) -> Langevin:
    return Langevin(
        atoms,
        conditions.timestep_fs * units.fs,
        temperature_K=conditions.temperature_K,
        friction=1 / (conditions.thermostat_time_fs * units.fs),
        fixcm=False,
        rng=generator,
    )


def _bussi(atoms: Atoms, conditions: Walkers, generator: np.random.Generator) -> "VelocityRescaling":
    integrator = VelocityRescaling(
        atoms,
        conditions.timestep_fs * units.fs,
        temperature_K=conditions.temperature_K,
        taut=conditions.thermostat_time_fs * units.fs,
        rng=generator,
    )
    integrator.ndof = degrees_of_freedom(atoms, conditions)
    set_temperature(integrator, conditions.temperature_K)
    return integrator


def _constant_pressure(atoms: Atoms, conditions: Walkers, generator: np.random.Generator) -> "ConstantPressure":
    barostat_time = conditions.barostat_time_fs * units.fs
    # Mass of the barostat: Martyna et al., Mol. Phys. 87, 1117 (1996), section 2.3; of each component of a flexible
    # cell: Martyna, Tobias, Klein, J. Chem. Phys. 101, 4177 (1994).
    is_flexible = conditions.method == "npt_flexible"
    n_degrees = atoms.get_number_of_degrees_of_freedom() + 3
    mass = n_degrees * units.kB * conditions.temperature_K * barostat_time**2 / (3 if is_flexible else 1)
    return ConstantPressure(
        atoms,
        conditions.timestep_fs * units.fs,
        temperature_K=conditions.temperature_K,
        externalstress=-conditions.pressure_MPa * MPA,  # a pressure is a negative stress
        hydrostatic=not is_flexible,
        T_tau=conditions.thermostat_time_fs * units.fs,
        P_tau=barostat_time,
        P_mass=mass,
        rng=generator,
    )


class ConstantPressure(LangevinBAOAB):  # type: ignore[misc]  # mypy sees no types of ASE's
    """ASE's integrator of Quigley and Probert, J. Chem. Phys. 120, 11432 (2004), with its eq. 5b for flexible cells.

    In ASE 3.29 the trace of the barostat's momentum is added to all components of the friction, instead of to the
    diagonal, so that a change of volume shears the velocities.
    """

    def _barostat_BAOAB_OU_gamma_mod(self) -> np.ndarray | float:
        if self.hydrostatic:
            return super()._barostat_BAOAB_OU_gamma_mod()  # type: ignore[no-any-return]
        momentum = np.broadcast_to(self.p_eps, (3, 3))
        friction: np.ndarray = (momentum + np.trace(momentum) / self.Ndof * np.identity(3)) / self.barostat_mass
        return friction


class VelocityRescaling(Bussi):  # type: ignore[misc]  # mypy sees no types of ASE's
    """ASE's thermostat of Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), without conserved momenta.

    It scales them with all others, so that those of the rounding errors would grow until they are thermal.
    """

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """Make a step, and return the forces after it in eV/Å, shape (n_atoms, 3)."""
        after: np.ndarray = super().step(forces)
        _remove_conserved_momenta(self.atoms)
        return after


class NoseHooverChain(NoseHooverChainNVT):  # type: ignore[misc]  # mypy sees no types of ASE's
    """ASE's Nosé-Hoover chain, for as many degrees of freedom as there are.

    ASE takes 3N, and so heats a system whose momentum is conserved.
    """

    def __init__(self, atoms: Atoms, conditions: Walkers) -> None:
        time = conditions.thermostat_time_fs * units.fs
        super().__init__(
            atoms, conditions.timestep_fs * units.fs, temperature_K=conditions.temperature_K, tdamp=time, tchain=3
        )
        self._n_degrees = degrees_of_freedom(atoms, conditions)
        self._time = time
        self._thermostat._num_atoms_global = self._n_degrees / 3
        self.set_temperature(conditions.temperature_K)

    def set_temperature(self, temperature_K: float) -> None:
        """Change the temperature of the thermostat, and with it the masses of the chain."""
        thermostat = self._thermostat
        thermostat._kT = units.kB * temperature_K
        thermostat._Q[0] = self._n_degrees * thermostat._kT * self._time**2
        thermostat._Q[1:] = thermostat._kT * self._time**2

    def step(self) -> None:
        """Make a step, and take the conserved momenta out, which the chain scales with all others."""
        super().step()
        _remove_conserved_momenta(self.atoms)
        self._p = self.atoms.get_momenta()

    @property
    def chain(self) -> np.ndarray:
        """Positions and momenta of the chain, shape (2, 3)."""
        return np.array([self._thermostat._eta, self._thermostat._p_eta])

    @chain.setter
    def chain(self, values: np.ndarray) -> None:
        self._thermostat._eta, self._thermostat._p_eta = values.copy()


def set_temperature(integrator: MolecularDynamics, temperature_K: float) -> None:
    """Change the temperature of the thermostat, if there is one."""
    if isinstance(integrator, Langevin):
        integrator.set_temperature(temperature_K=temperature_K)
    elif isinstance(integrator, LangevinBAOAB | NoseHooverChain):
        integrator.set_temperature(temperature_K)
    elif isinstance(integrator, Bussi):
        integrator.target_kinetic_energy = integrator.ndof / 2 * units.kB * temperature_K


def set_pressure(integrator: MolecularDynamics, pressure_MPa: float) -> None:
    """Change the external pressure of the barostat, if there is one."""
    if isinstance(integrator, ConstantPressure):
        stress = -pressure_MPa * MPA  # a pressure is a negative stress
        integrator.externalstress = stress if integrator.hydrostatic else stress * np.identity(3)


REMEMBERED = {"barostat": "p_eps", "barostat_force": "force_eps", "thermostat": "chain"}  # attributes of integrators


def memory_of(integrator: MolecularDynamics) -> dict[str, np.ndarray]:
    """Return the internal variables of an integrator as plain arrays in ASE's units.

    `barostat` and `barostat_force`: momentum of the barostat, and the force on it in the middle of the last step, shape
    (1,) or, for a flexible cell, (3, 3). `thermostat`: positions and momenta of a Nosé-Hoover chain, shape (2, 3).
    """
    names = {ConstantPressure: ("barostat", "barostat_force"), NoseHooverChain: ("thermostat",)}
    return {name: np.array(getattr(integrator, REMEMBERED[name]), ndmin=1) for name in names.get(type(integrator), ())}


def degrees_of_freedom(atoms: Atoms, conditions: Walkers) -> int:
    """Return how many degrees of freedom share the kinetic energy; the same for all geometries of a structure.

    Thermostats that act on all momenta alike, and constant energy, conserve the momentum and, without periodicity, the
    angular momentum: they are zero (see `without_drift`) and do not count. Atoms that are fixed leave less of them.
    """
    n_degrees = int(atoms.get_number_of_degrees_of_freedom())
    return n_degrees - n_conserved_momenta(atoms) if _conserves_momenta(atoms, conditions) else n_degrees


def without_drift(atoms: Atoms, conditions: Walkers) -> None:
    """Take the conserved momenta out of a structure that begins to move, see `degrees_of_freedom`."""
    if _conserves_momenta(atoms, conditions):
        _remove_conserved_momenta(atoms)


def _remove_conserved_momenta(atoms: Atoms) -> None:
    if len(atoms) > 1:
        atoms.set_momenta(without_rigid_motions(atoms))


def _conserves_momenta(atoms: Atoms, conditions: Walkers) -> bool:
    return conditions.method in GLOBAL and len(atoms) > 1


def temperature_of(atoms: Atoms, n_degrees: int) -> float:
    """Return the temperature in K of a structure with momenta, given its degrees of freedom; 0 without any."""
    return float(2 * atoms.get_kinetic_energy() / (n_degrees * units.kB)) if n_degrees > 0 else 0.0


def keeps_constraints(conditions: Walkers) -> bool:
    """Return whether the method of a walker keeps the constraints of a structure."""
    # ASE's chain integrates momenta of its own, to which it adds the forces on fixed atoms.
    return conditions.method not in (*UNDER_BAROSTAT, "nose_hoover")
