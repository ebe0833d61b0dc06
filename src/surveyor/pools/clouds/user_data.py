"""The script that an instance runs at its first boot. It holds no secret, as everybody on the instance can read it."""

import os
import shlex
from pathlib import Path

from distributed import Security

from surveyor.pools.clouds.instance_watch import WATCHED
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.clouds.worker_command import python_of, worker_command
from surveyor.pools.machine import THREADS, UNBOUND

# The first act of an instance, whatever else it does. The timer does not survive a reboot, and cloud-init does not run
# the script again; Compute Engine would, for another lifetime. Therefore systemd powers off instead of booting again.
END_OF_LIFE = """\
#!/bin/bash
systemd-run --on-active={lifetime_s} poweroff || {{ echo "no end of life could be set"; poweroff; exit 1; }}
{farewell}trap {leave} EXIT
systemctl set-default poweroff.target || exit 1"""
FAREWELL = """\
leave() {{
{commands}
poweroff
}}
"""
# The guard is no child of the script: a prologue that waits for its own children must not wait for it.
SCRIPT = """\
{end_of_life}
export {watched}=$(mktemp -u)
( (
sleep {start_s}
[ -e "${watched}" ] || {{ echo "no worker was started within {start_s} s: this instance ends"; {leave}; }}
) & )
export SURVEYOR_JOB_BEGIN=$(date +%s)
export SURVEYOR_JOB_WALLTIME_S={lifetime_s}
threads=$(($(nproc) / {n_workers}))
[ "$threads" -ge 1 ] || threads=1
{exports}
{prologue}
{before}
setpriv --reuid={uid} --regid={gid} --clear-groups /bin/bash <<'SURVEYOR_WORKER'
exec > >(tee -a {output}) 2>&1
export HOME=$(mktemp -d)
cd "$HOME"
{check}
exec {command} </dev/null
SURVEYOR_WORKER
"""


def end_of_life(site: RentedSite) -> str:
    """Return the beginning of the script of an instance, by which it ends after its lifetime and with the script."""
    farewell = FAREWELL.format(commands=site.farewell) if site.farewell else ""
    return END_OF_LIFE.format(lifetime_s=site.walltime_s, farewell=farewell, leave=_leave(site))


def _leave(site: RentedSite) -> str:
    """Return the command by which an instance ends."""
    return "leave" if site.farewell else "poweroff"


def user_data(
    site: RentedSite,
    name: str,
    folder: Path,
    address: str,
    security: Security,
    check: str,
    before: str = "",
) -> str:
    """Return the script of an instance.

    Its first act is to set the end of its own life. It ends earlier when the watch of its worker does not begin in
    time, and then with the watch.

    It holds no secret: the certificate lies in the folder of the pool, on the file system that the instances mount, and
    only the owner of the folder can read it. Therefore the worker runs under the numbers of that user, and its files
    belong to the user.

    Args:
        site: settings of the pool.
        name: name of the worker; several workers append -0, -1 and so on.
        folder: folder of the pool, under the path that the instances see.
        address: address of the scheduler.
        security: certificates, by their files.
        check: arguments of the interpreter that compare the versions; empty for no check.
        before: commands that bring the folder to an instance that does not see it.
    """
    exports = [f"export {variable}=$threads" for variable in THREADS]
    exports += [f"export {variable}={value}" for variable, value in UNBOUND.items() if site.workers_per_job > 1]
    return SCRIPT.format(
        end_of_life=end_of_life(site),
        leave=_leave(site),
        lifetime_s=site.walltime_s,
        start_s=f"{60 * site.start_minutes:g}",
        watched=WATCHED,
        n_workers=site.workers_per_job,
        exports="\n".join(exports),
        prologue="\n".join(site.prologue),
        before=before,
        uid=os.getuid(),
        gid=os.getgid(),
        output=shlex.quote(str(folder / "jobs" / f"{name}.out")),
        check=f"{python_of(site)} {check} </dev/null || exit 1" if check else "",
        command=worker_command(site, name, address, security, hears_notice=site.spot),
    )
