"""Executors whose functions report: each process of a pool appends events to a file of its own."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from surveyor.events.log import EventLog
from surveyor.events.recording import reporting
from surveyor.pools.submission import SubmitOptions, submit_with
from surveyor.pools.transport import name_of

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReportingCall(Generic[P, T]):
    """A function that records its events in a folder where it is called.

    Attributes:
        function: the function.
        folder: of the files of events, one for each process.
        origin: host and process that submit; what runs there is reported already.
    """

    function: Callable[P, T]
    folder: Path
    origin: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function, and write its events into the folder."""
        process = _this_process()
        if process == self.origin:
            return self.function(*args, **kwargs)
        # A worker with several threads reports from each of them: one event must not be written by all.
        with reporting(EventLog(self.folder / f"{process}.jsonl"), of_call=True):
            return self.function(*args, **kwargs)

    @property
    def __name__(self) -> str:
        return name_of(self.function)


class ReportingExecutor(Executor):
    """An executor whose functions report.

    Args:
        executor: runs them.
        folder: into which they report.
    """

    def __init__(self, executor: Executor, folder: Path) -> None:
        self.executor = executor
        self.folder = folder

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; see `concurrent.futures.Executor.submit`."""
        return self.submit_with(SubmitOptions(), function, *args, **kwargs)

    def submit_with(
        self, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit a function under options; see `surveyor.pools.submission`."""
        call = ReportingCall(function, self.folder, _this_process())
        return submit_with(self.executor, options, call, *args, **kwargs)


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
