from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from ase.build import molecule

from surveyor.dataset import ENERGY, FORCES
from surveyor.models import mace_energies
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
    found = mace_energies._fitted(Network(), {1: 0.0, 8: 0.0}, data, args)
    assert found == pytest.approx({1: -1.0, 8: -12.0}, abs=1e-4)
