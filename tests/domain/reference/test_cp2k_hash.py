"""The hash of a level of theory of CP2K is the same for the same science, however the input is written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import PATIENCE_S

from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory, load_theory, save_theory
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_data import science_of, usable_part
from surveyor.reference.cp2k_input import read_input
from surveyor.reference.cp2k_normal import DEFAULTS, SAME_FUNCTIONAL, SHORTCUTS
from surveyor.works.continuation import frozen_theory

DATA = """
H SMALL-q1 SMALL
  1
  1 0 0 1 1
    1.5 1.0
H COPY-OF-SMALL
  1
  1 0 0 1 1
    1.5 1.0
H LARGE
  1
  1 0 0 1 1
    2.5 1.0
O SMALL-q6 SMALL
  1
  NLCC 1
    2.5 1.0
"""
PLAIN = """
&FORCE_EVAL
  &DFT
    BASIS_SET_FILE_NAME DATA
    POTENTIAL_FILE_NAME DATA
    &MGRID
      CUTOFF 900
      REL_CUTOFF 60
    &END
    &SCF
      EPS_SCF 1E-6
      &OT
        MINIMIZER DIIS
      &END
    &END
    &XC
      &XC_FUNCTIONAL PADE
      &END
      &VDW_POTENTIAL
        &PAIR_POTENTIAL
          R_CUTOFF 12.5
          PARAMETER_FILE_NAME DATA
        &END
      &END
    &END
  &END
  &SUBSYS
    &KIND H
      BASIS_SET SMALL
      POTENTIAL SMALL
    &END
    &KIND O1
      ELEMENT O
      BASIS_SET SMALL
      POTENTIAL SMALL
    &END
  &END
