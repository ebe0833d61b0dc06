"""What the process of a training says by its exit code."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Exit codes: there is no epoch to take the network from; there is no memory for so large a batch.
DIVERGED, OUT_OF_MEMORY = 65, 66
NO_MEMORY = "can't allocate memory"  # what torch says on a CPU
EXPLODED = 1e6  # a validation loss that so many times exceeds that of the untrained network is as good as NaN


@contextmanager
def telling_when_memory_is_lacking() -> Iterator[None]:
    """End the process with `OUT_OF_MEMORY` where torch has no memory for what is done in this."""
    import torch

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and NO_MEMORY not in str(error):
            raise
        logging.exception("there is no memory for so large a batch")
        sys.exit(OUT_OF_MEMORY)
