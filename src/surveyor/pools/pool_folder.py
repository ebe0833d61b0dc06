"""The folder of a pool on a cluster, through which its process and its users find each other."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Security

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.lease import holder_of
from surveyor.pools.site import Site
from surveyor.pools.sites import SITES


@dataclass(frozen=True, slots=True)
class PoolFolder:
    """The files of one pool; only their owner can read them, and so only the owner can attach.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def label(self) -> str:
        """Name for jobs and workers."""
        return self.path.name

    @property
    def site(self) -> Path:
        """File with the name and the settings of the pool, for its process."""
        return self.path / "site.json"

    @property
    def lease(self) -> Path:
        """File of the lease that the pool's process holds."""
        return self.path / "lease"

    @property
    def address(self) -> Path:
        """File with the address of the scheduler, present while it listens."""
        return self.path / "address.json"

    @property
    def jobs(self) -> Path:
        """The ids of the jobs."""
        return self.path / "jobs.json"

    @property
    def state(self) -> Path:
        """File with the numbers of jobs, workers and functions."""
        return self.path / "state.json"

    @property
    def failure(self) -> Path:
        """File with the reason why the pool's process gave up."""
        return self.path / "failure.json"

    @property
    def log(self) -> Path:
        """File with the output of the pool's process."""
        return self.path / "log"

    @property
    def check(self) -> Path:
        """The program that each job runs first."""
        return self.path / "worker_check.py"

    @property
    def versions(self) -> Path:
        """The versions of the pool's process."""
        return self.path / "versions.json"

    def make(self, name: str, site: Site) -> None:
        """Create the folder, and write the settings of the pool to it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        write_json(self.site, {"name": name, "kind": site.kind, "site": site.model_dump(mode="json")}, is_patient=False)

    def read_site(self) -> tuple[str, Site]:
        """Return the name and the settings of the pool.

        Raises:
            InputError: there is no pool in this folder.
        """
        try:
            record = read_json(self.site)
        except FileNotFoundError as error:
            raise InputError(f"{self.path} is not the folder of a pool") from error
        return str(record["name"]), SITES[record["kind"]].model_validate(record["site"])

    def holder(self, address: str) -> dict[str, Any]:  # Any: strings and numbers
        """Return the description of the calling process."""
        return {"address": address, "host": socket.gethostname(), "pid": os.getpid()}

    def read_holder(self) -> dict[str, Any] | None:  # Any: strings and numbers
        """Return the description of the live process of the pool; None if there is none yet."""
        holder, record = holder_of(self.lease), _read(self.address)
        if holder is None or record is None:
            return None
        # A process that was killed has left its address behind.
        return record if (record["host"], record["pid"]) == (holder.get("host"), holder.get("pid")) else None

    def read_state(self) -> dict[str, Any] | None:  # Any: whatever JSON holds
        """Return the newest state of the pool that its process has written."""
        return _read(self.state)

    def read_failure(self) -> str | None:
        """Return why the pool's process gave up; None where it did not."""
        record = _read(self.failure)
        return None if record is None else str(record["message"])

    def read_jobs(self) -> list[str]:
        """Return the ids of the jobs that the pool's process has written down."""
        record = _read(self.jobs)
        return [] if record is None else list(record["jobs"])

    def write_jobs(self, jobs: list[str]) -> None:
        """Write the ids of the jobs down, so that they are found even when the pool's process is killed."""
        if jobs != self.read_jobs():
            write_json(self.jobs, {"jobs": jobs}, is_patient=False)

    def make_certificates(self) -> Security:
        """Make new certificates for scheduler, workers and clients, and return them."""
        made = Security.temporary()
        for path, content in ((self._certificate, made.tls_ca_file), (self._key, made.tls_scheduler_key)):
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(str(content))
        return self.read_certificates()

    def read_certificates(self) -> Security:
        """Return the certificates by their files."""
        certificate, key = str(self._certificate), str(self._key)
        files = {
            f"tls_{role}_{part}": path
            for role in ("scheduler", "worker", "client")
            for part, path in (("cert", certificate), ("key", key))
        }
        return Security(tls_ca_file=certificate, require_encryption=True, **files)

    @property
    def _certificate(self) -> Path:
        return self.path / "certificate.pem"

    @property
    def _key(self) -> Path:
        return self.path / "key.pem"


def _read(path: Path) -> dict[str, Any] | None:  # Any: whatever JSON holds
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):  # not there, or on a disk that is away
        return None
    return record
