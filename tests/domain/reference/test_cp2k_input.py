from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from surveyor.errors import InputError
from surveyor.labels import LevelOfTheory
from surveyor.reference.cp2k_data import find_entry, science_of
from surveyor.reference.cp2k_input import place, read_input, write_input

DATA = """
# a file of basis sets or pseudopotentials
H  SMALL SMALL-q1
  1
  1 0 0 2 1   ! a comment
    1.0  0.5
    0.2  0.5
#
H  LARGE LARGE-q1
  1
  1 0 0 1 1
    1.5  1.0
O  SMALL SMALL-q6
  1
  NLCC 1
    2.5  1.0
"""

INPUT = """
&GLOBAL
  RUN_TYPE MD
&END GLOBAL
&FORCE_EVAL
  METHOD Quickstep
  &DFT
    BASIS_SET_FILE_NAME BASIS
    POTENTIAL_FILE_NAME POTENTIALS
    &QS
      EPS_DEFAULT 1.0E-12
    &END QS
    &SCF
      EPS_SCF 1.0E-6
      &PRINT
        &RESTART ON
        &END RESTART
      &END PRINT
    &END SCF
    &MGRID
      CUTOFF [eV] 4000
    &END MGRID
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
      &VDW_POTENTIAL
        &PAIR_POTENTIAL
          PARAMETER_FILE_NAME dftd3.dat
        &END PAIR_POTENTIAL
      &END VDW_POTENTIAL
    &END XC
  &END DFT
  &SUBSYS
    &CELL
      ABC 9 9 9
    &END CELL
    &COORD
      H 0 0 0
    &END COORD
    &KIND H
      BASIS_SET SMALL
      POTENTIAL SMALL-q1
    &END KIND
    &KIND O
      BASIS_SET ORB SMALL
      BASIS_SET RI_AUX SMALL-q6
      POTENTIAL SMALL
    &END KIND
  &END SUBSYS
&END FORCE_EVAL
&MOTION
&END MOTION
"""

