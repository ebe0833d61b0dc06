"""The parameters of a benchmark of labels as one value."""

from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Field, model_validator

from surveyor.models.choice import ModelParameters
from surveyor.parameters import Fraction, Parameters, exactly_one_of
from surveyor.pools.choice import Pools
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.reference.choice import Codes, ReferenceParameters
from surveyor.sampling.conditions import Walkers
from surveyor.selection import features_for
from surveyor.works.parameters import LabelsField, OutputDirectory, StorageField, WorkParameters

Arm = Literal["random", "walkers", "farthest", "informative", "committee"]
ARMS: list[Arm] = [*get_args(Arm)]
N_LABELS = [10, 17, 30, 53, 92, 160]
BASELINE: Arm = "random"
COMMITTEE: Arm = "committee"  # which trains several models at each point


class Structures(Parameters):
    """Structures of a file, or frames of molecular dynamics with the reference."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of(("file", "walkers"), lists=("walkers",)))

    file: Path | None = Field(
        None,
        title="File",
        description="Structures, in the order of time if they are a trajectory. The reference labels them; without a "
        "reference, the file must contain the labels.",
    )
    walkers: list[Walkers] = Field(
        default_factory=list,
        title="Walkers",
        description="Groups of walkers that move by the forces of the reference; each frame is a structure.",
    )
    skip_steps: int = Field(
        0,
        ge=0,
        title="Equilibration (steps)",
        description="Number of steps at the beginning of each trajectory whose frames are left out.",
    )
    n_structures: int | None = Field(
        None,
        ge=1,
        title="Number of structures",
        description="Maximum number of structures, spread evenly over file or time; by default all.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.file is None) == (not self.walkers):
            found = "neither" if self.file is None else "both"
            raise ValueError(f"expected exactly one of file and walkers; found {found}")
        for number, group in enumerate(self.walkers):
            self._check_frames(f"walkers[{number}]", group)
        return self

    def _check_frames(self, name: str, group: Walkers) -> None:
        if group.is_optimisation or group.method == "perturbation":
            raise ValueError(f"{name}: found method {group.method}; expected molecular dynamics")
        if group.frame_interval is None:
            raise ValueError(f"{name}: found no frame_interval; give one, as frames are the structures")
        if self.skip_steps >= group.n_steps:
            raise ValueError(f"{name}: found skip_steps {self.skip_steps}; expected less than n_steps {group.n_steps}")


class HeldOut(Structures):
    """Structures on which the models are compared."""

    name: str = Field(
        min_length=1,
        max_length=40,
        pattern=r"^[\w. +%°±-]+$",
        title="Name",
        description="Name in tables and figures, such as 600 K.",
    )


class BenchmarkParameters(WorkParameters):
    """All parameters of a benchmark of labels; its fields are the parameters of the flow `benchmark_labels`."""

    FOLDERS: ClassVar = ("labels", "codes.cp2k.data_directory")

    candidates: Structures = Field(title="Candidates", description="Structures from which labels are chosen.")
    tests: list[HeldOut] = Field(
        min_length=1,
        title="Test sets",
        description="Structures on which the models are compared: some like the candidates, and some unlike them.",
    )
    output_directory: OutputDirectory
    model: ModelParameters = Field(title="Model", description="The single model that is trained on each set of labels.")
    reference: ReferenceParameters | None = Field(
        None,
        title="Reference",
        description="The fast reference (teacher) that labels all structures; without it, the files must contain the "
        "labels.",
    )
    arms: list[Arm] = Field(
        ARMS,
        min_length=2,
        title="Arms",
        description="Selectors to compare. random is the baseline, and walkers takes candidates in the order of time.",
    )
    n_labels: list[int] = Field(
        N_LABELS,
        min_length=2,
        max_length=100,
        title="Numbers of labels",
        description="Numbers of labels at which a model is trained, including those for validation. The first labels "
        "are drawn at random in all arms.",
    )
    reference_labels: int = Field(
        80,
        ge=1,
        title="Reference number of labels",
        description="The error of the arm random at this number of labels is the target: the result is the number of "
        "labels with which each arm reaches it.",
    )
    n_seeds: int = Field(
        5, ge=1, le=1000, title="Seeds", description="Number of repetitions, from which the intervals are computed."
    )
    valid_fraction: Fraction = Field(
        0.2,
        title="Fraction for validation",
        description="Fraction of the labels that is used to choose the best epoch; drawn at random in all arms.",
    )
    n_members: int = Field(
        4, ge=2, le=100, title="Members", description="Number of models in the committee of the arm committee."
    )
    label_keys: LabelKeys = Field(
        REF_KEYS,
        title="Names of the labels",
        description="Names of energy, forces and stress in files with labels, if there is no reference.",
    )
    seed: int = Field(0, ge=0, lt=2**31, title="Seed", description="Seed of all random numbers.")
    pools: Pools = Field(Pools(), title="Pools", description="Pools that run sampling, labelling and training.")
    codes: Codes = Field(Codes(), title="Codes", description="Command and limits of reference programs at this site.")
    labels: LabelsField = None
    storage: StorageField = None

    @model_validator(mode="after")
    def _check_comparison(self) -> Self:
        if BASELINE not in self.arms or len({*self.arms}) < len(self.arms):
            raise ValueError(f"arms: found {', '.join(self.arms)}; expected {BASELINE} and others, each once")
        if self.n_labels[0] < 2 or any(low >= high for low, high in pairwise(self.n_labels)):
            raise ValueError(f"n_labels: found {self.n_labels}; expected increasing numbers from 2 on")
        if not self.n_labels[0] <= self.reference_labels <= self.n_labels[-1]:
            raise ValueError(
                f"reference_labels: found {self.reference_labels}; expected a number between the first and the last of "
                f"n_labels, {self.n_labels[0]} and {self.n_labels[-1]}"
            )
        return self

    @model_validator(mode="after")
    def _check_tests(self) -> Self:
        names = [test.name for test in self.tests]
        if len({*names}) < len(names):
            raise ValueError(f"tests: found {', '.join(names)}; expected each name once")
        return self

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.model.committee is not None:
            raise ValueError("model: found committee; expected a single model: the arm committee makes several of it")
        if self.model.pair is not None and COMMITTEE in self.arms:
            raise ValueError("arms: found committee with the pair model, whose members are all the same; leave it out")
        return self

    @model_validator(mode="after")
    def _check_teacher(self) -> Self:
        moving = [name for name, each in self.sets.items() if each.walkers]
        if self.reference is None and moving:
            raise ValueError(f"{', '.join(moving)}: found walkers without a reference; give one, or files with labels")
        return self

    @property
    def sets(self) -> dict[str, Structures]:
        """Candidates and test sets, by the names of their fields."""
        return {"candidates": self.candidates, **{f"tests[{i}]": test for i, test in enumerate(self.tests)}}

    @property
    def features_for(self) -> str:
        """The arms that need the features of the model; empty if none does."""
        return features_for("arms", self.arms)

    @property
    def pool_of_stages(self) -> Pools:
        """The pool of each stage."""
        return self.pools
