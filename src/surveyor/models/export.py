"""Files that other programs take, from saved models."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Literal

from surveyor.errors import InputError
from surveyor.files import publish
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import require_mace
from surveyor.models.record import RECORD
from surveyor.programs import run_program
from surveyor.run_directory import RunDirectory

Format = Literal["ase", "lammps"]


def folder_of_model(path: Path) -> Path:
    """Return the folder of a saved model: this one, or that of the newest model of a campaign or a training.

    Raises:
        InputError: there is none.
    """
    directory = RunDirectory(path.absolute())
    newest = directory.n_complete() - 1
    folders = [path, path / "model", *([directory.generation(newest).model] if newest >= 0 else [])]
    for folder in folders:
        if (folder / RECORD).is_file():
            return folder
    raise InputError(
        f"{path}: found no model; expected the folder of a saved model, the run directory of a campaign with a "
        "complete generation, or the output directory of a training"
    )


def export_model(folder: Path, destination: Path, format_: Format) -> None:
    """Write a model in the form that another program takes.

    Args:
        folder: of the saved model.
        destination: file to write; there is none yet.
        format_: "ase" for the native file, which the calculator of the engine loads; "lammps" for the file that its
            tool makes for LAMMPS.

    Raises:
        InputError: the model has no such form, or there is a file already.
    """
    if destination.exists():
        raise InputError(f"{destination} exists already; give another name, or delete it")
    model = load_model(folder)
    if isinstance(model, CommitteeModel):
        raise InputError(f"{folder} holds a committee; export one of its members, such as {folder / 'member-0'}")
    if not isinstance(model, MACEModel) or model.weights is None:
        raise InputError(
            f"{folder} holds a {type(model).__name__}, which no other program can use; expected a MACE model"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=destination.parent) as name:
        native = Path(name) / "mace.model"
        shutil.copyfile(model.weights, native)
        publish(native if format_ == "ase" else _for_lammps(native, model), destination)


def _for_lammps(native: Path, model: MACEModel) -> Path:
    """Return the file that the tool of MACE makes, for `pair_style mace`."""
    require_mace()
    tool = [sys.executable, "-m", "mace.cli.create_lammps_model"]
    log = native.with_suffix(".log")
    command = [*tool, native.name, "--dtype", model.parameters.precision]
    result = run_program(command, directory=native.parent, output=log)
    made = native.with_name(f"{native.name}-lammps.pt")
    if result.returncode != 0 or not made.is_file():
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise InputError(f"MACE's tool made no file for LAMMPS:\n{last}")
    return made
