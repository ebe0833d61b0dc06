"""References by density functional theory in CP2K."""

import errno
import re
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ase import Atoms
from pydantic import Field

from surveyor.errors import InputError, Preempted
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters
from surveyor.programs import ProgramResult, find_program, run_program
from surveyor.reference.cp2k_data import science_of
from surveyor.reference.cp2k_input import (
    WITHOUT_CELL,
    CP2KInput,
    element_of,
    place,
    read_input,
    write_input,
)
from surveyor.reference.cp2k_output import (
    convergence_of,
    parse_output,
    version_of,
    wall_time_of,
    was_ended_from_outside,
)
from surveyor.reference.cp2k_repair import (
    AS_GIVEN,
    Rung,
    Trial,
    best_wavefunction,
    folder_of,
    is_worth_a_repair,
    ladder_of,
    outcome_of,
    wavefunction_in,
    with_rung,
)
from surveyor.reference.provenance import provenance
from surveyor.structures import kinds_of, multiplicity_of

QUESTION_TIMEOUT_S = 120.0
DATA_DIRECTORY = re.compile(r'__DATA_DIR="([^"]*)"')
INPUT, OUTPUT = "input.inp", "output.txt"
FULL = (errno.ENOSPC, errno.EDQUOT)
SILENT = ("crash", "unparsable", "launch", "invalid_input")  # what a program may seem to do that cannot write
SOME_BYTES = 2**16
ELECTRONS = "charge and multiplicity of the structure; UKS above multiplicity 1 unless the input says UKS or ROKS"


class CP2KParameters(Parameters):
    """Density functional theory in CP2K."""

    input: Path = Field(
        title="CP2K input (file)",
        description="An ordinary CP2K input, whole or its FORCE_EVAL; structure, GLOBAL and printing are replaced.",
    )
    repair: bool = Field(
        True,
        title="Repair",
        description="Try other settings of the solver where the SCF does not converge; they do not change a label.",
    )


