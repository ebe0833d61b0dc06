"""The history of a training, as events while it runs and as a file beside the trained model."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from surveyor.events.kinds import EpochEnds
from surveyor.events.log import EventLog, of_kind
from surveyor.events.recording import announce
from surveyor.files import patiently, write_json
from surveyor.models.model import EVENTS, Epoch

logger = logging.getLogger(__name__)

HISTORY = "history.json"  # beside a saved model
MEMBERS = "members"  # in the directory of the training of a committee


def report_epoch(directory: Path, epoch: Epoch) -> None:
    """Append an epoch to the events in the directory of a training, and announce it."""
    member = f"member {directory.name}, " if directory.parent.name == MEMBERS else ""
    announce(logger, keep_epoch(directory, epoch, member + _line(epoch)))


def keep_epoch(directory: Path, epoch: Epoch, message: str = "") -> EpochEnds:
    """Append an epoch to the events in the directory of a training, and return the event.

    Raises:
        StorageFailed: the disk stays full.
    """
    event = EpochEnds(message=message, training=str(directory), **epoch_to_json(epoch))
    events = EventLog(directory / EVENTS)
    patiently(partial(events.append, event), events.path)
    return event


def _line(epoch: Epoch) -> str:
    energy = "" if epoch.energy_rmse is None else f", energy {1e3 * epoch.energy_rmse:.2f} meV/atom"
    forces = "" if epoch.forces_rmse is None else f", forces {1e3 * epoch.forces_rmse:.1f} meV/Å"
    return f"epoch {epoch.number + 1}: loss {epoch.loss:.4g}{energy}{forces}"


def reported_epochs(directory: Path) -> list[Epoch]:
    """Return all epochs that were reported in the directory of a training, in the order of the reports."""
    events, _ = EventLog(directory / EVENTS).read()
    return [epoch_of(event) for event in of_kind(events, EpochEnds)]


def epoch_of(event: EpochEnds) -> Epoch:
    """Return the epoch that has ended."""
    return _from_json(event.model_dump())


def history_of(directory: Path) -> tuple[Epoch, ...]:
    """Return the epochs of a training by number; one that was repeated after a restart counts as it was repeated."""
    epochs = {epoch.number: epoch for epoch in reported_epochs(directory)}
    return tuple(epochs[number] for number in sorted(epochs))


def save_history(directory: Path, epochs: Iterable[Epoch]) -> None:
    """Write the history of a training beside its model."""
    write_json(directory / HISTORY, [epoch_to_json(epoch) for epoch in epochs])


def load_history(directory: Path) -> tuple[Epoch, ...]:
    """Load the history that `save_history` wrote."""
    return tuple(_from_json(record) for record in json.loads((directory / HISTORY).read_text()))


def epoch_to_json(epoch: Epoch) -> dict[str, Any]:  # Any: numbers and None
    """Return an epoch as JSON can hold it."""
    # JSON has no NaN, which is what the loss of a training that diverges becomes.
    return {
        name: value if value is not None and math.isfinite(value) else None for name, value in asdict(epoch).items()
    }


def _from_json(record: Mapping[str, Any]) -> Epoch:
    known = {each.name: record.get(each.name) for each in fields(Epoch)}
    return Epoch(**known | {"loss": math.nan if known["loss"] is None else known["loss"]})
