import json
from dataclasses import replace

import numpy as np
import pytest

from surveyor.campaign import CampaignParameters
from surveyor.dataset import Dataset, with_label
from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.labels import Label
from surveyor.run_directory import RunDirectory
from surveyor.sampling.walkers import make_walkers


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


def test_a_generation_without_manifest_is_not_complete_and_stays(campaign_on_disk, walkers):
    last = campaign_on_disk.n_complete() - 1
    campaign_on_disk.generation(last).manifest.unlink()
    assert campaign_on_disk.newest_generation(walkers).number == last - 1
    assert campaign_on_disk.generation(last).set_file("train").exists()
    with pytest.raises(
        InputError, match=f"generation {last} of .* is not complete; complete are {last}, counted from 0"
    ):
        campaign_on_disk.load_generation(last, walkers)


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


def test_a_plan_stays_what_it_was_when_the_generation_began(tmp_path):
    directory = RunDirectory(tmp_path).generation(1)
    assert directory.planned(lambda: (2, 1)) == (2, 1)
    assert directory.planned(lambda: (1, 0)) == (2, 1)


def test_a_generation_that_brought_nothing_begins_anew_from_where_its_walkers_are(tmp_path, walkers):
    directory = RunDirectory(tmp_path).generation(1)
    assert directory.walkers_of_last_try(walkers) == walkers
    reached = walkers
    for number in range(1, 11):
        write_json(directory.samples / "sample", number)
        write_json(directory.duplicates, number)
        reached = tuple(walker.reset() for walker in reached)
        directory.set_aside(reached)
        assert not directory.samples.exists()
        assert not directory.duplicates.exists()
        found = directory.walkers_of_last_try(walkers)
        assert [walker.seed for walker in found] == [walker.seed for walker in reached]
    assert read_json(directory.path / "samples-2" / "sample") == 2
    assert read_json(directory.path / "samples-10" / "duplicates.jsonl") == 10
