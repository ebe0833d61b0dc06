import gzip

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from surveyor.errors import InputError
from surveyor.reading import read_structures


@pytest.mark.parametrize("file", ["crystal.cif", "POSCAR", "crystal.extxyz", "crystal.xyz", "crystal.traj"])
def test_structures_are_read_in_the_formats_of_ase(tmp_path, file):
    atoms = bulk("Cu", cubic=True)
    ase.io.write(tmp_path / file, atoms)
    (read,) = read_structures(tmp_path / file).structures
    np.testing.assert_allclose(read.cell.array, atoms.cell.array, atol=1e-6)
    np.testing.assert_allclose(read.get_scaled_positions(), atoms.get_scaled_positions(), atol=1e-6)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"structure file .*nowhere\.xyz does not exist"):
        read_structures(tmp_path / "nowhere.xyz")


UNREADABLE = {
    "words.txt": b"hello\n",
    "words.cif": b"hello\n",
    "bytes.xyz": b"\x00\xff\xfe\x01" * 20,
    "empty.xyz": b"",
    "torn.xyz": b"3\n\nH 0 0 0\n",
    "nothing.cif": b"data_x\n_cell_length_a 3\n",
    "POSCAR": b"hello\n1.0\n",
    "lattice.extxyz": b'1\nLattice="1 2 3" Properties=species:S:1:pos:R:3\nH 0 0 0\n',
    "junk.traj": b"junk",
    "vasprun.xml": b"<modeling><a>1</modeling>",
    "OUTCAR": b"hello\n",
    "junk.db": 100 * b"junk",
    "cut.extxyz.gz": gzip.compress(b"1\n\nH 0 0 0\n" * 500)[:40],
    "junk.gpw": b"junk",
    "junk.com": b"junk\n",
}


@pytest.mark.filterwarnings("ignore:crystal system:UserWarning")  # ase's reader of broken cif files
@pytest.mark.parametrize("file", UNREADABLE)
def test_a_file_that_holds_no_structures_is_bad_input_whatever_it_holds(tmp_path, file):
    (tmp_path / file).write_bytes(UNREADABLE[file])
    with pytest.raises(InputError, match=f"{file} (cannot be read as structures|holds no structure)"):
        read_structures(tmp_path / file)


def test_one_bad_structure_of_many_is_named_by_its_index(tmp_path):
    bad = Atoms("H2", [[0, 0, 0], [0, 0, 0.05]])
    ase.io.write(tmp_path / "many.extxyz", [molecule("H2")] * 7 + [bad] + [molecule("H2")] * 3)
    with pytest.raises(InputError, match=r"structure 7 of .*many\.extxyz: atoms 0 \(H\) and 1"):
        read_structures(tmp_path / "many.extxyz")


def test_a_report_names_the_fields_that_are_not_used(tmp_path):
    atoms = molecule("H2O")
    atoms.info["origin"] = "by hand"
    atoms.arrays["colours"] = np.zeros(3)
    ase.io.write(tmp_path / "water.extxyz", [molecule("H2O"), atoms], format="extxyz")
    report = read_structures(tmp_path / "water.extxyz").report
    assert report.unused == ("origin", "colours")
    assert report.summary == "water.extxyz: 2 structures; used: positions; not used: origin, colours"
