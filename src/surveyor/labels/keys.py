"""Keys of labels: a hash of the structure and the level of theory."""

from dataclasses import dataclass

from ase import Atoms

from surveyor.labels.records import hash_of
from surveyor.labels.theory import LevelOfTheory
from surveyor.structures import identity_of

KEY_VERSION = "v1"


@dataclass(frozen=True, slots=True, eq=False)
class LabelRequest:
    """A structure whose label is asked for.

    Attributes:
        key: of the label.
        structure: in canonical coordinates, with explicit charge and multiplicity; that is what is labelled.
    """

    key: str
    structure: Atoms

    @classmethod
    def of(cls, atoms: Atoms, theory: LevelOfTheory) -> "LabelRequest":
        """Return the request of the label of a structure at a level of theory.

        Raises:
            InputError: the structure and the level of theory contradict each other.
        """
        structure = theory.with_electrons(atoms)
        return cls(_key_under(theory.digest, structure, theory), structure)


def label_key(atoms: Atoms, theory: LevelOfTheory) -> str:
    """Return the key of the label of a structure at a level of theory: "v1:" and 64 hexadecimal digits."""
    return LabelRequest.of(atoms, theory).key


def former_keys(structure: Atoms, theory: LevelOfTheory) -> tuple[str, ...]:
    """Return the keys that former versions of surveyor gave the label of a structure, where they were others.

    Args:
        structure: canonical, with explicit charge and multiplicity.
        theory: at which it is labelled.
    """
    return tuple(_key_under(digest, structure, theory) for digest in theory.former if digest != theory.digest)


def _key_under(digest: str, structure: Atoms, theory: LevelOfTheory) -> str:
    identity = identity_of(structure, kinds=theory.distinguishes_kinds)
    return f"{KEY_VERSION}:{hash_of({'structure': identity, 'level_of_theory': digest})}"
