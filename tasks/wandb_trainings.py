"""Trainings on Weights & Biases: a run for each training, or each member of a committee, with a step for each epoch."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from surveyor.events.kinds import EpochEnds, Event, GenerationComplete
from surveyor.files import read_json, write_json
from surveyor.models.history import MEMBERS, history_of
from surveyor.models.model import EVENTS, Epoch
from surveyor.run_directory import RunDirectory, check_schema
from surveyor.tasks.wandb_session import Logged, Session, read_record
from surveyor.works.campaign import WandB

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RECORD = "wandb-trainings.json"  # in the run directory: which epochs of each training were logged
JOB_TYPE = "training"


class TrainingCurves:
    """The trainings of a campaign: logged while they go on in mode online, else when they end.

    The epochs come from the folders of the trainings: what happened while no campaign watched is logged by the next
    one, and an epoch that a training repeats after a restart is logged once. A thread of its own logs, so that nothing
    waits for Weights & Biases but the end of the campaign.

    Args:
        directory: the campaign on disk.
        wandb_parameters: project, group and mode.
    """

    def __init__(self, directory: RunDirectory, wandb_parameters: WandB) -> None:
        self._directory, self._parameters = directory, wandb_parameters
        self._campaign = read_record(directory)["id"]
        self._curves: dict[str, _Curve] = {}
        self._is_broken = False
        self._thread = ThreadPoolExecutor(1, "wandb")

    def on_event(self, event: Event) -> None:
        """Log an event, and return at once. Events that are of no interest here are passed over."""
        if isinstance(event, EpochEnds) and event.training:
            self._thread.submit(self._safely, self._follow_live, Path(event.training))
        elif isinstance(event, GenerationComplete):
            self._thread.submit(self._safely, self._end_curves)

    def close(self) -> None:
        """Log the remaining data, and end the runs."""
        self._thread.submit(self._safely, self._end_curves)
        self._thread.shutdown()

    def _safely(self, work: Callable[..., None], *arguments: Path) -> None:
        if self._is_broken:
            return
        try:
            work(*arguments)
        except Exception:
            self._is_broken = True
            logger.warning("Weights & Biases does not take the epochs of this training", exc_info=True)

    def _follow_live(self, folder: Path) -> None:
        if self._parameters.mode == "online":  # offline, a training is logged when it ends, as a whole
            self._log(folder)

    def _log(self, folder: Path) -> None:
        training = self._name(folder)
        if training not in self._curves:
            identifier = f"{self._campaign}-{hashlib.sha256(training.encode()).hexdigest()[:8]}"
            logged = self._read_record().get(training, Logged())
            session = Session(self._directory, self._parameters, identifier, JOB_TYPE, logged, training)
            self._curves[training] = _Curve(folder, session)
        self._curves[training].log_new_epochs()

    def _name(self, folder: Path) -> str:
        return str(folder.relative_to(self._directory.path))

    def _end_curves(self) -> None:
        """Log all epochs that no process has logged, and end the runs of their trainings."""
        record = self._read_record()
        for folder in self._folders():
            if n_epochs(folder) > record.get(self._name(folder), Logged()).n_steps:
                self._log(folder)
        while self._curves:
            training, curve = self._curves.popitem()
            curve.session.close()
            if curve.session.logged is not None:
                record[training] = curve.session.logged
                self._write_record(record)

    def _folders(self) -> list[Path]:
        folders = [path.parent for path in self._directory.path.glob(f"generations/*/training/**/{EVENTS}")]
        # The epochs of a committee are means over its members, each of which has a run of its own.
        return sorted(folder for folder in folders if not (folder / MEMBERS).exists())

    def _read_record(self) -> dict[str, Logged]:
        if not self._record.exists():
            return {}
        record = read_json(self._record)
        check_schema(record, self._record)
        return {name: Logged(each["n_steps"], tuple(each["folders"])) for name, each in record["trainings"].items()}

    def _write_record(self, record: Mapping[str, Logged]) -> None:
        trainings = {name: asdict(each) for name, each in record.items()}
        write_json(self._record, {"schema_version": SCHEMA_VERSION, "trainings": trainings})

    @property
    def _record(self) -> Path:
        return self._directory.path / RECORD


@dataclass(slots=True)
class _Curve:
    """The run of a training, and the folder of the training."""

    folder: Path
    session: Session
    next_step: int = field(init=False)

    def __post_init__(self) -> None:
        self.next_step = self.session.first_step

    def log_new_epochs(self) -> None:
        for epoch in history_of(self.folder):
            if epoch.number >= self.next_step:
                self.session.log(epoch.number, _values(epoch))
                self.next_step = epoch.number + 1


def n_epochs(folder: Path) -> int:
    """Return how many epochs a training has gone through."""
    return max((epoch.number + 1 for epoch in history_of(folder)), default=0)


def _values(epoch: Epoch) -> dict[str, float]:
    """Return the known values of an epoch, in the units of their names; losses are in those of the engine."""
    values = {
        "train/loss": epoch.training_loss,
        "valid/loss": epoch.loss,
        "valid/energy_rmse_meV_per_atom": None if epoch.energy_rmse is None else 1e3 * epoch.energy_rmse,
        "valid/forces_rmse_meV_per_A": None if epoch.forces_rmse is None else 1e3 * epoch.forces_rmse,
        "learning_rate": epoch.learning_rate,
    }
    return {name: value for name, value in values.items() if value is not None}
