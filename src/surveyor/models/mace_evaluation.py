"""Many structures through a MACE network at once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.models.batches import Room, evaluate_in_batches
from surveyor.models.devices import Precision
from surveyor.models.quiet import engine_kept_quiet
from surveyor.potentials import Prediction
from surveyor.structures import is_periodic


def evaluate_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    precision: Precision,
    room: Room,
) -> list[Prediction]:
    """Return a prediction for each structure, in order; see `evaluate_in_batches`.

    Args:
        network: of MACE, on the device and in the precision.
        structures: compositions and periodicities may differ.
        precision: of the evaluation.
        room: of the network on the device.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single structure.
    """
    with engine_kept_quiet():
        from mace.calculators import MACECalculator

        # It knows the elements, the cutoff and the head of a network.
        calculator = MACECalculator(models=[network], device=room.device, default_dtype=precision)
    return evaluate_in_batches(partial(_pass, calculator), structures, room)


def _pass(calculator: Any, structures: Sequence[Atoms]) -> list[Prediction]:  # Any: a calculator of MACE
    """Take structures through the network together."""
    found = forward(calculator, graphs_of(calculator, structures))
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


def graphs_of(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return what a network of MACE takes: the graphs of structures in one, with their neighbours."""
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
        together: dict[str, Any] = Batch.from_data_list(graphs).to(calculator.device).to_dict()
    return together


def forward(calculator: Any, graphs: dict[str, Any]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return what the network says of graphs."""
    from mace.tools import torch_tools

    with torch_tools.default_dtype(calculator.default_dtype):
        found: dict[str, Any] = calculator.models[0](graphs, compute_stress=True)
    return found
