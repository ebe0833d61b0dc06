"""Conformance suite of storages."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from surveyor.storage import Storage
from surveyor.testing.checks import check_equal

N_RIVALS, N_RACES = 8, 4
PATIENCE_S = 300.0

SHARDS = ("labels/v1/aa/1.json", "labels/v1/ab/2.json", "labels-old/v1/aa/1.json")


def check_storage(storage: Storage) -> None:
    """Check that a storage keeps its promises.

    Args:
        storage: empty; holds a few names afterwards.

    Raises:
        AssertionError: a promise is broken.
    """
    check_equal("get() of a name that is free", storage.get("labels/v1/aa/1.json"), None)
    check_equal("list() of an empty storage", list(storage.list("")), [])
    for name in reversed(SHARDS):
        check_equal(f"put_new() of {name}", storage.put_new(name, name.encode()), True)
    check_equal("put_new() of a name that is taken", storage.put_new(SHARDS[0], b"another"), False)
    for name in SHARDS:
        check_equal(f"get() of {name}", storage.get(name), name.encode())
    check_equal("put_new() of no bytes", storage.put_new("empty", b""), True)
    check_equal("get() of no bytes", storage.get("empty"), b"")
    check_equal("put_new() of all bytes", storage.put_new("bytes", bytes(range(256))), True)
    check_equal("get() of all bytes", storage.get("bytes"), bytes(range(256)))
    _check_claims(storage)
    check_equal("list() by folder", list(storage.list("labels/")), sorted(SHARDS[:2]))
    check_equal("list() by the beginning of a folder's name", list(storage.list("labels")), sorted(SHARDS))
    check_equal("list() by the beginning of a file's name", list(storage.list("labels/v1/ab/2")), [SHARDS[1]])
    check_equal("list() by what no name begins with", list(storage.list("labels/v2/")), [])
    check_equal("n_at_once of at least 1", storage.n_at_once >= 1, True)
    for number in range(N_RACES):
        _check_race(storage, f"races/{number}")
        _check_late_renewal(storage, f"claims/{number}")


def _check_race(storage: Storage, name: str) -> None:
    """Check that one of several simultaneous writers of a name wins, and that readers find its content."""
    contents = [f"{number}".encode() * 2000 for number in range(N_RIVALS)]
    won = _at_once(lambda number: storage.put_new(name, contents[number]))
    check_equal(f"number of winners of {N_RIVALS} put_new() at once", won.count(True), 1)
    check_equal("get() after a race", storage.get(name), contents[won.index(True)])


def _check_late_renewal(storage: Storage, name: str) -> None:
    """Check that the renewal of a record changes nothing that others have written since, whenever it arrives."""
    storage.put_new(name, b"mine 000000", durable=False)

    def act(number: int) -> None:
        if number:
            former = b"mine 000000"
            for n in range(1, 6):
                content = b"mine %06d" % n
                if storage.renew(name, former, content):
                    former = content
        else:
            storage.remove(name)
            storage.put_new(name, b"another one", durable=False)

    _at_once(act, 2)
    check_equal("get() after a renewal that came too late", storage.get(name), b"another one")
    storage.remove(name)


def _at_once(act: Callable[[int], bool | None], n: int = N_RIVALS) -> list[bool | None]:
    barrier = threading.Barrier(n, timeout=PATIENCE_S)

    def go(number: int) -> bool | None:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(go, range(n)))


def _check_claims(storage: Storage) -> None:
    """Check objects that are created, renewed and removed; nothing of them is left afterwards."""
    check_equal("put_new() of a claim", storage.put_new("claims/a", b"first", durable=False), True)
    check_equal("put_new() of a second claim", storage.put_new("claims/a", b"second", durable=False), False)
    check_equal("renew()", storage.renew("claims/a", b"first", b"changed"), True)
    check_equal("get() after renew()", storage.get("claims/a"), b"changed")
    check_equal("renew() of what was written since", storage.renew("claims/a", b"first", b"wrong"), False)
    check_equal("get() after renew() in vain", storage.get("claims/a"), b"changed")
    check_equal("renew() by less", storage.renew("claims/a", b"changed", b"less"), True)
    check_equal("get() after renew() by less", storage.get("claims/a"), b"less")
    check_equal("renew() of a name that is free", storage.renew("claims/b", b"", b"new"), False)
    check_equal("get() after renew() of a name that is free", storage.get("claims/b"), None)
    for name in ("claims/a", "claims/b", "claims/that/never/was"):
        storage.remove(name)
        check_equal(f"get() after remove() of {name}", storage.get(name), None)
    check_equal("list() of what was removed", list(storage.list("claims/")), [])
    check_equal("put_new() after remove()", storage.put_new("claims/a", b"third", durable=False), True)
    storage.remove("claims/a")
