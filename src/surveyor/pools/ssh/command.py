"""The command that connects to a machine, and what it means when that fails."""

import re
import shlex
from collections.abc import Sequence

from surveyor.errors import PoolFailed
from surveyor.pools.machines import NoCapacity, Refused
from surveyor.pools.ssh.site import SSHSite

LOGIN_S = 30.0  # for the connection with the authentication
CONNECT_S = 10.0
FAILED = 255  # exit status of ssh itself; others are those of the command on the machine

# Whatever the user's configuration says: nobody is asked, no unknown machine gets the certificate, the connection is
# one of its own, and the machine can use nothing of the user but it.
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "ExitOnForwardFailure=yes",
    "ControlMaster=no",
    "ControlPath=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "LogLevel=INFO",
    "ServerAliveCountMax=3",
    f"ConnectTimeout={CONNECT_S:.0f}",
)
MOST_ALIVE_S = 15.0  # between two questions whether the other side is there

ALLOCATED = re.compile(r"^Allocated port (\d+) for remote forward", re.MULTILINE)
UNKNOWN_KEY = re.compile(r"host key is known for|Host key verification failed|HOST IDENTIFICATION HAS CHANGED")
NO_PERMISSION = re.compile(r"Permission denied|Too many authentication failures|No more authentication methods")
NO_FORWARD = re.compile(r"remote port forwarding failed|administratively prohibited")
MISTAKEN = re.compile(r"Bad (owner or permissions|configuration option|port)|Can't open user config|bad configuration")
UNREACHABLE = re.compile(
    r"Could not resolve hostname|Connection (refused|timed out|closed|reset)|Operation timed out|No route to host"
    r"|Network is unreachable|Host is down|banner exchange|kex_exchange_identification|Broken pipe"
    r"|not responding|did not answer",
    re.IGNORECASE,
)


def destination_of(site: SSHSite, host: str) -> list[str]:
    """Return the arguments of ssh that name a machine: port, user and host."""
    user, _, rest = host.rpartition("@")
    name, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        name, port = rest, ""
    user = user or site.user or ""
    return [*(["-p", port] if port else []), *(["-l", user] if user else []), "--", name.strip("[]")]


def command_of(site: SSHSite, host: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs on a machine the commands of standard input.

    Nothing of it is secret, as all users of both machines can read it.

    Args:
        site: settings of the pool.
        host: the machine.
        options: further options of ssh, such as forwards.
    """
    alive_s = max(1, int(min(MOST_ALIVE_S, site.orphan_s / 4)))
    settings = [*OPTIONS, f"ServerAliveInterval={alive_s}"]
    if site.key_file is not None:
        settings.append("IdentitiesOnly=yes")
    named = [word for setting in settings for word in ("-o", setting)]
    return ["ssh", "-T", *_given(site), *named, *options, *destination_of(site, host), "exec bash -s"]


def _given(site: SSHSite) -> list[str]:
    """Return the options of ssh that the user has given to the pool."""
    proxy = None if site.proxy_command is None else f"ProxyCommand={site.proxy_command}"
    given = [("-F", site.config_file), ("-i", site.key_file), ("-o", proxy)]
    return [word for option, value in given if value is not None for word in (option, str(value))]


def refusal_of(site: SSHSite, host: str, said: str) -> PoolFailed | NoCapacity:
    """Return the exception that says what the end of ssh means.

    Args:
        site: settings of the pool.
        host: the machine.
        said: what ssh printed.
    """
    words = " ".join(line.strip() for line in said.splitlines() if line.strip(" @\r")).rstrip(".") or "nothing"
    told = f"ssh to {host} says: {words}"
    by_hand = shlex.join(["ssh", *_given(site), *(word for word in destination_of(site, host) if word != "--")])
    if UNKNOWN_KEY.search(said):
        return Refused(
            f"{told}. The key of {host} is not the one that this user knows; compare its fingerprint with what the "
            f"owner of the machine says, and accept it by hand: {by_hand}"
        )
    if NO_PERMISSION.search(said):
        return Refused(
            f"{told}. The machine does not accept this user; give the pool the right user and key (user, key_file), "
            f"and see that this works without a question: {by_hand} true"
        )
    if NO_FORWARD.search(said):
        return Refused(f"{told}. The machine does not forward ports; have AllowTcpForwarding yes in its sshd_config")
    if MISTAKEN.search(said):
        return Refused(told)
    return NoCapacity(told) if UNREACHABLE.search(said) else PoolFailed(told)
