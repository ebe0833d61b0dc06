"""The capacity of this machine: its number of workers, and the resources of each."""

import logging
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from dask.system import cpu_count
from distributed.system import memory_limit

from surveyor.errors import InputError
from surveyor.pools.sites import LocalSite

logger = logging.getLogger(__name__)

QUESTION_TIMEOUT_S = 60.0  # the driver of many sleeping GPUs takes its time
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VISIBLE = "CUDA_VISIBLE_DEVICES"
HIDDEN = ("", "-1", "NoDevFiles")  # what that variable holds where all GPUs are hidden
GB = 1e9
ROUNDING = 1e-9  # 0.3 GB have room for 0.1 GB three times

# Each mpirun takes the machine for its own, and would bind its ranks to the same first cores as that of other workers.
UNBOUND = {
    "OMPI_MCA_hwloc_base_binding_policy": "none",  # Open MPI 4
    "PRTE_MCA_hwloc_default_binding_policy": "none",  # Open MPI 5
    "I_MPI_PIN": "off",
}


@dataclass(frozen=True, slots=True)
class Capacity:
    """The capacity of this machine for workers.

    Attributes:
        environment: variables of all workers: as many threads as a worker has cores, and ranks of MPI that may run on
            every core.
        own: variables of each worker alone: the GPUs that it sees, where workers have some.
    """

    environment: Mapping[str, str]
    own: tuple[Mapping[str, str], ...]

    @property
    def n_workers(self) -> int:
        """Number of workers that fit on this machine."""
        return len(self.own)


def find_capacity(site: LocalSite) -> Capacity:
    """Return the number of workers that fit on this machine, and the resources of each.

    Raises:
        InputError: there is no room for a single worker.
    """
    gpus = _gpus(site)
    threads = {name: str(site.cores_per_worker) for name in THREADS}
    unbound = {name: os.environ.get(name, value) for name, value in UNBOUND.items()}
    own = tuple(_share(gpus, site.gpus_per_worker, number) for number in range(_n_workers(site, len(gpus))))
    return Capacity(threads | unbound, own)


def _n_workers(site: LocalSite, n_gpus: int) -> int:
    needs: list[tuple[str, float, float, str]] = [
        ("cores_per_worker", site.cores_per_worker, _cores(site), "number of cores")
    ]
    if site.memory_per_worker_GB is not None:
        needs.append(("memory_per_worker_GB", site.memory_per_worker_GB, _memory(site), "memory in GB"))
    if site.gpus_per_worker:
        needs.append(("gpus_per_worker", site.gpus_per_worker, n_gpus, "number of visible GPUs"))
    missing = [
        f"{name}: found {needed:g}, expected at most {there:.4g}, the {what}"
        for name, needed, there, what in needs
        if needed > there
    ]
    if missing:
        complaint = f"a local pool has no room for a single worker: {'; '.join(missing)}"
        raise InputError(f"{complaint}. Ask for less, or take a larger machine")
    return min(math.floor(there / needed + ROUNDING) for _, needed, there, _ in needs)


def _cores(site: LocalSite) -> int:
    there = cpu_count()
    if site.cores is not None and site.cores > there:
        logger.warning("cores: found %d, but this process may use %d: its workers will wait", site.cores, there)
    return site.cores or there


def _memory(site: LocalSite) -> float:
    there = memory_limit() / GB
    if site.memory_GB is not None and site.memory_GB > there:
        logger.warning("memory_GB: found %g, but this process may use %.4g: it may be killed", site.memory_GB, there)
    return site.memory_GB or there


def _share(gpus: list[str], each: int, number: int) -> dict[str, str]:
    return {VISIBLE: ",".join(gpus[number * each : (number + 1) * each])} if each else {}


def _gpus(site: LocalSite) -> list[str]:
    """Return the names of the GPUs that the pool may use; they are not determined if no worker needs one."""
    if not site.gpus_per_worker:
        return []
    named = os.environ.get(VISIBLE)
    found = _listed() if named is None else [name.strip() for name in named.split(",") if name.strip() not in HIDDEN]
    if site.gpus is not None and site.gpus > len(found):
        where = "nvidia-smi lists" if named is None else f"{VISIBLE} names"
        raise InputError(f"gpus: found {site.gpus}, but {where} {len(found)} ({', '.join(found) or 'none'})")
    return found[: site.gpus]


def _listed() -> list[str]:
    """Return the GPUs by names that do not depend on their order."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=QUESTION_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        logger.warning("nvidia-smi gave no answer within %.0f s", QUESTION_TIMEOUT_S)
        return []
    if answer.returncode != 0:
        logger.warning("nvidia-smi failed: %s", (answer.stdout + answer.stderr).strip())
        return []
    return answer.stdout.split()
