"""Atoms that a structure cannot hold, and masses that are none."""

import ase.io
import numpy as np
import pytest
from ase.build import molecule

from surveyor.errors import InputError
from surveyor.reading import read_structures, read_unchecked

CIF = """data_x
_cell_length_a 5
_cell_length_b 5
_cell_length_c 5
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
{}
"""
ALLOY = CIF.format("Cu1 Cu 0.5 0 0 0\nAu1 Au 0.5 0 0 0\nO1 O 1.0 0.5 0.5 0.5")
VACANCY = CIF.format("Cu1 Cu 1.0 0 0 0\nO1 O 0.7 0.5 0.5 0.5")
WHOLE = CIF.format("Cu1 Cu 1.0 0 0 0\nO1 O 1.0 0.5 0.5 0.5")
PDB = "ATOM      1  O   HOH     1       0.000   0.000   0.000  {}  0.00           O  \n"

BAD = {
    "alloy.cif": (ALLOY, r"site 0 is partly occupied \(Cu 0.5, Au 0.5\); .*ordered structure"),
    "vacancy.cif": (VACANCY, r"site 1 is partly occupied \(O 0.7\)"),
    "half.pdb": (PDB.format("0.50"), r"site 0 is partly occupied \(O 0.5\)"),
    "occupied.extxyz": (
        "1\nProperties=species:S:1:pos:R:3:occupancy:S:1\nH 0 0 0 full\n",
        "occupancy holds no numbers",
    ),
    "shared.extxyz": (
        '1\nProperties=species:S:1:pos:R:3 occupancy="_JSON {\\"0\\": {\\"Cu\\": 1.0, \\"Au\\": 1.0}}"\nCu 0 0 0\n',
        r"site 0 is partly occupied \(Cu 1, Au 1\)",
    ),
    "two columns.extxyz": (
        "1\nProperties=species:S:1:pos:R:3:occupancy:R:2\nH 0 0 0 1.0 1.0\n",
        "occupancy holds no numbers",
    ),
    "deuterium.xyz": ("1\n\nD 0 0 0\n", r"the symbol D, .*; write H, and a column masses with 2.014 \(u\)"),
    "tritium.extxyz": ("1\nProperties=species:S:1:pos:R:3\nT 0 0 0\n", "the symbol T, .*masses with 3.016"),
    "POSCAR": ("x\n1.0\n5 0 0\n0 5 0\n0 0 5\nD\n1\nDirect\n0 0 0\n", "the symbol D, "),
    "unknown.xyz": ("1\n\nXx 0 0 0\n", "'Xx', which is no symbol of a chemical element"),
    "formula.extxyz": ("1\nProperties=species:S:1:pos:R:3\nH2 0 0 0\n", "'H2', which is no symbol"),
    "dummy.xyz": ("1\n\nX 0 0 0\n", "atom 0 is of no known element"),
    "number.extxyz": ("1\nProperties=Z:I:1:pos:R:3\n200 0 0 0\n", "the atomic number 200, which is of no chemical"),
}


@pytest.mark.parametrize("file", BAD)
def test_atoms_that_a_structure_cannot_hold_are_refused_by_name(tmp_path, file):
    text, complaint = BAD[file]
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=f"structure 0 of .*{file}:? .*{complaint}"):
        read_structures(tmp_path / file)


def test_the_second_structure_of_a_file_is_named_where_it_holds_an_isotope(tmp_path):
    (tmp_path / "some.xyz").write_text("1\n\nH 0 0 0\n1\n\nD 0 0 0\n")
    with pytest.raises(InputError, match=r"structure 1 of .*some\.xyz: found the symbol D"):
        read_unchecked(tmp_path / "some.xyz")


def test_partly_occupied_sites_are_known_after_a_way_through_extxyz(tmp_path):
    (tmp_path / "alloy.cif").write_text(ALLOY)
    ase.io.write(tmp_path / "alloy.extxyz", ase.io.read(tmp_path / "alloy.cif"))
    assert "partly occupied" in read_unchecked(tmp_path / "alloy.extxyz").refused[0]


