"""Conformance suite of models: those of surveyor, and those of others."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset, label_of, with_label
from surveyor.dataset.metrics import errors_of
from surveyor.errors import InputError
from surveyor.events.kinds import EpochEnds
from surveyor.events.log import EventLog, of_kind
from surveyor.labels import Label
from surveyor.models.model import EVENTS, Epoch, Model
from surveyor.structures import elements_of
from surveyor.testing.checks import check_close, check_equal, check_that
from surveyor.testing.potentials import Tolerances, check_same_prediction

CONTINUED = 1.5  # errors of a training that continues may exceed those before it by this factor: optimizers are noisy


def check_model(
    model: Model,
    train: Dataset,
    valid: Dataset,
    *,
    directory: Path,
    load: Callable[[Path], Model],
    tolerances: Tolerances | None = None,
) -> Model:
    """Check an untrained model on some data, and return it trained.

    It is trained twice, so choose few structures and hyper-parameters for a quick training.

    Args:
        model: untrained; its training must at least halve the forces' error of predicting zero.
        train: labelled structures.
        valid: labelled structures.
        directory: an empty folder.
        load: gives the model that was saved to a folder.
        tolerances: for the predictions of a model that was saved; by default those for float64.

    Raises:
        AssertionError: a property does not hold; the message names it, with the values found and allowed.
    """
    tolerances = tolerances or Tolerances()
    before = [atoms.copy() for atoms in (*train, *valid)]
    initialized = _check_initialization(model, train)
    trained = _check_training(initialized, train, valid, directory / "first")
    _check_saving(trained, valid, directory / "saved", load, tolerances)
    _check_continuing(trained, train, valid, directory / "second")
    unchanged = all(atoms == copy for atoms, copy in zip((*train, *valid), before, strict=True))
    check_equal("data are unchanged by training", unchanged, True)
    return trained


def _check_initialization(model: Model, train: Dataset) -> Model:
    check_equal("is_trained of the model given", model.is_trained, False)
    energies = dict.fromkeys(elements_of(train), 0.0)
    try:
        model.initialize(Dataset(), atomic_energies=None, seed=0)
    except InputError:
        pass
    else:
        raise AssertionError("initialize() without data: found no error, expected InputError")
    model.initialize(train, atomic_energies=energies, seed=0)
    _check_isolated_atom(model, train)
    initialized = model.initialize(train, atomic_energies=None, seed=0)
    check_equal("is_trained after initialize()", initialized.is_trained, False)
    check_equal("elements of the data that are unsupported", initialized.unsupported(train), ())
    check_equal("unsupported elements", initialized.unsupported([Atoms("Og")]), ("Og",))
    return initialized


def _check_isolated_atom(model: Model, train: Dataset) -> None:
    symbol, energy = elements_of(train)[0], -1234.5
    atom = with_label(Atoms(symbol), None, Label(energy, np.zeros((1, 3))))
    found = model.initialize(Dataset([*train, atom]), atomic_energies=None, seed=0).atomic_energies or {}
    check_equal("atomic energy of an element of which the data hold an isolated atom", found.get(symbol), energy)
    check_equal("elements with an atomic energy, beside an isolated atom", sorted(found), sorted(elements_of(train)))
    given = model.initialize(train, atomic_energies={symbol: energy}, seed=0).atomic_energies or {}
    check_equal("atomic energies beside a given one", dict(given), dict(found))


def _check_training(model: Model, train: Dataset, valid: Dataset, directory: Path) -> Model:
    trained, history = model.train(train, valid, directory)
    check_equal("is_trained of the untrained model, after train()", model.is_trained, False)
    check_equal("is_trained of the model that train() returns", trained.is_trained, True)
    _check_history(history, directory)
    zero = float(np.sqrt(np.mean(np.square(np.concatenate([label_of(atoms).forces for atoms in train])))))
    check_that("error of forces on the training data", _forces_error(trained, train), "at most", zero / 2)
    repeated, same_history = pickle.loads(pickle.dumps(model)).train(train, valid, directory)
    check_equal("history of a training that is repeated on its directory", tuple(same_history), tuple(history))
    check_close(
        "error of forces after a training that is repeated on its directory",
        _forces_error(repeated, train),
        _forces_error(trained, train),
        0.0,
    )
    return trained


def _check_history(history: Sequence[Epoch], directory: Path) -> None:
    numbers = [epoch.number for epoch in history]
    check_equal("numbers of the epochs", numbers, sorted(set(numbers)))
    check_that("number of epochs in the history", len(history), "at least", 1)
    events, _ = EventLog(directory / EVENTS).read()
    reported = [event.number for event in of_kind(events, EpochEnds)]
    check_equal("epochs among the events", reported, numbers)


def _check_saving(
    model: Model, structures: Dataset, directory: Path, load: Callable[[Path], Model], tolerances: Tolerances
) -> None:
    model.save(directory)
    check_equal("model.json in the folder of a saved model", (directory / "model.json").is_file(), True)
    loaded = load(directory)
    check_equal("is_trained of a model that was saved and loaded", loaded.is_trained, True)
    expected, found = model.deploy().evaluate(structures), loaded.deploy().evaluate(structures)
    for one, other in zip(found, expected, strict=True):
        check_same_prediction("a model that was saved and loaded", one, other, tolerances)


def _check_continuing(model: Model, train: Dataset, valid: Dataset, directory: Path) -> None:
    continued, _ = model.train(train, valid, directory)
    allowed = CONTINUED * _forces_error(model, train)
    check_that("error of forces after training a trained model", _forces_error(continued, train), "at most", allowed)


def _forces_error(model: Model, structures: Dataset) -> float:
    error = errors_of(structures, model.deploy().evaluate(structures)).forces_rmse
    if error is None:
        raise AssertionError("errors of no structures: give at least one")
    return error
