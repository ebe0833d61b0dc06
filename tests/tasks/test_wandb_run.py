import json
import math
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_campaign import SmallCampaign
from wandb_server import WandbServer

from surveyor.errors import InputError
from surveyor.events.kinds import EpochEnds, GenerationComplete, Sampled
from surveyor.files import read_json, write_json
from surveyor.models.history import report_epoch
from surveyor.models.model import Epoch
from surveyor.run_directory import RunDirectory
from surveyor.tasks.wandb_run import log_generation
from surveyor.tasks.wandb_session import Logged, Session, check_wandb
from surveyor.tasks.wandb_trainings import TrainingCurves
from surveyor.works.campaign import WandB

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
    return [record for run in runs(directory) for record in run]


def runs(directory: RunDirectory) -> list[list[Any]]:
    """Return all that was written for W&B by the folder of a run, in the order of the folders."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted((directory.path / "wandb").glob("offline-run-*/*.wandb"))
    return [[Record.FromString(content) for content in _contents(file)] for file in files]


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
            items = steps_of(record)
            assert items["_step"] not in steps
            steps[items["_step"]] = items
    return steps


def steps_of(record: Any) -> dict[str, Any]:
    """Return the values of a step by name."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def media(directory: RunDirectory, step: int, name: str) -> bytes:
    (path,) = (directory.path / "wandb").glob(f"offline-run-*/files/{history(directory)[step][f'{name}/path']}")
    return path.read_bytes()


def table(directory: RunDirectory, step: int, name: str) -> list[dict[str, Any]]:
    content = json.loads(media(directory, step, name))
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


class Trainings:
    """The trainings of a campaign, as one process after the other follows them."""

    def __init__(self, campaign: RunDirectory, path: Path) -> None:
        self.directory = RunDirectory(path)
        shutil.copytree(campaign.path, path, ignore=shutil.ignore_patterns("wandb*", "training"))
        self.members = [self.directory.generation(number).training / "members" / "0" for number in (0, 1)]
        self.begin()

    def begin(self) -> None:
        self.curves = TrainingCurves(self.directory, OFFLINE)

    def report(self, member: int, *epochs: Epoch, watched: bool = True) -> None:
        for epoch in epochs:
            report_epoch(self.members[member], epoch)
            if watched:
                self.curves.on_event(EpochEnds(number=epoch.number, training=str(self.members[member])))
                self.curves.on_event(Sampled(name="g001-w000-0"))

    def logged(self) -> dict[str, list[tuple[int, float]]]:
        """Return steps and losses that each run would have after `wandb sync`, by the names of the runs."""
        synced: dict[str, list[tuple[int, float]]] = {}
        for records in runs(self.directory):
            name = next(record.run.display_name for record in records if record.HasField("run"))
            steps = [steps_of(record) for record in records if record.HasField("history")]
            synced.setdefault(name, []).extend((step["_step"], step["valid/loss"]) for step in steps)
        return synced


OFFLINE = WandB(project="copper", mode="offline")
EPOCHS = [Epoch(n, 3.0 - n, 0.25, 0.5 if n else None, 0.01) for n in range(3)]
NAMES = [f"run/generations/00{n}/training/members/0" for n in (0, 1)]


@pytest.fixture
def wandb_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def trainings(campaign: RunDirectory, wandb_folders: Path) -> Trainings:
    return Trainings(campaign, wandb_folders / "run")


@pytest.mark.wandb
def test_epochs_are_logged_as_they_end_in_a_run_for_each_training(trainings: Trainings) -> None:
    trainings.report(0, *EPOCHS[:2])
    trainings.report(1, EPOCHS[0])
    trainings.curves.close()
    assert trainings.logged() == {NAMES[0]: [(0, 3.0), (1, 2.0)], NAMES[1]: [(0, 3.0)]}
    steps = [steps_of(record) for record in records(trainings.directory) if record.HasField("history")]
    assert {(each["valid/energy_rmse_meV_per_atom"], each["learning_rate"]) for each in steps} == {(250.0, 0.01)}
    assert [each.get("valid/forces_rmse_meV_per_A") for each in steps if each["_step"]] == [500.0]


@pytest.mark.wandb
def test_a_campaign_and_its_trainings_are_in_one_group_with_their_kinds_of_jobs(trainings: Trainings) -> None:
    trainings.report(0, EPOCHS[0])
    trainings.curves.close()
    log_generation(trainings.directory, 0, OFFLINE)
    kinds = {(r.run.run_group, r.run.job_type) for r in records(trainings.directory) if r.HasField("run")}
    assert kinds == {("run", "campaign"), ("run", "training")}


