import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from surveyor.dataset import Dataset, DataSets, with_label
from surveyor.dataset.metrics import Errors
from surveyor.dataset.weights import weight_of
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import Label
from surveyor.run_directory import FORMER_STOP, WEIGHTS_COUNT, RunDirectory, check_schema, folder_of_model
from surveyor.sampling.walkers import make_walkers, save_walker
from surveyor.works.campaign import CampaignParameters
from surveyor.works.continuation import record_parameters


@pytest.fixture
def walkers(campaign_on_disk):
    parameters = CampaignParameters.model_validate(read_json(campaign_on_disk.parameters)["parameters"])
    return make_walkers(parameters.walkers, parameters.learning.seed)


def test_the_newest_complete_generation_is_loaded(campaign_on_disk, walkers):
    last = campaign_on_disk.n_complete() - 1
    generation = campaign_on_disk.newest_generation(walkers)
    assert generation.number == last
    assert len(generation.walkers) == len(walkers)
    assert generation.model.is_trained
    assert generation.progress.n_labels == generation.n_labels > 0


def test_a_campaign_of_before_keeps_the_stop_that_it_was_begun_with(campaign_on_disk, walkers):
    assert campaign_on_disk.newest_generation(walkers).progress.examined is None
    record = read_json(campaign_on_disk.parameters)
    write_json(campaign_on_disk.parameters, record | {FORMER_STOP: False})
    examined = campaign_on_disk.newest_generation(walkers).progress.examined
    assert [each.generation for each in examined] == [0, 1, 2, 3]
    assert [bool(each.audits) for each in examined] == [False, True, True, True]
    assert {audit.group for each in examined for audit in each.audits} == {0}


def test_a_new_campaign_stops_by_audits(tmp_path, campaign_on_disk):
    parameters = CampaignParameters.model_validate(read_json(campaign_on_disk.parameters)["parameters"])
    directory = replace(campaign_on_disk, path=tmp_path / "new")
    record_parameters(directory, parameters, "campaign")
    assert not directory.has_former_stop
    record_parameters(directory, parameters, "campaign")  # when it is continued
    assert not directory.has_former_stop
    record_parameters(campaign_on_disk, parameters, "campaign")
    assert campaign_on_disk.has_former_stop


def test_the_progress_of_a_generation_holds_its_errors_before_the_training(campaign_on_disk, walkers):
    generation = campaign_on_disk.newest_generation(walkers)
    before = Errors(n_structures=2, energy_rmse=0.003, forces_rmse=0.2)
    progress = replace(generation, before_training=before).progress
    assert (progress.energy_rmse, progress.forces_rmse) == (0.003, 0.2)
    assert (progress.generation, progress.n_labels) == (generation.number, generation.n_labels)


def test_a_generation_without_manifest_is_not_complete_and_stays(campaign_on_disk, walkers):
    last = campaign_on_disk.n_complete() - 1
    campaign_on_disk.generation(last).manifest.unlink()
    assert campaign_on_disk.newest_generation(walkers).number == last - 1
    assert campaign_on_disk.generation(last).set_file("train").exists()
    with pytest.raises(
        InputError, match=f"generation {last} of .* is not complete; complete are {last}, counted from 0"
    ):
        campaign_on_disk.load_generation(last, walkers)


def test_the_newest_generation_may_be_the_bootstrap(campaign_on_disk, walkers):
    campaign_on_disk.generation(1).manifest.unlink()
    assert campaign_on_disk.newest_generation(walkers).number == 0


@pytest.mark.parametrize("obeys", [True, False])
def test_the_weights_of_all_sets_count_unless_the_campaign_was_begun_without_them(campaign_on_disk, walkers, obeys):
    directory = campaign_on_disk.generation(0)
    before = DataSets.load(directory.path)
    for name in ("train", "valid", "test"):
        for atoms in (structures := getattr(before, name)):
            atoms.info["config_weight"] = 3.0
        structures.save(directory.set_file(name))
    record = read_json(campaign_on_disk.parameters)
    write_json(campaign_on_disk.parameters, record | {WEIGHTS_COUNT: obeys})
    data = campaign_on_disk.load_generation(0, walkers).data
    for name in ("train", "valid", "test"):
        assert getattr(data, name).keys() == getattr(before, name).keys()
        assert {weight_of(atoms, "forces") for atoms in getattr(data, name)} == {3.0 if obeys else 1.0}


def test_the_folder_of_a_model_is_that_of_the_model_of_the_training_or_of_the_newest_generation(
    campaign_on_disk, tmp_path
):
    last = campaign_on_disk.n_complete() - 1
    model = campaign_on_disk.generation(last).model
    assert folder_of_model(model) == model
    assert folder_of_model(campaign_on_disk.path) == model
    assert (
        folder_of_model(shutil.copytree(model, tmp_path / "training" / "model").parent) == tmp_path / "training/model"
    )
    campaign_on_disk.generation(1).manifest.unlink()
    assert folder_of_model(campaign_on_disk.path) == campaign_on_disk.generation(0).model


