"""Inputs as people write them, against what the real program understands of them."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase import Atoms
from processes import PATIENCE_S

from surveyor.errors import InputError
from surveyor.reference.cp2k import CP2KParameters, CP2KReference
from surveyor.reference.cp2k_check import one_of_each_kind
from surveyor.reference.cp2k_input import CP2KInput, place, read_input, write_input

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)"),
]

INPUTS = {path.stem: path for path in sorted((Path(__file__).parent / "inputs").glob("*.inp"))}

# What surveyor replaces: all else has to be the same.
REPLACED = re.compile(
    r"FORCE_EVAL/(?:STRESS_TENSOR|(?:.*/)?PRINT\b.*|DFT/(?:CHARGE|MULTIPLICITY|UKS|POISSON/PERIODIC)|"
    r"SUBSYS/(?:CELL|COORD|TOPOLOGY)(?:/.*)?)"
)
UNITS = 2e-7  # relative: the library converts units with other constants of nature than CP2K


def understood(text: str, folder: Path) -> list[tuple[str, str]]:
    """Return what CP2K makes of an input, with all defaults: path and value of each keyword."""
    (folder / "echo.inp").write_text(text)
    command = ["cp2k.psmp", "--echo", "-i", "echo.inp"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    return sorted((path, value) for path, value in keywords(said) if path.startswith("FORCE_EVAL/"))


def keywords(said: str) -> Iterator[tuple[str, str]]:
    sections: list[str] = []
    for line in re.sub(r"\\\s*\n", " ", said).splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "&END":
            sections.pop()
        elif name.startswith("&"):
            sections.append(f"{name[1:]} {value.strip()}".strip())
            yield "/".join(sections), ""
        elif name:
            yield "/".join([*sections, name]), value.strip()


def written(science: CP2KInput, *, periodic: bool) -> str:
    atoms: Atoms = one_of_each_kind(science)
    if not periodic:
        atoms.pbc, atoms.cell = False, None
    return write_input(science, place(atoms))


@pytest.mark.parametrize("name", INPUTS)
def test_the_program_understands_the_same(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = INPUTS[name].read_text()
    science = read_input(text)
    assert not caplog.records
    theirs = [each for each in understood(text, tmp_path) if not REPLACED.fullmatch(each[0])]
    whole = understood(written(science, periodic="PERIODIC NONE" not in text), tmp_path)
    ours = [each for each in whole if not REPLACED.fullmatch(each[0])]
    added = {"FORCE_EVAL/SUBSYS", "FORCE_EVAL/DFT/POISSON", "FORCE_EVAL/DFT/POISSON/POISSON_SOLVER"}
    ours = [each for each in ours if each[0] not in added or each in theirs]
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, value), (_, expected) in zip(ours, theirs, strict=True):
        assert same(value, expected), path


def same(value: str, expected: str) -> bool:
    words, others = value.split(), expected.split()
    return len(words) == len(others) and all(map(same_word, words, others))


def same_word(word: str, other: str) -> bool:
    try:
        return float(word) == pytest.approx(float(other), rel=UNITS)
    except ValueError:
        return word == other


@pytest.mark.parametrize("name", INPUTS)
def test_what_was_written_is_read_as_the_same(name: str) -> None:
    science = read_input(INPUTS[name].read_text())
    again = read_input(written(science, periodic=True))
    assert again.kinds == science.kinds
    of_the_structure = {"+POISSON", "UKS"}
    assert {name: value for name, value in again.dft.items() if name not in of_the_structure} == {
        name: value for name, value in science.dft.items() if name not in of_the_structure
    }


@pytest.mark.parametrize("name", INPUTS)
def test_data_files_of_the_program_have_all_that_is_named(name: str) -> None:
    theory = CP2KReference(read_input(INPUTS[name].read_text())).resolve()
    assert theory.distinguishes_kinds == (name == "iron-oxide-uks")


def test_a_misspelt_keyword_is_refused_by_the_program_before_any_work(hydrogen_input: str) -> None:
    reference = CP2KReference(read_input(hydrogen_input.replace("EPS_SCF", "EPS_SFC")))
    with pytest.raises(InputError, match=r"unknown keyword EPS_SFC in section SCF .* line 14: EPS_SFC 1E-8"):
        reference.resolve()


@pytest.mark.slow
def test_the_description_that_the_program_prints_is_used(tmp_path: Path, hydrogen_input: str) -> None:
    subprocess.run(["cp2k.psmp", "--xml"], cwd=tmp_path, capture_output=True, check=True, timeout=PATIENCE_S)
    parameters = CP2KParameters(input_text=hydrogen_input, input_description=tmp_path / "cp2k_input.xml")
    assert CP2KReference.from_parameters(parameters).input == read_input(hydrogen_input)
    # Known since version 2024.1; Debian's is older.
    newer = hydrogen_input.replace("MAX_SCF 40", "IGNORE_CONVERGENCE_FAILURE T")
    parameters = CP2KParameters(input_text=newer, input_description=tmp_path / "cp2k_input.xml")
    assert len(CP2KReference.from_parameters(parameters).input.unknown) == 1
