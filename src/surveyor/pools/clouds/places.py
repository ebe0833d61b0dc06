"""The places in which a cloud may start the instances of a pool, and the refusals that it says only later."""

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import product

from surveyor.pools.machines import NoCapacity, QueueSilent, of_all
from surveyor.pools.queues import Entry

REMEMBERED_S = 60.0  # so long after a place has said late that it has no room, it is not asked again


class Places:
    """Types of instances in zones or subnets, best first.

    A cloud may accept a request, and say minutes later that it has no room. Such a place is passed over for a while.

    Args:
        types: types of instances, best first.
        zones: zones or subnets, best first.
    """

    def __init__(self, types: Sequence[str], zones: Sequence[str]) -> None:
        self._all = list(product(types, zones))
        self._of_jobs: dict[str, tuple[str, str]] = {}
        self._short: dict[tuple[str, str], tuple[float, NoCapacity]] = {}  # since when, and the words

    async def first_with_room(self, start: Callable[[str, str], str]) -> str:
        """Start an instance in the first place that has room for it, and return its id.

        Args:
            start: starts one, given type and zone, and returns its id.

        Raises:
            NoCapacity: no place has room at present.
            Refused: no place has such instances at all, or an instance is refused for another reason.
            QueueSilent: the cloud does not answer.
        """
        refusals = []
        for place in self._all:
            since, late = self._short.get(place, (0.0, None))
            if late is not None and time.monotonic() < since + REMEMBERED_S:
                refusals.append(late)
                continue
            try:
                job = await asyncio.to_thread(start, *place)
            except NoCapacity as refusal:
                refusals.append(refusal)
                continue
            self._of_jobs[job] = place
            return job
        raise of_all(refusals)

    def refused(self, job: str, refusal: Exception) -> Entry:
        """Return the entry of a job that was refused after it had been accepted, and remember a place without room.

        A shortage is no failure. A passing fault is one, as it may come again and again; whatever is no passing one,
        such as a quota, would meet another job, too.

        Args:
            job: id of the job.
            refusal: what the cloud says.
        """
        if not isinstance(refusal, NoCapacity):
            is_certain = not isinstance(refusal, QueueSilent)
            return Entry("pending", str(refusal), is_hopeless=True, is_certain=is_certain)
        if job in self._of_jobs:
            self._short[self._of_jobs[job]] = time.monotonic(), refusal
        return Entry("ending", str(refusal), is_refused=True)
