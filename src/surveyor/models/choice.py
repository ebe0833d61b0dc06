"""The choice of a model: its parameters, how it is made, and how a saved one is loaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar

from pydantic import Field

from surveyor.dataset.isolated_atoms import without_isolated_atoms
from surveyor.errors import InputError
from surveyor.models import committee
from surveyor.models.committee import CommitteeModel
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters, check_options
from surveyor.models.model import Model
from surveyor.models.nequip import NequIPModel
from surveyor.models.nequip_check import check_nequip
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.pair import PairModel, PairParameters
from surveyor.models.record import ModelRecord
from surveyor.models.single_model import SingleModel
from surveyor.models.weights import check_weights
from surveyor.parameters import Choice, Parameters
from surveyor.reading import ReadingReport, read_labelled
from surveyor.reading.learnable import learnable


class MemberParameters(Choice):
    """The kind of model and its hyper-parameters: exactly one kind is given."""

    mace: MACEParameters | None = Field(None, title="MACE", description="Equivariant message-passing potential.")
    nequip: NequIPParameters | None = Field(
        None,
        title="NequIP",
        description="Equivariant message-passing potential; accepts a complete NequIP configuration.",
    )
    pair: PairParameters | None = Field(
        None, title="Pair model", description="Linear model of atomic pairs, to test a set-up; not for science."
    )


class CommitteeParameters(Parameters):
    """Several models of one kind, whose disagreement shows where they lack data."""

    n_members: int = Field(
        4,
        ge=2,
        le=100,
        title="Members",
        description="Number of models, each with its own seed; they are trained in parallel.",
    )
    resample: bool = Field(
        False,
        title="Resample the data",
        description="Train each member on a bootstrap sample of the data: as many structures, drawn with replacement.",
    )
    member: MemberParameters = Field(title="Member", description="The model of each member.")


class ModelParameters(MemberParameters):
    """The kind of model and its hyper-parameters: exactly one kind is given."""

    committee: CommitteeParameters | None = Field(
        None, title="Committee", description="Several models of one kind, whose disagreement estimates the error."
    )

    @property
    def of_each(self) -> MemberParameters:
        """The parameters of a single model: of each member where this is a committee."""
        return self if self.committee is None else self.committee.member

    def with_each(self, **chosen: Parameters) -> Self:
        """Return the parameters with other ones of the single model, or of each member."""
        if self.committee is None:
            return self.model_copy(update=chosen)
        committee = self.committee.model_copy(update={"member": self.committee.member.model_copy(update=chosen)})
        return self.model_copy(update={"committee": committee})

    @property
    def needs_validation(self) -> bool:
        """True if a training chooses the best epoch by structures that are held out."""
        return self.of_each.pair is None


M = TypeVar("M", bound=MemberParameters)


def make_model(parameters: MemberParameters) -> Model:
    """Return an untrained model, to be initialized with data."""
    match parameters.chosen:
        case CommitteeParameters() as chosen:
            member = make_model(without_uncertainty(chosen.member))
            return CommitteeModel(chosen, (member,) * chosen.n_members, chosen.resample)
        case MACEParameters() as chosen:
            return MACEModel(chosen)
        case NequIPParameters() as chosen:
            return NequIPModel(chosen.with_contents())
        case PairParameters() as chosen:
            return PairModel(chosen)
    raise ValueError(f"no model is made from {parameters.chosen!r}")


def without_uncertainty(parameters: M) -> M:
    """Return the parameters of a model that states no uncertainty of its own."""
    chosen = {name: getattr(parameters, name) for name in ("mace", "nequip")}
    off = {name: each.model_copy(update={"uncertainty": False}) for name, each in chosen.items() if each is not None}
    return parameters.model_copy(update=off)


def why_no_uncertainty(model: Model) -> str | None:
    """Return why a model will not state an uncertainty; None if it does, or may after a training."""
    if not isinstance(model, SingleModel):
        return None  # a committee, or a model of others
    if "uncertainty" not in type(model.parameters).model_fields:
        return f"a single {model.ENGINE} model states no uncertainty"
    if not model.may_state_uncertainty:
        return "the model is to state no uncertainty (uncertainty: false, or begun with an earlier surveyor)"
    if model.is_trained and model.uncertainty_file is None:
        return "the model states no uncertainty, as there were too few structures to calibrate it"
    return None


def with_contents(parameters: ModelParameters) -> ModelParameters:
    """Return parameters that hold the contents of their files, for a pool that may not see these files.

    Raises:
        InputError: a file cannot be read.
    """
    chosen = parameters.of_each.nequip
    return parameters if chosen is None else parameters.with_each(nequip=chosen.with_contents())


def check_model_parameters(parameters: ModelParameters, features_for: str = "") -> None:
    """Check that the engine of the chosen model is installed here and knows its options; ask this where training runs.

    Args:
        parameters: of the model.
        features_for: the setting that needs the features of the model, such as "learning.select: informative".

    Raises:
        InputError: it is not, or does not; or the model does not show its features.
    """
    chosen = parameters.of_each if parameters.committee is None else without_uncertainty(parameters.of_each)
    if chosen.mace is not None:
        check_options(chosen.mace)
    if chosen.nequip is not None:
        check_nequip(chosen.nequip, features_for)


def replay_reports(parameters: ModelParameters | None, elements: Iterable[str]) -> tuple[ReadingReport, ...]:
    """Read the replay data of MACE, and return the report on them; nothing where the model has none.

    Args:
        parameters: of the model.
        elements: of the data; structures with others are not replayed.

    Raises:
        InputError: the file cannot be used, or structures that are replayed have weights, which the loss with replay
            data does not take.
    """
    mace = None if parameters is None else parameters.of_each.mace
    if mace is None or mace.replay is None:
        return ()
    reading = read_labelled(mace.replay, "replay", keys=mace.replay_keys, keys_field="replay_keys")
    known = {*elements}
    replayed = without_isolated_atoms(atoms for atoms in reading.structures if known.issuperset(atoms.symbols))
    check_weights(MACEModel(mace), replayed, "replay")
    return (learnable({"replay": reading})["replay"].report,)


def load_model(directory: Path | str) -> Model:
    """Return the model that was saved to a folder; its native file is opened only when it is used.

    Args:
        directory: folder with `model.json` and the native file.

    Raises:
        InputError: there is no model, one of an unknown kind, or one that a newer surveyor wrote.
    """
    directory = Path(directory)
    record = ModelRecord.load(directory)
    match record.kind:
        case MACEModel.KIND:
            return MACEModel.load(directory, record, MACEParameters)
        case NequIPModel.KIND:
            return NequIPModel.load(directory, record, NequIPParameters)
        case PairModel.KIND:
            return PairModel.load(directory, record, PairParameters)
        case committee.KIND:
            chosen = CommitteeParameters.model_validate(record.parameters)
            return CommitteeModel.load(
                directory,
                record,
                parameters=chosen,
                resample=chosen.resample,
                n_members=chosen.n_members,
                load_member=load_model,
            )
    kinds = f"{MACEModel.KIND}, {NequIPModel.KIND}, {PairModel.KIND} or {committee.KIND}"
    raise InputError(f"{directory} holds a model of kind {record.kind!r}; expected {kinds}")
