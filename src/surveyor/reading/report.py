"""Reports on the reading of a structure file: fields used, fields not used, and findings."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from surveyor.words import number_of

N_SHOWN = 8  # indices in a warning


@dataclass(frozen=True, slots=True)
class Finding:
    """A kind of peculiarity that some structures of a file share.

    Attributes:
        text: describes the kind, without numbers of structures.
        n_structures: how many structures show it.
        first: index of the first one.
    """

    text: str
    n_structures: int
    first: int

    @property
    def line(self) -> str:
        """The warning for this kind."""
        return f"{self.text} ({number_of(self.n_structures, 'structure')}, the first is {self.first})"


def finding_of(text: str, indices: np.ndarray) -> Finding:
    """Return the finding of a kind that several structures show, with the indices of some."""
    first = ", ".join(str(index) for index in indices[:N_SHOWN])
    more = f" and {len(indices) - N_SHOWN} more" if len(indices) > N_SHOWN else ""
    listed = f": {first}{more}" if len(indices) > 1 else ""
    return Finding(f"{text}{listed}", len(indices), int(indices[0]))


@dataclass(frozen=True, slots=True)
class ReadingReport:
    """Report on the reading of a structure file.

    Attributes:
        path: the file.
        n_structures: how many structures it holds.
        used: names of the fields and columns that were used.
        unused: names of those that were found and are not used.
        findings: one for each kind.
        field: parameter that names the file, such as "train"; empty without one.
        remarks: further parts of the summary.
    """

    path: Path
    n_structures: int
    used: tuple[str, ...]
    unused: tuple[str, ...]
    findings: tuple[Finding, ...]
    field: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The parameter and the name of the file."""
        return f"{self.field}: {self.path.name}" if self.field else self.path.name

    @property
    def summary(self) -> str:
        """One line: the number of structures, and the names of used and unused fields."""
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        used = ", ".join(self.used) or "positions"
        structures = number_of(self.n_structures, "structure")
        return "; ".join([f"{self.name}: {structures}", f"used: {used}{unused}", *self.remarks])

    @property
    def warnings(self) -> list[str]:
        """One line for each kind of finding."""
        return [f"{self.name}: {finding.line}" for finding in self.findings]

    @property
    def lines(self) -> list[str]:
        """The summary, and the warnings."""
        return [self.summary, *self.warnings]

    def with_findings(self, *findings: Finding) -> "ReadingReport":
        """Return the report with findings of checks that follow the reading."""
        return replace(self, findings=(*self.findings, *findings))

    def with_use_of(self, name: str) -> "ReadingReport":
        """Return the report with a field that a check after the reading uses."""
        unused = tuple(each for each in self.unused if each != name)
        return replace(self, used=tuple(dict.fromkeys((*self.used, name))), unused=unused)

    def with_remark(self, text: str) -> "ReadingReport":
        """Return the report with a further part of its summary."""
        return replace(self, remarks=(*self.remarks, text))


@dataclass(slots=True)
class Notes:
    """The findings of a reading, collected structure by structure.

    Attributes:
        index: of the structure that is being read.
    """

    index: int = 0
    _used: dict[str, None] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, int] = field(default_factory=dict)

    def use(self, *names: str) -> None:
        """Record that fields or columns of the file are used."""
        self._used |= dict.fromkeys(names)

    def warn(self, text: str) -> None:
        """Record a finding of the present structure; the same text is the same kind."""
        self._counts[text] += 1
        self._first.setdefault(text, self.index)

    @property
    def used(self) -> tuple[str, ...]:
        """The names that were used, in the order in which they were found."""
        return tuple(self._used)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """One finding for each kind."""
        return tuple(Finding(text, n, self._first[text]) for text, n in self._counts.items())
