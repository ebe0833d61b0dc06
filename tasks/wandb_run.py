"""A campaign on Weights & Biases: one run, which every generation continues. The only module that needs wandb."""

import hashlib
import logging
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ase import Atoms

from surveyor.campaign import WandB
from surveyor.dataset import FAILURE, KEY, Dataset
from surveyor.errors import InputError
from surveyor.events.kinds import EpochEnds, Event
from surveyor.files import read_json, write_json
from surveyor.learning import structure_error
from surveyor.metrics import Errors
from surveyor.potentials import Prediction
from surveyor.progress import read_comparison
from surveyor.report import write_figures
from surveyor.report.parity import SETS, predicted_set
from surveyor.report.tables import walkers_of
from surveyor.run_directory import RunDirectory, check_schema

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RECORD = "wandb.json"  # in the run directory: the identifier of the run, and what it was told

Row = list[Any]  # Any: numbers, strings and None


def log_generation(directory: RunDirectory, number: int, wandb_parameters: WandB) -> None:
    """Log a generation, and the comparison on the final test set when it is there; each only once.

    A campaign is one run: its identifier is kept in the run directory, so that a continued campaign continues it. In
    mode offline each call leaves a folder in `wandb` in the run directory; `wandb sync` brings them, in order, to the
    one run.

    Args:
        directory: the campaign on disk.
        number: of a complete generation.
        wandb_parameters: project, group and mode.

    Raises:
        InputError: wandb is not installed.
    """
    record = _read_record(directory)
    comparison = read_json(directory.comparison)["test_set"] if directory.comparison.exists() else None
    is_new, is_compared = number not in record["generations"], comparison not in (None, record["comparison"])
    if not (is_new or is_compared):
        return
    wandb = _import_wandb()
    # What was begun is known before it is sent: a killed process leaves no second run behind.
    write_json(directory.path / RECORD, record)
    with _start(wandb, directory, record["id"], wandb_parameters) as run:
        if is_new:
            shown = _tables(wandb, directory, number) | _images(wandb, directory, number)
            run.log(_metrics(directory, number) | shown, step=number)
        if is_compared:
            run.summary.update(_final_errors(read_comparison(directory)))
    generations = sorted({*record["generations"], number})
    write_json(directory.path / RECORD, {**record, "generations": generations, "comparison": comparison})


def _read_record(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    path = directory.path / RECORD
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "id": secrets.token_hex(8), "generations": [], "comparison": None}
    record: dict[str, Any] = read_json(path)
    check_schema(record, path)
    return record


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            'wandb: Weights & Biases is not installed; pip install "surveyor[wandb]", or leave this parameter out'
        ) from error
    return wandb


class TrainingCurves:
    """The trainings of a campaign while they go on: each one, or each member of a committee, is a run of its own.

    They are in the group of the campaign, or else in one that has the name of its run directory.

    Args:
        directory: the campaign on disk.
        wandb_parameters: project, group and mode.
    """

    def __init__(self, directory: RunDirectory, wandb_parameters: WandB) -> None:
        group = wandb_parameters.group or directory.path.name
        self._directory, self._parameters = directory, wandb_parameters.model_copy(update={"group": group})
        self._runs: dict[str, Any] = {}  # Any: runs of wandb
        self._is_broken = False

    def tell(self, event: Event) -> None:
        """Log an epoch; other events are passed over."""
        if self._is_broken or not isinstance(event, EpochEnds):
            return
        try:
            self._log(event)
        except Exception:
            self._is_broken = True
            logger.warning("Weights & Biases does not take the epochs of this training", exc_info=True)

    def _log(self, event: EpochEnds) -> None:
        training = str(Path(event.training).relative_to(self._directory.path))
        if training not in self._runs:
            self._end_others(generation=Path(training).parts[:2])
            # A campaign that was continued goes on in the run of the training that it goes on with.
            identifier = hashlib.sha256(f"{self._directory.path} {training}".encode()).hexdigest()[:16]
            self._runs[training] = _start(_import_wandb(), self._directory, identifier, self._parameters, training)
        errors = Errors(energy_rmse=event.energy_rmse, forces_rmse=event.forces_rmse)
        others = {"loss": event.loss, "learning_rate": event.learning_rate}
        known = _scaled(errors) | {name: value for name, value in others.items() if value is not None}
        self._runs[training].log(known, step=event.number)

    def _end_others(self, generation: tuple[str, ...]) -> None:
        for training in [each for each in self._runs if Path(each).parts[:2] != generation]:
            self._runs.pop(training).finish()

    def close(self) -> None:
        """End the runs."""
        self._end_others(())


