"""The table of fields against what the readers do, and against the documentation."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.constraints import FixAtoms

from surveyor.labels import LevelOfTheory
from surveyor.reading import GIVEN_DATA, read_labelled, read_structures, read_unchecked
from surveyor.reading.fields import FIELDS
from surveyor.works.labelling.imports import read_labels

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "structure-files.md"
ALWAYS = ("numbers", "positions", "cell", "pbc")
WHERE_IT_MATTERS = ("config_type",)  # used where single atoms are set apart, see test_learnable.py and test_imports.py
NAMES = [
    (field, name)
    for field in FIELDS
    if field.names[0] not in (*ALWAYS, *WHERE_IT_MATTERS)
    for name in field.names
    if name != "move_mask"  # in extxyz files, what ASE makes constraints of
]

VALUES = {
    "occupancy": {"0": {"O": 1.0}},
    "charge": 0,
    "total_charge": 0,
    "initial_charges": [-0.8, 0.4, 0.4],
    "multiplicity": 1,
    "mult": 1,
    "spin": 1,
    "uhf": 0,
    "initial_magmoms": [0.5, -0.5, 0.0],
    "kinds": ["O1", "H", "H"],
    "momenta": np.zeros((3, 3)),
    "masses": [16.0, 1.0, 1.0],
    "mass": [16.0, 1.0, 1.0],
    "REF_virials": np.zeros(6),
    "config_weight": 2.0,
    "config_energy_weight": 2.0,
    "config_stress_weight": 2.0,
}
LABEL = {"REF_energy": 1.0, "REF_forces": np.zeros((3, 3)), "REF_stress": np.zeros(6)}
READERS = {
    "starts": lambda path: read_structures(path, with_momenta=True),
    "label": read_unchecked,
    "data": lambda path: read_labelled(path, "bootstrap.data", GIVEN_DATA),
    "train": lambda path: read_labelled(path, "train"),
    "import": lambda path: read_labels(path, LevelOfTheory("any", {})),
}


def structure_with(name, value):
    water = molecule("H2O", cell=[9, 9, 9], pbc=True)
    fields = LABEL | ({} if value is None else {name: value})
    if name == "config_virials_weight":
        fields["REF_virials"] = fields.pop("REF_stress")
    for field, content in fields.items():
        if np.ndim(content) and len(content) == 3 and not isinstance(content, dict):
            water.set_array(field, np.array(content))
        else:
            water.info[field] = content
    if name == "constraints":
        water.set_constraint(FixAtoms([0]))
    return water


@pytest.mark.parametrize(("field", "name"), NAMES, ids=[name for _, name in NAMES])
@pytest.mark.parametrize("purpose", READERS)
def test_a_field_is_used_for_the_purposes_that_the_table_states(tmp_path, field, name, purpose):
    path = tmp_path / "some.extxyz"
    ase.io.write(path, structure_with(name, VALUES.get(field.names[0])))
    report = READERS[purpose](path).report
    assert (name in report.used) == (purpose in field.purposes)
    assert (name in report.unused) == (purpose not in field.purposes)


def test_the_documentation_holds_the_table():
    _, _, table = PAGE.read_text().partition(
        "| field | per | unit | used for | meaning |\n| -- | -- | -- | -- | -- |\n"
    )
    assert table.partition("\n\n")[0].splitlines() == [field.row for field in FIELDS]
