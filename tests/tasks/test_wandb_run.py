import json
import math
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_campaign import SmallCampaign

from surveyor.campaign import WandB
from surveyor.errors import InputError
from surveyor.events.kinds import EpochEnds, Sampled
from surveyor.run_directory import RunDirectory
from surveyor.tasks.wandb_run import TrainingCurves, log_generation

pytestmark = [
    # wandb leaves its temporary folders to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]

HEADER = 7  # bytes of the file before its records
BLOCK = 32768  # bytes; a record does not reach from one block into the next, but is continued there


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return SmallCampaign(tmp_path_factory.mktemp("campaign")).run()


@pytest.fixture(scope="module")
def logged(campaign: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The campaign after its bootstrap was logged, and its last generation twice."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE", "DATA", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp(name)))
        for number in (0, 3, 3):
            log_generation(campaign, number, WandB(project="copper", mode="offline"))
    return campaign


def records(directory: RunDirectory) -> list[Any]:
    """Return all that was written for W&B, in order."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted((directory.path / "wandb").glob("offline-run-*/*.wandb"))
    return [Record.FromString(content) for file in files for content in _contents(file)]


def _contents(path: Path) -> Iterator[bytes]:
    # A log as LevelDB writes it: chunks with checksum, length and kind (1 whole, 2 first, 3 middle, 4 last).
    data, position, content = path.read_bytes(), HEADER, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        content += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield content
            content = b""


def history(directory: RunDirectory) -> dict[int, dict[str, Any]]:
    steps: dict[int, dict[str, Any]] = {}
    for record in records(directory):
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            steps[items["_step"]] = items
    return steps


def media(directory: RunDirectory, step: int, name: str) -> bytes:
    (path,) = (directory.path / "wandb").glob(f"offline-run-*/files/{history(directory)[step][f'{name}/path']}")
    return path.read_bytes()


def table(directory: RunDirectory, step: int, name: str) -> list[dict[str, Any]]:
    content = json.loads(media(directory, step, name))
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


@pytest.mark.wandb
def test_epochs_are_logged_as_they_end_in_a_run_for_each_training(
    campaign: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(campaign.path, directory.path)
    curves = TrainingCurves(directory, WandB(project="copper", mode="offline"))
    members = [directory.generation(number).training / "members" / "0" for number in (0, 1)]
    for training, number, loss in ((members[0], 0, 3.0), (members[0], 1, 2.0), (members[1], 0, 1.0)):
        errors = {"energy_rmse": 0.25, "forces_rmse": 0.5 if number else None, "learning_rate": 0.01}
        report = {"number": number, "loss": loss, **errors, "training": str(training)}
        curves.tell(EpochEnds(**report))
        curves.tell(Sampled(name="g001-w000-0"))
    curves.close()
    runs = [record.run for record in records(directory) if record.HasField("run")]
    assert {run.run_group for run in runs} == {"run"}
    assert {run.display_name for run in runs} == {f"run/generations/00{n}/training/members/0" for n in (0, 1)}
    logged = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records(directory)
        if record.HasField("history")
    ]
    logged.sort(key=lambda each: -each["loss"])  # runs that begin in one second are in any order
    assert [(each["_step"], each["loss"]) for each in logged] == [(0, 3.0), (1, 2.0), (0, 1.0)]
    assert {(each["energy_rmse_meV_per_atom"], each["learning_rate"]) for each in logged} == {(250.0, 0.01)}
    assert [each.get("forces_rmse_meV_per_A") for each in logged] == [None, 500.0, None]


@pytest.mark.wandb
def test_a_training_does_not_suffer_where_weights_and_biases_fails(
    campaign: RunDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    curves = TrainingCurves(campaign, WandB(project="copper", mode="offline"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    for _ in range(2):
        curves.tell(EpochEnds(number=0, loss=1.0, training=str(campaign.generation(0).training)))
    assert caplog.text.count("does not take the epochs") == 1


@pytest.mark.wandb
def test_a_run_is_continued_in_the_mode_and_the_group_that_are_asked_for(
    campaign: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("wandb.init", lambda **options: given.update(options))  # online it needs an account
    curves = TrainingCurves(campaign, WandB(project="copper", group="metals", mode="online"))
    curves.tell(EpochEnds(number=0, loss=1.0, training=str(campaign.generation(0).training)))
    expected = {"project": "copper", "group": "metals", "mode": "online", "resume": "allow"}
    assert {name: given[name] for name in expected} == expected


@pytest.mark.wandb
def test_each_generation_is_logged_once_at_its_step(logged: RunDirectory) -> None:
    assert sorted(history(logged)) == [0, 3]
    assert len([record for record in records(logged) if record.HasField("history")]) == 2


@pytest.mark.wandb
def test_metrics_are_those_of_the_manifest(logged: RunDirectory) -> None:
    manifest, metrics = logged.read_manifest(3), history(logged)[3]
    units = {"energy": "meV_per_atom", "forces": "meV_per_A", "stress": "meV_per_A3"}
    fields = [f"{name}_{kind}" for name in units for kind in ("rmse", "mae")]
    for when, errors in (("before_training", manifest["before_training"]), *manifest["errors"].items()):
        for field in (*fields, "energy_offset", "energy_rmse_without_offset"):
            unit = units[field.partition("_")[0]]
            assert metrics[f"{when}/{field}_{unit}"] == pytest.approx(1e3 * errors[field])
    assert metrics["labels"] == manifest["n_labels"]
    assert metrics["failures/scf_not_converged"] == 1
    details = manifest["details"]
    assert metrics["epochs"] == details["epochs"]
    assert metrics["resets"] == [walker["fate"] for walker in details["walkers"]].count("reset")
    for stage, seconds in details["wall_time_s"].items():
        assert metrics[f"wall_time_s/{stage}"] == seconds


@pytest.mark.wandb
def test_a_campaign_is_one_run_with_the_parameters_as_its_configuration(logged: RunDirectory) -> None:
    runs = [record.run for record in records(logged) if record.HasField("run")]
    assert len({run.run_id for run in runs}) == 1
    assert {run.project for run in runs} == {"copper"}
    config = {update.key: json.loads(update.value_json) for update in runs[0].config.update}
    assert config["learning"]["n_generations"] == 3


@pytest.mark.wandb
def test_tables_list_structures_and_walkers(logged: RunDirectory) -> None:
    manifest = logged.read_manifest(3)
    train = table(logged, 3, "structures/train")
    assert {row["label_key"] for row in train} == {k for k, fate in manifest["labels"].items() if fate == "train"}
    rmse = math.sqrt(sum(row["energy_error_meV_per_atom"] ** 2 for row in train) / len(train))
    assert rmse == pytest.approx(1e3 * manifest["errors"]["train"]["energy_rmse"])
    assert [row["reason"] for row in table(logged, 3, "structures/failed")] == ["scf_not_converged"] * 3
    walkers = manifest["details"]["walkers"]
    rows = table(logged, 3, "walkers")
    for field in ("fate", "reason", "n_steps", "energy_error", "forces_error"):
        assert [row[field] for row in rows] == [walker.get(field) for walker in walkers]
    assert [row["n_rejected"] for row in rows] == [len(walker.get("rejections", ())) for walker in walkers]


@pytest.mark.wandb
def test_figures_are_logged_as_images(logged: RunDirectory) -> None:
    assert media(logged, 3, "figures/parity").startswith(b"\x89PNG")


@pytest.mark.wandb
def test_errors_on_the_final_test_set_are_in_the_summary(logged: RunDirectory) -> None:
    summary: dict[str, Any] = {}
    for record in records(logged):
        if record.HasField("summary"):
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    expected = json.loads(logged.comparison.read_text())["errors"]["0"]["energy_rmse"]
    assert summary["final_test_set/generation_0/energy_rmse_meV_per_atom"] == pytest.approx(1e3 * expected)


def test_without_wandb_the_message_says_how_to_install_it(
    campaign: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r'pip install "surveyor\[wandb\]"'):
        log_generation(campaign, 1, WandB())
