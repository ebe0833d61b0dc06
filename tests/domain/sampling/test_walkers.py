from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from pydantic import ValidationError

from surveyor.biases.restraints import Restraint, evaluate_restraints
from surveyor.errors import InputError
from surveyor.sampling.checks import check_walkers, checked_walkers
from surveyor.sampling.conditions import Distribution, Walkers
from surveyor.sampling.propagation import propagate
from surveyor.sampling.samples import walker_digest
from surveyor.sampling.walkers import WalkerState, load_walker, make_walkers, save_walker
from surveyor.testing.calculators import CalculatorPotential


def start_file(path, *structures):
    ase.io.write(path, list(structures), format="traj" if path.suffix == ".traj" else "extxyz")
    return path


def state_of(atoms):
    random = np.random.default_rng(5)
    return WalkerState(
        positions=random.normal(size=(len(atoms), 3)) * 1e-3 + 1 / 3,
        momenta=random.normal(size=(len(atoms), 3)) * 1e-7,
        cell=np.eye(3) * np.pi,
        random_state='{"state": 340282366920938463463374607431768211455}',
        n_steps=12,
        memory={"barostat": np.array([np.e])},
        history={"HILLS": "#! FIELDS time d\n0.1 0.2\n"},
    )


def test_walkers_of_several_groups_and_compositions_are_numbered_through(tmp_path):
    mixed = start_file(tmp_path / "mixed.extxyz", molecule("H2O"), bulk("Cu"))
    methane = start_file(tmp_path / "methane.extxyz", molecule("CH4"))
    walkers = make_walkers([Walkers(start=mixed, n_walkers=3), Walkers(start=methane, n_walkers=1)], seed=1)
    assert [walker.index for walker in walkers] == [0, 1, 2, 3]
    assert [str(walker.start.symbols) for walker in walkers] == ["OH2", "Cu", "OH2", "CH4"]
    assert len({walker.seed for walker in walkers}) == 4


