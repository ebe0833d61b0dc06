"""Hyper-parameters of NequIP."""

from importlib.util import find_spec
from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from surveyor.errors import InputError
from surveyor.models.shared_fields import (
    ContinuedField,
    CutoffField,
    EnergyWeightField,
    EpochsField,
    ForcesWeightField,
    NetworkPrecisionField,
    StressWeightField,
    TrainingDeviceField,
    TrainingTimeLimitField,
    ValidationBatchSizeField,
)
from surveyor.parameters import Parameters, at_most_one_of


class NequIPParameters(Parameters):
    """Architecture of a NequIP network and how it is trained, by these fields or by a configuration of NequIP's."""

    model_config = ConfigDict(json_schema_extra=at_most_one_of("config", "config_text"))

    config: Path | None = Field(
        None,
        title="NequIP configuration (file)",
        description="A config.yaml for nequip-train, without data, seeds and atomic energies, which surveyor "
        "provides; the fields for architecture and training are then ignored.",
    )
    config_text: str | None = Field(
        None,
        min_length=1,
        title="NequIP configuration (text)",
        description="The configuration itself, instead of a file.",
    )
    r_max_A: CutoffField = 5.0
    num_layers: int = Field(
        4, ge=1, le=10, title="Layers", description="Number of layers; each extends the receptive field by one cutoff."
    )
    l_max: int = Field(
        1,
        ge=0,
        le=4,
        title="Highest l of features",
        description="0 for invariant features, 1 or 2 for equivariant ones, which are more accurate and slower.",
    )
    parity: bool = Field(
        False,
        title="Odd parity",
        description="Use features of both parities; without it the network is faster and often equally accurate.",
    )
    num_features: int = Field(
        32, ge=1, le=1024, title="Features", description="Width of the network: the number of features of each kind."
    )
    radial_mlp_depth: int = Field(
        1, ge=1, le=5, title="Radial layers", description="Hidden layers of the radial networks."
    )
    radial_mlp_width: int = Field(
        128, ge=1, le=1024, title="Radial width", description="Neurons in each hidden layer of the radial networks."
    )
    max_num_epochs: EpochsField = 200
    batch_size: int = Field(
        5, ge=1, le=100_000, title="Batch size (structures)", description="Structures per optimizer step."
    )
    valid_batch_size: ValidationBatchSizeField = 20
    lr: float = Field(
        0.01,
        gt=0,
        le=1,
        title="Learning rate",
        description="Initial learning rate of the optimizer (Adam); it is reduced when the errors stop falling.",
    )
    lr_patience: int = Field(
        20,
        ge=1,
        le=1_000_000,
        title="Patience of the learning rate",
        description="Epochs without a lower validation loss after which the learning rate is multiplied by 0.6.",
    )
    continued: ContinuedField = None
    energy_weight: EnergyWeightField = 1.0
    forces_weight: ForcesWeightField = 1.0
    stress_weight: StressWeightField = 1.0
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        title="Moving average of weights",
        description="Decay of the exponential moving average of the weights, which is the result.",
    )
    precision: NetworkPrecisionField = "float64"
    time_limit_minutes: TrainingTimeLimitField = None
    device: TrainingDeviceField = "auto"
    is_compiled: bool = Field(
        True,
        title="Compile",
        description="Compile the potential at the end of a training if a compiler is available. This takes some "
        "minutes and makes walkers and evaluations several times faster.",
    )
    uncertainty: bool = Field(
        False,
        title="Uncertainty",
        description="State an uncertainty of forces, from the features of the network, if there are at least 20 "
        "structures for validation and test. A compiled potential has no features, so that the network is then used "
        "as it is. Members of a committee have none of their own.",
    )

    @model_validator(mode="after")
    def _check_config(self) -> "NequIPParameters":
        if not self.has_config:
            return self
        if self.config is not None and self.config_text is not None:
            raise ValueError("expected at most one of config (a file) and config_text; found both")
        beside = sorted(name for name in FIELDS_OF_CONFIG if getattr(self, name) != _default(name))
        if beside:
            raise ValueError(
                f"found a configuration of NequIP and also {', '.join(beside)}, which it decides; give these in the "
                "configuration"
            )
        return self

    @property
    def has_config(self) -> bool:
        """True if the user has given a configuration."""
        return self.config is not None or self.config_text is not None

    def with_contents(self) -> "NequIPParameters":
        """Return the parameters with the text of the configuration instead of its file.

        Raises:
            InputError: the file cannot be read, or is empty.
        """
        if self.config is None:
            return self
        try:
            text = self.config.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the configuration of NequIP {self.config} cannot be read: {error}") from error
        if not text.strip():
            raise InputError(f"the configuration of NequIP {self.config} is empty; expected a config.yaml")
        return self.model_copy(update={"config": None, "config_text": text})


# What a configuration decides where there is one.
FIELDS_OF_CONFIG = NequIPParameters.model_fields.keys() - {
    "config", "config_text", "continued", "time_limit_minutes", "device", "is_compiled", "uncertainty",
}  # fmt: skip


def _default(name: str) -> object:
    return NequIPParameters.model_fields[name].default


def require_nequip() -> None:
    """Check that NequIP is installed."""
    if find_spec("nequip") is None:
        raise InputError('this model needs NequIP, which is not installed here: pip install "surveyor[nequip]"')
