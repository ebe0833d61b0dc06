import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.biases import plumed
from surveyor.biases.plumed import PlumedRun, check_plumed, evaluate_plumed
from surveyor.biases.plumed_actions import LEFT_OUT, LEFT_OUT_BY_PREFIX, NOT_CONTINUED, check_temperature
from surveyor.biases.plumed_input import parse_plumed
from surveyor.errors import InputError

KJ_PER_MOL = units.kJ / units.mol
METAD = "d: DISTANCE ATOMS=1,2\nm: METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01\n"


def run_of(text, atoms, *, history=None, temperature_K=300.0, files=None):
    return PlumedRun(
        text, atoms, timestep_fs=0.5, temperature_K=temperature_K, files=files or {}, history=history or {}
    )


def stretched(step):
    water = molecule("H2O")
    water.positions[1] += 0.02 * np.sin(step)
    return water


def along(run, steps):
    return [run.evaluate(stretched(step), step=step, energy=0.0) for step in steps]


def gaussians(distance_A, centres_A, height=1.2 * KJ_PER_MOL, sigma_A=0.1):
    """What hills add up to: PLUMED's Gaussians end at a distance, and are stretched so that they are zero there."""
    cutoff = 6.25  # half of the squared distance in units of sigma
    shift = np.exp(-cutoff)
    half_squares = (distance_A - np.array(centres_A)) ** 2 / (2 * sigma_A**2)
    heights = np.where(half_squares < cutoff, (np.exp(-half_squares) - shift) / (1 - shift), 0)
    return height * heights.sum()


@pytest.mark.plumed
def test_hills_and_restraint_are_what_they_are_by_hand():
    text = METAD + "RESTRAINT ARG=d AT=0.12 KAPPA=1000"
    run = run_of(text, molecule("H2O"))
    values = along(run, range(12))
    run.close()
    lengths = [stretched(step).get_distance(0, 1) for step in range(12)]
    for step, (length, found) in enumerate(zip(lengths, values, strict=True)):
        hills = [lengths[deposited] for deposited in (5, 10) if deposited < step]
        restraint = 1000 * KJ_PER_MOL / 10**2 / 2 * (length - 1.2) ** 2
        assert found.energy == pytest.approx(gaussians(length, hills) + restraint, abs=1e-9)
        assert found.variables["d"] == pytest.approx(length / 10, abs=1e-12)


@pytest.mark.plumed
def test_forces_are_derivatives_of_the_energy():
    text = "t: TORSION ATOMS=3,1,2,4\nd: DISTANCE ATOMS=1,2\nRESTRAINT ARG=t,d AT=1,0.2 KAPPA=10,500"
    peroxide = molecule("H2O2")
    peroxide.rattle(0.1, seed=1)
    (values,) = evaluate_plumed(text, [peroxide], files={})
    step, forces = 1e-5, np.zeros((4, 3))
    for index in np.ndindex(4, 3):
        moved = [peroxide.copy(), peroxide.copy()]
        moved[0].positions[index] += step
        moved[1].positions[index] -= step
        plus, minus = evaluate_plumed(text, moved, files={})
        forces[index] = -(plus.energy - minus.energy) / (2 * step)
    assert np.abs(forces).max() > 0.05
    np.testing.assert_allclose(values.forces, forces, atol=1e-8)


@pytest.mark.plumed
def test_forces_of_hills_are_derivatives_of_their_energy():
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    assert n_hills(history) == 4

    def biased(water):
        run = run_of(METAD, water, history=history)
        values = run.evaluate(water, step=21, energy=0.0)
        run.close()
        return values

    step, forces = 1e-5, np.zeros((3, 3))
    for index in np.ndindex(3, 3):
        plus, minus = stretched(4), stretched(4)
        plus.positions[index] += step
        minus.positions[index] -= step
        forces[index] = -(biased(plus).energy - biased(minus).energy) / (2 * step)
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(biased(stretched(4)).forces, forces, atol=1e-7)


