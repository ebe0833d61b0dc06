"""Label stores as commands are given them: a folder, or a bucket with the block that holds the access to it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surveyor.errors import InputError
from surveyor.labels import LabelStore
from surveyor.run_directory import RunDirectory
from surveyor.storage.buckets import Bucket, BucketAccess, store_address
from surveyor.storage.object_storage import storage_at
from surveyor.works.store import recorded_mark


def store_argument(text: str) -> Path | str:
    """Return a folder or the address of a bucket that stands on the command line."""
    try:
        return store_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_storage_option(parser: argparse.ArgumentParser) -> None:
    """Add `--storage`."""
    parser.add_argument(
        "--storage",
        metavar="KIND/NAME",
        help="block with the endpoint and credentials of a bucket, such as s3/minio; by default those in the "
        "environment",
    )


def access_to(address: Path | str, storage: str | None) -> BucketAccess | None:
    """Return the access that a block holds to a bucket; None without a block.

    Args:
        address: of the label store.
        storage: kind and name of the block.

    Raises:
        InputError: the store is in a folder, the block is of another kind or missing, or the server does not answer.
    """
    if storage is None:
        return None
    if isinstance(address, Path):
        raise InputError(f"storage: found {storage}, expected none for the folder {address}")
    if storage.partition("/")[0] != (service := Bucket.at(address).service):
        raise InputError(f"storage: found {storage}, expected a block of kind {service} for {address}")
    from surveyor.blocks.storages import load_access
    from surveyor.flows.server import using_server

    with using_server():
        return load_access(storage)


def open_label_store(address: Path | str, storage: str | None, directory: RunDirectory | None = None) -> LabelStore:
    """Return a label store.

    Args:
        address: folder or bucket.
        storage: block with the access to the bucket; None for the access that the environment gives.
        directory: folder of work that has used the store, whose mark it must have.

    Raises:
        InputError: see `access_to`.
    """
    if isinstance(address, Path):
        address = address.absolute()
    opened = storage_at(address, access_to(address, storage))
    return LabelStore(opened.expecting("" if directory is None else recorded_mark(directory, str(opened))))


@contextmanager
def reaching(store: LabelStore) -> Iterator[None]:
    """Name the store in errors within the block, when it cannot be used.

    Raises:
        InputError: it is missing, refuses access, or its service does not answer.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{store} cannot be used ({error.strerror or error}); correct its address, or the access to it"
        ) from error
