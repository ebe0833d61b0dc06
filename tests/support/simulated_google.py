"""Compute Engine on loopback, whose instances run as processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from metal import PlayedCloud, metal_of, name_of, write_programs
from processes import servers
from simulated_compute import SimulatedCompute, simulated_compute

from surveyor.pools.gcp.site import GCPSite

ZONES = ("europe-west4-a", "europe-west4-b")


@dataclass
class SimulatedGoogle(PlayedCloud):
    """Compute Engine with instances on this machine.

    Attributes:
        compute: what answers requests.
        credentials: folder of the credentials.
    """

    site_type: ClassVar[type[GCPSite]] = GCPSite

    folder: Path
    compute: SimulatedCompute
    credentials: Path
    hidden: Path | None = None
    boot: Sequence[str] = ()
    address: str | None = None

    @property
    def url(self) -> str:  # type: ignore[override]  # it is that of what answers
        return self.compute.url

    @property
    def environment(self) -> dict[str, str]:
        return {**self.compute.environment(self.credentials), "PYTHONPATH": self.python_path}

    def fields(self, **fields: Any) -> dict[str, Any]:
        plain = {"project": "p-1", "zones": ZONES, "machine_types": ["g2-standard-8"], "interface": "lo"}
        return {**plain, "machine_image": "projects/p-1/global/images/i", **fields}

    def metadata(self, instance: str) -> dict[str, str]:
        host = f"{self.url.removeprefix('http://')}/{name_of(instance)}"
        return {"GCE_METADATA_HOST": host, "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/"}

    def script_of(self, instance: str) -> str:
        items = self.compute.instances[self._key(instance)]["metadata"]["items"]
        (script,) = (str(each["value"]) for each in items if each["key"] == "startup-script")
        return script

    def alive(self) -> list[str]:
        return [job for job in self.left() if self.compute.instances[self._key(job)]["status"] == "RUNNING"]

    def left(self) -> list[str]:
        return [f"{zone}/{name}" for zone, name in self.compute.instances]

    def power_off(self, instance: str) -> None:
        if (found := self.compute.instances.get(self._key(instance))) is not None:
            found["status"] = "TERMINATED"

    def n_requested(self) -> int:
        return len(self.compute.bodies)

    def take_away(self, instance: str) -> None:
        self.compute.preempt(instance)

    def announce(self, instance: str) -> None:
        """Let the metadata of an instance say that it is taken away."""
        self.compute.notices.add(name_of(instance))

    def _key(self, instance: str) -> tuple[str, str]:
        zone, _, name = instance.partition("/")
        return zone, name


@contextmanager
def simulated_google(credentials: Path) -> Iterator[SimulatedGoogle]:
    """Simulate Compute Engine with its instances; in the end, none is left, also when the test run is killed.

    Args:
        credentials: folder for the credentials, which instances have no reason to read.
    """
    with servers("/tmp/svy-google-") as started, simulated_compute() as compute:
        google = SimulatedGoogle(started.folder, compute, credentials)
        write_programs(google.folder)
        with metal_of(google):
            yield google
