"""Reports on readings as events and log lines of a run."""

import logging
from collections.abc import Iterable

from surveyor.events import announce, announce_warning
from surveyor.reading.report import ReadingReport

logger = logging.getLogger(__name__)

READING = "reading"  # the event of a report
READING_WARNING = "reading_warning"  # the event of one of its findings


def announce_readings(reports: Iterable[ReadingReport]) -> None:
    """Announce each report: one line, and a warning for each kind of finding."""
    for report in reports:
        announce(
            logger,
            READING,
            report.summary,
            file=str(report.path),
            n_structures=report.n_structures,
            used=report.used,
            unused=report.unused,
        )
        for finding, line in zip(report.findings, report.warnings, strict=True):
            announce_warning(
                logger,
                READING_WARNING,
                line,
                file=str(report.path),
                n_structures=finding.n_structures,
                first=finding.first,
            )
