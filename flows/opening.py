"""Opening of work in a flow: loads its blocks, and passes its events on to its event file and to the log."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from typing import Any, TypeVar

from prefect.logging import get_run_logger

from surveyor.blocks.codes import load_codes
from surveyor.blocks.pools import load_sites
from surveyor.blocks.storages import load_access, load_accesses
from surveyor.events.kinds import Event
from surveyor.events.recording import reporting
from surveyor.events.relay import Relay
from surveyor.flows.cancellation import heeding_cancellation
from surveyor.flows.heartbeats import without_heartbeats_of_prefect
from surveyor.flows.paths import with_absolute_paths
from surveyor.flows.pool_commands import users_pools
from surveyor.flows.waits import reporting_waits
from surveyor.pools.pool import Pool
from surveyor.reference.choice import with_codes
from surveyor.run_directory import RunDirectory
from surveyor.works.parameters import WorkParameters
from surveyor.works.work import Kind, Work

P = TypeVar("P", bound=WorkParameters)
C = TypeVar("C")
W = TypeVar("W", bound=Work[Any, Any])

_CHECKED: ContextVar[tuple[WorkParameters, object] | None] = ContextVar("checked", default=None)


@contextmanager
def handing_over(parameters: WorkParameters, checked: object) -> Iterator[None]:
    """Hand the result of the checks over to the flow called in this block, so that it does not check again.

    Args:
        parameters: parameters of the work, with absolute paths.
        checked: result of `Kind.check` for them.
    """
    token = _CHECKED.set((parameters, checked))
    try:
        yield
    finally:
        _CHECKED.reset(token)


@contextmanager
def opened(kind: Kind[P, C, W], fields: Mapping[str, Any]) -> Iterator[W]:  # Any: whatever fields hold
    """Check work and open it within the block.

    Args:
        kind: of work.
        fields: the parameters of its flow.

    Raises:
        InputError: the parameters cannot work, or are not those of the folder.
        CampaignInUse: a live process works in the folder.
    """
    parameters = with_absolute_paths(kind.parameters(**fields))
    checked = _handed_over(parameters)
    if "codes" in fields:
        codes = load_codes(fields["codes"])
        parameters = parameters.model_copy(update={"codes": codes})
        checked = checked and replace(checked, reference=with_codes(checked.reference, codes))
    sites, access = load_sites(parameters.pool_of_stages.names), load_access(parameters.storage_block)
    with kind.open(parameters, sites, users_pools(), checked, access, load_accesses(sites)) as work:
        yield work


def _handed_over(parameters: WorkParameters) -> Any:  # Any: whatever the kind of work has made
    given, checked = _CHECKED.get() or (None, None)
    return checked if given == parameters else None


@contextmanager
def relayed(
    directory: RunDirectory,
    pools: Iterable[Pool],
    *,
    passed_over: tuple[type[Event], ...] = (),
    also: Callable[[Event], None] | None = None,
) -> Iterator[None]:
    """Pass events of this process and of the pools on to the event file and to the log of the flow run.

    Args:
        directory: run directory with the event file.
        pools: pools of the run, whose waits are reported.
        passed_over: kinds of events that are too frequent for the log.
        also: called with each event.
    """
    log = get_run_logger()

    def on_event(event: Event) -> None:
        if event.message and not isinstance(event, passed_over):
            log.log(event.level, "%s", event.message)
        if also is not None:
            also(event)

    # A thread calls it, which would not see that the run has another server than the one that is configured; Prefect
    # starts one more where none is.
    context = copy_context()
    relay = Relay(directory.workers, directory.events, lambda event: context.run(on_event, event))
    with (
        reporting(directory.events),
        relay.running(),
        reporting_waits([*pools]),
        heeding_cancellation(),
        without_heartbeats_of_prefect(),
    ):
        yield
