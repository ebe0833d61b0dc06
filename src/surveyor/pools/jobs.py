"""Jobs on a cluster: submitted, looked for, cancelled. Scripts and commands are those of dask-jobqueue."""

import asyncio
import os
import pwd
import re
import shlex
import signal
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distributed import Security

from surveyor.errors import PoolFailed
from surveyor.pools.machine import THREADS, UNBOUND
from surveyor.pools.machines import OUTPUT_LINES, QueueSilent, Refused
from surveyor.pools.queues import QUEUES, Entry
from surveyor.pools.sites import HTCondorSite, JobQueueSite, LSFSite, OARSite, PBSSite, SGESite, SLURMSite

COMMAND_TIMEOUT_S = 60.0

# What commands say while the controller of a queue is away or overloaded.
PASSING = re.compile(
    r"unable to contact|socket timed out|zero bytes were transmitted|standby mode|connection (failure|refused)"
    r"|cannot connect|can't connect|resource temporarily unavailable|try again later|is down|can't find address",
    re.IGNORECASE,
)

# What commands say of a job that they would refuse at any time.
CERTAIN = re.compile(
    r"invalid (partition|account|qos|feature|generic resource|wckey)|memory specification can not be satisfied"
    r"|requested (node configuration is not available|time limit is invalid)|unknown queue|no such queue"
    r"|cannot use the queue|exceeds queue.*resource limits|exceed queue's hard limit"
    r"|(queue|parallel environment|project) \S+ does(n't| not) exist|unknown resource|invalid option argument"
    r"|not enough resources for your request|bad resource request|cannot recognize"
    r"|un(known|recognized) (option|--)|invalid (numeric value|time specification|--\S+ (specification|option))"
    r"|is not a valid ",
    re.IGNORECASE,
)

# OAR says so even where it then names a failure: while its server is away, a job waits in its database.
TAKEN = re.compile(r"^OAR_JOB_ID=(\d+)$", re.MULTILINE)


