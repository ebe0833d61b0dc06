"""The sweep of a pool: machines that should have ended are ended, whoever left them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from surveyor.errors import PoolFailed
from surveyor.pools.clouds.marks import Found
from surveyor.pools.machines import QueueSilent


def swept(found: Iterable[tuple[Found, bool]], end: Callable[[str], object]) -> Iterator[Found]:
    """End the machines that are due, and yield all.

    Args:
        found: machines of a pool, each with whether it is to be ended.
        end: ends one, by its id.

    Raises:
        PoolFailed: the cloud does not answer, or refuses to end a machine; the others are ended and yielded before.
    """
    failure: QueueSilent | None = None
    try:
        for each, is_due in found:
            ended = each
            if is_due:
                try:
                    end(each.id)
                    ended = replace(each, was_ended=True)
                except QueueSilent as error:
                    failure = error
            yield ended
    except QueueSilent as error:
        failure = error
    if failure is not None:
        raise PoolFailed(str(failure)) from failure
