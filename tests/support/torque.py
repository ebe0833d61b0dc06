"""Torque's commands before SLURM, from Debian's package slurm-wlm-torque.

It excludes the client of Grid Engine, so it is unpacked into a folder, which the variable `SURVEYOR_TEST_TORQUE` names.
"""

import os
import shutil
from pathlib import Path

INSTALLED = Path(os.environ.get("SURVEYOR_TEST_TORQUE", "/usr")) / "bin"
COMMANDS = ("qsub", "qstat", "qdel")
OF_SLURM = ("sbatch", "salloc", "scontrol", "squeue", "scancel")  # which they look for beside themselves


def has_torque() -> bool:
    """Return whether its commands are there."""
    return (INSTALLED / "qsub").exists() and b"Slurm" in (INSTALLED / "qsub").read_bytes()


def link_commands(folder: Path) -> None:
    """Have its commands and those of SLURM in one folder."""
    folder.mkdir()
    for name in COMMANDS:
        (folder / name).symlink_to(INSTALLED / name)
    for name in OF_SLURM:
        (folder / name).symlink_to(str(shutil.which(name)))
