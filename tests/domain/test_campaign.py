import json
import re
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.cluster import Icosahedron

from surveyor.dataset import GIVEN, Dataset, with_label
from surveyor.errors import CampaignInUse, InputError
from surveyor.labels import Label
from surveyor.lease import hold_lease
from surveyor.parameters.files import located
from surveyor.pools import worker_check
from surveyor.reference.ase import EMTReference
from surveyor.run_directory import RunDirectory
from surveyor.sampling.walkers import make_walkers
from surveyor.works.campaign import (
    CAMPAIGN,
    CampaignParameters,
    check_elements,
    check_theory,
    given_data,
    is_model_checked,
    note_checked_model,
)
from surveyor.works.campaign.checks import labelled_data
from surveyor.works.continuation import parameter_differences, recorded_parameters


@pytest.fixture
def content(tmp_path):
    """What a good campaign file holds, with its start file beside it."""
    ase.io.write(tmp_path / "start.extxyz", Icosahedron("Cu", 2))
    return {
        "run_directory": "run",
        "walkers": [{"start": "start.extxyz", "n_walkers": 2}],
        "reference": {"emt": {}},
        "model": {"pair": {}},
        "learning": {"n_generations": 2},
    }


@pytest.fixture
def load(tmp_path):
    def write_and_load(content):
        (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(content))
        return CAMPAIGN.load(tmp_path / "campaign.yaml")

    return write_and_load


def changed(content, name, value):
    *parents, last = [int(part) if part.isdecimal() else part for part in name.split(".")]
    copy = json.loads(json.dumps(content))
    place = copy
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else place[parent]
    place[last] = value
    return copy


def data_file(path, *structures):
    forces = [np.zeros((len(atoms), 3)) for atoms in structures]
    labels = [Label(-1.0 * number, each) for number, each in enumerate(forces)]
    Dataset(with_label(atoms, "v1:00", each) for atoms, each in zip(structures, labels, strict=True)).save(path)


def test_a_good_campaign_passes(content, load):
    assert len(CAMPAIGN.check(load(content)).walkers) == 2


