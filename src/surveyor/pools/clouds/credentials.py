"""Credentials, above all the certificate, for instances that do not see the folder of their pool.

They lie in the workspace under a random name. The script of the instance has signed addresses at which they are fetched
and then removed; they are valid until the worker must have connected.
"""

import io
import secrets
import tarfile
import time
from contextlib import suppress
from pathlib import Path

from distributed import Security

from surveyor.pools.pool_folder import PoolFolder
from surveyor.storage.object_storage import ObjectStorage

OPENED = """\
mkdir -m 700 {place} {place}/jobs || exit 1
curl -fsS --retry 5 --retry-connrefused -o {place}/credentials.tar '{fetched}' || exit 1
curl -fsS --retry 5 -X DELETE '{removed}'
tar -x -C {place} -f {place}/credentials.tar && rm {place}/credentials.tar || exit 1
chown -R {owner} {place}"""


class Credentials:
    """The credentials of one pool, sent to each of its instances.

    Args:
        storage: the workspace.
        folder: folder of the pool.
        valid_s: time in seconds within which an instance fetches its credentials.
    """

    def __init__(self, storage: ObjectStorage, folder: PoolFolder, valid_s: float) -> None:
        self._storage, self._folder, self._valid_s = storage, folder, valid_s
        self._sent: dict[str, float] = {}  # until when each is valid

    def send(self, owner: str) -> tuple[Path, str]:
        """Send credentials; return where they will be on the instance, and the commands that fetch them.

        Args:
            owner: user and group number of the worker, such as 1000:1000.

        Raises:
            OSError: the workspace does not take it.
        """
        token = secrets.token_hex(16)
        name, place = f"credentials/{token}", Path(f"/tmp/surveyor-{token}")
        self._storage.put_new(name, self._content())
        self._sent[name] = time.monotonic() + self._valid_s
        fetched, removed = (self._storage.signed(name, verb, self._valid_s) for verb in ("GET", "DELETE"))
        return place, OPENED.format(place=place, fetched=fetched, removed=removed, owner=owner)

    def remove_old(self) -> None:
        """Remove the credentials that no instance has fetched in time."""
        for name in [name for name, end in self._sent.items() if time.monotonic() > end]:
            with suppress(OSError):  # it is tried again
                self._storage.remove(name)
                del self._sent[name]

    def _content(self) -> bytes:
        with io.BytesIO() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for path in files_for_workers(self._folder):
                    tar.add(path, path.name)
            return file.getvalue()


def files_for_workers(pool: PoolFolder) -> list[Path]:
    """Return the files of the folder of a pool that its workers need: certificate, key, and the check of versions."""
    certificates = pool.read_certificates()
    files = {certificates.tls_ca_file, certificates.tls_worker_cert, certificates.tls_worker_key}
    return [*map(Path, sorted(files)), pool.check, pool.versions]


def check_in(folder: Path, pool: PoolFolder) -> str:
    """Return the arguments of the interpreter that compare the versions, with the files in another folder."""
    return f"{folder / pool.check.name} {folder / pool.versions.name}"


def certificates_in(folder: Path, security: Security) -> Security:
    """Return the certificates of a pool by their files in another folder."""
    names = ("tls_ca_file", "tls_worker_cert", "tls_worker_key")
    return Security(**{name: str(folder / Path(getattr(security, name)).name) for name in names})
