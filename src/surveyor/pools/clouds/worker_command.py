"""The command that starts the workers of a machine in a cloud, and ends them when their pool is silent."""

import shlex
import sys

from distributed import Security

from surveyor.pools.clouds import instance_watch
from surveyor.pools.clouds.cloud_site import CloudSite


def python_of(site: CloudSite) -> str:
    """Return the interpreter on the machine, quoted for a shell."""
    return shlex.quote(site.python or sys.executable)


def worker_command(site: CloudSite, name: str, address: str, security: Security, *, hears_notice: bool = False) -> str:
    """Return a line of a shell script.

    Args:
        site: settings of the pool.
        name: name of the worker; several workers append -0, -1 and so on.
        address: address of the scheduler.
        security: certificates, by their files.
        hears_notice: whether the machine may be taken away, and is to say so when it hears of it.
    """
    files = {"--tls-ca-file": security.tls_ca_file, "--tls-cert": security.tls_worker_cert}
    files["--tls-key"] = security.tls_worker_key
    orphan_s, python = 60 * site.orphan_minutes, python_of(site)
    notice = f"{site.kind}={name}" if hears_notice else instance_watch.NO_NOTICE
    watch = [python, "-m", instance_watch.__name__, address, f"{orphan_s:g}", notice, *files.values()]
    worker = [python, "-m", "distributed.cli.dask_worker", address, "--name", name]
    worker += ["--nthreads", "1", "--nworkers", str(site.workers_per_job), "--memory-limit", "0", "--no-dashboard"]
    # Dask's limit to the start of a worker, too. Once the pool has been silent for too long, the watch ends the worker.
    worker += ["--nanny", "--death-timeout", f"{60 * site.start_minutes:g}"]
    worker += [word for pair in files.items() for word in pair]
    return " ".join([*watch, *worker])
