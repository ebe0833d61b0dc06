"""Parameters of the bootstrap and of the learning of a campaign."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from surveyor.parameters import Fraction, Parameters
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.sampling.conditions import TriesPerSample, WalkersPerBatch

Select = Literal["walkers", "informative", "committee", "random"]


class Bootstrap(Parameters):
    """Generation 0: the data of the first model."""

    n_structures: int = Field(
        50,
        ge=3,
        title="Structures",
        description="Number of randomly perturbed starts to label; not used if data are given.",
    )
    amplitude_A: float = Field(
        0.05,
        ge=0,
        le=2,
        title="Displacement (Å)",
        description="Standard deviation of the random displacement of each coordinate.",
    )
    amplitude_strain: float = Field(
        0.05, ge=0, le=0.5, title="Strain", description="Largest component of the random strain of periodic directions."
    )
    data: Path | None = Field(
        None,
        title="Labelled data (file)",
        description="Labelled structures to use instead of perturbed starts: an extxyz file with REF_energy, "
        "REF_forces and, for periodic structures, REF_stress or REF_virials. Use `label_keys` for "
        "other names.",
    )
    label_keys: LabelKeys = Field(
        REF_KEYS, title="Names of the labels", description="Names of energy, forces and stress in the data."
    )
    level_of_theory: str | None = Field(
        None,
        title="Level of theory of the data",
        description="Name of the level of theory of the data, as printed by `surveyor check` for the reference.",
    )

    @model_validator(mode="after")
    def _data_state_their_theory(self) -> "Bootstrap":
        if (self.data is None) != (self.level_of_theory is None):
            found = "data without level_of_theory" if self.level_of_theory is None else "level_of_theory without data"
            raise ValueError(f"expected data and level_of_theory together; found {found}")
        if self.data is None and self.label_keys != REF_KEYS:
            raise ValueError("found label_keys, which name labels in data, but no data; give both, or none")
        return self


class Learning(Parameters):
    """The generations, budget, targets and thresholds of a campaign."""

    n_generations: int = Field(
        10, ge=0, le=10_000, title="Generations", description="Number of generations after the bootstrap."
    )
    n_states: int | None = Field(
        None,
        ge=1,
        title="States per generation",
        description="Number of structures sampled in each generation; by default one per walker.",
    )
    labels_ahead: int | None = Field(
        None,
        ge=1,
        title="Samples ahead",
        description="Maximum number of samples that are begun, but not yet in the training data of a model. By default "
        "n_states, so that walkers wait for each training; with more, they continue during it. Twice n_states is a "
        "good value; more gains little.",
    )
    max_labels: int | None = Field(
        None,
        ge=1,
        title="Budget (labels)",
        description="The campaign completes when this number of labels has been requested.",
    )
    target_energy_meV_per_atom: float | None = Field(
        None,
        gt=0,
        title="Target: energy (meV/atom)",
        description="The campaign completes when audits, structures drawn at random, show in two successive "
        "generations that the error before training is below all given targets.",
    )
    target_forces_meV_per_A: float | None = Field(
        None,
        gt=0,
        title="Target: forces (meV/Å)",
        description="The campaign completes when audits, structures drawn at random, show in two successive "
        "generations that the error before training is below all given targets.",
    )
    train_from_scratch: bool = Field(
        True,
        title="Train from scratch",
        description="Draw new weights and recompute scale and shift in each generation; otherwise continue from "
        "the current weights, with the settings in the model's field `continued`.",
    )
    atomic_energies: Literal["isolated_atoms", "least_squares"] = Field(
        "isolated_atoms",
        title="Atomic energies",
        description="isolated_atoms: computed by the reference. least_squares: taken from isolated atoms in the "
        "data, if any, and fitted to the bootstrap for other elements. Fixed for the campaign.",
    )
    valid_fraction: Fraction = Field(
        0.1,
        title="Validation fraction",
        description="Fraction of the labelled structures used to choose the best epoch.",
    )
    test_fraction: Fraction = Field(
        0.1, title="Test fraction", description="Fraction of the labelled structures that are never used in a training."
    )
    reset_energy_meV_per_atom: float = Field(
        10.0,
        gt=0,
        title="Reset: energy (meV/atom)",
        description="Reset a walker to its start if the error of the model on its structure is larger.",
    )
    reset_forces_meV_per_A: float = Field(
        200.0,
        gt=0,
        title="Reset: forces (meV/Å)",
        description="Reset a walker to its start if the error of the model on its structure is larger.",
    )
    discard_energy_meV_per_atom: float = Field(
        20.0,
        gt=0,
        title="Discard: energy (meV/atom)",
        description="Exclude a structure from training if the error of the model on it is larger.",
    )
    discard_forces_meV_per_A: float = Field(
        500.0,
        gt=0,
        title="Discard: forces (meV/Å)",
        description="Exclude a structure from training if the error of the model on it is larger.",
    )
    n_frames: int = Field(
        0,
        ge=0,
        le=10_000,
        title="Frames per sample",
        description="Maximum number of frames of the trajectory to label in addition to each sample; "
        "statistically independent frames are chosen. Needs `frame_interval` of the walkers. With a selector, the "
        "frames are candidates, and each sample gives one label.",
    )
    select: Select = Field(
        "walkers",
        title="Selector",
        description="Structures to label. walkers: every sample and its frames. The others choose among samples and "
        "frames, one structure per sample. informative: those whose labels reduce the uncertainty of the model most. "
        "committee: those on which the members of the committee disagree most. random: at random, for comparison.",
    )
    min_difference_A: float = Field(
        0.01,
        ge=0,
        le=1,
        title="Near-duplicates (Å)",
        description="Do not label a structure whose interatomic distances and cell differ by less from those of a"
        " structure in the campaign; 0 labels everything.",
    )
    walkers_per_batch: WalkersPerBatch = None
    n_tries: TriesPerSample = 5
    max_failed_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        title="Failures allowed",
        description="The campaign fails if a larger fraction of the labels of a generation fails.",
    )
    seed: int = Field(0, ge=0, lt=2**32, title="Seed", description="Seed of all random numbers in the campaign.")

    @model_validator(mode="after")
    def _ahead_is_at_least_a_generation(self) -> "Learning":
        if self.labels_ahead is not None and self.n_states is not None and self.labels_ahead < self.n_states:
            raise ValueError(
                f"labels_ahead: found {self.labels_ahead}, expected at least n_states, {self.n_states}, or no value: "
                "a training begins when n_states samples are labelled"
            )
        return self

    @model_validator(mode="after")
    def _something_is_left_for_training(self) -> "Learning":
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction and test_fraction leave nothing to train on: found {self.valid_fraction} and "
                f"{self.test_fraction}, expected a sum below 1"
            )
        return self
