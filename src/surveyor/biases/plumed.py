"""Biases that PLUMED computes (Tribello et al., Comput. Phys. Commun. 185, 604 (2014)), through its Python wrapper.

Inputs use PLUMED's units, or those that they state. Results are in ASE's units, except collective variables, which
users compare with their inputs.
"""

import ctypes
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from ase import Atoms, units
from ase.geometry import complete_cell
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.bias import BiasValues
from surveyor.biases.plumed_input import BEFORE, Action, check_cell, pace_of, parse_plumed, prepared, recorded_variables
from surveyor.errors import InputError
from surveyor.structures import is_periodic
from surveyor.words import number_of

LOG = "plumed.log"
CHECK_TIMEOUT_S = 300.0
REJECTED = 3  # exit status of a check whose input is wrong
KERNEL_MODE = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)  # those of PLUMED's own wrapper
# PLUMED asks for charges also where it does not use them; variables that do are not finite, which is noticed.
UNKNOWN = np.nan
LONG_A = 1e4  # a cell in a direction that is not periodic: nothing is as far apart


class PlumedRun:
    """A PLUMED run for one moving structure, which starts from a history and returns the extended history.

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
        self._given = {*files, LOG, *(name for name in before if name not in history)}
        self._has_states, self._pace, self._last = bool(states), pace_of(actions), last
        self._last_step: int | None = None
        try:
            lines = prepared(actions, self._folder, files=files, history=history)
            for name, content in files.items():
                (self._folder / name).write_bytes(content)
            for name, earlier in before.items():
                (self._folder / name).write_text(earlier)
            self._kernel = _start(
                len(atoms), timestep_fs * units.fs, units.kB * temperature_K, self._folder / LOG, restart=bool(history)
            )
            _read(self._kernel, lines, self._folder, n_atoms=len(atoms))
            self._values = {name: _watched(self._kernel, name) for name in variables}
        except BaseException:
            self._remove()
            raise

    def evaluate(self, atoms: Atoms, *, step: int, energy: float) -> BiasValues:
        """Return the bias of a structure, and extend the history once for each step.

        Args:
            atoms: the structure.
            step: number of steps of the walker since its start.
            energy: energy of the potential in eV.
        """
        if self._last_step is None:
            # Actions do nothing at their first step, or at the first that is a multiple of their pace.
            values = self._compute(atoms, step=step - step % self._pace, energy=energy)
            if self._last is None and step % self._pace:
                values = self._compute(atoms, step=step, energy=energy, is_update=False)
            self._last_step = step
            return self._last or values
        # No second hill at one step.
        values = self._compute(atoms, step=step, energy=energy, is_update=step != self._last_step)
        self._last_step = step
        return values

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
        if self._has_states:
            cmd("doCheckPoint", 1)  # it may be the last step
        cmd("prepareCalc")
        cmd("performCalc" if is_update else "performCalcNoUpdate")
        cmd("getBias", bias)
        stress = full_3x3_to_voigt_6_stress(virial) / atoms.get_volume() if is_periodic(atoms) else None
        variables = {name: float(value[0]) for name, value in self._values.items()}
        return BiasValues(float(bias[0]), forces, stress, variables)

    def close(self) -> dict[str, str]:
        """End PLUMED, and return the text of the files from which the next run continues, by name.

        Empty files are left out, because PLUMED does not continue from them.
        """
        self._kernel.finalize()
        try:
            left = {
                path.name: path.read_text()
                for path in sorted(self._folder.iterdir())
                if path.name not in self._given and not path.name.startswith("bck.")
            }
        finally:
            self._remove()
        return {name: text for name, text in left.items() if text}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._kernel.finalize()
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _cell(atoms: Atoms) -> np.ndarray:
    """Return the cell for PLUMED, which is periodic in all directions or in none: long where the structure is not.

    It is right-handed, because PLUMED's volume is the determinant; the reversed vectors of a left-handed cell make the
    same lattice.
    """
    periodic = np.where(atoms.pbc[:, np.newaxis], atoms.cell.array, 0.0)
    cell: np.ndarray = complete_cell(periodic)
    cell[~periodic.any(axis=1)] *= LONG_A
    return cell if np.linalg.det(cell) > 0 else -cell


def _start(n_atoms: int, timestep: float, kT: float, log: Path, *, restart: bool) -> Any:  # Any: PLUMED has no types
    """Return PLUMED for a number of atoms, in ASE's units, without an input."""
    kernel = _new_kernel()
    kernel.cmd("setMDEngine", "surveyor")
    kernel.cmd("setMDEnergyUnits", units.mol / units.kJ)  # in PLUMED's: kJ/mol, nm, ps, e, u
    kernel.cmd("setMDLengthUnits", 1 / units.nm)
    kernel.cmd("setMDTimeUnits", 1 / (1000 * units.fs))
    kernel.cmd("setMDChargeUnits", 1.0)
    kernel.cmd("setMDMassUnits", 1.0)
    kernel.cmd("setNatoms", n_atoms)
    kernel.cmd("setLogFile", str(log))
    kernel.cmd("setTimestep", timestep)
    kernel.cmd("setRestart", int(restart))
    kernel.cmd("setKbT", kT)
    kernel.cmd("init")
    return kernel


