"""The entries of a campaign's journal: the decisions, and the inputs on which they depend."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1  # of what the fields mean; a field with a default is added without a new version


class Entry(BaseModel):
    """One line of a journal.

    Attributes:
        IS_DECISION: whether it follows from the entries before it.
        version: of the journal that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    IS_DECISION: ClassVar[bool] = False

    version: int = VERSION


class Continues(Entry):
    """The campaign goes on from a complete generation; nothing that was under way before counts.

    Attributes:
        generation: number of the generation.
        n_labels: number of labels that it has requested.
        round: the last round of its walkers.
        late: names of structures whose labels were requested and had not arrived.
        n_samples: number of samples of each walker in the next round, if an earlier surveyor has decided it.
        n_frames: maximum number of frames to label beside each of them.
        n_good_labels: number of good labels of each walker, see `Walker`; empty if there were no ramps by labels yet.
    """

    entry: Literal["continues"] = "continues"
    generation: int
    n_labels: int
    round: int
    late: tuple[str, ...] = ()
    n_samples: tuple[int, ...] | None = None
    n_frames: int = 0
    n_good_labels: tuple[int, ...] = ()


class RunBegins(Entry):
    """A run begins or continues the campaign, with these parameters; see `surveyor.learning.parameters.Learning`.

    The labels of all samples that no model has learned are requested again, and come from the store.

    Attributes:
        audit_fraction: probability that the label of a sample is an audit; not used by the selector "walkers".
        one_by_one: whether a walker begins each of its samples of a round separately, and takes the newest model; else
            it begins all of them together.
    """

    entry: Literal["run_begins"] = "run_begins"
    n_walkers: int
    n_states: int
    labels_ahead: int
    n_generations: int
    max_labels: int | None = None
    n_frames: int = 0
    seed: int = 0
    select: str = "walkers"
    audit_fraction: float = 0.0
    one_by_one: bool = False


class RoundPlanned(Entry):
    """A round of the walkers is decided.

    Attributes:
        round: its number, from 1.
        n_samples: number of samples of each walker.
        n_frames: maximum number of frames to label beside each sample.
    """

    IS_DECISION: ClassVar[bool] = True

    entry: Literal["round"] = "round"
    round: int
    n_samples: tuple[int, ...]
    n_frames: int = 0


class WalkerBegins(Entry):
    """A walker begins samples of a round.

    Attributes:
        walker: its index.
        round: number of the round.
        generation: whose model moves it.
        is_reset: whether it begins from its start.
        n_good_labels: how many good labels have moved it along its ramp.
        first: number of the first sample in the round, from 0.
        n: how many samples; None for all that are left.
    """

    IS_DECISION: ClassVar[bool] = True

    entry: Literal["walker"] = "walker"
    walker: int
    round: int
    generation: int
    is_reset: bool = False
    n_good_labels: int = 0
    first: int = 0
    n: int | None = None


class SampleReturned(Entry):
    """A walker has returned a sample.

    Attributes:
        name: name of the sample.
        labels: names of the structures to be labelled: the sample, and frames of its trajectory.
        candidates: names of the structures among which a selector chooses. A sample without labels earns one choice.
        is_audit: whether the structure is labelled because the sample was drawn for an audit.
        is_reset: whether a guard has sent the walker back to its start on the way.
    """

    entry: Literal["sample"] = "sample"
    name: str
    labels: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    is_audit: bool = False
    is_reset: bool = False


class LabelPlaces(Entry):
    """The labelling pool takes a number of structures at a time; a selector chooses no more ahead."""

    entry: Literal["places"] = "places"
    n: int


class ChoiceBegins(Entry):
    """A selector chooses structures to be labelled.

    Attributes:
        n: how many.
    """

    IS_DECISION: ClassVar[bool] = True

    entry: Literal["choice"] = "choice"
    n: int


class Chosen(Entry):
    """A selector has chosen structures to be labelled.

    Attributes:
        labels: names of the structures, the best first.
        scores: of the structures, as the selector gives them.
        selector: its name, that of another one if it had failed.
        generation: whose model it has used.
    """

    entry: Literal["chosen"] = "chosen"
    labels: tuple[str, ...]
    scores: tuple[float | None, ...] = ()
    selector: str
    generation: int


class LabelArrived(Entry):
    """A label has arrived, or has failed.

    Attributes:
        name: name of the structure.
        key: of the label.
        failure: why there is none.
    """

    entry: Literal["label"] = "label"
    name: str
    key: str = ""
    failure: str | None = None


class TrainingBegins(Entry):
    """A generation has all its samples: a model is trained on them and all before.

    Attributes:
        generation: number of the generation.
        samples: names of its samples.
    """

    IS_DECISION: ClassVar[bool] = True

    entry: Literal["training"] = "training"
    generation: int
    samples: tuple[str, ...]


class ResetsDue(Entry):
    """Walkers are to be reset, as the model was too far off for these samples of theirs, or a label failed.

    Attributes:
        samples: names of these samples.
        good: names of samples for which it was not, of walkers whose ramp is by labels.
    """

    entry: Literal["resets"] = "resets"
    samples: tuple[str, ...]
    good: tuple[str, ...] = ()


class GenerationEnds(Entry):
    """A generation is complete, or has brought nothing new.

    Attributes:
        generation: number of the newest complete generation.
        n_labels: number of labels that the campaign has requested.
    """

    entry: Literal["generation"] = "generation"
    generation: int
    n_labels: int


class RunEnds(Entry):
    """A run ends the campaign; work under way is not followed up."""

    entry: Literal["run_ends"] = "run_ends"
    reason: str = ""


AnyEntry = Annotated[
    Continues
    | RunBegins
    | RoundPlanned
    | WalkerBegins
    | SampleReturned
    | LabelPlaces
    | ChoiceBegins
    | Chosen
    | LabelArrived
    | TrainingBegins
    | ResetsDue
    | GenerationEnds
    | RunEnds,
    Field(discriminator="entry"),
]
