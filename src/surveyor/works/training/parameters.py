"""Parameters of a training on given files."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, model_validator

from surveyor.models.choice import ModelParameters
from surveyor.parameters import Fraction
from surveyor.pools.choice import EXPECTED, LOCAL, PoolName
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.works.parameters import OutputDirectory, WorkParameters, files_of_model


class TrainingParameters(WorkParameters):
    """All parameters of a training on files; its fields are the parameters of the flow `train_model`."""

    FOLDERS: ClassVar = ("start",)

    train: Path = Field(
        title="Training data (file)",
        description="extxyz file with REF_energy, REF_forces and, for periodic structures, REF_stress or "
        "REF_virials. Use `label_keys` for other names.",
    )
    output_directory: OutputDirectory
    model: ModelParameters | None = Field(
        None, title="Model", description="The potential to train; optional if `start` is given."
    )
    valid: Path | None = Field(
        None,
        title="Validation data (file)",
        description="Labelled structures used to choose the best epoch; by default a part of the training data.",
    )
    valid_fraction: Fraction = Field(
        0.1,
        title="Fraction for validation",
        description="Fraction of the training data drawn at random for validation, if no validation data are given.",
    )
    test: Path | None = Field(
        None, title="Test data (file)", description="Labelled structures that are never used in the training."
    )
    label_keys: LabelKeys = Field(
        REF_KEYS, title="Names of the labels", description="Names of energy, forces and stress in these files."
    )
    allow_leaks: bool = Field(
        False,
        title="Allow test data in training",
        description="Train even if structures of the test data are also in the training or validation data. "
        "Errors on the test data are then too small.",
    )
    atomic_energies: dict[str, float] | None = Field(
        None,
        title="Atomic energies (eV)",
        description="Energy of the isolated atom by chemical symbol. Energies of other elements are taken from "
        "isolated atoms in the data, or else fitted.",
    )
    seed: int = Field(
        0, ge=0, title="Seed", description="Seed of the weights, the order of batches and the division of the data."
    )
    start: Path | None = Field(
        None,
        title="Start from (folder)",
        description="Folder of a saved model from whose weights and atomic energies the training starts.",
    )
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Pool that runs the training: {EXPECTED}.")

    @model_validator(mode="after")
    def _check_beginning(self) -> "TrainingParameters":
        if self.model is None and self.start is None:
            raise ValueError("expected model or start, found neither; give the model that is to be trained")
        if self.start is not None and self.atomic_energies is not None:
            raise ValueError("found start and atomic_energies; a training keeps those of the model that it starts from")
        return self

    def recorded_files(self) -> dict[str, Path]:
        """Return the files whose contents define the training, by field; those of `start` stand for it."""
        files = self.input_files()
        return files if self.start is None else files | files_of_model("start", self.start)
