"""Description of a machine that is reached by ssh, asked for before a job is sent to it."""

import json
import shlex
import subprocess
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from surveyor.errors import PoolFailed
from surveyor.pools import worker_check
from surveyor.pools.machines import NoCapacity
from surveyor.pools.ssh.command import FAILED, LOGIN_S, command_of, login_of, refusal_of
from surveyor.pools.ssh.script import script_of
from surveyor.pools.ssh.site import SSHSite

LOOK_S = LOGIN_S + 60.0  # the prologue and the imports of the check take their time
FORWARD = ("-R", "127.0.0.1:0:127.0.0.1:9")  # nobody connects to it: it shows that the machine forwards
MARK = "surveyor-host "
LOOK = """\
printf '{mark}name %s\\n' "$(uname -n)"
printf '{mark}cores %s\\n' "$cores"
for folder in {folders}; do [ -d "$folder" ] || printf '{mark}unseen %s\\n' "$folder"; done
nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sed 's/^/{mark}gpu /'
exit 0"""


@dataclass(frozen=True, slots=True)
class HostView:
    """The description of a machine by itself.

    Attributes:
        host: the machine, as the pool names it.
        name: its own name.
        cores: number of cores.
        gpus: names of the GPUs that its driver lists.
        unseen: folders of this side that it does not see.
        error: why it cannot be used, or not now; None if it can.
    """

    host: str
    name: str = ""
    cores: int = 0
    gpus: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    error: PoolFailed | NoCapacity | None = None


def look_at_hosts(site: SSHSite, folders: Collection[Path]) -> list[HostView]:
    """Return the environments of all machines of a pool, which are asked concurrently.

    Args:
        site: settings of the pool.
        folders: folders of this side that the machines should see.
    """
    with ThreadPoolExecutor(len(site.hosts)) as threads:
        return list(threads.map(lambda host: _look_at(site, host, folders), site.hosts))


def _look_at(site: SSHSite, host: str, folders: Collection[Path]) -> HostView:
    login, wanted = login_of(site), " ".join(shlex.quote(str(folder)) for folder in folders)
    act = LOOK.format(mark=MARK, folders=wanted)
    script = script_of(site, Path(worker_check.__file__).read_text(), json.dumps(worker_check.this_side()), act)
    try:
        done = subprocess.run(
            command_of(login, host, FORWARD), input=script, capture_output=True, text=True, timeout=LOOK_S, check=False
        )
    except FileNotFoundError:
        return HostView(host, error=PoolFailed("there is no program ssh; install the client of OpenSSH"))
    except subprocess.TimeoutExpired:
        return HostView(host, error=NoCapacity(f"ssh to {host} gave no answer within {LOOK_S:.0f} s"))
    if done.returncode == FAILED:
        return HostView(host, error=refusal_of(login, host, done.stderr))
    if done.returncode:
        said = [line for line in f"{done.stdout}{done.stderr}".splitlines() if not line.startswith("Allocated port")]
        return HostView(host, error=PoolFailed("\n".join(said[-5:]) or f"its script ended with {done.returncode}"))
    return _read(host, done.stdout.splitlines())


def _read(host: str, lines: Sequence[str]) -> HostView:
    pairs = [line.removeprefix(MARK).partition(" ")[::2] for line in lines if line.startswith(MARK)]
    said = {key: tuple(value for other, value in pairs if other == key) for key, _ in pairs}
    cores = int(said.get("cores", ("0",))[0] or 0)
    return HostView(host, said.get("name", ("",))[0], cores, said.get("gpu", ()), said.get("unseen", ()))
