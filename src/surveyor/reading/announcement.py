"""Reports on readings as events and log lines of a run."""

import logging
from collections.abc import Iterable

from surveyor.events.kinds import FileRead, FileSuspicious
from surveyor.events.recording import announce
from surveyor.reading.report import ReadingReport

logger = logging.getLogger(__name__)


def announce_readings(reports: Iterable[ReadingReport]) -> None:
    """Announce each report: one line, and a warning for each kind of finding."""
    for report in reports:
        file = str(report.path)
        event = FileRead(
            message=report.summary,
            file=file,
            n_structures=report.n_structures,
            used=report.used,
            unused=report.unused,
        )
        announce(logger, event)
        for finding, line in zip(report.findings, report.warnings, strict=True):
            n, first = finding.n_structures, finding.first
            announce(logger, FileSuspicious(message=line, file=file, n_structures=n, first=first))
