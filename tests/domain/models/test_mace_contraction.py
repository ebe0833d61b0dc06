from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from surveyor.models.mace_contraction import contract_by_element
from surveyor.models.quiet import engine_kept_quiet

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]

N_CHANNELS = 5


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
@pytest.mark.parametrize("irreps_out", ["0e", "0e + 1o"])
def test_contractions_by_element_give_what_the_contractions_of_mace_give(correlation: int, irreps_out: str) -> None:
    import torch

    with engine_kept_quiet():
        from mace.modules.symmetric_contraction import SymmetricContraction, o3
        from mace.tools.torch_tools import default_dtype

    with default_dtype("float64"):
        torch.manual_seed(0)
        contraction = SymmetricContraction(
            (N_CHANNELS * o3.Irreps("0e + 1o + 2e")).sort().irreps.simplify(),
            (N_CHANNELS * o3.Irreps(irreps_out)).simplify(),
            correlation,
            num_elements=3,
        )
        features = torch.randn(7, N_CHANNELS, 9, requires_grad=True)
        elements = torch.eye(3)[[2, 0, 2, 2, 0, 0, 2]]  # One of the three has no atoms.
        expected = contraction(features, elements)
        product = SimpleNamespace(symmetric_contractions=contraction)
        contract_by_element(SimpleNamespace(products=[product]))
        found = product.symmetric_contractions(features, elements)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        direction = torch.randn_like(expected)
        gradients = [torch.autograd.grad(values, features, direction)[0] for values in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
