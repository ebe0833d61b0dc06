"""Runs on Weights & Biases: how they begin, continue and end. The only module that imports wandb."""

import logging
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.run_directory import RunDirectory, check_schema
from surveyor.works.campaign import WandB

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RECORD = "wandb.json"  # in the run directory: the identifier of the campaign, and which generations were logged
ANSWER_S = 10.0  # for a first answer of the server
CONNECT_S = 30.0  # for the beginning of a run; a server that is away must not hold up a campaign
UPLOAD_S = 120.0  # for what is left to upload when a run ends
LATER = "the same call of the campaign sends the rest once the server takes it"


def import_wandb() -> ModuleType:
    """Return the module wandb.

    Raises:
        InputError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            'wandb: Weights & Biases is not installed; pip install "surveyor[wandb]", or leave this parameter out'
        ) from error
    return wandb


def check_wandb(parameters: WandB | None) -> None:
    """Check, before any work, that a campaign can report to Weights & Biases.

    A server that is away is a warning: what it does not take is written into the run directory.

    Args:
        parameters: of the campaign; None where it does not report there.

    Raises:
        InputError: wandb is not installed, or has no valid API key for the mode online.
    """
    if parameters is None:
        return
    wandb = import_wandb()
    if parameters.mode == "offline" or wandb.run is not None:  # in the user's own run he is logged in
        return
    problem = _silence(wandb)
    try:
        has_key = wandb.login(prompt=False, verify=problem is None)
    except wandb.Error as error:
        raise InputError(f"wandb.mode: online, but the API key is of no use: {error} {_ADVICE}") from None
    if not has_key:
        raise InputError(f"wandb.mode: online, but there is no API key for Weights & Biases. {_ADVICE}")
    if problem is not None:
        logger.warning("Weights & Biases: %s. %s", problem, _GOES_ON)


def _silence(wandb: ModuleType) -> str | None:
    """Return why the server of Weights & Biases does not answer, None if it does."""
    url = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        return None  # an answer, too
    except OSError as error:
        return f"{url} does not answer ({error})"
    return None


_ADVICE = "Run `wandb login`, set WANDB_API_KEY, or choose mode: offline and send the runs later by `wandb sync`."
_GOES_ON = "The campaign goes on; what is not sent is written into its folder `wandb`, for `wandb sync`"


@dataclass(frozen=True, slots=True)
class Logged:
    """The data logged by the sessions of a run.

    Attributes:
        n_steps: number of the step that comes next.
        folders: names of the folders of offline sessions.
    """

    n_steps: int = 0
    folders: tuple[str, ...] = ()


def read_record(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the record of a campaign on Weights & Biases; a new one is written where there is none.

    What was begun is known before it is sent: a killed process leaves no second run behind.
    """
    path = directory.path / RECORD
    if not path.exists():
        empty: dict[str, Any] = {"id": secrets.token_hex(8), "generations": [], "comparison": None}
        write_json(path, {"schema_version": SCHEMA_VERSION, **empty})
    record: dict[str, Any] = read_json(path)
    check_schema(record, path)
    return record


def write_record(directory: RunDirectory, record: Mapping[str, Any]) -> None:  # Any: whatever JSON holds
    """Write the record that `read_record` reads."""
    write_json(directory.path / RECORD, record)


class Session:
    """A run on Weights & Biases, as long as a process logs to it; to be used in a `with` statement.

    A session logs the steps from `first_step` on, so that no kill loses or repeats one. Online, these are the steps
    that the server lacks. Offline, they are those that no earlier session is known to have logged: each session is a
    folder, and `wandb sync` appends one after the other. What an interrupted session has left is removed, unless it was
    synced meanwhile.

    Args:
        directory: the campaign on disk.
        parameters: project, group and mode. Without a group it is the name of the run directory.
        identifier: of the run.
        job_type: what the run is about, such as "training".
        logged: by earlier sessions of the run.
        name: of the run within the campaign; None for the campaign itself.
    """

    def __init__(
        self,
        directory: RunDirectory,
        parameters: WandB,
        identifier: str,
        job_type: str,
        logged: Logged,
        name: str | None = None,
    ) -> None:
        self._wandb = import_wandb()
        options = {
            "project": parameters.project,
            "group": parameters.group or directory.path.name,
            "job_type": job_type,
            "id": identifier,
            "resume": "allow",
            "reinit": "create_new",  # another run in this process is left alone
            "name": "/".join([directory.path.name, *([name] if name else [])]),
            "dir": directory.path,
            "config": read_json(directory.parameters)["parameters"],
        }
        is_online = parameters.mode == "online" and self._answers(options["name"])
        # The server is sent all that it lacks, so that no folder has to be synced any more.
        remove_unsent(directory, identifier, keep=() if is_online else logged.folders)
        self._run = self._begin("online" if is_online else "offline", options)
        self.first_step: int = self._run.starting_step if is_online else logged.n_steps
        self._folders = logged.folders if is_online else (*logged.folders, Path(self._run.dir).parent.name)
        self._n_steps = self.first_step
        self.logged: Logged | None = None

    def _answers(self, name: str) -> bool:
        # Asked first, as an attempt to begin a run that fails keeps its identifier from others.
        if problem := _silence(self._wandb):
            logger.warning("Weights & Biases: %s; %s is logged offline, for `wandb sync`", problem, name)
        return problem is None

    def _begin(self, mode: str, options: Mapping[str, Any]) -> Any:  # Any: wandb's options and its run
        # The campaign's log is its own; nothing of the user's code or terminal is sent.
        settings = {"console": "off", "disable_git": True, "disable_code": True, "silent": True}
        limits = {"init_timeout": CONNECT_S, "finish_timeout": UPLOAD_S, "finish_timeout_raises": True}
        return self._wandb.init(mode=mode, settings=self._wandb.Settings(**settings, **limits), **options)

    def log(self, step: int, values: Mapping[str, Any]) -> None:  # Any: numbers, tables and images of wandb
        """Log a step at once; steps are logged in their order, each once."""
        self._run.log(dict(values), step=step, commit=True)
        self._n_steps = step + 1

    def summarize(self, values: Mapping[str, float | str]) -> None:
        """Put values into the summary of the run."""
        self._run.summary.update(dict(values))

    def close(self) -> None:
        """End the run; then `logged` describes the data of all sessions, None if the service did not take all."""
        try:
            self._run.finish()
        except TimeoutError:
            logger.warning("Weights & Biases does not take all of %s in time; %s", self._run.name, LATER)
        else:
            self.logged = Logged(self._n_steps, self._folders)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def offline_folders(directory: RunDirectory, identifier: str) -> list[Path]:
    """Return the folders of the offline sessions of a run."""
    return sorted((directory.path / "wandb").glob(f"offline-run-*-{identifier}"))


def remove_unsent(directory: RunDirectory, identifier: str, keep: Collection[str]) -> None:
    """Remove folders of the offline sessions of a run that were not synced.

    Args:
        directory: the campaign on disk.
        identifier: of the run.
        keep: names of folders that stay.
    """
    for folder in offline_folders(directory, identifier):
        if folder.name not in keep and not any(folder.glob("*.wandb.synced")):
            shutil.rmtree(folder, ignore_errors=True)