def test_the_seed_of_the_campaign_decides_the_seeds_of_its_walkers(tmp_path):
    group = Walkers(start=start_file(tmp_path / "water.extxyz", molecule("H2O")), n_walkers=2)
    seeds = [[walker.seed for walker in make_walkers([group], seed=seed)] for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


def test_labels_and_momenta_of_a_start_do_not_reach_its_walkers(tmp_path):
    labelled = molecule("OH")
    labelled.set_initial_magnetic_moments()  # those of the radical
    labelled.info |= {"REF_energy": -1.0, "charge": -1, "failure": "timeout"}
    labelled.arrays["REF_forces"] = np.ones((2, 3))
    labelled.set_momenta(np.ones((2, 3)))
    (walker,) = make_walkers([Walkers(start=start_file(tmp_path / "oh.extxyz", labelled), n_walkers=1)], seed=1)
    assert walker.start.info == {"charge": -1}
    assert not {"REF_forces", "momenta"} & set(walker.start.arrays)


def test_a_reset_walker_is_at_its_start_with_another_seed(tmp_path):
    walker = water_walker(tmp_path)
    reset = replace(walker, state=state_of(walker.start)).reset()
    assert (reset.structure.positions == walker.structure.positions).all()
    assert (reset.state, reset.n_resets) == (None, 1)
    assert len({walker.seed, reset.seed, reset.reset().seed}) == 3


BOND = {"variable": "distance", "atoms": (0, 1), "centre": 0.9, "force_constant": 2.0}


def water_walker(tmp_path):
    group = Walkers(start=start_file(tmp_path / "water.extxyz", molecule("H2O")), n_walkers=1)
    return make_walkers([group], seed=1)[0]


def test_a_walker_comes_back_bit_for_bit(tmp_path):
    walker = water_walker(tmp_path)
    state = state_of(walker.start)
    save_walker(tmp_path / "walker.npz", replace(walker, state=state, seed=2**47, n_resets=3))
    loaded = load_walker(tmp_path / "walker.npz", walker)
    for name in ("positions", "momenta", "cell"):
        assert getattr(loaded.state, name).tobytes() == getattr(state, name).tobytes()
    assert loaded.state.memory["barostat"].tobytes() == state.memory["barostat"].tobytes()
    assert loaded.state.history == state.history
    assert (loaded.state.random_state, loaded.state.n_steps) == (state.random_state, 12)
    assert (loaded.seed, loaded.n_resets) == (2**47, 3)


def test_a_walker_of_the_first_schema_is_read(tmp_path):
    walker = water_walker(tmp_path)
    state = state_of(walker.start)
    plain = {name: getattr(state, name) for name in ("positions", "momenta", "cell", "random_state", "n_steps")}
    np.savez(tmp_path / "walker.npz", schema_version=1, index=0, seed=5, n_resets=1, barostat=[np.e], **plain)
    loaded = load_walker(tmp_path / "walker.npz", walker)
    assert loaded.state.memory["barostat"].tolist() == [np.e]
    np.savez(tmp_path / "walker.npz", schema_version=1, index=0, seed=5, n_resets=1, barostat=[], **plain)
    assert load_walker(tmp_path / "walker.npz", walker).state.memory == {}


def test_a_walker_at_its_start_comes_back_without_a_state(tmp_path):
    walker = water_walker(tmp_path)
    save_walker(tmp_path / "walker.npz", walker)
    assert load_walker(tmp_path / "walker.npz", walker).state is None


def test_the_file_of_another_walker_is_refused(tmp_path):
    group = Walkers(start=start_file(tmp_path / "water.extxyz", molecule("H2O")), n_walkers=2)
    first, second = make_walkers([group], seed=1)
    save_walker(tmp_path / "walker.npz", first)
    with pytest.raises(ValueError, match="holds walker 0"):
        load_walker(tmp_path / "walker.npz", second)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature_K": -1}, "greater than 0"),
        ({"temperature_k": 300}, "Extra inputs"),
        ({"thermostat_time_fs": 0.5}, "thermostat_time_fs is 0.5, timestep_fs is 0.5; expected at least 1:"),
        ({"method": "npt", "barostat_time_fs": 10}, "barostat_time_fs is 10"),
        ({"method": "npt_flexible", "barostat_time_fs": 10}, "barostat_time_fs is 10"),
        ({"timestep_fs": 0}, r"timestep_fs\s+Input should be greater than or equal to 0.01"),
        ({"timestep_fs": 0.0005}, r"timestep_fs\s+Input should be greater than or equal to 0.01"),  # picoseconds
        ({"timestep_fs": 20}, r"timestep_fs\s+Input should be less than or equal to 10"),  # atomic units
        (
            {"final_temperature_K": 600},
            "expected final_temperature_K and ramp_steps together; found final_temperature_K",
        ),
        ({"ramp_steps": 600}, "found ramp_steps alone"),
        ({"plumed_files": ["grid.dat"]}, "found plumed_files without plumed"),
        ({"method": "perturbation", "plumed": "plumed.dat"}, "found plumed with method perturbation"),
        (
            {"method": "optimisation", "plumed": "plumed.dat"},
            "found plumed with method optimisation; expected",
        ),
        ({"distribution": {"variable": "d", "minimum": 1, "maximum": 2}}, "found distribution without restraints or"),
        (
            {"distribution": {"variable": "d", "minimum": 2, "maximum": 1}},
            "expected minimum below maximum; found 2 and 1",
        ),
    ],
)
def test_conditions_that_cannot_work_are_refused(tmp_path, fields, message):
    with pytest.raises(ValidationError, match=message):
        Walkers(start=tmp_path / "water.extxyz", **fields)


