"""Checks of every machine of an ssh pool, as the worker checks see only one of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from surveyor.doctor.results import CheckResult, fault, fault_of, remark
from surveyor.pools.machines import NoCapacity
from surveyor.pools.ssh.look import HostView, look_at_hosts
from surveyor.pools.ssh.site import SSHSite
from surveyor.words import number_of


def check_hosts(name: str, site: SSHSite, folders: Mapping[str, Path], *, wants_gpu: bool) -> Iterator[CheckResult]:
    """Check that each machine is reached, has the same versions, sees the shared folders, and has a GPU if need be.

    Args:
        name: name of the pool.
        site: its settings.
        folders: new folders in those that the machines have to see.
        wants_gpu: whether the workers need GPUs.
    """
    views = look_at_hosts(site, folders.values())
    is_any_reached = any(view.error is None for view in views)
    for view in views:
        yield _result(name, view, wants_gpu=wants_gpu, is_any_reached=is_any_reached)


def _result(name: str, view: HostView, *, wants_gpu: bool, is_any_reached: bool) -> CheckResult:
    without = f"hosts: […]  # in block {name}, without {view.host}"
    if view.error is not None:
        if isinstance(view.error, NoCapacity) and is_any_reached:
            return remark("machine", name, f"{view.error}; the pool uses the others")
        return fault_of(view.error, "machine", name, without)
    if view.unseen:
        found = f"{view.host} ({view.name}) does not see what was written here into {Path(view.unseen[0]).parent}"
        return fault(
            "machine", name, found, f"run_directory: FOLDER  # on a disk that {view.host} shares; or {without}"
        )
    gpus = f"{number_of(len(view.gpus), 'GPU')}{f' ({view.gpus[0]})' if view.gpus else ''}"
    found = f"{view.host} ({view.name}): the same versions, {number_of(view.cores, 'core')}, {gpus}"
    if wants_gpu and not view.gpus:
        return fault(
            "machine", name, f"{found}; the model wants a GPU", f"{without}; or repair its driver (nvidia-smi)"
        )
    return CheckResult("machine", name, found)