&END
"""
# Other ways to write a line of it, each with the digits that people type.
OTHERWISE = {
    "CUTOFF 900": ["CUTOFF [eV] 12245.1240", "cutoff [hartree] 450", "CUTOFF [Ry] 900.0 ! it's enough", "CUTOFF 9.0D2"],
    "REL_CUTOFF 60": ["REL_CUTOFF [Ry] 60", "RELATIVE_CUTOFF [eV] 816.34160", "REL_CUTOFF [hartree] 30"],
    "R_CUTOFF 12.5": ["R_CUTOFF [bohr] 23.621576", "R_CUTOFF [nm] 1.25", "R_CUTOFF [angstrom] 25/2"],
    "EPS_SCF 1E-6": ["EPS_SCF 0.000001", "EPS_SCF 1d-6\nADDED_MOS 0", "EPS_SCF 1.0E-06 # tight\nLEVEL_SHIFT 0"],
    "&OT": ["&OT ON", "&ot T"],
    "&XC_FUNCTIONAL PADE\n": [
        "&XC_FUNCTIONAL LDA\n",
        "&xc_functional\n&PADE\n&END\n",
        "&XC_FUNCTIONAL\n&PADE T\n&END\n",
    ],
    "&KIND H\n      BASIS_SET SMALL\n      POTENTIAL SMALL\n": [
        "&KIND h\n ELEMENT H\n BASIS_SET ORB small-q1\n POTENTIAL GTH COPY-OF-SMALL\n",
        "&KIND H\n POTENTIAL SMALL-Q1\n BASIS_SET COPY-OF-SMALL\n ELEMENT h ! implied\n GHOST F\n",
    ],
    "ELEMENT O\n      BASIS_SET SMALL": ["BASIS_SET SMALL", "ELEMENT o\nBASIS_SET ORB SMALL-q6"],
    "  &DFT\n": [
        "&DFT\n&QS\n METHOD GPW\n EPS_DEFAULT 1E-10\n&END\n",
        "&DFT\n&POISSON\n POISSON_SOLVER PERIODIC\n&END\n",
    ],
    "&MGRID\n": ["&MGRID\n NGRIDS 4\n PROGRESSION_FACTOR 3.0\n", "&MGRID\n COMMENSURATE F\n"],
    "&XC\n": ["&XC\n DENSITY_CUTOFF 1E-10\n&XC_GRID\n XC_DERIV PW\n&END\n"],
}
SCIENCE = {
    "CUTOFF 900": "CUTOFF 900.01",
    "&XC_FUNCTIONAL PADE\n": "&XC_FUNCTIONAL PBE\n",
    "BASIS_SET SMALL": "BASIS_SET LARGE",
    "&OT": "&DIAGONALIZATION",
    "R_CUTOFF 12.5": "R_CUTOFF 12.6",
    "ELEMENT O": "MAGNETIZATION 2\nELEMENT O",
    "EPS_SCF 1E-6": "EPS_SCF 1.00001E-6",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "DATA").write_text(DATA)
    return folder


def digest(text: str, data: Path, *, is_normal: bool = True) -> str:
    return LevelOfTheory("test", science_of(read_input(text), data, is_normal=is_normal)).digest


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.tuples(*(st.sampled_from([plain, *others]) for plain, others in OTHERWISE.items())))
def test_the_same_science_has_the_same_hash(changes: tuple[str, ...], data: Path) -> None:
    text = PLAIN
    for plain, other in zip(OTHERWISE, changes, strict=True):
        assert plain in text
        text = text.replace(plain, other, 1)
    assert digest(text, data) == digest(PLAIN, data)


@pytest.mark.parametrize("plain", OTHERWISE)
def test_each_way_of_writing_has_the_same_hash(plain: str, data: Path) -> None:
    for other in OTHERWISE[plain]:
        assert digest(PLAIN.replace(plain, other, 1), data) == digest(PLAIN, data), other


@pytest.mark.parametrize("plain", SCIENCE)
def test_other_science_has_another_hash(plain: str, data: Path) -> None:
    assert plain in PLAIN
    assert digest(PLAIN.replace(plain, SCIENCE[plain], 1), data) != digest(PLAIN, data)


def test_hashes_of_inputs_without_a_choice_are_those_of_former_versions(data: Path) -> None:
    plain = PLAIN.replace("_SET SMALL", "_SET SMALL-q1").replace("POTENTIAL SMALL", "POTENTIAL SMALL-q1")
    plain = re.sub(r"&(KIND O1|OT).*?&END\n", "", plain, flags=re.DOTALL)
    assert digest(plain, data) == digest(plain, data, is_normal=False)
    stated = plain.replace("EPS_SCF 1E-6", "EPS_SCF 1E-6\nADDED_MOS 0")
    assert digest(stated, data) != digest(stated, data, is_normal=False)


@pytest.mark.parametrize(
    ("method", "digest"),
    [
        ("&OT", "c6b9f15e7c84714f38adcea51272fcf37f889d0b928c7e8f5f46c5a5b773d1c0"),
        ("&DIAGONALIZATION\n&END\n&OT OFF", "f9e3823ddd383c7619509ba6132a06af33aea2b39b02e8148b37ce7247034e00"),
    ],
)
def test_former_hash_is_the_one_that_former_versions_gave(method: str, digest: str, data: Path) -> None:
    former = science_of(read_input(PLAIN.replace("&OT", method)), data, is_normal=False)
    assert LevelOfTheory("CP2K", former).digest == digest  # of versions whose rungs kept to one method


def test_work_that_began_under_the_former_hash_goes_on_with_its_labels(data: Path, tmp_path: Path) -> None:
    stated = read_input(PLAIN.replace("&OT", "&OT ON"))
    old = LevelOfTheory("CP2K", science_of(stated, data, is_normal=False))
    save_theory(tmp_path / "theory.json", old)
    now = LevelOfTheory("CP2K", science_of(stated, data), former=(old.digest,))
    assert frozen_theory(tmp_path / "theory.json", now, "campaign").digest == old.digest != now.digest
    save_theory(tmp_path / "new.json", now)
    assert load_theory(tmp_path / "new.json").is_same_as(old)
    with pytest.raises(InputError, match="not the one with which the campaign began"):
        frozen_theory(tmp_path / "theory.json", LevelOfTheory("CP2K", {}), "campaign")


@pytest.mark.cp2k
@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")
def test_defaults_and_short_names_are_those_of_the_program(tmp_path: Path, hydrogen_input: str) -> None:
    text = re.sub(r" *(CUTOFF|REL_CUTOFF|EPS_DEFAULT|EPS_SCF|MAX_SCF) .*\n", "", hydrogen_input)
    parts = "&XC_FUNCTIONAL\n" + "".join(f"&{part[1:]}\n&END\n" for part in frozenset().union(*SHORTCUTS.values()))
    opened = text.replace("&XC_FUNCTIONAL PBE\n", f"&XC_GRID\n&END\n{parts}").replace(
        "&DFT\n", "&DFT\n&POISSON\n&END\n"
    )
    stated = understood(opened, tmp_path)
    for path, defaults in DEFAULTS.items():
        for name, value in defaults.items():
            assert stated[f"{path}/{name}"] == as_printed(value), name
    for short, sections in SHORTCUTS.items():
        names = [short, *(other for other, same in SAME_FUNCTIONAL.items() if same == short)]
        for name in names:
            found = understood(text.replace("&XC_FUNCTIONAL PBE", f"&XC_FUNCTIONAL {name}"), tmp_path)
            parts_of = {each.split("/")[3] for each in found if each.startswith("DFT/XC/XC_FUNCTIONAL/")}
            assert parts_of == {section[1:] for section in sections}


def as_printed(value: object) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    return f"{value:.16E}" if isinstance(value, float) else str(value)


def understood(text: str, folder: Path) -> dict[str, str]:
    """Return what CP2K makes of an input, by path below FORCE_EVAL; sections without keywords stand for themselves."""
    (folder / "echo.inp").write_text(text)
    command = ["cp2k.psmp", "--echo", "-i", "echo.inp"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    found: dict[str, str] = {}
    sections: list[str] = []
    for line in said.splitlines():
        name, _, value = line.strip().partition(" ")
        if name == "&END":
            sections.pop()
        elif name.startswith("&"):
            sections.append(name[1:])
            found["/".join(sections[1:])] = ""
        elif sections[:1] == ["FORCE_EVAL"]:
            found["/".join([*sections[1:], name])] = value.strip()
    return found


UNUSED = "    &KIND O1\n      ELEMENT O\n      BASIS_SET SMALL\n"


def test_a_kind_that_cannot_be_used_does_not_stand_in_the_way_of_others(data: Path) -> None:
    broken = read_input(PLAIN.replace(UNUSED, UNUSED.replace("SMALL", "NO-SUCH")))
    part, unusable = usable_part(broken, data)
    assert part.elements == ("H",)
    assert list(unusable) == ["O"]
    assert re.search(r"KIND O1/BASIS_SET .* NO-SUCH for O is not in DATA; there are", unusable["O"])
    without = re.sub(r"&KIND O1.*?&END\n", "", PLAIN, flags=re.DOTALL)
    assert LevelOfTheory("test", science_of(part, data)).digest == digest(without, data)
    assert usable_part(read_input(PLAIN), data)[1] == {}
    with pytest.raises(InputError, match=r"KIND H/BASIS_SET .* NO-SUCH for H"):
        usable_part(read_input(PLAIN.replace("SET SMALL", "SET NO-SUCH")), data)


@pytest.mark.cp2k
@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")
def test_the_program_is_not_asked_for_a_kind_that_cannot_be_used(hydrogen_input: str) -> None:
    oxygen = "    &KIND O\n      BASIS_SET NO-SUCH\n      POTENTIAL GTH-PBE\n    &END\n"
    text = hydrogen_input.replace("  &SUBSYS\n", f"  &SUBSYS\n{oxygen}")
    theory = CP2KReference(read_input(text)).resolve()
    assert theory.digest == CP2KReference(read_input(hydrogen_input)).resolve().digest
    assert theory.elements == ("H",)
    assert "NO-SUCH for O" in theory.unusable["O"]
