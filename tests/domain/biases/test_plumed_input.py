from pathlib import Path

import pytest

from surveyor.biases.plumed_input import parse_plumed, prepared, recorded_variables, with_shifted_centre
from surveyor.errors import InputError

INPUT = """# of a user
d: DISTANCE ATOMS=1,2   # in nm
t: TORSION ATOMS=1,2,3,4
METAD ...
  ARG=t   # the slow one
  LABEL=m
  SIGMA=0.2 HEIGHT=1.2 PACE=100
... METAD
r: RESTRAINT ARG=d,t AT=0.15,0.5 KAPPA=1000,10
e: EXTERNAL ARG=d FILE=grid.dat
f: CUSTOM ARG=d FUNC={x + 1} PERIODIC=NO
PRINT ARG=d,f,m.bias FILE=COLVAR STRIDE=10
RESTART
ENDPLUMED
whatever follows
"""


def test_actions_are_read_as_plumed_reads_them():
    actions = parse_plumed(INPUT)
    assert [(each.label, each.name, each.line) for each in actions] == [
        ("d", "DISTANCE", 2),
        ("t", "TORSION", 3),
        ("m", "METAD", 4),
        ("r", "RESTRAINT", 9),
        ("e", "EXTERNAL", 10),
        ("f", "CUSTOM", 11),
        ("", "PRINT", 12),
        ("", "RESTART", 13),
    ]
    assert actions[2].words == ("ARG=t", "SIGMA=0.2", "HEIGHT=1.2", "PACE=100")
    assert actions[5].words[1] == "FUNC={x + 1}"


def test_values_are_recorded_that_are_biased_or_printed():
    assert recorded_variables(parse_plumed(INPUT)) == ["t", "d", "f", "m.bias"]


def test_files_are_in_the_folder_and_what_surveyor_does_is_left_out():
    lines = [line for _, line in prepared(parse_plumed(INPUT), Path("/folder"))]
    assert lines == [
        "d: DISTANCE ATOMS=1,2",
        "t: TORSION ATOMS=1,2,3,4",
        "m: METAD ARG=t SIGMA=0.2 HEIGHT=1.2 PACE=100 FILE=/folder/HILLS",
        "r: RESTRAINT ARG=d,t AT=0.15,0.5 KAPPA=1000,10",
        "e: EXTERNAL ARG=d FILE=/folder/grid.dat",
        "f: CUSTOM ARG=d FUNC={x + 1} PERIODIC=NO",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("METAD ...\nARG=d", "ends within the action of line 1"),
        ("d:", "line 1 of the PLUMED input has a label without an action"),
        ("d: DISTANCE ATOMS=1,2\nPBMETAD ARG=d", "line 2 of the PLUMED input: PBMETAD cannot be continued"),
        ("METAD ARG=d WALKERS_N=4", "found WALKERS_N=4, but each walker has a history of its own"),
    ],
)
def test_what_cannot_be_used_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        prepared(parse_plumed(text), Path("/folder"))


def test_the_centre_of_a_restraint_is_moved_for_one_of_its_variables():
    moved = parse_plumed(with_shifted_centre(INPUT, "t", -1.25))
    assert moved[3].words == ("ARG=d,t", "AT=0.15,-1.25", "KAPPA=1000,10")
    assert [each.text for each in moved[:3]] == [each.text for each in parse_plumed(INPUT)[:3]]
    with pytest.raises(InputError, match="has 0 actions RESTRAINT on f; expected exactly one"):
        with_shifted_centre(INPUT, "f", 1)
