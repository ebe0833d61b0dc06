"""Networks of NequIP from their files, native or compiled, and the evaluation of many structures at once."""

import hashlib
import logging
import platform
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.errors import InputError
from surveyor.models.batches import (
    MemoryLimits,
    evaluate_in_batches,
    gradients_of_sums,
    memory_limits_of,
    split_predictions,
)
from surveyor.models.nequip_config import Network
from surveyor.models.nequip_parameters import require_nequip
from surveyor.models.quiet import engine_kept_quiet
from surveyor.models.uncertainty import Uncertainty, invariant_columns
from surveyor.potentials import UNCERTAINTY, Prediction

logger = logging.getLogger(__name__)

TARGET = "batch"  # NequIP's name for what is compiled for many structures at once


def calculator_of(path: Path, device: str, *, compiled: bool = True) -> Any:  # Any: a calculator of NequIP
    """Return a new calculator; all calculators of a process share one network.

    Args:
        path: package, or compiled potential, of NequIP.
        device: "cpu" or "cuda".
        compiled: whether to use the compiled potential beside the package, if there is one for this kind of machine.

    Raises:
        InputError: NequIP is not installed.
    """
    require_nequip()
    fast = compiled_file(path, device)
    chosen = fast if compiled and fast.is_file() else path
    shared = _calculator(chosen, chosen.stat().st_mtime_ns, device)
    return type(shared)(model=shared.model, device=shared.device, transforms=shared.transforms)


def describe(path: Path) -> Network:
    """Return the atom types and the cutoff of the network in a file."""
    metadata = calculator_of(path, "cpu", compiled=False).model.metadata
    return Network(metadata["type_names"].split(" "), float(metadata["r_max"]))


def compiled_file(path: Path, device: str) -> Path:
    """Return where the compiled potential of a package is, for machines like this one."""
    return path.with_name(f"{path.name.partition('.')[0]}-{TARGET}-{device}-{_machine(device)}.nequip.pt2")


def compiled_files(path: Path) -> list[Path]:
    """Return the compiled potentials of a package, for all kinds of machines."""
    return sorted(path.parent.glob(f"{path.name.partition('.')[0]}-{TARGET}-*.nequip.pt2"))


