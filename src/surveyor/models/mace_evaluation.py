"""Evaluation of many structures at once by a MACE network."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.models.batches import (
    MemoryLimits,
    evaluate_in_batches,
    evaluate_prepared,
    gradients_of_sums,
    split_predictions,
)
from surveyor.models.devices import Precision
from surveyor.models.mace_cells import pairs_within, with_vacuum
from surveyor.models.quiet import engine_kept_quiet
from surveyor.models.uncertainty import Uncertainty, invariant_columns
from surveyor.potentials import UNCERTAINTY, Contact, Prediction

GEOMETRY_ALONE = ("MACE", "ScaleShiftMACE")  # networks that take positions, cells and elements, and nothing else


def calculator_of(
    network: Any, device: str, precision: Precision, uncertainty: Uncertainty | None = None
) -> Any:  # Any: MACE is optional
    """Return a calculator of MACE that treats slabs and chains in any setting of the axes.

    Args:
        network: of MACE.
        device: "cpu" or "cuda".
        precision: of the evaluation.
        uncertainty: of the network, which is then in the results of the same pass; None without one.
    """
    from mace.calculators import MACECalculator

    class Calculator(MACECalculator):  # type: ignore[misc]  # MACE has no types
        def _atoms_to_batch(self, atoms: Atoms) -> Any:
            return super()._atoms_to_batch(with_vacuum(atoms))

        def _create_result_tensors(self, num_models: int, num_atoms: int, batch: Any, out: dict[str, Any]) -> Any:
            self.output = out
            return super()._create_result_tensors(num_models, num_atoms, batch, out)

        def calculate(self, atoms: Atoms | None = None, *others: Any) -> None:
            super().calculate(atoms, *others)
            if self.uncertainty is not None:
                self.results[UNCERTAINTY] = self.uncertainty.of(features_of(network, self.output))

    calculator = Calculator(models=[network], device=device, default_dtype=precision)
    calculator.uncertainty = uncertainty
    return calculator


def evaluate_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    precision: Precision,
    limits: MemoryLimits,
    uncertainty: Uncertainty | None = None,
) -> list[Prediction]:
    """Return a prediction for each structure, in order; see `evaluate_in_batches`.

    Raises:
        OutOfMemory: there is no memory for a single structure.
    """
    with engine_kept_quiet():
        # It knows the elements, the cutoff and the head of a network.
        calculator = calculator_of(network, limits.device, precision, uncertainty)
    if not takes_geometry_alone(calculator, structures):  # MACE makes its graphs with a global state of torch
        return evaluate_in_batches(partial(pass_together, calculator), structures, limits)
    return evaluate_prepared(
        partial(graphs_of, calculator),
        lambda batch, graphs: pass_together(calculator, batch, graphs=graphs),
        structures,
        limits,
    )


def pass_together(
    calculator: Any,  # Any: a calculator of MACE
    structures: Sequence[Atoms],
    *,
    graphs: dict[str, Any] | None = None,  # Any: tensors
) -> list[Prediction]:
    """Take structures through the network together; their graphs are made if they are not given."""
    return predictions_of(calculator, structures, forward(calculator, graphs or graphs_of(calculator, structures)))


def predictions_of(
    calculator: Any,  # Any: a calculator of MACE
    structures: Sequence[Atoms],
    found: dict[str, Any],  # Any: tensors
    contacts: Sequence[Contact] | None = None,
) -> list[Prediction]:
    """Return the predictions in the output of the network for structures; without stress where it has none."""
    energies, forces = _energies(structures, found), found["forces"].detach().cpu().numpy()
    stresses = None if found["stress"] is None else found["stress"].detach().cpu().numpy()
    uncertainty = calculator.uncertainty
    of_atoms = None if uncertainty is None else uncertainty.of(features_of(calculator.models[0], found))
    predictions = split_predictions(structures, energies, forces, stresses, of_atoms)
    if contacts is None:
        return predictions
    return [replace(each, contact=contact) for each, contact in zip(predictions, contacts, strict=True)]


def _energies(structures: Sequence[Atoms], found: dict[str, Any]) -> np.ndarray:  # Any: tensors
    """Return the energies, shape (n_structures,), in double precision.

    Those of a network in single precision are the sums of the atoms' energies: its own sums, of some thousand eV with
    all-electron atomic energies, are rounded to tenths of a meV.
    """
    import torch

    name = "node_energy" if found["energy"].dtype == torch.float32 and "node_energy" in found else "energy"
    energies: np.ndarray = found[name].detach().cpu().double().numpy()
    if name == "energy":
        return energies
    return np.add.reduceat(energies, np.cumsum([0, *map(len, structures[:-1])]))


def features_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    precision: Precision,
    device: str,
) -> list[np.ndarray]:
    """Return the features of each structure, shape (n_atoms, n_features), without a pass for the forces.

    Raises:
        OutOfMemory: there is no memory for a single structure.
    """
    with engine_kept_quiet():
        calculator = calculator_of(network, device, precision)
    return evaluate_in_batches(partial(_pass_for_features, calculator), structures, MemoryLimits(device))


def _pass_for_features(calculator: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:  # Any: a calculator of MACE
    found = forward(calculator, graphs_of(calculator, structures), compute_force=False)
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return np.split(features_of(calculator.models[0], found), ends)


def features_of(network: Any, found: dict[str, Any]) -> np.ndarray:  # Any: a network of MACE, and tensors
    """Return the inputs of the readouts, of all layers, that do not change when a structure is turned.

    Args:
        network: of MACE.
        found: its output.

    Returns:
        Shape (n_atoms, n_features), in the precision of the network.
    """
    features: np.ndarray = _invariant(network, found).detach().cpu().numpy()
    return features


def _invariant(network: Any, found: dict[str, Any]) -> Any:  # Any: a network of MACE, and tensors
    irreps = tuple(str(product.linear.irreps_out) for product in network.products)
    return found["node_feats"][:, invariant_columns(irreps)]


def feature_gradients_together(
    network: Any,  # Any: torch is optional
    structures: Sequence[Atoms],
    *,
    precision: Precision,
    device: str,
) -> list[np.ndarray]:
    """Return the derivatives of the features' sums over the atoms of each structure, shape (n_atoms, 3, n_features).

    There is one backward pass for each feature, of all structures together.

    Raises:
        OutOfMemory: there is no memory for a single structure.
    """
    with engine_kept_quiet():
        calculator = calculator_of(network, device, precision)
    return evaluate_in_batches(partial(_pass_for_gradients, calculator), structures, MemoryLimits(device))


def _pass_for_gradients(calculator: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:  # Any: as above
    graphs = graphs_of(calculator, structures)
    found = forward(calculator, graphs, compute_force=False)
    sums = _invariant(calculator.models[0], found).sum(dim=0)
    return gradients_of_sums(sums, graphs["positions"], structures)


def graphs_of(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the input of a MACE network: the graphs of structures, joined in one, with their neighbours."""
    structures = [with_vacuum(atoms) for atoms in structures]
    if takes_geometry_alone(calculator, structures):
        return _graphs(calculator, structures)
    return _graphs_by_mace(calculator, structures)


