"""Biases that PLUMED computes (Tribello et al., Comput. Phys. Commun. 185, 604 (2014)), through its Python wrapper.

Inputs use PLUMED's units, or those that they state. Results are in ASE's units, except collective variables, which
users compare with their inputs.
"""

import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from ase import Atoms, units
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.bias import BiasValues
from surveyor.biases.plumed_actions import BEFORE, check_cell, prepared
from surveyor.biases.plumed_input import (
    WITH_HISTORY,
    WITH_STATE,
    pace_of,
    paces_of,
    parse_plumed,
    recorded_variables,
)
from surveyor.biases.plumed_kernel import message_of, read_lines, start_kernel, watched
from surveyor.errors import InputError
from surveyor.structures import is_periodic

LOG = "plumed.log"
CHECK_TIMEOUT_S = 300.0
REJECTED = 3  # exit status of a check whose input is wrong
# PLUMED asks for charges also where it does not use them; variables that do are not finite, which is noticed.
UNKNOWN = np.nan
LONG_A = 1e4  # a cell in a direction that is not periodic: nothing is as far apart


class PlumedRun:
    """A PLUMED run for one moving structure, which starts from a history and extends it.

    It keeps its files in a private folder, which `close` or the end of its context removes.

    Args:
        text: the PLUMED input.
        atoms: the structure, for the number of atoms and their masses.
        timestep_fs: time step of molecular dynamics.
        temperature_K: temperature that defines kT, unless actions state it.
        files: other files that the input reads, by name.
        history: text of the files that an earlier run left, by name; empty at the start.
        last: values of the bias that an earlier run gave for the first structure of this one; None at the start, or if
            the input has changed since. Hills deposited there then act from the next step on, as in an uninterrupted
            run.

    Raises:
        InputError: PLUMED is not installed or rejects the input, or the structure lacks the cell that the input needs.
    """

    def __init__(
        self,
        text: str,
        atoms: Atoms,
        *,
        timestep_fs: float,
        temperature_K: float,
        files: Mapping[str, bytes],
        history: Mapping[str, str],
        last: BiasValues | None = None,
    ) -> None:
        actions = parse_plumed(text)
        check_cell(actions, atoms.pbc)
        history = {name: earlier for name, earlier in history.items() if earlier}  # PLUMED stumbles over empty files
        variables = recorded_variables(actions)
        self._folder = Path(tempfile.mkdtemp(prefix="surveyor-plumed-"))
        states = {action.state for action in actions if action.state is not None}
        before = {f"{BEFORE}{name}" if name in states else name: text for name, text in history.items()}
        # PLUMED empties the file of a state until the state changes.
        self._unchanged = {name: earlier for name, earlier in history.items() if name in states}
        self._given = {*files, LOG, *(name for name in before if name not in history)}
        self._pace, self._before = pace_of(actions), last
        # States change where an action is due, and while it observes at its beginning, and are written then.
        self._paces_of_states = paces_of(actions, WITH_STATE)
        self._last: _Evaluation | None = None
        try:
            lines = prepared(actions, self._folder, files=files, history=history)
            for name, content in files.items():
                (self._folder / name).write_bytes(content)
            for name, earlier in before.items():
                (self._folder / name).write_text(earlier)
            self._kernel = start_kernel(
                len(atoms), timestep_fs * units.fs, units.kB * temperature_K, self._folder / LOG, restart=bool(history)
            )
            read_lines(self._kernel, lines, self._folder, n_atoms=len(atoms))
            for pace in paces_of(actions, WITH_HISTORY):
                self._kernel.cmd("readInputLine", f"FLUSH STRIDE={pace}")  # so that the history is in its files
            self._values = {name: watched(self._kernel, name) for name in variables}
        except BaseException:
            self._remove()
            raise

    def evaluate(self, atoms: Atoms, *, step: int, energy: float) -> BiasValues:
        """Return the bias of a structure, and extend the history once for each step.

        The last structure at the last step has the values that it had, without the hill that it has left since.

        Args:
            atoms: the structure.
            step: number of steps of the walker since its start.
            energy: energy of the potential in eV.

        Raises:
            InputError: PLUMED cannot go on with its input, such as where a variable leaves the grid of its bias.
        """
        last = self._last
        if last is not None and last.is_of(atoms, step):
            return last.values
        try:
            if last is None:
                values = self._first(atoms, step=step, energy=energy)
            else:  # no second hill at one step
                values = self._compute(atoms, step=step, energy=energy, is_update=step != last.step)
        except Exception as error:  # of many classes, all of PLUMED's own making
            raise InputError(f"PLUMED cannot go on with its input at step {step}: {message_of(error)}") from error
        self._last = _Evaluation(step, atoms.positions.copy(), atoms.cell.array.copy(), values)
        return values

    def _first(self, atoms: Atoms, *, step: int, energy: float) -> BiasValues:
        # Actions do nothing at their first step, or at the first that is a multiple of their pace.
        values = self._compute(atoms, step=step - step % self._pace, energy=energy)
        if self._before is not None:
            return replace(self._before, variables=values.variables)
        return self._compute(atoms, step=step, energy=energy, is_update=False) if step % self._pace else values

    def _compute(self, atoms: Atoms, *, step: int, energy: float, is_update: bool = True) -> BiasValues:
        # PLUMED keeps where these are until it has computed; ASE's own calculator lets go of some before.
        positions, masses, cell = atoms.get_positions(), atoms.get_masses(), _cell(atoms)
        charges = np.full(len(atoms), UNKNOWN)
        potential, bias = np.array([energy]), np.zeros(1)
        forces, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        cmd = self._kernel.cmd
        cmd("setStep", int(step))
        if atoms.pbc.any():
            cmd("setBox", cell)
        for name, array in {"Positions": positions, "Masses": masses, "Charges": charges}.items():
            cmd(f"set{name}", array)
        cmd("setForces", forces)
        cmd("setVirial", virial)
        cmd("setEnergy", potential)
        cmd("doCheckPoint", int(any(step <= pace or step % pace == 0 for pace in self._paces_of_states)))
        cmd("prepareCalc")
        cmd("performCalc" if is_update else "performCalcNoUpdate")
        cmd("getBias", bias)
        stress = full_3x3_to_voigt_6_stress(virial) / atoms.get_volume() if is_periodic(atoms) else None
        variables = {name: float(value[0]) for name, value in self._values.items()}
        return BiasValues(float(bias[0]), forces, stress, variables)

    @property
    def history(self) -> dict[str, str]:
        """Text of the files from which another run would continue, by name.

        Empty files are left out, because PLUMED does not continue from them.
        """
        left = {
            path.name: path.read_text()
            for path in sorted(self._folder.iterdir())
            if path.name not in self._given and not path.name.startswith("bck.")
        }
        return self._unchanged | {name: text for name, text in left.items() if text}

    def close(self) -> dict[str, str]:
        """End PLUMED, and return its history."""
        self._kernel.finalize()
        try:
            return self.history
        finally:
            self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kernel.finalize()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Evaluation:
    """The values of a structure, given by its positions and its cell, at a step."""

    step: int
    positions: np.ndarray
    cell: np.ndarray
    values: BiasValues

    def is_of(self, atoms: Atoms, step: int) -> bool:
        """Return whether it is that of a structure at a step."""
        is_there = np.array_equal(self.positions, atoms.positions) and np.array_equal(self.cell, atoms.cell.array)
        return step == self.step and is_there


