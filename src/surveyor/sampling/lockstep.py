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

from surveyor.potentials import Potential, PredictingCalculator, results_of

T = TypeVar("T")


class LockstepCalculator(PredictingCalculator):
    """ASE calculator that rests until the others of its batch have asked too."""

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
        """Ask for energy, forces and stress, and rest."""
        return results_of(getcurrent().parent.switch(atoms))


class Lockstep(Generic[T]):
    """Runs functions in lockstep.

    Args:
        potential: evaluates the requested structures.
        n_at_once: number of functions that run at the same time; the others wait for one to end.
    """

    def __init__(self, potential: Potential, n_at_once: int) -> None:
        self._potential, self._n_at_once = potential, n_at_once
        self._asked: dict[greenlet, Atoms] = {}
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
                    self._resume(self._greenlet(number, function), LockstepCalculator())
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

    def _serve(self) -> None:
        """Evaluate the requested structures, and resume each function until its next request or its end."""
        served = list(self._asked)
        predictions = self._potential.evaluate([self._asked[each] for each in served])
        for resting, prediction in zip(served, predictions, strict=True):
            self._resume(resting, prediction)

    def _resume(self, resting: greenlet, value: Any) -> None:  # Any: its calculator, or what it asked for
        self._asked.pop(resting, None)
        asked = resting.switch(value)
        if not resting.dead:
            self._asked[resting] = asked
