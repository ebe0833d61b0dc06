"""Two processes on one label store that want the same structures at once, with a real Prefect server."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml
from labelling_inputs import copper, counting, written
from object_stores import S3, SECRET
from prefect_server import post, prefect_environment
from processes import PATIENCE_S, wait_until
from slow_campaign import N_BOOTSTRAP, N_STATES, SlowCampaign

from surveyor.blocks.storages import S3Storage
from surveyor.labels import LabelStore
from surveyor.labels.claims import Claim
from surveyor.run_directory import RunDirectory
from surveyor.storage import key_of
from surveyor.testing.references import launches
from surveyor.works.summary import read_summary

N_STRUCTURES = 12

pytestmark = [pytest.mark.slow]


class Shared:
    """Labellings of the same structures, each by `surveyor label` in a process of its own, on one store.

    Args:
        folder: for their files.
        api_url: of the Prefect server.
        delay_s: how long each label takes.
        s3: where the store is; None for a folder.
        storage: block with the access to it; None for the access that the environment gives.
    """

    def __init__(
        self, folder: Path, api_url: str, delay_s: float, s3: S3 | None = None, storage: str | None = None
    ) -> None:
        self.folder, self.log = folder, folder / "launches.log"
        self.store = LabelStore.in_folder(folder / "labels") if s3 is None else LabelStore(s3.storage())
        self.environment = prefect_environment(folder / "prefect", api_url)
        if s3 is not None and storage is None:
            self.environment |= s3.environment
        written(folder / "copper.extxyz", copper(N_STRUCTURES))
        for name in ("one", "other"):
            fields = {"structures": "copper.extxyz", "output_directory": name, "chunk_size": 2}
            fields |= {"labels": str(self.store), "storage": storage, "reference": counting(self.log, delay_s)}
            text = yaml.safe_dump(fields)
            (folder / f"{name}.yaml").write_text(text)

    @contextmanager
    def running(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", "surveyor.flows.command_line", "label", f"{name}.yaml"]
        with (self.folder / f"{name}.txt").open("ab") as output:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.folder, stdout=output, stderr=output, start_new_session=True
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.printed)

    def printed(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("*.txt"))

    def events(self) -> list[tuple[str, str, int]]:
        """The event, the structure, and the process."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(event, structure, int(pid)) for event, structure, pid in map(str.split, lines)]

    def left_claims(self) -> set[int]:
        """The processes whose claims are left: killed between the end of their label and that of the claim."""
        storage, labelled = self.store.storage, set(self.store.keys())
        names = list(storage.list("claims/"))
        assert {key_of(name) for name in names} <= labelled
        return {Claim.read(name, storage.get(name) or b"").holder["pid"] for name in names}

    def begun_by(self, process: "subprocess.Popen[bytes]") -> list[str]:
        workers = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
        return [structure for event, structure, pid in self.events() if event == "begin" and pid in workers]


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest) -> S3 | None:
    """A place where labels are shared."""
    return request.getfixturevalue("s3") if request.param == "bucket" else None


def test_of_two_labellings_at_once_each_takes_the_labels_of_the_other(
    tmp_path: Path, prefect_api_url: str, prefect_home: Path, place: S3 | None
) -> None:
    storage = None if place is None else "s3/shared"
    if place is not None:
        S3Storage(**place.access.model_dump()).save("shared", overwrite=True)
    shared = Shared(tmp_path, prefect_api_url, 1.0, place, storage)
    with shared.running("one") as one, shared.running("other") as other:
        shared.wait_for(lambda: shared.begun_by(one) != [] and shared.begun_by(other) != [])
        assert one.wait(PATIENCE_S) == other.wait(PATIENCE_S) == 0, shared.printed()
    assert Counter(launches(shared.log)) == dict.fromkeys(launches(shared.log), 1)
    assert len(launches(shared.log)) == N_STRUCTURES
    for name in ("one", "other"):
        assert f"{N_STRUCTURES} of {N_STRUCTURES} structures labelled" in (tmp_path / f"{name}.txt").read_text()
    assert sum(read_summary(RunDirectory(tmp_path / name))["n_new"] for name in ("one", "other")) == N_STRUCTURES
    assert list(shared.store.storage.list("claims/")) == []
    if place is not None:
        assert files_with(SECRET, tmp_path) == files_with(SECRET, prefect_home) == []
        runs = post(prefect_api_url, "flow_runs/filter", {})
        assert str(shared.store) in str(runs)  # that is where it would be
        assert SECRET not in str(runs)


def files_with(secret: str, folder: Path) -> list[Path]:
    """Return the files that hold a secret, those of databases and logs included."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if secret.encode() in path.read_bytes()]


def test_what_one_had_in_flight_when_it_was_killed_the_other_takes_over(
    tmp_path: Path, prefect_api_url: str, place: S3 | None
) -> None:
    shared = Shared(tmp_path, prefect_api_url, 1.5, place)
    with shared.running("one") as one, shared.running("other") as other:
        shared.wait_for(lambda: shared.begun_by(one) != [] and shared.begun_by(other) != [])
        shared.wait_for(lambda: len(launches(shared.log, "end")) >= 3)
        workers = {each.pid for each in psutil.Process(other.pid).children(recursive=True)}
        os.killpg(other.pid, signal.SIGKILL)  # with its workers: what they have begun ends nowhere
        assert one.wait(PATIENCE_S) == 0, shared.printed()
    assert f"{N_STRUCTURES} of {N_STRUCTURES} structures labelled" in (tmp_path / "one.txt").read_text()
    assert len([*shared.store.keys()]) == N_STRUCTURES
    first: dict[str, int] = {}
    for event, structure, pid in shared.events():
        if event == "begin":
            assert first.setdefault(structure, pid) == pid or first[structure] in workers
    assert len(first) == N_STRUCTURES
    in_flight = {name for name, n in Counter(launches(shared.log)).items() if n > 1}
    # What ended as its worker was killed may not have come to the store; but no worker has more than one in hand.
    assert len({first[name] for name in in_flight}) == len(in_flight) <= len(workers)
    assert len(launches(shared.log)) == N_STRUCTURES + len(in_flight)
    assert shared.left_claims() <= workers


@pytest.mark.long  # labellings share a store as campaigns do
def test_two_campaigns_at_once_compute_each_label_once(tmp_path: Path, prefect_api_url: str, place: S3 | None) -> None:
    store = None if place is None else f"{place.new_bucket()}/labels"
    campaigns = [SlowCampaign(tmp_path / name, prefect_api_url, delay_s=0.3) for name in ("one", "other")]
    for campaign in campaigns:
        fields = yaml.safe_load((campaign.folder / "campaign.yaml").read_text())
        fields["labels"] = str(tmp_path / "labels") if place is None else store
        campaign.environment |= {} if place is None else place.environment
        fields["learning"]["n_generations"] = 1
        fields["reference"] = counting(tmp_path / "launches.log", 0.3)
        (campaign.folder / "campaign.yaml").write_text(yaml.safe_dump(fields))
    with campaigns[0].running() as one, campaigns[1].running() as other:
        for process in (one, other):
            assert process.wait(PATIENCE_S) == 0, "\n".join(each.output.read_text() for each in campaigns)
    counts = Counter(launches(tmp_path / "launches.log"))
    assert set(counts.values()) == {1}
    assert len(counts) == 1 + N_BOOTSTRAP + N_STATES
