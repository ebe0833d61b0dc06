"""The ssh command that connects to a machine, and the exceptions for its failures."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surveyor.errors import PoolFailed
from surveyor.pools.clouds.ssh_door import ALIVE_COUNT, alive_s_of
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
    f"ServerAliveCountMax={ALIVE_COUNT}",
    f"ConnectTimeout={CONNECT_S:.0f}",
)
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


@dataclass(frozen=True, slots=True)
class Login:
    """The way in which ssh logs in to machines.

    Attributes:
        user: user on the machines, where a host names none; None for that of ssh.
        key_file: private key; None for those that ssh finds.
        config_file: configuration of ssh; None for that of the user.
        proxy_command: command through which ssh connects; None for a direct connection.
        alive_s: time in seconds between two questions whether the other side is there.
        address: address of the machine, if its name is none; None where the name is enough.
        known_keys: file with the keys of the machine, by its name; None for the keys that the user knows.
    """

    user: str | None
    key_file: Path | None
    config_file: Path | None
    proxy_command: str | None
    alive_s: int
    address: str | None = None
    known_keys: Path | None = None

    def options(self, host: str) -> list[str]:
        """Return the options of ssh that the user has given to the pool, and those of one machine."""
        options = {"ProxyCommand": self.proxy_command, "HostName": self.address}
        if self.known_keys is not None:  # and no others
            options |= {"UserKnownHostsFile": str(self.known_keys), "GlobalKnownHostsFile": "none"}
            options |= {"HostKeyAlias": host, "VerifyHostKeyDNS": "no"}
        files = {"-F": self.config_file, "-i": self.key_file}
        given = [(flag, str(file)) for flag, file in files.items() if file is not None]
        given += [("-o", f"{name}={value}") for name, value in options.items() if value is not None]
        return [word for pair in given for word in pair]


def login_of(site: SSHSite) -> Login:
    """Return how ssh logs in to the machines of a pool."""
    return Login(site.user, site.key_file, site.config_file, site.proxy_command, alive_s_of(site.orphan_s))


def destination_of(login: Login, host: str) -> list[str]:
    """Return the arguments of ssh that name a machine: port, user and host."""
    user, _, rest = host.rpartition("@")
    name, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        name, port = rest, ""
    user = user or login.user or ""
    return [*(["-p", port] if port else []), *(["-l", user] if user else []), "--", name.strip("[]")]


def command_of(login: Login, host: str, options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs on a machine the commands of standard input.

    Nothing of it is secret, as all users of both machines can read it.

    Args:
        login: user, key and way to the machine.
        host: the machine.
        options: further options of ssh, such as forwards.
    """
    settings = [*OPTIONS, f"ServerAliveInterval={login.alive_s}"]
    if login.key_file is not None:
        settings.append("IdentitiesOnly=yes")
    named = [word for setting in settings for word in ("-o", setting)]
    return ["ssh", "-T", *login.options(host), *named, *options, *destination_of(login, host), "exec bash -s"]


def refusal_of(login: Login, host: str, said: str) -> PoolFailed | NoCapacity:
    """Return the exception that matches a failure of ssh.

    Args:
        login: user, key and way to the machine.
        host: the machine.
        said: what ssh printed.
    """
    words = " ".join(line.strip() for line in said.splitlines() if line.strip(" @\r")).rstrip(".") or "nothing"
    message = f"ssh to {host} says: {words}"
    by_hand = shlex.join(["ssh", *login.options(host), *(word for word in destination_of(login, host) if word != "--")])
    if UNKNOWN_KEY.search(said):
        return _of_unknown_key(login, host, message, by_hand)
    if NO_PERMISSION.search(said):
        return Refused(
            f"{message}. The machine does not accept this user; give the pool the right user and key, and "
            f"see that this works without a question: {by_hand} true"
        )
    if NO_FORWARD.search(said):
        return Refused(f"{message}. The machine does not forward ports; have AllowTcpForwarding yes in its sshd_config")
    if MISTAKEN.search(said):
        return Refused(message)
    return NoCapacity(message) if UNREACHABLE.search(said) else PoolFailed(message)


def _of_unknown_key(login: Login, host: str, message: str, by_hand: str) -> Refused:
    if login.known_keys is not None:
        return Refused(
            f"ssh to {host} ({login.address}): its key is not the one that its console shows: another machine answers "
            "in its place, and gets nothing; see what the network or the proxy command leads to"
        )
    return Refused(
        f"{message}. The key of {host} is not the one that this user knows; compare its fingerprint with what the "
        f"owner of the machine says, and accept it by hand: {by_hand}"
    )
