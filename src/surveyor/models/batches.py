"""Many structures through a network at once, as many as there is memory for."""

import logging
from collections.abc import Callable, Iterator, Sequence

from ase import Atoms

from surveyor.potentials import Prediction

logger = logging.getLogger(__name__)

# A larger batch is not faster, and takes more memory: what a GPU does at once is much more than what a core does.
ATOMS_AT_ONCE = {"cpu": 128, "cuda": 16384}

Evaluate = Callable[[Sequence[Atoms]], Sequence[Prediction]]


def evaluate_in_batches(evaluate: Evaluate, structures: Sequence[Atoms], device: str) -> list[Prediction]:
    """Return a prediction for each structure, in order.

    A batch that a GPU has no memory for is halved.

    Args:
        evaluate: takes structures through the network together.
        structures: compositions and periodicities may differ.
        device: "cpu" or "cuda".

    Raises:
        torch.OutOfMemoryError: there is no memory for a single structure.
    """
    predictions: list[Prediction] = []
    for batch in batches(structures, ATOMS_AT_ONCE[device]):
        predictions += _halved_where_needed(evaluate, batch)
    return predictions


def batches(structures: Sequence[Atoms], n_atoms: int) -> Iterator[Sequence[Atoms]]:
    """Yield the structures in order, as many at once as have so many atoms together, and at least one."""
    begin, n = 0, 0
    for end, atoms in enumerate(structures):
        if n and n + len(atoms) > n_atoms:
            yield structures[begin:end]
            begin, n = end, 0
        n += len(atoms)
    if n:
        yield structures[begin:]


def _halved_where_needed(evaluate: Evaluate, structures: Sequence[Atoms]) -> list[Prediction]:
    import torch

    try:
        return [*evaluate(structures)]
    except torch.OutOfMemoryError:
        if len(structures) == 1:
            raise
    half = len(structures) // 2
    logger.warning("no memory to evaluate %d structures at once; %d are tried", len(structures), half)
    torch.cuda.empty_cache()
    return [*_halved_where_needed(evaluate, structures[:half]), *_halved_where_needed(evaluate, structures[half:])]
