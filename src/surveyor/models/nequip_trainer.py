"""Running the trainer of NequIP: `nequip-train` in a process of its own, which continues where it was killed.

It reads one configuration, appends the errors of each epoch to a file, and saves the best and the newest epoch. From
the best one, NequIP makes a package: a file that holds the network with its code. For evaluation that is compiled.
"""

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from ase import Atoms

from surveyor.dataset import Dataset
from surveyor.dataset.weights import counted, has_stress
from surveyor.files import publish, write_atomically
from surveyor.models.devices import resolve_device
from surveyor.models.fitted_energies import FITTED, energies_after, save_energies
from surveyor.models.model import Epoch
from surveyor.models.nequip_config import (
    BEST,
    EPOCHS,
    LAST,
    Supplied,
    Tree,
    configuration,
    file_given,
    knowing,
    read_config,
)
from surveyor.models.nequip_energies import fit_energies
from surveyor.models.nequip_network import TARGET, compiled_file, describe
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.models.plausibility import Beginning, from_foundation, from_scratch, from_weights
from surveyor.models.trainer import (
    BEFORE,
    LOG,
    TRAIN_FILE,
    VALID_FILE,
    Record,
    Trainer,
    check_not_killed,
    failed,
    run_trainer,
    training_copy,
)
from surveyor.programs.program import run_program
from surveyor.structures import is_periodic

logger = logging.getLogger(__name__)

PROGRAM = ("-m", "surveyor.models.nequip_program")
CONFIGURATION = "config.yaml"
LOADERS = {"batch_size": "train_dataloader", "valid_batch_size": "val_dataloader"}
PACKAGE_LOG, COMPILE_LOG = "package.log", "compile.log"
NETWORK = "model.nequip.zip"  # the native file, there when the training is complete
MARGIN_A = 10.0  # around a structure without a cell
# Atoms, edges and structures at once. Without a bound, torch's compiler may count what a GPU does in 32 bits: it only
# looks whether these suffice for the example.
LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TrainerInput:
    """The inputs of a training other than parameters and data.

    Attributes:
        atomic_energies: atomic energies in eV by chemical symbol.
        seed: seed of the weights and of the order of batches.
        start: package from whose weights the training starts; None for new weights.
        fits: elements whose atomic energies are fitted again if the configuration loads its network from a file.
    """

    atomic_energies: Mapping[str, float]
    seed: int
    start: Path | None = None
    fits: Sequence[str] = ()


def run_training(
    parameters: NequIPParameters, training: TrainerInput, train: Dataset, valid: Dataset, directory: Path
) -> Path:
    """Train a network, and return its package.

    A training that was killed continues after the last complete epoch, as if it had not been; a complete one is not
    repeated.

    Raises:
        InputError: the configuration contradicts what surveyor gives.
        TrainingFailed: the trainer ended without a network, or its loss was never a number.
    """
    network = directory.absolute() / NETWORK
    device = resolve_device(parameters.device)
    train, valid = counted(train), counted(valid)
    if not network.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        beginning = replace(
            _beginning(parameters, training, train),
            learns_forces=parameters.config_text is not None or parameters.forces_weight > 0,
        )
        supplied = Supplied(
            atomic_energies=_energies(parameters, training, train, device, directory),
            seed=training.seed,
            device=device,
            has_stress=(any(map(has_stress, train)), any(map(has_stress, valid))),
            start=training.start,
            time_limit_minutes=parameters.time_limit_minutes,
            highest=beginning.highest,
        )
        options = configuration(parameters, supplied, describe)
        Dataset(_boxed(training_copy(atoms)) for atoms in train).save(directory / TRAIN_FILE)
        Dataset(_boxed(training_copy(atoms)) for atoms in valid).save(directory / VALID_FILE)
        sizes = {name: options["data"][loader]["batch_size"] for name, loader in LOADERS.items()}
        trainer = Trainer("NequIP", directory, directory / EPOCHS, _errors)
        run_trainer(lambda fit: _run_program(options, fit, directory), sizes, trainer, beginning)
        publish(_packaged(directory), network)
        (directory / f"{LAST}.ckpt").unlink(missing_ok=True)
    if parameters.is_compiled:
        _compile(network, device)
    return network


def _beginning(parameters: NequIPParameters, training: TrainerInput, train: Dataset) -> Beginning:
    if training.start is not None:
        return from_weights(train, training.atomic_energies)
    begin = from_scratch if _foundation(parameters) is None else from_foundation
    return begin(train, training.atomic_energies)


