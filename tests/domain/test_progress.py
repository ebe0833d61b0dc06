import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.events.kinds import (
    CampaignBegins,
    CampaignComplete,
    CampaignFails,
    EpochEnds,
    Event,
    GenerationBegins,
    GenerationComplete,
    GenerationFails,
    LabelFailed,
    Labelled,
    NearDuplicate,
    Rejected,
    Sampled,
    TrainingBegins,
    TrainingEnds,
    TryRejected,
    Waiting,
    WaitingEnds,
)
from surveyor.files import read_json, write_json
from surveyor.lease import hold_lease
from surveyor.progress import CampaignProgress, errors_table, now, read_campaign, read_progress, render, summary
from surveyor.run_directory import RunDirectory


@pytest.fixture
def begun(tmp_path: Path) -> RunDirectory:
    """A campaign of which nothing is complete yet."""
    directory = RunDirectory(tmp_path / "run")
    write_json(
        directory.parameters, {"schema_version": 1, "parameters": {"learning": {"n_generations": 3}}, "files": {}}
    )
    directory.events.append(CampaignBegins())
    return directory


def label(directory: RunDirectory, key: str, *, new: bool = True) -> None:
    directory.events.append(Labelled(key=key, new=new, wall_time_s=1.0))


def rendered(progress: CampaignProgress) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(render(progress))
    return capture.get()


def test_sampling_and_labelling_are_counted_as_they_go_on(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=4))
    for index in range(3):
        begun.events.append(Sampled(name=f"g001-w{index:03d}-0", walker=index))
    label(begun, "v1:a")
    label(begun, "v1:b", new=False)
    begun.events.append(LabelFailed(key="v1:c", reason="timeout", new=True))
    progress = read_progress(begun)
    assert (progress.generation, progress.stage) == (1, "sampling")
    assert (progress.n_sampled, progress.n_planned) == (3, 4)
    assert (progress.n_new, progress.n_found, progress.n_failed) == (1, 1, 1)
    assert progress.n_labels == 3


def test_what_is_reported_twice_counts_once(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=4))
    for _ in range(2):
        begun.events.append(Sampled(name="g001-w000-0", walker=0))
        label(begun, "v1:a")
    progress = read_progress(begun)
    assert (progress.n_sampled, progress.n_labelled) == (1, 1)


def test_a_label_that_came_at_the_second_attempt_is_no_failure(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=1))
    begun.events.append(LabelFailed(key="v1:a", reason="crash", new=True))
    label(begun, "v1:a")
    assert read_progress(begun).n_failed == 0


def test_a_resumed_generation_is_counted_from_its_last_beginning(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=2))
    label(begun, "v1:a")
    begun.events.append(CampaignBegins())
    begun.events.append(GenerationBegins(generation=1, n_samples=2))
    label(begun, "v1:a", new=False)
    progress = read_progress(begun)
    assert (progress.n_new, progress.n_found, progress.run_labels) == (0, 1, 0)


SAMPLED, LABELLED = Sampled(name="g001-w000-0"), Labelled(key="v1:a", new=True)


@pytest.mark.parametrize(
    ("events", "stage"),
    [
        ([], "sampling"),
        ([SAMPLED], "labelling"),
        ([SAMPLED, LABELLED], "evaluation"),
        ([Rejected(name="g001-w000-0")], "evaluation"),
        ([SAMPLED, LABELLED, TrainingBegins()], "training"),
        ([SAMPLED, LABELLED, TrainingBegins(), TrainingEnds()], "evaluation"),
    ],
)
def test_the_stage_follows_from_what_happened(begun: RunDirectory, events: list[Event], stage: str) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=1))
    for event in events:
        begun.events.append(event.model_copy(update={"time": time.time() + 1}))
    assert read_progress(begun).stage == stage


def test_structures_of_the_bootstrap_need_no_sampling(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=0, n_samples=2))
    assert read_progress(begun).stage == "labelling"
    assert "sampled" not in rendered(read_progress(begun))


def test_the_bootstrap_is_counted_like_other_generations(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=0, n_samples=2))
    progress = read_progress(begun)
    assert "generation 0 (bootstrap): labelling" in rendered(progress)
    assert now(progress) == "generation 0 (bootstrap), labelling 0/2"


def test_the_last_epoch_of_the_training_under_way_shows(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=1))
    begun.events.append(TrainingBegins(n_train=8, n_valid=1))
    for number in range(3):
        begun.events.append(EpochEnds(number=number, loss=1.0 / (number + 1), energy_rmse=0.0123, forces_rmse=None))
    progress = read_progress(begun)
    assert progress.epoch is not None
    assert progress.epoch.number == 2
    assert "epoch 3, loss 0.3333, 12.3 meV/atom\n" in rendered(progress)


def test_a_campaign_in_a_live_process_is_running_and_otherwise_stopped(begun: RunDirectory) -> None:
    assert read_progress(begun).state == "stopped"
    with hold_lease(begun.lease):
        assert read_progress(begun).state == "running"
    assert read_progress(begun).state == "stopped"


