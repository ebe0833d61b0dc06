"""The device and the precision with which networks are evaluated."""

from typing import Literal

Precision = Literal["float64", "float32"]
Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> str:
    """Return "cpu" or "cuda": for "auto", a GPU where this process sees one."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
