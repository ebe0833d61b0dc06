"""Hyper-parameters of MACE, with its options and foundation models."""

import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, model_validator

from surveyor.errors import InputError
from surveyor.models.mace_cuequivariance import is_used
from surveyor.models.quiet import engine_kept_quiet
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
from surveyor.reading.keys import REF_KEYS, LabelKeys


class MACEParameters(Parameters):
    """Architecture of a MACE network, and how it is trained."""

    model_config = ConfigDict(json_schema_extra=at_most_one_of("foundation_model", "foundation_name"))

    foundation_model: Path | None = Field(
        None,
        title="Foundation model (file)",
        description="MACE network from whose weights the training begins. Its architecture is kept; the fields "
        "for the architecture are ignored.",
    )
    foundation_name: str | None = Field(
        None,
        title="Foundation model (name)",
        description="Name of a model that MACE downloads, instead of a file, such as small or medium-mpa-0. "
        "Observe its licence.",
    )
    replay: Path | None = Field(
        None,
        title="Replay data (file)",
        description="Labelled structures from the training data of the foundation model, which are trained with a"
        " separate readout so that the network does not forget them.",
    )
    replay_keys: LabelKeys = Field(
        REF_KEYS,
        title="Names of the labels in the replay data",
        description="Names of energy, forces and stress in the replay data.",
    )
    r_max_A: CutoffField = 5.0
    num_channels: int = Field(
        64, ge=1, le=1024, title="Channels", description="Width of the network: the number of features of each kind."
    )
    max_L: int = Field(
        1,
        ge=0,
        le=4,
        title="Highest L of messages",
        description="0 for invariant messages, 1 or 2 for equivariant ones, which are more accurate and slower.",
    )
    correlation: int = Field(
        3,
        ge=1,
        le=5,
        title="Correlation order",
        description="Number of neighbours correlated in one layer.",
    )
    num_interactions: int = Field(
        2, ge=1, le=5, title="Layers", description="Number of layers; each extends the receptive field by one cutoff."
    )
    max_num_epochs: EpochsField = 200
    time_limit_minutes: TrainingTimeLimitField = None
    batch_size: int = Field(
        5,
        ge=1,
        le=100_000,
        title="Batch size (structures)",
        description="Structures per optimizer step; limited to the number of structures.",
    )
    valid_batch_size: ValidationBatchSizeField = 20
    lr: float = Field(
        0.01, gt=0, le=1, title="Learning rate", description="Initial learning rate of the optimizer (Adam)."
    )
    continued: ContinuedField = None
    energy_weight: EnergyWeightField = 10.0
    forces_weight: ForcesWeightField = 100.0
    stress_weight: StressWeightField = 100.0
    ema: bool = Field(
        True,
        title="Moving average of weights",
        description="Use an exponential moving average of the weights as the result.",
    )
    precision: NetworkPrecisionField = "float64"
    device: TrainingDeviceField = "auto"
    uncertainty: bool = Field(
        True,
        title="Uncertainty",
        description="State an uncertainty of forces, from the features of the network, if there are at least 20 "
        "structures for validation and test. Members of a committee have none of their own.",
    )
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        title="Further options",
        description="Other options of MACE's command line (mace_run_train), by their names without dashes.",
    )

    @model_validator(mode="after")
    def _check_foundation(self) -> "MACEParameters":
        if self.foundation_model is not None and self.foundation_name is not None:
            raise ValueError("expected at most one of foundation_model (a file) and foundation_name; found both")
        if self.replay is not None and not self.is_tuned:
            raise ValueError("found replay data, but no foundation_model that was trained on them; give both, or none")
        if self.replay is None and self.replay_keys != REF_KEYS:
            raise ValueError("found replay_keys, but no replay data; give both, or leave out replay_keys")
        return self

    @property
    def is_tuned(self) -> bool:
        """True if a training begins from a foundation model."""
        return self.foundation_model is not None or self.foundation_name is not None


NOT_OPTIONS = {
    "options",
    "device",
    "uncertainty",
    "continued",
    "time_limit_minutes",
    "foundation_model",
    "foundation_name",
    "replay",
    "replay_keys",
}