def test_paths_are_relative_to_the_campaign_file(content, load, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    parameters = load(content)
    assert parameters.run_directory == tmp_path / "run"
    assert parameters.walkers[0].start == tmp_path / "start.extxyz"
    assert parameters.label_store == tmp_path / "labels"


WRONG = {
    "walker": ([], r"  walker: .* not permitted \(found \[\]\); did you mean walkers\?"),
    "walkers.0.temprature_K": (300, r"  walkers\[0\]\.temprature_K: .*\(found 300\); did you mean temperature_K\?"),
    "model.pair.cutof_A": (5, r"  model\.pair\.cutof_A: .*did you mean cutoff_A\?"),
    "learning.xyz": (1, r"  learning\.xyz: .*leave it out; there are n_generations, "),
    "walkers.0.temperature_K": (-5, r"  walkers\[0\]\.temperature_K: .* greater than 0 \(found -5\)"),
    "walkers.0.timestep_fs": (float("nan"), r"  walkers\[0\]\.timestep_fs: .* finite number"),
    "walkers.0.method": ("nvt", r"  walkers\[0\]\.method: .*'langevin'.* \(found 'nvt'\)"),
    "walkers": ([], r"  walkers: .* at least 1 item"),
    "bootstrap.data": ("start.extxyz", r"  bootstrap: .* data and level_of_theory together; found data without"),
    "reference": ({"emt": {}, "xtb": {}}, r"  reference: .* exactly one of cp2k, xtb, emt, ase; found xtb and emt"),
    "model": ({}, r"  model: .* exactly one of mace, .*; found none"),
    "pools.sampling": (
        "slurm",
        r"  pools\.sampling: .*found 'slurm', expected \"local\", the kind and name of a block",
    ),
    "learning.seed": (-1, r"  learning\.seed: .* greater than or equal to 0 \(found -1\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_what_was_found_and_expected(name, content, load):
    value, message = WRONG[name]
    with pytest.raises(InputError) as caught:
        load(changed(content, name, value))
    said, n_places = re.subn(r" \(line \d+, column \d+\)", "", str(caught.value))
    assert re.search(message, said)
    assert "campaign.yaml has 1 wrong field:" in said
    assert n_places == 1


def test_all_wrong_fields_are_named_at_once(content, load):
    content = changed(changed(content, "learning.n_tries", 0), "walkers.0.n_steps", 0)
    with pytest.raises(InputError, match="has 2 wrong fields"):
        load(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", r"campaign\.yaml is not valid YAML: line 1, column 5: .*'<stream end>'"),
        (b"a: 1\n\tb: 2", r"campaign\.yaml is not valid YAML: line 2, column 1: found character '\\t' that cannot"),
        (b"a: \x00", r"campaign\.yaml is not valid YAML: found the character #x0000, which YAML does not allow"),
        (b"\xff\xfe\x00", r"campaign\.yaml is not text in UTF-8"),
        (b"- 1", "holds a list; expected fields such as walkers"),
        (b"just text", "holds text; expected fields such as walkers"),
        (b"# nothing\n", r"campaign\.yaml is empty; expected fields such as walkers"),
        (b"a: 1\nb:\n  - {c: 2, d: 3, c: 4}\n", r"campaign\.yaml, line 3, column 18: found c again, .* line 3 already"),
        (b"a: 1\n'b': 2\na: 3\n", r"campaign\.yaml, line 3, column 1: found a again, which is on line 1 already"),
    ],
)
def test_a_file_that_is_no_campaign_is_refused(tmp_path, text, message):
    (tmp_path / "campaign.yaml").write_bytes(text)
    with pytest.raises(InputError, match=message) as caught:
        CAMPAIGN.load(tmp_path / "campaign.yaml")
    assert "<unicode string>" not in str(caught.value)


def test_a_wrong_field_has_its_line_and_column(tmp_path):
    (tmp_path / "campaign.yaml").write_text(
        "run_directory: run\nwalkers:\n  - start: &file a.xyz\n    n_step: 3\n  - {start: *file, n_walkers: none}\n"
    )
    with pytest.raises(InputError) as caught:
        CAMPAIGN.load(tmp_path / "campaign.yaml")
    lines = [line.strip().partition("): ")[0] for line in str(caught.value).splitlines()[1:]]
    assert lines[:2] == ["walkers[0].n_step (line 4, column 5", "walkers[1].n_walkers (line 5, column 20"]
    assert lines[2:] == ["reference: Field required", "model: Field required"]  # what is missing has no place


def test_a_message_about_several_fields_is_not_followed_by_all_of_them(tmp_path):
    (tmp_path / "campaign.yaml").write_text(
        "run_directory: run\nwalkers: [{start: a.xyz}]\nreference: {emt: {}, xtb: {}}\nmodel: {pair: {}}\n"
    )
    with pytest.raises(InputError, match=r"found xtb and emt. Give one and leave out the rest$"):
        CAMPAIGN.load(tmp_path / "campaign.yaml")


def test_a_message_about_a_field_gets_the_place_of_the_field(tmp_path):
    file = tmp_path / "campaign.yaml"
    file.write_text("walkers:\n- start: a.xyz\n")
    assert located("walkers[0].start: no such file", file) == "walkers[0].start (line 2, column 3): no such file"
    assert located("walkers[0]: a [0] b", file) == "walkers[0] (line 2, column 3): a [0] b"
    for message in ("begin_from: is missing", "the run directory: is full", "walkers"):
        assert located(message, file) == message
    assert located("walkers: none", tmp_path / "nowhere.yaml") == "walkers: none"


def test_run_directories_of_former_versions_are_continued(content, load):
    directory = opened(load(content))
    record = json.loads(directory.parameters.read_text())
    record["files"] = {"walkers.0.start": record["files"]["walkers[0].start"]}
    directory.parameters.write_text(json.dumps(record))
    assert recorded_parameters(directory, CampaignParameters).walkers[0].start.parent == directory.inputs
    assert opened(load(content)) == directory


def test_a_missing_campaign_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml does not exist"):
        CAMPAIGN.load(tmp_path / "nowhere.yaml")


UNWORKABLE = {
    "walkers.0.start": (
        "nowhere.xyz",
        r"walkers\[0\]\.start: file .*nowhere\.xyz does not exist; paths in a campaign file are",
    ),
    "walkers.0.method": ("npt", r"walkers\[0\]: structure 0 .* npt needs a cell"),
    "learning.n_frames": (2, r"learning\.n_frames: found 2, but no group of walkers keeps frames"),
    "learning.max_labels": (10, r"learning\.max_labels: found 10, expected at least bootstrap\.n_structures \(50\)"),
    "learning.discard_forces_meV_per_A": (
        150,
        r"learning\.discard_forces_meV_per_A: found 150, below reset_forces_meV_per_A \(200\)",
    ),
    "learning.target_energy_meV_per_atom": (
        25,
        r"learning\.target_energy_meV_per_atom: found 25, above discard_energy_meV_per_atom \(20\)",
    ),
    "learning.select": ("random", r"learning\.select: found random without n_frames"),
    "learning.labels_ahead": (
        1,
        r"learning\.labels_ahead: found 1, expected at least 2, the number of walkers, .* or give n_states, too",
    ),
    "learning": (
        {"target_forces_meV_per_A": 50, "valid_fraction": 0, "test_fraction": 0},
        r"learning\.target_forces_meV_per_A: found 50 with valid_fraction and test_fraction 0: .*; give test_fraction",
    ),
    "walkers": (
        [{"start": "start.extxyz", "n_walkers": 2, "frame_interval": 100}],
        r"walkers\[0\]\.frame_interval: found 100, expected less than n_steps \(100\), .* give a smaller",
    ),
    "model": (
        {"committee": {"n_members": 2, "member": {"pair": {}}}},
        r"learning\.select: committee found pair models trained on the same data, .*committee\.resample: true",
    ),
    "run_directory": ("start.extxyz", r"run_directory: .* is a file; expected a folder"),
    "begin_from": (
        {"run_directory": "run", "generation": 0},
        "begin_from: a new campaign needs a run directory of its",
    ),
    "begin_from.generation": (0, r"begin_from\.run_directory: .*elsewhere is not the run directory of a campaign"),
}


@pytest.mark.parametrize("name", UNWORKABLE)
def test_what_cannot_work_is_refused_before_any_work(name, content, load):
    if name == "begin_from.generation":
        content = changed(content, "begin_from.run_directory", "elsewhere")
    if name == "walkers":
        content = changed(content, "learning.n_frames", 2)
    if name == "model":
        frames = changed(changed(content, "learning.n_frames", 2), "walkers.0.frame_interval", 5)
        content = changed(frames, "learning.select", "committee")
    value, message = UNWORKABLE[name]
    with pytest.raises(InputError, match=message):
        CAMPAIGN.check(load(changed(content, name, value)))


def test_an_element_that_the_reference_cannot_treat_is_named():
    with pytest.raises(InputError, match="reference: EMT cannot treat He, U; it knows"):
        check_elements([Atoms("HeU"), bulk("Cu")], EMTReference().resolve().elements, "EMT")


def test_data_without_the_elements_of_the_walkers_are_refused(content, load, tmp_path):
    data_file(tmp_path / "gold.extxyz", *[bulk("Au", a=a, cubic=True) for a in (4.0, 4.1, 4.2)])
    content = changed(content, "bootstrap", {"data": "gold.extxyz", "level_of_theory": "EMT"})
    with pytest.raises(InputError, match=r"bootstrap\.data: .* holds Au, but the walkers have Cu"):
        CAMPAIGN.check(load(content))


def test_data_without_labels_and_too_few_of_them_are_refused(content, load, tmp_path):
    content = changed(content, "bootstrap", {"data": "start.extxyz", "level_of_theory": "EMT"})
    with pytest.raises(InputError, match=r"bootstrap\.data: structure 0 of .*: found no label; expected REF_energy"):
        CAMPAIGN.check(load(content))
    data_file(tmp_path / "start.extxyz", Icosahedron("Cu", 2))
    with pytest.raises(InputError, match=r"holds 1 different structure to learn from; expected at least 3"):
        CAMPAIGN.check(load(content))


def test_given_data_are_marked_and_have_keys(tmp_path):
    data_file(tmp_path / "data.extxyz", bulk("Cu"), Icosahedron("Cu", 2), bulk("Cu", cubic=True))
    data = given_data(labelled_data(tmp_path / "data.extxyz"), EMTReference().resolve(), tmp_path).structures
    assert {GIVEN in atoms.info for atoms in data} == {True}
    assert len(set(data.keys())) == 3


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("REF_energy", float("nan"), "the label has numbers"), ("REF_stress", np.ones(3), "REF_stress has 3 components")],
)
def test_a_given_label_that_is_no_label_is_named_by_its_index(name, value, complaint, tmp_path):
    data_file(tmp_path / "data.extxyz", bulk("Cu"), Icosahedron("Cu", 2), bulk("Cu", cubic=True))
    structures = ase.io.read(tmp_path / "data.extxyz", index=":")
    structures[2].info[name] = value
    ase.io.write(tmp_path / "data.extxyz", structures)
    with pytest.raises(InputError, match=rf"bootstrap\.data: structure 2 of .*: {complaint}"):
        given_data(labelled_data(tmp_path / "data.extxyz"), EMTReference().resolve(), tmp_path)


