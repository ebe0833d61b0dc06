"""A call on a worker that does not see the folder of the work: it runs in a temporary folder in its place."""

import contextvars
import fcntl
import logging
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surveyor.errors import StorageFailed
from surveyor.files import outlast
from surveyor.pools.transport import is_leaving
from surveyor.pools.workspace.bucket_files import OBJECTS, CallObjects, Manifest, ObjectLost, cached, digest_of, fetch
from surveyor.pools.workspace.translation import translating
from surveyor.pools.workspace.travel import FLOW, PLACE, Mark, pack_paths, unpack_paths
from surveyor.storage import Storage

EVENTS = "events"  # folder of the event files of processes, in that of the work
EVENTS_S = 5.0  # how often they are sent
LOOK_S = 1.0  # how often it is seen whether the machine is taken away; Google's notice is half a minute before
LARGEST_MB = 50.0  # a larger file of a call that does not continue is left out
N_SNAPSHOTS = 5
FOLDERS = "surveyor-call-"
OLD_S = 60.0
REMEDY = "Restore the access to the bucket; what had been sent before is not lost"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class RemoteCall:
    """A call with the files that it needs.

    Attributes:
        name: name of the function.
        packed: function and arguments, see `surveyor.pools.workspace.travel`.
        storage: the bucket.
        objects: names of the objects of the call.
        folder: the folder of the work, where the flow is.
        outputs: how the paths begin, below that folder, of the files that the call writes and leaves.
        files: names of the objects of such files that exist already, by path.
        continues: whether a repeated call continues from these files.
        checkpoint_s: time in seconds between two checkpoints.
    """

    name: str
    packed: bytes
    storage: Storage
    objects: CallObjects
    folder: str
    outputs: tuple[str, ...]
    files: Mapping[str, str]
    continues: bool
    checkpoint_s: float

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self) -> bytes:
        """Make the call, unless an earlier attempt has ended; return its results, a `Manifest` as JSON."""
        if self.continues and (done := self.storage.get(self.objects.manifest)) is not None:
            return done
        with _own_folder() as root:
            return _Attempt(self, root).make()