@pytest.mark.parametrize(
    ("fields", "structure", "message"),
    [
        ({"method": "npt"}, molecule("H2O"), r"structure 1 of .*pbc \[False, False, False\], but method npt"),
        ({"min_distance_A": 1.0}, molecule("H2O"), "structure 1 of .*two atoms are 0.969 Å apart"),
        ({}, Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.1]]), "structure 1 of .* overlap"),
        ({}, Atoms("H", positions=[[0, 0, np.nan]]), "structure 1 of .*not finite"),
        ({}, Atoms("He", constraint=FixAtoms([0])), "structure 1 of .*no atom can move"),
        ({"method": "npt"}, Atoms("He", cell=[4, 4, 4], pbc=True, constraint=FixAtoms([0])), "structure 1"),
        ({"method": "npt_flexible"}, molecule("H2O"), "method npt_flexible needs a cell"),
        ({"method": "cell_optimisation"}, molecule("H2O"), "method cell_optimisation needs a cell"),
        (
            {"method": "nose_hoover"},
            Atoms("He2", positions=[[0, 0, 0], [0, 0, 3]], constraint=FixAtoms([0])),
            "structure 1 of .*constraints, which method nose_hoover cannot keep",
        ),
        ({"min_distance_factor": 0.9}, molecule("N2"), "guard min_distance_factor allows no less than 1.278"),
        ({"initial_velocities": "given"}, molecule("H2O"), "has no momenta, but initial_velocities is given"),
        ({"method": "bussi", "initial_velocities": "zero"}, molecule("H2O"), "bussi scales velocities"),
        (
            {"restraints": [BOND | {"atoms": (0, 3)}]},
            molecule("H2O"),
            "structure 1 of .*has 3 atoms, but the restraint",
        ),
        ({"restraints": [{"variable": "volume", "centre": 1, "force_constant": 1}]}, molecule("H2O"), "a restraint on"),
    ],
)
def test_a_bad_start_is_named_by_group_and_index(tmp_path, fields, structure, message):
    good = Walkers(start=start_file(tmp_path / "good.traj", bulk("Cu", cubic=True)))
    bad = Walkers(start=start_file(tmp_path / "bad.traj", bulk("Cu", cubic=True), structure), **fields)
    check_walkers([good])
    if fields.get("initial_velocities") == "given":
        good = good.model_copy(update={"initial_velocities": "thermal"})
    with pytest.raises(InputError, match=r"walkers\[1\](\.start|\.restraints)?: .*" + message):
        check_walkers([good, bad])


def test_a_start_file_without_structures_is_refused(tmp_path):
    (tmp_path / "empty.extxyz").write_text("")
    with pytest.raises(InputError, match=r"walkers\[0\]\.start: .*empty.extxyz"):
        check_walkers([Walkers(start=tmp_path / "empty.extxyz")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"restraints": [Restraint(variable="distance", atoms=(0, 3), centre=1, force_constant=1)]},
            r"^walkers\[1\]\.restraints: structure 0 of .* has 3 atoms, but the restraint distance\(0,3\)",
        ),
        (
            {
                "restraints": [Restraint(variable="distance", atoms=(0, 1), centre=1, force_constant=1)],
                "distribution": Distribution(variable="d", minimum=1, maximum=2),
            },
            r"^walkers\[1\]\.distribution: found variable d, expected one on which a restraint acts",
        ),
        ({"method": "npt"}, r"^walkers\[1\]: structure 0 of .* npt needs a cell"),
    ],
)
def test_errors_of_walkers_begin_with_the_path_of_their_field(tmp_path, fields, message):
    start = start_file(tmp_path / "water.extxyz", molecule("H2O"))
    with pytest.raises(InputError, match=message):
        check_walkers([Walkers(start=start), Walkers(start=start, **fields)])


@pytest.mark.plumed
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d: DISTANCE ATOMS=1,4\nRESTRAINT ARG=d AT=1 KAPPA=1", r"walkers\[0\]\.plumed: line 1 .* atom 4 out of range"),
        ("d: DISTANCE ATOMS=1\n", r"walkers\[0\]\.plumed: line 1 of the PLUMED input"),
    ],
)
def test_what_plumed_rejects_is_refused_before_anything_moves(tmp_path, text, message):
    (tmp_path / "plumed.dat").write_text(text)
    start = start_file(tmp_path / "water.extxyz", molecule("H2O"))
    with pytest.raises(InputError, match=message):
        check_walkers([Walkers(start=start, plumed=tmp_path / "plumed.dat")])


def test_a_bias_that_needs_a_temperature_states_it_where_that_of_the_walkers_changes(tmp_path):
    text = "d: DISTANCE ATOMS=1,2\nMETAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1 BIASFACTOR=10"
    (tmp_path / "plumed.dat").write_text(text)
    group = Walkers(
        start=start_file(tmp_path / "water.extxyz", molecule("H2O")),
        plumed=tmp_path / "plumed.dat",
        final_temperature_K=600,
        ramp_steps=100,
    )
    with pytest.raises(InputError, match=r"walkers\[0\]\.plumed: line 2 .*METAD needs one temperature"):
        checked_walkers([group], 0, has_plumed=False)
    checked_walkers([group.model_copy(update={"final_temperature_K": group.temperature_K})], 0, has_plumed=False)
    (tmp_path / "plumed.dat").write_text(f"{text} TEMP=600")
    checked_walkers([group], 0, has_plumed=False)


