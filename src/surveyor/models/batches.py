"""Evaluation of many structures at once by a network, as far as memory allows."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.errors import OutOfMemory
from surveyor.models.memory import ERRORS, is_out_of_memory
from surveyor.potentials import Prediction
from surveyor.structures import is_periodic
from surveyor.words import number_of

logger = logging.getLogger(__name__)

# A larger batch is not faster, and takes more memory: what a GPU does at once is much more than what a core does.
ATOMS_AT_ONCE = {"cpu": 128, "cuda": 16384}
FIRST_ATOMS = 512  # on a GPU, from which it is seen how much memory an atom takes
SHARE = 0.8  # of the memory that is free, as graphs of as many atoms differ in their edges

T = TypeVar("T")  # what a network gives for a structure
G = TypeVar("G")  # what it takes for a batch
Evaluate = Callable[[Sequence[Atoms]], Sequence[T]]


@dataclass(slots=True)
class MemoryLimits:
    """Limits on the number of atoms in a batch: the available memory, and the largest useful size.

    Attributes:
        device: "cpu" or "cuda".
        n_atoms: as many as there is memory for; None where that is not known yet.
        n_fitted: the most that have gone through so far.
    """

    device: str
    n_atoms: int | None = None
    n_fitted: int = 0

    @property
    def limit(self) -> int:
        """Number of atoms to try at once."""
        largest = ATOMS_AT_ONCE[self.device]
        if self.n_atoms is None:
            return min(largest, FIRST_ATOMS) if self.device == "cuda" else largest
        return min(largest, self.n_atoms)

    def measure(self, evaluate: Evaluate[T], structures: Sequence[Atoms]) -> list[T]:
        """Evaluate structures together; on a GPU, learn from the first ones how much memory an atom takes."""
        n_atoms = sum(len(atoms) for atoms in structures)
        if self.device != "cuda" or self.n_atoms is not None:
            predictions = [*evaluate(structures)]
        else:
            predictions = self._measure(evaluate, structures, n_atoms)
        self.n_fitted = max(self.n_fitted, n_atoms)
        return predictions

    def _measure(self, evaluate: Evaluate[T], structures: Sequence[Atoms], n_atoms: int) -> list[T]:
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        predictions = [*evaluate(structures)]
        taken = max(1, torch.cuda.max_memory_allocated() - before)
        free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        self.n_atoms = max(1, int(SHARE * free * n_atoms / taken))
        return predictions

    def lower(self, structures: Sequence[Atoms]) -> None:
        """Lower the limit, as there was no memory for these structures together."""
        self.n_atoms = max(1, sum(len(atoms) for atoms in structures) // 2)


@lru_cache(maxsize=64)
def memory_limits_of(path: Path, modified_ns: int, device: str) -> MemoryLimits:
    """Return the limits of a network on a device of this process, with the limits learned by earlier calls.

    Args:
        path: file of the network.
        modified_ns: time of modification, which distinguishes it from an earlier file of the same name.
        device: "cpu" or "cuda".
    """
    return MemoryLimits(device)


def evaluate_in_batches(evaluate: Evaluate[T], structures: Sequence[Atoms], limits: MemoryLimits) -> list[T]:
    """Return a prediction, or the features, for each structure, in order.

    A batch that does not fit into the memory of a GPU is halved, and later batches in this limits are smaller.

    Raises:
        OutOfMemory: there is no memory for a single structure.
    """
    predictions: list[T] = []
    while len(predictions) < len(structures):
        batch = next(batches(structures[len(predictions) :], limits.limit))
        predictions += _halved_where_needed(evaluate, batch, limits)
    return predictions


def evaluate_prepared(
    prepare: Callable[[Sequence[Atoms]], G],
    evaluate: Callable[[Sequence[Atoms], G], Sequence[T]],
    structures: Sequence[Atoms],
    limits: MemoryLimits,
) -> list[T]:
    """Return the results of `evaluate_in_batches`; while a GPU computes a batch, the processor prepares the next one.

    Args:
        prepare: returns the input of the network for a batch; called in another thread.
        evaluate: returns a prediction for each structure of a batch, given its input.
        structures: the structures, in order.
        limits: how many atoms go through the network at once.

    Raises:
        OutOfMemory: there is no memory for a single structure.
    """
    if limits.device == "cpu":  # both would take turns
        return evaluate_in_batches(lambda batch: evaluate(batch, prepare(batch)), structures, limits)
    predictions: list[T] = []
    ahead: tuple[Sequence[Atoms], Future[G]] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="preparation") as thread:
        while len(predictions) < len(structures):
            left = structures[len(predictions) :]
            batch = next(batches(left, limits.limit))
            if ahead is None or len(ahead[0]) > len(batch):
                ahead = batch, thread.submit(prepare, batch)
            batch, prepared = ahead
            following = next(batches(left[len(batch) :], limits.limit), None)
            ahead = None if following is None else (following, thread.submit(prepare, following))
            predictions += _halved_where_needed(_of_prepared(prepare, evaluate, batch, prepared), batch, limits)
    return predictions


def _of_prepared(
    prepare: Callable[[Sequence[Atoms]], G],
    evaluate: Callable[[Sequence[Atoms], G], Sequence[T]],
    batch: Sequence[Atoms],
    prepared: "Future[G]",
) -> Evaluate[T]:
    """Return a function that evaluates a batch, which is prepared, or a part of it."""

    def evaluate_part(part: Sequence[Atoms]) -> Sequence[T]:
        return evaluate(part, prepared.result() if len(part) == len(batch) else prepare(part))

    return evaluate_part


def batches(structures: Sequence[Atoms], n_atoms: int) -> Iterator[Sequence[Atoms]]:
    """Yield batches of structures in order, each with at most the given number of atoms, but at least one structure."""
    begin, n = 0, 0
    for end, atoms in enumerate(structures):
        if n and n + len(atoms) > n_atoms:
            yield structures[begin:end]
            begin, n = end, 0
        n += len(atoms)
    if n:
        yield structures[begin:]


def split_predictions(
    structures: Sequence[Atoms],
    energies: np.ndarray,
    forces: np.ndarray,
    stresses: np.ndarray | None,
    uncertainties: np.ndarray | None = None,
) -> list[Prediction]:
    """Return the predictions for structures that went through a network together.

    Args:
        structures: the structures, in order.
        energies: in eV, shape (n_structures,).
        forces: in eV/Å, of all atoms, shape (sum of n_atoms, 3).
        stresses: in eV/Å³, shape (n_structures, 3, 3); None if they were not computed.
        uncertainties: in eV/Å, of all atoms, shape (sum of n_atoms,); None if the network states none.
    """
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    of_structures = [None] * len(structures) if uncertainties is None else np.split(uncertainties, ends)
    of_cells = [None] * len(structures) if stresses is None else stresses
    return [
        Prediction(
            energy=float(energy),
            forces=np.array(own_forces, dtype=np.float64),
            stress=None
            if stress is None or not is_periodic(atoms)
            else full_3x3_to_voigt_6_stress(stress).astype(np.float64),
            uncertainty=uncertainty,
        )
        for atoms, energy, own_forces, stress, uncertainty in zip(
            structures, energies, np.split(forces, ends), of_cells, of_structures, strict=True
        )
    ]


def gradients_of_sums(sums: Any, positions: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:  # Any: tensors
    """Return the derivatives of sums over all atoms, for each structure of a batch.

    Args:
        sums: in a graph of operations, shape (n_features,).
        positions: of the atoms of all structures, from which the sums were computed.
        structures: the structures of the batch. None has a part in the sums of others.

    Returns:
        Each of shape (n_atoms, 3, n_features).
    """
    import torch

    gradients = [torch.autograd.grad(each, positions, retain_graph=True)[0] for each in sums]
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return np.split(torch.stack(gradients, dim=-1).cpu().numpy(), ends)


def _halved_where_needed(evaluate: Evaluate[T], structures: Sequence[Atoms], limits: MemoryLimits) -> list[T]:
    import torch

    try:
        return limits.measure(evaluate, structures)
    except ERRORS as error:
        if not is_out_of_memory(error):
            raise
        if len(structures) == 1:
            raise OutOfMemory(_does_not_fit(len(structures[0]), limits)) from error
    limits.lower(structures)
    half = len(structures) // 2
    logger.warning("no memory to evaluate %d structures at once; %d are tried", len(structures), half)
    torch.cuda.empty_cache()
    first = _halved_where_needed(evaluate, structures[:half], limits)
    return [*first, *_halved_where_needed(evaluate, structures[half:], limits)]


def _does_not_fit(n_atoms: int, limits: MemoryLimits) -> str:
    device, larger = ("GPU", "a GPU") if limits.device == "cuda" else ("machine", "a machine")
    fitted = f"the most that have fitted are {limits.n_fitted}" if limits.n_fitted else "nothing has fitted yet"
    return (
        f"the {device} has no memory for the network on a structure of {number_of(n_atoms, 'atom')}; {fitted}. Use "
        f"precision float32 (of MACE) or a smaller network, {larger} with more memory, or smaller structures"
    )
