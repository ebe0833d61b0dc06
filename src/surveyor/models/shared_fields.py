"""Parameters that networks of all engines share."""

from typing import Annotated

from pydantic import Field

from surveyor.models.devices import Device, Precision
from surveyor.parameters import Parameters


class ContinuedTraining(Parameters):
    """Settings of a training that begins from the weights of a trained model; fields left out are as from scratch."""

    max_num_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Epochs",
        description="Number of passes over the training data in such a training.",
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Learning rate",
        description="Initial learning rate of such a training; a smaller one preserves more of the existing weights.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Patience (epochs)",
        description="Number of epochs without a lower validation loss after which such a training ends.",
    )


CutoffField = Annotated[
    float, Field(gt=0.5, le=20, title="Cutoff (Å)", description="Atoms within this distance exchange messages.")
]
EpochsField = Annotated[
    int, Field(ge=1, le=1_000_000, title="Epochs", description="Number of passes over the training data.")
]
ValidationBatchSizeField = Annotated[
    int,
    Field(
        ge=1,
        le=100_000,
        title="Validation batch size (structures)",
        description="Structures per batch when the validation errors are computed.",
    ),
]
ContinuedField = Annotated[
    ContinuedTraining | None,
    Field(
        title="Continued training",
        description="Epochs, learning rate and patience of a training that starts from existing weights: with "
        "`start`, and in later generations with train_from_scratch: false. By default those of a "
        "training from scratch.",
    ),
]
EnergyWeightField = Annotated[
    float,
    Field(
        ge=0, title="Weight of energies", description="Weight of the squared errors of energies per atom, in eV/atom."
    ),
]
ForcesWeightField = Annotated[
    float, Field(ge=0, title="Weight of forces", description="Weight of the squared errors of forces, in eV/Å.")
]
StressWeightField = Annotated[
    float,
    Field(
        ge=0,
        title="Weight of stress",
        description="Weight of the squared errors of the stress, in eV/Å³; structures without stress do not "
        "contribute.",
    ),
]
NetworkPrecisionField = Annotated[
    Precision,
    Field(
        title="Precision",
        description="Precision of the training and of the deployed potential; float32 is faster and sufficient "
        "for dynamics.",
    ),
]
TrainingTimeLimitField = Annotated[
    float | None,
    Field(
        gt=0,
        title="Time limit (min)",
        description="Time after which the training ends with its current epoch; the result is the best epoch so far.",
    ),
]
TrainingDeviceField = Annotated[
    Device,
    Field(title="Device", description="Device of the training and the potential; auto uses a GPU if there is one."),
]
