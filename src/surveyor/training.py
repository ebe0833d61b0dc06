"""Training on given files as work of its own: its parameters, and what stays the same in it."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from surveyor.campaign.checks import check_writable
from surveyor.campaign.provenance import record_run
from surveyor.continuation import check_same_parameters, record_parameters
from surveyor.dataset import Dataset, DataSets
from surveyor.errors import InputError
from surveyor.events import Report, ReportingExecutor
from surveyor.files import naming_full_disks, read_json, write_json
from surveyor.isolated_atoms import check_agreement, differ, energies_of, told
from surveyor.lease import hold_lease
from surveyor.metrics import Errors
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.choice import ModelParameters, load_model, make_model, replay_reports
from surveyor.models.committee import CommitteeModel
from surveyor.models.model import Model
from surveyor.models.record import RECORD
from surveyor.models.trainer import LOG
from surveyor.models.weights import check_weights
from surveyor.parameter_files import check_files_exist, check_no_file, files_named, load_parameters
from surveyor.parameters import Fraction, Parameters
from surveyor.pools.choice import EXPECTED, LOCAL, PoolName, Pools, open_pools
from surveyor.pools.pool import Pool
from surveyor.pools.sites import Site
from surveyor.reading import Reading, ReadingReport, read_labelled
from surveyor.reading.keys import REF_KEYS, LabelKeys
from surveyor.reading.learnable import TrainingData, learnable
from surveyor.run_directory import SCHEMA_VERSION, GenerationDirectory, RunDirectory, check_schema
from surveyor.structures import elements_of

MAY_CHANGE = ("output_directory", "pool", "allow_leaks")
SETS = ("train", "valid", "test")
SUMMARY = "summary.json"


class TrainingParameters(Parameters):
    """All parameters of a training on files; its fields are the parameters of the flow `train_model`."""

    train: Path = Field(
        title="Training data (file)",
        description="extxyz file with REF_energy, REF_forces and, where periodic, REF_stress or REF_virials; "
        "`label_keys` gives other names.",
    )
    output_directory: Path = Field(
        title="Output directory",
        description="Folder of the results; the same call on the same folder continues where it stopped.",
    )
    model: ModelParameters | None = Field(
        None, title="Model", description="The potential that is trained; may be left out where `start` is given."
    )
    valid: Path | None = Field(
        None,
        title="Validation data (file)",
        description="Labelled structures that tell when to stop; by default a part of the training data.",
    )
    valid_fraction: Fraction = Field(
        0.1,
        title="Fraction for validation",
        description="Of the training data, drawn at random, where no file with validation data is given.",
    )
    test: Path | None = Field(
        None, title="Test data (file)", description="Labelled structures that the training never sees."
    )
    label_keys: LabelKeys = Field(
        REF_KEYS, title="Names of the labels", description="Names of energy, forces and stress in these files."
    )
    allow_leaks: bool = Field(
        False,
        title="Allow test data in training",
        description="Train although structures of the test data are in the training or validation data, too. The "
        "errors on the test data are then too small.",
    )
    atomic_energies: dict[str, float] | None = Field(
        None,
        title="Atomic energies (eV)",
        description="Energy of the isolated atom by chemical symbol; by default those of isolated atoms in the data, "
        "and fitted by least squares for other elements.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of the weights, of the order of batches and of the division.")
    start: Path | None = Field(
        None,
        title="Start from (folder)",
        description="Folder of a saved model, from whose weights and atomic energies the training begins.",
    )
    pool: PoolName = Field(LOCAL, title="Pool", description=f"Where the training runs: {EXPECTED}.")

    @model_validator(mode="after")
    def _check_beginning(self) -> "TrainingParameters":
        if self.model is None and self.start is None:
            raise ValueError("expected model or start, found neither; give the model that is to be trained")
        if self.start is not None and self.atomic_energies is not None:
            raise ValueError("found start and atomic_energies; a training keeps those of the model that it starts from")
        return self

    def input_files(self) -> dict[str, Path]:
        """Return the files that the parameters name, by the name of the field."""
        return files_named(self, folders=("output_directory", "start"))


def load_training(path: Path) -> TrainingParameters:
    """Read a file of parameters (YAML); paths in it are relative to the folder it is in.

    Raises:
        InputError: the file is missing or is no YAML, or a field is wrong.
    """
    return load_parameters(TrainingParameters, path, "parameter file", "train, output_directory and model")


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What a training on files works with, checked and open.

    Attributes:
        directory: its folder, which has the layout of a campaign's as far as it has the same files.
        data: training, validation and test set.
        model: to be trained.
        pool: where it is.
        reports: on the files of the data.
    """

    directory: RunDirectory
    data: DataSets
    model: Model
    pool: Pool
    reports: tuple[ReadingReport, ...] = ()

    @property
    def executor(self) -> Executor:
        """The pool, whose functions report."""
        return ReportingExecutor(self.pool, Report.into(self.directory.workers))

    @property
    def files(self) -> GenerationDirectory:
        """The sets, the training and the model, with the names that those of a generation have."""
        return GenerationDirectory(self.directory.path)


