import math
from pathlib import Path

import pytest

from surveyor.biases.plumed_actions import check_temperature, prepared
from surveyor.biases.plumed_centres import with_shifted_centre
from surveyor.biases.plumed_input import domain_of, parse_plumed, recorded_variables
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


def test_names_and_keywords_may_be_in_small_letters_but_not_values():
    (action,) = parse_plumed("Metad arg=dXy file=My.hills label=m Calc_rct switch={rational r_0=0.1}\nendplumed\nFOO")
    assert (action.label, action.name) == ("m", "METAD")
    assert action.words == ("ARG=dXy", "FILE=My.hills", "CALC_RCT", "SWITCH={rational r_0=0.1}")


@pytest.mark.parametrize(
    "action",
    [
        "PRINT ARG=d FILE=/here/COLVAR",
        "dumpatoms FILE=/here/out.xyz",
        "DEBUG logRequestedAtoms FILE=/here/debug",
        "OUTPUT_CLUSTER CLUSTERS=c FILE=/here/clusters",
        "VES_OUTPUT_BASISFUNCTIONS BASIS_FUNCTIONS=b FILE_VALUES=values",
        "flush STRIDE=1",
        "Restart",
    ],
)
def test_what_only_writes_files_is_left_out(action):
    assert prepared(parse_plumed(action), Path("/folder")) == []


def test_values_are_recorded_that_are_biased_or_printed():
    assert recorded_variables(parse_plumed(INPUT)) == ["t", "d", "f", "m.bias"]


def test_files_are_in_the_folder_and_what_surveyor_does_is_left_out():
    lines = [line for _, line in prepared(parse_plumed(INPUT), Path("/folder"))]
    assert lines == [
        "d: DISTANCE ATOMS=1,2",
        "t: TORSION ATOMS=1,2,3,4",
        "m: METAD ARG=t SIGMA=0.2 HEIGHT=1.2 PACE=100 FILE=/folder/HILLS FMT=%26.17g RESTART=NO",
        "r: RESTRAINT ARG=d,t AT=0.15,0.5 KAPPA=1000,10",
        "e: EXTERNAL ARG=d FILE=/folder/grid.dat",
        "f: CUSTOM ARG=d FUNC={x + 1} PERIODIC=NO",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("METAD ...\nARG=d", "ends within the action of line 1"),
        ("d:", "line 1 of the PLUMED input has a label without an action"),
        ("d: DISTANCE ATOMS=1,2\nEDS ARG=d", "line 2 of the PLUMED input: EDS cannot be continued"),
        ("EXTENDED_LAGRANGIAN ARG=d", "EXTENDED_LAGRANGIAN cannot be continued"),
        ("INCLUDE FILE=more.dat", "line 1 of the PLUMED input: found INCLUDE, but an input is one file"),
        ("METAD ARG=d GRID_RFILE=grid", "found GRID_RFILE=grid, with which METAD cannot go on"),
        ("OPES_METAD ARG=d STATE_RFILE=s", "found STATE_RFILE=s, with which OPES_METAD cannot go on"),
        ("METAD ARG=d FILE=/here/HILLS", "METAD writes /here/HILLS; expected a name without folders"),
        ("METAD ARG=d GRID_WFILE=here/grid", "METAD writes here/grid; expected a name without folders"),
        ("METAD ARG=d\nMETAD ARG=e", "line 2 of the PLUMED input: METAD writes HILLS, and so does another action"),
        ("METAD ARG=d FILE=given.dat", "METAD writes given.dat, which is also among its given files"),
        ("metad ARG=d file=/here/HILLS", "METAD writes /here/HILLS; expected a name without folders"),
        ("METAD arg=d Walkers_N=4", "found WALKERS_N=4, but each walker has a history of its own"),
        ("COMMITTOR ARG=d BASIN_LL1=0 BASIN_UL1=1", "found COMMITTOR, which ends a simulation, but walkers end after"),
        ("e: Energy\nPRINT ARG=e", "line 1 of the PLUMED input: found ENERGY, on which walkers cannot be biased"),
        ("e: ENERGY\nPRINT ARG=e", "line 1 of the PLUMED input: found ENERGY, on which walkers cannot be biased"),
        ("METAD ARG=d WALKERS_N=4", "found WALKERS_N=4, but each walker has a history of its own"),
    ],
)
def test_what_cannot_be_used_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        prepared(parse_plumed(text), Path("/folder"), files=["given.dat"])


