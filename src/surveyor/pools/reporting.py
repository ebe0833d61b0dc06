"""Executors whose functions report: each process of a pool appends events to a file of its own."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from surveyor.events.log import EventLog
from surveyor.events.recording import reporting
from surveyor.pools.submission import SubmitOptions, submit_with

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """A wrapper that calls a function on a pool and records its events in a folder.

    Attributes:
        folder: of the files of events, one for each process.
        origin: host and process that submit; what runs there is reported already.
    """

    folder: Path
    origin: str

    @classmethod
    def into(cls, folder: Path) -> "Report":
        """Return a report into a folder, for functions that this process submits."""
        return cls(folder, _this_process())

    def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function so that what it logs goes into the folder."""
        process = _this_process()
        if process == self.origin:
            return function(*args, **kwargs)
        # A worker with several threads reports from each of them: one event must not be written by all.
        with reporting(EventLog(self.folder / f"{process}.jsonl"), of_call=True):
            return function(*args, **kwargs)


class ReportingExecutor(Executor):
    """An executor whose functions report.

    Args:
        executor: runs them.
        report: where they report.
    """

    def __init__(self, executor: Executor, report: Report) -> None:
        self.executor = executor
        self.report = report

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; see `concurrent.futures.Executor.submit`."""
        return self.submit_with(SubmitOptions(), function, *args, **kwargs)

    def submit_with(
        self, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit a function under options; see `surveyor.pools.submission`."""
        return submit_with(self.executor, options, self.report, function, *args, **kwargs)


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
