"""PLUMED's kernel, through its Python wrapper: its start in ASE's units, its input, and its messages."""

import ctypes
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ase import units

from surveyor.biases.plumed_input import Action
from surveyor.errors import InputError
from surveyor.words import number_of

KERNEL_MODE = os.RTLD_NOW | os.RTLD_LOCAL | getattr(os, "RTLD_DEEPBIND", 0)  # those of PLUMED's own wrapper


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


def start_kernel(
    n_atoms: int, timestep: float, kT: float, log: Path, *, restart: bool
) -> Any:  # Any: PLUMED has no types
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


def read_lines(
    kernel: Any, lines: Sequence[tuple[Action, str]], folder: Path, *, n_atoms: int
) -> None:  # Any: no types
    """Have PLUMED read the lines of an input, whose files are in a folder."""
    for action, line in lines:
        try:
            kernel.cmd("readInputLine", line)
        except Exception as error:  # of many classes, all of PLUMED's own making
            message = message_of(error).replace(f"{folder}{os.sep}", "")  # the names as the user knows them
            if "out of range" in message or "cannot be zero" in message:
                message += f" (the structure has {number_of(n_atoms, 'atom')}, which PLUMED counts from 1)"
            raise InputError(f"line {action.line} of the PLUMED input ({action.text}): {message}") from error


def watched(kernel: Any, name: str) -> np.ndarray:  # Any: PLUMED has no types
    """Return where PLUMED writes a value."""
    try:
        kernel.cmd(f"getDataRank {name}", rank := np.zeros(1, dtype=int))
        kernel.cmd(f"getDataShape {name}", shape := np.zeros(rank[0], dtype=int))
    except Exception as error:  # of many classes, all of PLUMED's own making
        raise InputError(f"PLUMED has no value {name}: {message_of(error)}") from error
    if shape.tolist() != [1]:
        raise InputError(
            f"{name} of the PLUMED input has the shape {shape.tolist()}, but only numbers are recorded; leave it "
            "out of PRINT"
        )
    kernel.cmd(f"setMemoryForData {name}", value := np.zeros(1))
    return value


def message_of(error: BaseException) -> str:
    """Return PLUMED's own message and that of its cause, without the frame that it draws around them."""
    lines = [line.strip().removeprefix("+++").removesuffix("+++").strip() for line in str(error).splitlines()]
    text = re.sub(r"^\(\S+\.(?:cpp|h):\d+\) .*?\)( const)? ", "", " ".join(line for line in lines if line))
    return text if error.__cause__ is None else f"{text}: {message_of(error.__cause__)}"