def _foundation(parameters: NequIPParameters) -> tuple[Tree, Path] | None:
    """Return the configuration of a user, and the file that it takes its network from; None where it builds one."""
    if parameters.config_text is None:
        return None
    tree = read_config(parameters.config_text)
    file = file_given(tree)
    return None if file is None else (tree, file)


def _energies(
    parameters: NequIPParameters, training: TrainerInput, train: Dataset, device: str, directory: Path
) -> Mapping[str, float]:
    """Return the atomic energies of a training, of which some are fitted beside a foundation model before it begins."""
    foundation = None if training.start is not None or not training.fits else _foundation(parameters)
    is_begun = (directory / FITTED).exists() or (directory / f"{LAST}.ckpt").exists()
    if foundation is not None and not is_begun:
        tree, file = foundation
        knowing(file, describe(file), training.atomic_energies)
        energies = fit_energies(tree, file, training.atomic_energies, training.fits, train, device)
        save_energies(directory / FITTED, energies)
    return energies_after(directory) or training.atomic_energies


def _boxed(atoms: Atoms) -> Atoms:
    """Return a structure with a volume, as NequIP divides by it; any volume serves where there is no stress."""
    if is_periodic(atoms) or atoms.cell.rank == 3:
        return atoms
    size = atoms.positions.max(axis=0) - atoms.positions.min(axis=0) + 2 * MARGIN_A
    boxed = atoms.copy()
    boxed.cell = atoms.cell.complete() if atoms.pbc.any() else size
    return boxed


def _run_program(options: Tree, sizes: Mapping[str, int], directory: Path) -> int:
    data = options["data"]
    fitting = {loader: {**data[loader], "batch_size": sizes[name]} for name, loader in LOADERS.items()}
    last = directory / f"{LAST}.ckpt"
    restart = {"ckpt_path": last.name} if last.is_file() else {}
    text = yaml.safe_dump({**options, "data": {**data, **fitting}, **restart}, sort_keys=False)
    write_atomically(directory / CONFIGURATION, text)
    command = [sys.executable, *PROGRAM, "hydra.run.dir=.", "hydra.output_subdir=null"]
    return run_program(command, directory=directory, output=directory / LOG).returncode


def _errors(record: Record) -> Epoch:
    number = BEFORE if record["epoch"] is None else record["epoch"]
    errors = record["energy_rmse"], record["forces_rmse"]
    return Epoch(number, record["loss"], *errors, record.get("learning_rate"), record.get("training_loss"))


def _packaged(directory: Path) -> Path:
    package = directory / f".new-{NETWORK}"
    package.unlink(missing_ok=True)
    command = [sys.executable, "-m", "nequip.scripts.package", "build", f"{BEST}.ckpt", package.name]
    result = run_program(command, directory=directory, output=directory / PACKAGE_LOG)
    check_not_killed(result.returncode, "NequIP's packaging", directory)
    if result.returncode != 0 or not package.is_file():
        raise failed("NequIP has made no package of the best epoch", directory, PACKAGE_LOG)
    return package


def _compile(network: Path, device: str) -> None:
    """Compile a network for this kind of machine if a compiler is available; potentials also work without it."""
    compiled = compiled_file(network, device)
    if compiled.is_file():
        return
    if shutil.which("g++") is None:
        logger.warning("there is no g++ here, so %s is not compiled: walkers and evaluations take longer", network)
        return
    new = compiled.with_name(f".new-{compiled.name}")
    log = network.with_name(COMPILE_LOG)
    if run_program(compiling(network, new, device, TARGET), directory=network.parent, output=log).returncode != 0:
        why = (log.read_text(errors="replace").strip() or "no output").splitlines()[-1]
        logger.warning("%s could not be compiled (%s; see %s): walkers and evaluations take longer", network, why, log)
        return
    publish(new, compiled)


def compiling(network: Path, destination: Path, device: str, target: str) -> Sequence[str]:
    """Return the command by which NequIP compiles a package.

    Args:
        network: package.
        destination: file to write; its name ends with ".nequip.pt2".
        device: "cpu" or "cuda".
        target: "batch", "ase" for NequIP's calculator, or "pair_nequip" for LAMMPS.
    """
    options = ["--mode", "aotinductor", "--device", device, "--target", target]
    if target == TARGET:
        options += [part for kind in ("frames", "nodes", "edges") for part in (f"--num-{kind}", f"2,{LARGEST}")]
    files = [str(network.absolute()), str(destination.absolute())]
    return [sys.executable, "-m", "nequip.scripts.compile", *files, *options]
