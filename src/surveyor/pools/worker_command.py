"""The command that starts the workers of a machine in a cloud, and ends them when their pool is silent."""

import shlex
import sys
from pathlib import Path

from distributed import Security

from surveyor.pools import instance_watch
from surveyor.pools.cloud_site import CloudSite


def python_of(site: CloudSite) -> str:
    """Return the interpreter on the machine, quoted for a shell."""
    return shlex.quote(site.python or sys.executable)


def worker_command(site: CloudSite, name: str, address: str, security: Security, notice: Path | None = None) -> str:
    """Return a line of a shell script.

    Args:
        site: settings of the pool.
        name: name of the worker; several workers append -0, -1 and so on.
        address: address of the scheduler.
        security: certificates, by their files.
        notice: file to which the machine writes when it is taken away; None for one that stays.
    """
    files = {"--tls-ca-file": security.tls_ca_file, "--tls-cert": security.tls_worker_cert}
    files["--tls-key"] = security.tls_worker_key
    orphan_s, python = 60 * site.orphan_minutes, python_of(site)
    notice_argument = instance_watch.NO_NOTICE if notice is None else shlex.quote(f"{site.kind}={notice}")
    watch = [python, "-m", instance_watch.__name__, address, f"{orphan_s:g}", notice_argument, *files.values()]
    worker = [python, "-m", "distributed.cli.dask_worker", address, "--name", name]
    worker += ["--nthreads", "1", "--nworkers", str(site.workers_per_job), "--memory-limit", "0", "--no-dashboard"]
    worker += ["--nanny", "--death-timeout", f"{orphan_s:g}", *(word for pair in files.items() for word in pair)]
    return " ".join([*watch, *worker])
