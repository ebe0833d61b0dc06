"""Tasks that are submitted a few at once, and what follows them."""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.base import PrefectHttpxSyncClient
from processes import PATIENCE_S, wait_until

from surveyor.flows import task_queue
from surveyor.flows.task_queue import TaskQueue
from surveyor.tasks.execution import run_on


class Running:
    """Counts how many of its calls run at once."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


def test_no_more_tasks_than_the_window_holds_are_unfinished() -> None:
    running, may_end = Running(), threading.Event()
    n_submitted = []

    @task
    def work(number: int) -> int:
        with running:
            assert may_end.wait(PATIENCE_S)
            return number

    @flow
    def work_through() -> dict[str, int]:
        queue = TaskQueue(lambda: 3, SimpleQueue())
        for number in range(12):
            queue.add(str(number), partial(work.submit, number))
        n_submitted.append(len(queue.futures))
        may_end.set()
        queue.wait()
        return {name: future.result() for name, future in queue.futures.items()}

    assert work_through() == {str(number): number for number in range(12)}
    assert n_submitted == [3]  # none of them could end before
    assert 1 <= running.most <= 3


class SlowEntrance(Executor):
    """A pool that takes functions when it may, and computes none of them."""

    def __init__(self) -> None:
        self.entering, self.may_enter = Running(), threading.Event()
        self.futures: list[Future[Any]] = []

    def submit(self, _function: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:
        with self.entering:
            assert self.may_enter.wait(PATIENCE_S)
            self.futures.append(Future())
            return self.futures[-1]


def test_a_few_tasks_begin_at_a_time_and_those_on_a_pool_have_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_queue, "N_BEGINNING", 2)
    pool = SlowEntrance()
    n_submitted = []

    @task
    def work(number: int) -> int:
        return run_on(pool, abs, number)

    @flow
    def work_through() -> None:
        queue = TaskQueue(lambda: 6, SimpleQueue())
        for number in range(6):
            queue.add(str(number), partial(work.submit, number))
        n_submitted.append(len(queue.futures))
        pool.may_enter.set()

        def all_have_begun() -> bool:
            queue.serve(lambda: None)
            return len(pool.futures) == 6

        wait_until(all_have_begun, lambda: f"{len(pool.futures)} of 6 tasks are on the pool")
        for future in pool.futures:
            future.set_result(0)
        queue.wait()

    work_through()
    assert n_submitted == [2]
    assert pool.entering.most <= 2


def test_what_follows_a_task_waits_for_no_other_one() -> None:
    others_are_done = threading.Event()

    @task
    def step(name: str) -> str:
        if name == "slow":
            assert others_are_done.wait(PATIENCE_S)
        return name

    @task
    def last(_: str) -> None:
        others_are_done.set()

    @flow
    def walk() -> list[str]:
        ended: SimpleQueue = SimpleQueue()
        steps, lasts = TaskQueue(lambda: 2, ended), TaskQueue(lambda: 1, ended)

        def follow_fast(number: int) -> None:
            if number < 4:
                call = partial(step.submit, f"fast {number}")
                steps.add(f"fast {number}", call, partial(follow_fast, number + 1))
            else:
                lasts.add("last", partial(last.submit, steps.futures["fast 3"]))

        steps.add("slow", partial(step.submit, "slow"))
        follow_fast(0)
        steps.wait()
        lasts.wait()
        return list(steps.futures)

    assert walk() == ["slow", "fast 0", "fast 1", "fast 2", "fast 3"]


def test_a_task_that_follows_asks_the_server_nothing_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = PrefectHttpxSyncClient.send

    def recording(self: PrefectHttpxSyncClient, request: httpx.Request, *args: object, **options: object) -> object:
        asked.append(f"{request.method} {request.url.path}")
        return send(self, request, *args, **options)

    monkeypatch.setattr(PrefectHttpxSyncClient, "send", recording)

    @task
    def step(before: int) -> int:
        return before + 1

    @flow
    def walk() -> int:
        queue = TaskQueue(lambda: 1, SimpleQueue())
        follow = lambda: queue.add("second", partial(step.submit, queue.futures["first"]))  # noqa: E731 (one line)
        queue.add("first", partial(step.submit, 0), follow)
        queue.wait()
        return int(queue.futures["second"].result())

    assert walk() == 2
    assert not [call for call in asked if call.startswith("GET") and "/task_runs/" in call]


def test_tasks_that_may_not_begin_yet_wait_and_then_begin() -> None:
    allowed = threading.Event()
    looks = []

    @task
    def work() -> bool:
        return allowed.is_set()

    def look() -> None:
        looks.append(1)
        if len(looks) == 2:
            allowed.set()

    @flow
    def work_when_allowed() -> bool:
        queue = TaskQueue(lambda: 3, SimpleQueue(), allowed.is_set)
        queue.add("only", work.submit)
        assert queue.futures == {}
        queue.wait(look)
        return bool(queue.futures["only"].result())

    assert work_when_allowed()
