"""A network of MACE with random weights, in a tenth of a second."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from surveyor.models.quiet import engine_kept_quiet


def small_mace(atomic_energies: tuple[float, float] = (-1.0, -2.0)) -> Any:  # Any: MACE has no types
    """Return a network for copper and gold with a cutoff of 3.5 Å, which are very soft."""
    import torch

    with engine_kept_quiet():
        from mace import modules  # lets torch load e3nn's own files
        from mace.tools import torch_tools

    from e3nn import o3

    with warnings.catch_warnings(), torch_tools.default_dtype("float64"):
        warnings.simplefilter("ignore")  # of TorchScript, which e3nn uses
        torch.manual_seed(0)
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        return modules.ScaleShiftMACE(
            r_max=3.5,
            num_bessel=4,
            num_polynomial_cutoff=5,
            max_ell=1,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=1,
            num_elements=2,
            hidden_irreps=o3.Irreps("4x0e + 4x1o"),
            MLP_irreps=o3.Irreps("4x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.array(atomic_energies),
            avg_num_neighbors=12.0,
            atomic_numbers=[29, 79],
            correlation=1,
            radial_MLP=[8],
            radial_type="bessel",
            atomic_inter_scale=0.2,
            atomic_inter_shift=0.0,
        )


def save_small_mace(path: Path, **options: Any) -> Path:
    """Save the network to a file."""
    import torch

    network = small_mace(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        torch.save(network, path)
    return path