SAME_INPUT = """
&force_eval
  &subsys
    &kind o
      potential small
      basis_set ri_aux small-Q6
      basis_set orb small
    &end
    &kind h
      potential SMALL-q1
      basis_set small
    &end
  &end
  &dft
    &xc
      &vdw_potential
        &pair_potential
          parameter_file_name ./dftd3.dat
        &end
      &end
      &xc_functional pbe
      &end
    &end
    &mgrid
      cutoff [eV]   4000.0
    &end
    &scf
      eps_scf 1e-6
    &end
    potential_file_name POTENTIALS
    basis_set_file_name BASIS
    &qs
      eps_default 0.000000000001
    &end
  &end
&end
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("BASIS", "POTENTIALS"):
        (tmp_path / name).write_text(DATA)
    (tmp_path / "dftd3.dat").write_text("1.0 2.0 3.0")
    return tmp_path


def digest(text: str, data: Path) -> str:
    return LevelOfTheory("test", science_of(read_input(text), data)).digest


def parsed_again(text: str) -> dict[str, object]:
    from cp2k_input_tools.parser import CP2KInputParser

    tree: dict[str, object] = CP2KInputParser(key_trafo=str.upper).parse(StringIO(text))
    return tree


def test_order_case_and_layout_do_not_matter(data: Path) -> None:
    assert digest(INPUT, data) == digest(SAME_INPUT, data)


def test_site_and_printing_do_not_matter(data: Path) -> None:
    elsewhere = data / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "OTHER_BASIS").write_text("# moved\n" + DATA.replace("    1.0  0.5", "1.0 0.5"))
    (elsewhere / "POTENTIALS").write_text(DATA)
    (elsewhere / "dftd3.dat").write_text("1.0 2.0 3.0")
    moved = INPUT.replace("BASIS_SET_FILE_NAME BASIS", "BASIS_SET_FILE_NAME OTHER_BASIS").replace(
        "RESTART ON", "RESTART"
    )
    assert digest(moved, elsewhere) == digest(INPUT, data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4000", "4001"),
        ("1.0E-6", "1.0E-7"),
        ("XC_FUNCTIONAL PBE", "XC_FUNCTIONAL BLYP"),
        ("BASIS_SET SMALL", "BASIS_SET LARGE"),
        ("POTENTIAL SMALL-q1", "POTENTIAL LARGE"),
        ("BASIS_SET RI_AUX", "BASIS_SET AUX_FIT"),
    ],
)
def test_science_matters(old: str, new: str, data: Path) -> None:
    assert old in INPUT
    assert digest(INPUT.replace(old, new), data) != digest(INPUT, data)


@pytest.mark.parametrize(("file", "old", "new"), [("BASIS", "0.2", "0.3"), ("POTENTIALS", "2.5", "2.6")])
def test_content_of_the_entries_used_matters(file: str, old: str, new: str, data: Path) -> None:
    before = digest(INPUT, data)
    (data / file).write_text(DATA.replace(old, new))
    assert digest(INPUT, data) != before


def test_content_of_other_entries_does_not_matter(data: Path) -> None:
    before = digest(INPUT, data)
    (data / "BASIS").write_text(DATA.replace("1.5", "1.6"))
    assert digest(INPUT, data) == before


def test_content_of_parameter_files_matters(data: Path) -> None:
    before = digest(INPUT, data)
    (data / "dftd3.dat").write_text("1.0 2.0 3.5")
    assert digest(INPUT, data) != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "BASIS_SET SMALL",
            "BASIS_SET SMAL",
            r"^FORCE_EVAL/SUBSYS/KIND H/BASIS_SET of the CP2K input \(line 41: BASIS_SET SMAL\): "
            r"basis set SMAL for H is not in BASIS; there are SMALL",
        ),
        ("RI_AUX SMALL-q6", "RI_AUX SMAL", r"KIND O/BASIS_SET .*\(line 46: BASIS_SET RI_AUX SMAL\): basis set SMAL"),
        (
            "POTENTIAL SMALL-q1",
            "POTENTIAL PBE",
            r"KIND H/POTENTIAL .*\(line 42: POTENTIAL PBE\): pseudopotential PBE for H is not in POTENTIALS; there are",
        ),
        (
            "BASIS_SET_FILE_NAME BASIS",
            "BASIS_SET_FILE_NAME BASES",
            r"^FORCE_EVAL/DFT/BASIS_SET_FILE_NAME .*\(line 8: .*'BASES' cannot be read",
        ),
        (
            "PARAMETER_FILE_NAME dftd3.dat",
            "PARAMETER_FILE_NAME dftd4.dat",
            r"^FORCE_EVAL/DFT/XC/VDW_POTENTIAL/PAIR_POTENTIAL/PARAMETER_FILE_NAME .*\(line 28: .*'dftd4.dat' cannot be",
        ),
        ("&KIND O", "&KIND O\n ELEMENT C", r"KIND O/BASIS_SET .*for C is not in BASIS; they have none for C"),
        ("      POTENTIAL SMALL-q1\n", "", r"^FORCE_EVAL/SUBSYS/KIND H .*\(line 40: &KIND H\) has no POTENTIAL"),
        ("      BASIS_SET SMALL\n", "", r"KIND H .*has no BASIS_SET"),
    ],
)
def test_missing_data_are_named(old: str, new: str, message: str, data: Path) -> None:
    assert old in INPUT
    with pytest.raises(InputError, match=message):
        science_of(read_input(INPUT.replace(old, new)), data)


def test_entry_is_found_by_element_and_any_of_its_names() -> None:
    assert find_entry(DATA, "H", "small") == find_entry(DATA, "H", "SMALL-Q1") == "1\n1 0 0 2 1\n1.0 0.5\n0.2 0.5"
    assert find_entry(DATA, "O", "SMALL") == "1\nNLCC 1\n2.5 1.0"
    assert find_entry(DATA, "O", "LARGE") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("METHOD Quickstep", "METHOD FIST", "METHOD QUICKSTEP"),
        ("&QS", "&QS\n METHOD DFTB", "GPW, GAPW, GAPW_XC, found DFTB"),
        ("4000", "plenty", r"CUTOFF: .*'plenty'; in section FORCE_EVAL/DFT/MGRID, line 21: CUTOFF \[eV\] plenty"),
        (
            "EPS_SCF",
            "EPS_SCF 1\nEPS_SCF",
            r"only be mentioned once; in section FORCE_EVAL/DFT/SCF, line 15: EPS_SCF 1.0E",
        ),
        ("&END SCF", "&END SFC", r"&END SFC does not close .*section FORCE_EVAL/DFT/SCF, line 19: &END SFC"),
        ("&END MOTION", "&END MOTION\n&END", r"no open section to close; in line 53: &END"),
        ("&DFT", "&DFT\n UKS maybe", r"UKS: .*MAYBE.*; in section FORCE_EVAL/DFT, line 8: UKS maybe"),
        ("&QS", "&QS\n METHOD NEW", r"METHOD: .*'NEW'; in section FORCE_EVAL/DFT/QS, line 11: METHOD NEW"),
        ("&KIND H", "&KIND Hx", "KIND Hx"),
        ("&MOTION", "@INCLUDE 'motion.inc'\n&MOTION", "motion.inc"),
        ("&END MOTION", "", "MOTION"),
        ("&DFT", "&DFT\n WFN_RESTART_FILE_NAME old.wfn", "WFN_RESTART_FILE_NAME"),
    ],
)
def test_input_that_cannot_be_used_is_an_input_error(old: str, new: str, message: str) -> None:
    assert old in INPUT
    with pytest.raises(InputError, match=message):
        _ = read_input(INPUT.replace(old, new)).elements


UNKNOWN = {
    "keyword": ("EPS_SCF 1.0E-6", "eps_sfc  1.0E-6 ! a typo", "EPS_SFC 1.0E-6", "FORCE_EVAL/DFT/SCF"),
    "section": ("&SCF", "&New_Solver on\n &INNER\n  N 3\n &END INNER\n&END\n&SCF", "&NEW_SOLVER on", "FORCE_EVAL/DFT"),
    "value of keyword": ("EPS_SCF", "SCF_GUESS CLEVER\nEPS_SCF", "SCF_GUESS CLEVER", "FORCE_EVAL/DFT/SCF"),
    "value of section": ("&XC_FUNCTIONAL PBE", "&XC_FUNCTIONAL PBE3", "&XC_FUNCTIONAL PBE3", "FORCE_EVAL/DFT/XC"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_unknown_passes_with_a_warning(what: str, caplog: pytest.LogCaptureFixture, data: Path) -> None:
    old, new, written, section = UNKNOWN[what]
    changed = INPUT.replace(old, new, 1)
    science = read_input(changed)
    number = 1 + [line.strip().upper() for line in changed.splitlines()].index(new.splitlines()[0].upper())
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"unknown {what} {new.split()[0].strip('&').upper()} in section {section}, line {number}: " in message

    text = write_input(science, place(LevelOfTheory("test", {}).with_electrons(molecule("H2O"))))
    assert written in [line.strip() for line in text.splitlines()]
    assert read_input(text).dft["+QS"] == science.dft["+QS"]
    assert digest(changed, data) != digest(INPUT, data)
    assert digest(changed.replace("N 3", "n   3"), data) == digest(changed, data)


LEFT_OUT = {
    "a unit of the dynamics": ("&MOTION", "&MOTION\n &MD\n &BAROSTAT\n TIMECON [wavenumber_t] 2300\n &END\n &END"),
    "a keyword of the dynamics": ("&MOTION", "&MOTION\n &MD\n STEPPS 3\n &END"),
    "a section of newer versions": ("&MOTION", "&VIBRATIONAL_ANALYSIS\n &NEWEST\n N 3\n &END\n&END\n&MOTION"),
    "a keyword of printing": ("&QS", "&PRINT\n &E_DENSITY_CUBE\n DENSITY_INCLUDES TOTAL\n &END\n &END\n &QS"),
    "a keyword of the structure": ("&KIND H", "&TOPOLOGY\n CELL_FILE_FORMAT NEWEST\n SHAPE ROUND\n &END\n &KIND H"),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_does_not_reach_the_program_is_neither_refused_nor_warned_of(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = LEFT_OUT[what]
    assert old in INPUT
    assert read_input(INPUT.replace(old, new, 1)) == read_input(INPUT)
    assert not caplog.records


def test_a_keyword_that_is_nearly_right_is_suggested(caplog: pytest.LogCaptureFixture) -> None:
    read_input(INPUT.replace("EPS_SCF", "EPS_SFC"))
    assert "did you mean EPS_SCF?" in caplog.text


DESCRIPTION = """
<CP2K_INPUT>
  <SECTION repeats="yes"><NAME>FORCE_EVAL</NAME>
    <KEYWORD repeats="no"><NAME type="default">METHOD</NAME>
      <DATA_TYPE kind="keyword">
        <ENUMERATION><ITEM><NAME>QUICKSTEP</NAME></ITEM></ENUMERATION><N_VAR>1</N_VAR></DATA_TYPE>
    </KEYWORD>
    <SECTION repeats="no"><NAME>DFT</NAME>
      <KEYWORD repeats="no"><NAME type="default">EPS_NEW</NAME>
        <DATA_TYPE kind="real"><N_VAR>1</N_VAR></DATA_TYPE></KEYWORD>
      <SECTION repeats="no"><NAME>NEW_SOLVER</NAME>
        <KEYWORD repeats="yes"><NAME type="default">STEP</NAME>
          <DATA_TYPE kind="integer"><N_VAR>-1</N_VAR></DATA_TYPE></KEYWORD>
      </SECTION>
    </SECTION>
    <SECTION repeats="no"><NAME>SUBSYS</NAME>
      <SECTION repeats="yes"><NAME>KIND</NAME>
        <SECTION_PARAMETERS repeats="no"><NAME type="default">SECTION_PARAMETERS</NAME>
          <DATA_TYPE kind="string"><N_VAR>1</N_VAR></DATA_TYPE></SECTION_PARAMETERS>
      </SECTION>
    </SECTION>
  </SECTION>
