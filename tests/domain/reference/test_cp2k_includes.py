"""Files that a CP2K input includes: beside it, then in CP2K's data directory, as the program itself looks for them."""

import shutil
from pathlib import Path

import pytest

from surveyor.errors import InputError
from surveyor.reference.cp2k import CP2KParameters, CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.cp2k_input import CP2KInput

SECTION = "&XC\n  &XC_FUNCTIONAL {}\n  &END\n&END\n"
INPUT = """
&FORCE_EVAL
  &DFT
    @XCTYPE {name} ! it's in the data directory
  &END
  &SUBSYS
    &KIND H
      BASIS_SET SZV-GTH
      POTENTIAL GTH-PBE-q1
    &END
  &END
&END
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a section of its own."""
    (tmp_path / "data" / "xc_section").mkdir(parents=True)
    (tmp_path / "data" / "xc_section" / "OURS.sec").write_text(SECTION.format("BLYP"))
    (tmp_path / "data" / "top.inc").write_text(SECTION.format("TPSS"))
    return tmp_path / "data"


def read(code: CP2KCode, text: str = INPUT.format(name="'OURS'")) -> CP2KInput:
    return CP2KReference.from_parameters(CP2KParameters(input_text=text), code).input


def functional(given: CP2KInput) -> str:
    return str(given.dft["+XC"]["+XC_FUNCTIONAL"]["_"])


def test_sections_are_found_in_the_data_directory_of_the_code(data: Path) -> None:
    for code in (CP2KCode(data_directory=data), CP2KCode(environment={"CP2K_DATA_DIR": str(data)})):
        assert functional(read(code)) == "BLYP"
        assert functional(read(code, INPUT.replace("@XCTYPE {name}", "@INCLUDE top.inc\n"))) == "TPSS"


def test_sections_are_found_in_the_data_directory_of_the_environment(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CP2K_DATA_DIR", str(data))
    assert functional(read(CP2KCode(command="no-such-cp2k"))) == "BLYP"


def test_files_beside_the_input_come_first(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "given.inp"
    path.write_text(INPUT.format(name="OURS").replace(" ! it's in the data directory", ""))
    (tmp_path / "OURS.sec").write_text(SECTION.format("PBE"))
    reference = CP2KReference.from_parameters(CP2KParameters(input=path), CP2KCode(data_directory=data))
    assert functional(reference.input) == "PBE"


@pytest.mark.cp2k
@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="needs CP2K (Debian package cp2k)")
def test_sections_of_the_installed_program_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CP2K_DATA_DIR", raising=False)
    functional = read(CP2KCode(), INPUT.format(name="'PBE'")).dft["+XC"]["+XC_FUNCTIONAL"]
    assert "+PBE" in functional or functional["_"] == "PBE"


@pytest.mark.parametrize(
    ("include", "message"),
    [
        (
            "@XCTYPE NONE_SUCH",
            r"xc_section/NONE_SUCH.sec was not found beside the input, .*, nor in .*data; in line 4: ",
        ),
        ("@INCLUDE ../secret", r"\.\./secret was not found beside the input, which is given as text; in line 4: "),
        ("@INCLUDE /etc/hostname", r"/etc/hostname was not found beside the input, which is given as text; in line 4"),
    ],
)
def test_a_file_that_is_not_there_is_named_and_a_text_includes_none_from_elsewhere(
    include: str, message: str, data: Path
) -> None:
    (data.parent / "secret").write_text("s3cret")
    with pytest.raises(InputError, match=message) as refused:
        read(CP2KCode(data_directory=data), INPUT.replace("@XCTYPE {name} ! it's in the data directory", include))
    assert "s3cret" not in str(refused.value)


def test_where_the_data_directory_is_unknown_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CP2K_DATA_DIR", raising=False)
    with pytest.raises(InputError, match=r"data directory is not known here .*set data_directory of the code; in line"):
        read(CP2KCode(command="no-such-cp2k"))