POSITION = "p: POSITION ATOM=1 NOPBC\nRESTRAINT ARG=p.z AT=0 KAPPA=10\n"
COMPONENT = "d: DISTANCE ATOMS=1,2 COMPONENTS NOPBC\nRESTRAINT ARG=d.x AT=0 KAPPA=10\n"
TORSION = "t: TORSION ATOMS=3,1,2,4\nRESTRAINT ARG=t AT=3.14 KAPPA=10\n"


@pytest.mark.plumed
@pytest.mark.parametrize(
    ("text", "is_periodic", "found"),
    [
        (POSITION, False, r"\(p.z\)"),
        (POSITION, True, r"\(p.z\)"),
        (COMPONENT, False, r"\(d.x\)"),
        (COMPONENT, True, None),
        (TORSION, False, None),
    ],
)
@pytest.mark.parametrize("method", ["langevin", "bussi"])
def test_thermostats_that_need_conserved_momenta_refuse_biases_on_places(tmp_path, text, is_periodic, found, method):
    (tmp_path / "plumed.dat").write_text(text)
    peroxide = molecule("H2O2", cell=[9, 9, 9], pbc=is_periodic)
    group = Walkers(
        start=start_file(tmp_path / "start.extxyz", peroxide), plumed=tmp_path / "plumed.dat", method=method
    )
    if found is None or method == "langevin":
        check_walkers([group])
        return
    with pytest.raises(InputError, match=rf"{found}, but method bussi needs momenta .*; use method langevin"):
        check_walkers([group])


def hydrogens(*distances_A):
    return [Atoms("H2", positions=[[0, 0, 0], [0, 0, distance]]) for distance in distances_A]


WINDOWS = {"minimum": 0.7, "maximum": 1.24}


def test_walkers_are_placed_along_a_restrained_variable(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *hydrogens(0.75, 1.0, 1.2))
    other = {"variable": "distance", "atoms": (1, 0), "kind": "upper_wall", "centre": 3.0, "force_constant": 1.0}
    fields = {"restraints": [BOND, other], "distribution": WINDOWS | {"variable": "distance(0,1)"}}
    walkers = make_walkers([Walkers(start=start, n_walkers=4, **fields)], seed=1)
    centres = [[restraint.centre for restraint in walker.conditions.restraints] for walker in walkers]
    assert np.allclose(centres, [[0.7, 3], [0.88, 3], [1.06, 3], [1.24, 3]])
    assert [walker.start.get_distance(0, 1) for walker in walkers] == pytest.approx([0.75, 1.0, 1.0, 1.2])
    with pytest.raises(InputError, match=r"found variable d, expected one .*: distance\(0,1\), distance\(1,0\)"):
        check_walkers([Walkers(start=start, **fields | {"distribution": WINDOWS | {"variable": "d"}})])


@pytest.mark.plumed
def test_walkers_are_placed_along_a_variable_of_plumed(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *hydrogens(0.75, 1.0, 1.2))
    (tmp_path / "plumed.dat").write_text("UNITS LENGTH=A\nd: DISTANCE ATOMS=1,2\nRESTRAINT ARG=d AT=9 KAPPA=100\n")
    fields = {"plumed": tmp_path / "plumed.dat", "distribution": WINDOWS | {"variable": "d"}}
    walkers = make_walkers([Walkers(start=start, n_walkers=3, **fields)], seed=1)
    for walker, centre in zip(walkers, ("0.7", "0.97", "1.24"), strict=True):
        assert f"AT={centre} " in walker.plumed
    assert [walker.start.get_distance(0, 1) for walker in walkers] == pytest.approx([0.75, 1.0, 1.2])
    assert len({walker_digest(replace(walker, index=0, seed=0)) for walker in walkers}) == 3