def test_a_complete_campaign_says_why_it_ended(finished_campaign: RunDirectory) -> None:
    progress = read_progress(finished_campaign)
    assert (progress.state, progress.reason) == ("complete", "all 3 generations are complete")
    assert progress.n_complete == 4
    assert progress.generation is None
    assert "all 3 generations are complete" in rendered(progress)


@pytest.mark.parametrize(("from_scratch", "limit"), [(True, 7), (False, None)])
def test_the_limit_of_epochs_is_that_of_trainings_from_scratch(
    from_scratch: bool, limit: int | None, campaign_on_disk: RunDirectory
) -> None:
    record = read_json(campaign_on_disk.parameters)
    record["parameters"]["model"] = {"mace": {"max_num_epochs": 7}}
    record["parameters"]["learning"]["train_from_scratch"] = from_scratch
    write_json(campaign_on_disk.parameters, record)
    assert read_progress(campaign_on_disk).max_epochs == limit


def test_a_complete_campaign_that_is_continued_is_no_longer_complete(campaign_on_disk: RunDirectory) -> None:
    campaign_on_disk.events.append(CampaignBegins())
    assert read_progress(campaign_on_disk).state == "stopped"


def test_labels_in_all_are_those_of_complete_generations_and_of_the_one_in_work(campaign_on_disk: RunDirectory) -> None:
    before = read_progress(campaign_on_disk).n_labels
    campaign_on_disk.events.append(CampaignBegins())
    campaign_on_disk.events.append(GenerationBegins(generation=4, n_samples=4))
    label(campaign_on_disk, "v1:a")
    assert read_progress(campaign_on_disk).n_labels == before + 1


def test_nothing_is_counted_between_two_generations(campaign_on_disk: RunDirectory) -> None:
    campaign_on_disk.events.append(CampaignBegins())
    campaign_on_disk.events.append(GenerationBegins(generation=3, n_samples=4))
    label(campaign_on_disk, "v1:a")
    campaign_on_disk.events.append(GenerationComplete(generation=3))
    progress = read_progress(campaign_on_disk)
    assert (progress.generation, progress.n_labelled) == (None, 0)
    assert "stopped; generation 3 of 3 is complete" in rendered(progress)


def test_a_second_call_on_a_complete_campaign_did_nothing(campaign_on_disk: RunDirectory) -> None:
    campaign_on_disk.events.append(CampaignBegins())
    campaign_on_disk.events.append(CampaignComplete(reason="all 3 generations are complete"))
    progress = read_progress(campaign_on_disk)
    assert (progress.run_labels, progress.run_trainings) == (0, 0)


def test_errors_of_generations_are_those_of_the_manifests(finished_campaign: RunDirectory) -> None:
    rows = errors_table(finished_campaign)
    manifest = finished_campaign.read_manifest(2)
    assert [row.generation for row in rows] == [0, 1, 2, 3]
    assert rows[0].before_energy_meV_per_atom is None
    assert rows[2].before_forces_meV_per_A == pytest.approx(1e3 * manifest["before_training"]["forces_rmse"])
    assert rows[2].test_energy_meV_per_atom == pytest.approx(1e3 * manifest["errors"]["test"]["energy_rmse"])
    assert rows[2].n_train == manifest["errors"]["train"]["n_structures"]
    assert rows[2].n_discarded == list(manifest["labels"].values()).count("discarded")
    comparison = read_json(finished_campaign.comparison)["errors"]
    assert rows[1].final_forces_meV_per_A == pytest.approx(1e3 * comparison["1"]["forces_rmse"])


def test_models_that_were_not_compared_have_no_final_errors(campaign_on_disk: RunDirectory) -> None:
    campaign_on_disk.comparison.unlink()
    assert all(row.final_energy_meV_per_atom is None for row in errors_table(campaign_on_disk))


def test_a_torn_last_line_of_a_killed_process_is_passed_over(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=2))
    with begun.events.path.open("a") as file:
        file.write(json.dumps({"event": "labelled"})[:-4])
    assert read_progress(begun).generation == 1


def test_a_folder_that_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the run directory of a campaign"):
        read_progress(RunDirectory(tmp_path))


def test_one_line_says_what_the_generation_in_work_has(begun: RunDirectory) -> None:
    assert summary(read_progress(begun)) == ""
    begun.events.append(GenerationBegins(generation=1, n_samples=4))
    label(begun, "v1:a")
    assert summary(read_progress(begun)) == "sampled 0/4, labelled 1/4, 0 failed"


def test_what_former_runs_have_finished_counts_from_the_first_second(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=16))
    for index in range(7):
        begun.events.append(Sampled(name=f"g001-w{index:03d}-0", walker=index, rejections={}, stop=None))
        label(begun, f"v1:{index}")
    begun.events.append(CampaignBegins())
    progress = read_progress(begun)
    assert (progress.generation, progress.stage, progress.n_labels, progress.run_labels) == (1, "sampling", 7, 0)
    assert summary(progress) == "sampled 7/16, labelled 7/16, 0 failed"
    begun.events.append(GenerationBegins(generation=1, n_samples=16))
    label(begun, "v1:0", new=False)
    label(begun, "v1:7")
    progress = read_progress(begun)
    assert (progress.n_sampled, progress.n_labelled, progress.n_new, progress.n_found) == (7, 8, 1, 7)
    assert "1 new, 7 from the store" in rendered(progress)


