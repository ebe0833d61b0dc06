"""Many structures through a MACE network at once."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.models.batches import MemoryLimits, evaluate_in_batches, split_predictions
from surveyor.models.devices import Precision
from surveyor.models.mace_cells import with_vacuum
from surveyor.models.quiet import engine_kept_quiet
from surveyor.potentials import Prediction

GEOMETRY_ALONE = ("MACE", "ScaleShiftMACE")  # networks that take positions, cells and elements, and nothing else


def calculator_of(network: Any, device: str, precision: Precision) -> Any:  # Any: MACE is optional
    """Return a calculator of MACE that treats slabs and chains in any setting of the axes."""
    from mace.calculators import MACECalculator

    class Calculator(MACECalculator):  # type: ignore[misc]  # MACE has no types
        def _atoms_to_batch(self, atoms: Atoms) -> Any:
            return super()._atoms_to_batch(with_vacuum(atoms))

    return Calculator(models=[network], device=device, default_dtype=precision)


def evaluate_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    precision: Precision,
    limits: MemoryLimits,
) -> list[Prediction]:
    """Return a prediction for each structure, in order; see `evaluate_in_batches`.

    Raises:
        torch.OutOfMemoryError: there is no memory for a single structure.
    """
    with engine_kept_quiet():
        # It knows the elements, the cutoff and the head of a network.
        calculator = calculator_of(network, limits.device, precision)
    return evaluate_in_batches(partial(pass_together, calculator), structures, limits)


def pass_together(calculator: Any, structures: Sequence[Atoms]) -> list[Prediction]:  # Any: a calculator of MACE
    """Take structures through the network together."""
    found = forward(calculator, graphs_of(calculator, structures))
    energies, forces, stresses = (found[name].detach().cpu().numpy() for name in ("energy", "forces", "stress"))
    return split_predictions(structures, energies, forces, stresses)


def graphs_of(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return what a network of MACE takes: the graphs of structures in one, with their neighbours."""
    structures = [with_vacuum(atoms) for atoms in structures]
    network = calculator.models[0]
    is_known = np.isin(np.concatenate([atoms.numbers for atoms in structures]), calculator.z_table.zs).all()
    if type(network).__name__ in GEOMETRY_ALONE and not getattr(network, "embedding_specs", None) and is_known:
        return _graphs(calculator, structures)
    return _graphs_by_mace(calculator, structures)


def _graphs(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the result of `_graphs_by_mace` without labels, in a tenth of the time."""
    import torch
    from mace.data.neighborhood import get_neighborhood

    found = [
        get_neighborhood(
            positions=atoms.positions,
            cutoff=calculator.r_max,
            pbc=tuple(atoms.pbc.tolist()),
            cell=atoms.cell.array.copy(),
        )
        for atoms in structures
    ]
    edges, shifts, unit_shifts, cells = zip(*found, strict=True)
    sizes = np.array([len(atoms) for atoms in structures])
    begins = np.concatenate([[0], np.cumsum(sizes)])
    elements = np.zeros(max(calculator.z_table.zs) + 1, dtype=int)
    elements[calculator.z_table.zs] = np.arange(len(calculator.z_table))
    kinds = elements[np.concatenate([atoms.numbers for atoms in structures])]
    heads = [*calculator.available_heads]
    head = heads.index(calculator.head) if calculator.head in heads else len(heads) - 1
    floats = {
        "node_attrs": np.eye(len(calculator.z_table))[kinds],
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "shifts": np.concatenate(shifts),
        "unit_shifts": np.concatenate(unit_shifts),
        "cell": np.concatenate(cells),
    }
    integers = {
        "edge_index": np.concatenate([edge + begin for edge, begin in zip(edges, begins, strict=False)], axis=1),
        "batch": np.repeat(np.arange(len(structures)), sizes),
        "ptr": begins,
        "head": np.full(len(structures), head),
    }
    options = {"device": calculator.device, "dtype": getattr(torch, calculator.default_dtype)}
    tensors = {name: torch.as_tensor(array, **options) for name, array in floats.items()}
    return tensors | {name: torch.as_tensor(array, device=calculator.device).long() for name, array in integers.items()}


def _graphs_by_mace(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the graphs with all that any network of MACE may take."""
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
    """Return the output of the network for graphs."""
    from mace.tools import torch_tools

    with torch_tools.default_dtype(calculator.default_dtype):
        found: dict[str, Any] = calculator.models[0](graphs, compute_stress=True)
    return found
