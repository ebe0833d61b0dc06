"""The subject and the results of a preflight; each fault has its remedy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surveyor.pools.site import Site
from surveyor.run_directory import RunDirectory
from surveyor.storage.buckets import BucketAccess
from surveyor.storage.object_storage import ObjectStorage, storage_at
from surveyor.works.campaign import CampaignParameters, CheckedCampaign

Severity = Literal["good", "remark", "fault"]

# The folders that all pools have to see, and the fields that name them.
FIELDS = {"run directory": "run_directory", "label store": "labels"}


@dataclass(frozen=True, slots=True)
class Subject:
    """The campaign to check.

    Attributes:
        file: the campaign file.
        parameters: its parameters.
        sites: sites of the pools, by name; unknown ones are skipped.
        by_hand: folder of the pools that the user has opened by hand.
        wait_s: maximum time to wait for a worker.
        on_progress: called with a description of each wait.
        checked: results of the checks of the campaign; None before the checks, or if they found a fault.
        access: how the bucket of the label store is reached; None for the access that the environment gives.
        accesses: how the workspaces of pools are reached, by name of the pool; likewise.
    """

    file: Path
    parameters: CampaignParameters
    sites: Mapping[str, Site] = field(default_factory=dict)
    by_hand: Path | None = None
    wait_s: float = 600.0
    on_progress: Callable[[str], None] = lambda _: None
    checked: CheckedCampaign | None = None
    access: BucketAccess | None = None
    accesses: Mapping[str, BucketAccess] = field(default_factory=dict)

    @property
    def directory(self) -> RunDirectory:
        """The campaign on disk."""
        return RunDirectory(self.parameters.run_directory.absolute())

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folders that all pools have to see."""
        folders = dict(zip(FIELDS, (self.directory.path, self.parameters.label_store), strict=True))
        return {name: each.absolute() for name, each in folders.items() if isinstance(each, Path)}

    @property
    def bucket(self) -> ObjectStorage | None:
        """The bucket of the label store; None if it is in a folder."""
        storage = storage_at(self.parameters.label_store, self.access)
        return storage if isinstance(storage, ObjectStorage) else None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        check: name of the check.
        where: pool on whose worker the check was made; "here" for this process.
        found: what was found.
        severity: a remark is worth knowing; a fault would end the campaign.
        remedy: the line that corrects a fault: of a file, of a block, or a command.
    """

    check: str
    where: str
    found: str
    severity: Severity = "good"
    remedy: str = ""


def remark(check: str, where: str, found: str) -> CheckResult:
    """Return a result that is worth knowing, but need not be corrected."""
    return CheckResult(check, where, found, "remark")


def fault(check: str, where: str, found: str, remedy: str) -> CheckResult:
    """Return a fault with the line that fixes it."""
    return CheckResult(check, where, found, "fault", remedy)


def fault_of(error: Exception, check: str, where: str, remedy: str) -> CheckResult:
    """Return the fault described by an exception; the last clause of its message is the remedy."""
    found, _, advice = str(error).rpartition("; ")
    return fault(check, where, found, f"{remedy}  # {advice}") if found else fault(check, where, advice, remedy)