def test_a_generation_that_is_tried_again_is_counted_anew(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=2))
    for index in range(2):
        begun.events.append(Rejected(name=f"g001-w{index:03d}-0", walker=index, rejections={"force": 3}, stop=None))
    begun.events.append(GenerationFails(generation=1))
    begun.events.append(CampaignFails(message="generation 1 brought no new label"))
    failed = read_progress(begun)
    assert (failed.n_rejected, failed.stops) == (2, {"force": 6})
    assert "generation 1 brought no new label\n" in rendered(failed)
    begun.events.append(CampaignBegins())
    begun.events.append(GenerationBegins(generation=1, n_samples=2))
    again = read_progress(begun)
    assert (again.n_rejected, again.stops, again.failure) == (0, {}, "")


def test_rejections_are_shown_with_the_guards_that_stopped_walkers(begun: RunDirectory) -> None:
    begun.events.append(GenerationBegins(generation=1, n_samples=3))
    begun.events.append(Sampled(name="a", walker=0, rejections={"energy_drift": 1}, stop=None))
    assert "sampled 1/3, stopped by guards (1 x energy drift), labelled" in summary(read_progress(begun))
    for n in (1, 2):
        begun.events.append(TryRejected(name="b", walker=1, reason="force"))
        stops = f"sampled 1/3, stopped by guards (1 x energy drift, {n} x force), labelled"
        assert stops in summary(read_progress(begun))
    begun.events.append(Rejected(name="b", walker=1, rejections={"force": 5}, stop=None))
    begun.events.append(NearDuplicate(name="a"))
    assert "1 rejected (1 x energy drift, 5 x force), labelled" in summary(read_progress(begun))
    assert "0 failed, 1 near-duplicate" in rendered(read_progress(begun))
    begun.events.append(Rejected(name="c", walker=1, rejections={"force": 5}, stop=None))
    assert read_progress(begun).stage == "evaluation"


def test_what_is_waited_for_shows_while_the_campaign_runs(begun: RunDirectory) -> None:
    text = "waiting for a job of slurm/gpu (PENDING: Resources)"
    begun.events.append(Waiting(message=text))
    assert text not in rendered(read_progress(begun))  # nobody waits any more
    with hold_lease(begun.lease):
        assert f"{text}\n" in rendered(read_progress(begun))
        begun.events.append(WaitingEnds(message="no longer waiting, after 60 s"))
        assert "waiting" not in rendered(read_progress(begun))
        begun.events.append(Waiting(message=text))
        begun.events.append(CampaignBegins())
        assert read_progress(begun).waiting == ""


def test_labels_of_isolated_atoms_are_told_apart_at_the_end(finished_campaign: RunDirectory) -> None:
    key = next(iter(finished_campaign.read_manifest(3)["labels"]))
    finished_campaign.events.append(CampaignBegins())
    label(finished_campaign, key)
    label(finished_campaign, "v1:of-an-atom")
    finished_campaign.events.append(CampaignComplete(reason="all 3 generations are complete"))
    progress = read_progress(finished_campaign)
    assert (progress.run_labels, progress.run_isolated) == (2, 1)


def test_epochs_are_told_with_their_most_where_the_model_has_one(begun: RunDirectory) -> None:
    content = read_json(begun.parameters)
    model = {"mace": {"max_num_epochs": 60}, "nequip": None}
    for given in (model, {"committee": {"member": model}}):
        write_json(begun.parameters, {**content, "parameters": {**content["parameters"], "model": given}})
        begun.events.append(GenerationBegins(generation=1, n_samples=1))
        begun.events.append(TrainingBegins())
        begun.events.append(EpochEnds(number=2, loss=0.5))
        assert summary(read_progress(begun)) == "epoch 3 of 60, loss 0.5"


def test_long_lines_go_on_in_the_next_row_of_a_live_display(finished_campaign: RunDirectory) -> None:
    console = Console(width=60, soft_wrap=True, force_terminal=True)
    options = console.options.update(no_wrap=True, overflow="ignore")  # as a console with soft wrap has them
    lines = console.render_lines(render(read_progress(finished_campaign)), options)
    rows = ["".join(segment.text for segment in line) for line in lines]
    assert "on the test set" in " ".join(" ".join(rows).split())
    assert max(map(len, rows)) <= 60


def test_a_campaign_is_read_with_its_newest_data_and_model(finished_campaign: RunDirectory) -> None:
    campaign = read_campaign(str(finished_campaign.path))
    assert (campaign.directory, campaign.progress) == (finished_campaign, read_progress(finished_campaign))
    assert campaign.newest is not None
    assert campaign.newest.number == 3
    assert campaign.newest.data.train.keys() == Dataset.load(finished_campaign.generation(3).set_file("train")).keys()
    assert campaign.newest.model.is_trained


def test_a_campaign_of_which_nothing_is_complete_has_no_newest_generation(begun: RunDirectory) -> None:
    assert read_campaign(begun.path).newest is None