@pytest.mark.parametrize(
    ("file", "text", "symbols"),
    [
        ("whole.cif", WHOLE, "CuO"),
        ("whole.pdb", PDB.format("1.00"), "O"),
        ("without.pdb", PDB.format("0.00"), "O"),  # what programs write that know no occupancies
    ],
)
def test_sites_that_are_occupied_are_read(tmp_path, file, text, symbols):
    (tmp_path / file).write_text(text)
    reading = read_structures(tmp_path / file)
    assert str(reading.structures[0].symbols) == symbols
    assert reading.report.used == ("occupancy",)


@pytest.fixture
def heavy(tmp_path):
    def write(**columns):
        water = molecule("H2O")
        for name, values in columns.items():
            water.set_array(name, np.array(values))
        ase.io.write(tmp_path / "water.extxyz", [molecule("H2O"), water][-1:])
        return tmp_path / "water.extxyz"

    return write


@pytest.mark.parametrize("name", ["masses", "mass", "atomic_masses"])
def test_a_column_of_masses_is_taken_under_whichever_name(heavy, name):
    reading = read_structures(heavy(**{name: [15.999, 2.014, 2.014]}))
    np.testing.assert_allclose(reading.structures[0].get_masses(), [15.999, 2.014, 2.014])
    assert [finding.text for finding in reading.report.findings] == (
        [] if name == "masses" else [f"the column {name} is taken as masses (u)"]
    )


def test_two_columns_of_the_same_masses_are_one(heavy):
    reading = read_structures(heavy(masses=[16.0, 2.0, 2.0], mass=[16.0, 2.0, 2.0]))
    np.testing.assert_allclose(reading.structures[0].get_masses(), [16.0, 2.0, 2.0])
    assert (reading.report.used, reading.report.findings) == (("masses", "mass"), ())


@pytest.mark.parametrize(("name", "mass"), [("mass", 9.0), ("mass", 0.11), ("masses", 30.0)])
def test_masses_of_no_isotope_are_taken_up_to_ten_times_and_without_limit_under_the_name_of_ase(heavy, name, mass):
    reading = read_structures(heavy(**{name: [16.0, mass, mass]}))
    np.testing.assert_allclose(reading.structures[0].get_masses(), [16.0, mass, mass])


BAD_MASSES = {
    "zero": ({"masses": [15.999, 0.0, 2.0]}, "column masses holds no masses; atom 1 has 0"),
    "negative": ({"mass": [-15.999, 1.0, 2.0]}, "column mass holds no masses; atom 0 has -15.999"),
    "nan": ({"masses": [15.999, 1.0, np.nan]}, "column masses holds no masses; atom 2 has nan"),
    "infinite": ({"masses": [15.999, np.inf, 2.0]}, "column masses holds no masses; atom 1 has inf"),
    "words": ({"mass": ["a", "b", "c"]}, "column mass holds no masses; atom 0 has a"),
    "two numbers": ({"masses": [[16.0, 1.0]] * 3}, "column masses holds no masses; atom 0 has"),
    "more than tenfold": ({"mass": [16.0, 1.0, 11.0]}, r"atom 2 \(H\) the mass 11, "),
    "in kg/mol": ({"mass": [0.016, 0.001, 0.001]}, r"atom 1 \(H\) the mass 0\.001, which is none in u"),
    "another unit": ({"mass": [29164.0, 1837.0, 1837.0]}, r"atom 0 \(O\) the mass 29164, .*a column masses in u"),
    "two": ({"masses": [16.0, 1.0, 1.0], "mass": [16.0, 2.0, 2.0]}, "masses and mass contradict each other"),
}


@pytest.mark.parametrize("what", BAD_MASSES)
def test_masses_that_no_atom_has_are_refused(heavy, what):
    columns, complaint = BAD_MASSES[what]
    with pytest.raises(InputError, match=complaint):
        read_structures(heavy(**columns))


def test_masses_do_not_matter_to_labels(heavy):
    reading = read_unchecked(heavy(masses=[16.0, 0.0, 0.0]))
    assert not reading.refused
    assert reading.report.unused == ("masses",)
