"""A campaign on Weights & Biases: a run for the campaign, with a step for each generation."""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ase import Atoms

from surveyor.dataset import FAILURE, KEY, Dataset
from surveyor.dataset.metrics import Errors, structure_error
from surveyor.files import read_json
from surveyor.potentials import Prediction
from surveyor.progress import read_comparison, read_trust
from surveyor.report import write_figures
from surveyor.report.parity import SETS, predicted_set
from surveyor.report.tables import walkers_of
from surveyor.run_directory import RunDirectory
from surveyor.tasks.wandb_session import Logged, Session, import_wandb, offline_folders, read_record, write_record
from surveyor.works.campaign import WandB

JOB_TYPE = "campaign"

Row = list[Any]  # Any: numbers, strings and None


def log_generation(directory: RunDirectory, number: int, wandb_parameters: WandB) -> None:
    """Log a generation, and the comparison on the final test set when it is there; nothing if both are logged already.

    A campaign is one run: its identifier is kept in the run directory. All generations up to this one are logged that
    the run lacks; see `Session`.

    Args:
        directory: the campaign on disk.
        number: of a complete generation.
        wandb_parameters: project, group and mode.

    Raises:
        InputError: wandb is not installed.
    """
    record = read_record(directory)
    comparison = read_json(directory.comparison)["test_set"] if directory.comparison.exists() else None
    if number in record["generations"] and comparison in (None, record["comparison"]):
        return
    wandb = import_wandb()
    generations = sorted({*record["generations"], number})
    with Session(directory, wandb_parameters, record["id"], JOB_TYPE, _logged(directory, record)) as session:
        for each in range(session.first_step, generations[-1] + 1):
            media = _tables(wandb, directory, each) | _images(wandb, directory, each)
            session.log(each, _metrics(directory, each) | media)
        if comparison is not None:
            session.summarize(_final_errors(read_comparison(directory)) | _trust(directory))
    if session.logged is not None:
        logged = {"generations": generations, "comparison": comparison, "folders": session.logged.folders}
        write_record(directory, record | logged)


def _logged(directory: RunDirectory, record: Mapping[str, Any]) -> Logged:  # Any: whatever JSON holds
    # A record of an older surveyor does not name the folders: each held a generation.
    former = [folder.name for folder in offline_folders(directory, record["id"])]
    is_new = not record["generations"]
    folders = record.get("folders", [] if is_new else former)
    return Logged(0 if is_new else max(record["generations"]) + 1, tuple(folders))


def _metrics(directory: RunDirectory, number: int) -> dict[str, float]:
    manifest = directory.read_manifest(number)
    details, walkers = manifest["details"], walkers_of(manifest)
    values: dict[str, float | None] = {
        "generation": number,
        "labels": manifest["n_labels"],
        "discarded": list(manifest["labels"].values()).count("discarded"),
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


def _trust(directory: RunDirectory) -> dict[str, float | str]:
    """Return how far the potential can be trusted: in words, and the intervals of each group of walkers in numbers."""
    trust = read_trust(directory)
    values: dict[str, float | str] = {"trust": "\n".join(trust.lines)}
    for number, statement in enumerate(trust.statements, 1):
        evidence = statement.evidence
        found = {"forces_rmse_meV_per_A": evidence.forces, "energy_rmse_meV_per_atom": evidence.energy}
        for name, estimate in found.items():
            if estimate is not None:
                ends = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
                values |= {f"audits/group_{number}/{name}{end}": value for end, value in ends.items()}
    return values


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
    columns, rows = _walker_table(walkers_of(directory.read_manifest(number)))
    tables["walkers"] = wandb.Table(columns=columns, data=rows)
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


def _walker_table(samples: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Row]]:
    """Return columns and rows of the walkers; those of ramps and windows only where there are any."""
    rows = [_walker_row(sample) for sample in samples]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[row.get(name) for name in columns] for row in rows]


def _walker_row(sample: Mapping[str, Any]) -> dict[str, Any]:  # Any: numbers, strings and None
    return {
        "index": sample["index"],
        "temperature_K": sample.get("temperature_K"),
        "n_steps": sample.get("n_steps"),
        "n_rejected": len(sample.get("rejections", ())),
        "energy_error_meV_per_atom": sample.get("energy_error"),
        "forces_error_meV_per_A": sample.get("forces_error"),
        "fate": sample.get("fate"),
        "reason": sample.get("reason"),
        "label_key": sample.get("label_key"),
        **{f"ramp_{name}": value for name, value in (sample.get("ramp") or {}).items()},
        **{f"window_{name}": value for name, value in (sample.get("window") or {}).items()},
    }


def _images(wandb: ModuleType, directory: RunDirectory, number: int) -> dict[str, Any]:  # Any: images of wandb
    drawn = sorted(directory.generation(number).figures.glob("*.png"))
    return {f"figures/{path.stem}": wandb.Image(str(path)) for path in drawn or write_figures(directory, number)}
