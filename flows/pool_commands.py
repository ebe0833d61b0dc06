"""`surveyor pool`: pools on clusters that are opened by hand, to serve several campaigns."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from surveyor.errors import InputError
from surveyor.pools.choice import folder_of
from surveyor.pools.clouds.marks import Found
from surveyor.pools.cluster import close_cluster_pool, open_cluster_pool
from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.gcp.site import GCPSite
from surveyor.pools.kubernetes.site import KubernetesSite
from surveyor.pools.pool_folder import PoolFolder
from surveyor.pools.site import Site, WorkersSite
from surveyor.run_directory import RunDirectory


def users_pools() -> Path:
    """Return the folder of the pools that the user has opened by hand; campaigns that name one of them use it."""
    return Path.home() / ".surveyor" / "pools"


def add_pool_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `pool` and its subcommands."""
    pool = commands.add_parser(
        "pool",
        help="open, list, close and sweep pools on clusters and in clouds",
        epilog="example: surveyor pool open slurm/genoa",
    )
    actions = pool.add_subparsers(required=True, metavar="ACTION")
    opening = actions.add_parser(
        "open",
        help="open a pool that campaigns share until it is closed or its idle time is over",
        epilog="example: surveyor pool open slurm/genoa",
    )
    opening.add_argument("name", help="kind and name of its block, such as slurm/genoa")
    opening.set_defaults(command=_open)
    listing = actions.add_parser(
        "list", help="list pools with their jobs, workers and work", epilog="example: surveyor pool list"
    )
    closing = actions.add_parser(
        "close", help="close a pool: its jobs are cancelled", epilog="example: surveyor pool close slurm/genoa"
    )
    closing.add_argument("name", help="kind and name of its block, such as slurm/genoa")
    sweeping = actions.add_parser(
        "sweep",
        help="end expired instances or pods of a pool, and list its others; needs no run directory",
        epilog="example: surveyor pool sweep ec2/gpu",
    )
    sweeping.add_argument("name", help="kind and name of its block, such as ec2/gpu or kubernetes/gpu")
    sweeping.add_argument(
        "--all",
        action="store_true",
        help="also end those that may still work: instances that you have started from this machine; all pods",
    )
    sweeping.set_defaults(command=_sweep)
    for each in (listing, closing):
        each.add_argument(
            "--run-directory",
            type=Path,
            help="run directory of a campaign, for the pools that it has opened; by default pools opened by hand",
        )
    listing.set_defaults(command=_list)
    closing.set_defaults(command=_close)


def _open(options: argparse.Namespace, console: Console) -> None:
    site = stored_site(options.name)
    if not isinstance(site, WorkersSite):
        raise InputError(f"{options.name}: found a pool of kind {site.kind}, expected one on a cluster, with jobs")
    folder = folder_of(options.name, users_pools())
    address = open_cluster_pool(options.name, site, folder)
    console.print(f"pool {options.name} is open at {address}; its files are in {folder.path}")
    console.print(
        f"campaigns of this user that name it use it; it ends {site.idle_minutes:g} min after its last use, or by "
        f"`surveyor pool close {options.name}`"
    )


def stored_site(name: str) -> Site:
    """Return the site that the block of a pool holds.

    Raises:
        InputError: there is no such block.
    """
    from surveyor.blocks.pools import load_sites
    from surveyor.flows.server import using_server

    with using_server():
        return load_sites([name])[name]


def _list(options: argparse.Namespace, console: Console) -> None:
    folder = _pools(options)
    folders = [PoolFolder(path.parent) for path in sorted(folder.glob("*/site.json"))]
    if not folders:
        console.print(f"no pools in {folder}")
        return
    table = Table()
    for header in ("pool", "state", "jobs", "workers", "unfinished", "attached", "address"):
        table.add_column(header)
    for each in folders:
        table.add_row(*_row(each))
    console.print(table)


def _row(folder: PoolFolder) -> list[str]:
    name, _ = folder.read_site()
    holder, state = folder.read_holder(), folder.read_state()
    if holder is None or state is None:
        failure = folder.read_failure()
        return [name, "failed" if failure else "closed", "", "", "", "", (failure or "").partition("\n")[0]]
    jobs = ", ".join(f"{n} {what}" for what, n in sorted(state["jobs"].items())) or "none"
    age = time.time() - state["time"]
    is_open = "open, but the queue does not answer" if state.get("queue_is_silent") else "open"
    if age >= 60:
        is_open = f"silent for {age:.0f} s"
    numbers = [str(state[what]) for what in ("workers", "unfinished", "attached")]
    if state.get("spent") is not None:
        jobs = f"{jobs}; cost {state['spent']:.2f}"
    return [name, is_open, jobs, *numbers, holder["address"]]


def _close(options: argparse.Namespace, console: Console) -> None:
    folder = folder_of(options.name, _pools(options))
    if not folder.site.is_file():
        raise InputError(f"there is no pool {options.name} in {folder.path.parent}; `surveyor pool list` shows them")
    was_open = close_cluster_pool(folder)
    console.print(f"pool {options.name} {'is closed' if was_open else 'was not open'}")


def _sweep(options: argparse.Namespace, console: Console) -> None:
    table = Table()
    for header in ("instance or pod", "type or image", "state", "started by", "expires", "now"):
        table.add_column(header)
    try:
        for each in _swept(options.name, stored_site(options.name), options.all):
            expires = "unknown" if each.expires is None else f"{each.expires:%Y-%m-%d %H:%M} UTC"
            now = "ended" if each.was_ended else "left"
            table.add_row(each.id, each.what, each.state, each.owner, expires, now)
    finally:  # also if one of them could not be ended
        if table.row_count:
            console.print(table)
    if not table.row_count:
        console.print(f"no instances or pods of pool {options.name}")


def _swept(name: str, site: Site, also_alive: bool) -> Iterator[Found]:
    from surveyor.pools.ec2 import instances as ec2
    from surveyor.pools.gcp import instances as gcp
    from surveyor.pools.kubernetes import pods

    match site:
        case EC2Site():
            return ec2.sweep(name, site, also_alive=also_alive)
        case GCPSite():
            return gcp.sweep(name, site, also_alive=also_alive)
        case KubernetesSite():
            return pods.sweep(name, site, also_alive=also_alive)
    raise InputError(f"{name}: found a pool of kind {site.kind}, expected one in a cloud: ec2, gcp or kubernetes")


def _pools(options: argparse.Namespace) -> Path:
    given: Path | None = options.run_directory
    return users_pools() if given is None else RunDirectory(given.absolute()).pools
