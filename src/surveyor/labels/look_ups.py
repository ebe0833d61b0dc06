"""Looking up many labels: side by side where each look-up waits for a network."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice

from surveyor.labels.failures import NO_LIMITS_KNOWN, LabelFailure, Reason
from surveyor.labels.label import Label
from surveyor.labels.store import LabelStore

AHEAD = 4  # look-ups that wait or have an answer, for each one at work

Outcome = Label | LabelFailure | None


def outcomes(
    store: LabelStore, keys: Iterable[str], limits: Mapping[Reason, float | None] = NO_LIMITS_KNOWN
) -> Generator[tuple[str, Outcome], None, None]:
    """Yield keys with the outcomes of their labels, in order; see `LabelStore.outcome`.

    Args:
        store: the label store.
        keys: of the labels.
        limits: what the code allows now.
    """
    n, following = store.storage.n_at_once, iter(keys)
    if n == 1:
        yield from ((key, store.outcome(key, limits)) for key in following)
        return
    threads = ThreadPoolExecutor(n, thread_name_prefix="labels")
    try:
        asked: deque[tuple[str, Future[Outcome]]] = deque()
        while True:
            new = islice(following, AHEAD * n - len(asked))
            asked.extend((key, threads.submit(store.outcome, key, limits)) for key in new)
            if not asked:
                return
            key, future = asked.popleft()
            yield key, future.result()
    finally:
        threads.shutdown(cancel_futures=True)


@contextmanager
def reading_ahead(store: LabelStore, keys: Iterable[str]) -> Iterator[Callable[[str], Outcome]]:
    """Provide a function that returns the outcome of a key, fast for keys that are asked for in the given order.

    Args:
        store: the label store.
        keys: of labels that will be asked for, in this order; others may come between them.
    """
    upcoming = deque(keys)
    with closing(outcomes(store, tuple(upcoming))) as found:

        def outcome_of(key: str) -> Outcome:
            if not upcoming or upcoming[0] != key:
                return store.outcome(key)
            upcoming.popleft()
            return next(found)[1]

        yield outcome_of