@pytest.mark.plumed
@pytest.mark.parametrize("hand", [1, -1])
def test_the_stress_is_the_derivative_with_respect_to_strain(hand):
    text = "d: DISTANCE ATOMS=1,2\nv: VOLUME\nRESTRAINT ARG=d,v AT=0.1,0.07 KAPPA=1000,20000"
    cell = np.array([[4, 0, 0], [1.5, 4.2, 0], [0.7, -1.1, 4.5 * hand]])
    atoms = Atoms("H5", scaled_positions=np.random.default_rng(0).random((5, 3)), cell=cell, pbc=True)
    (values,) = evaluate_plumed(text, [atoms], files={})
    assert values.variables["v"] == pytest.approx(atoms.get_volume() / 1000)
    assert values.variables["d"] == pytest.approx(atoms.get_distance(0, 1, mic=True) / 10)
    size, stress = 1e-5, np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        strained = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * size / 2
            strain[j, i] += sign * size / 2
            copy = atoms.copy()
            copy.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(copy)
        plus, minus = evaluate_plumed(text, strained, files={})
        stress[i, j] = (plus.energy - minus.energy) / (2 * size * atoms.get_volume())
    np.testing.assert_allclose(values.stress, full_3x3_to_voigt_6_stress(stress), atol=1e-9)


@pytest.mark.plumed
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("has_third_vector", [True, False])
def test_distances_are_periodic_where_the_structure_is(pbc, has_third_vector):
    cell = np.array([[10, 0, 0], [5, 8.7, 0], [1, 2, 10.0]])
    if not has_third_vector:
        cell[2], pbc = 0, (*pbc[:2], 0)
    text = "d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=0 KAPPA=10"
    for position in ([8, 1, 1], [5, 8, 1], [1, 2, 8]):
        atoms = Atoms("H2", positions=[[0, 0, 0], position], cell=cell, pbc=pbc)
        (values,) = evaluate_plumed(text, [atoms], files={})
        vector = atoms.get_distance(0, 1, mic=True, vector=True)
        assert values.variables["d"] == pytest.approx(np.linalg.norm(vector) / 10, abs=1e-10)
        np.testing.assert_allclose(values.forces[0], 10 * KJ_PER_MOL / 100 * vector, atol=1e-10)
        assert (values.stress is None) == (not all(pbc))