</CP2K_INPUT>
"""
NEWER = """
&FORCE_EVAL
  METHOD Quickstep
  &DFT
    EPS_NEW {}
    &NEW_SOLVER
      STEP 1 2
      STEP 3
    &END
  &END
  &SUBSYS
    &KIND H
    &END
  &END
&END
"""


def test_with_a_description_of_another_cp2k_its_keywords_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    description = tmp_path / "cp2k_input.xml"
    description.write_text(DESCRIPTION)
    science = read_input(NEWER.format("1.0D-3"), description=description)
    assert science == read_input(NEWER.format("0.001"), description=description)
    assert not caplog.records
    text = write_input(science, LevelOfTheory("test", {}).with_electrons(Atoms("H2", [[0, 0, 0], [0, 0, 1]])))
    lines = [line.strip() for line in text.splitlines()]
    assert "EPS_NEW 0.001" in lines
    begin = lines.index("&NEW_SOLVER")
    assert lines[begin : begin + 4] == ["&NEW_SOLVER", "STEP 1 2", "STEP 3", "&END NEW_SOLVER"]
    with pytest.raises(InputError, match=r"EPS_NEW: .*'small'; in section FORCE_EVAL/DFT, line 5: EPS_NEW small"):
        read_input(NEWER.format("small"), description=description)


@pytest.mark.parametrize(("content", "message"), [("no XML", "is no XML"), (None, "cannot be read")])
def test_a_description_that_cannot_be_used_is_an_input_error(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cp2k_input.xml").write_text(content)
    with pytest.raises(InputError, match=message):
        read_input(INPUT, description=tmp_path / "cp2k_input.xml")


@pytest.mark.parametrize(("written", "value"), [("1D-6", 1e-6), ("1.D-6", 1e-6), ("-.5d0", -0.5), ("1/4", 0.25)])
def test_numbers_are_read_as_cp2k_reads_them(written: str, value: float) -> None:
    assert read_input(INPUT.replace("1.0E-6", written)).dft["+SCF"]["EPS_SCF"] == value


def test_input_without_kinds_or_without_one_force_eval_is_an_input_error() -> None:
    with pytest.raises(InputError, match="KIND"):
        read_input("&FORCE_EVAL\n&DFT\n&END\n&END")
    with pytest.raises(InputError, match="0 sections FORCE_EVAL"):
        read_input("&GLOBAL\n&END")
    with pytest.raises(InputError, match="2 sections FORCE_EVAL"):
        read_input("&FORCE_EVAL\n&END\n&FORCE_EVAL\n&END")


def test_files_are_included_from_the_folder_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "scf.inc").write_text("EPS_SCF 1.0E-6\n")
    including = INPUT.replace("EPS_SCF 1.0E-6", "@INCLUDE 'scf.inc'")
    assert read_input(including, tmp_path) == read_input(INPUT)


def test_charge_and_multiplicity_are_taken_out_of_the_science(data: Path) -> None:
    stated = INPUT.replace("&DFT", "&DFT\n CHARGE -1\n MULTIPLICITY 2")
    assert (read_input(stated).charge, read_input(stated).multiplicity) == (-1, 2)
    assert (read_input(INPUT).charge, read_input(INPUT).multiplicity) == (None, None)
    assert digest(stated, data) == digest(INPUT, data)


def test_kinds_name_the_elements() -> None:
    several = INPUT.replace("&KIND O", "&KIND O1").replace("&KIND H", "&KIND DEEP\n ELEMENT H")
    assert read_input(INPUT).elements == ("H", "O")
    assert not read_input(INPUT).distinguishes_kinds
    assert read_input(several).elements == ("H", "O")
    assert read_input(several).distinguishes_kinds
    assert read_input(INPUT.replace("&KIND H", "&KIND DEFAULT")).elements is None


def test_everything_of_the_science_is_written() -> None:
    science = read_input(INPUT)
    water = LevelOfTheory("test", {}).with_electrons(molecule("H2O", cell=[6, 7, 8], pbc=True))
    assert read_input(write_input(science, place(water))).dft["+MGRID"] == science.dft["+MGRID"]
    again = read_input(write_input(science, place(water)))
    assert again.kinds == science.kinds
    assert again.dft["+XC"] == science.dft["+XC"]


def test_structure_of_the_input_is_replaced() -> None:
    water = molecule("H2O", cell=[6, 7, 8], pbc=True)
    written = parsed_again(write_input(read_input(INPUT), place(LevelOfTheory("test", {}).with_electrons(water))))
    subsys = written["+FORCE_EVAL"][0]["+SUBSYS"]  # type: ignore[index]
    assert subsys["+CELL"] == {"A": (6, 0, 0), "B": (0, 7, 0), "C": (0, 0, 8), "PERIODIC": "XYZ"}
    assert [line.split()[0] for line in subsys["+COORD"]["*"]] == ["O", "H", "H"]
    positions = [[float(word) for word in line.split()[1:]] for line in subsys["+COORD"]["*"]]
    np.testing.assert_allclose(positions, water.positions, atol=1e-8)
    assert written["+GLOBAL"]["RUN_TYPE"] == "ENERGY_FORCE"  # type: ignore[index]


def test_charge_multiplicity_and_spin_are_those_of_the_structure() -> None:
    radical = molecule("OH", cell=[6, 6, 6], pbc=True)
    dft = read_input(write_input(read_input(INPUT), LevelOfTheory("test", {}).with_electrons(radical)))
    assert (dft.charge, dft.multiplicity, dft.dft["UKS"]) == (0, 2, True)
    cation = radical.copy()
    cation.info["charge"] = 1
    dft = read_input(write_input(read_input(INPUT), LevelOfTheory("test", {}).with_electrons(cation)))
    assert (dft.charge, dft.multiplicity) == (1, 1)
    assert "UKS" not in dft.dft


def test_kinds_of_the_structure_are_written() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.75]], cell=[5, 5, 5], pbc=True)
    atoms.arrays["kinds"] = np.array(["H1", "H"])
    written = parsed_again(write_input(read_input(INPUT), LevelOfTheory("test", {}).with_electrons(atoms)))
    coordinates = written["+FORCE_EVAL"][0]["+SUBSYS"]["+COORD"]["*"]  # type: ignore[index]
    assert [line.split()[0] for line in coordinates] == ["H1", "H"]


def test_structure_without_periodicity_is_put_into_a_box() -> None:
    water = molecule("H2O")
    placed = place(water)
    assert placed.cell.lengths().tolist() == [12, 12, 12]
    np.testing.assert_allclose(placed.get_all_distances(), water.get_all_distances(), atol=1e-8)
    edges = np.minimum(placed.positions, 12 - placed.positions)
    assert edges.min() >= 4.5
    written = read_input(write_input(read_input(INPUT), LevelOfTheory("test", {}).with_electrons(placed)))
    assert written.dft["+POISSON"] == {"POISSON_SOLVER": "WAVELET"}


def test_box_does_not_move_with_one_atom() -> None:
    water = molecule("H2O")
    moved = water.copy()
    moved.positions[0, 2] += 0.01
    np.testing.assert_allclose(
        place(moved).positions - place(water).positions, moved.positions - water.positions, atol=1e-8
    )
