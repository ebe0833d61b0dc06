"""Time of a step of walkers in two groups, with a device that is only as slow as a clock, and so needs no GPU.

    python benchmarks/halves.py [--walkers 64] [--device-ms 60] [--processor-ms 40] [--launches 300]

The device takes its time for a step of all walkers by sleeping, which leaves the processor free; half of the walkers
take half of it. It sleeps in as many pieces as a network starts operations, since between two of them it needs
Python's lock. The processor takes its time in a loop. Without overhead, a step of one group takes the sum of both, and
of two groups the longer of the two.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from surveyor.potentials import Evaluator, Prediction, Request
from surveyor.sampling import lockstep
from surveyor.words import number_of


class Sleeping:
    """Takes time for each structure, and none of the processor's."""

    def __init__(self, seconds: float, n_launches: int) -> None:
        self._seconds, self._n_launches = seconds, n_launches

    def calculator(self) -> Calculator:
        """Return nothing: structures are evaluated together."""
        raise NotImplementedError

    def evaluate(self, structures: Sequence[Atoms]) -> list[Prediction]:
        """Return forces of zero after a while."""
        end = time.perf_counter() + self._seconds * len(structures)
        for n_left in range(self._n_launches, 0, -1):
            time.sleep(max(0.0, (end - time.perf_counter()) / n_left))
        return [Prediction(0.0, np.zeros((len(atoms), 3))) for atoms in structures]

    def evaluator(self) -> Evaluator:
        """Return an evaluator that leaves the processor free."""
        return Evaluator(self._evaluate, is_on_device=True)

    def _evaluate(self, requests: Sequence[Request]) -> list[Prediction]:
        return self.evaluate([request.atoms for request in requests])


def walk(calculator: Calculator, n_steps: int, seconds: float, ends: list[float]) -> None:
    """Make steps that take processor time, and note when each ended."""
    atoms = Atoms("H", calculator=calculator)
    for _ in range(n_steps):
        atoms.positions += 1
        atoms.get_potential_energy()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass
        ends.append(time.perf_counter())


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--walkers", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device-ms", type=float, default=60.0)
    parser.add_argument("--processor-ms", type=float, default=40.0)
    parser.add_argument("--launches", type=int, default=1)
    options = parser.parse_args()
    device, processor = options.device_ms / 1e3, options.processor_ms / 1e3
    for n_groups, ideal in ((1, device + processor), (2, max(device, processor))):
        found = seconds_of_steps(options, n_groups)
        print(f"{number_of(n_groups, 'group')}: a step takes {1e3 * statistics.median(found):.1f} ms", end="")
        print(
            f" (lower quartile {1e3 * statistics.quantiles(found)[0]:.1f}); without any overhead {1e3 * ideal:.1f} ms"
        )


def seconds_of_steps(options: argparse.Namespace, n_groups: int) -> list[float]:
    """Return how long each step took, after the first ones."""
    n, device, processor = options.walkers, options.device_ms / 1e3, options.processor_ms / 1e3
    ends: list[list[float]] = [[] for _ in range(n)]
    functions = [
        lambda calculator, own=own: walk(calculator, options.steps, processor / n, own)  # each has its list
        for own in ends
    ]
    with patch.object(lockstep, "Pace", partial(Fixed, n_groups)):
        lockstep.Lockstep(Sleeping(device / n, options.launches), n).run(functions)
    return [later - earlier for earlier, later in itertools.pairwise(ends[0])][5:]


class Fixed(lockstep.Pace):
    """A given number of groups."""

    def __init__(self, n_groups: int, *, may_halve: bool) -> None:
        super().__init__(may_halve=False)
        self.n_groups = n_groups


if __name__ == "__main__":
    main()
