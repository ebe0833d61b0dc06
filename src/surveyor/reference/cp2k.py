"""References by density functional theory in CP2K."""

import errno
from dataclasses import dataclass, field, replace
from pathlib import Path

from ase import Atoms
from pydantic import Field, model_validator

from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters
from surveyor.reference.cp2k_check import check_input
from surveyor.reference.cp2k_code import CP2KCode, ask_program, keep_leftovers, run_cp2k, working_folder
from surveyor.reference.cp2k_data import science_of
from surveyor.reference.cp2k_input import WITHOUT_CELL, CP2KInput, element_of, place, read_input, write_input
from surveyor.reference.cp2k_output import parse_output, version_of
from surveyor.reference.provenance import provenance
from surveyor.structures import kinds_of, multiplicity_of

ELECTRONS = "charge and multiplicity of the structure; UKS above multiplicity 1 unless the input says UKS or ROKS"


class CP2KParameters(Parameters):
    """Density functional theory in CP2K."""

    input: Path | None = Field(
        None,
        title="CP2K input (file)",
        description="An ordinary CP2K input, whole or its FORCE_EVAL; structure, GLOBAL and printing are replaced.",
    )
    input_text: str | None = Field(
        None, min_length=1, title="CP2K input (text)", description="The input itself, in place of a file."
    )
    input_description: Path | None = Field(
        None,
        title="Description of the input (file)",
        description="XML that `cp2k.psmp --xml` of your CP2K writes; needed where the input has keywords that are new "
        "to surveyor, which pass with a warning without it.",
    )

    @model_validator(mode="after")
    def _check_input(self) -> "CP2KParameters":
        if (self.input is None) == (self.input_text is None):
            found = "none" if self.input is None else "both"
            raise ValueError(f"expected exactly one of input (a file) and input_text; found {found}")
        return self


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
    def from_parameters(cls, parameters: CP2KParameters, code: CP2KCode | None = None) -> "CP2KReference":
        """Read an input.

        Raises:
            InputError: the file is missing, or the input cannot be used.
        """
        path, description = parameters.input, parameters.input_description
        if path is None:
            return cls(read_input(parameters.input_text or "", None, description), code or CP2KCode())
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the CP2K input {path} cannot be read: {error}") from error
        return cls(read_input(text, path.parent, description), code or CP2KCode())

    @property
    def time_limit_s(self) -> float:
        """How long a calculation may take."""
        return 60 * self.code.timeout_minutes

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory, with the contents of the entries used and the version of the program found here.

        Raises:
            InputError: CP2K does not start here, does not take the input, or a data file or an entry is missing.
        """
        version, directory = ask_program(self.code)
        science = science_of(self.input, directory)
        check_input(self.input, self.code)
        content = {
            "program": "CP2K",
            "version": version,
            "without_cell": WITHOUT_CELL,
            "electrons": ELECTRONS,
            **science,
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
        objection = self.objection(atoms)
        if objection is not None:
            return LabelFailure("invalid_input", objection)
        placed = place(atoms)
        try:
            with working_folder(self.code, directory) as folder:
                outcome = self._calculate(placed, folder, directory)
                if isinstance(outcome, LabelFailure):
                    keep_leftovers(folder, directory, self.code.kept_GB)
        except InputError as error:
            return LabelFailure("launch", str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return LabelFailure("disk", str(error))
        return outcome

    def _calculate(self, placed: Atoms, folder: Path, directory: Path) -> Label | LabelFailure:
        text = write_input(self.input, placed)
        output = directory / "output.txt"
        for place_of_input in {folder, directory}:  # the program may not see the folder of the calculation
            (place_of_input / "input.inp").write_text(text)
        result = run_cp2k(self.code, ["-i", "input.inp"], directory=folder, output=output, timeout_s=self.time_limit_s)
        said = output.read_text(errors="replace")
        outcome = parse_output(said, placed, returncode=result.returncode, timed_out=result.timed_out)
        if result.out_of_memory:
            outcome = LabelFailure("memory", f"the memory limit of {self.code.memory_GB:g} GB was reached")
        source = provenance(
            program="CP2K",
            version=version_of(said) or "unknown",
            inputs=text,
            wall_time_s=result.wall_time_s,
            scf_steps=outcome.provenance.get("scf_steps"),
        )
        return replace(outcome, provenance=source)

    def objection(self, atoms: Atoms) -> str | None:
        """Return why the input does not suit a structure; None where it does."""
        if atoms.pbc.any() and not atoms.pbc.all():
            return f"CP2K is run for structures periodic in no or three directions; found pbc {atoms.pbc.tolist()}"
        if multiplicity_of(atoms) > 1 and not (self.input.dft.get("UKS", True) or self.input.dft.get("ROKS")):
            return f"multiplicity {multiplicity_of(atoms)} with UKS F in the input; leave UKS out, or set it"
        kinds = self.input.kinds
        for name, symbol in set(zip(kinds_of(atoms), atoms.symbols, strict=True)):
            kind = kinds.get(name.upper())
            if kind is None and "DEFAULT" not in kinds:
                there_are = ", ".join(sorted(str(each["_"]) for each in kinds.values()))
                return f"SUBSYS of the CP2K input has no KIND {name}; there are {there_are}"
            if kind is not None and element_of(kind) != symbol:
                where = self.input.where(f"SUBSYS/KIND {kind['_']}")
                return f"{where} is of {element_of(kind)}, the atom is of {symbol}"
        return None
