"""CP2K at a site: command, limits and data files, independent of the level of theory."""

import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from surveyor.errors import InputError
from surveyor.parameters import Parameters
from surveyor.programs.endings import how_it_ended, words_of_launcher
from surveyor.programs.program import ProgramResult, find_program, run_program
from surveyor.reference.cp2k_output import version_of
from surveyor.reference.reference import LabelTimeout

logger = logging.getLogger(__name__)

QUESTION_TIMEOUT_S = 120.0
GB = 1e9
ENDED = "ended"  # file that tells the folder of a calculation that failed from those that may still run
ALWAYS_KEPT = (".inp", ".txt")  # inputs and outputs
DATA_DIRECTORY = re.compile(r'__DATA_DIR="([^"]*)"')
PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")

# Open MPI 4 and 5, Intel MPI, OpenMP. A rank of several threads needs as many cores.
BOUND: Mapping[str, str] = {
    "OMPI_MCA_hwloc_base_binding_policy": "core",
    "OMPI_MCA_rmaps_base_mapping_policy": "slot:PE={omp_threads}",
    "PRTE_MCA_hwloc_default_binding_policy": "core",
    "PRTE_MCA_rmaps_default_mapping_policy": "slot:PE={omp_threads}",
    "I_MPI_PIN": "on",
    "I_MPI_PIN_DOMAIN": "omp",
    "OMP_PROC_BIND": "close",
    "OMP_PLACES": "cores",
}


