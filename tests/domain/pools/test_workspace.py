"""What calls on workers that do not see the folder of the work need and leave; and what survives kills and faults."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dict_storage import DictStorage
from processes import PATIENCE_S, wait_until
from remote_work import learn

from surveyor.errors import InputError, StorageFailed, TrainingFailed, WorkerLost
from surveyor.events.log import EventLog
from surveyor.pools.reporting import ReportingExecutor
from surveyor.pools.sites import SchedulerSite
from surveyor.pools.submission import SubmitOptions, submit_with
from surveyor.pools.workspace import remote_call, workspace
from surveyor.pools.workspace.bucket_files import OBJECTS, Manifest
from surveyor.pools.workspace.workspace import Border, Workspace


class Unusable(Executor):
    """A pool on which nothing must be called."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise AssertionError("called")


class Losing(Executor):
    """A pool whose worker is lost after the call has ended, as its answer does not arrive."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        function(*args, **kwargs)
        lost: Future[Any] = Future()
        lost.set_exception(WorkerLost("its worker died"))
        return lost


@dataclass
class Scene:
    """The folder of work with its bucket, and a folder that everybody sees."""

    path: Path
    storage: DictStorage = field(default_factory=DictStorage)
    checkpoint_s: float = 0.02
    opened: list[Workspace] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path / "run"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def control(self) -> Path:
        return self.path / "control"

    def workspace(self, pool: Executor) -> Workspace:
        """Return the workspace of a flow that was just started."""
        self.opened.append(Workspace(pool, Border("dask/far", self.storage, self.folder, self.checkpoint_s)))
        return self.opened[-1]

    def learn(self, pool: Executor, **options: Any) -> Future[Path]:
        outputs = f"{self.folder / 'training'}/", f"{self.model}/"
        executor = ReportingExecutor(self.workspace(pool), self.folder / "events")
        places = self.path / "start", self.folder / "training", self.model
        submit = SubmitOptions("learn", outputs=outputs, continues=True)
        return submit_with(executor, submit, learn, *places, control=self.control, **{"n_epochs": 3, **options})

    def epochs(self) -> list[int]:
        path = self.control / "epochs"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def left(self) -> list[str]:
        """Names of objects other than what the flow has sent."""
        return [name for name in self.storage.list("") if not name.startswith(f"{OBJECTS}/")]

    def kept(self) -> list[bytes | None]:
        """Contents of the files in the newest checkpoint."""
        (newest,) = [name for name in self.left() if "/checkpoints/" in name][-1:] or [""]
        content = self.storage.get(newest)
        return [self.storage.get(name) for name in Manifest.from_json(content).files.values()] if content else []

    def events(self) -> list[str]:
        paths = (self.folder / "events").glob("*.jsonl")
        return [event.message for path in paths for event in EventLog(path).read()[0]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(workspace, "LOOK_S", 0.05)
    for name in ("run", "control", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr("surveyor.pools.reporting._this_process", iter(f"host-{n}" for n in range(99)).__next__)
    (tmp_path / "start").write_bytes(b"begun ")
    scene = Scene(tmp_path)
    yield scene
    for each in scene.opened:
        each.shutdown()


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def test_a_call_leaves_its_files_events_and_result_where_the_flow_is(scene: Scene, pool: Executor) -> None:
    assert scene.learn(pool).result(PATIENCE_S) == scene.model / "model"
    assert (scene.model / "model").read_bytes() == b"begun 3"
    assert (scene.folder / "training" / "state").read_text() == "3"
    assert scene.events() == [f"epoch {epoch} in {scene.folder / 'training'}" for epoch in range(3)]
    assert scene.left() == []
    assert not [*(scene.path / "tmp").glob("surveyor-call-*")]


def test_what_a_flow_sees_meanwhile_are_events(scene: Scene, pool: Executor) -> None:
    (scene.control / "wait-2").touch()
    future = scene.learn(pool)
    wait_until(lambda: len(scene.events()) == 2, lambda: str(scene.events()))
    assert not (scene.folder / "training").exists()
    (scene.control / "wait-2").unlink()
    future.result(PATIENCE_S)
    assert len(scene.events()) == 3


def test_files_are_sent_once_and_again_only_with_another_content(scene: Scene, pool: Executor) -> None:
    scene.learn(pool).result(PATIENCE_S)
    sent = [*scene.storage.list("")]
    shutil.rmtree(scene.model)
    shutil.rmtree(scene.folder / "training")
    scene.learn(pool).result(PATIENCE_S)
    assert [*scene.storage.list("")] == sent
    (scene.path / "start").write_bytes(b"another ")
    shutil.rmtree(scene.model)
    scene.learn(pool).result(PATIENCE_S)
    assert (scene.model / "model").read_bytes() == b"another 3"


def test_the_next_attempt_continues_from_the_newest_checkpoint(scene: Scene, pool: Executor) -> None:
    (scene.control / "wait-2").touch()
    scene.learn(pool)
    wait_until(lambda: b"2" in scene.kept(), lambda: str(scene.left()))
    other = Scene(scene.path, DictStorage())
    other.storage.contents = dict(scene.storage.contents)  # as a machine that died then has left them
    (scene.control / "wait-2").unlink()
    assert other.learn(pool).result(PATIENCE_S).read_bytes() == b"begun 3"
    assert scene.epochs().count(0) == scene.epochs().count(1) == 1
    other.opened[-1].shutdown()


def test_a_flow_that_is_started_again_finds_what_has_ended_meanwhile(scene: Scene) -> None:
    with pytest.raises(WorkerLost):
        scene.learn(Losing()).result(PATIENCE_S)
    assert not scene.model.exists()
    assert scene.learn(Unusable()).result(PATIENCE_S).read_bytes() == b"begun 3"
    assert scene.epochs() == [0, 1, 2]
    assert len(scene.events()) == 3
    assert scene.left() == []


def test_a_flow_may_be_killed_at_any_moment_while_it_brings_files(
    scene: Scene, pool: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "LOOK_S", PATIENCE_S)
    (scene.control / "wait-2").touch()
    lost = pool.submit(lambda: scene.learn(Losing()).result(PATIENCE_S))
    wait_until(lambda: b"2" in scene.kept(), lambda: str(scene.left()), PATIENCE_S)  # there is a checkpoint to remove
    (scene.control / "wait-2").unlink()
    with pytest.raises(WorkerLost):
        lost.result(PATIENCE_S)
    scene.opened[-1].shutdown()
    contents, n_objects, before = dict(scene.storage.contents), len(scene.left()), scene.path / "before"
    assert n_objects > 3
    scene.folder.rename(before)
    for n_removed in range(n_objects):
        scene.storage.contents = dict(contents)
        shutil.rmtree(scene.folder, ignore_errors=True)
        shutil.copytree(before, scene.folder)
        with monkeypatch.context() as patch:
            patch.setattr(DictStorage, "remove", deadly(n_removed))
            with pytest.raises(Killed):
                scene.learn(Unusable())
        assert scene.learn(Unusable()).result(PATIENCE_S).read_bytes() == b"begun 3"
        assert len(scene.events()) == 3
        assert scene.left() == []


class Killed(BaseException):
    """The end of a process."""


def deadly(n_removed: int) -> Callable[[DictStorage, str], None]:
    """Return an operation of a storage at which a process is killed after a number of objects."""
    left = [n_removed]

    def remove(storage: DictStorage, name: str) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        storage.contents.pop(name)

    return remove


def test_what_had_ended_before_its_worker_was_lost_is_not_called_again(scene: Scene) -> None:
    class Late(Executor):
        """A pool that is given a call which ends before it begins there."""

        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            function(*args, **kwargs)
            again: Future[Any] = Future()
            again.set_result(function(*args, **kwargs))
            return again

    scene.checkpoint_s = PATIENCE_S
    assert scene.learn(Late()).result(PATIENCE_S) == scene.model / "model"
    assert scene.epochs() == [0, 1, 2]


def test_what_somebody_has_removed_is_computed_again(scene: Scene, pool: Executor) -> None:
    with pytest.raises(WorkerLost):
        scene.learn(Losing()).result(PATIENCE_S)
    for name in scene.left():
        if "/files/" in name:
            scene.storage.remove(name)
    assert scene.learn(pool).result(PATIENCE_S).read_bytes() == b"begun 3"


def test_finished_files_are_sent_back_rather_than_computed_again(scene: Scene, pool: Executor) -> None:
    scene.learn(pool).result(PATIENCE_S)
    assert scene.learn(pool).result(PATIENCE_S) == scene.model / "model"
    assert scene.epochs() == [0, 1, 2]


def test_a_failure_names_paths_of_the_flow_and_leaves_its_files_there(scene: Scene, pool: Executor) -> None:
    with pytest.raises(TrainingFailed) as failure:
        scene.learn(pool, fails=True).result(PATIENCE_S)
    state = scene.folder / "training" / "state"
    assert str(failure.value) == f"no model, see {state} and {scene.path / 'start'} (see {state.parent})"
    assert state.read_text() == "3"
    assert len(scene.events()) == 3
    assert scene.left() == []


def test_a_folder_without_stated_outputs_is_refused(scene: Scene) -> None:
    with pytest.raises(
        InputError, match=r"pool dask/far: its workers do not see .*/run, and .* was to work in .*/points"
    ):
        scene.workspace(Unusable()).submit(print, scene.folder / "points")


def test_a_file_that_was_changed_in_the_bucket_is_refused(scene: Scene, pool: Executor) -> None:
    scene.workspace(pool).submit(Path.read_bytes, scene.path / "start").result(PATIENCE_S)
    shutil.rmtree(next((scene.path / "tmp").glob("surveyor-objects-*")))
    (name,) = scene.storage.list(OBJECTS)
    scene.storage.contents[name] = b"evil"
    with pytest.raises(OSError, match="is not the one that was written"):
        scene.workspace(pool).submit(Path.read_bytes, scene.path / "start").result(PATIENCE_S)
    scene.storage.remove(name)
    workspace = scene.workspace(pool)
    workspace._sent.known = {name.rpartition("/")[2]}
    with pytest.raises(StorageFailed, match="leave the bucket alone while work runs"):
        workspace.submit(Path.read_bytes, scene.path / "start").result(PATIENCE_S)


def test_a_call_is_cancelled_with_its_future(scene: Scene) -> None:
    waiting: Future[Any] = Future()

    class Waiting(Executor):
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return waiting

    future = scene.workspace(Waiting()).submit(abs, -1)
    assert future.cancel()
    assert waiting.cancelled()
    with pytest.raises(CancelledError):
        future.result(PATIENCE_S)


def test_the_files_of_a_killed_worker_are_removed_by_the_next(scene: Scene, pool: Executor, monkeypatch: Any) -> None:
    left = scene.path / "tmp" / f"{remote_call.FOLDERS}killed"
    left.mkdir()
    (left / ".lock").touch()
    monkeypatch.setattr(remote_call, "OLD_S", 0.0)
    scene.workspace(pool).submit(abs, -1).result(PATIENCE_S)
    assert not left.exists()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"storage": "s3/minio"}, "expected a bucket in workspace"),
        ({"storage": "gcs/minio", "workspace": "s3://bucket"}, "expected a block of kind s3 for s3://bucket"),
        ({"storage": "s3/minio", "workspace": "s3://bucket"}, r"expected an encrypted address \(tls://\)"),
        ({"workspace": "/scratch"}, "expected a folder, or a bucket"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, str], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        SchedulerSite.model_validate({"address": "tcp://127.0.0.1:8786", **fields})
