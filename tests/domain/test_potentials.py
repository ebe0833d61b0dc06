"""Tests of what all calculators of surveyor share."""

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from surveyor.potentials import PredictingCalculator, Prediction, results_of


class Counting(PredictingCalculator):
    """Counts how often it computes."""

    n_computed = 0

    def results_for(self, atoms: Atoms) -> dict[str, object]:
        self.n_computed += 1
        return results_of(Prediction(1.0, np.zeros((len(atoms), 3)), np.zeros(6)))


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.positions.__setitem__((0, 0), 1e-12),
        lambda atoms: atoms.set_cell(1.01 * atoms.cell.array),
        lambda atoms: atoms.symbols.__setitem__(0, "Ag"),
        lambda atoms: atoms.set_pbc([True, True, False]),
    ],
    ids=["position", "cell", "element", "periodicity"],
)
def test_a_structure_is_computed_once_until_it_changes(change: Callable[[Atoms], None]) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.calc = Counting()
    for n_expected in (1, 2):
        atoms.get_forces()
        atoms.get_potential_energy()
        atoms.get_stress()
        assert atoms.calc.n_computed == n_expected
        change(atoms)
