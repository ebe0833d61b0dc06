"""One training, from files to files, as the training pool runs it."""

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from surveyor.dataset import Dataset
from surveyor.errors import UNFORESEEN, InputError
from surveyor.files import make_folder, patiently, read_json, synchronize, write_json
from surveyor.models.choice import load_model
from surveyor.models.committee import CommitteeModel
from surveyor.models.history import load_history, save_history
from surveyor.models.model import Epoch, Model
from surveyor.models.single_model import SingleModel
from surveyor.words import number_of

logger = logging.getLogger(__name__)

DATA = "data.json"  # beside a saved model: a digest of what it was trained on


def train_model(
    model: Model,
    train: Path,
    valid: Path,
    *,
    directory: Path,
    destination: Path,
    test: Path | None = None,
    with_posterior: bool = False,
) -> tuple[Model, Sequence[Epoch]]:
    """Train a model and save it; return the saved model and the history of its training.

    The destination is complete or absent. A repeated call continues a killed training, and does nothing if
    the destination exists.

    Args:
        model: an initialized model; the training starts from its weights.
        train: extxyz file with labelled structures to fit.
        valid: extxyz file with labelled structures used to choose the best epoch.
        directory: folder for checkpoints and logs; the same one for each call.
        destination: folder to create, with the native file, `model.json` and `history.json`.
        test: extxyz file with labelled structures that have no part in the training; with those in `valid`, they
            calibrate the uncertainty of a single model.
        with_posterior: whether to write the posterior of a single model, too, which some selectors need; in an existing
            destination without one, it is added.

    Raises:
        InputError: the destination holds a model that was trained on other data.
        TrainingFailed: there is no model at the end.
    """
    digest = hashlib.sha256(train.read_bytes() + valid.read_bytes()).hexdigest()
    if not destination.is_dir():
        sets = Dataset.load(train), Dataset.load(valid)
        patiently(partial(make_folder, directory), directory)
        trained, history = model.train(*sets, directory)
        if isinstance(trained, SingleModel):
            trained.calibrate_uncertainty(*sets, Dataset() if test is None else Dataset.load(test))
        patiently(partial(_save_atomically, trained, history, destination, digest), destination)
        logger.info("trained %s in %s", destination, number_of(len(history), "epoch"))
    elif (destination / DATA).exists() and read_json(destination / DATA)["digest"] != digest:
        raise InputError(
            f"{destination} was trained on other data than {train.parent} holds now; delete {destination} and "
            f"{directory} to have it trained anew"
        )
    if with_posterior:
        add_posterior(destination, train, valid)
    return load_model(destination), load_history(destination)


def add_posterior(destination: Path, train: Path, valid: Path) -> None:
    """Write the posterior of a saved single model beside it, unless it is there or cannot be had.

    Args:
        destination: folder of the model.
        train: extxyz file with the structures of its training.
        valid: extxyz file with those of its validation set.
    """
    model = load_model(destination)
    if not isinstance(model, SingleModel):
        return
    try:
        model.compute_posterior(Dataset.load(train), Dataset.load(valid))
    except UNFORESEEN as reason:  # the model is as good without one
        logger.warning("the model has no posterior: %s", reason)


def train_one_member(model: CommitteeModel, index: int, train: Path, valid: Path, *, directory: Path) -> None:
    """Train one member of a committee, for `train_model` to find on the same directory.

    Raises:
        TrainingFailed: there is no model at the end.
    """
    patiently(partial(make_folder, directory), directory)
    model.train_member(index, Dataset.load(train), Dataset.load(valid), directory)
    logger.info("trained member %d of %s", index, directory)


def _save_atomically(model: Model, history: Sequence[Epoch], destination: Path, digest: str) -> None:
    make_folder(destination.parent)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as scratch:
        folder = Path(scratch) / "model"
        model.save(folder)
        save_history(folder, history)
        write_json(folder / DATA, {"schema_version": 1, "digest": digest}, is_patient=False)
        for path in (*folder.iterdir(), folder):
            synchronize(path)
        try:
            folder.rename(destination)
        except OSError:
            if not destination.is_dir():  # else another run of the same training was quicker
                raise
    synchronize(destination.parent)
