"""The interface of references: a level of theory together with the code that computes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

from ase import Atoms
from pydantic import Field

from surveyor.labels import Label, LabelFailure, LevelOfTheory, Reason

LabelTimeout = Annotated[
    float,
    Field(gt=0, le=100_000, title="Time limit (min)", description="A label that takes longer is terminated and fails."),
]


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Reference(Protocol):
    """A reference, which computes labels: a small value that travels to the labelling pool."""

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory, with the contents of data files and the version of the program where this runs.

        Raises:
            InputError: the input cannot be computed here: a missing program, data file or basis set.
        """

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure.

        Args:
            atoms: canonical, with explicit charge and multiplicity (`LevelOfTheory.with_electrons`).
            directory: a new empty folder for the files of the calculation, whose name begins with the first digits of
                the label's key; kept by the caller when it fails.

        Returns:
            The label, or the typed reason why there is none. Exceptions are reserved for bugs and failing machines.

        Raises:
            Preempted: the program was terminated from outside.
        """


@runtime_checkable
class TimeLimited(Protocol):
    """A reference that ends a calculation when its time is up."""

    @property
    def time_limit_s(self) -> float | None:
        """Time limit of a calculation; None for no limit."""


@runtime_checkable
class MemoryLimited(Protocol):
    """A reference that ends a calculation when it takes too much memory."""

    @property
    def memory_limit_GB(self) -> float | None:
        """Memory limit of a calculation; None for no limit."""


@runtime_checkable
class Resumable(Protocol):
    """A reference that can read the files left by an interrupted calculation."""

    def read(self, atoms: Atoms, directory: Path) -> Label | None:
        """Return the label that a calculation had finished before it was interrupted.

        Args:
            atoms: as for `compute`.
            directory: that was given to `compute`; nothing in it is to be trusted before it is checked.

        Returns:
            The label, None where the folder does not hold a finished calculation of exactly this label.
        """


@runtime_checkable
class Choosy(Protocol):
    """A reference that knows of structures which it cannot label."""

    def objection(self, atoms: Atoms) -> str | None:
        """Return why a structure cannot be labelled; None where nothing is known that prevents it."""


def objection_of(reference: Reference, atoms: Atoms) -> str | None:
    """Return why a reference cannot label a structure; None where nothing is known that prevents it.

    Args:
        reference: computes labels.
        atoms: with explicit charge and multiplicity (`LevelOfTheory.with_electrons`).
    """
    return reference.objection(atoms) if isinstance(reference, Choosy) else None


def time_limit_of(reference: Reference) -> float | None:
    """Return how long a calculation may take, in seconds; None where the reference sets no limit."""
    return reference.time_limit_s if isinstance(reference, TimeLimited) else None


def limits_of(reference: Reference) -> Mapping[Reason, float | None]:
    """Return the limits that a reference states, by the reason of the failures that they cause; None for no limit."""
    limits: dict[Reason, float | None] = {}
    if isinstance(reference, TimeLimited):
        limits["timeout"] = reference.time_limit_s
    if isinstance(reference, MemoryLimited):
        limits["memory"] = reference.memory_limit_GB
    return limits