@pytest.mark.plumed
def test_an_input_that_crashes_plumed_does_not_crash_what_places_walkers(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *hydrogens(0.75, 1.0))
    (tmp_path / "plumed.dat").write_text("d: EXTRACV NAME=lambda\nRESTRAINT ARG=d AT=1 KAPPA=1\n")
    fields = {"plumed": tmp_path / "plumed.dat", "distribution": WINDOWS | {"variable": "d"}}
    with pytest.raises(InputError, match=r"walkers\[0\]\.plumed: PLUMED crashes on its input"):
        checked_walkers([Walkers(start=start, n_walkers=2, **fields)], 0, has_plumed=False)


def test_walkers_placed_by_restraints_need_no_plumed_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMED_KERNEL", "/absent.so")
    start = start_file(tmp_path / "start.extxyz", *hydrogens(0.75, 1.0))
    (tmp_path / "plumed.dat").write_text("d: DISTANCE ATOMS=1,2\nMETAD ARG=d PACE=5 HEIGHT=1 SIGMA=0.1\n")
    restraint = {"variable": "distance", "atoms": (0, 1), "centre": 0, "force_constant": 1.0}
    fields = {
        "plumed": tmp_path / "plumed.dat",
        "restraints": [restraint],
        "distribution": WINDOWS | {"variable": "distance(0,1)"},
    }
    walkers, _ = checked_walkers([Walkers(start=start, n_walkers=2, **fields)], 0, has_plumed=False)
    assert [walker.start.get_distance(0, 1) for walker in walkers] == pytest.approx([0.75, 1.0])


def peroxides(*torsions):
    found = []
    for degrees in torsions:
        found.append(molecule("H2O2"))
        found[-1].set_dihedral(2, 0, 1, 3, degrees)
    return found


TURNED = {"variable": "torsion", "atoms": (2, 0, 1, 3), "centre": 0, "force_constant": 2.0}


@pytest.mark.parametrize(
    ("minimum", "maximum", "centres", "starts"),
    [
        (170, 190, [170, 180, -170], [175, 175, -175]),
        (-180, 180, [180, -60, 60], [175, -60, 60]),  # the end of a turn is its beginning
        (-190, -170, [170, 180, -170], [175, 175, -175]),
    ],
)
@pytest.mark.parametrize("name", ["torsion(2,0,1,3)", "torsion(3, 1, 0, 2)"])
def test_windows_of_a_torsion_go_round(tmp_path, minimum, maximum, centres, starts, name):
    start = start_file(tmp_path / "start.extxyz", *peroxides(-175, -60, 60, 175))
    distribution = {"variable": name, "minimum": minimum, "maximum": maximum}
    group = Walkers(start=start, n_walkers=3, restraints=[TURNED], distribution=distribution)
    walkers = make_walkers([group], seed=1)
    assert [walker.conditions.restraints[0].centre for walker in walkers] == pytest.approx(centres)
    assert [walker.window for walker in walkers] == [
        {"variable": name, "centre": pytest.approx(centre)} for centre in centres
    ]
    begun = [evaluate_restraints([TURN], walker.start).variables[TURN.name] for walker in walkers]
    assert begun == pytest.approx(starts, abs=1e-5)


TURN = Restraint(**TURNED)


def test_the_nearest_start_is_the_shorter_way_round(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *peroxides(-175, 100))
    distribution = {"variable": TURN.name, "minimum": 165, "maximum": 175}
    walkers = make_walkers([Walkers(start=start, n_walkers=2, restraints=[TURNED], distribution=distribution)], seed=1)
    begun = [evaluate_restraints([TURN], walker.start).variables[TURN.name] for walker in walkers]
    assert begun == pytest.approx([-175, -175], abs=1e-5)


@pytest.mark.plumed
def test_windows_of_a_torsion_of_plumed_go_round(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *peroxides(-175, -60, 60, 175))
    (tmp_path / "plumed.dat").write_text("t: TORSION ATOMS=3,1,2,4\nRESTRAINT ARG=t AT=0 KAPPA=100\n")
    distribution = {"variable": "t", "minimum": 3.0, "maximum": 3.3}
    group = Walkers(start=start, n_walkers=2, plumed=tmp_path / "plumed.dat", distribution=distribution)
    walkers = make_walkers([group], seed=1)
    assert [walker.window["centre"] for walker in walkers] == pytest.approx([3.0, 3.3 - 2 * np.pi])
    assert "AT=-2.983185307" in walkers[1].plumed
    begun = [evaluate_restraints([TURN], walker.start).variables[TURN.name] for walker in walkers]
    assert begun == pytest.approx([175, -175], abs=1e-5)