def test_given_data_must_be_of_the_level_of_theory_of_the_reference(content, load, tmp_path):
    content["bootstrap"] = {"data": "data.extxyz", "level_of_theory": "PBE"}
    data_file(tmp_path / "data.extxyz", bulk("Cu"), Icosahedron("Cu", 2), bulk("Cu", cubic=True))
    parameters = load(content)
    with pytest.raises(InputError, match=r"level_of_theory: found 'PBE', expected that of the reference, 'EMT'"):
        check_theory(parameters, CAMPAIGN.check(parameters).walkers, EMTReference().resolve())


def test_elements_that_the_reference_cannot_treat_are_refused(content, load, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", molecule("NaCl"))
    parameters = load(content)
    with pytest.raises(InputError, match="EMT cannot treat Na, Cl"):
        check_theory(parameters, CAMPAIGN.check(parameters).walkers, EMTReference().resolve())


def test_an_element_without_its_kind_is_refused_before_any_work(content, load, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", molecule("H2O"))
    (tmp_path / "input.inp").write_text("&FORCE_EVAL\n&DFT\n&END\n&SUBSYS\n&KIND H\n&END\n&END\n&END")
    content["reference"] = {"cp2k": {"input": "input.inp"}}
    with pytest.raises(InputError, match=r"reference\.cp2k: the start of walker 0: SUBSYS .* no KIND O; there are H"):
        CAMPAIGN.check(load(content | {"codes": {"cp2k": "cp2k/genoa"}}))


def test_the_charge_of_the_input_decides_whether_a_structure_suits_it(content, load, tmp_path):
    hydroxide = molecule("OH")
    hydroxide.set_initial_magnetic_moments()  # those of the radical
    ase.io.write(tmp_path / "start.extxyz", hydroxide)
    content["reference"] = {"cp2k": {"input": "input.inp"}}
    text = "&FORCE_EVAL\n&DFT\nUKS F\nCHARGE {}\n&END\n&SUBSYS\n&KIND H\n&END\n&KIND O\n&END\n&END\n&END"
    (tmp_path / "input.inp").write_text(text.format(-1))
    CAMPAIGN.check(load(content))
    (tmp_path / "input.inp").write_text(text.format(0))
    with pytest.raises(InputError, match="multiplicity 2 with UKS F"):
        CAMPAIGN.check(load(content))


def test_a_multiplicity_that_the_charge_of_the_input_excludes_is_refused_before_any_work(content, load, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", molecule("OH"))  # with the moments of the radical
    content["reference"] = {"cp2k": {"input": "input.inp"}}
    text = "&FORCE_EVAL\n&DFT\nCHARGE -1\n&END\n&SUBSYS\n&KIND H\n&END\n&KIND O\n&END\n&END\n&END"
    (tmp_path / "input.inp").write_text(text)
    with pytest.raises(InputError, match="the start of walker 0: 10 electrons and multiplicity 2"):
        CAMPAIGN.check(load(content))


def test_starts_whose_periodicity_the_reference_cannot_treat_are_refused_before_any_work(content, load, tmp_path):
    ase.io.write(tmp_path / "start.extxyz", Atoms("Cu", cell=[2.6, 2.6, 20], pbc=[True, True, False]))
    parameters = load(content)
    theory = replace(EMTReference().resolve(), n_periodic=(0, 3))
    with pytest.raises(InputError, match=r"\[True, True, False\]; EMT treats structures periodic in 0 or 3 dir"):
        check_theory(parameters, CAMPAIGN.check(parameters).walkers, theory)


def test_mace_needs_validation_data(content, load):
    content |= {"model": {"mace": {}}, "learning": {"valid_fraction": 0}}
    with pytest.raises(InputError, match=r"learning\.valid_fraction: found 0"):
        CAMPAIGN.check(load(content))


def test_the_data_directory_of_a_code_is_no_input_file(content, load, tmp_path):
    parameters = load(content | {"codes": {"cp2k": {"data_directory": str(tmp_path)}}})
    assert list(parameters.input_files()) == ["walkers[0].start"]
    CAMPAIGN.check(parameters)


def test_wandb_that_is_not_installed_is_told_before_any_work(content, load, monkeypatch):
    monkeypatch.setattr("surveyor.works.campaign.checks.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "surveyor\[wandb\]"'):
        CAMPAIGN.check(load(content | {"wandb": {}}))


def opened(parameters):
    with CAMPAIGN.open(parameters) as campaign:
        return campaign.directory


def test_the_same_parameters_continue_a_campaign(content, load):
    directory = opened(load(content))
    assert opened(load(content)) == directory
    assert len(json.loads(directory.provenance.read_text())["runs"]) == 2


def test_the_training_pool_takes_the_model_again_where_the_code_of_surveyor_is_another(content, load, monkeypatch):
    with CAMPAIGN.open(load(content)) as campaign:
        note_checked_model(campaign)
        assert is_model_checked(campaign)
        monkeypatch.setattr(worker_check, "_digest", lambda: "another")
        worker_check.versions.cache_clear()
        try:
            assert not is_model_checked(campaign)
        finally:
            worker_check.versions.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "there"),
    [
        ("walkers.0.temperature_K", 400, 300.0),
        ("walkers.0.n_walkers", 3, 2),
        ("learning.reset_energy_meV_per_atom", 5, 10.0),
        ("learning.seed", 1, 0),
        ("learning.n_states", 5, None),
    ],
)
def test_other_parameters_are_refused_with_the_difference(content, load, name, value, there):
    opened(load(content))
    path = re.escape(name.replace(".0.", "[0]."))
    with pytest.raises(InputError, match=f"other parameters:\n  {path}: {there} there, {value}.* here\n.*--from"):
        opened(load(changed(content, name, value)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning.n_generations", 9),
        ("learning.max_labels", 99),
        ("learning.n_tries", 7),
        ("learning.min_difference_A", 0.001),
        ("labels", "others"),
        ("wandb", {"project": "mine"}),
    ],
)
def test_what_changes_no_result_may_change(content, load, name, value):
    directory = opened(load(content))
    opened(load(changed(content, name, value)))
    recorded = recorded_parameters(directory, CampaignParameters)
    expected = load(changed(content, name, value))
    # The start files are copies in the recorded parameters.
    assert recorded.model_dump(exclude={"walkers"}) == expected.model_dump(exclude={"walkers"})


def test_limits_of_guards_may_change(content, load):
    directory = opened(load(content))
    opened(load(changed(content, "walkers.0.max_temperature_factor", 50)))
    assert recorded_parameters(directory, CampaignParameters).walkers[0].max_temperature_factor == 50


def test_files_count_by_content_and_not_by_path(content, load, tmp_path):
    opened(load(content))
    (tmp_path / "moved").mkdir()
    (tmp_path / "start.extxyz").rename(tmp_path / "moved" / "begin.extxyz")
    opened(load(changed(content, "walkers.0.start", "moved/begin.extxyz")))
    ase.io.write(tmp_path / "moved" / "begin.extxyz", Icosahedron("Cu", 3))
    with pytest.raises(InputError, match=r"walkers\[0\]\.start: 'file with hash \w+' there, 'file with hash \w+' here"):
        opened(load(changed(content, "walkers.0.start", "moved/begin.extxyz")))


def test_recorded_parameters_name_the_copies_of_files(content, load, tmp_path):
    directory = opened(load(content))
    (tmp_path / "start.extxyz").unlink()
    recorded = recorded_parameters(directory, CampaignParameters)
    assert recorded.walkers[0].start.parent == directory.inputs
    assert len(make_walkers(recorded.walkers, 0)) == 2


WALLS = [
    {"variable": "distance", "atoms": [0, 1], "kind": f"{side}_wall", "centre": centre, "force_constant": 1.0}
    for side, centre in (("lower", 2.0), ("upper", 3.0))
]


def test_a_campaign_that_a_former_version_began_keeps_its_windows(content, load, tmp_path):
    distribution = {"variable": "distance(0,1)", "minimum": 2.0, "maximum": 3.0}
    group = {**content["walkers"][0], "restraints": WALLS, "distribution": distribution}
    parameters = load(changed(content, "walkers.0", group))

    def centres():
        with CAMPAIGN.open(parameters) as campaign:
            return [[each.centre for each in walker.conditions.restraints] for walker in campaign.checked.walkers]

    for _ in range(2):
        assert centres() == [[1.5, 2.5], [2.5, 3.5]]
    path = RunDirectory(parameters.run_directory).parameters
    record = json.loads(path.read_text())
    del record["former_windows"]
    path.write_text(json.dumps(record))
    for _ in range(2):  # the second time, this version has written the parameters
        assert centres() == [[2.0, 2.0], [3.0, 3.0]]


def test_a_single_model_of_a_campaign_that_a_former_version_began_states_no_uncertainty(content, load):
    parameters = load(content | {"model": {"mace": {}}})

    def states_uncertainty():
        with CAMPAIGN.open(parameters) as campaign:
            return campaign.checked.model.parameters.uncertainty

    for _ in range(2):
        assert states_uncertainty()
    path = RunDirectory(parameters.run_directory).parameters
    record = json.loads(path.read_text())
    del record["single_uncertainty"]
    del record["parameters"]["model"]["mace"]["uncertainty"]
    path.write_text(json.dumps(record))
    for _ in range(2):  # the second time, this version has written the parameters
        assert not states_uncertainty()
    automatic = load(changed(content | {"model": {"mace": {}}}, "walkers.0.max_uncertainty_meV_per_A", "auto"))
    with pytest.raises(InputError, match=r"walkers\[0\].max_uncertainty_meV_per_A: found auto, but the model"):
        CAMPAIGN.check(automatic)


def test_a_field_that_a_former_version_did_not_have_counts_as_its_default(content, load):
    directory = opened(load(content))
    record = json.loads(directory.parameters.read_text())
    del record["parameters"]["learning"]["n_tries"]
    directory.parameters.write_text(json.dumps(record))
    CAMPAIGN.check_continuation(load(content))


def test_parameters_of_a_newer_surveyor_are_refused(content, load):
    directory = opened(load(content))
    directory.parameters.write_text(json.dumps(json.loads(directory.parameters.read_text()) | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99"):
        CAMPAIGN.check_continuation(load(content))


def test_a_run_directory_in_use_is_refused(content, load):
    parameters = load(content)
    with (
        hold_lease(RunDirectory(parameters.run_directory).lease),
        pytest.raises(CampaignInUse, match="is in use by process"),
    ):
        opened(parameters)


def test_parameters_come_back_from_json(content, load):
    parameters = load(changed(content, "wandb", {"project": "mine"}))
    assert CampaignParameters.model_validate_json(parameters.model_dump_json()) == parameters


def test_a_field_that_is_on_one_side_only_is_a_difference():
    assert parameter_differences({"a": 1}, {}, {"a": 1, "b": {"c": "x"}}, {}) == [("b.c", "'nothing'", "'x'")]


def test_the_campaign_file_of_molecules_may_have_several_compositions(content, load, tmp_path):
    ase.io.write(tmp_path / "mixed.extxyz", [molecule("H2O"), molecule("CH4")])
    walkers = CAMPAIGN.check(load(changed(content, "walkers.0.start", "mixed.extxyz"))).walkers
    assert [str(walker.start.symbols) for walker in walkers] == ["OH2", "CH4"]
