"""`surveyor check`: parameter files of every kind, with reports on the structures that they name."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from labelling_inputs import copper, labelled, written

from surveyor.dataset import Dataset
from surveyor.files import write_json
from surveyor.flows.command_line import main
from surveyor.models.choice import ModelParameters, make_model
from surveyor.pools import machine
from surveyor.run_directory import RunDirectory
from surveyor.works.campaign import CAMPAIGN
from surveyor.works.continuation import record_parameters
from surveyor.works.labelling import LABELLING
from surveyor.works.sampling import SamplingParameters
from surveyor.works.training import TRAINING
from surveyor.works.work import Kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copper with labels, one of them with an odd field, and copper without."""
    frames = labelled(copper(12))
    frames[3].info["charge_state"] = 1
    written(tmp_path / "train.extxyz", frames)
    written(tmp_path / "start.extxyz", [bulk("Cu", cubic=True)])
    hydroxide = molecule("OH")
    hydroxide.info["total_charge"] = -1
    written(tmp_path / "frames.extxyz", [*copper(2), frames[0], hydroxide])
    return tmp_path


def saved(folder: Path, name: str, content: dict[str, Any]) -> str:
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


A_CAMPAIGN: dict[str, Any] = {
    "run_directory": "run",
    "walkers": [{"start": "start.extxyz", "n_walkers": 2}],
    "reference": {"emt": {}},
    "model": {"pair": {}},
    "bootstrap": {"data": "train.extxyz", "level_of_theory": "EMT"},
}
A_LABELLING: dict[str, Any] = {"structures": "frames.extxyz", "output_directory": "out", "reference": {"emt": {}}}
A_SAMPLING: dict[str, Any] = {"potential": "model", "output_directory": "out", "walkers": [{"start": "start.extxyz"}]}
A_TRAINING: dict[str, Any] = {"train": "train.extxyz", "output_directory": "out", "model": {"pair": {"n_basis": 8}}}


