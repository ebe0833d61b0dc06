"""What a preflight looks at, what it finds, and what mends it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surveyor.campaign import CampaignParameters, CheckedCampaign
from surveyor.pools.sites import Site
from surveyor.run_directory import RunDirectory

Severity = Literal["good", "remark", "fault"]

# The folders that all pools have to see, and the fields that name them.
FIELDS = {"run directory": "run_directory", "label store": "labels"}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is looked at.

    Attributes:
        file: the campaign file.
        parameters: what it holds.
        sites: where the pools are, by name; those that are not known are passed over.
        by_hand: folder of the pools that the user has opened by hand.
        wait_s: so long may a worker be waited for.
        on_progress: is told what is waited for.
        checked: what the checks of the campaign have made; None where they have found a fault, or were not made yet.
    """

    file: Path
    parameters: CampaignParameters
    sites: Mapping[str, Site] = field(default_factory=dict)
    by_hand: Path | None = None
    wait_s: float = 600.0
    on_progress: Callable[[str], None] = lambda _: None
    checked: CheckedCampaign | None = None

    @property
    def directory(self) -> RunDirectory:
        """The campaign on disk."""
        return RunDirectory(self.parameters.run_directory.absolute())

    @property
    def folders(self) -> Mapping[str, Path]:
        """The folders that all pools have to see."""
        folders = self.directory.path, self.parameters.label_store.absolute()
        return dict(zip(FIELDS, folders, strict=True))


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check has found.

    Attributes:
        check: what was looked at.
        where: the pool on whose worker it was looked at; "here" where this process did.
        found: what there is.
        severity: a remark is worth knowing, a fault would end the campaign.
        mend: the line that mends a fault: of a file, of a block, or a command.
    """

    check: str
    where: str
    found: str
    severity: Severity = "good"
    mend: str = ""


def remark(check: str, where: str, found: str) -> CheckResult:
    """Return what is worth knowing, but need not be mended."""
    return CheckResult(check, where, found, "remark")


def fault(check: str, where: str, found: str, mend: str) -> CheckResult:
    """Return a fault with the line that mends it."""
    return CheckResult(check, where, found, "fault", mend)


def fault_of(error: Exception, check: str, where: str, mend: str) -> CheckResult:
    """Return the fault that an exception tells of, whose last clause says what to do."""
    found, _, advice = str(error).rpartition("; ")
    return fault(check, where, found, f"{mend}  # {advice}") if found else fault(check, where, advice, mend)
