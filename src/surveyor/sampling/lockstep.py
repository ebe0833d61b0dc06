"""Concurrent functions in one thread, whose requests for forces are served together.

Each function runs in a greenlet of its own, with a calculator. When it asks for energy and forces, the greenlet rests
until all others have asked too; then one evaluation serves them all. So ASE's loops stay as they are, and each function
keeps its own integrator, constraints, bias and guards. Where a potential computes beside the processor, on a GPU, the
functions may be in two groups: while the GPU computes for one, the processor moves the other, see `Pace`.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from greenlet import GreenletExit, getcurrent, greenlet

from surveyor.potentials import Potential, PredictingCalculator, Prediction, Request, evaluator_of, results_of

# How long the thread that starts the operations of a network waits at most for the one that moves walkers: by Python's
# default 5 ms, in which a GPU has nothing to do.
SWITCH_INTERVAL_S = 1e-4

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

    def results_for(self, atoms: Atoms) -> dict[str, Any]:  # Any: numbers and arrays
        """Ask for energy and forces, and for the stress if it is needed, and rest."""
        needs_stress = self.needs_stress or self._is_asked_for_stress
        return results_of(getcurrent().parent.switch(Request(atoms, self._place, needs_stress)))


class Lockstep(Generic[T]):
    """A runner of functions in lockstep.

    Args:
        potential: evaluates the requested structures.
        n_at_once: number of functions that run at the same time; the others wait for one to end.
    """

    def __init__(self, potential: Potential, n_at_once: int) -> None:
        self._evaluator, self._n_at_once = evaluator_of(potential), n_at_once
        self._asked: dict[greenlet, Request] = {}
        self._served: deque[tuple[list[greenlet], Future[list[Prediction]]]] = deque()  # groups, the oldest first
        self._free = deque(range(n_at_once))
        self._places: dict[greenlet, int] = {}
        self._results: dict[int, T] = {}

    def run(self, functions: Sequence[Callable[[Calculator], T]]) -> list[T]:
        """Return the results of the functions, in order.

        The first exception ends all functions, each with its `finally` clauses.
        """
        waiting = deque(enumerate(functions))
        pace = Pace(may_halve=self._evaluator.is_on_device and min(len(functions), self._n_at_once) > 1)
        with self._device() as device:
            try:
                while waiting or self._places:
                    while waiting and self._free:
                        self._begin(self._greenlet(*waiting.popleft()))
                    self._submit(device, pace.n_groups)
                    pace.count(self._serve() / max(1, len(self._places)), time.perf_counter())
            finally:
                for resting in [each for each in self._places if not each.dead]:
                    resting.throw(GreenletExit)
        return [self._results[number] for number in range(len(functions))]

    @contextmanager
    def _device(self) -> Iterator[Executor | None]:
        """Yield the thread of the evaluations; None if they take place in this one."""
        if not self._evaluator.is_on_device:
            yield None
            return
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="evaluation") as thread:
                yield thread
        finally:
            sys.setswitchinterval(interval)

    def _greenlet(self, number: int, function: Callable[[Calculator], T]) -> greenlet:
        def work(calculator: Calculator) -> None:
            self._results[number] = function(calculator)

        resting = greenlet(work)
        resting.gr_context = copy_context()  # what is set for this thread holds there too: to whom events are reported
        return resting

    def _begin(self, starting: greenlet) -> None:
        self._places[starting] = self._free.popleft()
        self._resume(starting, LockstepCalculator(self._places[starting]))

    def _submit(self, device: Executor | None, n_groups: int) -> None:
        """Have the requested structures evaluated, in as many groups as there are to be."""
        while self._asked and len(self._served) < n_groups:
            # Sorted, so that the same structures go through the network together.
            group = sorted(self._asked, key=self._places.__getitem__)
            if n_groups > 1 and not self._served:
                group = group[: -(-len(group) // 2)]
            requests = [self._asked.pop(each) for each in group]
            if device is None:
                future: Future[list[Prediction]] = Future()
                future.set_result(self._evaluator.evaluate(requests))
            else:
                future = device.submit(copy_context().run, self._evaluator.evaluate, requests)
            self._served.append((group, future))

    def _serve(self) -> int:
        """Resume the functions of the oldest group until their next request or their end, and return their number."""
        if not self._served:
            return 0
        group, future = self._served.popleft()
        for resting, prediction in zip(group, future.result(), strict=True):
            self._resume(resting, prediction)
        return len(group)

    def _resume(self, resting: greenlet, value: Any) -> None:  # Any: its calculator, or what it asked for
        asked = resting.switch(value)
        if resting.dead:
            self._free.append(self._places.pop(resting))
        else:
            self._asked[resting] = asked


class Pace:
    """The choice between one group of functions and two, by the time that their steps take.

    Two groups hide the work of the processor behind that of the GPU, but the GPU takes longer for two half batches than
    for a whole one if they do not fill it. Which is more depends on the structures, the network and the GPU.

    Args:
        may_halve: whether two groups are tried.

    Attributes:
        n_groups: how many there are to be.
    """

    WARM_UP, TIMED = 3.0, 8.0  # steps of all functions

    def __init__(self, *, may_halve: bool) -> None:
        self.n_groups = 1
        self._untried = [2] if may_halve else []
        self._seconds: dict[int, float] = {}
        self._n_steps = 0.0
        self._began: float | None = None

    def count(self, n_steps: float, now: float) -> None:
        """Take note of steps.

        Args:
            n_steps: steps of all functions; half a step if half of them have moved.
            now: time in s.
        """
        if self.n_groups in self._seconds:
            return  # it is decided
        self._n_steps += n_steps
        if self._began is None and self._n_steps >= self.WARM_UP:
            self._n_steps, self._began = 0.0, now
        elif self._began is not None and self._n_steps >= self.TIMED:
            self._seconds[self.n_groups] = (now - self._began) / self._n_steps
            self._n_steps, self._began = 0.0, None
            self.n_groups = self._untried.pop() if self._untried else min(self._seconds, key=self._seconds.__getitem__)
