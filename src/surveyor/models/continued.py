"""Parameters of trainings that continue from the weights of a trained model."""

from pydantic import Field

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
