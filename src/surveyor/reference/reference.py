"""What surveyor asks of a reference: a level of theory together with the code that computes it."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from ase import Atoms

from surveyor.labels import Label, LabelFailure, LevelOfTheory


@runtime_checkable  # Prefect derives a schema from the parameters of flows, which asks for isinstance
class Reference(Protocol):
    """Computes labels. A small value that travels to the labelling pool."""

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory, with the contents of data files and the version of the program where this runs.

        Raises:
            InputError: the input cannot be computed here: a missing program, data file or basis set.
        """

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure.

        Args:
            atoms: canonical, with explicit charge and multiplicity (`LevelOfTheory.with_electrons`).
            directory: a new empty folder for the files of the calculation; kept by the caller when it fails.

        Returns:
            The label, or the typed reason why there is none. Exceptions are left to bugs and dying machines.
        """


@runtime_checkable
class TimeLimited(Protocol):
    """A reference that ends a calculation when its time is up."""

    @property
    def time_limit_s(self) -> float | None:
        """How long a calculation may take; None for any time."""


def time_limit_of(reference: Reference) -> float | None:
    """Return how long a calculation may take, in seconds; None where the reference sets no limit."""
    return reference.time_limit_s if isinstance(reference, TimeLimited) else None