def test_a_campaign_shows_the_files_of_its_walkers_and_its_data(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", saved(folder, "campaign.yaml", A_CAMPAIGN)]) == 0
    said = capsys.readouterr().out
    assert "walkers[0].start: start.extxyz: 1 structure; used: positions\n" in said
    assert "bootstrap.data: train.extxyz: 12 structures; used: REF_energy, REF_forces" in said
    assert "warning: bootstrap.data: train.extxyz: charge_state is not used; " in said
    assert "(1 structure, the first is 3)" in said
    assert "is valid; the campaign in" in said


def test_targets_that_no_audits_can_show_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learning = {"n_generations": 6, "target_forces_meV_per_A": 50}
    assert main(["check", saved(folder, "campaign.yaml", {**A_CAMPAIGN, "learning": learning})]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: learning: a stop by targets needs 30 audits before the last generation" in said
    assert "this campaign brings about 0, so it will end by its generations or its budget" in said
    enough = {**A_CAMPAIGN, "learning": {**learning, "n_states": 30}}
    assert main(["check", saved(folder, "campaign.yaml", enough)]) == 0
    assert "a stop by targets" not in capsys.readouterr().out


def test_a_ramp_that_takes_more_generations_than_there_are_is_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(n_generations: int) -> str:
        walkers = [{**A_CAMPAIGN["walkers"][0], "final_temperature_K": 600, "ramp_by": "labels", "ramp_labels": 4}]
        content = {**A_CAMPAIGN, "walkers": walkers, "learning": {"n_generations": n_generations}}
        assert main(["check", saved(folder, "campaign.yaml", content)]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "warning: walkers[0].ramp_labels: found 4, but a walker has at most one good label in each of 3" in said(3)
    assert "ramp_labels" not in said(4)


def test_a_ramp_that_takes_more_steps_than_walkers_do_is_warned_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**learning: int) -> str:
        ramp = {"final_temperature_K": 600, "ramp_steps": 500, "n_steps": 100}
        content = {**A_CAMPAIGN, "walkers": [{**A_CAMPAIGN["walkers"][0], **ramp}], "learning": learning}
        assert main(["check", saved(folder, "campaign.yaml", content)]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "warning: walkers[0].ramp_steps: found 500, but a walker takes about 400 steps in 4" in said(n_generations=4)
    assert "ramp_steps" not in said(n_generations=5)
    assert "ramp_steps" not in said(n_generations=3, n_states=4)  # two samples of each walker
    assert "about 200 steps in 4" in said(n_generations=4, n_states=1)


def test_numbers_that_keep_the_labelling_pool_busy_are_advised(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_count", lambda: 16)

    def said(learning: dict[str, int], **pools: str) -> str:
        content = {**A_CAMPAIGN, "learning": learning, "pools": pools}
        assert main(["check", saved(folder, "campaign.yaml", content)]) == 0
        return " ".join(capsys.readouterr().out.split())

    elsewhere = {"training": "tcp://10.0.0.1:8786"}
    advice = "advice: learning: pool local computes up to 16 labels at once, and waits for walkers and trainings with"
    assert f"{advice} n_states 2 and labels_ahead 2; n_states: 32 and labels_ahead: 64 would" in said({}, **elsewhere)
    few_ahead = said({"n_states": 40, "labels_ahead": 60}, **elsewhere)
    assert f"{advice} n_states 40 and labels_ahead 60; n_states: 40 and labels_ahead: 80 would" in few_ahead
    assert "advice" not in said({"n_states": 32, "labels_ahead": 64}, **elsewhere)
    assert "advice" not in said({})  # one pool does everything
    assert "advice" not in said({}, labelling="tcp://10.0.0.1:8786")  # whose scheduler alone knows


def test_a_labelling_shows_what_would_be_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", saved(folder, "label.yaml", A_LABELLING)]) == 0
    said = capsys.readouterr().out
    assert "structures: frames.extxyz: 4 structures; used: " in said
    assert "labels in the file are not used; where needed they are computed anew (1 structure, the first is 2)" in said
    assert "level of theory: EMT" in said
    assert "1 structure cannot be labelled:\n  structure 3: initial_magmoms sum to 1" in said
    assert "2 different labels would be requested" in said
    assert not (folder / "out").exists()


def test_a_training_shows_its_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", saved(folder, "train.yaml", A_TRAINING)]) == 0
    said = capsys.readouterr().out
    assert "train: train.extxyz: 12 structures; used: REF_energy, REF_forces" in said
    assert "structures: 11 for train, 1 for valid, 0 for test; elements Cu" in said
    assert "is valid; the training in" in said


def test_a_sampling_shows_its_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = Dataset(labelled(copper(12)))
    model = make_model(ModelParameters.model_validate({"pair": {"n_basis": 8}}))
    trained, _ = model.initialize(frames, atomic_energies=None, seed=0).train(frames[:9], frames[9:], folder / "t")
    trained.save(folder / "model")
    file = saved(folder, "sample.yaml", A_SAMPLING)
    assert main(["check", file]) == 0
    said = capsys.readouterr().out
    assert "walkers[0].start: start.extxyz: 1 structure; used: positions" in said
    assert "is valid; the sampling in" in said
    assert main(["check", "--json", file]) == 0
    SamplingParameters.model_validate(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("content", [A_TRAINING, A_CAMPAIGN])
def test_replay_data_are_reported_on(content: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = labelled(copper(2))
    broken[1].arrays["REF_forces"] = np.full((4, 3), np.nan)
    written(folder / "replay.extxyz", broken)
    (folder / "foundation.model").touch()
    mace = {"foundation_model": "foundation.model", "replay": "replay.extxyz"}
    assert main(["check", saved(folder, "some.yaml", content | {"model": {"mace": mace}})]) == 2
    assert "replay: structure 1 of " in capsys.readouterr().err


@pytest.mark.parametrize("content", [A_TRAINING, A_CAMPAIGN])
def test_an_engine_that_is_missing_is_told(
    content: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nequip", None)
    assert main(["check", saved(folder, "some.yaml", content | {"model": {"nequip": {}}})]) == 2
    assert 'pip install "surveyor[nequip]"' in capsys.readouterr().err


def test_starts_that_the_reference_cannot_treat_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "iron.extxyz", [bulk("Fe", cubic=True)])
    content = A_CAMPAIGN | {"walkers": [{"start": "iron.extxyz", "n_walkers": 2}], "bootstrap": {}}
    assert main(["check", saved(folder, "campaign.yaml", content)]) == 2
    assert "cannot treat Fe" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "kind", "changes"),
    [
        (A_TRAINING, TRAINING, {"seed": 5}),
        (A_LABELLING, LABELLING, {"reference": {"emt": {"asap_cutoff": True}}}),
        (A_CAMPAIGN, CAMPAIGN, {"learning": {"seed": 5}}),
    ],
)
def test_work_that_has_begun_goes_on_with_its_own_parameters_alone(
    content: dict[str, Any],
    kind: Kind[Any, Any, Any],
    changes: dict[str, Any],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = RunDirectory(folder / ("run" if content is A_CAMPAIGN else "out"))
    file = saved(folder, "some.yaml", content)
    assert main(["check", file]) == 0
    assert f"{directory.path} is new" in capsys.readouterr().out.replace("\n", " ")
    parameters = kind.load(Path(file))
    record_parameters(directory, parameters, kind.name)
    write_json(directory.generation(0).manifest, {})
    assert main(["check", file]) == 0
    state = "has 1 complete generation" if content is A_CAMPAIGN else "has begun; the same call continues it"
    assert f"{directory.path} {state}" in capsys.readouterr().out.replace("\n", " ")
    assert main(["check", saved(folder, "some.yaml", content | changes)]) == 2
    assert "with other parameters" in capsys.readouterr().err.replace("\n", " ")


def test_of_many_refused_structures_some_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "frames.extxyz", [*copper(1), *[contradicting() for _ in range(10)]])
    assert main(["check", saved(folder, "label.yaml", A_LABELLING)]) == 0
    said = capsys.readouterr().out
    assert "10 structures cannot be labelled:" in said
    assert "  structure 8: " in said
    assert "  structure 9: " not in said
    assert "  and 2 more\n" in said
    assert "1 different label would be requested" in said


def contradicting() -> Atoms:
    atoms = molecule("OH")
    atoms.info["total_charge"] = -1
    return atoms


def test_a_file_that_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (A_CAMPAIGN | {"walkers": [{"start": "junk.extxyz"}]}, "walkers[0].start"),
        (A_CAMPAIGN | {"bootstrap": {"data": "junk.extxyz", "level_of_theory": "EMT"}}, "bootstrap.data"),
        (A_LABELLING | {"structures": "junk.extxyz"}, "structures"),
        (A_LABELLING | {"structures": "folder"}, "structures"),
        (A_TRAINING | {"train": "junk.extxyz"}, "train"),
        (A_TRAINING | {"test": "overlap.extxyz"}, "test"),
        (A_SAMPLING | {"potential": "nowhere"}, "potential"),
    ],
)
def test_what_is_wrong_with_a_file_begins_with_the_field_that_names_it(
    content: dict[str, Any], field: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "junk.extxyz").write_text("hello\n")
    (folder / "folder").mkdir()
    overlapping = labelled(copper(1))
    overlapping[0].positions[1] = overlapping[0].positions[0]
    written(folder / "overlap.extxyz", overlapping)
    assert main(["check", saved(folder, "file.yaml", content)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {field} (line ")


def test_a_folder_in_place_of_a_file_is_called_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 2
    assert main(["check", saved(folder, "label.yaml", A_LABELLING | {"structures": "."})]) == 2
    assert capsys.readouterr().err.count("is a folder; expected a file") == 2


@pytest.mark.parametrize("command", [["check"], ["check", "--json"], ["label", "--json"]])
def test_parameters_that_no_run_could_have_are_refused_before_there_is_one(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "deployments" / "cp2k" / "water-demo.inp").read_text() + "! long\n" * 100_000
    written(folder / "frames.extxyz", [molecule("H2O")])
    content = A_LABELLING | {"reference": {"cp2k": {"input_text": text}}, "pool": "tcp://127.0.0.1:9"}
    assert main([*command, saved(folder, "label.yaml", content)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: reference.cp2k.input_text (line ")
    assert "stores 524,288" in " ".join(said.err.split())
    assert len(said.out + said.err) < 2000


MISSING, COMMENTS = "missing.extxyz", "! long\n" * 100_000
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "run": (
        "reference.cp2k.input_text",
        {"run_directory": "run", "walkers": [{"start": MISSING}], "model": {"pair": {}}}
        | {"reference": {"cp2k": {"input_text": COMMENTS}}},
    ),
    "train": (
        "model.nequip.config_text",
        {"train": MISSING, "output_directory": "out", "model": {"nequip": {"config_text": COMMENTS}}},
    ),
    "sample": ("walkers", {"potential": "none", "output_directory": "out", "walkers": [{"start": MISSING}] * 800}),
    "benchmark-labels": (
        "reference.cp2k.input_text",
        {"candidates": {"file": MISSING}, "tests": [{"name": "a", "file": MISSING}], "model": {"pair": {}}}
        | {"arms": ["random", "walkers"], "output_directory": "out", "reference": {"cp2k": {"input_text": COMMENTS}}},
    ),
}


@pytest.mark.parametrize("command", LARGE)
def test_parameters_that_are_too_large_are_refused_before_their_files_are_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    field, content = LARGE[command]
    file = saved(tmp_path, "file.yaml", content)
    for each in (command, "check"):
        assert main([each, file]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {field} (line ")
        assert "stores 524,288" in " ".join(said.split())


@pytest.mark.parametrize("fields", [{"potental": "model"}, {"structure": "a.extxyz"}, {"n_samples": 2}])
def test_a_file_of_no_kind_is_told_what_each_kind_needs(
    fields: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**fields, "output_directory": "out", "walkers": [{"start": "start.extxyz"}]}
    assert main(["check", saved(tmp_path, "file.yaml", content)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    for field in ("`run_directory` of a campaign", "`structures` of", "`train` of", "`potential` of a sampling"):
        assert field in said
    assert next(iter(fields)) in said.partition("found")[2]
