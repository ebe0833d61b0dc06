"""The script that a machine runs for a job, and the order that its worker gets: both by standard input of ssh."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from surveyor.pools.clouds.ssh_door import BEGIN
from surveyor.pools.machine import THREADS, UNBOUND
from surveyor.pools.site import WorkersSite

WATCH = "surveyor.pools.ssh.watch"
UNFIT = 78  # status of a script that finds what no later one would find otherwise

# Bash reads all of the block before it runs any of it, so no command of the prologue takes the order for its input. And
# it reads the prologue as text: a quotation that does not end there would go on into the order, and into a message.
BLOCK = """\
{{
IFS= read -r -d '' script <<'{end}'
{script}
{end}
exec 3<&0 </dev/null
eval "$script"
exit 1
}}
"""
SCRIPT = """\
say() {{ echo "surveyor: $*" >&2; exit {unfit}; }}
python={python}
export SURVEYOR_JOB_BEGIN=$(cat {begin} 2>/dev/null || date +%s)
export SURVEYOR_JOB_WALLTIME_S={lifetime_s}
cores=$(nproc)
threads=$((cores / {n_workers}))
[ "$threads" -ge 1 ] || threads=1
{exports}
{prologue}
command -v "$python" >/dev/null || say "there is no interpreter $python on $(uname -n); set python of the pool to the \
full path of one in an environment with surveyor"
IFS= read -r -d '' check <<'SURVEYOR_CHECK'
{check}
SURVEYOR_CHECK
"$python" -c "$check" /dev/stdin <<'SURVEYOR_VERSIONS' || exit {unfit}
{versions}
SURVEYOR_VERSIONS
{act}
exit
"""
SEEN = """\
[ -w {folder} ] || say "$(uname -n) does not see the folder "{folder}", or cannot write into it; the machines of \
this pool have to see the run directory under the same path"
"""


@dataclass(frozen=True, slots=True)
class Order:
    """Instructions for a worker. They hold the certificate, so they are printed nowhere.

    Attributes:
        name: name of the job.
        scheduler: address of the scheduler, as the machine sees it.
        ports: where the workers listen on the machine.
        contacts: addresses of the workers, as the scheduler sees them.
        certificate: certificate of the pool.
        key: its private key.
        orphan_s: time in seconds after which the workers end if the scheduler does not answer.
        lifetime_s: time in seconds after which the workers end.
        leash: file that is held open while the workers run; empty for none.
        notice: kind of the cloud that may take the machine away; empty where nobody does.
    """

    name: str
    scheduler: str
    ports: Sequence[int]
    contacts: Sequence[str]
    certificate: str = field(repr=False)
    key: str = field(repr=False)
    orphan_s: float
    lifetime_s: float
    leash: str = ""
    notice: str = ""

    @property
    def line(self) -> str:
        """The order as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def script_of(site: WorkersSite, check: str, versions: str, act: str) -> str:
    """Return a script that prepares the environment, compares the versions, and acts.

    Args:
        site: settings of the pool.
        check: the program that compares versions.
        versions: those of this side, as the program reads them.
        act: the commands after that; descriptor 3 is the standard input that follows the script.
    """
    exports = [f"export {variable}=$threads" for variable in THREADS]
    exports += [f"export {variable}={value}" for variable, value in UNBOUND.items() if site.workers_per_job > 1]
    script = SCRIPT.format(
        begin=BEGIN,
        python=shlex.quote(site.python or sys.executable),
        lifetime_s=site.walltime_s,
        n_workers=site.workers_per_job,
        exports="\n".join(exports),
        prologue="\n".join(site.prologue),
        check=check,
        versions=versions,
        act=act,
        unfit=UNFIT,
    )
    return BLOCK.format(script=script, end=f"SURVEYOR_{uuid4().hex}")


def worker_script(site: WorkersSite, folder: Path | None, check: str, versions: str) -> str:
    """Return the script of a job, which the line of an order has to follow.

    Args:
        site: settings of the pool.
        folder: folder that the machine has to see under this path; None for none.
        check: the program that compares versions.
        versions: those of this side, as the program reads them.
    """
    seen = "" if folder is None else SEEN.format(folder=shlex.quote(str(folder)))
    return script_of(site, check, versions, f'{seen}exec "$python" -m {WATCH} <&3 3<&-')
