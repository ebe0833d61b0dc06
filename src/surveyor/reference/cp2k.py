"""References by density functional theory in CP2K."""

import errno
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ase import Atoms
from pydantic import Field

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters
from surveyor.programs import ProgramResult, find_program, run_program
from surveyor.reference.cp2k_data import science_of
from surveyor.reference.cp2k_input import WITHOUT_CELL, CP2KInput, element_of, place, read_input, write_input
from surveyor.reference.cp2k_output import parse_output, version_of
from surveyor.reference.provenance import provenance
from surveyor.structures import kinds_of, multiplicity_of

QUESTION_TIMEOUT_S = 120.0
DATA_DIRECTORY = re.compile(r'__DATA_DIR="([^"]*)"')
ELECTRONS = "charge and multiplicity of the structure; UKS above multiplicity 1 unless the input says UKS or ROKS"


class CP2KParameters(Parameters):
    """Density functional theory in CP2K."""

    input: Path = Field(
        title="CP2K input (file)",
        description="An ordinary CP2K input, whole or its FORCE_EVAL; structure, GLOBAL and printing are replaced.",
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
    """

    input: CP2KInput
    code: CP2KCode = field(default_factory=CP2KCode)

    @classmethod
    def from_file(cls, path: Path, code: CP2KCode | None = None) -> "CP2KReference":
        """Read an input.

        Raises:
            InputError: the file is missing or cannot be used.
        """
        try:
            text = path.read_text()
        except OSError as error:
            raise InputError(f"the CP2K input {path} cannot be read: {error.strerror}") from error
        return cls(read_input(text, path.parent), code or CP2KCode())

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
            n_periodic=(0, 3),
        )

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        objection = self._objection(atoms)
        if objection is not None:
            return LabelFailure("invalid_input", objection)
        placed = place(atoms)
        text = write_input(self.input, placed)
        output = directory / "output.txt"
        try:
            (directory / "input.inp").write_text(text)
            result = self._run(
                [*shlex.split(self.code.command), "-i", "input.inp"], output, self.code.timeout_minutes * 60
            )
        except InputError as error:
            return LabelFailure("launch", str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return LabelFailure("disk", str(error))
        said = output.read_text(errors="replace")
        outcome = parse_output(said, placed, returncode=result.returncode, timed_out=result.timed_out)
        source = provenance(
            program="CP2K",
            version=version_of(said) or "unknown",
            inputs=text,
            wall_time_s=result.wall_time_s,
            scf_steps=outcome.provenance.get("scf_steps"),
        )
        return replace(outcome, provenance=source)

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
