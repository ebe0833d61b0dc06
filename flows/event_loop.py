"""A thread that acts on events one by one, whatever the thread of the flow is doing or waiting for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

END_S = 5.0  # how long the end of a run that is terminated waits for the thread


@dataclass(frozen=True, slots=True)
class _Condition:
    """A condition on which another thread waits."""

    holds: Callable[[], bool]
    is_met: threading.Event = field(default_factory=threading.Event)

    def check(self) -> bool:
        if self.holds():
            self.is_met.set()
        return self.is_met.is_set()


class EventLoop:
    """A loop that acts on events in a thread of its own, in the context in which the loop is made.

    If an action fails, the loop ends, and whoever waits for it gets the error.

    Args:
        events: actions that are due because something has happened.
        act: waits a while for an event, and acts on it; called again and again.
    """

    def __init__(self, events: "SimpleQueue[Callable[[], None]]", act: Callable[[], None]) -> None:
        self._events, self._act = events, act
        self._conditions: list[_Condition] = []
        self._awaited: list[threading.Event] = []
        self._error: BaseException | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="survey", daemon=True)
        self._thread.start()

    def call(self, action: Callable[[], T]) -> T:
        """Perform an action between events, and return its result."""
        result: Future[T] = Future()
        has_ended = threading.Event()
        result.add_done_callback(lambda _: has_ended.set())
        self._events.put(lambda: result.set_result(action()))
        self.wait_for(has_ended)
        return result.result()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked after each event, and fails as actions do."""
        condition = _Condition(holds)
        self._events.put(lambda: self._conditions.append(condition))
        self.wait_for(condition.is_met)

    def wait_for(self, event: threading.Event) -> None:
        """Wait until an event is set; raise the error of the loop, if it fails before."""
        self._awaited.append(event)
        if self._error is None:
            event.wait()
        self._awaited.remove(event)
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Act on nothing after the current event; may be called by an action."""
        self._is_ending = True
        self._events.put(lambda: None)

    def join(self, within_s: float | None = None) -> None:
        """Wait until the loop has ended.

        Args:
            within_s: how long at most; by default as long as it takes.
        """
        self._thread.join(within_s)

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._act()
                self._conditions = [each for each in self._conditions if not each.check()]
        except BaseException as error:  # noqa: BLE001 (it is raised in the thread that waits)
            self._error = error
            for event in tuple(self._awaited):
                event.set()
