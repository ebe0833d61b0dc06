"""The choice of a model: its parameters, how it is made, and how a saved one is loaded."""

from pathlib import Path

from pydantic import Field

from surveyor.errors import InputError
from surveyor.models import mace, pair
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters, check_options
from surveyor.models.model import Model
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.record import ModelRecord
from surveyor.parameters import Choice


class ModelParameters(Choice):
    """The kind of model and its hyper-parameters: exactly one kind is given."""

    mace: MACEParameters | None = Field(None, title="MACE", description="Equivariant message-passing potential.")
    pair: PairParameters | None = Field(
        None, title="Pair model", description="Linear model of pairs of atoms: for trying a set-up, not for science."
    )


def make_model(parameters: ModelParameters) -> Model:
    """Return an untrained model, to be initialized with data."""
    match parameters.chosen:
        case MACEParameters() as chosen:
            return MACEModel(chosen)
        case PairParameters() as chosen:
            return PairModel(chosen)
    raise ValueError(f"no model is made from {parameters.chosen!r}")


def check_model_parameters(parameters: ModelParameters) -> None:
    """Check that the engine of the chosen model is installed here and knows its options; ask this where training runs.

    Raises:
        InputError: it is not, or does not.
    """
    if parameters.mace is not None:
        check_options(parameters.mace)


def load_model(directory: Path) -> Model:
    """Return the model that was saved to a folder; its native file is opened only when it is used.

    Args:
        directory: folder with `model.json` and the native file.

    Raises:
        InputError: there is no model, one of an unknown kind, or one that a newer surveyor wrote.
    """
    record = ModelRecord.load(directory)
    match record.kind:
        case mace.KIND:
            return MACEModel.load(directory, record)
        case pair.KIND:
            return PairModel.load(directory, record)
    raise InputError(f"{directory} holds a model of kind {record.kind!r}; expected {mace.KIND} or {pair.KIND}")
