"""The atomic energies (E0s) of a NequIP network that a configuration takes from a file: some known, others fitted."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset import label_of
from surveyor.dataset.weights import weight_of
from surveyor.models.batches import evaluate_in_batches, memory_limits_of
from surveyor.models.fitted_energies import fit_beside, with_rest
from surveyor.models.nequip_config import Tree, model_given
from surveyor.models.nequip_network import calculator_of, pass_together
from surveyor.models.quiet import engine_kept_quiet

SOLE_MODEL = "sole_model"  # NequIP's name of a network among several
SCALE_AND_SHIFT = "PerTypeScaleShift"  # NequIP's module that holds atomic energies; packages have a copy of the class


def fit_energies(
    tree: Tree, file: Path, known: Mapping[str, float], fits: Sequence[str], train: Sequence[Atoms], device: str
) -> dict[str, float]:
    """Return atomic energies in eV by chemical symbol: known ones, and others fitted beside a foundation network.

    Raises:
        InputError: no energy counts.
    """
    shared = calculator_of(file, device, compiled=False)
    network = _built(tree).to(device)
    own = shifts_of(network)
    begin = {**known, **{symbol: own[symbol] for symbol in fits}}
    calculator = type(shared)(model=network, device=shared.device, transforms=shared.transforms)
    limits = memory_limits_of(file, file.stat().st_mtime_ns, device)
    predicted = [each.energy for each in evaluate_in_batches(partial(pass_together, calculator), train, limits)]
    changes = {symbol: begin[symbol] - own[symbol] for symbol in begin}
    return fit_beside(begin, fits, [*_rests(train, predicted, changes)])


def _built(tree: Tree) -> Any:  # Any: a network of NequIP
    """Return the network of a configuration as the trainer has it, with the user's modifications."""
    from hydra.utils import instantiate

    with engine_kept_quiet():
        return instantiate(model_given(tree), _recursive_=False)[SOLE_MODEL].eval()


def shifts_of(network: Any) -> dict[str, float]:  # Any: a network of NequIP
    """Return the atomic energies of a network, in eV by chemical symbol; 0 where it has none."""
    (module,) = (each for each in network.modules() if type(each).__name__ == SCALE_AND_SHIFT)
    shifts = module.shifts.detach().ravel().tolist() or [0.0]  # one for all types, or one for each
    values = np.broadcast_to(shifts, len(module.type_names)).tolist()
    return dict(zip(module.type_names, values, strict=True))


def _rests(structures: Sequence[Atoms], predicted: Sequence[float], changes: Mapping[str, float]) -> Iterator[Atoms]:
    """Yield structures labelled with the remainder of their energies, with the weights of the energies."""
    for atoms, energy in zip(structures, predicted, strict=True):
        rest = label_of(atoms).energy - energy - sum(changes[symbol] for symbol in atoms.symbols)
        yield with_rest(atoms.numbers, rest, weight_of(atoms, "energy"))