class Jobs:
    """The jobs of one pool on a cluster.

    Args:
        site: what a job asks for.
        folder: of the pool; the outputs of the jobs go to `jobs/` in it.
        address: of the scheduler that the workers look for.
        security: certificates for the workers.
        check: command that a job runs before its worker, and without whose success it ends.
    """

    def __init__(
        self, site: JobQueueSite, folder: Path, address: str, security: Security | None = None, check: str = ""
    ) -> None:
        self.site = site
        self.folder = folder.resolve()
        self.outputs = folder / "jobs"
        self._queue = QUEUES[site.kind]
        self._options = _options(site, self.outputs, check) | {"scheduler": address, "security": security}

    def script(self, name: str) -> str:
        """Return the script of a job."""
        return str(self._job(name).job_script())

    async def submit(self, name: str, *, firm: bool = False) -> str:
        """Submit a job and return its id.

        Args:
            name: name of the job and of its worker; several workers append -0, -1 and so on.
            firm: of no effect.

        Raises:
            Refused: the queue refuses the job permanently; with the message of the command.
            PoolFailed: the queue refuses the job for now.
            QueueSilent: the controller of the queue does not answer.
        """
        job = self._job(name)
        try:
            await asyncio.wait_for(job.start(), COMMAND_TIMEOUT_S)
        except TimeoutError as error:
            raise QueueSilent(f"{job.submit_command} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from error
        except (RuntimeError, ValueError, OSError) as error:
            said = _said(str(error))
            if taken := TAKEN.search(said):
                return taken[1]
            if PASSING.search(said):
                raise QueueSilent(said) from error
            is_certain = isinstance(error, FileNotFoundError) or CERTAIN.search(said)
            failure = Refused if is_certain else PoolFailed
            raise failure(f"{job.submit_command} refused a job:\n{said}") from error
        return str(job.job_id)

    async def look(self, jobs: Sequence[str]) -> Mapping[str, Entry]:
        """Return the queue's entries of some jobs, and of any other job that it knows to be of this pool.

        Those that have ended are not shown. The others are of submissions whose answer was lost.

        Raises:
            QueueSilent: the queue does not answer.
        """
        if not jobs and not self._queue.tells_folder:
            return {}
        status, answer, complaint = await _call(self._queue.command(pwd.getpwuid(os.getuid()).pw_name, jobs))
        if status and not any(text in complaint.lower() for text in self._queue.unknown):
            raise QueueSilent(complaint.strip() or f"status {status}")
        entries = self._queue.read(answer)
        return {job: entry for job, entry in entries.items() if job in jobs or entry.folder == str(self.folder)}

    async def cancel(self, jobs: Collection[str]) -> None:
        """Cancel jobs; those that have ended are passed over."""
        if jobs:
            await _call([self._queue.cancel, *jobs])

    def output(self, job: str) -> str:
        """Return the last lines that a job printed."""
        named = re.compile(rf"(?<!\d){job.partition('.')[0]}(?!\d)")
        paths = [path for path in sorted(self.outputs.glob("*")) if named.search(path.name)]
        lines = [line for path in paths for line in path.read_text(errors="replace").splitlines()]
        if not lines:
            return f"job {job} printed nothing into {self.outputs}"
        return "\n".join([f"job {job} printed last ({', '.join(map(str, paths))}):", *lines[-OUTPUT_LINES:]])

    def _job(self, name: str) -> Any:  # Any: dask-jobqueue is untyped
        return _job_class(self.site)(name=name, job_name=name, **self._options)


def _said(error: str) -> str:
    """Return a command's output from dask-jobqueue's error, which also quotes the command (for OAR, a whole script)."""
    _, _, output = error.partition("\nstdout:\n")
    lines = [line for line in output.splitlines() if line.strip() and line != "stderr:"]
    return "\n".join(lines) or "\n".join(line for line in error.splitlines() if line.strip())


async def _call(command: Sequence[str]) -> tuple[int, str, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        output, complaint = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
    except TimeoutError as error:
        process.kill()
        raise QueueSilent(f"{command[0]} did not answer within {COMMAND_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise QueueSilent(f"{command[0]}: {error}") from error
    return process.returncode or 0, output.decode(errors="replace"), complaint.decode(errors="replace")


def _job_class(site: JobQueueSite) -> Any:  # Any: dask-jobqueue is untyped
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    import dask_jobqueue as dj  # it replaces the handler of SIGINT

    if in_main_thread:
        signal.signal(signal.SIGINT, handler)
    clusters = {
        SLURMSite: dj.SLURMCluster,
        PBSSite: dj.PBSCluster,
        LSFSite: dj.LSFCluster,
        SGESite: dj.SGECluster,
        OARSite: dj.OARCluster,
        HTCondorSite: dj.HTCondorCluster,
    }
    return clusters[type(site)].job_cls


def _options(site: JobQueueSite, outputs: Path, check: str) -> dict[str, Any]:  # Any: dask-jobqueue is untyped
    """Return the arguments with which dask-jobqueue writes the script that a site asks for."""
    python = shlex.quote(site.python or sys.executable)
    return {
        "cores": site.cores_per_job,
        "memory": f"{round(site.memory_GB * 1000)} MB",
        "processes": 1,
        "python": python,
        "interface": site.interface,
        "local_directory": None if site.scratch is None else shlex.quote(str(site.scratch)),
        "log_directory": str(outputs),
        "job_script_prologue": [
            "export SURVEYOR_JOB_BEGIN=`date +%s`",
            f"export SURVEYOR_JOB_WALLTIME_S={site.walltime_s}",
            *(f"export {name}={site.cores_per_worker}" for name in THREADS),
            *(f"export {name}={value}" for name, value in UNBOUND.items() if site.workers_per_job > 1),
            # HTCondor has them in one line, which a comment would end.
            *(line for line in site.prologue if not line.lstrip().startswith("#")),
            *([f"{python} {check} || exit 1"] if check else []),
        ],
        # Each worker runs one function at a time, however many cores it has; the memory is the queue's to watch.
        "worker_extra_args": [f"--nthreads 1 --nworkers {site.workers_per_job} --memory-limit 0 --no-dashboard"],
        "job_directives_skip": list(site.skip_directives),
        **_directives(site, outputs),
    }


def _directives(site: JobQueueSite, outputs: Path) -> dict[str, Any]:  # Any: dask-jobqueue is untyped
    walltime, more = _clock(site.walltime_s), list(site.directives)
    cores, gpus = site.cores_per_job, site.gpus_per_job
    match site:
        case SLURMSite():
            asked = [f"-n {site.tasks_per_job}", f"--cpus-per-task={cores // site.tasks_per_job}", "-N 1"]
            # A job that SLURM queues again after its node went down would come beside the one that replaces it.
            asked += ["--no-requeue", f"--chdir={outputs.parent.resolve()}", *([f"--gres=gpu:{gpus}"] if gpus else [])]
            skip = [*site.skip_directives, "#SBATCH -n 1", "--cpus-per-task"]
            kept = [line for line in asked if not any(text in line for text in site.skip_directives)]
            return {
                "queue": site.queue,
                "account": site.account,
                "walltime": walltime,
                "job_directives_skip": skip,
                "job_extra_directives": [*kept, *more],
            }
        case PBSSite():
            memory = f":mem={round(site.memory_GB * 1000)}mb"
            select = f"select=1:ncpus={cores}:mpiprocs={cores}{memory}{f':ngpus={gpus}' if gpus else ''}"
            return {
                "queue": site.queue,
                "account": site.account,
                "walltime": walltime,
                "resource_spec": site.resources or select,
                "job_extra_directives": ["-r n", *more],
            }
        case LSFSite():
            return {
                "queue": site.queue,
                "project": site.account,
                "walltime": walltime.rpartition(":")[0],
                "ncpus": cores,
                "job_extra_directives": ["-rn", *([f'-gpu "num={gpus}"'] if gpus else []), *more],
            }
        case SGESite():
            several = [f"-pe {site.parallel_environment} {cores}"] if site.parallel_environment else []
            return {
                "queue": site.queue,
                "project": site.account,
                "walltime": walltime,
                "resource_spec": site.resources,
                "job_extra_directives": ["-r n", *several, *more],
            }
        case OARSite():
            return {
                "queue": site.queue,
                "project": site.account,
                "walltime": walltime,
                "resource_spec": site.resources or f"/nodes=1/{f'gpu={gpus}' if gpus else f'core={cores}'}",
                "memory_per_core_property_name": "not_applicable",
                "job_extra_directives": [f"-O {outputs}/%jobid%.out", f"-E {outputs}/%jobid%.err", *more],
            }
        case HTCondorSite():
            return {"disk": f"{round(site.disk_GB * 1000)} MB", "job_extra_directives": _condor(site)}
    raise TypeError(f"no directives for {type(site).__name__}")


def _condor(site: HTCondorSite) -> dict[str, str]:
    """Return the commands of a submit description; those of the user are written as `name = value`."""
    asked = {"RequestGpus": str(site.gpus_per_job)} if site.gpus_per_job else {}
    if site.account is not None:
        asked["accounting_group"] = site.account
    # What runs longer than it may is removed, as other queues do.
    asked["periodic_remove"] = f"JobStatus == 2 && time() - EnteredCurrentStatus > {site.walltime_s}"
    pairs = [line.partition("=") for line in site.directives]
    return asked | {name.strip(): value.strip() for name, _, value in pairs}


def _clock(seconds: int) -> str:
    """Return a time as hours:minutes:seconds."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
