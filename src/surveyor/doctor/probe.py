"""The environment of a pool's worker: its machine, and its view of the folders of a campaign."""

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from surveyor.errors import InputError
from surveyor.pools.machine import GB, VISIBLE, _listed
from surveyor.pools.worker_check import versions
from surveyor.storage import FolderStorage
from surveyor.storage.object_storage import ObjectStorage

WRITTEN_HERE = "written-here"


@dataclass(frozen=True, slots=True)
class Question:
    """A request to a worker to describe its environment.

    Attributes:
        answer: name of the file that the worker writes into each folder.
        folders: shared folders, by purpose; this process has written `WRITTEN_HERE` into each of them.
        scratch: a folder on the worker's machine, or None.
        wants_gpu: also ask torch for GPUs, which takes seconds.
        bucket: bucket of the label store, with the part of it in which this process has written `WRITTEN_HERE`.
        workspace: likewise, of the workspace of a pool whose workers do not see the folders.
    """

    answer: str
    folders: Mapping[str, Path]
    scratch: Path | None = None
    wants_gpu: bool = False
    bucket: ObjectStorage | None = None
    workspace: ObjectStorage | None = None


@dataclass(frozen=True, slots=True)
class FolderView:
    """The view of a worker on a folder.

    Attributes:
        is_shared: whether it contains the file written by this process.
        complaint: why it is not writable; empty if it is.
        free_GB: free space of its disk, or None if unknown.
    """

    is_shared: bool
    complaint: str = ""
    free_GB: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The environment of a worker.

    Attributes:
        time: time of the answer by the worker's clock, in seconds since the epoch.
        host: host name.
        python: path of the interpreter.
        versions: versions of Python and of the packages that must be the same on both sides.
        cores: number of available cores.
        folders: shared folders, by purpose.
        scratch: folder on the worker's machine, or None if none was requested.
        visible: value of CUDA_VISIBLE_DEVICES, or None if it is not set.
        gpus: GPUs listed by the driver.
        torch_gpus: number of GPUs available to torch; None if torch was not asked or is not installed.
        bucket: why the bucket of the label store cannot be used; empty if it can, or is not asked for.
        workspace: likewise, the workspace.
    """

    time: float
    host: str
    python: str
    versions: Mapping[str, str]
    cores: int
    folders: Mapping[str, FolderView]
    scratch: FolderView | None
    visible: str | None
    gpus: tuple[str, ...]
    torch_gpus: int | None
    bucket: str = ""
    workspace: str = ""


@contextmanager
def temporary_part(bucket: ObjectStorage) -> Iterator[ObjectStorage]:
    """Give a part of a bucket with a record of this process, and remove it with all that others add to it."""
    name = f"probes/{secrets.token_hex(8)}"
    part = replace(bucket, bucket=bucket.bucket.part(name))
    part.put_new(WRITTEN_HERE, b"written by surveyor doctor\n")
    try:
        yield part
    finally:
        with suppress(OSError):
            for each in list(part.list("")):
                part.remove(each)


def look_around(question: Question) -> WorkerView:
    """Return the environment of this process; one small file is written into each folder."""
    return WorkerView(
        time=time.time(),
        host=socket.gethostname(),
        python=sys.executable,
        versions=versions(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        folders={name: _look_at(folder, question) for name, folder in question.folders.items()},
        scratch=None if question.scratch is None else _look_at_scratch(question.scratch),
        visible=os.environ.get(VISIBLE),
        gpus=tuple(_listed()) if question.wants_gpu else (),
        torch_gpus=_torch_gpus() if question.wants_gpu else None,
        bucket="" if question.bucket is None else _look_at_bucket(question.bucket, question.answer),
        workspace="" if question.workspace is None else _look_at_bucket(question.workspace, question.answer),
    )


def _look_at_bucket(bucket: ObjectStorage, answer: str) -> str:
    try:
        if bucket.get(WRITTEN_HERE) is None:
            return "it does not see what was written there"
        bucket.put_new(answer, b"written by a worker\n")
    except InputError as error:  # obstore is missing, say
        return str(error)
    except OSError as error:
        return str(error.strerror or error)
    return ""


def _look_at(folder: Path, question: Question) -> FolderView:
    storage = FolderStorage(folder)
    try:
        if storage.get(WRITTEN_HERE) is None:
            return FolderView(is_shared=False)
        storage.put_new(question.answer, b"written by a worker\n")
        return FolderView(is_shared=True, free_GB=free_GB(folder))
    except OSError as error:
        return FolderView(is_shared=True, complaint=str(error.strerror or error))


def _look_at_scratch(folder: Path) -> FolderView:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return FolderView(is_shared=False, free_GB=free_GB(folder))
    except OSError as error:
        return FolderView(is_shared=False, complaint=str(error.strerror or error))


def free_GB(folder: Path) -> float:
    """Return the free space of the disk that a folder is on."""
    return shutil.disk_usage(folder).free / GB


def _torch_gpus() -> int | None:
    if find_spec("torch") is None:
        return None
    import torch

    return int(torch.cuda.device_count())
