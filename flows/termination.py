"""Termination by SIGTERM, from queues, service managers and administrators: as clean as by Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The process received SIGTERM; like KeyboardInterrupt, this is not caught by handlers of errors."""


@contextmanager
def raising_at_sigterm() -> Iterator[None]:
    """Raise `Terminated` in the main thread at SIGTERM within the block; in other threads, do nothing.

    While a flow runs, Prefect handles the signal, ends the run and hands the signal on to this.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
