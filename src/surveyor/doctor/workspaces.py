"""Examination of a pool through its workspace, the bucket of workers that see no folder of this machine."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from surveyor.doctor.opened_pools import OpenedPool
from surveyor.doctor.probe import Question, temporary_part
from surveyor.pools.workspace.workspace import Border, Workspace
from surveyor.storage.buckets import BucketAccess
from surveyor.storage.object_storage import ObjectStorage, prove
from surveyor.works.workspaces import bucket_of


@contextmanager
def proven_part(address: str, access: BucketAccess | None) -> Iterator[ObjectStorage]:
    """Prove that a workspace keeps its promises, and give a temporary part of it.

    Args:
        address: address of the workspace.
        access: how its bucket is reached; None for the access that the environment gives.

    Raises:
        InputError: it breaks a promise, refuses access, or does not answer.
    """
    storage = bucket_of(address, access)
    prove(storage)
    with temporary_part(storage) as part:
        yield part


@contextmanager
def through_workspace(
    pool: OpenedPool, question: Question, part: ObjectStorage, folder: Path
) -> Iterator[tuple[OpenedPool, Question]]:
    """Give a pool whose functions travel through a workspace, and the question with which its worker looks at that.

    Args:
        pool: the open pool.
        question: the question to its worker.
        part: a temporary part of the workspace.
        folder: folder on this machine that workers are not expected to see.
    """
    with Workspace(pool.pool, Border(pool.name, part, folder, checkpoint_s=math.inf)) as executor:
        yield replace(pool, pool=executor), replace(question, workspace=part)