@pytest.mark.parametrize("names", ["*", "d.*", "(d|t)"])
def test_values_that_are_named_by_a_pattern_are_refused(names):
    with pytest.raises(InputError, match=r"line 2 of the PLUMED input: found the pattern .* in ARG of PRINT"):
        recorded_variables(parse_plumed(f"d: DISTANCE ATOMS=1,2 COMPONENTS\nPRINT ARG={names}"))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("FILE=grid.dat", "FILE=/folder/grid.dat"),
        ("FILE=data/grid.dat", "FILE=/folder/grid.dat"),
        ("FILE=/data/grid.dat", "FILE=/data/grid.dat"),
        ("GRID_WFILES=a,b", "GRID_WFILES=/folder/a,/folder/b"),
        ("REFERENCE={ref.pdb}", "REFERENCE=/folder/ref.pdb"),
        ("REFERENCE1=-0.5", "REFERENCE1=-0.5"),
        ("REFERENCE=pi/2", "REFERENCE=pi/2"),
        ("REFERENCE=other", "REFERENCE=other"),
        ("STRUCTURE=ref.pdb", "STRUCTURE=/folder/ref.pdb"),
        ("PRINT_ONE_FILE", "PRINT_ONE_FILE"),
    ],
)
def test_only_what_names_a_file_is_led_into_the_folder(word, expected):
    lines = prepared(parse_plumed(f"other: POSITION ATOM=1\nr: RMSD {word}"), Path("/folder"))
    assert lines[1][1] == f"r: RMSD {expected}"


def test_actions_go_on_where_their_own_history_is():
    text = "METAD ARG=d RESTART=NO\nOPES_METAD ARG=d SIGMA=1 STATE_WFILE=STATE FMT=%g\nPBMETAD ARG=d,d.x"
    actions = parse_plumed(f"{text}\nOPES_METAD ARG=e SIGMA=1 FILE=OTHER STATE_WSTRIDE=9")
    lines = [line for _, line in prepared(actions, Path("/f"), history=["HILLS", "STATE", "HILLS.d", "HILLS.d.x"])]
    assert lines == [
        "METAD ARG=d FILE=/f/HILLS FMT=%26.17g RESTART=YES",
        "OPES_METAD ARG=d SIGMA=1 FILE=/f/KERNELS FMT=%26.17g STATE_WFILE=/f/STATE STATE_RFILE=/f/before.STATE "
        "RESTART=YES",
        "PBMETAD ARG=d,d.x FILE=/f/HILLS.d,/f/HILLS.d.x FMT=%26.17g RESTART=YES",
        "OPES_METAD ARG=e SIGMA=1 FILE=/f/OTHER FMT=%26.17g STATE_WFILE=/f/OTHER.STATE RESTART=NO",
    ]


def test_braces_may_span_lines():
    (action,) = parse_plumed("c: CUSTOM ...  # why\n ARG={d} FUNC={x +\n  1} # really\n PERIODIC=NO\n... CUSTOM")
    assert action.words == ("ARG={d}", "FUNC={x + 1}", "PERIODIC=NO")
    assert (action.arguments, action.line, action.last_line) == (["d"], 1, 5)


def test_the_centre_of_a_restraint_is_moved_for_one_of_its_variables():
    moved = with_shifted_centre(INPUT, "t", -1.25)
    assert moved == INPUT.replace("AT=0.15,0.5", "AT=0.15,-1.25")
    with pytest.raises(InputError, match="has 0 actions RESTRAINT on f; expected exactly one"):
        with_shifted_centre(INPUT, "f", 1)