@pytest.mark.wandb
def test_an_epoch_that_a_training_repeats_after_its_restart_is_logged_once(trainings: Trainings) -> None:
    trainings.report(0, *EPOCHS[:2])
    trainings.report(0, EPOCHS[1], EPOCHS[2])
    trainings.curves.close()
    assert trainings.logged() == {NAMES[0]: [(0, 3.0), (1, 2.0), (2, 1.0)]}


@pytest.mark.wandb
def test_a_campaign_that_goes_on_has_whole_curves_without_repeated_epochs(trainings: Trainings) -> None:
    trainings.report(0, EPOCHS[0])
    trainings.curves.close()
    trainings.report(0, EPOCHS[1], watched=False)  # the worker went on after the campaign was killed
    trainings.begin()
    trainings.report(0, EPOCHS[2])
    trainings.curves.close()
    assert trainings.logged() == {NAMES[0]: [(0, 3.0), (1, 2.0), (2, 1.0)]}


@pytest.mark.wandb
def test_a_training_that_ended_while_no_campaign_watched_is_logged_once_it_goes_on(trainings: Trainings) -> None:
    trainings.report(1, *EPOCHS, watched=False)
    for _ in range(2):
        trainings.begin()
        trainings.curves.on_event(GenerationComplete(generation=1))
        trainings.curves.close()
    assert trainings.logged() == {NAMES[1]: [(0, 3.0), (1, 2.0), (2, 1.0)]}
    assert len(list((trainings.directory.path / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.wandb
def test_what_a_session_has_left_that_was_killed_is_replaced(trainings: Trainings) -> None:
    trainings.report(0, *EPOCHS[:2])
    trainings.curves.close()
    (trainings.directory.path / "wandb-trainings.json").unlink()  # as if it was killed before it wrote this
    trainings.begin()
    trainings.report(0, EPOCHS[2])
    trainings.curves.close()
    assert trainings.logged() == {NAMES[0]: [(0, 3.0), (1, 2.0), (2, 1.0)]}


@pytest.mark.wandb
def test_a_training_does_not_suffer_where_weights_and_biases_fails(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    trainings.report(0, *EPOCHS)
    trainings.curves.close()
    assert caplog.text.count("does not take the epochs") == 1


@pytest.mark.wandb
def test_a_run_is_continued_in_the_mode_and_the_group_that_are_asked_for(
    campaign: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    given: dict[str, Any] = {}

    def begin(**options: Any) -> None:
        given.update(options)
        raise Begun

    monkeypatch.setattr("wandb.init", begin)  # online it needs an account
    monkeypatch.setattr("surveyor.tasks.wandb_session._silence", lambda _: None)
    with pytest.raises(Begun):
        Session(campaign, WandB(project="copper", group="metals", mode="online"), "abc", "training", Logged())
    expected = {"project": "copper", "group": "metals", "mode": "online", "resume": "allow"}
    assert {name: given[name] for name in expected} == expected


@pytest.fixture
def no_key(wandb_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETRC", str(wandb_folders / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.mark.wandb
@pytest.mark.usefixtures("no_key")
def test_without_a_key_a_campaign_online_is_refused_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    check_wandb(OFFLINE)
    with WandbServer().running() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = python(CHECK)
    assert re.search(r"no API key for Weights & Biases. Run `wandb login`.*mode: offline", done.stderr)


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: wandb keeps the server that it was begun with."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def key(no_key: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")


@pytest.mark.wandb
@pytest.mark.usefixtures("key")
def test_where_no_server_answers_there_is_a_warning_and_the_run_is_kept_for_later(
    campaign: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(campaign.path, directory.path, ignore=shutil.ignore_patterns("wandb*"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    done = python(AWAY, directory.path)
    assert done.returncode == 0, done.stderr
    assert "The campaign goes on; what is not sent" in done.stderr
    assert "run is logged offline, for `wandb sync`" in done.stderr
    assert sorted(history(directory)) == [0, 1, 2, 3]


AWAY = """
import logging, sys
from pathlib import Path
from surveyor.works.campaign import WandB
from surveyor.run_directory import RunDirectory
from surveyor.tasks.wandb_run import log_generation
from surveyor.tasks.wandb_session import check_wandb
logging.basicConfig()
online = WandB(mode="online")
check_wandb(online)
log_generation(RunDirectory(Path(sys.argv[1])), 3, online)
"""


@pytest.mark.wandb
@pytest.mark.usefixtures("key")
def test_a_key_that_the_server_refuses_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer(refuses=True).running() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = python(CHECK)
    assert "InputError: wandb.mode: online, but the API key is of no use" in done.stderr


CHECK = """
from surveyor.works.campaign import WandB
from surveyor.tasks.wandb_session import check_wandb
check_wandb(WandB(mode="online"))
"""


@pytest.mark.wandb
@pytest.mark.usefixtures("key")
def test_offline_and_online_parts_of_a_training_are_one_curve_at_the_server(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs in (EPOCHS[:1], EPOCHS[1:2]):
        trainings.report(0, *epochs)
        trainings.curves.close()
        trainings.begin()
    folder = trainings.directory.path / "wandb"
    with WandbServer().running() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sync = [sys.executable, "-m", "wandb", "sync", "--yes", str(folder)]
        subprocess.run(sync, check=True, capture_output=True, cwd=trainings.directory.path)
        (curve,) = server.histories.values()
        assert [step["_step"] for step in curve] == [0, 1]
        trainings.report(0, EPOCHS[2], watched=False)
        done = python(GOES_ON, trainings.directory.path, trainings.members[0])
        assert done.returncode == 0, done.stderr
        assert [(step["_step"], step["valid/loss"]) for step in curve] == [(0, 3), (1, 2), (2, 1)]


@pytest.mark.wandb
@pytest.mark.usefixtures("key")
def test_a_campaign_that_was_logged_offline_arrives_at_the_server_with_its_tables(
    logged: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(logged.path / "wandb", tmp_path / "wandb", symlinks=True)
    with WandbServer().running() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sync = [sys.executable, "-m", "wandb", "sync", "--yes", "wandb"]
        subprocess.run(sync, check=True, capture_output=True, cwd=tmp_path)
    (curve,) = server.histories.values()
    assert [step["_step"] for step in curve] == sorted(history(logged))
    arrived = {name.partition("/")[2].removesuffix(".table.json") for name in server.tables}
    assert arrived == {name.removesuffix("/path") for name in history(logged)[3] if is_table(logged, name)}
    (walkers,) = (table for name, table in server.tables.items() if name.endswith("/walkers.table.json"))
    assert [dict(zip(walkers["columns"], row, strict=True)) for row in walkers["data"]] == table(logged, 3, "walkers")


def is_table(directory: RunDirectory, name: str) -> bool:
    return history(directory)[3].get(f"{name.removesuffix('/path')}/_type") == "table-file" and name.endswith("/path")


GOES_ON = """
import sys
from pathlib import Path
from surveyor.works.campaign import WandB
from surveyor.events.kinds import EpochEnds
from surveyor.run_directory import RunDirectory
from surveyor.tasks.wandb_trainings import TrainingCurves
curves = TrainingCurves(RunDirectory(Path(sys.argv[1])), WandB(project="copper", mode="online"))
curves.on_event(EpochEnds(number=2, training=sys.argv[2]))
curves.close()
"""


@pytest.mark.wandb
def test_each_generation_is_logged_once_at_its_step(logged: RunDirectory) -> None:
    """Those that an earlier call has not logged are logged by the next one."""
    assert sorted(history(logged)) == [0, 1, 2, 3]
    assert len(runs(logged)) == 2


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
    assert metrics["discarded"] == list(manifest["labels"].values()).count("discarded")
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
    for field in ("fate", "reason", "n_steps"):
        assert [row[field] for row in rows] == [walker.get(field) for walker in walkers]
    for field, unit in (("energy_error", "meV_per_atom"), ("forces_error", "meV_per_A")):
        assert [row[f"{field}_{unit}"] for row in rows] == [walker.get(field) for walker in walkers]
    assert [row["n_rejected"] for row in rows] == [len(walker.get("rejections", ())) for walker in walkers]
    assert not [name for name in rows[0] if name.startswith(("ramp", "window"))]


@pytest.mark.wandb
def test_walkers_are_listed_with_their_ramps_and_windows(campaign: RunDirectory, wandb_folders: Path) -> None:
    there = RunDirectory(wandb_folders / "run")
    shutil.copytree(campaign.path, there.path, ignore=shutil.ignore_patterns("wandb*"))
    manifest = read_json(there.generation(1).manifest)
    first = manifest["details"]["walkers"][0]
    first |= {"ramp": {"progress": 0.5, "pressure_MPa": 50.0}, "window": {"variable": "distance(0,1)", "centre": 2.5}}
    write_json(there.generation(1).manifest, manifest)
    log_generation(there, 1, OFFLINE)
    row, other, *_ = table(there, 1, "walkers")
    assert (row["ramp_progress"], row["ramp_pressure_MPa"]) == (0.5, 50.0)
    assert (row["window_variable"], row["window_centre"]) == ("distance(0,1)", 2.5)
    assert other["ramp_progress"] is None


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
    assert summary["trust"].startswith("600 K: too few to say (6 audits, expected 30)")


def test_without_wandb_the_message_says_how_to_install_it(
    campaign: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r'pip install "surveyor\[wandb\]"'):
        log_generation(campaign, 1, WandB())