class _Attempt:
    """One attempt at a call.

    Args:
        call: the call.
        root: takes the place of the folder of the work.
    """

    def __init__(self, call: RemoteCall, root: Path) -> None:
        self._call, self._root = call, root
        self._token = secrets.token_hex(4)
        self._origins: dict[Path, str] = {}  # of the files that the flow has sent, by where they are here
        self._files: dict[str, str] = {}  # names of the objects of files as they were sent last
        self._kept: dict[str, str] = {}  # those of the newest checkpoint
        self._signatures: dict[str, tuple[int, ...]] = {}
        self._mine: list[Manifest] = []  # checkpoints of this attempt
        self._numbers: list[int] = []  # of all checkpoints
        self._positions: dict[Path, int] = {}
        self._n_segments = 0

    def make(self) -> bytes:
        call = self._call
        try:
            self._lay_out()
            function, args, kwargs = unpack_paths(call.packed, self._path_of)
        except ObjectLost as error:
            raise StorageFailed(
                f"{error}, which {call.name} needs; leave the bucket alone while work runs, and give the same command: "
                "it sends the file again"
            ) from error
        try:
            with translating(self._in_words_of_flow), self._sending():
                value = function(*args, **kwargs)
        except Exception as error:
            self._send_after_failure()
            _translate(error, self._in_words_of_flow)
            raise
        packed = pack_paths(value, f"the result of {call.name}", self._mark_of)
        return outlast(lambda: self._deliver(packed), self._problem, REMEDY)

    @property
    def _problem(self) -> str:
        return f"what {self._call.name} has left cannot be sent to {self._call.storage}"

    def _path_of(self, mark: Mark) -> Path:
        if mark[0] == PLACE:
            return self._root / mark[1]
        _, digest, name, origin = mark
        path = cached(self._call.storage, digest, name)
        self._origins[path] = origin
        return path

    def _mark_of(self, path: Path) -> Mark | None:
        if path in self._origins:
            return FLOW, self._origins[path]
        return (PLACE, str(path.relative_to(self._root))) if path.is_relative_to(self._root) else None

    def _in_words_of_flow(self, text: str) -> str:
        for path, origin in self._origins.items():
            text = text.replace(str(path), origin)
        return text.replace(str(self._root), self._call.folder)

    def _lay_out(self) -> None:
        """Write the files from which the call continues: those of the newest checkpoint, or else those of the flow."""
        call, files = self._call, dict(self._call.files)
        checkpoints = [*call.storage.list(call.objects.checkpoints)] if call.continues else []
        self._numbers = [int(Path(name).stem) for name in checkpoints]
        for name in reversed(checkpoints):
            content = call.storage.get(name)
            if content is not None and self._lay(Manifest.from_json(content).files):
                return
        if not self._lay(files):
            raise ObjectLost(f"{call.storage} has lost files of {call.name} that the flow has sent")

    def _lay(self, files: Mapping[str, str]) -> bool:
        """Write files; return whether all were there, as a checkpoint may be removed meanwhile with its files."""
        try:
            for path, name in files.items():
                fetch(self._call.storage, name, self._root / path)
        except ObjectLost:
            for path in files:
                (self._root / path).unlink(missing_ok=True)
            return False
        self._files = self._kept = dict(files)
        self._signatures = {path: _signature(self._root / path) for path in files}
        return True

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Send events and checkpoints meanwhile, from a thread."""
        stop = threading.Event()
        run = contextvars.copy_context().run  # it knows the worker
        thread = threading.Thread(target=run, args=(self._keep_sending, stop), name="workspace", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _keep_sending(self, stop: threading.Event) -> None:
        call, events_s = self._call, min(EVENTS_S, self._call.checkpoint_s)
        sent = saved = time.monotonic()
        while not stop.wait(min(LOOK_S, events_s)):
            is_last, now = is_leaving(), time.monotonic()  # then what is not sent is lost
            try:
                if is_last or now >= sent + events_s:
                    self._send_events()
                    sent = now
                if call.continues and (is_last or now >= saved + call.checkpoint_s):
                    self._send_checkpoint()
                    saved = time.monotonic()
            except OSError as error:
                logger.warning("%s: %s. It is tried again", self._problem, error)

    def _send_after_failure(self) -> None:
        try:
            self._send_events()
            self._send_checkpoint()
        except OSError as error:  # the failure itself says more
            logger.warning("%s: %s", self._problem, error)

    def _send_checkpoint(self) -> None:
        """Send a checkpoint of the files, unless it equals the last one; keep the newest two checkpoints."""
        files, objects, storage = self._send_files(), self._call.objects, self._call.storage
        if files == self._kept:
            return
        manifest, number = Manifest(files), max(self._numbers, default=0) + 1
        while not storage.put_new(f"{objects.checkpoints}{number:06d}.json", manifest.to_json()):
            number += 1  # another attempt, whose worker was taken for lost, is still under way
        self._kept = files
        self._numbers.append(number)
        for old in self._numbers[:-2]:
            storage.remove(f"{objects.checkpoints}{old:06d}.json")
        del self._numbers[:-2]
        self._mine.append(manifest)
        self._remove_unused()

    def _remove_unused(self) -> None:
        """Remove files of this attempt that are in none of the newest two checkpoints."""
        kept = {name for manifest in self._mine[-2:] for name in manifest.files.values()}
        former = {name for manifest in self._mine[:-2] for name in manifest.files.values()}
        for name in former - kept:
            if not name.startswith(f"{OBJECTS}/"):
                self._call.storage.remove(name)
        del self._mine[:-2]

    def _send_files(self) -> dict[str, str]:
        """Send the outputs, as they are at one moment, and return the names of their objects by path."""
        copies = self._root / f".sent-{self._token}"
        with suppress(FileNotFoundError):
            shutil.rmtree(copies)
        signatures = self._snapshot(copies)
        files = {}
        for path in signatures:
            copy = copies / path
            if not copy.exists():
                files[path] = self._files[path]
                continue
            content = copy.read_bytes()
            files[path] = self._call.objects.file(self._token, digest_of(content))
            if files[path] not in self._files.values():
                self._call.storage.put_new(files[path], content)
        shutil.rmtree(copies, ignore_errors=True)
        self._files, self._signatures = files, signatures
        return files

    def _snapshot(self, copies: Path) -> dict[str, tuple[int, ...]]:
        """Copy the outputs that have changed since they were sent; return the state of each at that moment."""
        for _ in range(N_SNAPSHOTS):
            before = self._outputs()
            for path, signature in before.items():
                if self._signatures.get(path) != signature or path not in self._files:
                    (copies / path).parent.mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):
                        shutil.copyfile(self._root / path, copies / path)
            if self._outputs() == before:
                break
        return {path: each for path, each in before.items() if path in self._files or (copies / path).exists()}

    def _outputs(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for beginning in self._call.outputs:
            for path in files_beginning(self._root, beginning):
                with suppress(FileNotFoundError):
                    if self._call.continues or path.stat().st_size <= 1e6 * LARGEST_MB:
                        found[str(path.relative_to(self._root))] = _signature(path)
        return found

    def _new_events(self) -> dict[str, str]:
        """Return the lines that were written since the last time, by process."""
        lines = {}
        for path in sorted((self._root / EVENTS).glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._positions.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if whole:
                self._positions[path] = self._positions.get(path, 0) + len(whole)
                lines[path.stem] = self._in_words_of_flow(whole.decode(errors="replace"))
        return lines

    def _send_events(self) -> None:
        positions = dict(self._positions)
        try:
            for process, text in self._new_events().items():
                self._n_segments += 1
                name = f"{self._call.objects.events}{process}/{self._token}-{self._n_segments:06d}"
                self._call.storage.put_new(name, text.encode())
        except OSError:
            self._positions = positions
            raise

    def _deliver(self, value: bytes) -> bytes:
        """Send the outputs and, for a call that continues, its manifest; return the manifest, with the result."""
        call, positions = self._call, dict(self._positions)
        files = self._send_files()
        has_objects = bool(self._n_segments or self._numbers or files) or call.continues
        content = Manifest(files, self._new_events(), value, has_objects).to_json()
        try:
            if not call.continues or call.storage.put_new(call.objects.manifest, content):
                return content
            return call.storage.get(call.objects.manifest) or content  # another attempt was quicker
        except OSError:
            self._positions = positions
            raise


def files_beginning(folder: Path, beginning: str) -> Iterator[Path]:
    """Yield the files below a folder whose paths begin with a text, without hidden ones, which are being written."""
    parent = folder / beginning.rpartition("/")[0]
    for path in sorted(parent.rglob("*")) if beginning.endswith("/") else sorted(parent.glob("*")):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if str(relative).startswith(beginning) and not is_hidden and path.is_file():
            yield path


def _signature(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _translate(error: Exception, translation: Callable[[str], str]) -> None:
    """Put the paths of the flow into an exception."""

    def translated(value: Any) -> Any:  # Any: whatever an exception holds
        if isinstance(value, str | Path):
            return type(value)(translation(str(value)))
        return value

    error.args = tuple(map(translated, error.args))
    if hasattr(error, "__dict__"):
        vars(error).update({name: translated(value) for name, value in vars(error).items()})


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Provide a temporary folder, and remove those of processes that were killed."""
    _remove_left()
    folder = Path(tempfile.mkdtemp(prefix=FOLDERS))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left() -> None:
    for lock in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*/.lock"):
        with suppress(OSError), lock.open() as file:  # another user's, or one in use
            if lock.stat().st_mtime < time.time() - OLD_S:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