@contextmanager
def open_training(
    parameters: TrainingParameters, sites: Mapping[str, Site] | None = None, pools_by_hand: Path | None = None
) -> Iterator[Training]:
    """Check a training, take its folder and give its pool, as long as this lasts.

    Args:
        parameters: with absolute paths.
        sites: where the pool is, by name, if the parameters name it by a block.
        pools_by_hand: folder of the pools that the user has opened by hand, which are used where they are open.

    Raises:
        InputError: the parameters cannot work, or are not those of the folder.
        CampaignInUse: a live process works in the folder.
    """
    checked = check_training(parameters)
    directory = checked.directory
    check_writable("output_directory", directory.path)
    reports = (*checked.reports, *replay_reports(parameters.model))
    with naming_full_disks(directory.path), hold_lease(directory.lease):
        _check_continuation(directory, parameters)
        record_parameters(directory.parameters, parameters, _recorded_files(parameters))
        record_run(directory)
        pools = Pools(sampling=parameters.pool, labelling=parameters.pool, training=parameters.pool)
        with open_pools(pools, sites, directory.pools, pools_by_hand) as opened:
            yield Training(directory, checked.data, checked.model, opened.training, reports)


@dataclass(frozen=True, slots=True)
class CheckedTraining:
    """Results of the checks of a training.

    Attributes:
        directory: its folder.
        data: training, validation and test set.
        model: to be trained.
        reports: on the files of the data.
    """

    directory: RunDirectory
    data: DataSets
    model: Model
    reports: tuple[ReadingReport, ...]


def check_training(parameters: TrainingParameters) -> CheckedTraining:
    """Check what can be checked without a pool; return what was found and read.

    Raises:
        InputError: something cannot work: names the field, what was found, what was expected and what to do.
    """
    check_files_exist(parameters.input_files(), "parameter file")
    check_no_file("output_directory", parameters.output_directory)
    directory = RunDirectory(parameters.output_directory.absolute())
    _check_continuation(directory, parameters)
    given = learnable(_read(parameters), allow_leaks=parameters.allow_leaks)
    data = _divided(parameters, given)
    isolated = energies_of({name: atom for each in given.values() for name, atom in each.isolated.items()})
    model = _model(parameters, data, isolated)
    for name in SETS:
        unknown = model.unsupported(getattr(data, name))
        if unknown:
            known = ", ".join(model.atomic_energies or {})
            raise InputError(
                f"{name}: found {', '.join(unknown)}, expected only the elements that the model knows ({known}); add "
                "structures with it to the training data, and begin without start"
            )
    for name in ("train", "valid"):
        check_weights(model, getattr(data, name), name)
    return CheckedTraining(directory, data, model, _reports(given, model, isolated))


def _read(parameters: TrainingParameters) -> dict[str, Reading]:
    """Read the files of the data, by the field that names them."""
    files = {"train": parameters.train, "valid": parameters.valid, "test": parameters.test}
    return {
        name: read_labelled(path, name, keys=parameters.label_keys) for name, path in files.items() if path is not None
    }


def _divided(parameters: TrainingParameters, given: Mapping[str, TrainingData]) -> DataSets:
    """Return the sets, with a part of the training data for validation where no file has such data.

    Copies of one structure stay together.
    """
    train, valid, test = (Dataset(given[name].structures if name in given else ()) for name in SETS)
    if parameters.valid is None and parameters.valid_fraction > 0:
        n_valid = max(1, round(parameters.valid_fraction * len(train)))
        held_out = _held_out(given["train"].first_copies, n_valid, parameters.seed)
        if held_out.all():
            raise InputError(
                f"train: {parameters.train} has {len(train)} structure(s), of which {held_out.sum()} would be for "
                "validation, where copies of one stay together; expected more, or a file `valid`"
            )
        train, valid = (
            Dataset(atoms for atoms, is_held_out in zip(train, held_out, strict=True) if is_held_out == which)
            for which in (False, True)
        )
    return DataSets(train=train, valid=valid, test=test)


def _held_out(first_copies: np.ndarray, n_least: int, seed: int) -> np.ndarray:
    """Return which structures are held out, at random: as few as there may be with all copies of each.

    Args:
        first_copies: index of the first copy of each, shape (n_structures,).
        n_least: how many to hold out at least.
        seed: of the order in which structures are drawn.
    """
    drawn = first_copies[np.random.default_rng(seed).permutation(len(first_copies))]
    in_order = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
    sizes = np.bincount(first_copies)[in_order]
    n_drawn = int(np.searchsorted(np.cumsum(sizes), n_least)) + 1
    return np.isin(first_copies, in_order[:n_drawn])


