"""The requests of a labelling: a key for each structure, one computation for each key, several of them to a task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType

from ase import Atoms

from surveyor.dataset import without_label
from surveyor.errors import InputError
from surveyor.labels import NO_LIMITS_KNOWN, LabelFailure, LabelRequest, LabelStore, LevelOfTheory, Reason
from surveyor.labels.look_ups import outcomes
from surveyor.reference.reference import Reference, objection_of, time_limit_of
from surveyor.structures import check_description, check_overlap, elements_of

# A task costs tens of milliseconds, a cheap label a few: so many share the cost, and so many tasks keep workers busy.
CHEAP_CHUNK = 25
LEAST_CHUNKS = 16

NOTHING_KNOWN: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Structures that one task labels.

    Attributes:
        name: for people: the numbers of the first and the last one, among all that have a key of their own.
        structures: in canonical coordinates, by key.
    """

    name: str
    structures: Mapping[str, Atoms]

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def digest(self) -> str:
        """Hash of the keys, by which a pool joins the same work."""
        return sha256(" ".join(self.structures).encode()).hexdigest()

    def only(self, keys: Iterable[str]) -> "Chunk":
        """Return the chunk of some of the structures."""
        return Chunk(self.name, {key: self.structures[key] for key in keys})

    def of_one(self) -> "list[Chunk]":
        """Return a chunk for each structure."""
        return [Chunk(f"{self.name}, {key[:11]}", {key: atoms}) for key, atoms in self.structures.items()]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """The requested labels.

    Attributes:
        structures: structures in the order of the file, without their labels.
        keys: keys of their labels, or None if they cannot be labelled. Identical structures share a key.
        refused: reasons why structures cannot be labelled, by index.
        by_key: the structure to label under each key, in canonical coordinates and in the order of the file.
    """

    structures: Sequence[Atoms]
    keys: Sequence[str | None]
    refused: Mapping[int, LabelFailure]
    by_key: Mapping[str, Atoms]

    def chunks(self, size: int) -> list[Chunk]:
        """Return all requests in chunks, which depend only on the structures, not on the progress.

        Args:
            size: structures in a chunk.
        """
        pairs = list(self.by_key.items())
        chunks = []
        for begin in range(0, len(pairs), size):
            some = pairs[begin : begin + size]
            name = f"{begin}" if len(some) == 1 else f"{begin}-{begin + len(some) - 1}"
            chunks.append(Chunk(name, dict(some)))
        return chunks

    def missing(self, store: LabelStore, limits: Mapping[Reason, float | None] = NO_LIMITS_KNOWN) -> list[str]:
        """Return the keys for which work is to be done.

        Args:
            store: where labels and failures are.
            limits: what the code allows now, see `LabelStore.outcome`.
        """
        return [key for key, outcome in outcomes(store, self.by_key, limits) if outcome is None]


def make_requests(
    structures: Sequence[Atoms],
    theory: LevelOfTheory,
    reference: Reference | None = None,
    known: Mapping[int, str] = NOTHING_KNOWN,
) -> Requests:
    """Return the requests for structures at a level of theory; those that cannot be labelled are refused.

    Args:
        structures: structures of the file.
        theory: the level of theory.
        reference: the reference, which may refuse a structure; None if no labels are computed.
        known: reasons why structures were already refused, by index.
    """
    unlabelled = [without_label(atoms) for atoms in structures]
    keys: list[str | None] = []
    refused: dict[int, LabelFailure] = {}
    by_key: dict[str, Atoms] = {}
    for index, atoms in enumerate(unlabelled):
        request = _known_objection(known, index) or _requested(atoms, theory, reference, index)
        if isinstance(request, LabelFailure):
            keys.append(None)
            refused[index] = request
        else:
            keys.append(request.key)
            by_key.setdefault(request.key, request.structure)
    return Requests(unlabelled, keys, refused, by_key)


def _known_objection(known: Mapping[int, str], index: int) -> LabelFailure | None:
    return LabelFailure("invalid_input", f"structure {index}: {known[index]}") if index in known else None


def _requested(
    atoms: Atoms, theory: LevelOfTheory, reference: Reference | None, index: int
) -> LabelRequest | LabelFailure:
    """Return the request of the label of a structure, or why there can be none."""
    name = f"structure {index}"
    reason: Reason = "invalid_input"
    try:
        check_description(atoms, name)
        request = _with_electrons(atoms, theory, name)
        objection = None if reference is None else objection_of(reference, request.structure)
        if objection is not None:
            raise InputError(f"{name}: {objection}")
        _check_treated(atoms, theory, name)
        reason = "geometry"
        check_overlap(atoms, name)
    except InputError as error:
        return LabelFailure(reason, str(error))
    return request


def _with_electrons(atoms: Atoms, theory: LevelOfTheory, name: str) -> LabelRequest:
    try:
        return LabelRequest.of(atoms, theory)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_treated(atoms: Atoms, theory: LevelOfTheory, name: str) -> None:
    unknown = [each for each in elements_of([atoms]) if theory.elements is not None and each not in theory.elements]
    if unknown:
        reasons = "".join(f"; {theory.unusable[symbol]}" for symbol in unknown if symbol in theory.unusable)
        raise InputError(f"{name}: {theory.name} cannot treat {', '.join(unknown)}{reasons}")
    if theory.n_periodic is not None and int(atoms.pbc.sum()) not in theory.n_periodic:
        directions = " or ".join(map(str, theory.n_periodic))
        raise InputError(
            f"{name}: {theory.name} treats structures periodic in {directions} directions; found pbc "
            f"{atoms.pbc.tolist()}"
        )


def default_chunk_size(reference: Reference, n_requested: int) -> int:
    """Return how many structures a task labels where the user does not say.

    Args:
        reference: one that sets a time limit runs a program, beside which the cost of a task is nothing.
        n_requested: how many labels there shall be.
    """
    if time_limit_of(reference) is not None:
        return 1
    return max(1, min(CHEAP_CHUNK, n_requested // LEAST_CHUNKS))
