"""Conditions: how walkers move, and what stops them."""

from pathlib import Path
from typing import Annotated, Literal, Self

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


WalkersPerBatch = Annotated[
    int | None,
    Field(
        ge=1,
        title="Walkers per batch",
        description="Number of walkers that move together, with one pass of the model per step; with 1 each moves"
        " alone. By default the walkers are distributed over all workers of the pool, if the model is"
        " faster in batches.",
    ),
]


TriesPerSample = Annotated[
    int,
    Field(
        ge=1,
        le=100,
        title="Tries per sample",
        description="Maximum number of tries per sample, if guards stop the walker.",
    ),
]


class Distribution(Parameters):
    """Windows along a collective variable, one for each walker of a group (umbrella sampling)."""

    variable: str = Field(
        title="Collective variable",
        description="Label of the variable in the PLUMED input, or the name of a restraint, such as distance(0,1).",
    )
    minimum: float = Field(
        title="From", description="Centre of the restraint on the first walker, in the unit of the restraint."
    )
    maximum: float = Field(
        title="To", description="Centre of the restraint on the last walker, in the unit of the restraint."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"expected minimum below maximum; found {self.minimum:g} and {self.maximum:g}")
        return self


class Walkers(Parameters):
    """A group of walkers that share their starts and conditions."""

    start: Path = Field(
        title="Start structures (file)",
        description="File with one or more structures, in any format that ASE reads; the walkers use them in "
        "turn. Atoms marked as fixed remain fixed in molecular dynamics and optimisation.",
    )
    n_walkers: int = Field(
        8, ge=1, le=100_000, title="Number of walkers", description="Number of walkers in this group."
    )
    method: Method = Field(
        "langevin",
        title="Method",
        description="Constant volume and temperature: langevin, bussi (stochastic velocity rescaling), "
        "nose_hoover (a chain of three). Constant energy: nve. Constant pressure and temperature "
        "(Langevin thermostat and barostat): npt keeps the shape of the cell, npt_flexible does not. "
        "Geometry optimisation: optimisation of the positions, cell_optimisation of positions and "
        "cell. Random displacements and strain of the start: perturbation.",
    )
    temperature_K: float = Field(
        300.0, gt=0, le=100_000, title="Temperature (K)", description="Temperature of the thermostat."
    )
    final_temperature_K: float | None = Field(
        None,
        gt=0,
        le=100_000,
        title="Final temperature (K)",
        description="Target temperature of the ramp, reached after `ramp_steps` steps; a walker that is reset "
        "starts the ramp again. By default the temperature is constant.",
    )
    ramp_steps: int | None = Field(
        None,
        ge=1,
        title="Ramp (steps)",
        description="Number of steps of a walker, over all generations, after which it reaches the final temperature.",
    )
    initial_velocities: Literal["thermal", "given", "zero"] = Field(
        "thermal",
        title="Initial velocities",
        description="thermal draws them at the temperature, given uses those in the start file, zero starts at rest.",
    )
    pressure_MPa: float = Field(
        0.1,
        ge=-100_000,
        le=1_000_000,
        title="Pressure (MPa)",
        description="External pressure, for npt, npt_flexible and cell_optimisation.",
    )
    timestep_fs: float = Field(
        0.5,
        ge=0.01,
        le=10,
        title="Time step (fs)",
        description="Time step of molecular dynamics; about 0.5 fs with hydrogen.",
    )
    n_steps: int = Field(
        100,
        ge=1,
        le=1_000_000_000,
        title="Steps per sample",
        description="Steps of molecular dynamics between two samples; maximum number of steps of an optimisation.",
    )
    frame_interval: int | None = Field(
        None,
        ge=1,
        title="Frame interval (steps)",
        description="Number of steps between two frames of the trajectory, for molecular dynamics and "
        "optimisation; by default no trajectory is written.",
    )
    thermostat_time_fs: float = Field(
        100.0,
        gt=0,
        title="Thermostat time constant (fs)",
        description="Inverse of the friction coefficient of langevin; relaxation time of the other thermostats.",
    )
    barostat_time_fs: float = Field(
        1000.0,
        gt=0,
        title="Barostat time constant (fs)",
        description="Relaxation time of the cell, for npt and npt_flexible.",
    )
    fmax_eV_per_A: float = Field(
        0.01,
        gt=0,
        title="Optimisation: fmax (eV/Å)",
        description="Convergence threshold of an optimisation: the largest force on an atom, and on the cell as "
        "defined by ASE.",
    )
    amplitude_A: float = Field(
        0.05,
        ge=0,
        le=2,
        title="Displacement (Å)",
        description="Perturbation: standard deviation of the displacement of each coordinate.",
    )
    amplitude_strain: float = Field(
        0.05,
        ge=0,
        le=0.5,
        title="Strain",
        description="Perturbation: largest component of the random symmetric strain of periodic directions.",
    )
    restraints: tuple[Restraint, ...] = Field(
        (), title="Restraints", description="Harmonic restraints and walls, without PLUMED."
    )
    plumed: Path | None = Field(
        None,
        title="PLUMED input (file)",
        description="Bias of the walkers, in the units of the PLUMED input; each walker has its own history (hills).",
    )
    plumed_files: tuple[Path, ...] = Field(
        (),
        title="Files of the PLUMED input",
        description="Other files that the PLUMED input reads, such as the grid of EXTERNAL.",
    )
    distribution: Distribution | None = Field(
        None,
        title="Distribution",
        description="Spaces the walkers evenly along a collective variable: each gets its own centre of the "
        "restraint and begins from the nearest start.",
    )
    max_force_eV_per_A: float = Field(
        40.0,
        gt=0,
        title="Guard: force (eV/Å)",
        description="Stop and reset a walker in molecular dynamics if the force on an atom is larger.",
    )
    min_distance_A: float = Field(
        0.5,
        ge=0,
        title="Guard: distance (Å)",
        description="Stop and reset a walker if two atoms come closer.",
    )
    min_distance_factor: float = Field(
        0.5,
        ge=0,
        lt=1,
        title="Guard: distance (factor)",
        description="Stop and reset a walker if two atoms come closer than this factor times the sum of their "
        "covalent radii.",
    )
    max_temperature_factor: float = Field(
        5.0,
        gt=1,
        title="Guard: temperature (factor)",
        description="Stop and reset a walker hotter than this factor times the temperature of its thermostat, or "
        "its initial temperature. For few degrees of freedom the limit is raised above thermal "
        "fluctuations.",
    )
    max_volume_factor: float = Field(
        1.5,
        gt=1,
        title="Guard: volume (factor)",
        description="Stop and reset a walker whose volume differs from that of its start by more than this "
        "factor, up or down.",
    )
    max_energy_drift_meV_per_atom: float = Field(
        10.0,
        gt=0,
        title="Guard: energy drift (meV/atom)",
        description="Stop and reset a walker in nve without PLUMED if its total energy changes by more during a "
        "propagation.",
    )
    max_uncertainty_meV_per_A: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        None,
        title="Guard: uncertainty (meV/Å)",
        description="Stop a walker and label its structure when the uncertainty of the force on an atom is larger: "
        "the disagreement of a committee, or what a single model states. auto is three times the largest error of a "
        "force in a typical structure of the validation set, and at least 100. By default 500 for a committee, and "
        "auto for a single model. A walker that starts above the limit continues until it has been below it once.",
    )
    max_wall_time_minutes: float = Field(
        240.0,
        gt=0,
        title="Guard: wall time (minutes)",
        description="A propagation that takes longer ends early, and its current structure is labelled.",
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
