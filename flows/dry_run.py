"""`surveyor run --dry-run`: one structure through every stage, on the pools of the campaign."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean

from rich.console import Console
from rich.table import Table

from surveyor.errors import CampaignInUse, InputError
from surveyor.flows.stores import open_label_store
from surveyor.lease import is_in_use
from surveyor.pools.cluster import close_cluster_pool
from surveyor.pools.pool_folder import PoolFolder
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of
from surveyor.works.campaign import CampaignParameters
from surveyor.works.campaign.dry_run import StageTime, label_times, n_labels, reduced, stage_times

MARK = "dry-run"  # file that tells the run directory of a dry run, which may be removed, from all others


@contextmanager
def dry_running(parameters: CampaignParameters, console: Console) -> Iterator[CampaignParameters]:
    """Provide the parameters of a dry run, and print its durations at the end; only its labels are kept.

    Args:
        parameters: parameters of the campaign.
        console: console for the durations.

    Raises:
        InputError: the folder of the dry run contains something else.
        CampaignInUse: another dry run of this campaign is running.
    """
    small = reduced(parameters)
    directory = RunDirectory(small.run_directory.absolute())
    _remove_former(directory)
    directory.path.mkdir(parents=True)
    (directory.path / MARK).touch()
    try:
        yield small
    except BaseException:
        _close_pools(directory)  # a failure would leave them to finish what they do
        console.print(f"the dry run failed; its files are in {directory.path}", markup=False)
        raise
    console.print(_table(stage_times(directory, small)))
    _print_labels(parameters, label_times(directory, open_label_store(small.label_store, small.storage)), console)
    shutil.rmtree(directory.path)


def _remove_former(directory: RunDirectory) -> None:
    """Close the pools of a former dry run that failed, and remove its folder."""
    if not directory.path.exists():
        return
    if not (directory.path / MARK).exists():
        raise InputError(f"{directory.path} is in the way, and not of a dry run; give it another name, or remove it")
    if is_in_use(directory.lease):
        raise CampaignInUse(f"another dry run is at work in {directory.path}; wait for it, or stop it, then try again")
    _close_pools(directory)
    shutil.rmtree(directory.path)


def _close_pools(directory: RunDirectory) -> None:
    for site in directory.pools.glob("*/site.json"):
        close_cluster_pool(PoolFolder(site.parent))


def _table(times: list[StageTime]) -> Table:
    table = Table("generation", "stage", "pool", "host", "seconds")
    for each in times:
        hosts = ", ".join(each.hosts) or "-"
        table.add_row(str(each.generation), each.stage, each.pool, hosts, f"{each.wall_time_s:.1f}")
    return table


def _print_labels(parameters: CampaignParameters, seconds: list[float], console: Console) -> None:
    n_all, each = n_labels(parameters), mean(seconds)
    mean_s, longest_s = _format_seconds(each), _format_seconds(max(seconds))
    console.print(f"a label took {mean_s}, {longest_s} at most; labels are kept in the store")
    in_all_s = _format_seconds(n_all * each)
    console.print(f"the campaign requests at most {number_of(n_all, 'label')}: {in_all_s} of computing")
    console.print("every stage has run; the files of the dry run are removed")


def _format_seconds(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