@lru_cache
def _machine(device: str) -> str:
    """Return a digest of the hardware and the version of torch, to which a compiled potential is bound."""
    import torch

    if device == "cuda":
        kind = f"{torch.cuda.get_device_name()} {torch.cuda.get_device_capability()} {torch.version.cuda}"
    else:
        flags = re.search(r"^flags\s*:(.*)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
        kind = " ".join(sorted(flags[1].split())) if flags else platform.processor()
    return hashlib.sha256(f"{platform.machine()} {torch.__version__} {kind}".encode()).hexdigest()[:12]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@lru_cache(maxsize=8)
def _calculator(path: Path, modified_ns: int, device: str) -> Any:  # Any: a calculator of NequIP
    # Walkers that share a process and a model share the network; the time tells it from an earlier file of that name.
    with engine_kept_quiet():
        from nequip.integrations.ase import NequIPCalculator

        logger.debug("loading %s of %d ns on %s", path, modified_ns, device)
        load = NequIPCalculator._from_saved_model
        if path.suffix == ".pt2":
            load = _compiled_calculator().from_compiled_model
        return load(path, device=device, chemical_species_to_atom_type_map=True)


def _compiled_calculator() -> Any:  # Any: a class of NequIP
    """Return the class of calculators of compiled potentials.

    These are exported for at least two structures and two edges. Where there are fewer, two more atoms go through
    them, whose results are dropped.
    """
    from nequip.data import AtomicDataDict
    from nequip.integrations.ase import NequIPCalculator
    from nequip.scripts._compile_utils import COMPILE_TARGET_DICT

    target: dict[str, Any] = COMPILE_TARGET_DICT[TARGET]
    of_atoms = (AtomicDataDict.PER_ATOM_ENERGY_KEY, AtomicDataDict.FORCE_KEY)

    class Calculator(NequIPCalculator):  # type: ignore[misc]  # NequIP has no types
        @classmethod
        def _get_aoti_compile_target(cls) -> dict[str, Any]:
            return target

        def call_model(self, data: dict[str, Any]) -> dict[str, Any]:
            n_structures, n_atoms = AtomicDataDict.num_frames(data), AtomicDataDict.num_nodes(data)
            if n_structures < 2 or AtomicDataDict.num_edges(data) < 2:
                given = {name: data[name] for name in target["input"] if name in data}
                data = AtomicDataDict.batched_from_list([given, _pair_beside(given)])
            found = super().call_model(data)
            return {name: found[name][: n_atoms if name in of_atoms else n_structures] for name in found}

    return Calculator


def _pair_beside(data: dict[str, Any]) -> dict[str, Any]:  # Any: tensors
    """Return the graph of two atoms, 1 Å apart, of the kind of the first atom of another graph."""
    from nequip.data import AtomicDataDict

    positions, edges = data[AtomicDataDict.POSITIONS_KEY], data[AtomicDataDict.EDGE_INDEX_KEY]
    return {
        AtomicDataDict.POSITIONS_KEY: positions.new_tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        AtomicDataDict.ATOM_TYPE_KEY: data[AtomicDataDict.ATOM_TYPE_KEY][[0, 0]],
        AtomicDataDict.EDGE_INDEX_KEY: edges.new_tensor([[0, 1], [1, 0]]),
        AtomicDataDict.EDGE_CELL_SHIFT_KEY: positions.new_zeros(2, 3),
        AtomicDataDict.CELL_KEY: positions.new_zeros(1, 3, 3),
    }


def stating(calculator: Any, uncertainty: Uncertainty) -> Any:  # Any: a calculator of NequIP
    """Return a calculator that shares the network of another, not compiled one, and states an uncertainty."""

    class Calculator(type(calculator)):  # type: ignore[misc]  # NequIP has no types
        def save_extra_outputs(self, out: dict[str, Any]) -> None:
            self.results[UNCERTAINTY] = uncertainty.of(_features_of(self, out))

    return Calculator(model=calculator.model, device=calculator.device, transforms=calculator.transforms)


def evaluate_together(
    path: Path,
    structures: Sequence[Atoms],
    device: str,
    uncertainty: Uncertainty | None,
    *,
    compiled: bool,
) -> list[Prediction]:
    """Return a prediction for each structure, in order; see `calculator_of` and `evaluate_in_batches`.

    Predictions that state an uncertainty need the features of the network, which what is compiled does not show.
    """
    calculator = calculator_of(path, device, compiled=compiled and uncertainty is None)
    limits = memory_limits_of(path, path.stat().st_mtime_ns, device)
    return evaluate_in_batches(partial(pass_together, calculator, uncertainty=uncertainty), structures, limits)


def features_together(path: Path, structures: Sequence[Atoms], device: str) -> list[np.ndarray]:
    """Return the features of each structure, shape (n_atoms, n_features).

    Raises:
        InputError: the network shows none.
    """
    calculator = calculator_of(path, device, compiled=False)
    limits = memory_limits_of(path, path.stat().st_mtime_ns, device)
    return evaluate_in_batches(partial(_pass_for_features, calculator), structures, limits)


def feature_gradients_together(path: Path, structures: Sequence[Atoms], device: str) -> list[np.ndarray]:
    """Return the derivatives of the features' sums over the atoms of each structure, shape (n_atoms, 3, n_features).

    There is one backward pass for each feature, of all structures together.

    Raises:
        InputError: the network shows no features, or none without forces.
    """
    calculator = calculator_of(path, device, compiled=False)
    return evaluate_in_batches(partial(_pass_for_gradients, calculator), structures, MemoryLimits(device))


def pass_together(
    calculator: Any,  # Any: a calculator of NequIP
    structures: Sequence[Atoms],
    uncertainty: Uncertainty | None = None,
) -> list[Prediction]:
    """Take structures through the network together; with an uncertainty, predictions state it."""
    found = _forward(calculator, structures)
    energies, forces, stresses = (found[name].detach().cpu().numpy() for name in ("total_energy", "forces", "stress"))
    of_atoms = None if uncertainty is None else uncertainty.of(_features_of(calculator, found))
    return split_predictions(structures, energies.ravel(), forces, stresses, of_atoms)


def _pass_for_features(calculator: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:  # Any: a calculator of NequIP
    ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
    return np.split(_features_of(calculator, _forward(calculator, structures)), ends)


def _forward(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    found: dict[str, Any] = calculator.call_model(_graphs(calculator, structures))
    return found


def _graphs(calculator: Any, structures: Sequence[Atoms]) -> dict[str, Any]:  # Any: a calculator, and tensors
    """Return the input of a network: the graphs of structures, joined in one.

    NequIP would also take energies, forces and the like from a structure, which then all structures need to have.
    """
    from nequip.data import AtomicDataDict

    unlabelled = [
        Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc) for atoms in structures
    ]
    graphs: dict[str, Any] = AtomicDataDict.batched_from_list([calculator.atoms_to_data(atoms) for atoms in unlabelled])
    return graphs


def _pass_for_gradients(calculator: Any, structures: Sequence[Atoms]) -> list[np.ndarray]:  # Any: as above
    from nequip.data import AtomicDataDict

    data = _graphs(calculator, structures)
    positions = data[AtomicDataDict.POSITIONS_KEY].requires_grad_(True)
    given = {name: data[name] for name in calculator.model.model_input_fields if name in data}
    sums = _invariant(calculator, _without_forces(calculator.model)(given)).sum(dim=0)
    return gradients_of_sums(sums, positions, structures)


def check_features(network: Any, *, with_gradients: bool) -> None:  # Any: NequIP has no types
    """Check that a network shows the features from which it computes energies.

    Args:
        network: of NequIP, as it was built.
        with_gradients: whether their gradients are needed, too.

    Raises:
        InputError: it does not.
    """
    from nequip.data import AtomicDataDict

    if AtomicDataDict.NODE_FEATURES_KEY not in network.irreps_out:
        raise InputError(f"this network of NequIP has no {AtomicDataDict.NODE_FEATURES_KEY} in its output")
    if with_gradients:
        _without_forces(network)


def _without_forces(network: Any) -> Any:  # Any: NequIP has no types
    """Return the part of a network that gives energies: the pass for forces frees the graph of operations."""
    found = [module.func for module in network.modules() if hasattr(module, "do_derivatives")]
    if not found:
        raise InputError("this network of NequIP has no part that gives energies alone")
    return found[0]


def _features_of(calculator: Any, found: dict[str, Any]) -> np.ndarray:  # Any: a calculator, and tensors
    features: np.ndarray = _invariant(calculator, found).detach().cpu().numpy()
    return features


def _invariant(calculator: Any, found: dict[str, Any]) -> Any:  # Any: a calculator, and tensors
    from nequip.data import AtomicDataDict

    name = AtomicDataDict.NODE_FEATURES_KEY
    if name not in found or name not in calculator.model.irreps_out:
        raise InputError(f"this network of NequIP has no {name} in its output; leave out uncertainty")
    columns = invariant_columns((str(calculator.model.irreps_out[name]),))
    return found[name][:, columns]