class CP2KCode(Parameters):
    """Command, resources and limits of CP2K at a site."""

    command: str = Field(
        "cp2k.psmp",
        min_length=1,
        title="Command",
        description="Command that starts CP2K, such as: cp2k.psmp, or: mpirun -np {ranks} cp2k.psmp. {ranks} and "
        "{omp_threads} are replaced.",
    )
    ranks: int = Field(
        1,
        ge=1,
        le=100_000,
        title="MPI ranks",
        description="MPI processes of one label, if the command contains {ranks}.",
    )
    omp_threads: int = Field(
        1, ge=1, le=1024, title="OpenMP threads", description="OpenMP threads of each CP2K process."
    )
    binding: Literal["none", "core"] = Field(
        "none",
        title="Binding",
        description="core pins each thread to a core; use it only if a label has all cores of its job or machine."
        " none leaves the binding to the pool and the environment.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        title="Environment",
        description="Additional environment variables of CP2K; never a secret.",
    )
    data_directory: Path | None = Field(
        None,
        title="Data directory",
        description="Folder of basis sets and pseudopotentials; by default that of the installed CP2K.",
    )
    scratch: str | None = Field(
        None,
        pattern=r"^[/$]",
        title="Scratch",
        description="Folder for temporary files of CP2K, such as /scratch/ada or $TMPDIR of the worker. Input and"
        " output are always in the folder calculations of the run directory, the default.",
    )
    kept_GB: float = Field(
        5.0,
        ge=0,
        title="Files of failures (GB)",
        description="Maximum total size of the files kept from failed calculations; the largest files are removed"
        " first, input and output never.",
    )
    wavefunctions_GB: float = Field(
        5.0,
        ge=0,
        title="Wavefunctions (GB)",
        description="Maximum total size of the wavefunctions kept for warm starts; the oldest are removed first.",
    )
    timeout_minutes: LabelTimeout = 60.0
    memory_GB: float | None = Field(
        None,
        gt=0,
        title="Memory limit (GB)",
        description="A label whose processes on one machine use more in total is terminated and fails; by default"
        " there is no limit.",
    )

    @model_validator(mode="after")
    def _check_command(self) -> "CP2KCode":
        unknown = sorted(set(PLACEHOLDER.findall(self.command)) - {"ranks", "omp_threads"})
        if unknown:
            raise ValueError(
                f"command: found {{{unknown[0]}}}, expected no placeholder but {{ranks}} and {{omp_threads}}"
            )
        if self.ranks > 1 and "{ranks}" not in self.command:
            raise ValueError(
                f"ranks: found {self.ranks}, but the command does not start so many; write {{ranks}} into it, such as "
                "mpirun -np {ranks} cp2k.psmp"
            )
        try:
            words = self.words
        except ValueError as error:
            raise ValueError(f"command: found {self.command!r}, which a shell would not take: {error}") from error
        if not words:
            raise ValueError("command: found nothing but blanks, expected what starts CP2K")
        return self

    @property
    def words(self) -> list[str]:
        """The command, word by word."""
        return shlex.split(self._filled(self.command))

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables that CP2K gets."""
        data = {} if self.data_directory is None else {"CP2K_DATA_DIR": str(self.data_directory)}
        bound = {name: self._filled(value) for name, value in BOUND.items()} if self.binding == "core" else {}
        return {"OMP_NUM_THREADS": str(self.omp_threads), **bound, **data, **self.environment}

    def _filled(self, text: str) -> str:
        return text.replace("{ranks}", str(self.ranks)).replace("{omp_threads}", str(self.omp_threads))


def run_cp2k(
    code: CP2KCode, arguments: Sequence[str], *, directory: Path, output: Path, timeout_s: float
) -> ProgramResult:
    """Run CP2K until it ends or reaches its limit of time or memory.

    Raises:
        InputError: there is no such program.
    """
    return run_program(
        [*code.words, *arguments],
        directory=directory,
        output=output,
        environment=code.variables,
        timeout_s=timeout_s,
        memory_GB=code.memory_GB,
    )


@contextmanager
def working_folder(code: CP2KCode, directory: Path) -> Iterator[Path]:
    """Provide the working folder of CP2K: that of the calculation, or a new scratch folder, removed at the end.

    Raises:
        InputError: the scratch does not exist here.
    """
    if code.scratch is None:
        yield directory
        return
    scratch = Path(os.path.expandvars(code.scratch))
    if not scratch.is_dir():
        raise InputError(
            f"the scratch of CP2K, {scratch}, does not exist on {socket.gethostname()}; make it, or set scratch of the "
            "code to a folder that every worker has"
        )
    with tempfile.TemporaryDirectory(prefix="surveyor-", dir=scratch, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def keep_leftovers(folder: Path, directory: Path, limit_GB: float) -> None:
    """Keep the files of a failed calculation, as far as there is room beside those of other failures.

    Args:
        folder: folder in which CP2K ran.
        directory: folder of the calculation; those of others are beside it.
        limit_GB: total size of the failed calculations, without inputs and outputs, which always stay.
    """
    room = int(limit_GB * GB)
    try:
        (directory / ENDED).touch()  # the files of a calculation that may still run are left alone
        if folder != directory:
            for file in _smallest_first(folder.rglob("*"), room):
                shutil.move(file, directory / file.name)
        files = [file for mark in directory.parent.glob(f"*/{ENDED}") for file in mark.parent.rglob("*")]
        kept = set(_smallest_first(files, room))
        for file in files:
            if file not in kept and file.is_file() and file.suffix not in ALWAYS_KEPT:
                file.unlink(missing_ok=True)
    except OSError as error:  # a full disk, or another worker that cleans up: the failure is to be told all the same
        logger.warning("the files of a failed calculation in %s could not all be kept: %s", directory, error)


def _smallest_first(files: Iterable[Path], room: int) -> list[Path]:
    """Return the smallest files that fit into a number of bytes; inputs and outputs need no room."""
    sizes = sorted((file.stat().st_size, file) for file in files if file.is_file() and file.suffix not in ALWAYS_KEPT)
    totals = accumulate(size for size, _ in sizes)
    return [file for (_, file), total in zip(sizes, totals, strict=True) if total <= room]


def ask_program(code: CP2KCode) -> tuple[str, Path]:
    """Return the version of CP2K, such as "2023.1", and its data directory.

    Raises:
        InputError: it does not start here, or its scratch or its data directory does not exist.
    """
    try:
        find_program(code.words, code.variables)
    except InputError as error:
        raise InputError(f"{error}. On Debian and Ubuntu, CP2K is in the package cp2k") from error
    with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
        output = Path(folder) / "version.txt"
        with working_folder(code, output.parent) as place:
            result = run_cp2k(code, ["--version"], directory=place, output=output, timeout_s=QUESTION_TIMEOUT_S)
        text = output.read_text(errors="replace")
    version = version_of(text)
    if version is None:
        last = words_of_launcher(text) or " ".join(text.split()[-30:])
        raise InputError(
            f"{shlex.join([*code.words, '--version'])} does not say a version of CP2K "
            f"({how_it_ended(text, result.returncode)}): {last}"
        )
    return version, _data_directory(code, text)


def data_directory(code: CP2KCode) -> Path:
    """Return CP2K's data directory on this machine: that of the code, of the environment, or of the program.

    Raises:
        InputError: none of these names an existing directory.
    """
    stated = code.variables.get("CP2K_DATA_DIR") or os.environ.get("CP2K_DATA_DIR")
    return ask_program(code)[1] if stated is None else _existing(stated)


def _data_directory(code: CP2KCode, answer: str) -> Path:
    # The answer is folded at column 80, in the middle of words.
    compiled = DATA_DIRECTORY.search("".join(line.strip() for line in answer.splitlines()))
    stated = code.variables.get("CP2K_DATA_DIR") or os.environ.get("CP2K_DATA_DIR")
    return _existing(stated or (compiled[1] if compiled else None))


def _existing(directory: str | None) -> Path:
    if directory is None or not Path(directory).is_dir():
        raise InputError(f"the data directory of CP2K, {directory}, does not exist; set data_directory of the code")
    return Path(directory)
