"""Kernels for GPUs, of packages that do not match, that compute something else, and that work."""

import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_mace import small_mace

from surveyor.models import mace_cuequivariance
from surveyor.models.mace_cuequivariance import accelerated, trying_kernels

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]


@pytest.fixture(scope="module")
def network() -> Any:
    return small_mace()


def no_kernels(network: Any, device: str) -> Any:
    raise AttributeError("'SegmentedPolynomialNaive' object has no attribute 'buffer_num_segments'")


def another(network: Any, device: str) -> Any:
    """Return a network of which one weight is another."""
    import torch

    changed = small_mace()
    with torch.no_grad():
        changed.radial_embedding.bessel_fn.bessel_weights[0] *= 1.01
    return changed


def broken_numbers(network: Any, device: str) -> Any:
    import torch

    changed = small_mace()
    with torch.no_grad():
        changed.radial_embedding.bessel_fn.bessel_weights[0] = torch.nan
    return changed


def the_same(network: Any, device: str) -> Any:
    return small_mace()


def the_same_without_gradients(network: Any, device: str) -> Any:
    changed = small_mace()
    forward = changed.forward

    def evaluated(*inputs: Any, training: bool = False, **options: Any) -> Any:
        if training:
            raise NotImplementedError("no second derivatives")
        return forward(*inputs, training=training, **options)

    changed.forward = evaluated
    return changed


CASES = [
    (no_kernels, "AttributeError: 'SegmentedPolynomialNaive' object has no attribute 'buffer_num_segments'"),
    (another, "energy, forces or stress of a small structure differ by 0"),
    (broken_numbers, "energy, forces or stress of a small structure differ by inf"),
    (the_same, None),
]


@pytest.mark.parametrize(("convert", "why"), CASES)
def test_kernels_are_used_only_if_they_give_what_the_plain_network_gives(
    network: Any, convert: Any, why: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from mace.cli import convert_e3nn_cueq

    monkeypatch.setattr(convert_e3nn_cueq, "run", convert)
    monkeypatch.setattr(mace_cuequivariance, "PACKAGES", ("json",))
    with caplog.at_level(logging.WARNING, logger="surveyor"):
        used = accelerated(network, "cpu", "float64")
    assert (used is network) == (why is not None)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (why is not None)
    assert all(str(why) in each and "uninstall cuequivariance-torch" in each for each in warnings)
    assert torch.get_default_dtype() == torch.float32


def test_nothing_is_tried_where_nothing_is_installed(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mace_cuequivariance, "PACKAGES", ("no_such_kernels",))
    assert accelerated(network, "cpu", "float64") is network


@pytest.mark.parametrize(
    ("convert", "why"), [*CASES, (the_same_without_gradients, "NotImplementedError: no second derivatives")]
)
def test_a_training_uses_kernels_only_if_they_give_what_the_plain_network_gives(
    network: Any, convert: Any, why: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mace.cli import convert_e3nn_cueq

    network.requires_grad_(True)  # whatever other tests have done with it
    refusal = tmp_path / "refused.txt"
    configure = trying_kernels(lambda args: (network, {}), refusal)

    def uses_kernels() -> bool:
        args = SimpleNamespace(enable_cueq=True, enable_oeq=False, device="cpu", default_dtype="float64")
        assert configure(args)[0] is network
        return args.enable_cueq

    monkeypatch.setattr(convert_e3nn_cueq, "run", convert)
    assert uses_kernels() == (why is None)
    assert refusal.exists() == (why is not None)
    assert why is None or why in refusal.read_text()
    assert all(weights.requires_grad for weights in network.parameters())
    # A training that goes on does as before, whatever is installed meanwhile.
    monkeypatch.setattr(convert_e3nn_cueq, "run", the_same)
    assert uses_kernels() == (why is None)
