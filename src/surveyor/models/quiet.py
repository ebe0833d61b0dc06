"""Suppression of messages that engines print at import and loading, which users cannot act on."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_REPLACING = threading.RLock()


@contextmanager
def engine_kept_quiet() -> Iterator[None]:
    """Suppress the output, log records and warnings of MACE and NequIP within the block."""
    # Torch warns at each whole pickle that it is made to load, and of TorchScript, which e3nn uses. The packages
    # print what they have not found. Their log records go to the root logger; where that has no handler, Python would
    # add one, for all that is logged from then on.
    root, silence = logging.getLogger(), logging.NullHandler()
    root.addHandler(silence)
    try:
        # What is replaced here belongs to the process: of two threads, the first to leave would not find its own.
        with _REPLACING, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message=".*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message="To copy construct from a tensor", category=UserWarning)
            yield
    finally:
        root.removeHandler(silence)
