"""cuEquivariance: kernels for GPUs, which MACE can use in place of its own operations."""

from importlib.util import find_spec
from typing import Any

PACKAGES = ("cuequivariance_torch", "cuequivariance_ops_torch")  # the operations, and their kernels


def is_used(device: str) -> bool:
    """Say whether networks on a device use cuEquivariance: on a GPU, where it is installed with its kernels."""
    return device == "cuda" and all(find_spec(name) is not None for name in PACKAGES)


def converted(network: Any, device: str) -> Any:  # Any: torch is optional
    """Return a network of MACE that does the same with cuEquivariance."""
    import torch
    from mace.cli.convert_e3nn_cueq import run

    default = torch.get_default_dtype()
    try:
        return run(network, device=device).to(device)
    finally:
        torch.set_default_dtype(default)