def _read(kernel: Any, lines: Sequence[tuple[Action, str]], folder: Path, *, n_atoms: int) -> None:  # Any: no types
    """Have PLUMED read the lines of an input, whose files are in a folder."""
    for action, line in lines:
        try:
            kernel.cmd("readInputLine", line)
        except Exception as error:  # of many classes, all of PLUMED's own making
            message = _message(error).replace(f"{folder}{os.sep}", "")  # the names as the user knows them
            if "out of range" in message or "cannot be zero" in message:
                message += f" (the structure has {number_of(n_atoms, 'atom')}, which PLUMED counts from 1)"
            raise InputError(f"line {action.line} of the PLUMED input ({action.text}): {message}") from error


def _watched(kernel: Any, name: str) -> np.ndarray:  # Any: PLUMED has no types
    """Return where PLUMED writes a value."""
    try:
        kernel.cmd(f"getDataRank {name}", rank := np.zeros(1, dtype=int))
        kernel.cmd(f"getDataShape {name}", shape := np.zeros(rank[0], dtype=int))
    except Exception as error:  # of many classes, all of PLUMED's own making
        raise InputError(f"PLUMED has no value {name}: {_message(error)}") from error
    if shape.tolist() != [1]:
        raise InputError(
            f"{name} of the PLUMED input has the shape {shape.tolist()}, but only numbers are recorded; leave it "
            "out of PRINT"
        )
    kernel.cmd(f"setMemoryForData {name}", value := np.zeros(1))
    return value


def _message(error: BaseException) -> str:
    """Return PLUMED's own message and that of its cause, without the frame that it draws around them."""
    lines = [line.strip().removeprefix("+++").removesuffix("+++").strip() for line in str(error).splitlines()]
    text = re.sub(r"^\(\S+\.(?:cpp|h):\d+\) .*?\)( const)? ", "", " ".join(line for line in lines if line))
    return text if error.__cause__ is None else f"{text}: {_message(error.__cause__)}"


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
        if not np.isfinite(values.energy):
            raise InputError(
                "the bias of the PLUMED input is not finite at a start; correct the input or the start (charges "
                "are not known)"
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
            try:
                found.append(run.evaluate(atoms, step=0, energy=0.0))
            except Exception as error:
                raise InputError(f"PLUMED cannot evaluate its input: {_message(error)}") from error
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


def has_kernel() -> bool:
    """Return whether PLUMED's wrapper is installed and finds its kernel."""
    try:
        _new_kernel().finalize()
    except InputError:
        return False
    return True


def _new_kernel() -> Any:  # Any: PLUMED has no types
    """Return a new PLUMED kernel.

    Raises:
        InputError: its Python wrapper is not installed, or finds no kernel.
    """
    if find_spec("plumed") is None:
        raise InputError('a bias by PLUMED needs its Python wrapper; install it: pip install "surveyor[plumed]"')
    import plumed

    kernel = os.environ.get("PLUMED_KERNEL")
    try:
        if kernel:
            # PLUMED's wrapper prints what it finds, also where it fails; once loaded here, it has nothing to say.
            ctypes.CDLL(kernel, mode=KERNEL_MODE)
            return plumed.Plumed(kernel=kernel)
        return plumed.Plumed()
    except (OSError, RuntimeError) as error:
        found = f"PLUMED_KERNEL is {kernel}" if kernel else "PLUMED_KERNEL is not set"
        raise InputError(
            f"PLUMED's kernel cannot be loaded ({found}): {error}; install PLUMED where the walkers run, and let "
            "PLUMED_KERNEL be the path of its libplumedKernel.so; restraints need no PLUMED"
        ) from error
