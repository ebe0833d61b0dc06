"""Checks before a training on given files begins, without a pool, and the data that they read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from surveyor.dataset import Dataset, DataSets
from surveyor.dataset.isolated_atoms import check_agreement, differ, energies_of, format_energies
from surveyor.errors import InputError
from surveyor.models.choice import load_model, make_model, replay_reports
from surveyor.models.committee import CommitteeModel
from surveyor.models.model import Model
from surveyor.models.weights import check_weights
from surveyor.reading import Reading, ReadingReport, read_labelled
from surveyor.reading.learnable import TrainingData, learnable
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.structures import elements_of
from surveyor.works.summary import is_complete
from surveyor.works.training.division import SETS, begun, divided
from surveyor.works.training.parameters import TrainingParameters


@dataclass(frozen=True, slots=True)
class CheckedTraining:
    """Results of the checks of a training.

    Attributes:
        data: training, validation and test set.
        model: to be trained, or trained if the training is complete.
        reports: on the files of the data and of the replay data; none if the training is complete.
    """

    data: DataSets
    model: Model
    reports: tuple[ReadingReport, ...]


def read_and_check(parameters: TrainingParameters) -> CheckedTraining:
    """Perform all checks that need no pool; return their results.

    The data of a complete training are not read again: its sets and its model are those in its folder.

    Raises:
        InputError: the input is wrong; the message names the field, what was found, what was expected, and the remedy.
    """
    directory = RunDirectory(parameters.folder)
    if is_complete(directory):
        files = GenerationDirectory(directory.path)
        return CheckedTraining(DataSets.load(files.path), load_model(files.model), ())
    given = learnable(_read(parameters), allow_leaks=parameters.allow_leaks)
    data = begun(directory.path) or divided(parameters, given)
    isolated = energies_of({name: atom for each in given.values() for name, atom in each.isolated.items()})
    known = {} if parameters.start else _known_energies(parameters.atomic_energies, data.train, isolated)
    model = _model(parameters, data, known)
    for name in SETS:
        unknown = model.unsupported(getattr(data, name))
        if unknown:
            elements = ", ".join(model.atomic_energies or {})
            raise InputError(
                f"{name}: found {', '.join(unknown)}, expected only the elements that the model knows ({elements}); "
                "add structures with it to the training data, and begin without start"
            )
    for name in ("train", "valid"):
        check_weights(model, getattr(data, name), name)
    replayed = replay_reports(parameters.model, model.atomic_energies or ())
    return CheckedTraining(data, model, (*_reports(given, model, isolated, known), *replayed))


def _read(parameters: TrainingParameters) -> dict[str, Reading]:
    """Read the files of the data, by the field that names them."""
    files = {"train": parameters.train, "valid": parameters.valid, "test": parameters.test}
    return {
        name: read_labelled(path, name, keys=parameters.label_keys) for name, path in files.items() if path is not None
    }


def _reports(
    given: Mapping[str, TrainingData], model: Model, isolated: Mapping[str, float], known: Mapping[str, float]
) -> tuple[ReadingReport, ...]:
    """Return the reports on the files; the one on the training data names atomic energies from other sources."""
    reports = {name: each.report for name, each in given.items()}
    kept = model.atomic_energies or {}
    differing = {
        symbol: energy for symbol, energy in kept.items() if symbol in isolated and differ(energy, isolated[symbol])
    }
    fitted = [symbol for symbol in kept if symbol not in known]
    if differing:
        energies = format_energies(differing)
        text = f"isolated atoms have other energies than the model of start, which keeps its own ({energies})"
        reports["train"] = reports["train"].with_remark(text)
    elif known and fitted:
        text = f"the atomic energies of {', '.join(fitted)} are not known, and are fitted"
        reports["train"] = reports["train"].with_remark(text)
    return tuple(reports.values())


def _model(parameters: TrainingParameters, data: DataSets, known: Mapping[str, float]) -> Model:
    if parameters.model is not None and parameters.model.needs_validation and not data.valid:
        raise InputError("valid_fraction: found 0, expected more: the training needs validation data to choose by")
    if parameters.start is None:
        return _made(parameters).initialize(data.train, atomic_energies=known, seed=parameters.seed)
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


def _known_energies(
    given: Mapping[str, float] | None, train: Dataset, isolated: Mapping[str, float]
) -> dict[str, float]:
    """Return the atomic energies in eV that need no fit.

    Args:
        given: energies given by the user, in eV by chemical symbol.
        train: training data without isolated atoms.
        isolated: energies of the isolated atoms in the data, in eV by chemical symbol.

    Raises:
        InputError: the given energies contradict the isolated atoms.
    """
    given = given or {}
    check_agreement(given, isolated, "atomic_energies", "correct them, or leave them out to take those of the data")
    present = elements_of(train)
    return {symbol: energy for symbol, energy in isolated.items() if symbol in present} | dict(given)


def _made(parameters: TrainingParameters) -> Model:
    if parameters.model is None:
        raise ValueError("there are no parameters to make a model from")
    return make_model(parameters.model)