def _cell(atoms: Atoms) -> np.ndarray:
    """Return the cell for PLUMED, which is periodic in all directions or in none: long where the structure is not.

    It is right-handed, because PLUMED's volume is the determinant; the reversed vectors of a left-handed cell make the
    same lattice.
    """
    periodic = np.where(atoms.pbc[:, np.newaxis], atoms.cell.array, 0.0)
    cell: np.ndarray = complete_cell(periodic)
    cell[~periodic.any(axis=1)] *= LONG_A
    return cell if np.linalg.det(cell) > 0 else -cell


def check_plumed(text: str, structures: Sequence[Atoms], *, files: Mapping[str, bytes]) -> None:
    """Check that PLUMED takes an input for structures, in a process of its own: some inputs crash it.

    Raises:
        InputError: there is no PLUMED, or it rejects the input; with its own message.
    """
    # -P: the current folder may hold modules of the same names.
    command = [sys.executable, "-P", "-c", f"from {__name__} import check_given; check_given()"]
    given = pickle.dumps((text, [_bare(atoms) for atoms in structures], dict(files)))
    try:
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=CHECK_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"PLUMED has not taken its input within {CHECK_TIMEOUT_S:g} s; leave out the action that takes so long, or "
            "try again where the machine was busy"
        ) from error
    if done.returncode == REJECTED:
        raise InputError(done.stdout.decode())
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise InputError(f"PLUMED crashes on its input ({name}); leave out the action that crashes it")
    if done.returncode:
        raise RuntimeError(f"the check of the PLUMED input failed: {done.stderr.decode()}")


