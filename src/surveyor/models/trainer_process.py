"""Exit codes of the process of a training."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from surveyor.models.memory import ERRORS, is_out_of_memory

# Exit codes: there is no epoch to take the network from; there is no memory for so large a batch; the energies are
# absurd before the first epoch; the network has other atomic energies than those that were given.
DIVERGED, OUT_OF_MEMORY, ABSURD, OTHER_ATOMIC_ENERGIES = 65, 66, 67, 68
EXPLODED = 1e6  # a validation loss that so many times exceeds that of the untrained network is as good as NaN


@contextmanager
def exit_when_out_of_memory() -> Iterator[None]:
    """End the process with `OUT_OF_MEMORY` if torch runs out of memory in the block."""
    try:
        yield
    except ERRORS as error:
        if not is_out_of_memory(error):
            raise
        logging.exception("there is no memory for so large a batch")
        sys.exit(OUT_OF_MEMORY)


def end_if_absurd(energy_rmse: float | None, highest: float) -> None:
    """End the process with `ABSURD` if the energies are too far off before the first epoch.

    Args:
        energy_rmse: of the network with which the training begins, on the validation set, in eV/atom; None if unknown.
        highest: the largest plausible one, in eV/atom. An error that is not a number is not judged here.
    """
    if energy_rmse is not None and energy_rmse > highest:
        logging.error("Stopping: the energies are off by %g eV/atom; at most %g is plausible", energy_rmse, highest)
        sys.exit(ABSURD)
