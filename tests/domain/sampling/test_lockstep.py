import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from processes import PATIENCE_S

from surveyor.potentials import Evaluator, Prediction, Request
from surveyor.sampling import lockstep
from surveyor.sampling.lockstep import Lockstep, Pace

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


class OnDevice(Counting):
    """Evaluates beside the processor, and says how many evaluations have begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = threading.Condition()

    def evaluator(self) -> Evaluator:
        return Evaluator(self._evaluate, is_on_device=True)

    def _evaluate(self, requests: Sequence[Request]) -> list[Prediction]:
        with self.begins:
            found = self.evaluate([request.atoms for request in requests])
            self.begins.notify_all()
        return found

    def wait_for(self, n_begun: int) -> None:
        with self.begins:
            assert self.begins.wait_for(lambda: len(self.sizes) >= n_begun, timeout=PATIENCE_S), (
                "nothing was computed meanwhile"
            )


class Halved(Pace):
    """Two groups from the beginning."""

    def __init__(self, *, may_halve: bool) -> None:
        super().__init__(may_halve=False)
        self.n_groups = 2 if may_halve else 1


def test_one_half_is_computed_while_the_other_moves(monkeypatch):
    monkeypatch.setattr(lockstep, "Pace", Halved)
    potential, n_steps = OnDevice(), 5

    def walk(calculator: Calculator, half: int, offset: float) -> list[float]:
        atoms = Atoms("H", positions=[[offset, 0, 0]], calculator=calculator)
        found = []
        for step in range(n_steps):
            atoms.positions += [1, 0, 0]
            found.append(atoms.get_potential_energy())
            if (step, half) != (n_steps - 1, 1):
                potential.wait_for(2 * step + half + 2)  # the evaluation of the other half
        return found

    functions = [lambda calculator, n=n: walk(calculator, n // 2, 100.0 * n) for n in range(4)]
    expected = [[100 * n + step for step in range(1, 6)] for n in range(4)]
    assert Lockstep(potential, 4).run(functions) == expected
    assert potential.sizes == [2] * 10


def test_an_exception_of_a_device_reaches_the_caller_and_each_cleans_up(monkeypatch):
    class Broken(OnDevice):
        def _evaluate(self, requests: Sequence[Request]) -> list[Prediction]:
            if len(self.sizes) == 3:
                raise MemoryError
            return super()._evaluate(requests)

    cleaned = []

    def walk(calculator: Calculator) -> list[float]:
        try:
            return asking(9, 0)(calculator)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(lockstep, "Pace", Halved)
    with pytest.raises(MemoryError):
        Lockstep(Broken(), 4).run([walk] * 5)
    assert cleaned == [True] * 4


@pytest.mark.parametrize(("may_halve", "of_two", "chosen"), [(True, 0.6, 2), (True, 1.4, 1), (False, 0.6, 1)])
def test_the_faster_number_of_groups_is_kept(may_halve, of_two, chosen):
    pace, now = Pace(may_halve=may_halve), 0.0
    seen = []
    for _ in range(100):
        seen.append(pace.n_groups)
        now += 1.0 if pace.n_groups == 1 else of_two / 2
        pace.count(1 / pace.n_groups, now)
    assert (2 in seen) == may_halve
    assert set(seen[-50:]) == {chosen}
