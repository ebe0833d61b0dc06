"""Pools whose workers do not see the folder of the work: their inputs and outputs go through a bucket.

Files that a call names travel by their content. The files that it writes are declared at its submission; they are
brought into the folder before the call counts as done, and so are its events. The bucket has them from the moment when
they are written until the flow has brought them. A flow that is started again finds there what has ended since, and
what is under way continues there from its newest checkpoint.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from surveyor.errors import InputError, PoolFailed, WorkerLost
from surveyor.files import make_folder, outlast, publish, synchronize
from surveyor.pools.submission import SubmitOptions, submit_with
from surveyor.pools.transport import name_of
from surveyor.pools.workspace.bucket_files import CALLS, OBJECTS, CallObjects, Manifest, ObjectLost, digest_of, fetch
from surveyor.pools.workspace.remote_call import EVENTS, REMEDY, RemoteCall, files_beginning
from surveyor.pools.workspace.travel import FILE, PLACE, Mark, pack_paths, unpack_paths
from surveyor.storage import Storage

P = ParamSpec("P")
T = TypeVar("T")

LOOK_S = 5.0  # how often events of calls under way are looked for
N_AT_ONCE = 8  # files that are sent or brought at once
ARRIVING = ".arriving-"  # beginning of the names of folders for files that are being brought
TAIL = 1_000_000  # bytes at the end of a file of events in which repeated ones are looked for

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Border:
    """The connection of a pool to the disk of the flow, which its workers do not see.

    Attributes:
        name: name of the pool, for messages.
        storage: part of a bucket that is the work's and the pool's own.
        folder: folder of the work.
        checkpoint_s: time in seconds between two checkpoints of a call.
    """

    name: str
    storage: Storage
    folder: Path
    checkpoint_s: float


@dataclass(slots=True)
class _Sent:
    """The files of the flow that are in the bucket."""

    digests: dict[tuple[Path, int, int], str] = field(default_factory=dict)
    known: set[str] | None = None


class Workspace(Executor):
    """An executor before a pool whose workers do not see the folder of the work.

    Args:
        executor: the pool.
        border: what the two sides have in common.
    """

    def __init__(self, executor: Executor, border: Border) -> None:
        self._executor, self._border = executor, border
        self._sent = _Sent()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(N_AT_ONCE, "workspace")
        self._under_way: set[CallObjects] = set()
        self._closed = threading.Event()
        self._listener: threading.Thread | None = None

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a function; see `concurrent.futures.Executor.submit`."""
        return self.submit_with(SubmitOptions(), function, *args, **kwargs)

    def submit_with(
        self, options: SubmitOptions, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Submit a function under options; if it has ended meanwhile, fetch its results.

        Raises:
            InputError: an argument cannot travel, or is a folder for which no outputs are declared.
            StorageFailed: the bucket cannot be used for a while.
        """
        call, future = self._call(options, function, args, kwargs), Future[T]()
        if (ended := self._ended(call)) is not None:
            with suppress(WorkerLost):  # somebody has removed a part of it: then it is called again
                future.set_result(self._bring(call, ended))
                return future
            self._border.storage.remove(call.objects.manifest)
        self._listen(call)
        try:
            under_way = submit_with(self._executor, options, call)
        except BaseException:
            self._under_way.discard(call.objects)
            raise
        future.add_done_callback(lambda done: under_way.cancel() if done.cancelled() else None)
        under_way.add_done_callback(lambda done: self._hand_over(call, done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop listening; the pool stays open."""
        self._closed.set()
        if self._listener is not None:
            self._listener.join()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def clean(self) -> None:
        """Remove all that is in the bucket."""
        with ThreadPoolExecutor(N_AT_ONCE) as threads, suppress(OSError):
            list(threads.map(self._border.storage.remove, self._border.storage.list("")))

    def _call(
        self, options: SubmitOptions, function: Callable[..., object], args: Any, kwargs: Any
    ) -> RemoteCall:  # Any: see `submit`
        border, name = self._border, name_of(function)
        outputs = [self._below(Path(each)) + "/" * each.endswith("/") for each in options.outputs]
        packed = pack_paths((function, args, kwargs), f"the call of {name}", lambda path: self._mark(path, options))
        continues = options.continues and options.key is not None
        files = {
            self._below(path): f"{OBJECTS}/{self._send(path)}"
            for beginning in (outputs if continues else ())
            for path in files_beginning(border.folder, beginning)
        }
        objects = CallObjects(digest_of((options.key or uuid4().hex).encode()))
        folder, checkpoint_s = str(border.folder), border.checkpoint_s
        return RemoteCall(name, packed, border.storage, objects, folder, tuple(outputs), files, continues, checkpoint_s)

    def _below(self, path: Path) -> str:
        return str(path.relative_to(self._border.folder))

    def _mark(self, path: Path, options: SubmitOptions) -> Mark | None:
        """Return the mark of a path in a call: a place below the folder of the work, or the content of a file."""
        folder, text = self._border.folder, str(path)
        is_inside = path.is_relative_to(folder)
        if path == folder / EVENTS or any(
            f"{text}/".startswith(each) or text.startswith(each) for each in options.outputs
        ):
            return PLACE, self._below(path)
        if path.is_absolute() and path.is_file():
            return FILE, self._send(path), path.name, text
        if not is_inside:
            return None
        if not any(each.startswith(f"{text}/") for each in options.outputs):
            raise InputError(
                f"pool {self._border.name}: its workers do not see {folder}, and a function was to work in {text} "
                "there without a statement of its outputs; use a pool that sees the folder for this stage"
            )
        return PLACE, self._below(path)

    def _send(self, path: Path) -> str:
        """Send a file unless the bucket has its content, and return the hash of that."""
        storage, status = self._border.storage, path.stat()
        identity = path, status.st_mtime_ns, status.st_size
        if (digest := self._sent.digests.get(identity)) is not None:
            return digest
        content = path.read_bytes()
        digest, problem = digest_of(content), f"{path} cannot be sent to {storage}"
        with self._lock:
            if self._sent.known is None:
                names = outlast(lambda: [*storage.list(f"{OBJECTS}/")], problem, REMEDY)
                self._sent.known = {name.rpartition("/")[2] for name in names}
        if digest not in self._sent.known:
            outlast(lambda: storage.put_new(f"{OBJECTS}/{digest}", content), problem, REMEDY)
            self._sent.known.add(digest)
        self._sent.digests[identity] = digest
        return digest

    def _ended(self, call: RemoteCall) -> Manifest | None:
        """Return the manifest of a call that has ended since a former flow was killed; None for another call."""
        if not call.continues:
            return None
        storage, name = self._border.storage, call.objects.manifest
        content = outlast(lambda: storage.get(name), f"{storage} cannot be read", REMEDY)
        return None if content is None else Manifest.from_json(content)

    def _hand_over(self, call: RemoteCall, under_way: Future[bytes], future: Future[T]) -> None:
        """Hand the outcome of a call over, in a thread: the one that calls this serves all calls of the pool."""
        if self._closed.is_set():
            future.cancel()
            return
        with suppress(RuntimeError):  # closed in this moment
            self._threads.submit(self._settle, call, under_way, future)

    def _settle(self, call: RemoteCall, under_way: Future[bytes], future: Future[T]) -> None:
        """Hand the outcome of a call over, after all that it has left is in the folder of the work."""
        if under_way.cancelled() or not future.set_running_or_notify_cancel():
            self._under_way.discard(call.objects)
            future.cancel()
            return
        try:
            result = self._outcome(call, under_way)
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            self._under_way.discard(call.objects)

    def _outcome(self, call: RemoteCall, under_way: Future[bytes]) -> Any:  # Any: whatever the function returns
        try:
            content = under_way.result()
        except (WorkerLost, PoolFailed):
            raise  # the next attempt continues from the newest checkpoint
        except Exception:
            self._bring_failure(call)
            raise
        return self._bring(call, Manifest.from_json(content))

    def _bring_failure(self, call: RemoteCall) -> None:
        """Fetch the files and events of a failed call, so that the folder of the work has all there are."""
        storage = self._border.storage
        with suppress(OSError, ObjectLost):  # the failure says more
            names = [*storage.list(call.objects.folder)]
            self._take_events(names)
            for name in [each for each in names if each.startswith(call.objects.checkpoints)][-1:]:
                self._bring_files(call, Manifest.from_json(storage.get(name) or b""))
            self._remove(call, names)

    def _bring(self, call: RemoteCall, manifest: Manifest) -> Any:  # Any: whatever the function returns
        """Fetch the results of a call into the folder of the work, and return its value.

        Raises:
            WorkerLost: something of it is gone.
        """
        storage = self._border.storage
        try:
            problem = f"what {call.name} has left in {storage} cannot be brought"
            outlast(lambda: self._bring_all(call, manifest), problem, REMEDY)
        except ObjectLost as error:
            raise WorkerLost(f"what {call.name} has left is gone: {error}") from error
        return unpack_paths(manifest.value, self._path)

    def _bring_all(self, call: RemoteCall, manifest: Manifest) -> None:
        self._bring_files(call, manifest)
        names = [*self._border.storage.list(call.objects.folder)] if manifest.has_objects else []
        self._take_events(names)
        for process, text in manifest.events.items():
            self._append(process, text)
        self._remove(call, names)

    def _path(self, mark: Mark) -> Path:
        return self._border.folder / mark[1] if mark[0] == PLACE else Path(mark[1])

    def _bring_files(self, call: RemoteCall, manifest: Manifest) -> None:
        folder = self._border.folder
        arriving = folder / f"{ARRIVING}{uuid4().hex}"
        for path, name in manifest.files.items():
            if not _is_there(folder / path, name):
                fetch(self._border.storage, name, arriving / path)
        for beginning in call.outputs:
            _publish(arriving, folder, beginning)
        for path in call.files.keys() - manifest.files.keys():
            (folder / path).unlink(missing_ok=True)
        rmtree(arriving, ignore_errors=True)

    def _remove(self, call: RemoteCall, names: list[str]) -> None:
        """Remove objects of a call but its events, which are removed as they are taken.

        The manifest is the last: a flow that is killed on the way finds it again.
        """
        left = [name for name in names if not name.startswith(call.objects.events)]
        for name in sorted(left, key=lambda name: name == call.objects.manifest):
            self._border.storage.remove(name)

    def _listen(self, call: RemoteCall) -> None:
        with self._lock:
            self._under_way.add(call.objects)
            if self._listener is None:
                self._listener = threading.Thread(target=self._keep_listening, name="workspace events", daemon=True)
                self._listener.start()

    def _keep_listening(self) -> None:
        while not self._closed.wait(LOOK_S):
            with suppress(OSError):  # the bucket is away, or the disk is full: it is tried again
                if self._under_way:
                    self._take_events([*self._border.storage.list(f"{CALLS}/")])

    def _take_events(self, names: list[str]) -> None:
        """Append the events in objects to the files of their processes, and remove the objects."""
        for name in names:
            _, _, kind, *rest = name.split("/")
            content = self._border.storage.get(name) if kind == EVENTS and len(rest) == 2 else None
            if content is not None:
                self._append(rest[0], content.decode())
                self._border.storage.remove(name)

    def _append(self, process: str, text: str) -> None:
        """Append lines to the events of a process, unless they are there: a flow may be killed after that."""
        path = self._border.folder / EVENTS / f"{process}.jsonl"
        with self._lock:
            make_folder(path.parent)
            with path.open("a+b") as file:
                file.seek(max(0, file.tell() - TAIL))
                if text.encode() not in file.read():
                    file.write(text.encode())


def _is_there(path: Path, name: str) -> bool:
    return path.is_file() and digest_of(path.read_bytes()) == name.rpartition("/")[2]


def _publish(arriving: Path, folder: Path, beginning: str) -> None:
    """Move files that have arrived to their places: a folder that is new as a whole, others one by one."""
    whole = Path(beginning)
    if beginning.endswith("/") and (arriving / whole).is_dir() and not (folder / whole).exists():
        make_folder((folder / whole).parent)
        (arriving / whole).rename(folder / whole)
        synchronize((folder / whole).parent)
        return
    for path in [*files_beginning(arriving, beginning)]:
        make_folder((folder / path.relative_to(arriving)).parent)
        publish(path, folder / path.relative_to(arriving))