@pytest.mark.parametrize(
    ("restraint", "distribution", "message"),
    [
        (TURNED, {"variable": "torsion(2,0,1,3)", "minimum": -200, "maximum": 200}, "a range of 400, expected at most"),
        (BOND, {"variable": "distance(0,1)", "minimum": -1, "maximum": 2}, "a centre of -1 for distance.0,1., expect"),
    ],
)
def test_windows_where_the_variable_does_not_reach_are_refused(tmp_path, restraint, distribution, message):
    start = start_file(tmp_path / "start.extxyz", *peroxides(0))
    with pytest.raises(InputError, match=message):
        check_walkers([Walkers(start=start, restraints=[restraint], distribution=distribution)])


@pytest.mark.parametrize("name", ["distance(1,0)", "distance(0, 1)", "distance(0,1)"])
def test_the_order_of_the_atoms_does_not_matter_to_a_distribution(tmp_path, name):
    start = start_file(tmp_path / "start.extxyz", *hydrogens(0.75, 1.2))
    group = Walkers(start=start, n_walkers=2, restraints=[BOND], distribution=WINDOWS | {"variable": name})
    walkers = make_walkers([group], seed=1)
    assert [walker.conditions.restraints[0].centre for walker in walkers] == pytest.approx([0.7, 1.24])


def test_windows_by_the_former_rule(tmp_path):
    start = start_file(tmp_path / "start.extxyz", *peroxides(-175, -60, 60, 175))
    walls = [{**TURNED, "kind": kind, "centre": centre} for kind, centre in (("lower_wall", -10), ("upper_wall", 10))]
    distribution = {"variable": TURN.name, "minimum": -180, "maximum": 180}
    group = Walkers(start=start, n_walkers=3, restraints=[TURNED, *walls], distribution=distribution)
    walkers = make_walkers([group], seed=1, by_former_rule=True)
    centres = [[restraint.centre for restraint in walker.conditions.restraints] for walker in walkers]
    assert centres == [[-180] * 3, [0] * 3, [180] * 3]
    begun = [evaluate_restraints([TURN], walker.start).variables[TURN.name] for walker in walkers]
    assert begun == pytest.approx([60, 60, 175], abs=1e-5)  # -175 was 185 then, and far from -180
    longer = group.model_copy(update={"distribution": Distribution(**distribution | {"maximum": 200})})
    checked_walkers([longer], seed=1, by_former_rule=True)


def test_walkers_outside_a_distribution_have_no_window(tmp_path):
    used = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]], info={"window_variable": "d", "window_centre": 2.0})
    (walker,) = make_walkers([Walkers(start=start_file(tmp_path / "used.extxyz", used), n_walkers=1)], seed=1)
    assert walker.window is None


def test_a_missing_start_and_no_walkers_at_all_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"walkers\[0\]\.start: .*absent.xyz does not exist"):
        check_walkers([Walkers(start=tmp_path / "absent.xyz")])
    with pytest.raises(InputError, match="at least one group"):
        check_walkers([])


@pytest.mark.parametrize("method", ["npt", "npt_flexible"])
@pytest.mark.parametrize(("temperature_K", "barostat_time_fs"), [(20, 200), (60, 200), (20, 500), (300, 200)])
def test_a_barostat_that_explodes_is_warned_of(tmp_path, method, temperature_K, barostat_time_fs):
    start = start_file(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    fields = {"timestep_fs": 4, "thermostat_time_fs": 50, "temperature_K": temperature_K, "n_steps": 300}
    group = Walkers(start=start, n_walkers=1, method=method, barostat_time_fs=barostat_time_fs, **fields)
    (walker,), (report,) = checked_walkers([group], seed=1)
    potential = CalculatorPotential("ase.calculators.emt.EMT")
    sample = propagate(walker, potential, directory=tmp_path, name="0", n_tries=1)
    is_warned = any("a hard solid explodes below" in warning for warning in report.warnings)
    assert is_warned == (temperature_K * barostat_time_fs**2 < 60 * 250**2)
    assert is_warned or sample.structure is not None
    if (temperature_K, barostat_time_fs) == (20, 200):
        assert sample.rejections