def test_folders_without_a_model_are_refused(campaign_on_disk, tmp_path):
    campaign_on_disk.generation(0).manifest.unlink()
    (tmp_path / "empty").mkdir()
    for folder in (campaign_on_disk.path, tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(InputError, match=f"^{folder}: found no model; expected the folder of a saved model"):
            folder_of_model(folder)


def test_no_generation_is_complete_in_a_new_directory(tmp_path, campaign_on_disk):
    new = replace(campaign_on_disk, path=tmp_path / "new")
    assert new.n_complete() == 0
    assert new.newest_generation(()) is None


def test_a_generation_of_a_newer_surveyor_is_refused(campaign_on_disk, walkers):
    manifest = campaign_on_disk.generation(1).manifest
    write_json(manifest, read_json(manifest) | {"schema_version": 99})
    with pytest.raises(InputError, match="schema version 99, this surveyor reads up to 1; update surveyor"):
        campaign_on_disk.load_generation(1, walkers)


def test_the_manifest_says_what_became_of_every_key(campaign_on_disk, walkers):
    generation = campaign_on_disk.newest_generation(walkers)
    manifest = json.loads(campaign_on_disk.generation(generation.number).manifest.read_text())
    assert set(manifest["labels"]) == set(generation.data.keys())
    for fate in ("train", "valid", "test", "failed", "discarded"):
        found = {key for key, each in manifest["labels"].items() if each == fate}
        assert found == set(getattr(generation.data, fate).keys())
    assert [each["index"] for each in manifest["details"]["walkers"]] == [walker.index for walker in walkers]


def test_walkers_are_where_they_were(campaign_on_disk, walkers):
    before = campaign_on_disk.load_generation(1, walkers).walkers
    again = campaign_on_disk.load_generation(1, walkers).walkers
    assert any(walker.state is not None for walker in before)
    for walker, other in zip(before, again, strict=True):
        assert (walker.seed, walker.n_resets) == (other.seed, other.n_resets)
        if walker.state is not None:
            np.testing.assert_array_equal(walker.state.positions, other.state.positions)
            np.testing.assert_array_equal(walker.state.momenta, other.state.momenta)
            assert walker.state.random_state == other.state.random_state


def test_a_generation_may_end_with_pending_labels(campaign_on_disk, walkers):
    generation = campaign_on_disk.newest_generation(walkers)
    pending = with_label(walkers[0].start, "v1:ab", Label(0.0, np.zeros((len(walkers[0].start), 3))))
    data = replace(generation.data, pending=Dataset([pending]))
    directory = campaign_on_disk.generation(generation.number)
    data.save(directory.path)
    directory.manifest.unlink()
    completed = campaign_on_disk.complete_generation(replace(generation, data=data))
    assert completed.data.pending.keys() == ("v1:ab",)
    assert completed.n_labels == generation.n_labels + 1
    assert read_json(directory.manifest)["labels"]["v1:ab"] == "pending"


def test_a_completed_generation_is_the_one_that_is_loaded(campaign_on_disk, walkers):
    generation = campaign_on_disk.newest_generation(walkers)
    directory = campaign_on_disk.generation(generation.number)
    directory.manifest.unlink()
    errors = {"train": Errors(4, forces_rmse=0.1), "test": Errors(1)}
    changed = replace(generation, before_training=Errors(3, energy_rmse=0.2), errors=errors, details={"epochs": 7})
    campaign_on_disk.complete_generation(changed)
    loaded = campaign_on_disk.newest_generation(walkers)
    assert (loaded.number, loaded.before_training) == (generation.number, changed.before_training)
    assert (loaded.errors, loaded.details) == (errors, {"epochs": 7})
    record = read_json(directory.manifest)
    assert (record["schema_version"], record["number"], record["n_labels"]) == (1, loaded.number, loaded.n_labels)


def test_files_are_where_the_description_of_the_layout_says(tmp_path):
    directory = RunDirectory(tmp_path).generation(7)
    assert directory.path == tmp_path / "generations" / "007"
    assert directory.set_file("train") == directory.path / "train.extxyz"
    assert directory.predictions("test") == directory.path / "predictions" / "test.npz"
    assert directory.walker(12) == directory.path / "walkers" / "0012.npz"


def test_generations_are_complete_up_to_the_first_that_is_not(tmp_path):
    run = RunDirectory(tmp_path)
    for number in (0, 1, 3):
        write_json(run.generation(number).manifest, {})
    assert run.n_complete() == 2
    assert [run.generation(number).is_complete() for number in range(4)] == [True, True, False, True]


def test_a_record_of_this_schema_is_accepted_and_one_of_a_newer_is_not(tmp_path):
    check_schema({"schema_version": 1}, tmp_path / "record.json")
    with pytest.raises(InputError, match=r"record.json has schema version 2, this surveyor reads up to 1"):
        check_schema({"schema_version": 2}, tmp_path / "record.json")


def test_a_plan_of_an_earlier_surveyor_is_read_and_one_of_a_newer_is_refused(tmp_path):
    directory = RunDirectory(tmp_path).generation(1)
    assert directory.planned() is None
    plan = directory.path / "plan.json"
    write_json(plan, {"schema_version": 1, "n_samples": [2, 1]})
    assert directory.planned() == (2, 1)
    write_json(plan, {"schema_version": 2, "n_samples": [2, 1]})
    with pytest.raises(InputError, match=r"plan.json has schema version 2"):
        directory.planned()


def test_walkers_go_on_from_the_last_try_that_an_earlier_surveyor_has_set_aside(tmp_path, walkers):
    run, reached = RunDirectory(tmp_path), tuple(walkers)
    for walker in walkers:
        save_walker(run.generation(0).walker(walker.index), walker)
    assert [each.seed for each in run.walkers_after(0, walkers)] == [each.seed for each in walkers]
    for number in (1, 2, 10):
        reached = tuple(walker.reset() for walker in reached)
        for walker in reached:
            save_walker(run.generation(1).path / f"samples-{number}" / "walkers" / f"{walker.index:04d}.npz", walker)
    assert [each.seed for each in run.walkers_after(0, walkers)] == [each.seed for each in reached]
