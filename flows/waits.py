"""Waits of a run, such as for a job in a full queue: reported as events and as the message of the run's state."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running

from surveyor.events.kinds import Waiting, WaitingEnds
from surveyor.events.recording import announce
from surveyor.pools.pool import Pool

LOOK_S = 2.0

logger = logging.getLogger(__name__)


@contextmanager
def reporting_waits(pools: Sequence[Pool], look_s: float = LOOK_S) -> Iterator[None]:
    """Report the waits of pools, and the end of each, within the block.

    Args:
        pools: of the flow run in which this is called.
        look_s: seconds between two looks.
    """
    waits, stop = _Waits(UUID(str(runtime.flow_run.id))), threading.Event()

    def follow() -> None:
        while not stop.wait(look_s):
            waits.look(what_is_waited_for(pools))

    watch = threading.Thread(target=copy_context().run, args=(follow,), name="waits", daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()  # a state that is set later would take the place of the last one


def what_is_waited_for(pools: Sequence[Pool]) -> str:
    """Return the waits of pools, in words; empty if there are none."""
    waits = dict.fromkeys(wait for pool in pools if (wait := pool.waiting) is not None)
    return f"waiting for {' and '.join(waits)}" if waits else ""


@dataclass(slots=True)
class _Waits:
    """The current wait of a run, and where it was reported.

    Attributes:
        run: the flow run.
        seen: the wait at the last look; a wait is reported from the second look on.
        reported: the last reported wait; empty for none.
        in_state: the message of the run's state.
        began: begin of the last wait.
    """

    run: UUID
    seen: str = ""
    reported: str = ""
    in_state: str = ""
    began: float = 0.0

    def look(self, text: str) -> None:
        """Update the current wait, and report it."""
        is_news = text != self.reported and (not text or text == self.seen)
        self.seen = text
        if is_news:
            self._announce(text)
        if self.reported != self.in_state and show_in_state(self.run, self.reported):
            self.in_state = self.reported

    def _announce(self, text: str) -> None:
        if not self.reported:
            self.began = time.monotonic()
        if text:
            announce(logger, Waiting(message=text))
        else:
            seconds = time.monotonic() - self.began
            announce(logger, WaitingEnds(message=f"no longer waiting, after {seconds:.0f} s"))
        self.reported = text


def show_in_state(run: UUID, text: str) -> bool:
    """Make a text the message of the state of a run that is running; return whether it was done.

    Args:
        run: the flow run.
        text: empty for no message.
    """
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            client = get_client(sync_client=True)  # the client of the run, which is open
            found = client.read_flow_run(run)
            if found.state is None or not found.state.is_running():
                return False  # a run that is being cancelled must not seem to go on
            # Otherwise the server counts this as another attempt of the run, of which its retries allow a few.
            client.update_flow_run(run, empirical_policy=found.empirical_policy.model_copy(update={"resuming": True}))
            client.set_flow_run_state(run, Running(message=text or None))
    except (httpx.TransportError, PrefectHTTPStatusError):
        return False  # the server is away: at the next look
    return True