# Losses of MACE in which weights of structures are factors. "universal" puts them into the argument of Huber's loss,
# and "huber" takes a stress that is missing for zero.
WEIGHTED_LOSSES = ("weighted", "stress", "forces_only")
# Of what surveyor does not label; virials reach MACE as a stress.
LOSSES_WITHOUT_LABELS = ("virials", "dipole", "dipole_polar", "energy_forces_dipole")

# Options that follow from the data, that are fields above, or on which surveyor relies.
RESERVED = frozenset(
    {
        "name", "seed", "train_file", "valid_file", "E0s", "atomic_numbers", "energy_key", "forces_key", "stress_key",
        "restart_latest", "save_cpu", "plot", "skip_evaluate_heads", "config", "work_dir", "model_dir", "results_dir",
        "checkpoints_dir", "log_dir", "multiheads_finetuning", "pt_train_file", "pt_valid_file", "default_dtype",
        "r_max", "heads", "statistics_file", "error_table", "dry_run", "save_all_checkpoints", "virials_key",
        "config_type_weights",
    }
    | MACEParameters.model_fields.keys()
)  # fmt: skip


def check_options(parameters: MACEParameters) -> None:
    """Check that MACE is installed, and knows the options that are not fields of the parameters.

    Raises:
        InputError: it is not, or does not; or a foundation model cannot be had.
    """
    require_mace()
    foundation_file(parameters)  # so that trainings which begin side by side do not download it at once
    reserved = sorted(RESERVED & parameters.options.keys())
    if reserved:
        raise InputError(
            f"options of MACE: {', '.join(reserved)} cannot be given here; it is a field of its own, or set by surveyor"
            + ("; weights are config_weight in the data" if "config_type_weights" in reserved else "")
        )
    if not parameters.options:
        return
    if parameters.options.get("loss") in LOSSES_WITHOUT_LABELS:
        raise InputError(
            f"options of MACE: loss is {parameters.options['loss']}, but labels are energies, forces and stress "
            "(virials become one); leave it out, or choose another loss"
        )
    text = yaml.safe_dump({**settings_of(parameters, "cpu"), "name": "check", "train_file": "none"})
    complaint = io.StringIO()
    try:
        with engine_kept_quiet(), redirect_stderr(complaint):
            from mace.tools import build_default_arg_parser

            build_default_arg_parser().parse_args([], config_file_contents=text)
    except SystemExit as error:
        last = complaint.getvalue().strip().splitlines()[-1]
        raise InputError(f"options of MACE: {last}; expected options of mace_run_train by their names there") from error


def foundation_file(parameters: MACEParameters) -> Path | None:
    """Return the file of the foundation model, which MACE downloads once where it goes by a name.

    Raises:
        InputError: MACE knows no such name, or the download failed.
    """
    name = parameters.foundation_name
    if name is None:
        return parameters.foundation_model
    with engine_kept_quiet():
        from mace.calculators import foundations_models as known

        names = [each for each in known.mace_mp_names if each is not None]
        if name not in names:
            raise InputError(f"foundation_name: expected one of {', '.join(names)}; found {name}")
        try:
            return Path(known.download_mace_mp_checkpoint(name))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"foundation_name: MACE could not download {name} here ({error}); download it elsewhere, and give its "
                "file as foundation_model"
            ) from error


def require_mace() -> None:
    """Check that MACE is installed."""
    if find_spec("mace") is None:
        raise InputError('this model needs MACE, which is not installed here: pip install "surveyor[mace]"')


def settings_of(
    parameters: MACEParameters, device: str, *, is_continued: bool = False
) -> dict[str, Any]:  # Any: whatever the trainer takes
    """Return the parameters as options of the trainer, by their names there."""
    names = {"r_max_A": "r_max", "precision": "default_dtype"}
    fields = parameters.model_dump(exclude=NOT_OPTIONS)
    settings = {names.get(name, name): value for name, value in fields.items()}
    # The network that comes out is MACE's own, whatever it was trained with.
    kernels = {"enable_cueq": True} if is_used(device) and not parameters.options.get("enable_oeq") else {}
    given = parameters.continued if is_continued else None
    continued = {} if given is None else given.model_dump(exclude_none=True)
    return {**settings, **kernels, "device": device, **parameters.options, **continued}
