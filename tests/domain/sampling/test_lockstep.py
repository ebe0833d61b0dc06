from collections.abc import Callable
from contextvars import ContextVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator

from surveyor.potentials import Prediction
from surveyor.sampling.lockstep import Lockstep

variable: ContextVar[str] = ContextVar("variable", default="not set")


class Counting:
    """Energies that count the atoms; remembers how many structures came at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def calculator(self) -> Calculator:
        raise AssertionError("structures are evaluated together")

    def evaluate(self, structures: list[Atoms]) -> list[Prediction]:
        self.sizes.append(len(structures))
        return [Prediction(float(atoms.positions.sum()), np.zeros((len(atoms), 3))) for atoms in structures]


def asking(n_times: int, offset: float) -> Callable[[Calculator], list[float]]:
    def ask(calculator: Calculator) -> list[float]:
        atoms = Atoms("H", positions=[[offset, 0, 0]], calculator=calculator)
        found = []
        for _ in range(n_times):
            atoms.positions += [1, 0, 0]
            found.append(atoms.get_potential_energy())
        return found

    return ask


def test_each_function_gets_what_it_asked_for_and_all_are_served_at_once():
    potential = Counting()
    results = Lockstep(potential, 3).run([asking(2, 0), asking(2, 100), asking(2, 200)])
    assert results == [[1, 2], [101, 102], [201, 202]]
    assert potential.sizes == [3, 3]


def test_functions_that_end_make_room_for_those_that_wait():
    potential = Counting()
    results = Lockstep(potential, 2).run([asking(1, 0), asking(4, 10), asking(2, 20), asking(0, 30), asking(1, 40)])
    assert [len(found) for found in results] == [1, 4, 2, 0, 1]
    assert potential.sizes == [2, 2, 2, 2]


def test_what_is_known_is_not_asked_again():
    potential = Counting()

    def ask_twice(calculator: Calculator) -> float:
        water = molecule("H2O")
        water.calc = calculator
        assert water.get_forces().shape == (3, 3)
        return water.get_potential_energy()

    Lockstep(potential, 2).run([ask_twice, ask_twice])
    assert potential.sizes == [2]


def test_what_is_set_for_the_thread_holds_for_all():
    variable.set("set")

    def read(calculator: Calculator) -> str:
        asking(1, 0)(calculator)
        return variable.get()

    assert Lockstep(Counting(), 2).run([read, read]) == ["set", "set"]


def test_an_exception_ends_all_and_each_cleans_up():
    cleaned = []

    def fail(calculator: Calculator) -> None:
        Atoms("H", calculator=calculator).get_potential_energy()
        raise RuntimeError("broken")

    def clean(calculator: Calculator) -> None:
        try:
            asking(5, 0)(calculator)
        finally:
            cleaned.append(True)

    with pytest.raises(RuntimeError, match="broken"):
        Lockstep(Counting(), 3).run([clean, fail, clean])
    assert cleaned == [True, True]


def test_an_exception_of_the_potential_reaches_the_caller():
    class Broken(Counting):
        def evaluate(self, structures: list[Atoms]) -> list[Prediction]:
            raise MemoryError

    with pytest.raises(MemoryError):
        Lockstep(Broken(), 2).run([asking(1, 0), asking(1, 1)])
