"""Segments: some steps of a walker, from plain arrays to plain arrays."""

import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics
from ase.optimize import BFGS

from surveyor.biases.bias import BiasValues
from surveyor.biases.biased import Bias, BiasedCalculator
from surveyor.biases.plumed import PlumedRun
from surveyor.biases.restraints import evaluate_restraints
from surveyor.errors import InputError
from surveyor.potentials import CONTACT, UNCERTAINTY, PredictingCalculator
from surveyor.sampling.conditions import MOVING_CELL
from surveyor.sampling.guards import Readings, check, check_distances, check_uncertainty, check_wall_time
from surveyor.sampling.integrators import (
    degrees_of_freedom,
    make_integrator,
    memory_of,
    set_pressure,
    set_temperature,
)
from surveyor.sampling.observables import Recorder
from surveyor.sampling.optimisers import make_optimiser, memory_of_optimiser
from surveyor.sampling.placement import WINDOW_CENTRE, bias_at, centre_at, plumed_files
from surveyor.sampling.samples import Attempt
from surveyor.sampling.states import (
    generator_of,
    memory_of_bias,
    moving,
    remembered_bias,
    state_at_start,
    state_of,
    without_bias,
)
from surveyor.sampling.walkers import Rejection, WalkerState

DISTANCE_STRIDE = 10  # steps between two checks of distances, which cost more than the other guards


class LastingPlumed:
    """PLUMED for all segments of a try: it starts when the first one needs it, and ends with the try or its context.

    A start takes long where many hills are put on a grid anew.
    """

    def __init__(self) -> None:
        self._run: PlumedRun | None = None

    def get(self, start: Callable[[], PlumedRun]) -> PlumedRun:
        """Return the run of this try, which is started if there is none."""
        if self._run is None:
            self._run = start()
        return self._run

    def end(self) -> None:
        """End the run, whose history is no longer needed."""
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def run_segment(
    attempt: Attempt, calculator: Calculator, *, n_steps: int, began: float, plumed: LastingPlumed
) -> "Segment":
    """Make some steps of a try, or fewer if it ends earlier.

    Args:
        attempt: the try so far.
        calculator: calculator of the potential.
        n_steps: maximum number of steps.
        began: start of the propagation by the monotonic clock.
        plumed: of this try.

    Returns:
        The finished segment.
    """
    state = attempt.sample.walker.state or state_at_start(attempt.sample.walker)
    segment = Segment(attempt, state, began)
    calculator.reset()
    segment.begin(calculator, plumed)
    segment.move(n_steps)
    return segment


