"""Conditions of walkers: their propagation, and the guards that stop them."""

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
RAMP_LENGTHS = {"steps": "ramp_steps", "labels": "ramp_labels"}  # fields, by what a ramp is measured in
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
    """Windows along a collective variable: one for each walker of a group (umbrella sampling), or one that moves."""

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
    moves: bool = Field(
        False,
        title="Centres move",
        description="All walkers begin at the minimum, and the centre of their restraint moves to the maximum along "
        "the ramp of the group; otherwise the centres are spaced evenly and stay.",
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
        description="Temperature at the end of the ramp (`ramp_by`); a walker that is reset starts the ramp again. "
        "By default the temperature is constant.",
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
    final_pressure_MPa: float | None = Field(
        None,
        ge=-100_000,
        le=1_000_000,
        title="Final pressure (MPa)",
        description="External pressure at the end of the ramp (`ramp_by`); a walker that is reset starts the ramp "
        "again. By default the pressure is constant.",
    )
    ramp_by: Literal["steps", "labels"] = Field(
        "steps",
        title="Ramp by",
        description="What moves a walker along the ramp of temperature, pressure and restraint centres. steps: each "
        "step of the walker. labels: each good label, whose error is within the reset thresholds; conditions are "
        "constant during a sample.",
    )
    ramp_steps: int | None = Field(
        None,
        ge=1,
        title="Ramp (steps)",
        description="Number of steps of a walker, over all generations, after which it reaches the end of the ramp.",
    )
    ramp_labels: int | None = Field(
        None,
        ge=1,
        title="Ramp (labels)",
        description="Number of good labels of a walker, over all generations, after which it reaches the end of the "
        "ramp; at most one counts for each generation.",
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
        description="Centres of a restraint along a collective variable: spaced evenly over the walkers, each of which "
        "begins from the nearest start, or moving along the ramp.",
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

    @model_validator(mode="after")
    def _ramp_has_ends_and_a_length(self) -> Self:
        length, ends = RAMP_LENGTHS[self.ramp_by], self._ends_of_ramp
        for name in {*RAMP_LENGTHS.values()} - {length}:
            if getattr(self, name) is not None:
                raise ValueError(f"found {name} with ramp_by {self.ramp_by}; expected {length}")
        is_long = getattr(self, length) is not None
        if ends and not is_long:
            raise ValueError(f"expected {ends[0]} and {length} together; found {ends[0]} alone")
        if not ends and (is_long or self.ramp_by == "labels"):
            found = length if is_long else "ramp_by: labels"
            raise ValueError(
                "expected a ramp to have an end, final_temperature_K, final_pressure_MPa or distribution.moves; found "
                f"{found} alone"
            )
        return self

    @model_validator(mode="after")
    def _ramp_suits_the_method(self) -> Self:
        if self.final_pressure_MPa is not None and self.method not in MOVING_CELL:
            raise ValueError(
                f"found final_pressure_MPa with method {self.method}, which has no barostat; expected npt, "
                "npt_flexible or cell_optimisation"
            )
        by_labels = self.ramp_by == "labels"
        if self.final_temperature_K is not None and by_labels and self.method not in UNDER_THERMOSTAT:
            raise ValueError(
                f"found final_temperature_K with method {self.method}, which has no thermostat; leave it out, or "
                f"choose one of {', '.join(UNDER_THERMOSTAT)}"
            )
        if self.is_optimisation and not by_labels and {*self._ends_of_ramp} - {"final_temperature_K"}:
            raise ValueError(
                f"found a ramp by steps with method {self.method}, which would never be at its minimum; expected "
                "ramp_by: labels, and ramp_labels"
            )
        return self

    @property
    def _ends_of_ramp(self) -> list[str]:
        """The fields that say where the ramp ends."""
        ends = [name for name in ("final_temperature_K", "final_pressure_MPa") if getattr(self, name) is not None]
        return [*ends, "distribution.moves"] if self.has_moving_centres else ends

    @property
    def has_moving_centres(self) -> bool:
        """True if the centre of a restraint moves along the ramp."""
        return self.distribution is not None and self.distribution.moves

    @property
    def has_ramp(self) -> bool:
        """True if conditions change along a ramp."""
        return bool(self._ends_of_ramp)

    @property
    def is_optimisation(self) -> bool:
        """True if the walkers optimise their geometry."""
        return self.method in OPTIMISATIONS

    def progress_after(self, *, n_steps: int, n_good_labels: int) -> float:
        """Return the progress of a walker along its ramp: from 0, also without a ramp, to 1.

        Args:
            n_steps: number of its steps since its start or last reset.
            n_good_labels: number of its labels since then that were good; see `Walker.n_good_labels`.
        """
        done, length = (n_good_labels, self.ramp_labels) if self.ramp_by == "labels" else (n_steps, self.ramp_steps)
        return 0.0 if length is None else min(1.0, done / length)

    def temperature_at(self, progress: float) -> float:
        """Return the temperature of the thermostat in K: linear by steps, and by labels linear in its inverse.

        Args:
            progress: of the walker along its ramp, from 0 to 1.
        """
        if self.final_temperature_K is None:
            return self.temperature_K
        if self.ramp_by == "labels":
            return 1 / ((1 - progress) / self.temperature_K + progress / self.final_temperature_K)
        return self.temperature_K + progress * (self.final_temperature_K - self.temperature_K)

    def pressure_at(self, progress: float) -> float:
        """Return the external pressure in MPa; see `temperature_at`."""
        final = self.pressure_MPa if self.final_pressure_MPa is None else self.final_pressure_MPa
        return self.pressure_MPa + progress * (final - self.pressure_MPa)