class CP2KCode(Parameters):
    """How CP2K is run at a site."""

    command: str = Field(
        "cp2k.psmp",
        min_length=1,
        title="Command",
        description="Starts CP2K, such as: cp2k.psmp, or: mpirun -np 4 cp2k.psmp.",
    )
    omp_threads: int = Field(1, ge=1, le=1024, title="OpenMP threads", description="Threads of each process of CP2K.")
    environment: dict[str, str] = Field(
        default_factory=dict,
        title="Environment",
        description="Variables that CP2K gets beside those of the worker; never a secret.",
    )
    data_directory: Path | None = Field(
        None,
        title="Data directory",
        description="Where basis sets and pseudopotentials lie; by default, where CP2K was installed to.",
    )
    timeout_minutes: float = Field(
        60.0,
        gt=0,
        le=100_000,
        title="Time limit (min)",
        description="A label that takes longer is ended and counts as failed.",
    )

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables that CP2K gets."""
        data = {} if self.data_directory is None else {"CP2K_DATA_DIR": str(self.data_directory)}
        return {"OMP_NUM_THREADS": str(self.omp_threads), **data, **self.environment}


@dataclass(frozen=True, slots=True)
class CP2KReference:
    """CP2K with an input that has been read, so that the labelling pool need not see its file.

    Attributes:
        input: what is computed.
        code: how CP2K is run.
        repairs: whether other settings of the solver are tried where the SCF does not converge.
    """

    input: CP2KInput
    code: CP2KCode = field(default_factory=CP2KCode)
    repairs: bool = True

    @classmethod
    def from_file(cls, path: Path, code: CP2KCode | None = None, *, repairs: bool = True) -> "CP2KReference":
        """Read an input.

        Raises:
            InputError: the file is missing or cannot be used.
        """
        try:
            text = path.read_text()
        except OSError as error:
            raise InputError(f"the CP2K input {path} cannot be read: {error.strerror}") from error
        return cls(read_input(text, path.parent), code or CP2KCode(), repairs)

    @property
    def time_limit_s(self) -> float:
        """How long a calculation may take."""
        return 60 * self.code.timeout_minutes

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory, with the contents of the entries used and the version of the program found here.

        Raises:
            InputError: CP2K does not start here, or a data file or an entry is missing.
        """
        version, directory = self._ask_program()
        content = {
            "program": "CP2K",
            "version": version,
            "without_cell": WITHOUT_CELL,
            "electrons": ELECTRONS,
            **science_of(self.input, directory),
        }
        return LevelOfTheory(
            name="CP2K",
            content=content,
            charge=self.input.charge,
            multiplicity=self.input.multiplicity,
            distinguishes_kinds=self.input.distinguishes_kinds,
            elements=self.input.elements,
        )

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        objection = self._objection(atoms)
        if objection is not None:
            return LabelFailure("invalid_input", objection)
        placed = place(atoms)
        deadline = time.monotonic() + self.time_limit_s
        trials: list[Trial] = []
        for number, rung in enumerate(self._ladder):
            text = self._input_of(rung, placed, best_wavefunction(trials))
            trials.append(self._try(rung, text, placed, folder_of(directory, number), deadline))
            if not is_worth_a_repair(trials):
                break
        return outcome_of(trials)

    def read(self, atoms: Atoms, directory: Path) -> Label | None:
        """Return the label that a calculation had finished before it was interrupted."""
        placed = place(atoms)
        folders = [folder_of(directory, number) for number in range(len(self._ladder))]
        for rung, folder in zip(self._ladder, folders, strict=True):
            text, said = _text_of(folder / INPUT), _text_of(folder / OUTPUT)
            beginnings = [None, *(wavefunction_in(each) for each in folders)]
            if text and any(text == self._input_of(rung, placed, each) for each in beginnings):
                # Nobody knows the status; the program writes its last lines when all is done.
                outcome = parse_output(said, placed)
                if isinstance(outcome, Label):
                    source = {**_source(said, text, wall_time_of(said) or 0.0, outcome), "rung": rung.name}
                    return replace(outcome, provenance={**source, "was_interrupted": True})
        return None

    @property
    def _ladder(self) -> tuple[Rung, ...]:
        return ladder_of(self.input) if self.repairs else (AS_GIVEN,)

    def _input_of(self, rung: Rung, placed: Atoms, wavefunction: str | None) -> str:
        return write_input(with_rung(self.input, rung, wavefunction), placed, keeps_wavefunction=True)

    def _try(self, rung: Rung, text: str, placed: Atoms, folder: Path, deadline: float) -> Trial:
        output = folder / OUTPUT
        try:
            folder.mkdir(exist_ok=True)
            (folder / INPUT).write_text(text)
            command = [*shlex.split(self.code.command), "-i", INPUT]
            result = self._run(command, output, max(0.0, deadline - time.monotonic()))
        except InputError as error:
            return Trial(rung, folder, LabelFailure("launch", str(error)))
        except OSError as error:
            if error.errno not in FULL:
                raise
            return Trial(rung, folder, LabelFailure("disk", str(error)))
        said = _text_of(output)
        if not result.timed_out and was_ended_from_outside(said, result.returncode):
            raise Preempted(f"somebody has ended CP2K (status {result.returncode}); its output is in {output}")
        outcome = parse_output(said, placed, returncode=result.returncode, timed_out=result.timed_out)
        if isinstance(outcome, LabelFailure) and outcome.reason in SILENT and _is_full(folder):
            outcome = replace(outcome, reason="disk", message=f"the disk of {folder} is full")
        source = _source(said, text, result.wall_time_s, outcome)
        return Trial(rung, folder, replace(outcome, provenance=source), convergence_of(said))

    def _objection(self, atoms: Atoms) -> str | None:
        if atoms.pbc.any() and not atoms.pbc.all():
            return f"CP2K is run for structures periodic in no or three directions; found pbc {atoms.pbc.tolist()}"
        if multiplicity_of(atoms) > 1 and not (self.input.dft.get("UKS", True) or self.input.dft.get("ROKS")):
            return f"multiplicity {multiplicity_of(atoms)} with UKS F in the input"
        kinds = self.input.kinds
        for name, symbol in set(zip(kinds_of(atoms), atoms.symbols, strict=True)):
            kind = kinds.get(name.upper())
            if kind is None and "DEFAULT" not in kinds:
                return f"the input has no KIND {name}"
            if kind is not None and element_of(kind) != symbol:
                return f"KIND {name} of the input is of {element_of(kind)}, the atom is of {symbol}"
        return None

    def _run(self, command: list[str], output: Path, timeout_s: float) -> ProgramResult:
        return run_program(
            command, directory=output.parent, output=output, environment=self.code.variables, timeout_s=timeout_s
        )

    def _ask_program(self) -> tuple[str, Path]:
        command = shlex.split(self.code.command)
        try:
            find_program(command, self.code.variables)
        except InputError as error:
            raise InputError(f"{error}. On Debian and Ubuntu, CP2K is in the package cp2k") from error
        with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
            output = Path(folder) / "version.txt"
            result = self._run([*command, "--version"], output, QUESTION_TIMEOUT_S)
            text = output.read_text(errors="replace")
        version = version_of(text)
        if version is None:
            last = " ".join(text.split()[-30:])
            raise InputError(
                f"{self.code.command} --version does not say a version of CP2K (status {result.returncode}): {last}"
            )
        return version, self._data_directory(text)

    def _data_directory(self, answer: str) -> Path:
        # The answer is folded at column 80, in the middle of words.
        compiled = DATA_DIRECTORY.search("".join(line.strip() for line in answer.splitlines()))
        stated = self.code.variables.get("CP2K_DATA_DIR") or (compiled[1] if compiled else None)
        if stated is None or not Path(stated).is_dir():
            raise InputError(f"the data directory of CP2K, {stated}, does not exist; set data_directory of the code")
        return Path(stated)


def _source(said: str, text: str, wall_time_s: float, outcome: Label | LabelFailure) -> Mapping[str, Any]:
    return provenance(
        program="CP2K",
        version=version_of(said) or "unknown",
        inputs=text,
        wall_time_s=wall_time_s,
        scf_steps=outcome.provenance.get("scf_steps"),
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _is_full(folder: Path) -> bool:
    """Say whether nothing can be written in a folder: what the program wanted to say of that is not in its output."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SOME_BYTES))
            file.flush()
    except OSError as error:
        return error.errno in FULL
    return False
