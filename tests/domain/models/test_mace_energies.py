from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule
from foundations import ALL, check_energies_beside, check_energies_left_open, founded

from surveyor.dataset import ENERGY, FORCES
from surveyor.models import mace_energies
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.model import Model
from surveyor.models.quiet import engine_kept_quiet

pytestmark = [
    pytest.mark.mace,
    pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"'),
]


def test_energies_of_weight_zero_are_not_fitted_beside_a_foundation_model() -> None:
    with engine_kept_quiet():
        import torch
        from mace.data import AtomicData, KeySpecification, config_from_atoms
        from mace.tools import AtomicNumberTable

    class Network:
        atomic_numbers = torch.tensor([1, 8])

        def __call__(self, batch, *, compute_force):  # type: ignore[no-untyped-def]
            return {"energy": torch.zeros(len(batch["ptr"]) - 1)}

    names = KeySpecification(info_keys={"energy": ENERGY}, arrays_keys={"forces": FORCES})
    data = []
    for formula, energy, weight in (("H2", -2.0, 1.0), ("H2O", -14.0, 1.0), ("H2O", 0.0, 0.0)):
        atoms = molecule(formula)
        atoms.info |= {ENERGY: energy, "config_energy_weight": weight}
        atoms.arrays[FORCES] = np.zeros((len(atoms), 3))
        configuration = config_from_atoms(atoms, key_specification=names)
        data.append(AtomicData.from_config(configuration, z_table=AtomicNumberTable([1, 8]), cutoff=2.0))
    args = SimpleNamespace(valid_batch_size=2, device="cpu")
    found = mace_energies._fitted(Network(), {1: 0.0, 8: 0.0}, [1, 8], data, args)
    assert found == pytest.approx({"H": -1.0, "O": -12.0}, abs=1e-4)


TINY = MACEParameters(
    r_max_A=4.0,
    num_channels=4,
    max_L=0,
    correlation=1,
    num_interactions=1,
    max_num_epochs=30,
    batch_size=4,
    lr=0.1,
    device="cpu",
    options={"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
)


@pytest.fixture(scope="module")
def foundation(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return founded(MACEModel(TINY), tmp_path_factory.mktemp("foundation"))


@pytest.fixture
def tuned(foundation: Model) -> Model:
    still = {"foundation_model": foundation.weights, "max_num_epochs": 1, "lr": 1e-12}
    return MACEModel(TINY.model_copy(update=still))


@pytest.mark.parametrize("formulas", [ALL, ["Cu2Au2", "Cu3Au", "Au4"]], ids=["equal", "smaller"])
def test_unknown_energies_are_fitted_beside_the_interactions_of_a_foundation_model(
    formulas: list[str], foundation: Model, tuned: Model, tmp_path: Path
) -> None:
    check_energies_beside(foundation, tuned, formulas, tmp_path)


def test_energies_that_the_data_leave_open_stay_close_to_those_of_the_foundation_model(
    foundation: Model, tuned: Model, tmp_path: Path
) -> None:
    check_energies_left_open(foundation, tuned, tmp_path)
