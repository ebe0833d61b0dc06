"""Parameters of trainings that continue from the weights of a trained model."""

from pydantic import Field

from surveyor.parameters import Parameters


class ContinuedTraining(Parameters):
    """Settings of a training that begins from the weights of a trained model; fields left out are as from scratch."""

    max_num_epochs: int | None = Field(
        None, ge=1, le=1_000_000, title="Epochs", description="How often such a training goes through the data."
    )
    lr: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Learning rate",
        description="Step of the optimizer at the beginning of such a training; a smaller one spoils fewer weights.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        title="Patience (epochs)",
        description="Such a training ends after this many epochs without a lower validation loss.",
    )
