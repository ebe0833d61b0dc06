"""The kinds of events, and how each stands in a file: as one line, a JSON object.

A line of a kind that this surveyor does not know, because a newer one has written it, is read as an `Event`: a line of
the log.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

# Version of the meaning of the fields. A field with a default is added without a new version; lines without a version
# are of version 1.
VERSION = 2


def _now() -> float:
    return round(time.time(), 3)


class Event(BaseModel):
    """An event; one of no special kind is a line of the log.

    Attributes:
        time: when, in seconds since 1970.
        event: name of the kind in files.
        version: of the surveyor's events that wrote it.
        message: a line for people; empty for none.
        level: of that line, as in `logging`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float = Field(default_factory=_now)
    event: str = "log"
    version: int = VERSION
    message: str = ""
    level: int = logging.INFO

    def to_line(self) -> bytes:
        """Return the event as a line of a file."""
        try:
            line = self.model_dump_json().encode()
        except PydanticSerializationError:  # the name of a file that is no text
            line = json.dumps(self.model_dump(), ensure_ascii=False).encode(errors="replace")
        return line + b"\n"


class CampaignBegins(Event):
    """A campaign is begun or continued, by a run that has a page in Prefect's interface."""

    event: Literal["campaign_begins"] = "campaign_begins"
    url: str | None = None


class CampaignFails(Event):
    """A run of a campaign ends without completing it, for the reason in the message."""

    event: Literal["campaign_fails"] = "campaign_fails"


class CampaignComplete(Event):
    """A campaign is complete, for a reason."""

    event: Literal["campaign_complete"] = "campaign_complete"
    reason: str | None = None


class WorkBegins(Event):
    """A training on files, a benchmark, or a sampling with `n_samples` planned samples, begins or continues."""

    event: Literal["work_begins"] = "work_begins"
    url: str | None = None
    n_samples: int | None = None


class WorkEnds(Event):
    """A sampling or a benchmark is complete; `n_structures` is the number of structures in each file of a sampling."""

    event: Literal["work_ends"] = "work_ends"
    n_structures: Mapping[str, int] = {}


class LabellingBegins(Event):
    """The labelling of a file with `n_structures` structures begins or continues."""

    event: Literal["labelling_begins"] = "labelling_begins"
    url: str | None = None
    n_structures: int = 0


class LabelsRequested(Event):
    """A labelling knows how many different labels it needs, and the keys of those that are in the store."""

    event: Literal["labels_requested"] = "labels_requested"
    n_requested: int = 0
    n_found: int = 0
    found: tuple[str, ...] = ()


class LabellingComplete(Event):
    """The results of a labelling are written."""

    event: Literal["labelling_complete"] = "labelling_complete"


class FileRead(Event):
    """A file of structures was read: which of its fields are used, and which are not."""

    event: Literal["reading"] = "reading"
    file: str = ""
    n_structures: int = 0
    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


class FileSuspicious(Event):
    """Structures of a file look wrong: how many, and the index of the first one."""

    event: Literal["reading_warning"] = "reading_warning"
    level: int = logging.WARNING
    file: str = ""
    n_structures: int = 0
    first: int | None = None


class Waiting(Event):
    """A run waits; the message names the cause, such as a job in a queue."""

    event: Literal["waiting"] = "waiting"


class WaitingEnds(Event):
    """A run no longer waits."""

    event: Literal["waiting_ends"] = "waiting_ends"


class GenerationBegins(Event):
    """A generation with `n_samples` samples begins or continues; 0 is the bootstrap."""

    event: Literal["generation_begins"] = "generation_begins"
    generation: int
    n_samples: int


class GenerationFails(Event):
    """A generation returned no new label."""

    event: Literal["nothing_learned"] = "nothing_learned"
    generation: int


class GenerationComplete(Event):
    """The manifest of a generation is written; `n_labels` is the number of labels of the campaign."""

    event: Literal["generation_complete"] = "generation_complete"
    generation: int
    n_labels: int = 0


class TryRejected(Event):
    """A guard has stopped a walker at one of its tries.

    Attributes:
        name: name of the sample.
        walker: index of the walker.
        reason: the guard.
    """

    event: Literal["try_rejected"] = "try_rejected"
    name: str
    walker: int = 0
    reason: str


class SampleEnds(Event):
    """The sample of a walker has ended, with or without a structure.

    Attributes:
        name: name of the sample.
        walker: index of the walker.
        rejections: number of rejections, by guard.
        stop: the guard that ended the sample early, or None.
    """

    name: str
    walker: int = 0
    rejections: Mapping[str, int] = {}
    stop: str | None = None


