"""Many structures through a MACE network at once."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.models.mace_parameters import Precision, mace_kept_quiet
from surveyor.potentials import Prediction
from surveyor.structures import is_periodic

logger = logging.getLogger(__name__)

# A larger batch is not faster, and takes more memory: what a GPU does at once is much more than what a core does.
ATOMS_AT_ONCE = {"cpu": 128, "cuda": 16384}


def evaluate_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    device: str,
    precision: Precision,
) -> list[Prediction]:
    """Return a prediction for each structure, in order.

    A batch that a GPU has no memory for is halved.

    Args:
        network: of MACE, on the device and in the precision.
        structures: compositions and periodicities may differ.
        device: "cpu" or "cuda".
        precision: of the evaluation.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single structure.
    """
    with mace_kept_quiet():
        from mace.calculators import MACECalculator

        # It knows the elements, the cutoff and the head of a network.
        calculator = MACECalculator(models=[network], device=device, default_dtype=precision)
    predictions: list[Prediction] = []
    for batch in batches(structures, ATOMS_AT_ONCE[device]):
        predictions += _evaluate(calculator, batch)
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


def _evaluate(calculator: Any, structures: Sequence[Atoms]) -> list[Prediction]:  # Any: a calculator of MACE
    import torch

    try:
        return _pass(calculator, structures)
    except torch.OutOfMemoryError:
        if len(structures) == 1:
            raise
    half = len(structures) // 2
    logger.warning("no memory to evaluate %d structures at once; %d are tried", len(structures), half)
    torch.cuda.empty_cache()
    return [*_evaluate(calculator, structures[:half]), *_evaluate(calculator, structures[half:])]


def _pass(calculator: Any, structures: Sequence[Atoms]) -> list[Prediction]:  # Any: a calculator of MACE
    """Take structures through the network together."""
    from mace import data
    from mace.tools import torch_tools
    from mace.tools.torch_geometric.batch import Batch

    with torch_tools.default_dtype(calculator.default_dtype):
        graphs = [
            data.AtomicData.from_config(
                data.config_from_atoms(atoms, key_specification=data.KeySpecification(), head_name=calculator.head),
                z_table=calculator.z_table,
                cutoff=calculator.r_max,
                heads=calculator.available_heads,
            )
            for atoms in structures
        ]
        together = Batch.from_data_list(graphs).to(calculator.device)
        found = calculator.models[0](together.to_dict(), compute_stress=True)
    energies, forces, stresses = (found[name].detach().cpu().numpy() for name in ("energy", "forces", "stress"))
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return [
        Prediction(
            energy=float(energy),
            forces=np.array(own_forces, dtype=np.float64),
            stress=full_3x3_to_voigt_6_stress(stress).astype(np.float64) if is_periodic(atoms) else None,
        )
        for atoms, energy, own_forces, stress in zip(
            structures, energies, np.split(forces, ends), stresses, strict=True
        )
    ]
