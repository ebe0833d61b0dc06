"""Storage in a bucket of an object store."""

import errno
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from surveyor.errors import InputError
from surveyor.storage.buckets import Bucket, BucketAccess, client_of, without_secrets
from surveyor.storage.storage import MARK, FolderStorage, MarkedStorage

N_RETRIES = 4
DELAYS_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # before each attempt to send a record whose fate is unknown
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")  # in answers that something is missing
N_RIVALS = 8


@dataclass(frozen=True, slots=True)
class ObjectStorage(MarkedStorage):
    """Storage in a bucket of S3, Google Cloud Storage or Azure Blob Storage.

    Operations raise an `OSError` if the service does not answer, or the bucket does not exist, and a `PermissionError`
    if it refuses access.

    Attributes:
        bucket: where the objects are.
        access: how the bucket is reached; None for the access that the environment of each process gives.
        mark: content of the bucket's `MARK`; empty for whatever store is there.
    """

    n_at_once: ClassVar[int] = 64

    bucket: Bucket
    access: BucketAccess | None = None

    def __str__(self) -> str:
        return str(self.bucket)

    def found_mark(self) -> str:
        """Return the mark that the bucket has now, empty without one."""
        return (self.get(MARK) or b"").decode().strip()

    def put_new(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Write an object unless it exists: exactly one of two writers wins.

        If no answer comes, the object may have been written or not. It is then sent again, and if there is one by now,
        its content says who has written it.
        """
        failed: OSError | None = None
        for delay_s in DELAYS_S:
            time.sleep(delay_s)
            try:
                self._put(name, content, "create")
                return True
            except FileExistsError as error:
                if (there := self.get(name)) is not None:
                    return failed is not None and there == content
                failed = error  # of a rival that has not written after all
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                failed = error
        raise failed or AssertionError("there is an attempt")

    def get(self, name: str) -> bytes | None:
        """Read an object, None where it is not there."""
        found = self.get_version(name)
        return None if found is None else found[0]

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the names of objects that begin with a prefix, in order."""
        folder = prefix.rpartition("/")[0]
        with self._translating(prefix):
            import obstore

            found = obstore.list(self._client(N_RETRIES), folder or None)
            names = sorted(str(each["path"]) for some in found for each in some)
        yield from (name for name in names if name.startswith(prefix))

    def renew(self, name: str, former: bytes, content: bytes) -> bool:
        """Replace an object if it is still the one that was read: its entity tag is a condition of the request."""
        found = self.get_version(name)
        return found is not None and found[0] == former and self.replace(name, found[1], content)

    def replace(self, name: str, version: dict[str, str], content: bytes) -> bool:
        """Replace an object if it still has a version; return whether that was so."""
        try:
            self._put(name, content, version)
        except (FileNotFoundError, FileExistsError):
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove an object, if it is there; a request is sent once, so that none arrives late."""
        with suppress(FileNotFoundError), self._translating(name):
            import obstore

            obstore.delete(self._client(0), name)

    def signed(self, name: str, verb: str, valid_s: float) -> str:
        """Return an address at which anybody may fetch or remove an object for a while.

        Args:
            name: of the object.
            verb: GET or DELETE.
            valid_s: time in seconds for which the address is valid.
        """
        with self._translating(name):
            import obstore

            client = self._client(N_RETRIES)
            address: str = obstore.sign(client, verb, name, timedelta(seconds=valid_s))  # type: ignore[call-overload]
            return address

    def get_version(self, name: str) -> tuple[bytes, dict[str, str]] | None:
        """Return the content and the version of an object, None where it is not there."""
        with suppress(FileNotFoundError), self._translating(name):
            import obstore

            found = obstore.get(self._client(N_RETRIES), name)
            meta = found.meta
            version = {"e_tag": meta["e_tag"] or "", "version": meta["version"] or ""}
            return found.bytes().to_bytes(), {name: each for name, each in version.items() if each}
        return None

    def _put(self, name: str, content: bytes, mode: Any) -> None:  # Any: `create`, or a version
        """Send an object once: the client would send it again without saying so."""
        with self._translating(name):
            import obstore

            obstore.put(self._client(0), name, content, mode=mode, use_multipart=False)

    def _client(self, n_retries: int) -> Any:  # Any: of obstore
        return client_of(self.bucket, self.access, n_retries)

    @contextmanager
    def _translating(self, name: str) -> Iterator[None]:
        """Raise errors of obstore as those of the system that mean the same."""
        self._client(N_RETRIES)  # says what to install
        from obstore import exceptions

        try:
            yield
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise self._translated(error, name) from None

    def _translated(self, error: Exception, name: str) -> OSError:
        from obstore import exceptions

        place = f"{self}/{name}"
        if any(each in str(error) for each in NO_BUCKET):
            return OSError(errno.ENXIO, "there is no such bucket", str(self))
        match error:
            case FileNotFoundError():
                return FileNotFoundError(errno.ENOENT, "there is no such object", place)
            case exceptions.AlreadyExistsError() | exceptions.PreconditionError():
                return FileExistsError(errno.EEXIST, "another one was written there", place)
            case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
                return PermissionError(errno.EACCES, without_secrets(error, self.access), place)
        return OSError(errno.EIO, without_secrets(error, self.access), place)


def storage_at(address: Path | str, access: BucketAccess | None = None) -> FolderStorage | ObjectStorage:
    """Return the storage in a folder or in a bucket.

    Args:
        address: path of the folder, or address of the bucket, such as s3://bucket/labels.
        access: how the bucket is reached; None for the access that the environment gives.
    """
    if isinstance(address, Path) or "://" not in address:
        return FolderStorage(Path(address).absolute())
    return ObjectStorage(Bucket.at(address), access)


def prove(storage: ObjectStorage) -> None:
    """Prove that a service keeps its promises: of writers of one name, exactly one wins. Nothing is left of it.

    Raises:
        InputError: it breaks a promise, refuses access, or does not answer.
    """
    name = f"probes/{secrets.token_hex(8)}"
    try:
        try:
            _prove_creation(storage, f"{name}-1")
            _prove_race(storage, f"{name}-2")
            _prove_renewal(storage, f"{name}-1")
        finally:
            with suppress(OSError):  # the error of the proof says more
                for each in (f"{name}-1", f"{name}-2"):
                    storage.remove(each)
    except PermissionError as error:
        raise InputError(
            f"{storage} refuses access ({error.strerror}); permit to read, write, list and delete objects"
        ) from error
    except OSError as error:
        raise InputError(
            f"{storage} cannot be used ({error.strerror or error}); expected a bucket that exists, at a service that "
            "answers from here; create the bucket, or correct endpoint, region and credentials"
        ) from error


def _prove_creation(storage: ObjectStorage, name: str) -> None:
    if not storage.put_new(name, b"first"):
        raise _unfit(storage, "it says that a new object exists")
    if storage.put_new(name, b"second") or storage.get(name) != b"first":
        raise _unfit(storage, "of two writers of one object, both succeed, as it ignores `If-None-Match: *`")
    if name not in storage.list(name):
        raise _unfit(storage, "it does not list an object that was just written")


def _prove_race(storage: ObjectStorage, name: str) -> None:
    contents = [f"{number}".encode() for number in range(N_RIVALS)]
    with ThreadPoolExecutor(N_RIVALS) as rivals:
        won = list(rivals.map(lambda content: storage.put_new(name, content), contents))
    if won.count(True) != 1 or storage.get(name) != contents[won.index(True)]:
        raise _unfit(storage, f"of {N_RIVALS} writers of one object at the same time, {won.count(True)} succeed")


def _prove_renewal(storage: ObjectStorage, name: str) -> None:
    former = storage.get_version(name)
    if former is None or not storage.renew(name, b"first", b"third") or storage.get(name) != b"third":
        raise _unfit(storage, "it does not replace an object under the condition `If-Match`")
    if storage.replace(name, former[1], b"fourth") or storage.get(name) != b"third":
        raise _unfit(storage, "it replaces an object that others have changed, as it ignores `If-Match`")
    with ThreadPoolExecutor(N_RIVALS) as rivals:
        won = list(rivals.map(lambda number: storage.renew(name, b"third", b"%d" % number), range(N_RIVALS)))
    if won.count(True) > 1:
        raise _unfit(
            storage, f"of {N_RIVALS} writers that replace one object at the same time, {won.count(True)} succeed"
        )


def _unfit(storage: ObjectStorage, why: str) -> InputError:
    return InputError(
        f"{storage} cannot keep labels: {why}. Labels would be computed twice, or lost; use a service, or a version of "
        "it, that supports conditional writes"
    )
