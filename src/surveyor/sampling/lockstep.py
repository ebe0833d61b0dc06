"""Functions side by side in one thread, whose requests for forces are served together.

Each function runs in a greenlet of its own, with a calculator. When it asks for energy and forces, the greenlet rests
until all others have asked too; then one evaluation serves them all. So ASE's loops stay as they are, and each function
keeps its own integrator, constraints, bias and guards.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from greenlet import GreenletExit, getcurrent, greenlet

from surveyor.potentials import Potential, PredictingCalculator, Request, evaluator_of, results_of

T = TypeVar("T")


class LockstepCalculator(PredictingCalculator):
    """ASE calculator that rests until the others of its batch have asked too.

    Args:
        place: of the function that has it, among those that run at the same time.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place
        self._is_asked_for_stress = False

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the results of a structure, the stress only if it is needed; ASE calls this."""
        self._is_asked_for_stress = "stress" in properties
        super().calculate(atoms, properties, system_changes)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Return the changes since the last structure: everything or nothing.

        ASE compares all properties of a structure several times per step, which for small molecules costs more than
        everything else.
        """
        last = self.atoms
        is_same = (
            last is not None
            and np.array_equal(last.positions, atoms.positions)
            and np.array_equal(last.cell.array, atoms.cell.array)
            and np.array_equal(last.numbers, atoms.numbers)
            and np.array_equal(last.pbc, atoms.pbc)
        )
        return [] if is_same else list(all_changes)

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Ask for energy and forces, and for the stress if it is needed, and rest."""
        needs_stress = self.needs_stress or self._is_asked_for_stress
        return results_of(getcurrent().parent.switch(Request(atoms, self._place, needs_stress)))


class Lockstep(Generic[T]):
    """Runs functions in lockstep.

    Args:
        potential: evaluates the requested structures.
        n_at_once: number of functions that run at the same time; the others wait for one to end.
    """

    def __init__(self, potential: Potential, n_at_once: int) -> None:
        self._evaluate, self._n_at_once = evaluator_of(potential), n_at_once
        self._asked: dict[greenlet, Request] = {}
        self._free = deque(range(n_at_once))
        self._places: dict[greenlet, int] = {}
        self._results: dict[int, T] = {}

    def run(self, functions: Sequence[Callable[[Calculator], T]]) -> list[T]:
        """Return the results of the functions, in order.

        The first exception ends all functions, each with its `finally` clauses.
        """
        waiting = deque(enumerate(functions))
        try:
            while waiting or self._asked:
                while waiting and len(self._asked) < self._n_at_once:
                    number, function = waiting.popleft()
                    self._begin(self._greenlet(number, function))
                self._serve()
        finally:
            for resting in list(self._asked):
                resting.throw(GreenletExit)
        return [self._results[number] for number in range(len(functions))]

    def _greenlet(self, number: int, function: Callable[[Calculator], T]) -> greenlet:
        def work(calculator: Calculator) -> None:
            self._results[number] = function(calculator)

        resting = greenlet(work)
        resting.gr_context = copy_context()  # what is set for this thread holds there too: to whom events are reported
        return resting

    def _begin(self, starting: greenlet) -> None:
        self._places[starting] = self._free.popleft()
        self._resume(starting, LockstepCalculator(self._places[starting]))

    def _serve(self) -> None:
        """Evaluate the requested structures, and resume each function until its next request or its end."""
        served = sorted(self._asked, key=self._places.__getitem__)  # so that the same go through the network together
        predictions = self._evaluate([self._asked[each] for each in served])
        for resting, prediction in zip(served, predictions, strict=True):
            self._resume(resting, prediction)

    def _resume(self, resting: greenlet, value: Any) -> None:  # Any: its calculator, or what it asked for
        self._asked.pop(resting, None)
        asked = resting.switch(value)
        if resting.dead:
            self._free.append(self._places.pop(resting))
        else:
            self._asked[resting] = asked
