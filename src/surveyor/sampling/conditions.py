"""Conditions: how walkers move, and what stops them."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from surveyor.biases.restraints import Restraint
from surveyor.parameters import Parameters

Method = Literal[
    "langevin",
    "bussi",
    "nose_hoover",
    "nve",
    "npt",
    "npt_flexible",
    "optimisation",
    "cell_optimisation",
    "perturbation",
]
OPTIMISATIONS = ("optimisation", "cell_optimisation")
MOVING_CELL = ("npt", "npt_flexible", "cell_optimisation")
UNDER_BAROSTAT = ("npt", "npt_flexible")
UNDER_THERMOSTAT = ("langevin", "bussi", "nose_hoover", *UNDER_BAROSTAT)
# Fields that say when a walker is stopped, and not how it moves.
GUARDS = (
    "max_force_eV_per_A",
    "min_distance_A",
    "min_distance_factor",
    "max_temperature_factor",
    "max_volume_factor",
    "max_energy_drift_meV_per_atom",
    "max_uncertainty_meV_per_A",
    "max_wall_time_minutes",
)


class Distribution(Parameters):
    """Windows along a collective variable, one for each walker of a group (umbrella sampling)."""

    variable: str = Field(
        title="Collective variable",
        description="Label of the variable in the PLUMED input, or the name of a restraint, such as distance(0,1).",
    )
    minimum: float = Field(title="From", description="Centre of the first walker's restraint, in the restraint's unit.")
    maximum: float = Field(title="To", description="Centre of the last walker's restraint, in the restraint's unit.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"expected minimum below maximum; found {self.minimum:g} and {self.maximum:g}")
        return self


class Walkers(Parameters):
    """A group of walkers that share their starts and conditions."""

    start: Path = Field(
        title="Start structures (file)",
        description="File with one or more structures, in a format that ASE reads; the walkers take them in turn. "
        "Atoms that it marks as fixed stay fixed in molecular dynamics and optimisation.",
    )
    n_walkers: int = Field(
        8, ge=1, le=100_000, title="Number of walkers", description="How many walkers this group has."
    )
    method: Method = Field(
        "langevin",
        title="Method",
        description="Constant volume and temperature: langevin, bussi (stochastic velocity rescaling), nose_hoover "
        "(a chain of three). nve: constant energy. npt: constant pressure and temperature in a cell that keeps its "
        "shape, npt_flexible: in one that does not (Langevin thermostat and barostat). optimisation: of the "
        "positions, cell_optimisation: of positions and cell. perturbation: random displacements and strain of the "
        "start.",
    )
    temperature_K: float = Field(
        300.0, gt=0, le=100_000, title="Temperature (K)", description="Temperature of the thermostat."
    )
    final_temperature_K: float | None = Field(
        None,
        gt=0,
        le=100_000,
        title="Final temperature (K)",
        description="The temperature goes to this one in so many steps as the ramp has, and stays there; a walker that "
        "is reset begins again. By default it is constant.",
    )
    ramp_steps: int | None = Field(
        None,
        ge=1,
        title="Ramp (steps)",
        description="In how many steps of a walker, over all generations, its temperature reaches the final one.",
    )
    initial_velocities: Literal["thermal", "given", "zero"] = Field(
        "thermal",
        title="Initial velocities",
        description="thermal: drawn at the temperature. given: those in the file of the starts. zero: none.",
    )
    pressure_MPa: float = Field(
        0.1,
        ge=-100_000,
        le=1_000_000,
        title="Pressure (MPa)",
        description="Outer pressure; npt, npt_flexible and cell_optimisation use it.",
    )
    timestep_fs: float = Field(
        0.5,
        ge=0.01,
        le=10,
        title="Time step (fs)",
        description="Time step of molecular dynamics, in femtoseconds; about 0.5 where there is hydrogen.",
    )
    n_steps: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        title="Steps per sample",
        description="Steps of molecular dynamics between two samples; the most steps of an optimisation.",
    )
    frame_interval: int | None = Field(
        None,
        ge=1,
        title="Frame interval (steps)",
        description="So often a frame of molecular dynamics or optimisation is kept in a trajectory beside the sample; "
        "by default there is none.",
    )
    thermostat_time_fs: float = Field(
        100.0,
        gt=0,
        title="Thermostat time constant (fs)",
        description="Inverse of the Langevin friction coefficient; relaxation time of the other thermostats.",
    )
    barostat_time_fs: float = Field(
        1000.0,
        gt=0,
        title="Barostat time constant (fs)",
        description="Time in which the cell follows the pressure; npt and npt_flexible use it.",
    )
    fmax_eV_per_A: float = Field(
        0.01,
        gt=0,
        title="Optimisation: fmax (eV/Å)",
        description="An optimisation ends when no force, and no force on the cell as ASE defines it, is larger.",
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
    restraints: tuple[Restraint, ...] = Field(
        (), title="Restraints", description="Harmonic restraints and walls, which need no PLUMED."
    )
    plumed: Path | None = Field(
        None,
        title="PLUMED input (file)",
        description="Bias of the walkers, in PLUMED's own units; each walker has a history (hills) of its own.",
    )
    plumed_files: tuple[Path, ...] = Field(
        (), title="Files of the PLUMED input", description="Other files that it reads, such as the grid of EXTERNAL."
    )
    distribution: Distribution | None = Field(
        None,
        title="Distribution",
        description="Places the walkers along a collective variable: each begins from the nearest start, with the "
        "centre of its restraint moved.",
    )
    max_force_eV_per_A: float = Field(
        40.0,
        gt=0,
        title="Guard: force (eV/Å)",
        description="A walker in molecular dynamics on which a larger force acts is stopped and reset.",
    )
    min_distance_A: float = Field(
        0.5,
        ge=0,
        title="Guard: distance (Å)",
        description="A walker in which two atoms come closer is stopped and reset.",
    )
    min_distance_factor: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Guard: distance (factor)",
        description="A walker in which two atoms come closer than so many times the sum of their covalent radii is "
        "stopped and reset.",
    )
    max_temperature_factor: float = Field(
        5.0,
        gt=1,
        title="Guard: temperature (factor)",
        description="A walker hotter than so many times its thermostat, or its initial temperature, is stopped and "
        "reset. Few degrees of freedom may become as hot as thermal fluctuations make them.",
    )
    max_volume_factor: float = Field(
        1.5,
        gt=1,
        title="Guard: volume (factor)",
        description="A walker whose volume is so many times that of its start, or its inverse, is stopped and reset.",
    )
    max_energy_drift_meV_per_atom: float = Field(
        10.0,
        gt=0,
        title="Guard: energy drift (meV/atom)",
        description="A walker in nve without PLUMED whose energy is further from that at which the propagation began "
        "is stopped and reset.",
    )
    max_uncertainty_meV_per_A: float = Field(
        500.0,
        gt=0,
        title="Guard: disagreement (meV/Å)",
        description="A walker stops, and its structure is labelled, when the members of a committee disagree more on "
        "the force on an atom (times the committee's calibration), having disagreed less before.",
    )
    max_wall_time_minutes: float = Field(
        240.0,
        gt=0,
        title="Guard: wall time (minutes)",
        description="A propagation that takes longer ends where it is, and brings that structure.",
    )

    @model_validator(mode="after")
    def _times_fit(self) -> Self:
        # Faster couplings cannot be integrated: the volume of a hard solid swings ten times faster than the barostat.
        shortest = {"thermostat_time_fs": 2 * self.timestep_fs}
        if self.method in UNDER_BAROSTAT:
            shortest["barostat_time_fs"] = 50 * self.timestep_fs
        for name, limit in shortest.items():
            if getattr(self, name) < limit:
                raise ValueError(
                    f"{name} is {getattr(self, name):g}, timestep_fs is {self.timestep_fs:g}; expected at least "
                    f"{limit:g}: make {name} longer or the time step shorter"
                )
        return self

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.final_temperature_K is None) != (self.ramp_steps is None):
            found = "ramp_steps" if self.final_temperature_K is None else "final_temperature_K"
            raise ValueError(f"expected final_temperature_K and ramp_steps together; found {found} alone")
        if self.plumed is None and self.plumed_files:
            raise ValueError("found plumed_files without plumed; give the PLUMED input that reads them")
        biased = [name for name in ("restraints", "plumed", "distribution") if getattr(self, name)]
        if self.method == "perturbation" and biased:
            raise ValueError(f"found {', '.join(biased)} with method perturbation, which feels no bias; leave it out")
        if self.plumed is not None and self.is_optimisation:
            raise ValueError(f"found plumed with method {self.method}; expected restraints, which have no history")
        if self.distribution is not None and not (self.restraints or self.plumed):
            raise ValueError("found distribution without restraints or plumed; give the restraint that is to be moved")
        return self

    @property
    def is_optimisation(self) -> bool:
        """Whether the walkers go downhill."""
        return self.method in OPTIMISATIONS

    def temperature_at(self, step: int) -> float:
        """Return the temperature of the thermostat in K.

        Args:
            step: of the walker since its start or last reset.
        """
        if self.final_temperature_K is None or self.ramp_steps is None:
            return self.temperature_K
        fraction = min(1.0, step / self.ramp_steps)
        return self.temperature_K + fraction * (self.final_temperature_K - self.temperature_K)