class Sampled(SampleEnds):
    """A walker has returned a structure."""

    event: Literal["sampled"] = "sampled"


class Rejected(SampleEnds):
    """Guards have stopped every try of a walker at a sample."""

    event: Literal["rejected"] = "rejected"


class NearDuplicate(Event):
    """A structure is not labelled, as it differs so little from a known one."""

    event: Literal["near_duplicate"] = "near_duplicate"
    name: str
    difference_A: float | None = None


class LabelEnds(Event):
    """The outcome of a label is known.

    Attributes:
        key: of the label.
        new: whether it was computed, and not found in the store.
    """

    key: str
    new: bool = False


class Labelled(LabelEnds):
    """There is a label."""

    event: Literal["labelled"] = "labelled"
    wall_time_s: float = 0.0


class LabelFailed(LabelEnds):
    """A label failed."""

    event: Literal["label_failed"] = "label_failed"
    reason: str = ""


class LabelAwaited(Event):
    """A label is computed by another process, for which this one waits."""

    event: Literal["label_claimed"] = "label_claimed"


class ClaimSilent(Event):
    """A process that computes a label shows no sign of life; it is waited for until a time in seconds since 1970."""

    event: Literal["claim_silent"] = "claim_silent"
    until: float
    holder: str = ""


class TrainingBegins(Event):
    """A training on `n_train` structures begins."""

    event: Literal["training_begins"] = "training_begins"
    n_train: int = 0
    n_valid: int = 0


class EpochEnds(Event):
    """An epoch of a training has ended; for its fields see `surveyor.models.model.Epoch`.

    Attributes:
        training: folder of the training.
        loss: None where it is not a number, for which JSON has no word.
    """

    event: Literal["epoch"] = "epoch"
    number: int
    loss: float | None = None
    energy_rmse: float | None = None
    forces_rmse: float | None = None
    learning_rate: float | None = None
    training_loss: float | None = None
    training: str = ""


class BatchHalved(Event):
    """A batch did not fit into memory; batches are smaller from now on."""

    event: Literal["batch_halved"] = "batch_halved"
    batch_size: int


class NoBetterEpoch(Event):
    """A training has not improved on the network that it began with."""

    event: Literal["no_better_epoch"] = "no_better_epoch"
    level: int = logging.WARNING
    loss: float
    first_loss: float


class CommitteeCalibrated(Event):
    """The disagreement of a committee was compared with its errors; see `surveyor.models.disagreement.Calibration`."""

    event: Literal["calibration"] = "calibration"
    energy: Mapping[str, Any] = {}  # Any: numbers and None
    forces: Mapping[str, Any] = {}


class UncertaintyCalibrated(Event):
    """The uncertainty of a single model was calibrated; `factor` is None if it was not, as there were too few data."""

    event: Literal["uncertainty"] = "uncertainty"
    n_structures: int = 0
    n_expected: int = 0
    factor: float | None = None


class TrainingEnds(Event):
    """A model is trained, after `epochs` epochs."""

    event: Literal["training_ends"] = "training_ends"
    epochs: int | None = None


class ErrorsMeasured(Event):
    """A model was evaluated on a set; see `surveyor.dataset.metrics.Errors`."""

    event: Literal["errors"] = "errors"
    set: str = ""
    errors: Mapping[str, Any] = {}  # Any: numbers, None and one dict


def _kinds(kind: type[Event]) -> Iterator[type[Event]]:
    special = kind.__subclasses__()
    yield from [kind] if not special else chain.from_iterable(map(_kinds, special))


KINDS = {kind.model_fields["event"].default: kind for kind in _kinds(Event)}  # by their names in files


def event_of(record: Mapping[str, Any]) -> Event | None:  # Any: whatever JSON holds
    """Return the event that a line of a file has; None where it has none."""
    name, version = record.get("event"), record.get("version", 1)
    is_known = isinstance(name, str) and isinstance(version, int) and version <= VERSION
    kind = KINDS.get(name, Event) if is_known else Event
    return _validated(kind, record, version) or _validated(Event, record, version)


def _validated(kind: type[Event], record: Mapping[str, Any], version: object) -> Event | None:
    if "event" not in record:
        return None
    found = {name: record[name] for name in kind.model_fields if name in record}
    found["version"] = version
    try:
        return kind.model_validate(found)
    except ValidationError:
        return None
