"""References by density functional theory in CP2K."""

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ase import Atoms
from pydantic import ConfigDict, Field, model_validator

from surveyor.errors import InputError, Preempted
from surveyor.files import FULL, is_disk_full
from surveyor.labels import Label, LabelFailure, LevelOfTheory
from surveyor.parameters import Parameters, exactly_one_of
from surveyor.reference.cp2k_check import check_input
from surveyor.reference.cp2k_code import CP2KCode, ask_program, data_directory, keep_leftovers, run_cp2k, working_folder
from surveyor.reference.cp2k_data import science_of, usable_part
from surveyor.reference.cp2k_input import (
    WITHOUT_CELL,
    CP2KInput,
    element_of,
    place,
    read_input,
    write_input,
)
from surveyor.reference.cp2k_output import parse_output, version_of, wall_time_of, was_ended_from_outside
from surveyor.reference.cp2k_repair import (
    AS_GIVEN,
    WARM_START,
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
from surveyor.reference.cp2k_scf import convergence_of
from surveyor.reference.cp2k_scope import objections_to_a_cell
from surveyor.reference.cp2k_wavefunctions import begin_warm, keep_wavefunction, start_file, start_in
from surveyor.reference.provenance import provenance
from surveyor.structures import is_periodic, kinds_of, multiplicity_of

INPUT, OUTPUT = "input.inp", "output.txt"
SILENT = ("crash", "unparsable", "launch", "invalid_input")  # what a program may seem to do that cannot write
ENDINGS = ("crash", "launch")  # for which the command may be to blame
ELECTRONS = "charge and multiplicity of the structure; UKS above multiplicity 1 unless the input says UKS or ROKS"


class CP2KParameters(Parameters):
    """Density functional theory in CP2K."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of(("input", "input_text")))

    input: Path | None = Field(
        None,
        title="CP2K input (file)",
        description="An ordinary CP2K input, complete or only its FORCE_EVAL; structure, GLOBAL and printing are "
        "replaced.",
    )
    input_text: str | None = Field(
        None, min_length=1, title="CP2K input (text)", description="The input itself, instead of a file."
    )
    input_description: Path | None = Field(
        None,
        title="Description of the input (file)",
        description="XML file written by `cp2k.psmp --xml` of your CP2K, to check keywords that surveyor does not"
        " know; without it they pass with a warning.",
    )
    repair: bool = Field(
        True,
        title="Repair",
        description="Try other settings of the solver if the SCF does not converge; they do not change the level "
        "of theory.",
    )
    warm_start: bool = Field(
        False,
        title="Warm start",
        description="Start from the wavefunction of the nearest labelled structure with the same composition and "
        "a similar cell, to save SCF steps; closed shells only.",
    )

    @model_validator(mode="after")
    def _check_input(self) -> "CP2KParameters":
        if (self.input is None) == (self.input_text is None):
            found = "none" if self.input is None else "both"
            raise ValueError(f"expected exactly one of input (a file) and input_text; found {found}")
        return self


@dataclass(frozen=True, slots=True)
class CP2KReference:
    """CP2K with a parsed input, so that the labelling pool does not need the input file.

    Attributes:
        input: the scientific input.
        code: command and limits of CP2K.
        repairs: whether other settings of the solver are tried if the SCF does not converge.
        begins_warm: whether the SCF starts from the wavefunction of a similar structure.
    """

    input: CP2KInput
    code: CP2KCode = field(default_factory=CP2KCode)
    repairs: bool = True
    begins_warm: bool = False

    @classmethod
    def from_parameters(cls, parameters: CP2KParameters, code: CP2KCode | None = None) -> "CP2KReference":
        """Read an input.

        Raises:
            InputError: the file is missing, or the input cannot be used.
        """
        path, description = parameters.input, parameters.input_description
        text, folder = parameters.input_text or "", None
        if path is not None:
            try:
                text, folder = path.read_text(), path.parent
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"the CP2K input {path} cannot be read: {error}") from error
        code = code or CP2KCode()
        given = read_input(text, folder, description, partial(data_directory, code))
        return cls(given, code, repairs=parameters.repair, begins_warm=parameters.warm_start)

    @property
    def time_limit_s(self) -> float:
        """Time limit of a calculation."""
        return 60 * self.code.timeout_minutes

    @property
    def memory_limit_GB(self) -> float | None:
        """Memory limit of a calculation; None for no limit."""
        return self.code.memory_GB

    def resolve(self) -> LevelOfTheory:
        """Return the level of theory, with the contents of the entries used and the version of the program found here.

        Raises:
            InputError: CP2K does not start here, does not take the input, or a data file or an entry is missing.
        """
        version, directory = ask_program(self.code)
        given, unusable = usable_part(self.input, directory)
        check_input(given, self.code)
        always = {"program": "CP2K", "version": version, "without_cell": WITHOUT_CELL, "electrons": ELECTRONS}
        former = LevelOfTheory("CP2K", always | science_of(given, directory, is_normal=False))
        return LevelOfTheory(
            name="CP2K",
            content=always | science_of(given, directory),
            charge=given.charge,
            multiplicity=given.multiplicity,
            distinguishes_kinds=given.distinguishes_kinds,
            elements=given.elements,
            n_periodic=(0, 3),
            former=(former.digest,),
            unusable=unusable,
        )

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        """Compute the label of one structure."""
        objection = self.objection(atoms)
        if objection is not None:
            return LabelFailure("invalid_input", objection)
        placed = place(atoms)
        try:
            with working_folder(self.code, directory) as folder:
                trials = list(self._trials(placed, folder, directory))
                outcome = outcome_of(trials)
                if self.begins_warm:
                    keep_wavefunction(self.input, placed, trials, directory, self.code.wavefunctions_GB)
                if isinstance(outcome, LabelFailure):
                    keep_leftovers(folder, directory, self.code.kept_GB)
        except InputError as error:
            return LabelFailure("launch", str(error))
        except OSError as error:
            if error.errno not in FULL:
                raise
            return LabelFailure("disk", str(error))
        return outcome

    def read(self, atoms: Atoms, directory: Path) -> Label | None:
        """Return the label that a calculation had finished before it was interrupted."""
        placed = place(atoms)
        rungs = (WARM_START, *self._ladder)
        folders = [folder_of(directory, rung, self._ladder) for rung in rungs]
        for rung, folder in zip(rungs, folders, strict=True):
            text, said = _text_of(folder / INPUT), _text_of(folder / OUTPUT)
            start = start_in(text)
            beginnings = [None, *map(wavefunction_in, folders)] if start is None else [start_file(start)]
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

    def _trials(self, placed: Atoms, working: Path, directory: Path) -> Iterator[Trial]:
        deadline = time.monotonic() + self.time_limit_s
        trials: list[Trial] = []
        start = begin_warm(self.input, placed, directory, working) if self.begins_warm else None
        for rung in self._ladder if start is None else (WARM_START, *self._ladder):
            folder, kept = (folder_of(each, rung, self._ladder) for each in (working, directory))
            text = self._input_of(rung, placed, start if rung == WARM_START else best_wavefunction(trials))
            for each in {folder, kept}:  # the program may not see the folder of the calculation
                each.mkdir(exist_ok=True)
                (each / INPUT).write_text(text)
            outcome, said = self._run(placed, folder, kept / OUTPUT, deadline - time.monotonic())
            source = _source(said, text, outcome.provenance["wall_time_s"], outcome)
            trials.append(Trial(rung, folder, replace(outcome, provenance=source), convergence_of(said)))
            yield trials[-1]
            if not is_worth_a_repair(trials):
                return

    def _run(self, placed: Atoms, folder: Path, output: Path, time_left_s: float) -> tuple[Label | LabelFailure, str]:
        result = run_cp2k(self.code, ["-i", INPUT], directory=folder, output=output, timeout_s=max(0.0, time_left_s))
        said = _text_of(output)
        was_limited = result.timed_out or result.out_of_memory
        if not was_limited and was_ended_from_outside(said, result.returncode):
            raise Preempted(f"somebody has ended CP2K (status {result.returncode}); its output is in {output}")
        outcome = parse_output(said, placed, returncode=result.returncode, timed_out=result.timed_out)
        if isinstance(outcome, LabelFailure):
            if result.out_of_memory:
                message = f"the memory limit of {self.code.memory_GB:g} GB was reached"
                outcome = replace(outcome, reason="memory", message=message)
            elif outcome.reason in SILENT and (is_disk_full(output.parent) or is_disk_full(folder)):
                outcome = replace(outcome, reason="disk", message=f"the disk of {output.parent} or {folder} is full")
            elif outcome.reason in ENDINGS:
                command = shlex.join([*self.code.words, "-i", INPUT])
                outcome = replace(outcome, message=f"{outcome.message}; the command was: {command}")
        spent = {**outcome.provenance, "wall_time_s": result.wall_time_s}
        return replace(outcome, provenance=spent), said

    def objection(self, atoms: Atoms) -> str | None:
        """Return why the input does not suit a structure; None where it does."""
        if atoms.pbc.any() and not atoms.pbc.all():
            return f"CP2K is run for structures periodic in no or three directions; found pbc {atoms.pbc.tolist()}"
        if is_periodic(atoms) and (objections := list(objections_to_a_cell(self.input.force_eval))):
            return objections[0]
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


def _source(said: str, text: str, wall_time_s: float, outcome: Label | LabelFailure) -> Mapping[str, Any]:  # Any: JSON
    source = provenance(
        program="CP2K",
        version=version_of(said) or "unknown",
        inputs=text,
        wall_time_s=wall_time_s,
        scf_steps=outcome.provenance.get("scf_steps"),
    )
    start = start_in(text)
    return source if start is None else {**source, "began_from": start}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
