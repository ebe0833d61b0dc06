"""Lines of CP2K inputs, in all ways of writing them that could be thought of, against the real program."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cp2k_input_tools.keyword_helpers import UREG
from hypothesis import example, given, settings
from hypothesis import strategies as st

from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory
from surveyor.reference.cp2k_check import one_of_each_kind
from surveyor.reference.cp2k_input import place, read_input, write_input
from surveyor.reference.cp2k_units import LIBRARY, in_words_of_the_library

HEAD = """&FORCE_EVAL
  &SUBSYS
    &KIND H
{kind}
      POTENTIAL GTH-PBE-q1
    &END KIND
  &END SUBSYS
  &DFT
"""
TAIL = """
  &END DFT
&END FORCE_EVAL
"""
BASIS = "      BASIS_SET SZV-GTH"
CUTOFF = "&MGRID\n CUTOFF {}\n&END MGRID"
FILES = {"a.inc": CUTOFF.format(200), "b.inc": "@INCLUDE 'b.inc'", "mine.sec": "&XC\n DENSITY_CUTOFF 2E-9\n&END"}

# What CP2K 2023.1 takes in the section DFT, by what surveyor must read: keywords of MGRID, or of DFT.
TAKEN: dict[str, dict[str, Any]] = {  # Any: values of keywords
    "&MGRID\n CUTOFF 200 ! it's\n&END MGRID": {"CUTOFF": 200.0},
    '&MGRID\n CUTOFF 200 # "quoted\n&END MGRID': {"CUTOFF": 200.0},
    "&MGRID ! it's \"\n CUTOFF 200\n&END MGRID # it's": {"CUTOFF": 200.0},
    "&MGRID!x\n CUTOFF 200\n&END MGRID": {"CUTOFF": 200.0},
    "&MGRID on\n CUTOFF 200\n&END MGRID": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF 200!\n&END SECTION MGRID # x": {"CUTOFF": 200.0},
    "&mgrid\n cutoff 200\n&end Mgrid Mgrid x": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF 200 ! ends \\\n NGRIDS 3\n&END MGRID": {"CUTOFF": 200.0, "NGRIDS": 3},
    "&MGRID\n! it's \\\n CUTOFF 200\n&END": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF \\\n 200\n&END": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF \\ ! it's \\\n 200\n&END": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF \\   \n\n ! it's\n 200 # it's\n&END": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF = 200\n NGRIDS=3;\n&END": {"CUTOFF": 200.0, "NGRIDS": 3},
    "&MGRID\n CUTOFF! , 200\n NGRIDS#=3!,\n&END": {"CUTOFF": 200.0, "NGRIDS": 3},
    "&MGRID\t\n\tCUTOFF\t200\t!x\r\n\t&END\tMGRID": {"CUTOFF": 200.0},
    '&MGRID\n CUTOFF "200"\n&END': {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF 2*100\n&END": {"CUTOFF": 200.0},
    "&MGRID\n CUTOFF 500/2.5\n NGRIDS 2*3\n&END": {"CUTOFF": 200.0, "NGRIDS": 6},
    "&MGRID\n CUTOFF 2D2\n&END": {"CUTOFF": 200.0},
    "@SET Cut 200 ! it's\n&MGRID\n CUTOFF $Cut\n&END": {"CUTOFF": 200.0},
    "  @set Cut 20\n&MGRID\n CUTOFF ${Cut}0\n NGRIDS ${N-3} ! it's\n&END": {"CUTOFF": 200.0, "NGRIDS": 3},
    "@IF 0\n" + CUTOFF.format(300) + "\n@ENDIF ! it's\n" + CUTOFF.format(200): {"CUTOFF": 200.0},
    "@IF 0 ! it is on, all the same\n" + CUTOFF.format(200) + "\n@ENDIF": {"CUTOFF": 200.0},
    "@SET A x\n@IF ( ${A} == x )\n@IF $A /=y\n" + CUTOFF.format(200) + "\n@ENDIF\n@ENDIF": {"CUTOFF": 200.0},
    "@IF x == x ! the comment counts\n" + CUTOFF.format(200) + "\n@ENDIF\nUKS": {"UKS": True},
    "@PRINT it's\n@include 'a.inc' ! it's": {"CUTOFF": 200.0},
    "@INCLUDE a.inc": {"CUTOFF": 200.0},
    "@\n  @  ! it's\n@# it's\n" + CUTOFF.format(200): {"CUTOFF": 200.0},
    "@XCTYPE mine": {"DENSITY_CUTOFF": 2e-9},
    "UKS ! it's": {"UKS": True},
    "UKS .TRUE. # it's": {"UKS": True},
    'LSD "yes"': {"UKS": True},
    "&EFIELD\n POLARISATION 1 , 2 \\ ! it's\n 3 ! it's\n&END": {"POLARISATION": [1.0, 2.0, 3.0]},
    '&QS\n METHOD "GAPW" ! it\'s\n&END': {"METHOD": "GAPW"},
    "! it's $5 ${x\n# me@home\n" + CUTOFF.format(200): {"CUTOFF": 200.0},
    "UKS T ! Å ½ " + "x" * 2000: {"UKS": True},
}
# What it refuses, and what it leaves out without a word, by what the message says.
REFUSED = {
    "&MGRID\n CUTOFF 200!its\n&END MGRID": "CUTOFF: ",
    "&MGRID\n CUTOFF 200\n&END MGRID!x": "does not close the section",
    "&MGRID\n CUTOFF 2\\\n00\n&END MGRID": "1 values, 2 were given",
    "&MGRID\n CUTOFF ,, 200\n&END": "unexpected separator ,",
    "&MGRID\n CUTOFF, , 200\n&END": "unexpected separator ,",
    "&MGRID\n CUTOFF! =, 200\n&END": "unexpected separator ,",
    '&MGRID\n CUTOFF "200\n&END': "quotation mark",
    "&MGRID\n CUTOFF 200 \\ 3\n&END": "the backslash",
    "& MGRID\n CUTOFF 200\n& END": "no name behind &",
    "&MGRID\n CUTOFF 200 ! $5\n&END": "CP2K replaces variables in comments",
    "&MGRID\n CUTOFF $cut\n&END": "variable cut is not set",
    "@SET Cut 200\n&MGRID\n CUTOFF ${CUT}\n&END": r"set before are Cut \(case matters\)",
    "@SET Cut\n": "a value",
    "@IF 0\nUKS": "expected @ENDIF",
    "@IF x ==\nUKS": "behind the comparison",
    "@INCLUDE 'no.inc'": "no.inc was not found in",
    "@INCLUDE 'a.inc\"": "not matched",
    "@INCLUDE b.inc": "include each other without end",
    "@XCTYPE PBEx": "PBEx.sec was not found in",
    "&QS ! it's\n&END QS QS2": "does not close",
    "UKS T \\": "UKS: ",
}
LEFT_OUT = ["&MGRID\n CUTOFF 200 ! joe@home\n&END", "&MGRID\n CUTOFF 200 @SET A 1\n&END", "@FOO\n" + CUTOFF.format(200)]

needs_cp2k = pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")


def whole(lines: str, kind: str = BASIS) -> str:
    return HEAD.format(kind=kind) + lines + TAIL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input")
    for name, content in FILES.items():
        (path / name).write_text(content)
    return path


def found_in(section: dict[str, Any], name: str) -> Any:  # Any: trees and values
    inner = [section[f"+{each}"] for each in ("MGRID", "QS", "XC") if f"+{each}" in section]
    fields = section.get("+EFIELD", [])
    return next(each[name] for each in [section, *inner, *fields] if name in each)


@pytest.mark.parametrize("lines", TAKEN)
def test_lines_are_read_as_the_program_reads_them(lines: str, folder: Path) -> None:
    dft = read_input(whole(lines), folder).dft
    assert {name: found_in(dft, name) for name in TAKEN[lines]} == TAKEN[lines]


@pytest.mark.parametrize("lines", REFUSED)
def test_lines_that_the_program_refuses_are_refused_with_their_number(lines: str, folder: Path) -> None:
    with pytest.raises(InputError, match=REFUSED[lines]) as refused:
        read_input(whole(lines), folder)
    assert re.search(r"line \d+", str(refused.value))


@pytest.mark.parametrize("lines", LEFT_OUT)
def test_lines_that_the_program_leaves_out_without_a_word_are_refused(lines: str) -> None:
    with pytest.raises(InputError, match=r"leaves .* out without a word.*; in line \d+: "):
        read_input(whole(lines))


def echo(lines: str, folder: Path) -> str | None:
    """Return what CP2K understands of an input, None where it refuses it."""
    (folder / "echo.inp").write_text("&GLOBAL\n RUN_TYPE ENERGY\n&END\n" + whole(lines))
    command = ["cp2k.psmp", "--echo", "-i", "echo.inp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    return None if done.returncode or "ABORT" in done.stdout else done.stdout


@pytest.mark.cp2k
@needs_cp2k
@pytest.mark.parametrize("some", [slice(0, None, 7), pytest.param(slice(None), marks=pytest.mark.long)])
def test_the_real_program_reads_the_same(some: slice, folder: Path) -> None:
    for lines in list(TAKEN)[some]:
        said = echo(lines, folder)
        assert said is not None, lines
        for name, value in TAKEN[lines].items():
            values = value if isinstance(value, list) else [value]
            found = re.findall(rf"^ +{name} +(.*)$", said, re.MULTILINE)
            assert any(list(map(as_value, each.split())) == values for each in found), (lines, found)


@pytest.mark.slow
@pytest.mark.cp2k
@needs_cp2k
def test_the_real_program_refuses_the_same_and_leaves_lines_out(folder: Path) -> None:
    assert [lines for lines in REFUSED if echo(lines, folder) is not None] == []
    assert all("CUTOFF     2.8000000000000000E+02" in str(echo(lines, folder)) for lines in LEFT_OUT[:2])


def as_value(word: str) -> Any:  # Any: of a keyword
    if word in ("T", "F"):
        return word == "T"
    try:
        return float(word)
    except ValueError:
        return word


@pytest.mark.parametrize(
    "kind", ["      BASIS_SET SZV-GTH ! it's", '      BASIS_SET ORB "SZV-GTH" # "', "      BASIS_SET 'SZV-GTH' ! it's"]
)
def test_names_of_entries_stand_before_comments(kind: str) -> None:
    (basis,) = read_input(whole("", kind)).kinds["H"]["BASIS_SET"]
    assert basis in ("SZV-GTH", ["ORB", "SZV-GTH"])


def test_a_comment_that_the_program_takes_for_a_part_of_a_name_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"DFT/BASIS_SET_FILE_NAME .*\(line 9: .*takes the comment for a part of the value"
    ):
        read_input(whole("BASIS_SET_FILE_NAME BASIS ! it's the site's"))
    assert read_input(whole('BASIS_SET_FILE_NAME "BASIS" ! it\'s')).dft["BASIS_SET_FILE_NAME"] == ["BASIS"]


# In Ry and Å, as `--echo` of CP2K 2023.1 says, whose constants of nature are those of an earlier year.
IN_UNITS = {
    "CUTOFF": {
        "HARTREE": 2.0, "wavenumber_e": 9.1126705e-6, "Joule": 4.5874254e17, "kcalmol": 3.1872029e-3,
        "KJMOL": 7.6175978e-4,
        "Ry": 1.0, "EV": 7.3498651e-2, "KEV": 73.498651, "k_E": 6.3336307e-6, "AU_E": 2.0,
    },
    "R_CUTOFF": {"Bohr": 0.52917721, "M": 1e10, "pm": 0.01, "NM": 10.0, "ANGSTROM": 1.0, "au_L": 0.52917721},
}  # fmt: skip


@pytest.mark.parametrize("keyword", IN_UNITS)
def test_units_are_those_of_the_program_in_any_case(keyword: str) -> None:
    for unit, expected in IN_UNITS[keyword].items():
        line = f"{keyword} [{unit}] 1"
        lines = f"&MGRID\n{line}\n&END" if keyword == "CUTOFF" else f"&XC\n&VDW_POTENTIAL\n&PAIR_POTENTIAL\n{line}\n"
        dft = read_input(whole(lines + ("" if keyword == "CUTOFF" else "&END\n&END\n&END"))).dft
        section = dft["+MGRID"] if keyword == "CUTOFF" else dft["+XC"]["+VDW_POTENTIAL"]["+PAIR_POTENTIAL"][0]
        assert section[keyword] == pytest.approx(expected, rel=2e-6), unit


# The other ones, in units of the SI; CODATA 2018.
IN_SI = {
    "k": 1.0, "k_temp": 1.0, "au_temp": 315775.02480407, "rad": 1.0, "deg": 1.7453292519943e-2,
    "pa": 1.0, "mpa": 1e6, "gpa": 1e9, "bar": 1e5, "kbar": 1e8, "atm": 101325.0, "au_p": 2.9421015697e13,
    "s": 1.0, "ps": 1e-12, "fs": 1e-15, "au_t": 2.4188843265857e-17,
    "kg": 1.0, "amu": 1.6605390666e-27, "m_e": 9.1093837015e-31, "au_m": 9.1093837015e-31,
    "n": 1.0, "newton": 1.0, "mn": 1e-3, "mnewton": 1e-3, "au_f": 8.2387234983e-8,
}  # fmt: skip


def test_each_unit_is_that_of_the_program() -> None:
    for unit, expected in IN_SI.items():
        for written in (unit, unit.upper()):
            found = UREG(in_words_of_the_library(f"[{written}]").strip("[]"))
            assert found.to_base_units().magnitude == pytest.approx(expected, rel=1e-9), written
    in_ry_and_angstrom = {unit.lower() for units in IN_UNITS.values() for unit in units}
    assert in_ry_and_angstrom | IN_SI.keys() == LIBRARY.keys()


# Pieces of inputs, which random texts hardly hold.
PIECES = st.sampled_from(
    [
        "&", "&END", "&FORCE_EVAL", "&DFT", "&MGRID", "&KIND", "&SUBSYS", "&XC_FUNCTIONAL", "&SCF", "&OT", "CUTOFF",
        "METHOD", "QS", "UKS", "BASIS_SET", "CHARGE", "H", "O", "PBE", "200", "1/0", "2*", "1..3", "1D", "[eV]", "[(]",
        "[", "]", "@SET", "@IF", "@ENDIF", "@INCLUDE", "@XCTYPE", "${", "}", "$A", "A", "==", "!", "#", '"', "'", "\\",
        "\n", "\n", "\n", " ", " ", "\t", "\r", ",", ":", ";", "=", "\x0c", "\u00a0", "\u2028", "it's", "9" * 400,
        "BASIS_SET_FILE_NAME", "&KIND H\n", "&PRINT", "*", "&COORD", "1e999", "nan",
    ]
)  # fmt: skip
FRAGMENTS = st.one_of(
    st.lists(PIECES, max_size=12).map(" ".join), st.lists(PIECES, max_size=12).map("".join), st.text()
)


@settings(max_examples=50, deadline=None)
@given(head=st.booleans(), text=FRAGMENTS)
@example(head=True, text="@INCLUDE " + "x" * 5000)
@example(head=True, text="@INCLUDE x\x00")
@example(head=True, text="&XC\n&VDW_POTENTIAL\n&END\n&END 'it's")
@example(head=True, text='BASIS_SET_FILE_NAME "it"s ! it\'s')
def test_any_text_is_read_or_refused_with_its_line(head: bool, text: str) -> None:
    try:
        found = read_input(whole(text) if head else text, Path(__file__).parent)
        atoms = LevelOfTheory("test", {}).with_electrons(one_of_each_kind(found))
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
        write_input(found, place(atoms))
    assert "cannot be read: " not in refusal or "line " in refusal