def _start(
    wandb: ModuleType, directory: RunDirectory, identifier: str, parameters: WandB, name: str | None = None
) -> Any:  # Any: wandb's run
    return wandb.init(
        project=parameters.project,
        group=parameters.group,
        mode=parameters.mode,
        id=identifier,
        resume="allow",
        reinit="create_new",  # another run in this process is left alone
        name="/".join([directory.path.name, *([name] if name else [])]),
        dir=directory.path,
        config=read_json(directory.parameters)["parameters"],
        # The campaign's log is its own; nothing of the user's code or terminal is sent.
        settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
    )


def _metrics(directory: RunDirectory, number: int) -> dict[str, float]:
    manifest = directory.read_manifest(number)
    details, walkers = manifest["details"], walkers_of(manifest)
    values: dict[str, float | None] = {
        "generation": number,
        "labels": manifest["n_labels"],
        "epochs": details.get("epochs"),
    }
    for name, errors in {"before_training": manifest["before_training"], **manifest["errors"]}.items():
        values |= {f"{name}/{field}": value for field, value in _scaled(Errors(**errors)).items()}
    values |= {f"failures/{reason}": n for reason, n in details.get("failures", {}).items()}
    values |= {f"wall_time_s/{stage}": seconds for stage, seconds in details.get("wall_time_s", {}).items()}
    if walkers:
        values["resets"] = sum(sample["fate"] == "reset" for sample in walkers)
    return {name: value for name, value in values.items() if value is not None}


def _scaled(errors: Errors) -> dict[str, float]:
    """Return the errors that there are, in the units of their names."""
    values = {
        "energy_rmse_meV_per_atom": errors.energy_rmse,
        "energy_mae_meV_per_atom": errors.energy_mae,
        "energy_offset_meV_per_atom": errors.energy_offset,
        "energy_rmse_without_offset_meV_per_atom": errors.energy_rmse_without_offset,
        "forces_rmse_meV_per_A": errors.forces_rmse,
        "forces_mae_meV_per_A": errors.forces_mae,
        "stress_rmse_meV_per_A3": errors.stress_rmse,
        "stress_mae_meV_per_A3": errors.stress_mae,
    }
    return {name: 1e3 * value for name, value in values.items() if value is not None}


def _final_errors(comparison: Mapping[int, Errors]) -> dict[str, float]:
    return {
        f"final_test_set/generation_{number}/{field}": value
        for number, errors in comparison.items()
        for field, value in _scaled(errors).items()
    }


def _tables(wandb: ModuleType, directory: RunDirectory, number: int) -> dict[str, Any]:  # Any: tables of wandb
    generation = directory.generation(number)
    columns = ["index", "formula", "n_atoms", "energy_error_meV_per_atom", "forces_error_meV_per_A", "label_key"]
    tables = {}
    for name in SETS:
        pair = predicted_set(generation, name)
        if pair is not None:
            tables[f"structures/{name}"] = wandb.Table(columns=columns, data=_predicted_rows(*pair))
    failed = Dataset.load(generation.set_file("failed"))
    columns = ["index", "formula", "n_atoms", "reason", "label_key"]
    tables["structures/failed"] = wandb.Table(columns=columns, data=_failed_rows(failed))
    columns = [
        "index",
        "temperature_K",
        "n_steps",
        "n_rejected",
        "energy_error",
        "forces_error",
        "fate",
        "reason",
        "label_key",
    ]
    tables["walkers"] = wandb.Table(columns=columns, data=_walker_rows(walkers_of(directory.read_manifest(number))))
    return tables


def _predicted_rows(structures: Sequence[Atoms], predictions: Sequence[Prediction]) -> list[Row]:
    rows = []
    for index, (atoms, prediction) in enumerate(zip(structures, predictions, strict=True)):
        error = structure_error(atoms, prediction)
        rows.append([index, str(atoms.symbols), len(atoms), error.energy, error.forces, atoms.info.get(KEY)])
    return rows


def _failed_rows(structures: Sequence[Atoms]) -> list[Row]:
    return [
        [index, str(atoms.symbols), len(atoms), atoms.info[FAILURE], atoms.info.get(KEY)]
        for index, atoms in enumerate(structures)
    ]


def _walker_rows(samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    fields = ("temperature_K", "n_steps", "rejections", "energy_error", "forces_error", "fate", "reason", "label_key")
    rows = [[sample["index"], *(sample.get(field) for field in fields)] for sample in samples]
    return [[len(value) if isinstance(value, list) else value for value in row] for row in rows]


def _images(wandb: ModuleType, directory: RunDirectory, number: int) -> dict[str, Any]:  # Any: images of wandb
    return {f"figures/{path.stem}": wandb.Image(str(path)) for path in write_figures(directory, number)}