def test_the_centre_is_moved_in_what_is_no_comment():
    text = "# AT=1\nRESTRAINT ...\n  ARG={d,t} # AT=0.1,2\n  AT={0.1, 2} KAPPA=1,1 # nm\n...\n"
    assert with_shifted_centre(text, "d", 0.3) == text.replace("AT={0.1, 2}", "AT=0.3,2")
    assert with_shifted_centre("Restraint arg=d at=1 kappa=2", "d", 0.3) == "Restraint arg=d AT=0.3 kappa=2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MOVINGRESTRAINT ARG=d STEP0=0 AT0=1 KAPPA0=1", "has 0 actions RESTRAINT on d"),
        ("RESTRAINT ARG=d AT=1 KAPPA=1\nRESTRAINT ARG=d AT=2 KAPPA=1", "has 2 actions RESTRAINT on d"),
        ("RESTRAINT ARG=d,e AT=1 KAPPA=1,1", "found 1 value in AT of RESTRAINT, expected 2"),
    ],
)
def test_a_centre_that_is_not_clear_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        with_shifted_centre(text, "d", 1.5)


@pytest.mark.parametrize(
    ("text", "variable", "domain"),
    [
        ("t: TORSION ATOMS=1,2,3,4", "t", (-math.pi, math.pi)),
        ("t: TORSION ATOMS=1,2,3,4 COSINE", "t", None),
        ("TORSION LABEL=t ATOMS=1,2,3,4", "t", (-math.pi, math.pi)),
        ("p: PUCKERING ATOMS=1,2,3,4,5,6", "p.phs", (0, 2 * math.pi)),
        ("p: PUCKERING ATOMS=1,2,3,4,5,6", "p.amp", None),
        ("c: CUSTOM ARG=t FUNC=2*x PERIODIC=-2*pi,2*pi", "c", (-2 * math.pi, 2 * math.pi)),
        ("c: CUSTOM ARG=t FUNC=x/2 PERIODIC=-pi/2,+pi/2", "c", (-math.pi / 2, math.pi / 2)),
        ("c: CUSTOM ARG=t FUNC=x PERIODIC=-180,1.8e2", "c", (-180, 180)),
        ("c: CUSTOM ARG=t FUNC=x PERIODIC=NO", "c", None),
        ("d: DISTANCE ATOMS=1,2", "d", None),
        ("d: DISTANCE ATOMS=1,2", "e", None),
    ],
)
def test_periodic_variables_and_their_values_are_known(text, variable, domain):
    assert domain_of(text, variable) == (domain if domain is None else pytest.approx(domain))


# Those with a memory that are not in CONTINUED of test_plumed.py, which compares them with the manual of PLUMED.
FORGETFUL = """
ABMD ACCUMULATE ADAPTIVE_PATH AVERAGE AVERAGE_PATH_DISPLACEMENT BAIES CALIBER COLLECT COLLECT_FRAMES DRR EDS
EFFECTIVE_ENERGY_DRIFT EMMI EXTENDED_LAGRANGIAN FISST HISTOGRAM LOGMFD MAXENT MAZE_OPTIMIZER_BIAS MAZE_STEERED_MD
METAINFERENCE MULTICOLVARDENS OPT_ADAM OPT_AVERAGED_SGD OPT_DUMMY OPT_ROBBINS_MONRO_SGD PCA READ REPARAMETERIZE_PATH
RESCALE TTMETAD VES_DELTA_F VES_LINEAR_EXPANSION WHAM_HISTOGRAM WHAM_WEIGHTS
"""
SCORES = "CS2BACKBONE JCOUPLING NOE PCS PRE RDC SANS SAXS"


