"""The thread that acts on events while the flow does something else."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue

import pytest
from processes import PATIENCE_S

from surveyor.flows.event_loop import EventLoop


class Stage:
    """A loop, and the events on which it acts."""

    def __init__(self) -> None:
        self.events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.acted: list[str] = []
        self.loop = EventLoop(self.events, lambda: self.events.get()())

    def happen(self, *names: str) -> None:
        for name in names:
            self.events.put(lambda name=name: self.acted.append(name))


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.loop.end()
    made.loop.join(PATIENCE_S)


def fail() -> bool:
    raise OSError("the disk is gone")


def test_it_acts_in_a_thread_of_its_own_while_another_one_is_busy(stage: Stage) -> None:
    has_acted = threading.Event()
    stage.events.put(has_acted.set)
    assert has_acted.wait(PATIENCE_S)  # and this thread has not asked for it
    assert stage.loop.call(threading.current_thread) is not threading.current_thread()


def test_a_call_has_its_turn_among_the_events(stage: Stage) -> None:
    stage.happen("a", "b")
    assert stage.loop.call(lambda: tuple(stage.acted)) == ("a", "b")


def test_a_condition_is_checked_after_each_event(stage: Stage) -> None:
    at_each: list[int] = []

    def holds() -> bool:
        at_each.append(len(stage.acted))
        return stage.acted[-1:] == ["c"]

    waiting = threading.Thread(target=stage.loop.wait_until, args=(holds,), daemon=True)
    waiting.start()
    while not at_each:
        stage.loop.call(lambda: None)
    stage.happen("a", "b", "c")
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert at_each[-3:] == [1, 2, 3]


@pytest.mark.parametrize("failing", ["event", "call", "condition"])
def test_whoever_waits_gets_the_error_of_the_loop(stage: Stage, failing: str) -> None:
    if failing == "event":
        stage.events.put(fail)
    wait = partial(stage.loop.wait_until if failing == "condition" else stage.loop.call, fail)
    with pytest.raises(OSError, match="the disk is gone"):
        wait()
    with pytest.raises(OSError, match="the disk is gone"):
        stage.loop.wait_for(threading.Event())  # such as the end of a task
    stage.loop.join(PATIENCE_S)


def test_nothing_is_acted_on_after_the_end(stage: Stage) -> None:
    stage.loop.call(stage.loop.end)
    stage.happen("a")
    stage.loop.join(PATIENCE_S)
    assert stage.acted == []
