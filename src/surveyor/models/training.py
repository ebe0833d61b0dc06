"""One training, from files to files, as the training pool runs it."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from surveyor.dataset import Dataset
from surveyor.files import synchronize
from surveyor.models.choice import load_model
from surveyor.models.history import load_history, save_history
from surveyor.models.model import Epoch, Model

logger = logging.getLogger(__name__)


def train_model(
    model: Model, train: Path, valid: Path, *, directory: Path, destination: Path
) -> tuple[Model, Sequence[Epoch]]:
    """Train a model and save it; return the saved model and the history of its training.

    The destination is complete or absent. Repeated, this continues a training that was killed, and does nothing where
    the destination is there.

    Args:
        model: initialized; trained from the weights that it has.
        train: extxyz file with labelled structures to fit.
        valid: extxyz file with labelled structures that tell when to stop.
        directory: for checkpoints and logs; the same one for each repetition.
        destination: folder to make, with the native file, `model.json` and `history.json`.

    Raises:
        TrainingFailed: there is no model at the end.
    """
    if not destination.is_dir():
        trained, history = model.train(Dataset.load(train), Dataset.load(valid), directory)
        _save_atomically(trained, history, destination)
        logger.info("trained %s in %d epochs", destination, len(history))
    return load_model(destination), load_history(destination)


def _save_atomically(model: Model, history: Sequence[Epoch], destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{destination.name}.", dir=destination.parent) as scratch:
        folder = Path(scratch) / "model"
        model.save(folder)
        save_history(folder, history)
        for path in (*folder.iterdir(), folder):
            synchronize(path)
        folder.rename(destination)
    synchronize(destination.parent)
