"""Reading the structures and labels that users give: which fields are used, which are not, and what is refused."""

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
