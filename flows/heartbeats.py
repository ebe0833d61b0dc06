"""Heartbeats of the generations of a campaign, by which an automation tells dead runs from live ones.

Prefect sends the heartbeats of a flow run from a thread, and waits for this thread when the run ends: half a second on
average, in which an overlapped campaign would start no work. Generations send them from here instead.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

P = ParamSpec("P")
T = TypeVar("T")

_interval_s: ContextVar[float | None] = ContextVar("interval_s", default=None)


@contextmanager
def without_heartbeats_of_prefect() -> Iterator[None]:
    """Have Prefect send no heartbeats for the flow runs that begin in this block, see `sending_heartbeats`."""
    token = _interval_s.set(PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value())
    try:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    finally:
        _interval_s.reset(token)


def sending_heartbeats(function: Callable[P, T]) -> Callable[P, T]:
    """Send the heartbeats of the current flow run as long as a function lasts, as often as Prefect's settings say.

    Args:
        function: function of a flow that is called in a block of `without_heartbeats_of_prefect`.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        interval_s, run = _interval_s.get(), FlowRunContext.get()
        if interval_s is None or run is None:
            return function(*args, **kwargs)
        stop = threading.Event()
        arguments = _beat, run, stop, interval_s
        thread = threading.Thread(target=copy_context().run, args=arguments, name="heartbeats", daemon=True)
        thread.start()
        try:
            return function(*args, **kwargs)
        finally:
            stop.set()
            thread.join()  # at once; none is sent of a run that has ended

    return call


def _beat(run: FlowRunContext, stop: threading.Event, interval_s: float) -> None:
    if run.flow_run is None or run.flow is None:
        return
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{run.flow_run.id}",
        "prefect.resource.name": run.flow_run.name,
    }
    flow = {
        "prefect.resource.id": f"prefect.flow.{run.flow_run.flow_id}",
        "prefect.resource.role": "flow",
        "prefect.resource.name": run.flow.name,
    }
    emit_event("prefect.flow-run.heartbeat", resource, related=[flow])
    while not stop.wait(interval_s):
        emit_event("prefect.flow-run.heartbeat", resource, related=[flow])