class Segment:
    """Some steps of a try, which end at a checkpoint, at a guard, or with the try.

    Args:
        attempt: the try so far.
        state: state of its walker.
        began: start of the propagation by the monotonic clock.

    Attributes:
        step: step of the propagation.
        rejection: reason of the rejection, or None.
        recorder: recorder of the observables.
    """

    def __init__(self, attempt: Attempt, state: WalkerState, began: float) -> None:
        walker = attempt.sample.walker
        self._attempt, self._state, self._began = attempt, state, began
        self._walker, self._conditions = walker, walker.conditions
        self._atoms, self._generator = moving(walker.start, state), generator_of(walker.seed, state)
        self._n_degrees = degrees_of_freedom(self._atoms, self._conditions)
        self._energy, self._was_certain = attempt.energy, attempt.was_certain
        self._plumed: PlumedRun | None = None
        self._last_bias: BiasValues | None = None
        self._stop: Rejection | None = None
        self.step = attempt.sample.n_steps
        self.rejection: Rejection | None = None
        self._good = self._places() if self.step else None
        self.recorder = Recorder.after(walker.conditions, self._n_degrees, attempt.sample.observables)

    def begin(self, calculator: Calculator, plumed: LastingPlumed) -> None:
        """Start the integrator or optimiser, and PLUMED unless it runs already."""
        self._of_potential = calculator
        self._ask_for_stress()
        biases: list[Bias] = []
        self._set_bias()
        if self._restraints:
            biases.append(lambda atoms, _: evaluate_restraints(self._restraints, atoms))
        if self._walker.plumed:
            self._plumed = plumed.get(self._start_plumed)
            biases.append(self._biased_by_plumed)
        self._atoms.calc = BiasedCalculator(calculator, biases) if biases else calculator
        self._mover = self._make_mover()

    def _start_plumed(self) -> PlumedRun:
        """Return a run of PLUMED that continues from the history of the walker."""
        return PlumedRun(
            self._plumed_input,
            self._atoms,
            timestep_fs=self._conditions.timestep_fs,
            temperature_K=self._conditions.temperature_at(self._progress),
            files=plumed_files(self._conditions),
            history=self._state.history,
            last=self._last_bias_of_same_conditions(),
        )

    def _ask_for_stress(self) -> None:
        """Have the potential compute the stress if the method needs it, or the record of this step."""
        if isinstance(self._of_potential, PredictingCalculator):
            is_needed = self._conditions.method in MOVING_CELL or self.recorder.is_due(self.step)
            self._of_potential.needs_stress = is_needed

    def _set_bias(self) -> None:
        """Centre restraints where the walker is along its ramp."""
        self._restraints, self._plumed_input = bias_at(self._conditions, self._walker.plumed, self._progress)
        if self._conditions.has_moving_centres:
            self._atoms.info[WINDOW_CENTRE] = centre_at(self._conditions, self._walker.plumed, self._progress)

    def _last_bias_of_same_conditions(self) -> BiasValues | None:
        """Return the bias of the present structure; None if the conditions may have changed since."""
        is_changed = self._conditions.ramp_by == "labels" and self.step == 0
        return None if is_changed else remembered_bias(self._state.memory)

    def _biased_by_plumed(self, atoms: Atoms, energy: float) -> BiasValues:
        assert self._plumed is not None
        try:
            self._last_bias = self._plumed.evaluate(atoms, step=self._n_steps_of_walker, energy=energy)
        except InputError as error:
            raise InputError(
                f"walker {self._walker.index}: {error}; correct the input, such as by walls or a wider grid, and begin "
                "another folder"
            ) from error
        return self._last_bias

    @property
    def _n_steps_of_walker(self) -> int:
        """Steps since its start or last reset."""
        return self._state.n_steps + self.step - self._attempt.sample.n_steps

    @property
    def _progress(self) -> float:
        """Progress of the walker along its ramp."""
        n_good_labels = self._walker.n_good_labels
        return self._conditions.progress_after(n_steps=self._n_steps_of_walker, n_good_labels=n_good_labels)

    def _make_mover(self) -> MolecularDynamics | BFGS:
        conditions, memory = self._conditions, without_bias(self._state.memory)
        if conditions.is_optimisation:
            pressure_MPa = conditions.pressure_at(self._progress)
            return make_optimiser(self._atoms, conditions, pressure_MPa=pressure_MPa, memory=memory)
        integrator = make_integrator(self._atoms, conditions, generator=self._generator, memory=memory)
        self._set_surroundings(integrator)
        return integrator

    def _set_surroundings(self, mover: MolecularDynamics | BFGS) -> None:
        """Bring temperature and pressure to the place of the walker along its ramp."""
        if self._conditions.has_ramp:
            set_temperature(mover, self._conditions.temperature_at(self._progress))
            set_pressure(mover, self._conditions.pressure_at(self._progress))

    def move(self, n_steps: int) -> None:
        """Make some steps, or fewer where the try ends before."""
        last = min(self.step + n_steps, self._conditions.n_steps)
        while (found := self._check()) is None and self.step < last and not self._is_converged:
            self._good = self._places()
            self.step += 1
            if self._conditions.has_ramp and self._conditions.ramp_by == "steps":
                self._set_surroundings(self._mover)
                self._set_bias()
            self._ask_for_stress()
            self._mover.step()
            self.recorder.see(self._atoms, self.step)
        if found is None or found.brings_structure:  # then the structure may be labelled: nothing is left unchecked
            self._stop = found
            self.rejection = self._check_distances()
        else:
            self.rejection = found

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        return self._atoms.positions.copy(), self._atoms.cell.array.copy()

    @property
    def last_good(self) -> Atoms | None:
        """The last structure that passed all guards, or None."""
        if self._good is None:
            return None
        atoms = self._atoms.copy()
        atoms.positions, cell = self._good
        atoms.set_cell(cell, scale_atoms=False)
        return atoms

    @property
    def _is_converged(self) -> bool:
        return isinstance(self._mover, BFGS) and bool(self._mover.converged())

    def _check(self) -> Rejection | None:
        """Return the first rejection by a guard, or None; the cheapest guards come first."""
        atoms, conditions, step = self._atoms, self._conditions, self.step
        readings = Readings(
            step,
            forces=atoms.get_forces(),
            energy=float(atoms.get_potential_energy() + atoms.get_kinetic_energy()),
            n_degrees=self._n_degrees,
            uncertainty=atoms.calc.results.get(UNCERTAINTY),
        )
        if self._energy is None:
            self._energy = readings.energy
        volume = abs(float(np.linalg.det(self._walker.start.cell.array)))
        found = check(atoms, readings, conditions, volume=volume, energy=self._energy)
        if found is None and step % DISTANCE_STRIDE == 0:
            found = self._check_distances()
        return found or self._check_uncertainty(readings) or self._check_time()

    def _check_distances(self) -> Rejection | None:
        contact = self._atoms.calc.results.get(CONTACT)  # of these positions: their forces have been asked for
        return check_distances(self._atoms, self._conditions, step=self.step, contact=contact)

    def _check_uncertainty(self, readings: Readings) -> Rejection | None:
        # A walker that begins where the potential is uncertain would bring what it brought the last time.
        limit = self._attempt.sample.max_uncertainty_meV_per_A
        found = None if limit is None else check_uncertainty(readings, limit)
        self._was_certain = self._was_certain or found is None
        return found if self._was_certain else None

    def _check_time(self) -> Rejection | None:
        if self.step == 0:
            return None  # what it would bring is known
        return check_wall_time(time.monotonic() - self._began, self._conditions, step=self.step)

    def reached(self) -> Attempt:
        """Return the try after these steps, with a structure where it is finished."""
        attempt, is_converged = self._attempt, None
        if isinstance(self._mover, BFGS):
            memory, is_converged = memory_of_optimiser(self._mover), self._is_converged
        else:
            memory = memory_of(self._mover)
        if self._last_bias is not None:
            memory |= memory_of_bias(self._last_bias)
        n_steps = self._n_steps_of_walker
        history = self._state.history if self._plumed is None else self._plumed.history
        state = state_of(self._atoms, self._generator, n_steps=n_steps, memory=memory, history=history)
        sample = replace(
            attempt.sample,
            walker=replace(self._walker, state=state),
            n_steps=self.step,
            stop=self._stop,
            is_converged=is_converged,
            observables=self.recorder.observables,
        )
        if self.step == self._conditions.n_steps or self._stop is not None or is_converged:
            sample = replace(sample, structure=sample.walker.structure)
        n_frames = attempt.n_frames + len(self.recorder.frames)
        return Attempt(sample, n_frames, self._energy, self._was_certain)
