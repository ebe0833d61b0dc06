"""Interruption of a campaign: by Cancel in the Prefect UI, by SIGTERM or by Ctrl-C."""

import inspect
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W", bound="Abandonable")

LOOK_S = 10.0
CANCELLED = (StateType.CANCELLING, StateType.CANCELLED)

logger = logging.getLogger(__name__)


class Abandonable(Protocol):
    """Work on pools."""

    def abandon(self) -> None:
        """Abandon the computations on the pools."""


def ending_at_once(function: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """Abandon the work on pools when the function of a flow is terminated from outside.

    A flow ends only after the threads of all its tasks have ended; they wait for the pools, which only the end of the
    flow would close.

    Args:
        function: function that takes the work, and submits tasks.
    """

    @wraps(function)
    def call(work: W, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(work, *args, **kwargs)
        except Exception:
            raise  # what is in computation is worth its end
        except BaseException:
            work.abandon()
            raise

    call.__signature__ = _without_annotations(inspect.signature(function))  # type: ignore[attr-defined]
    return call


def _without_annotations(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature without annotations, so that Prefect builds no large schema for a form that is never used."""
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters)


@contextmanager
def heeding_cancellation(look_s: float = LOOK_S) -> Iterator[None]:
    """End the current run cleanly if it was cancelled and no worker stops it.

    A Prefect worker ends only the runs that it has started, and stops doing so after the server was away for half a
    minute.

    Args:
        look_s: interval at which the state of the run is checked; the run ends when it is found cancelled twice.
    """
    stop = threading.Event()
    run = UUID(str(runtime.flow_run.id))
    watch = threading.Thread(
        target=copy_context().run, args=(_watch, run, look_s, stop), name="cancellation", daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch(run: UUID, look_s: float, stop: threading.Event) -> None:
    n_seen = 0
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        while not stop.wait(look_s):
            n_seen = n_seen + 1 if _is_cancelled(run) else 0
            if n_seen == 2:
                logger.warning("the run was cancelled, and no worker has ended it: it ends now")
                os.kill(os.getpid(), signal.SIGTERM)
                return


def _is_cancelled(run: UUID) -> bool:
    try:
        state = get_client(sync_client=True).read_flow_run(run).state  # by the client of the run, which is open
    except (httpx.TransportError, PrefectHTTPStatusError):
        return False
    return state is not None and state.type in CANCELLED
