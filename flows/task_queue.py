"""A queue of tasks that limits the number submitted at a time."""

import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from prefect.futures import PrefectFuture

from surveyor.pools.pool import Pool
from surveyor.tasks.execution import on_submission

LEAST_AT_ONCE = 16  # cheap labels: as few as keep a small pool busy, as a task takes longer to begin than they take
# Each task begins in a thread. Many beginning threads slow each other down, and the thread that acts on results.
N_BEGINNING = 8
LOOK_S = 1.0  # how often a waiting queue lets its owner look

Entry = tuple[Callable[[], bool], Callable[[], None]]  # whether a task is held, and what submits it


def n_at_once(pool: Pool) -> int:
    """Return how many tasks of a pool may be unfinished: more would wait in threads, and hinder each other."""
    return max(LEAST_AT_ONCE, pool.capacity)


@dataclass(slots=True)
class TaskQueue:
    """A queue of tasks, of which a limited number is submitted at a time.

    Of these, `N_BEGINNING` at most have not begun: neither ended nor submitted a function to a pool.

    Attributes:
        n_at_once: returns the number of tasks that may be unfinished now; called only when tasks may begin.
        ended: actions due because tasks have ended; queues that share it serve each other.
        may_begin: returns whether tasks may be submitted now; called repeatedly while some wait.
        context: context of the flow run whose tasks they are; by default the current one.
        futures: futures of the submitted tasks, by name.
    """

    n_at_once: Callable[[], int]
    ended: "SimpleQueue[Callable[[], None]]"
    may_begin: Callable[[], bool] = lambda: True
    context: Context | None = None
    futures: dict[str, PrefectFuture[Any]] = field(default_factory=dict)  # Any: whatever the tasks return
    _waiting: "deque[Entry]" = field(default_factory=deque)
    _held: "deque[Entry]" = field(default_factory=deque)
    _beginning: set[str] = field(default_factory=set)
    _looked: float = 0.0
    _n_unfinished: int = 0
    _n_deferred: int = 0

    @property
    def is_idle(self) -> bool:
        """True if all tasks have ended, and nothing follows."""
        return not (self._n_unfinished or self._n_deferred or self._waiting or self._held)

    def defer(self, action: Callable[[], None]) -> None:
        """Have an action performed when the queue is served next, as if a task had ended."""
        self._n_deferred += 1
        self.ended.put(partial(self._perform, action))

    def close(self) -> None:
        """Forget the tasks that are not submitted."""
        self._waiting.clear()
        self._held.clear()

    def add(
        self,
        name: str,
        submit: Callable[[], PrefectFuture[Any]],
        then: Callable[[], None] = lambda: None,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """Add a task, which is submitted as soon as there is room for it.

        Args:
            name: unique name in this queue.
            submit: submits the task and returns its future.
            then: called when the task has ended, successfully or not.
            is_held: returns whether the task cannot begin yet; meanwhile it is skipped and takes no room.
        """
        self._waiting.append((is_held, partial(self._submit, name, submit, then)))
        self.fill()

    def wait(self, look: Callable[[], None] = lambda: None) -> None:
        """Wait until all tasks have ended, those too that are added meanwhile.

        Args:
            look: called now and then.
        """
        while not self.is_idle:
            self.serve(look)

    def serve(self, look: Callable[[], None]) -> None:
        """Perform the actions due because a task has ended; call the look if none ends for a while."""
        try:
            react = self.ended.get(timeout=LOOK_S)
        except Empty:
            look()
            self.fill()
        else:
            react()

    def fill(self) -> None:
        """Submit tasks for which there is room, and check from time to time whether held tasks can begin."""
        if self._held and time.monotonic() > self._looked + LOOK_S:
            self._looked = time.monotonic()
            self._waiting.extendleft(reversed(self._held))
            self._held.clear()
        while self._waiting and self._has_room() and self.may_begin():
            is_held, submit = entry = self._waiting.popleft()
            if is_held():
                self._held.append(entry)
            else:
                self._n_unfinished += 1
                submit()

    def _has_room(self) -> bool:
        return len(self._beginning) < N_BEGINNING and self._n_unfinished < self.n_at_once()

    def _submit(self, name: str, submit: Callable[[], PrefectFuture[Any]], then: Callable[[], None]) -> None:
        def submit_observed() -> PrefectFuture[Any]:
            with on_submission(partial(self.ended.put, partial(self._begin_others, name))):
                return submit()

        self._beginning.add(name)
        self.futures[name] = future = submit_observed() if self.context is None else self.context.run(submit_observed)
        future.add_done_callback(lambda _: self.ended.put(partial(self._end, name, future, then)))

    def _begin_others(self, name: str) -> None:
        self._beginning.discard(name)
        self.fill()

    def _end(self, name: str, future: PrefectFuture[Any], then: Callable[[], None]) -> None:
        self._beginning.discard(name)
        future.wait()  # it has ended, and now knows its state; tasks that are given it would ask the server for that
        self._n_unfinished -= 1
        then()
        self.fill()

    def _perform(self, action: Callable[[], None]) -> None:
        self._n_deferred -= 1
        action()
