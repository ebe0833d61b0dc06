"""What every storage must hold to."""

from surveyor.labels import Storage
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
    check_equal("list() by folder", list(storage.list("labels/")), sorted(SHARDS[:2]))
    check_equal("list() by the beginning of a folder's name", list(storage.list("labels")), sorted(SHARDS))
    check_equal("list() by the beginning of a file's name", list(storage.list("labels/v1/ab/2")), [SHARDS[1]])
    check_equal("list() by what no name begins with", list(storage.list("labels/v2/")), [])