def _reports(
    given: Mapping[str, TrainingData], model: Model, isolated: Mapping[str, float]
) -> tuple[ReadingReport, ...]:
    """Return the reports on the files; that on the training data tells which isolated atoms `start` leaves unused."""
    reports = {name: each.report for name, each in given.items()}
    kept = model.atomic_energies or {}
    differing = {
        symbol: energy for symbol, energy in kept.items() if symbol in isolated and differ(energy, isolated[symbol])
    }
    if differing:
        text = f"isolated atoms have other energies than the model of start, which keeps its own ({told(differing)})"
        reports["train"] = reports["train"].with_remark(text)
    return tuple(reports.values())


def _model(parameters: TrainingParameters, data: DataSets, isolated: Mapping[str, float]) -> Model:
    if parameters.model is not None and parameters.model.needs_validation and not data.valid:
        raise InputError("valid_fraction: found 0, expected more: the training needs validation data to choose by")
    if parameters.start is None:
        energies = _atomic_energies(parameters.atomic_energies, data.train, isolated)
        return _made(parameters).initialize(data.train, atomic_energies=energies, seed=parameters.seed)
    model = load_model(parameters.start)
    if parameters.model is None:
        # The members of a committee have seeds of their own.
        return model if isinstance(model, CommitteeModel) else replace(model, seed=parameters.seed)  # type: ignore[type-var]
    chosen = _made(parameters)
    if type(chosen) is not type(model) or isinstance(model, CommitteeModel):
        raise InputError(
            f"model: found another kind than the {type(model).__name__} in {parameters.start}, or a committee, whose "
            "members have their own parameters; leave out model"
        )
    return replace(model, parameters=chosen.parameters, seed=parameters.seed)  # type: ignore[type-var]


def _atomic_energies(
    given: Mapping[str, float] | None, train: Dataset, isolated: Mapping[str, float]
) -> Mapping[str, float] | None:
    """Return the atomic energies with which a model is initialized; None where it is to fit them.

    Args:
        given: by the user, in eV by chemical symbol.
        train: without isolated atoms.
        isolated: energies of the isolated atoms in the data, in eV by chemical symbol.

    Raises:
        InputError: what is given contradicts the isolated atoms, or lacks an element.
    """
    if given is None:
        # Without isolated atoms the model fits them, and may do so again beside a foundation model.
        return fit_atomic_energies(train, isolated) if isolated else None
    check_agreement(given, isolated, "atomic_energies", "correct them, or leave them out to take those of the data")
    present = elements_of(train)
    energies = {symbol: energy for symbol, energy in isolated.items() if symbol in present} | dict(given)
    missing = [symbol for symbol in present if symbol not in energies]
    if missing:
        raise InputError(f"atomic_energies: found none of {', '.join(missing)}, which the training data hold")
    return energies


def _made(parameters: TrainingParameters) -> Model:
    if parameters.model is None:
        raise ValueError("there are no parameters to make a model from")
    return make_model(parameters.model)


def _check_continuation(directory: RunDirectory, parameters: TrainingParameters) -> None:
    advice = "choose another output directory, or restore the parameters and files"
    check_same_parameters(directory, parameters, _recorded_files(parameters), MAY_CHANGE, "training", advice)


def _recorded_files(parameters: TrainingParameters) -> dict[str, Path]:
    """Return the files whose contents make a training what it is, by field; those of `start` stand for its folder."""
    files = parameters.input_files()
    if parameters.start is None:
        return files
    weights = load_model(parameters.start).weights
    if weights is None or not weights.is_file():
        raise InputError(f"start: {parameters.start} has no weights; give a folder that surveyor saved a model to")
    return {**files, "start": weights, "start.record": parameters.start / RECORD}


def write_summary(directory: RunDirectory, model: Model, data: DataSets, errors: Mapping[str, Errors]) -> None:
    """Write, last, what came of a training."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "model": str(model.weights),
        "atomic_energies": dict(model.atomic_energies or {}),
        "n_structures": {name: len(getattr(data, name)) for name in SETS},
        "errors": {name: each.to_dict() for name, each in errors.items()},
        "logs": [path.relative_to(directory.path).as_posix() for path in _logs(directory)],
    }
    write_json(directory.path / SUMMARY, record)


def _logs(directory: RunDirectory) -> list[Path]:
    """Return the logs of the trainer: one, or one for each member of a committee; none of a model without a trainer."""
    return sorted(GenerationDirectory(directory.path).training.rglob(LOG))


def read_training_summary(directory: RunDirectory) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the summary of a training.

    Raises:
        InputError: it is not complete, or was written by a newer surveyor.
    """
    path = directory.path / SUMMARY
    if not path.exists():
        raise InputError(f"the training in {directory.path} is not complete; the same call continues it")
    summary: dict[str, Any] = read_json(path)
    check_schema(summary, path)
    return summary


def is_training(directory: RunDirectory) -> bool:
    """Say whether a folder is that of a training on files."""
    return directory.parameters.is_file() and "train" in read_json(directory.parameters)["parameters"]