@pytest.mark.plumed
@pytest.mark.parametrize("pbc", [(0, 0, 0), (1, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("action", ["VOLUME", "CELL", "DISTANCE ATOMS=1,2 SCALED_COMPONENTS", "POSITION ATOM=1"])
def test_only_a_structure_with_three_periods_is_asked_about_its_cell(action, pbc):
    water = molecule("H2O", cell=[5, 6, 7], pbc=pbc)
    if all(pbc) or action.startswith("POSITION"):
        check_plumed(f"v: {action}", [water], files={})
        return
    with pytest.raises(InputError, match=rf"line 1 .*found {action.split()[-1]}, but the structure has pbc"):
        check_plumed(f"v: {action}", [water], files={})


@pytest.mark.plumed
def test_structures_with_other_numbers_of_atoms_are_evaluated_without_history():
    structures = [molecule("H2O"), molecule("CH3CH2OH"), molecule("H2O")]
    values = evaluate_plumed("UNITS LENGTH=A\n" + METAD.replace("PACE=5", "PACE=1"), structures, files={})
    assert [each.energy for each in values] == [0, 0, 0]
    assert [len(each.forces) for each in values] == [3, 9, 3]
    assert [each.variables["d"] for each in values] == pytest.approx(
        [each.get_distance(0, 1) for each in structures], abs=1e-12
    )


@pytest.mark.plumed
def test_variables_that_need_no_charges_work_without_them():
    peroxide = molecule("H2O2")
    text = "a: ALPHABETA ATOMS1=3,1,2,4 REFERENCE=pi/2\nRESTRAINT ARG=a AT=0 KAPPA=10"
    (values,) = evaluate_plumed(text, [peroxide], files={})
    expected = (1 + np.cos(np.radians(peroxide.get_dihedral(2, 0, 1, 3)) - np.pi / 2)) / 2
    assert values.variables["a"] == pytest.approx(expected, abs=1e-9)
    assert np.isfinite(values.forces).all()


@pytest.mark.plumed
def test_masses_are_those_of_the_structure():
    # ASE's calculator frees its masses before PLUMED reads them, which shows for 9 atoms.
    ethanol = molecule("CH3CH2OH")
    ethanol.positions += [0.3, 0, 0]
    text = "c: COM ATOMS=1-9\np: POSITION ATOM=c NOPBC\nRESTRAINT ARG=p.x AT=0 KAPPA=1000"
    (values,) = evaluate_plumed(text, [ethanol], files={})
    assert values.variables["p.x"] == pytest.approx(ethanol.get_center_of_mass()[0] / 10, abs=1e-12)


@pytest.mark.plumed
def test_a_continuation_doubles_the_hills_and_gives_what_one_run_gives():
    whole = run_of(METAD, molecule("H2O"))
    expected = along(whole, range(41))
    hills = n_hills(whole.close())
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    assert n_hills(history) == hills / 2 == 4
    second = run_of(METAD, molecule("H2O"), history=history)
    found = along(second, range(20, 41))
    assert n_hills(second.close()) == hills
    for one, other in zip(found[1:], expected[21:], strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-12)  # hills are written with 16 digits
        np.testing.assert_allclose(one.forces, other.forces, atol=1e-11)


def n_hills(history, name="HILLS"):
    return sum(not line.startswith("#!") for line in history.get(name, "").splitlines())


@pytest.mark.plumed
def test_without_history_nothing_is_left_of_earlier_runs():
    first = run_of(METAD, molecule("H2O"))
    along(first, range(21))
    first.close()
    again = run_of(METAD, molecule("H2O"))
    assert again.evaluate(stretched(0), step=0, energy=0.0).energy == 0
    assert again.close() == {}


@pytest.mark.plumed
def test_a_step_that_is_evaluated_again_deposits_no_second_hill():
    with run_of(METAD, molecule("H2O")) as run:
        along(run, [*range(6), 5, 5, *range(6, 11), 10])
        assert n_hills(run.close()) == 2


@pytest.mark.plumed
@pytest.mark.parametrize("word", ["RESTART=YES", "RESTART=NO"])
def test_where_a_history_goes_on_is_not_up_to_the_input(word):
    text = f"RESTART\n{METAD.replace('PACE', f'{word} PACE')}"
    first = run_of(text, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    second = run_of(text, molecule("H2O"), history=history)
    along(second, range(20, 41))
    assert (n_hills(history), n_hills(second.close())) == (4, 8)


@pytest.mark.plumed
def test_opes_goes_on_from_its_kernels():
    text = "d: DISTANCE ATOMS=1,2\nOPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01"
    whole = run_of(text, molecule("H2O"))
    expected = along(whole, range(41))[-1].energy
    whole.close()
    first = run_of(text, molecule("H2O"))
    along(first, range(21))
    second = run_of(text, molecule("H2O"), history=first.close())
    assert along(second, range(20, 41))[-1].energy == pytest.approx(expected, rel=1e-3)
    second.close()


OPES = "d: DISTANCE ATOMS=1,2\nOPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01\n"
EXPANDED = """d: DISTANCE ATOMS=1,2
ecv: ECV_UMBRELLAS_LINE ARG=d CV_MIN=0.08 CV_MAX=0.12 SIGMA=0.01 BARRIER=20
OPES_EXPANDED ARG=ecv.* PACE=5 OBSERVATION_STEPS=1
"""


@pytest.mark.plumed
@pytest.mark.parametrize("n_steps", [0, 1, 3])
@pytest.mark.parametrize(
    "text",
    [
        METAD,
        METAD.replace("PACE", "GRID_MIN=0 GRID_MAX=0.5 GRID_WFILE=GRID GRID_WSTRIDE=1 PACE"),
        OPES,
        OPES.replace("OPES_METAD", "OPES_METAD_EXPLORE"),
        OPES + "METAD ARG=d PACE=2 HEIGHT=1.2 SIGMA=0.01",  # one has a history before the other
        EXPANDED,
    ],
)
def test_a_run_that_ends_before_its_first_hill_can_go_on(text, n_steps):
    first = run_of(text, molecule("H2O"))
    along(first, range(n_steps))
    with run_of(text, molecule("H2O"), history=first.close()) as second:
        assert along(second, range(max(n_steps - 1, 0), 21))[-1].energy != 0


VARIABLES = "d: DISTANCE ATOMS=1,2\ne: DISTANCE ATOMS=1,3\na: ANGLE ATOMS=2,1,3\n"
GRID = "GRID_MIN=0 GRID_MAX=0.5"
# Each action that PLUMED's manual lets restart (keyword RESTART), and others that remember something: how it goes on.
CONTINUED = {
    "METAD": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01",
    "METAD well-tempered": "METAD ARG=d,a PACE=5 HEIGHT=1.2 SIGMA=0.01,0.1 BIASFACTOR=10",
    "METAD on a grid": f"m: METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 BIASFACTOR=10 CALC_RCT {GRID}\n"
    "PRINT ARG=m.rbias,m.rct",
    "METAD with its maximum": f"m: METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 CALC_MAX_BIAS {GRID}\nPRINT ARG=m.maxbias",
    "METAD with geometric widths": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 ADAPTIVE=GEOM",
    "METAD in an interval": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 INTERVAL=0.09,0.12",
    "METAD with a time": "METAD ARG=d PACE=5 TAU=1 BIASFACTOR=5 SIGMA=0.01",
    "METAD with neighbours": "METAD ARG=d,a PACE=5 HEIGHT=1.2 SIGMA=0.01,0.1 NLIST",
    "METAD in some steps": "METAD ARG=d PACE=7 HEIGHT=1.2 SIGMA=0.01 STRIDE=3",
    "METAD that begins later": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 UPDATE_FROM=0.004",
    "METAD with few digits": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 FMT=%8.3f",
    "METAD seldom": "METAD ARG=d PACE=23 HEIGHT=1.2 SIGMA=0.01",
    "METAD damped": f"METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 DAMPFACTOR=2 {GRID}",
    "METAD between wells": "METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 TTBIASFACTOR=5 TTBIASTHRESHOLD=0.1 "
    f"TRANSITIONWELL0=0.095 TRANSITIONWELL1=0.11 {GRID}",
    "METAD under a condition": "UPDATE_IF ARG=d LESS_THAN=0.1\nMETAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01\n"
    "UPDATE_IF ARG=d END",
    "metad": "metad arg=d pace=5 height=1.2 sigma=0.01",
    "PBMETAD": "PBMETAD ARG=d,e PACE=5 HEIGHT=1.2 SIGMA=0.01,0.01 BIASFACTOR=8",
    "PBMETAD on grids": "PBMETAD ARG=d,e PACE=5 HEIGHT=1.2 SIGMA=0.01,0.01 GRID_MIN=0,0 GRID_MAX=0.5,0.5",
    "OPES_METAD": "m: OPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01\nPRINT ARG=m.rct,m.zed,m.neff,m.nker",
    "OPES_METAD with neighbours": "OPES_METAD ARG=d,a PACE=5 BARRIER=20 SIGMA=0.01,0.1 NLIST",
    "OPES_METAD with few digits": "OPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01 FMT=%8.3f",
    "OPES_METAD with a state": "OPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01 STATE_WFILE=S STORE_STATES",
    "OPES_METAD seldom": "OPES_METAD ARG=d PACE=23 BARRIER=20 SIGMA=0.01",
    "OPES_METAD_EXPLORE": "OPES_METAD_EXPLORE ARG=d PACE=5 BARRIER=20 SIGMA=0.01",
    "OPES_METAD in a region": "x: CUSTOM ARG=d FUNC=step(x-0.1) PERIODIC=NO\n"
    "OPES_METAD ARG=d PACE=5 BARRIER=20 SIGMA=0.01 EXCLUDED_REGION=x",
    "OPES_EXPANDED linear": "x: ECV_LINEAR ARG=d LAMBDA=0 LAMBDA_MIN=0 LAMBDA_MAX=50\n"
    "OPES_EXPANDED ARG=x.* PACE=5 OBSERVATION_STEPS=1",
    "OPES_EXPANDED": EXPANDED.split("\n", 1)[1],
    "OPES_EXPANDED seldom": EXPANDED.split("\n", 1)[1].replace("PACE=5", "PACE=17"),
    "two": "METAD ARG=d PACE=4 HEIGHT=1.2 SIGMA=0.01\nOPES_METAD ARG=e PACE=7 BARRIER=20 SIGMA=0.01",
    "MOVINGRESTRAINT": "m: MOVINGRESTRAINT ARG=d STEP0=0 AT0=0.1 KAPPA0=1000 STEP1=100 AT1=0.2 KAPPA1=1000\n"
    "PRINT ARG=m.d_cntr,m.force2",
}
# Actions that remember where they give Bayesian scores.
SCORES = ("CS2BACKBONE", "JCOUPLING", "NOE", "PCS", "PRE", "RDC", "SANS", "SAXS")
CUTS = {"at a pace": (20, 40), "between": (7, 13, 29), "at once": (1, 2, 3, 4, 5, 6, 30)}


def wandering(n_steps):
    generator = np.random.default_rng(0)
    for step in range(n_steps + 1):
        water = stretched(0)
        water.positions[1] *= 1 + 0.15 * np.sin(step / 7)
        water.positions += generator.normal(0, 0.02, (3, 3))
        yield water


def in_segments(text, path, cuts):
    """Return the values along a path, and what each segment but the last left to the next."""
    values, histories, last = [], [{}], None
    for begin, end in itertools.pairwise([0, *cuts, len(path) - 1]):
        run = PlumedRun(text, path[0], timestep_fs=0.5, temperature_K=300, files={}, history=histories[-1], last=last)
        found = [run.evaluate(path[step], step=step, energy=0.0) for step in range(begin, end + 1)]
        values += found[1 if values else 0 :]
        last = found[-1]
        histories.append(run.close())
    return values, histories[1:-1]


def at_once(text, path, steps):
    """Return the values along a path, and the histories after some steps, of one run that goes on."""
    values, histories = [], {}
    with PlumedRun(text, path[0], timestep_fs=0.5, temperature_K=300, files={}, history={}) as run:
        for step, atoms in enumerate(path):
            values.append(run.evaluate(atoms, step=step, energy=0.0))
            if step in steps:
                histories[step] = run.history
                assert run.evaluate(atoms, step=step, energy=0.0) is values[-1]  # where a segment begins
    return values, histories


@pytest.mark.plumed
@pytest.mark.parametrize("action", CONTINUED.values(), ids=CONTINUED)
def test_segments_equal_one_run(action):
    text, path = VARIABLES + action, list(wandering(60))
    whole, histories = at_once(text, path, [cuts[0] for cuts in CUTS.values()])
    assert np.abs(whole[-1].forces).max() > 1e-3
    # Files have all digits of numbers; but those of the heights of tempered hills are of heights times a factor.
    tolerance = 1e-14 if "FACTOR=" in action else 0
    for cuts in CUTS.values():
        found, left = in_segments(text, path, cuts)
        assert left[0] == histories[cuts[0]]
        for one, other in zip(found, whole, strict=True):
            assert one.energy == pytest.approx(other.energy, abs=tolerance, rel=0)
            np.testing.assert_allclose(one.forces, other.forces, atol=tolerance, rtol=0)
            assert one.variables == pytest.approx(other.variables, abs=1e-9)


MANUAL = """
import plumed, sys
import numpy as np
kernel = plumed.Plumed(kernel=sys.argv[1])
kernel.cmd("CLTool setArgvLine", f"plumed --no-mpi gen_json --actions {sys.argv[2]}")
kernel.cmd("CLTool run", np.zeros(1, dtype=np.int32))
"""


@pytest.mark.plumed
def test_each_action_that_the_manual_gives_a_memory_is_continued_or_refused(tmp_path):
    (tmp_path / "descriptions").write_text("\n")
    kernel = Path(os.environ["PLUMED_KERNEL"])
    command = [sys.executable, "-c", MANUAL, str(kernel), str(tmp_path / "descriptions")]
    environment = {**os.environ, "PLUMED_ROOT": str(kernel.with_name("plumed"))}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    manual = {name: entry for name, entry in json.loads(printed[printed.index("{") :]).items() if "syntax" in entry}
    assert len(manual) > 400
    remembering = {"ACCUMULATE", "COLLECT", "AVERAGE_PATH_DISPLACEMENT", "REPARAMETERIZE_PATH"}
    marked = {
        name
        for name, entry in manual.items()
        if {"RESTART", "CLEAR", "HALFLIFE", "AVERAGING"} & entry["syntax"].keys()
        or remembering & {name, *entry.get("needs", ())}
    }
    continued = {each.name for action in CONTINUED.values() for each in parse_plumed(action)}
    only_if_asked = {"RDF", "PAIRENTROPY", "PAIRENTROPIES", *SCORES}  # see the tests of options
    outputs = {name for name in marked if name in LEFT_OUT or name.startswith(LEFT_OUT_BY_PREFIX)}
    assert marked - {*NOT_CONTINUED} - continued - only_if_asked - outputs == set()


@pytest.mark.plumed
def test_where_plumed_cannot_go_on_is_said_in_its_own_words():
    text = "d: DISTANCE ATOMS=1,2\nm: METAD ARG=d PACE=5 HEIGHT=1.2 SIGMA=0.01 GRID_MIN=0.09 GRID_MAX=0.1"
    water = molecule("H2O")
    with run_of(text, water) as run:
        run.evaluate(water, step=0, energy=0.0)
        water.positions[1] *= 1.5
        with pytest.raises(
            InputError,
            match=r"PLUMED cannot go on with its input at step 1: An error .*calculating m: .*outside the grid",
        ):
            run.evaluate(water, step=1, energy=0.0)


@pytest.mark.plumed
def test_hills_of_one_variable_each_go_on():
    text = "d: DISTANCE ATOMS=1,2\ne: DISTANCE ATOMS=1,3\nPBMETAD ARG=d,e PACE=5 HEIGHT=1.2 SIGMA=0.01,0.01"
    whole = run_of(text, molecule("H2O"))
    expected = along(whole, range(41))
    assert sorted(whole.close()) == ["HILLS.d", "HILLS.e"]
    first = run_of(text, molecule("H2O"))
    along(first, range(21))
    history = first.close()
    second = run_of(text, molecule("H2O"), history=history)
    found = along(second, range(20, 41))
    assert found[-1].energy == pytest.approx(expected[-1].energy, abs=1e-12)
    assert set(found[-1].variables) == {"d", "e"}
    assert (n_hills(history, "HILLS.d"), n_hills(second.close(), "HILLS.e")) == (4, 8)


@pytest.mark.plumed
def test_a_moving_restraint_is_where_the_step_of_the_walker_says():
    text = "d: DISTANCE ATOMS=1,2\nMOVINGRESTRAINT ARG=d STEP0=0 AT0=0.1 KAPPA0=1000 STEP1=100 AT1=0.2 KAPPA1=1000"
    length, history = molecule("H2O").get_distance(0, 1), {}
    for steps in ((0, 25), (25, 50), (100, 200)):  # of one run each
        run = run_of(text, molecule("H2O"), history=history)
        for step in steps:
            centre = min(1 + step / 100, 2)
            expected = 1000 * KJ_PER_MOL / 100 / 2 * (length - centre) ** 2
            assert run.evaluate(molecule("H2O"), step=step, energy=0.0).energy == pytest.approx(expected)
        history = run.close()


@pytest.mark.plumed
def test_an_external_potential_is_read_from_its_file():
    grid = np.linspace(0, 0.3, 301)
    lines = [
        "#! FIELDS d e.bias der_d",
        "#! SET min_d 0",
        "#! SET max_d 0.3",
        "#! SET nbins_d 300",
        "#! SET periodic_d false",
    ]
    lines += [f"{d:.6f} 3.5 0.0" for d in grid]  # versions of PLUMED differ in where they take the points to be
    text = "d: DISTANCE ATOMS=1,2\ne: EXTERNAL ARG=d FILE=grid.dat"
    (values,) = evaluate_plumed(text, [molecule("H2O")], files={"grid.dat": "\n".join(lines).encode()})
    assert values.energy == pytest.approx(3.5 * KJ_PER_MOL)


@pytest.mark.plumed
def test_walls_and_units_of_the_user():
    text = "UNITS LENGTH=A ENERGY=eV\nd: DISTANCE ATOMS=1,2\nUPPER_WALLS ...\n ARG=d AT=0.9\n KAPPA=3\n..."
    (values,) = evaluate_plumed(text, [molecule("H2O")], files={})
    length = molecule("H2O").get_distance(0, 1)
    assert values.variables["d"] == pytest.approx(length)
    assert values.energy == pytest.approx(3 * (length - 0.9) ** 2)


@pytest.mark.plumed
@pytest.mark.parametrize(
    "action",
    [
        "METAD ARG=d PACE=1 HEIGHT=2 SIGMA=0.02 BIASFACTOR=5 TEMP=400",
        "METAD ARG=d PACE=1 TAU=10 SIGMA=0.02 BIASFACTOR=5 TEMP=400",
        "PBMETAD ARG=d PACE=1 HEIGHT=2 SIGMA=0.02 BIASFACTOR=5 TEMP=400",
        "OPES_METAD ARG=d PACE=1 BARRIER=20 SIGMA=0.02 TEMP=400",
        "OPES_METAD_EXPLORE ARG=d PACE=1 BARRIER=20 SIGMA=0.02 TEMP=400",
        "ECV_UMBRELLAS_LINE LABEL=e ARG=d CV_MIN=0.09 CV_MAX=0.15 SIGMA=0.02 BARRIER=20 TEMP=400\n"
        "OPES_EXPANDED ARG=e.* PACE=1 OBSERVATION_STEPS=1",
        "METAD ARG=d PACE=1 HEIGHT=2 SIGMA=0.02",
    ],
)
def test_a_bias_that_states_its_temperature_does_not_depend_on_that_of_the_walker(action):
    text = f"d: DISTANCE ATOMS=1,2\n{action}"
    check_temperature(text)
    colder, hotter = (run_of(text, molecule("H2O"), temperature_K=each) for each in (300.0, 600.0))
    with colder, hotter:
        assert [v.energy for v in along(colder, range(8))] == [v.energy for v in along(hotter, range(8))]


@pytest.mark.plumed
def test_well_tempered_hills_become_lower_with_the_temperature_of_the_walker():
    heights = {}
    for temperature_K in (100.0, 1000.0):
        run = run_of(METAD.replace("HEIGHT", "BIASFACTOR=10 HEIGHT"), molecule("H2O"), temperature_K=temperature_K)
        for step in range(11):
            run.evaluate(molecule("H2O"), step=step, energy=0.0)
        last = run.close()["HILLS"].splitlines()[-1].split()
        scaled = float(last[3]) * 9 / 10  # the file holds them times the bias factor over itself less one
        heights[temperature_K] = scaled
        expected = 1.2 * np.exp(-1.2 * KJ_PER_MOL / (9 * units.kB * temperature_K))
        assert scaled == pytest.approx(expected, rel=1e-6)
    assert heights[100.0] < heights[1000.0]


@pytest.mark.plumed
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "d: DISTANCE ATOMS=1,9",
            r"line 1 of the PLUMED input .*atom 9 out of range \(the structure has 3 atoms, which PLUMED counts from 1",
        ),
        ("d: DISTANCE ATOMS=0,2", r"cannot be zero \(the structure has 3 atoms, which PLUMED counts from 1"),
        ("d: DISTANCE ATOMS=1,2 FOO=3", r"cannot understand the following words from the input line : FOO"),
        ("# comment\nWRONG ARG=d", r'line 2 of the PLUMED input .*Action "WRONG" is not known'),
        ("d: DISTANCE ATOMS=1,2\nRESTRAINT ARG=e AT=1 KAPPA=1", "cannot find action named e"),
        ("d: DISTANCE ATOMS=1,2 COMPONENTS\nPRINT ARG=e", "PLUMED has no value e"),
        ("d: DISTANCE ATOMS=1,2\nEXTERNAL ARG=d FILE=absent.dat", "file absent.dat cannot be found"),
        ("p: DIPOLE GROUP=1-3\nRESTRAINT ARG=p AT=1 KAPPA=1", r"not finite at a start; .*charges are not known"),
        (
            "p: DIPOLE GROUP=1-3\nPRINT ARG=p",
            r"p of the PLUMED input is not finite at a start; .*charges are not known",
        ),
    ],
)
def test_what_plumed_rejects_is_shown_in_its_own_words(text, message):
    with pytest.raises(InputError, match=message):
        check_plumed(text, [molecule("H2O")], files={})


@pytest.mark.plumed
def test_an_input_that_crashes_plumed_is_refused():
    # PLUMED asks for a value that surveyor does not have, and crashes.
    with pytest.raises(InputError, match=r"PLUMED crashes on its input \(SIG[A-Z]+\)"):
        check_plumed("v: EXTRACV NAME=lambda\nRESTRAINT ARG=v AT=1 KAPPA=1", [molecule("H2O")], files={})


BOND = "d: DISTANCE ATOMS=1,2"


@pytest.mark.plumed
def test_a_check_that_hangs_ends_at_its_time_limit(monkeypatch):
    monkeypatch.setattr(plumed, "CHECK_TIMEOUT_S", 0.01)
    with pytest.raises(InputError, match=r"PLUMED has not taken its input within 0\.01 s"):
        check_plumed(BOND, [molecule("H2O")], files={})


@pytest.mark.plumed
def test_modules_of_the_current_folder_do_not_count(tmp_path, monkeypatch):
    (tmp_path / "ase.py").write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    check_plumed(BOND, [molecule("H2O")], files={})


@pytest.mark.plumed
def test_a_crash_at_the_end_of_a_good_check_does_not_count(tmp_path, monkeypatch):
    # Python runs this module when it starts.
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    check_plumed(BOND, [molecule("H2O")], files={})


@pytest.mark.plumed
def test_nothing_is_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    along(run := run_of(METAD, molecule("H2O")), range(11))
    run.close()
    with pytest.raises(InputError):
        run_of("WRONG", molecule("H2O"))
    with pytest.raises(RuntimeError, match="within"), run_of(METAD, molecule("H2O")):
        raise RuntimeError("within")
    assert list(tmp_path.iterdir()) == []


def in_another_process(script, kernel):
    environment = {name: value for name, value in os.environ.items() if name != "PLUMED_KERNEL"}
    if kernel is not None:
        environment["PLUMED_KERNEL"] = str(kernel)
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("content", [None, "no library"])
def test_a_missing_kernel_is_named_before_work_starts(tmp_path, content):
    pytest.importorskip("plumed", reason="needs PLUMED's Python wrapper")
    kernel = tmp_path / "libplumedKernel.so"
    if content is not None:
        kernel.write_text(content)
    script = (
        "from ase.build import molecule\nfrom surveyor.biases.plumed import check_plumed\n"
        "check_plumed('d: DISTANCE ATOMS=1,2', [molecule('H2O')], files={})"
    )
    done = in_another_process(script, kernel)
    assert done.returncode == 1
    assert f"kernel cannot be loaded (PLUMED_KERNEL is {kernel})" in done.stderr


@pytest.mark.parametrize("kernel", [None, "", "/absent/libplumedKernel.so"])
def test_asking_for_a_kernel_that_is_not_there_prints_nothing(kernel):
    script = "from surveyor.biases.plumed_kernel import has_kernel\nraise SystemExit(7 if has_kernel() else 3)"
    done = in_another_process(script, kernel)
    # Some builds of the wrapper know of a kernel without being told.
    assert done.returncode == 3 or (done.returncode == 7 and not kernel)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.plumed
def test_starting_plumed_prints_nothing(capfd):
    evaluate_plumed(METAD, [molecule("H2O")], files={})
    assert capfd.readouterr() == ("", "")
