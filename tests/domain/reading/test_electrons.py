"""Charge and spin under the names that other programs write."""

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from surveyor.errors import InputError
from surveyor.reading import read_labelled, read_structures, read_unchecked
from surveyor.structures import charge_of, multiplicity_of


def hydroxide(**info):
    atoms = molecule("OH")
    del atoms.arrays["initial_magmoms"]
    atoms.info.update(info)
    return atoms


def oxygen(**info):
    atoms = molecule("O2")
    del atoms.arrays["initial_magmoms"]
    atoms.info.update(info)
    return atoms


def with_column(atoms, name, values):
    atoms.set_array(name, np.array(values, dtype=float))
    return atoms


@pytest.fixture
def read(tmp_path):
    def write_and_read(*structures):
        ase.io.write(tmp_path / "some.extxyz", structures, format="extxyz")
        return read_structures(tmp_path / "some.extxyz")

    return write_and_read


MOMENTS, CHARGES = "initial_magmoms", "initial_charges"

TAKEN = {
    "total_charge": (hydroxide(total_charge=-1), -1, 1),
    "Total_Charge": (hydroxide(Total_Charge=-1.0), -1, 1),
    "net_charge": (hydroxide(net_charge=-1), -1, 1),
    CHARGES: (with_column(hydroxide(), CHARGES, [-1.15, 0.2]), -1, 1),
    "spin": (oxygen(spin=3), 0, 3),
    "total_spin": (hydroxide(charge=-1, total_spin=1), -1, 1),
    "mult": (oxygen(mult=3), 0, 3),
    "spin_multiplicity": (oxygen(spin_multiplicity=5), 0, 5),
    "uhf": (oxygen(uhf=2), 0, 3),
    "n_unpaired_electrons": (hydroxide(n_unpaired_electrons=3), 0, 4),
    MOMENTS: (molecule("O2"), 0, 3),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_only_mean_one_thing_is_taken_with_a_warning(read, name):
    atoms, charge, multiplicity = TAKEN[name]
    reading = read(molecule("H2O"), atoms)
    assert charge_of(reading.structures[1]) == charge
    assert multiplicity_of(reading.structures[1]) == multiplicity
    (finding,) = reading.report.findings
    assert name in finding.text
    assert (finding.n_structures, finding.first) == (1, 1)
    assert name in reading.report.used


SILENT = {
    "surveyor's own names": hydroxide(charge=-1, multiplicity=1),
    "two names that agree": hydroxide(charge=-1, total_charge=-1),
    "columns of zeros, as ASE writes them": with_column(
        with_column(hydroxide(charge=-1), MOMENTS, [0, 0]), CHARGES, [0, 0]
    ),
    "partial charges that add up": with_column(hydroxide(charge=-1), CHARGES, [-0.9, -0.1]),
    "partial charges of a neutral molecule": with_column(molecule("H2O"), CHARGES, [-0.8, 0.4, 0.4]),
    "moments that agree": with_column(oxygen(multiplicity=3), MOMENTS, [1.1, 0.9]),
    "moments of the singlet": with_column(oxygen(multiplicity=1), MOMENTS, [1, -1]),
    "moments that add up to zero": with_column(oxygen(), MOMENTS, [1, -1]),
    "moments of a crystal": bulk("Fe"),
    "computed charges that add up": with_column(hydroxide(charge=-1), "charges", [-1.2, 0.25]),
    "computed charges of a neutral molecule": with_column(molecule("H2O"), "mulliken_charges", [-0.8, 0.4, 0.45]),
    "computed moments of the radical": with_column(hydroxide(), "magmoms", [0.98, 0.01]),
    "computed moments of a crystal": with_column(Atoms("Fe", cell=[2.5] * 3, pbc=True), "magmoms", [2.2]),
    "charges of nuclei": with_column(molecule("H2O"), "nuclear_charges", [8, 1, 1]),
}


@pytest.mark.parametrize("what", SILENT)
def test_what_agrees_is_read_without_a_word(read, what):
    assert not read(SILENT[what]).report.findings


REFUSED = {
    "charge and total_charge differ": (hydroxide(charge=-1, total_charge=0), "charge says -1, total_charge says 0"),
    "charge is no integer": (hydroxide(charge=-0.5), "charge is -0.5; expected an integer"),
    "charge is a word": (hydroxide(charge="minus"), "charge is minus; expected an integer"),
    "two numbers for one charge": (hydroxide(charge=np.array([-1, 0])), r"charge is \[-1  0\]; expected an integer"),
    "spin is a word": (oxygen(spin="up"), r"spin is up, .* write charge and multiplicity=2S\+1"),
    "partial charges contradict": (
        with_column(hydroxide(charge=1), CHARGES, [-1, 0]),
        r"charge is 1, but initial_charges sum to -1",
    ),
    "partial charges are ambiguous": (
        with_column(hydroxide(), CHARGES, [-0.8, 0]),
        r"initial_charges sum to -0.8, which is no integer; write charge=N",
    ),
    "the radical's moments on the anion": (
        with_column(hydroxide(charge=-1), MOMENTS, [0.5, 0.5]),
        "initial_magmoms sum to 1, .* out of 10; write charge and multiplicity",
    ),
    "moments contradict the multiplicity": (
        with_column(oxygen(multiplicity=1), MOMENTS, [1, 1]),
        "multiplicity says multiplicity 1, but initial_magmoms sum to 2, expected 0",
    ),
    "moments are no integer": (with_column(oxygen(), MOMENTS, [0.7, 0.7]), "initial_magmoms sum to 1.4"),
    "the spin of a file whose charge is missing": (hydroxide(spin=1), "spin is 1, .* 9 electrons; .*charge"),
    "twice the spin": (oxygen(spin=2), r"spin is 2, .* write charge and multiplicity=2S\+1"),
    "a spin of one half": (hydroxide(spin=0.5), r"spin is 0.5, .* write charge and multiplicity=2S\+1"),
    "a spin of zero": (hydroxide(charge=-1, spin=0), r"spin is 0, .* write charge and multiplicity=2S\+1"),
    "a sentence": (hydroxide(**{"charge:": True, "-1": True}), "charge: is True; expected an integer"),
    "computed charges without a charge": (
        with_column(hydroxide(), "charges", [-1.15, 0.2]),
        "the sum of charges is -0.95, but no charge is stated; write charge=N",
    ),
    "formal charges": (
        with_column(hydroxide(), "formal_charges", [-1, 0]),
        "the sum of formal_charges is -1, but no charge is stated; write charge=N",
    ),
    "computed moments without a multiplicity": (
        with_column(oxygen(), "magmoms", [1.0, 1.0]),
        r"the sum of magmoms is 2, but no multiplicity is stated; write multiplicity=N, 2S\+1",
    ),
    "spins of atoms": (
        with_column(hydroxide(charge=-1), "mulliken_spins", [-0.9, -0.1]),
        "the sum of mulliken_spins is -1, but no multiplicity is stated",
    ),
    "two multiplicities": (oxygen(multiplicity=1, uhf=2), "multiplicity says 1, uhf says 3; write multiplicity alone"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_contradicts_or_is_ambiguous_is_refused_with_the_field_to_write(read, what):
    atoms, complaint = REFUSED[what]
    with pytest.raises(InputError, match=f"structure 1 of .*: .*{complaint}"):
        read(molecule("H2O"), atoms)


def test_a_spin_of_zero_in_a_crystal_is_not_used(read):
    crystal = bulk("Cu")
    crystal.info["spin"] = 0
    report = read(crystal).report
    assert "spin is 0" in report.findings[0].text
    assert report.unused == ("spin",)


def test_moments_of_a_crystal_that_contradict_its_multiplicity_are_told_of(read):
    crystal = bulk("Fe")
    crystal.info["multiplicity"] = 1
    reading = read(crystal)
    (finding,) = reading.report.findings
    assert "initial_magmoms do not sum to 2S of the multiplicity" in finding.text
    assert multiplicity_of(reading.structures[0]) == 1


@pytest.mark.parametrize(
    ("atoms", "name"),
    [
        (with_column(hydroxide(charge=0), "charges", [-1.15, 0.2]), "charges is not what the charge says"),
        (with_column(oxygen(multiplicity=1), "magmoms", [1, 1]), "magmoms is not what the multiplicity says"),
    ],
)
def test_columns_that_contradict_what_is_stated_are_told_of(read, atoms, name):
    (finding,) = read(atoms).report.findings
    assert name in finding.text


LIKE_ELECTRONS = [
    {"q": -1},
    {"nelect": 10},
    {"n_electrons": 10},
    {"total_magnetization": 2.0},
    {"spin_state": "triplet"},
    {"charge_mult": np.array([-1, 1])},
    {"2S+1": 3},
    {"nalpha": 5},
]


@pytest.mark.parametrize("info", LIKE_ELECTRONS, ids=lambda info: next(iter(info)))
def test_what_looks_like_charge_or_spin_is_told_of(read, info):
    (finding,) = read(hydroxide(**info)).report.findings
    assert finding.text.startswith(f"{next(iter(info))} is not used; if it states charge or spin")


@pytest.mark.parametrize("info", [{"q": 0}, {"spin_polarised": True}, {"electronic_energy": -2062.3}, {"Qs": 1.0}])
def test_what_does_not_look_like_charge_or_spin_is_not(read, info):
    assert not read(hydroxide(**info)).report.findings


SDF = """OH
  x

  2  1  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 O   0  5  0  0  0  0  0  0  0  0  0  0
    0.0000    0.0000    0.9700 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
M  CHG  1   1  -1
M  END
$$$$
"""
PDB = """\
HETATM    1  O   OH  A   1       0.000   0.000   0.000  1.00  0.00           O1-
HETATM    2  H   OH  A   1       0.000   0.000   0.970  1.00  0.00           H
END
"""
GAUSSIAN = "#P PBE/6-31G\n\nhydroxide\n\n-1 1\nO 0.0 0.0 0.0\nH 0.0 0.0 0.97\n\n"


@pytest.mark.parametrize(("file", "charged", "neutral"), [
    ("some.sdf", SDF, SDF.replace("M  CHG  1   1  -1\n", "")),
    ("some.pdb", PDB, PDB.replace("O1-", "O")),
    ("some.com", GAUSSIAN, GAUSSIAN.replace("-1 1", "0 1")),
])  # fmt: skip
def test_a_charge_that_ase_passes_over_is_told_of(tmp_path, file, charged, neutral):
    (tmp_path / file).write_text(charged)
    (finding,) = read_structures(tmp_path / file).report.findings
    assert finding.text.startswith("charges or spins that a file of format")
    (tmp_path / file).write_text(neutral)
    assert not read_structures(tmp_path / file).report.findings


@pytest.mark.parametrize("file", ["some.db", "some.json"])
def test_rows_of_a_database_have_the_charge_that_their_keys_say(tmp_path, file):
    with ase.db.connect(tmp_path / file) as database:
        database.write(molecule("H2O"))
        database.write(hydroxide(), charge=-1, data={"note": [1, 2]})
    reading = read_structures(tmp_path / file)
    assert [charge_of(atoms) for atoms in reading.structures] == [0, -1]
    assert reading.report.unused == ("note",)


def test_numbers_that_look_like_a_charge_are_told_of(read):
    report = read(hydroxide(charge_state=-1, spin_polarised=True)).report
    (finding,) = report.findings
    assert finding.text.startswith("charge_state is not used")


def test_of_structures_to_be_labelled_only_those_that_contradict_are_refused(tmp_path):
    contradiction = with_column(hydroxide(charge=-1), MOMENTS, [0.5, 0.5])
    ase.io.write(tmp_path / "some.extxyz", [contradiction, hydroxide(total_charge=-1)])
    reading = read_unchecked(tmp_path / "some.extxyz")
    assert list(reading.refused) == [0]
    assert "these structures are refused (1 structure, the first is 0)" in reading.report.lines[1]
    assert charge_of(reading.structures[1]) == -1


def test_training_data_are_not_refused_for_a_spin_that_no_model_uses(tmp_path):
    atoms = hydroxide(spin=1)
    atoms.info["REF_energy"] = 0.0
    atoms.arrays["REF_forces"] = np.zeros((2, 3))
    ase.io.write(tmp_path / "some.extxyz", [atoms, atoms])
    report = read_labelled(tmp_path / "some.extxyz", "train").report
    assert report.unused == ("spin",)
    assert report.warnings == [
        "train: some.extxyz: charge and spin contradict each other or the number of electrons; models do not use them "
        "(2 structures, the first is 0)"
    ]


@pytest.mark.parametrize("name", [CHARGES, MOMENTS])
def test_numbers_that_are_not_finite_are_refused_by_name(read, name):
    with pytest.raises(InputError, match=f"structure 0 of .*: {name} has numbers that are not finite"):
        read(with_column(hydroxide(), name, [np.nan, 0.2]))


def test_moments_in_three_dimensions_say_nothing(read):
    atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    atoms.set_initial_magnetic_moments([[0, 0, 1.0], [0, 0, 1.0]])
    assert not read(atoms).report.findings