def takes_geometry_alone(calculator: Any, structures: Sequence[Atoms]) -> bool:  # Any: a calculator of MACE
    """Return whether a network takes positions, cells and elements alone, and knows the elements of structures."""
    network = calculator.models[0]
    is_known = all(np.isin(atoms.numbers, calculator.z_table.zs).all() for atoms in structures)
    return is_known and type(network).__name__ in GEOMETRY_ALONE and not getattr(network, "embedding_specs", None)


def _graphs(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the result of `_graphs_by_mace` without labels, in a tenth of the time."""
    import torch

    found = [pairs_within(atoms, calculator.r_max) for atoms in structures]
    edges, shifts, unit_shifts, cells = zip(*found, strict=True)
    nodes = node_tensors(calculator, structures)
    begins = np.cumsum([0, *map(len, structures)])
    edge_index = np.concatenate([edge + begin for edge, begin in zip(edges, begins, strict=False)], axis=1)
    floats = {
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "shifts": np.concatenate(shifts),
        "unit_shifts": np.concatenate(unit_shifts),
        "cell": np.concatenate(cells),
    }
    options = {"device": calculator.device, "dtype": getattr(torch, calculator.default_dtype)}
    tensors = {name: torch.as_tensor(array, **options) for name, array in floats.items()}
    return nodes | tensors | {"edge_index": torch.as_tensor(edge_index, device=calculator.device).long()}


def node_tensors(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the part of a graph that does not depend on the positions."""
    import torch

    sizes = np.array([len(atoms) for atoms in structures])
    elements = np.zeros(max(calculator.z_table.zs) + 1, dtype=int)
    elements[calculator.z_table.zs] = np.arange(len(calculator.z_table))
    kinds = elements[np.concatenate([atoms.numbers for atoms in structures])]
    heads = [*calculator.available_heads]
    head = heads.index(calculator.head) if calculator.head in heads else len(heads) - 1
    integers = {
        "batch": np.repeat(np.arange(len(structures)), sizes),
        "ptr": np.concatenate([[0], np.cumsum(sizes)]),
        "head": np.full(len(structures), head),
    }
    options = {"device": calculator.device, "dtype": getattr(torch, calculator.default_dtype)}
    tensors = {name: torch.as_tensor(array, device=calculator.device).long() for name, array in integers.items()}
    return tensors | {"node_attrs": torch.as_tensor(np.eye(len(calculator.z_table))[kinds], **options)}


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


def forward(
    calculator: Any, graphs: dict[str, Any], *, compute_force: bool = True, compute_stress: bool = True
) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the output of the network for graphs, with forces and stress, with forces, or without both."""
    from mace.tools import torch_tools

    with torch_tools.default_dtype(calculator.default_dtype):
        found: dict[str, Any] = calculator.models[0](
            graphs, compute_force=compute_force, compute_stress=compute_force and compute_stress
        )
    return found
