"""What every storage must hold to."""

from surveyor.storage import Storage
from surveyor.testing.checks import check_equal

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


def _check_claims(storage: Storage) -> None:
    """Check what comes and goes; nothing of it is left afterwards."""
    check_equal("put_new() of a claim", storage.put_new("claims/a", b"first", durable=False), True)
    check_equal("put_new() of a second claim", storage.put_new("claims/a", b"second", durable=False), False)
    storage.replace("claims/a", b"changed")
    check_equal("get() after replace()", storage.get("claims/a"), b"changed")
    storage.replace("claims/b", b"new")
    check_equal("replace() of a name that is free", storage.get("claims/b"), b"new")
    for name in ("claims/a", "claims/b", "claims/that/never/was"):
        storage.remove(name)
        check_equal(f"get() after remove() of {name}", storage.get(name), None)
    check_equal("list() of what was removed", list(storage.list("claims/")), [])
    check_equal("put_new() after remove()", storage.put_new("claims/a", b"third", durable=False), True)
    storage.remove("claims/a")
