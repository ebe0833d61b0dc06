"""Walkers on a reference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.potentials import predict
from surveyor.reference.ase import EMTReference
from surveyor.reference.potential import ReferencePotential
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.propagation import propagate
from surveyor.sampling.walkers import walkers_of


def test_a_reference_is_a_potential_with_its_numbers() -> None:
    reference, atoms = EMTReference(), bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    (found,) = ReferencePotential(reference, reference.resolve()).evaluate([atoms])
    expected = predict(EMT(asap_cutoff=reference.parameters.asap_cutoff), atoms)
    assert found.energy == pytest.approx(expected.energy, abs=1e-6)
    np.testing.assert_allclose(found.forces, expected.forces, atol=1e-6)
    assert found.stress is not None
    np.testing.assert_allclose(found.stress, expected.stress, atol=1e-8)


@dataclass(frozen=True)
class Stubborn:
    """EMT that fails beyond a displacement, and checks what it is given."""

    furthest: float

    def resolve(self) -> LevelOfTheory:
        return EMTReference().resolve()

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        assert directory.is_dir()
        assert not any(directory.iterdir())
        assert atoms.info["charge"] == 0
        if np.abs(atoms.positions - bulk("Cu", cubic=True).positions).max() > self.furthest:
            return LabelFailure("scf_not_converged", "too far")
        return EMTReference().compute(atoms, directory)


def test_a_failed_calculation_stops_a_walker_and_nothing_else(tmp_path: Path) -> None:
    group = Walkers(start=tmp_path / "none.extxyz", n_walkers=1, temperature_K=900, timestep_fs=4, n_steps=50)
    (walker,) = walkers_of(group, [bulk("Cu", cubic=True)], seed=0)
    reference = Stubborn(0.05)
    sample = propagate(
        walker, ReferencePotential(reference, reference.resolve()), directory=tmp_path, name="w", n_tries=2
    )
    assert sample.structure is None
    assert [each.reason for each in sample.rejections] == ["not_finite", "not_finite"]


def test_a_structure_that_the_level_of_theory_cannot_treat_is_refused() -> None:
    reference, atoms = EMTReference(), molecule("CO")
    atoms.info["charge"] = 1
    with pytest.raises(ValueError, match="treats neutral structures only"):
        ReferencePotential(reference, reference.resolve()).evaluate([atoms])