def _bare(atoms: Atoms) -> Atoms:
    """Return the structure as it is passed to PLUMED."""
    return Atoms(atoms.numbers, atoms.positions, masses=atoms.get_masses(), cell=atoms.cell, pbc=atoms.pbc)


def check_given() -> None:
    """Check the input, structures and files that `check_plumed` wrote to this process, which ends here.

    What PLUMED does when the process ends does not count, even if it crashes.
    """
    text, structures, files = pickle.load(sys.stdin.buffer)
    try:
        _check_here(text, structures, files)
    except InputError as error:
        sys.stdout.write(str(error))
        sys.stdout.flush()
        os._exit(REJECTED)
    os._exit(0)


def _check_here(text: str, structures: Sequence[Atoms], files: Mapping[str, bytes]) -> None:
    for values in evaluate_plumed(text, structures, files=files):
        found = {"the bias": values.energy, **values.variables}
        wrong = next((name for name, value in found.items() if not np.isfinite(value)), None)
        if wrong is not None or not np.isfinite(values.forces).all():
            raise InputError(
                f"{wrong or 'a force'} of the PLUMED input is not finite at a start; correct the input or the start "
                "(charges are not known)"
            )


def evaluate_plumed(text: str, structures: Sequence[Atoms], *, files: Mapping[str, bytes]) -> list[BiasValues]:
    """Return collective variables and bias of structures, each as if it were the first one.

    Args:
        text: the PLUMED input.
        structures: their numbers of atoms may differ.
        files: other files that the input reads, by the name it gives them.

    Raises:
        InputError: there is no PLUMED, or it rejects the input; with its own message.
    """
    found = []
    for atoms in structures:
        with PlumedRun(text, atoms, timestep_fs=1.0, temperature_K=300.0, files=files, history={}) as run:
            found.append(run.evaluate(atoms, step=0, energy=0.0))
    return found


def variables_that_depend_on_place(text: str, atoms: Atoms, *, files: Mapping[str, bytes]) -> list[str]:
    """Return the variables that change when a structure is shifted or, where it is not periodic, turned as a whole.

    Biases on them change the momentum of the whole structure.

    Raises:
        InputError: there is no PLUMED, or it rejects the input; with its own message.
    """
    moved = atoms.copy()
    if not atoms.pbc.any():
        moved.rotate(73, (1, -2, 3), center="COM")
    moved.translate([0.37, -0.91, 0.53])
    here, there = (values.variables for values in evaluate_plumed(text, [atoms, moved], files=files))
    changes = {name: math.remainder(there[name] - value, 2 * math.pi) for name, value in here.items()}  # of torsions
    return [name for name, change in changes.items() if abs(change) > 1e-6 * max(1.0, abs(here[name]))]
