"""Storages: a few operations on a folder or a bucket, which the label store and pools without a shared disk use."""

from surveyor.storage.storage import (
    MARK,
    FolderStorage,
    MarkedStorage,
    Storage,
    key_of,
    sharded,
)

__all__ = [
    "MARK",
    "FolderStorage",
    "MarkedStorage",
    "Storage",
    "key_of",
    "sharded",
]
