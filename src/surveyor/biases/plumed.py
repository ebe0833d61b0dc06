"""Biases that PLUMED computes (Tribello et al., Comput. Phys. Commun. 185, 604 (2014)), through its Python wrapper.

Inputs are in PLUMED's units, or those that they state; everything that comes back is in ASE's, but for collective
variables, which people compare with their inputs.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases.bias import BiasValues
from surveyor.biases.plumed_input import Action, parse_plumed, prepared, recorded_variables
from surveyor.errors import InputError
from surveyor.structures import is_periodic

LOG = "plumed.log"


class PlumedRun:
    """PLUMED for one structure that moves, from its history to the history that it leaves.

    It has a private folder for its files, which `close` removes.

    Args:
        text: the PLUMED input.
        atoms: the structure, for the number of atoms and their masses.
        timestep_fs: of molecular dynamics.
        temperature_K: gives kT.
        files: other files that the input reads, by the name it gives them.
        history: text of the files that an earlier run left, by name; empty at the start.

    Raises:
        InputError: there is no PLUMED, or it rejects the input.
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
    ) -> None:
        actions = parse_plumed(text)
        self._folder = Path(tempfile.mkdtemp(prefix="surveyor-plumed-"))
        self._given = {*files, LOG}
        try:
            for name, content in files.items():
                (self._folder / name).write_bytes(content)
            for name, earlier in history.items():
                (self._folder / name).write_text(earlier)
            self._kernel = _start(
                len(atoms), timestep_fs * units.fs, units.kB * temperature_K, self._folder / LOG, restart=bool(history)
            )
            self._values = _read(self._kernel, actions, self._folder)
        except BaseException:
            self._remove()
            raise

    def evaluate(self, atoms: Atoms, *, step: int, energy: float) -> BiasValues:
        """Return the bias of a structure; the history goes on.

        Args:
            atoms: the structure.
            step: of the walker since its start.
            energy: of the potential in eV, on which a bias may act.
        """
        # PLUMED keeps where these are until it has computed; ASE's own calculator lets go of some before.
        positions, masses, cell = atoms.get_positions(), atoms.get_masses(), atoms.cell.array.copy()
        potential, bias = np.array([energy]), np.zeros(1)
        forces, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
        cmd = self._kernel.cmd
        cmd("setStep", step)
        if atoms.cell.rank == 3:
            cmd("setBox", cell)
        for name, array in {"Positions": positions, "Masses": masses, "Forces": forces, "Virial": virial}.items():
            cmd(f"set{name}", array)
        cmd("setEnergy", potential)
        cmd("calc")
        cmd("getBias", bias)
        stress = full_3x3_to_voigt_6_stress(virial) / atoms.get_volume() if is_periodic(atoms) else None
        variables = {name: float(value[0]) for name, value in self._values.items()}
        return BiasValues(float(bias[0]), forces, stress, variables)

    def close(self) -> dict[str, str]:
        """End PLUMED, and return the text of the files that the next run goes on from, by name."""
        self._kernel.finalize()
        try:
            return {
                path.name: path.read_text()
                for path in sorted(self._folder.iterdir())
                if path.name not in self._given and not path.name.startswith("bck.")
            }
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


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


def _read(kernel: Any, actions: Sequence[Action], folder: Path) -> dict[str, np.ndarray]:  # Any: PLUMED has no types
    """Have PLUMED read an input; return where it writes the values that are recorded, shape (1,) each."""
    for action, line in prepared(actions, folder):
        try:
            kernel.cmd("readInputLine", line)
        except Exception as error:  # of many classes, all of PLUMED's own making
            raise InputError(f"line {action.line} of the PLUMED input ({action.text}): {_message(error)}") from error
    return {name: _watched(kernel, name) for name in recorded_variables(actions)}


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


def _message(error: Exception) -> str:
    """Return PLUMED's own message, without the frame that it draws around it."""
    lines = [line.strip().removeprefix("+++").removesuffix("+++").strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line)
    return re.sub(r"^\(\S+\.cpp:\d+\) .*?\)( const)? ", "", text)  # where in PLUMED's own source it was found


def check_plumed(text: str, structures: Sequence[Atoms], *, files: Mapping[str, bytes]) -> None:
    """Check that PLUMED takes an input for structures.

    Args:
        text: the input.
        structures: on which it is to act.
        files: other files that it reads, by the name it gives them.

    Raises:
        InputError: there is no PLUMED, or it rejects the input; with its own message.
    """
    for values in evaluate_plumed(text, structures, files=files):
        if not np.isfinite(values.energy):
            raise InputError("the bias of the PLUMED input is not finite at a start; correct the input or the start")


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
        run = PlumedRun(text, atoms, timestep_fs=1.0, temperature_K=300.0, files=files, history={})
        try:
            found.append(run.evaluate(atoms, step=0, energy=0.0))
        except Exception as error:
            raise InputError(f"PLUMED cannot evaluate its input: {_message(error)}") from error
        finally:
            run.close()
    return found


def has_kernel() -> bool:
    """Return whether PLUMED's wrapper is installed and finds its kernel."""
    try:
        _new_kernel().finalize()
    except InputError:
        return False
    return True


def _new_kernel() -> Any:  # Any: PLUMED has no types
    """Return PLUMED, of which nothing has been asked yet.

    Raises:
        InputError: its Python wrapper is not installed, or finds no kernel.
    """
    if find_spec("plumed") is None:
        raise InputError('a bias by PLUMED needs its Python wrapper; install it: pip install "surveyor[plumed]"')
    import plumed

    try:
        return plumed.Plumed()
    except RuntimeError as error:
        kernel = os.environ.get("PLUMED_KERNEL")
        found = "PLUMED_KERNEL is not set" if kernel is None else f"PLUMED_KERNEL is {kernel}"
        raise InputError(
            f"PLUMED's kernel cannot be loaded ({found}); install PLUMED where the walkers run, and let PLUMED_KERNEL "
            "be the path of its libplumedKernel.so; restraints need no PLUMED"
        ) from error
