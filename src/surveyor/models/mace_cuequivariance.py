"""cuEquivariance and OpenEquivariance: kernels for GPUs, which MACE can use in place of its own operations.

Which versions of these packages work with which of MACE is not written anywhere, and a package whose kernels do not
load may fail only when it is used. So a network with kernels is compared with the plain one before it is used.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
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
    """

    name: str
    modules: tuple[str, ...]
    converter: str

    @property
    def is_installed(self) -> bool:
        """Return whether it is here with its kernels."""
        return all(find_spec(name) is not None for name in self.modules)

    def convert(self, network: Any, device: str) -> Any:  # Any: torch is optional
        """Return a network that does the same with the kernels."""
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
        Accelerator("cuequivariance-torch", PACKAGES, "mace.cli.convert_e3nn_cueq"),
        Accelerator("openequivariance", ("openequivariance",), "mace.cli.convert_e3nn_oeq"),
    ]


def is_used(device: str) -> bool:
    """Say whether trainings on a device use cuEquivariance: on a GPU, where it is installed with its kernels."""
    return device == "cuda" and accelerators()[0].is_installed


def converted(network: Any, device: str) -> Any:  # Any: torch is optional
    """Return a network of MACE that does the same with cuEquivariance."""
    return accelerators()[0].convert(network, device)


def accelerated(network: Any, device: str, precision: Precision) -> Any:  # Any: torch is optional
    """Return a network with the first kernels that are installed and give what the plain network gives.

    Where there are none, the network itself is returned, after a warning that says what is wrong with those there are.
    """
    for accelerator in accelerators():
        if not accelerator.is_installed:
            continue
        try:
            with engine_kept_quiet():  # not the warning below
                faster = accelerator.convert(network, device)
                difference = _difference(faster, network, device, precision)
        except FAILURES as error:
            why = f"{type(error).__name__}: {error}"
        else:
            if difference <= TOLERANCE[precision]:
                return faster
            why = f"energy, forces or stress of a small structure differ by {difference:.2g}"
        logger.warning(
            "%s is not used, since it does not work with mace-torch %s here (%s); walkers and evaluations use MACE's "
            "own operations. Install versions that match, or uninstall %s",
            f"{accelerator.name} {_version(accelerator.name)}",
            _version("mace-torch"),
            why,
            accelerator.name,
        )
    return network


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
    atoms = _small_structure([*calculator.z_table.zs], float(calculator.r_max))
    output = forward(calculator, graphs_of(calculator, [atoms]))
    parts = (
        output[name].detach().cpu().double().numpy().ravel() for name in ("interaction_energy", "forces", "stress")
    )
    return np.concatenate([*parts])


def _small_structure(numbers: list[int], r_max_A: float) -> Atoms:
    """Return a periodic structure of up to eight elements of a network, in which each atom has some neighbours."""
    chosen = [numbers[index % len(numbers)] for index in range(8)]
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    spacing = 0.45 * r_max_A
    atoms = Atoms(chosen, positions=spacing * corners, cell=[2 * spacing] * 3, pbc=True)
    atoms.rattle(0.05 * spacing, seed=0)
    return atoms