@pytest.mark.parametrize("name", FORGETFUL.split())
def test_actions_that_forget_are_refused(name):
    with pytest.raises(InputError, match=f"line 2 of the PLUMED input: {name} cannot be continued"):
        prepared(parse_plumed(f"d: DISTANCE ATOMS=1,2\n{name} ARG=d"), Path("/folder"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((f"{name} DOSCORE", f"found DOSCORE, with which {name} cannot go on") for name in SCORES.split()),
        ("METAD ARG=d CALC_RCT RCT_USTRIDE=2", "found RCT_USTRIDE=2, with which METAD cannot go on"),
        ("RDF GROUP=1-3 CLEAR=0", "found CLEAR=0, with which RDF cannot go on"),
        ("MOVINGRESTRAINT ARG=d,e VERSE=B,U", "found VERSE=B,U, but PLUMED's MOVINGRESTRAINT keeps its last force"),
        ("METAD ARG=d ADAPTIVE=DIFF", "found ADAPTIVE=DIFF, with which METAD cannot go on"),
        ("PBMETAD ARG=d ADAPTIVE=DIFF", "found ADAPTIVE=DIFF, with which PBMETAD cannot go on"),
        ("PBMETAD ARG=d,e PF0=d PF1=e", "found PF0=d, but PLUMED's PBMETAD sometimes crashes with families"),
        ("OPES_METAD ARG=d PACE=5 BARRIER=20", "found no SIGMA, but OPES_METAD cannot go on .*; give SIGMA"),
        ("OPES_METAD_EXPLORE ARG=d SIGMA=ADAPTIVE", "found no SIGMA, but OPES_METAD_EXPLORE"),
        ("OPES_EXPANDED ARG=e.*", "found OBSERVATION_STEPS=100, .*expected OBSERVATION_STEPS=1$"),
        ("OPES_EXPANDED ARG=e.* OBSERVATION_STEPS=4", "found OBSERVATION_STEPS=4"),
        ("PRINT ARG=d,m.work", "found m.work in ARG of PRINT, but PLUMED adds up work from the last interruption on"),
        ("c: CUSTOM ARG=m.d_work FUNC=x PERIODIC=NO", "found m.d_work in ARG of CUSTOM"),
    ],
)
def test_options_that_forget_are_refused(text, message):
    with pytest.raises(InputError, match=f"line 1 of the PLUMED input: {message}"):
        prepared(parse_plumed(text), Path("/folder"))


EXPANDED = "e: ECV_UMBRELLAS_LINE ARG=d CV_MIN=0.1 CV_MAX=0.2 BARRIER=20"


@pytest.mark.parametrize(
    ("action", "name"),
    [
        ("METAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1 BIASFACTOR=10", "METAD"),
        ("METAD ARG=d PACE=5 TAU=1 SIGMA=0.1", "METAD"),
        ("METAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1 CALC_RCT", "METAD"),
        ("PBMETAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1 BIASFACTOR=10", "PBMETAD"),
        ("OPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.1", "OPES_METAD"),
        ("OPES_METAD_EXPLORE ARG=d PACE=5 BARRIER=20 SIGMA=0.1", "OPES_METAD_EXPLORE"),
        (EXPANDED, "ECV_UMBRELLAS_LINE"),
    ],
)
def test_actions_that_need_a_temperature_must_state_it_where_that_of_the_walkers_changes(action, name):
    with pytest.raises(InputError, match=f"line 2 .* {name} needs one temperature, .*TEMP="):
        check_temperature(f"d: DISTANCE ATOMS=1,2\n{action}")
    check_temperature(f"d: DISTANCE ATOMS=1,2\n{action} TEMP=300\no: OPES_EXPANDED ARG=e.* OBSERVATION_STEPS=1")


def test_actions_that_need_no_temperature_need_not_state_it():
    check_temperature("d: DISTANCE ATOMS=1,2\nMETAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1\nRESTRAINT ARG=d AT=1 KAPPA=1")
    with pytest.raises(InputError, match="found kBT in ARG of CUSTOM"):
        check_temperature("d: DISTANCE ATOMS=1,2\nc: CUSTOM ARG=d,kBT FUNC=x*y PERIODIC=NO")
