"""The workspaces of work: the buckets through which files travel to and from pools that do not see its folder."""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from surveyor.errors import InputError
from surveyor.files import read_json, write_json
from surveyor.lease import Lease
from surveyor.pools.choice import OpenPools
from surveyor.pools.site import BorderSite, Site
from surveyor.pools.workspace.workspace import ARRIVING, Border, Workspace
from surveyor.run_directory import SCHEMA_VERSION, RunDirectory, check_schema
from surveyor.storage.buckets import BucketAccess
from surveyor.storage.object_storage import ObjectStorage, prove, storage_at
from surveyor.works.parameters import WorkParameters


def check_workspaces(
    parameters: WorkParameters, sites: Mapping[str, Site], accesses: Mapping[str, BucketAccess]
) -> None:
    """Check that pools that share no disk can serve work, and that their buckets keep their promises.

    Args:
        parameters: of the work.
        sites: the sites of its pools, by name.
        accesses: how their buckets are reached, by name; for others, the access that the environment gives.

    Raises:
        InputError: labels would be kept in a folder that workers do not see, or a bucket cannot be used.
    """
    labelling, store = parameters.pool_of_stages.labelling, parameters.label_store
    if workspace_of(sites.get(labelling)) is not None and parameters.keeps_labels and not isinstance(store, str):
        raise InputError(
            f"labels: found the folder {store}, expected a bucket such as s3://bucket/labels, as pool {labelling} has "
            "a workspace, so that its workers do not see the disk of this machine"
        )
    for name in parameters.pool_of_stages.names:
        if (address := workspace_of(sites.get(name))) is not None:
            try:
                prove(bucket_of(address, accesses.get(name)))
            except InputError as error:
                raise InputError(f"pool {name}: workspace: {error}") from error


def refuse_workspaces(parameters: WorkParameters, sites: Mapping[str, Site], work: str) -> None:
    """Refuse pools that share no disk, for work whose functions read the folder as they like.

    Raises:
        InputError: a pool has a workspace.
    """
    for name in parameters.pool_of_stages.names:
        if (address := workspace_of(sites.get(name))) is not None:
            raise InputError(
                f"pool {name}: found workspace {address}, expected none, as a {work} needs workers that see its folder"
            )


def workspace_of(site: Site | None) -> str | None:
    """Return the address of the workspace of a pool; None if its workers see the folder of the work."""
    return site.workspace if isinstance(site, BorderSite) else None


@contextmanager
def open_workspaces(
    directory: RunDirectory,
    pools: OpenPools,
    sites: Mapping[str, Site],
    accesses: Mapping[str, BucketAccess],
    lease: Lease,
) -> Iterator[Mapping[str, Workspace]]:
    """Open the workspaces of pools that share no disk; after a normal end, nothing of the work is left in them.

    Args:
        directory: folder of the work.
        pools: its pools.
        sites: their sites, by name.
        accesses: how the buckets are reached, by name of the pool.
        lease: of the folder; if it is lost, the files belong to another process.
    """
    for left in directory.path.glob(f"{ARRIVING}*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as opened:
        workspaces: dict[str, Workspace] = {}
        for pool in pools:
            site = sites.get(pool.name)
            if pool.name in workspaces or not isinstance(site, BorderSite) or site.workspace is None:
                continue
            part = f"{site.workspace}/{_identifier(directory)}/{pool.name.replace('/', '-')}"
            storage = bucket_of(part, accesses.get(pool.name))
            border = Border(pool.name, storage, directory.path, 60 * site.checkpoint_minutes)
            workspaces[pool.name] = opened.enter_context(Workspace(pool, border))
        yield workspaces
        if not lease.is_lost:
            for workspace in workspaces.values():
                workspace.clean()


def bucket_of(address: str, access: BucketAccess | None) -> ObjectStorage:
    """Return the storage in a workspace, or in a part of one."""
    storage = storage_at(address, access)
    if not isinstance(storage, ObjectStorage):
        raise TypeError(f"{address} is no bucket")
    return storage


def _identifier(directory: RunDirectory) -> str:
    """Return the name of the work in buckets; make one at first, and another one for a copy of the folder."""
    path, folder = directory.workspace, str(directory.path)
    if path.exists():
        record = read_json(path)
        check_schema(record, path)
        if record["folder"] == folder:
            return str(record["name"])
    name = secrets.token_hex(8)
    write_json(path, {"schema_version": SCHEMA_VERSION, "folder": folder, "name": name})
    return name
