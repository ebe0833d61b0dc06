"""Export of saved models to files for other programs."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from surveyor.errors import InputError
from surveyor.files import publish
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.devices import resolve_device
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import require_mace
from surveyor.models.nequip import NequIPModel
from surveyor.models.nequip_parameters import require_nequip
from surveyor.models.nequip_trainer import compiling
from surveyor.programs.program import run_program

Format = Literal["ase", "lammps"]

PACKAGE, COMPILED = ".nequip.zip", ".nequip.pt2"  # as NequIP's programs ask for them


def export_model(folder: Path, destination: Path, format_: Format) -> None:
    """Write a model in the format of another program.

    Args:
        folder: folder of the saved model.
        destination: file to write, which must not exist. For NequIP its name decides between a package
            (.nequip.zip) and a compiled potential (.nequip.pt2).
        format_: "ase" for the file that the engine's calculator loads; "lammps" for the file that the engine's tool
            writes for LAMMPS.

    Raises:
        InputError: the model does not have this format, or the file exists.
    """
    if destination.exists():
        raise InputError(f"{destination} exists already; give another name, or delete it")
    model = load_model(folder)
    if isinstance(model, CommitteeModel):
        raise InputError(f"{folder} holds a committee; export one of its members, such as {folder / 'member-0'}")
    if not isinstance(model, MACEModel | NequIPModel):
        raise InputError(
            f"{folder} holds a {type(model).__name__}, which no other program can use; expected one of MACE or NequIP"
        )
    if isinstance(model, NequIPModel):
        _check_name(destination, format_)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=destination.parent) as name:
        native = Path(name) / model.network.name
        shutil.copyfile(model.network, native)
        if isinstance(model, NequIPModel):
            publish(_compiled(native, model, format_) if _is_compiled(destination) else native, destination)
        else:
            publish(native if format_ == "ase" else _for_lammps(native, model), destination)


def _for_lammps(native: Path, model: MACEModel) -> Path:
    """Return the file that the tool of MACE makes, for `pair_style mace`."""
    require_mace()
    tool = [sys.executable, "-m", "mace.cli.create_lammps_model"]
    made = native.with_name(f"{native.name}-lammps.pt")
    return _made([*tool, native.name, "--dtype", model.parameters.precision], made, "MACE")


def _check_name(destination: Path, format_: Format) -> None:
    """Check that a file of NequIP has a name that its programs take."""
    names = (PACKAGE, COMPILED) if format_ == "ase" else (COMPILED,)
    if not destination.name.endswith(names):
        raise InputError(f"{destination}: for a model of NequIP, expected a name that ends with {' or '.join(names)}")


def _is_compiled(destination: Path) -> bool:
    return destination.name.endswith(COMPILED)


def _compiled(native: Path, model: NequIPModel, format_: Format) -> Path:
    """Return the file compiled by NequIP's tool, for its calculator or `pair_style nequip`, and machines like this."""
    require_nequip()
    made = native.with_name(f"compiled{COMPILED}")
    target = "ase" if format_ == "ase" else "pair_nequip"
    return _made(compiling(native, made, resolve_device(model.parameters.device), target), made, "NequIP")


def _made(command: Sequence[str], made: Path, engine: str) -> Path:
    """Run a tool, and return the file that it made."""
    log = made.with_suffix(".log")
    result = run_program(command, directory=made.parent, output=log)
    if result.returncode != 0 or not made.is_file():
        last = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
        raise InputError(f"{engine}'s tool made no file:\n{last}")
    return made
