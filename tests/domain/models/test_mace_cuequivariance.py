"""cuEquivariance: its operations are the same on a CPU, where they need no kernels."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from surveyor.dataset import Dataset
from surveyor.models import mace_cuequivariance
from surveyor.models.batches import MemoryLimits
from surveyor.models.mace import MACEModel
from surveyor.models.mace_cuequivariance import converted, is_used
from surveyor.models.mace_evaluation import evaluate_together
from surveyor.models.mace_parameters import MACEParameters, settings_of
from surveyor.models.quiet import engine_kept_quiet

pytestmark = [
    pytest.mark.mace,
    pytest.mark.cuequivariance,
    pytest.mark.filterwarnings("ignore:cuequivariance_ops_torch is not available"),
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]

SMALL = MACEParameters(
    r_max_A=4.0, num_channels=4, max_L=1, correlation=2, num_interactions=1, max_num_epochs=1, device="cpu"
)


def test_training_and_evaluation_are_those_of_maces_own_operations(
    train: Dataset, valid: Dataset, tmp_path: Path
) -> None:
    import torch

    histories = {}
    for name, options in (("own", {}), ("cuequivariance", {"enable_cueq": True})):
        model = MACEModel(SMALL.model_copy(update={"options": options})).initialize(train, atomic_energies=None, seed=0)
        model, histories[name] = model.train(train, valid, tmp_path / name)
    for one, other in zip(*histories.values(), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-9)

    own = model.deploy().evaluate(valid)
    with engine_kept_quiet():
        network = converted(torch.load(model.network, weights_only=False), "cpu")
    for one, other in zip(
        evaluate_together(network, valid, precision="float64", limits=MemoryLimits("cpu")), own, strict=True
    ):
        assert one.energy == pytest.approx(other.energy, abs=1e-9)
        np.testing.assert_allclose(one.forces, other.forces, rtol=0, atol=1e-9)


def test_it_is_used_on_gpus_where_its_kernels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mace_cuequivariance, "PACKAGES", ("json",))
    assert is_used("cuda")
    assert not is_used("cpu")
    assert settings_of(MACEParameters(), "cuda")["enable_cueq"] is True
    assert "enable_cueq" not in settings_of(MACEParameters(), "cpu")
    assert settings_of(MACEParameters(options={"enable_cueq": False}), "cuda")["enable_cueq"] is False
    assert "enable_cueq" not in settings_of(MACEParameters(options={"enable_oeq": True}), "cuda")
    monkeypatch.setattr(mace_cuequivariance, "PACKAGES", ("json", "no_such_kernels"))
    assert "enable_cueq" not in settings_of(MACEParameters(), "cuda")
