"""Work for pools that share no disk: like a training, it continues from what it has left, and says where it works."""

import logging
import time
from pathlib import Path

from processes import PATIENCE_S

from surveyor.errors import TrainingFailed
from surveyor.events.kinds import Event
from surveyor.events.recording import announce
from surveyor.files import write_atomically
from surveyor.pools.workspace.translation import translated

logger = logging.getLogger("surveyor.work")


def learn(
    start: Path, directory: Path, destination: Path, *, control: Path, n_epochs: int, fails: bool = False
) -> Path:
    """Write a model after some epochs, and return its path.

    Args:
        start: a file whose content begins the model.
        directory: keeps the number of the next epoch.
        destination: folder of the model.
        control: a folder that everybody sees: `epochs` gets a line at the beginning of each epoch, and no epoch begins
            while `wait-N` is there for its number.
        n_epochs: number of epochs.
        fails: whether it raises an error in the end.
    """
    state, model = directory / "state", destination / "model"
    if model.exists():
        return model
    first = int(state.read_text()) if state.exists() else 0
    for epoch in range(first, n_epochs):
        with (control / "epochs").open("a") as file:
            file.write(f"{epoch}\n")
        announce(logger, Event(message=f"epoch {epoch} in {directory}"))
        write_atomically(state, str(epoch + 1))
        deadline = time.monotonic() + PATIENCE_S
        while (control / f"wait-{epoch + 1}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    if fails:
        raise TrainingFailed(f"no model, see {translated(str(state))} and {start}", directory)
    write_atomically(model, start.read_bytes() + str(n_epochs).encode())
    return model
