"""Reading of users' structures and labels: fields that are used, fields that are not used, and errors."""

from surveyor.reading.announcement import announce_readings
from surveyor.reading.reading import GIVEN_DATA, Reading, read_labelled, read_structures, read_unchecked
from surveyor.reading.report import Finding, ReadingReport

__all__ = [
    "GIVEN_DATA",
    "Finding",
    "Reading",
    "ReadingReport",
    "announce_readings",
    "read_labelled",
    "read_structures",
    "read_unchecked",
]
