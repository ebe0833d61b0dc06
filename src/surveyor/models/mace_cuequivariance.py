"""cuEquivariance and OpenEquivariance: kernels for GPUs, which MACE can use in place of its own operations.

Which versions of these packages work with which of MACE is not written anywhere, and a package whose kernels do not
load may fail only when it is used. So a network with kernels is compared with the plain one before it is used, and
before a training, gradients of its weights are computed as well.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.errors import UNFORESEEN
from surveyor.models.devices import Precision
from surveyor.models.mace_evaluation import calculator_of, forward, graphs_of
from surveyor.models.quiet import engine_kept_quiet

logger = logging.getLogger(__name__)

PACKAGES = ("cuequivariance_torch", "cuequivariance_ops_torch")  # the operations, and their kernels
TOLERANCE = {"float64": 1e-6, "float32": 1e-3}  # eV, eV/Å and eV/Å³, or as a part of the largest value
FAILURES = (*UNFORESEEN, ImportError, OSError)  # of packages that do not match


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A package of kernels.

    Attributes:
        name: of its distribution.
        modules: all that have to be installed.
        converter: module of MACE whose function `run` returns a network with the kernels.
        option: of MACE's training program, to use it.
    """

    name: str
    modules: tuple[str, ...]
    converter: str
    option: str

    @property
    def is_installed(self) -> bool:
        """True if the package is installed with its kernels."""
        return all(find_spec(name) is not None for name in self.modules)

    def convert(self, network: Any, device: str) -> Any:  # Any: torch is optional
        """Return an equivalent network that uses the kernels."""
        import torch

        run: Callable[..., Any] = import_module(self.converter).run
        default = torch.get_default_dtype()
        try:
            return run(network, device=device).to(device)
        finally:
            torch.set_default_dtype(default)


def accelerators() -> list[Accelerator]:
    """Return the packages that MACE can use, the faster one first."""
    return [
        Accelerator("cuequivariance-torch", PACKAGES, "mace.cli.convert_e3nn_cueq", "enable_cueq"),
        Accelerator("openequivariance", ("openequivariance",), "mace.cli.convert_e3nn_oeq", "enable_oeq"),
    ]


def is_used(device: str) -> bool:
    """Return whether trainings on a device use cuEquivariance: on a GPU, where it is installed with its kernels."""
    return device == "cuda" and accelerators()[0].is_installed


def converted(network: Any, device: str) -> Any:  # Any: torch is optional
    """Return an equivalent MACE network that uses cuEquivariance."""
    return accelerators()[0].convert(network, device)


def accelerated(network: Any, device: str, precision: Precision) -> Any:  # Any: torch is optional
    """Return a network with the first installed kernels that reproduce the results of the plain network.

    Where there are none, the network itself is returned, after a warning that says what is wrong with those there are.
    """
    for accelerator in accelerators():
        if not accelerator.is_installed:
            continue
        faster, why = _tried(accelerator, network, device, precision)
        if not why:
            return faster
        logger.warning(_refusal(accelerator, why, "walkers and evaluations use"))
    return network


def trying_kernels(configure: Callable[..., Any], refusal: Path) -> Callable[..., Any]:  # Any: objects of MACE
    """Return MACE's function that builds the network of a training, extended to try the kernels that it would get.

    If they fail or give something else, the training has none, and a file says why. Then they are not tried again: the
    state of a training without them does not fit a network with them.

    Args:
        configure: MACE's `configure_model`.
        refusal: the file.
    """

    def configured(args: Any, *others: Any) -> Any:  # Any: objects of MACE
        network, outputs = configure(args, *others)
        for accelerator in accelerators():
            if not getattr(args, accelerator.option):
                continue
            why = "" if refusal.exists() else _complaint(accelerator, network, args.device, args.default_dtype)
            if why:
                refusal.write_text(_refusal(accelerator, why, "the training uses"))
            if refusal.exists():
                setattr(args, accelerator.option, False)
        return network, outputs

    return configured


def _complaint(accelerator: Accelerator, network: Any, device: str, precision: Precision) -> str:  # Any: a network
    """Return why a network cannot be trained with kernels; an empty text if it can."""
    with engine_kept_quiet():
        copy = deepcopy(network).to(device)
    faster, why = _tried(accelerator, copy, device, precision)
    if why:
        return why
    try:
        with engine_kept_quiet():
            largest = _largest_gradient(faster, device, precision)
    except FAILURES as error:
        return f"{type(error).__name__}: {error}"
    return "" if np.isfinite(largest) else "gradients of the weights are not finite"


def _largest_gradient(network: Any, device: str, precision: Precision) -> float:  # Any: a network
    """Return the largest gradient of the squared forces on a small structure with respect to the weights."""
    from mace.tools import torch_tools

    calculator = calculator_of(network, device, precision)
    network.requires_grad_(True)  # which the calculator has switched off
    with torch_tools.default_dtype(precision):
        graphs = graphs_of(calculator, [_small_structure_of(calculator)])
        network(graphs, training=True, compute_force=True)["forces"].square().sum().backward()
    return max(float(weights.grad.abs().max()) for weights in network.parameters() if weights.grad is not None)


def _tried(
    accelerator: Accelerator, network: Any, device: str, precision: Precision
) -> tuple[Any, str]:  # Any: networks
    """Return a network with kernels, and an empty text; or nothing, and why they cannot be used."""
    try:
        with engine_kept_quiet():
            faster = accelerator.convert(network, device)
            difference = _difference(faster, network, device, precision)
    except FAILURES as error:
        return None, f"{type(error).__name__}: {error}"
    if difference <= TOLERANCE[precision]:
        return faster, ""
    return None, f"energy, forces or stress of a small structure differ by {difference:.2g}"


def _refusal(accelerator: Accelerator, why: str, who_uses: str) -> str:
    return (
        f"{accelerator.name} {_version(accelerator.name)} is not used, since it does not work with mace-torch "
        f"{_version('mace-torch')} here ({why}); {who_uses} MACE's own operations. Install versions that match, or "
        f"uninstall {accelerator.name}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _difference(one: Any, other: Any, device: str, precision: Precision) -> float:  # Any: networks
    """Return the largest difference of two networks on a small structure: absolute, or relative to values above 1."""
    found = [_results(network, device, precision) for network in (one, other)]
    scale = max(1.0, float(np.abs(found[1]).max()))
    difference = float(np.abs(found[0] - found[1]).max()) / scale
    return difference if np.isfinite(difference) else np.inf


def _results(network: Any, device: str, precision: Precision) -> np.ndarray:  # Any: a network
    calculator = calculator_of(network, device, precision)
    output = forward(calculator, graphs_of(calculator, [_small_structure_of(calculator)]))
    parts = (
        output[name].detach().cpu().double().numpy().ravel() for name in ("interaction_energy", "forces", "stress")
    )
    return np.concatenate([*parts])


def _small_structure_of(calculator: Any) -> Atoms:  # Any: of MACE
    """Return a periodic structure of up to eight elements of a network, in which each atom has some neighbours."""
    numbers, r_max_A = [*calculator.z_table.zs], float(calculator.r_max)
    chosen = [numbers[index % len(numbers)] for index in range(8)]
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    spacing = 0.45 * r_max_A
    atoms = Atoms(chosen, positions=spacing * corners, cell=[2 * spacing] * 3, pbc=True)
    atoms.rattle(0.05 * spacing, seed=0)
    return atoms
