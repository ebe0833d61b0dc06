"""The door of an instance: the setup at its first boot that lets the process of its pool log in by ssh.

It holds no secret. An instance makes its own keys, and shows the public ones on its console, which the cloud hands to
whoever may read it. So the pool knows the instance before it sends the certificate, and nobody else can pretend to be
it. The key of the user goes the other way, its public half alone.
"""

import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from surveyor.errors import InputError
from surveyor.pools.clouds.rented_site import RentedSite
from surveyor.pools.clouds.user_data import end_of_life

PLACE = "/run/surveyor"  # on an instance
LEASH = f"{PLACE}/leash"  # held open by what watches the workers: when it ends, the instance does
BEGIN = f"{PLACE}/begin"
KEYS = "/etc/ssh/surveyor"
MOST_ALIVE_S = 15.0  # between two questions whether the other side is there
ALIVE_COUNT = 3  # questions without an answer, after which it is not
HOST_KEY = re.compile(r"surveyor-host-key (\S+ [A-Za-z0-9+/=]+) end")  # the end shows that nothing of it is missing
OTHERS = 0o077  # bits of a file that others may use

# A new user has a password that nothing matches: one without any is locked, and some sshd accept no key of such a user.
SCRIPT = """\
{end_of_life}
umask 022
id {user} >/dev/null 2>&1 || useradd -m -s /bin/bash -p '*' {user} || exit 1
mkdir {place} && date +%s >{begin} && mkfifo -m 600 {leash} && chown {user} {leash} || exit 1
exec 8<>{leash}
mkdir {keys} && echo {public_key} >{keys}/{user} || exit 1
settings=$(printf '%s\\n' 'ClientAliveInterval {alive_s}' 'ClientAliveCountMax {alive_count}' \
'AuthorizedKeysFile {keys}/%u .ssh/authorized_keys'; cat /etc/ssh/sshd_config) || exit 1
printf '%s\n' "$settings" >/etc/ssh/sshd_config
systemctl try-reload-or-restart sshd || systemctl try-reload-or-restart ssh || exit 1
for key in /etc/ssh/ssh_host_*_key.pub; do
echo "surveyor-host-key $(cut -d ' ' -f 1,2 "$key") end"
done
read -r -t {start_s} -u 8 _ || {{ echo "no worker was started within {start_s} s: this instance ends"; exit 1; }}
exec 7<{leash} 8>&-
cat <&7 >/dev/null
echo "the workers have ended: this instance ends"
"""


@dataclass(frozen=True, slots=True)
class Door:
    """Address and public keys of an instance, by which ssh knows it.

    Attributes:
        address: its address.
        keys: its public keys, each a type and a key.
    """

    address: str
    keys: tuple[str, ...]


def alive_s_of(orphan_s: float) -> int:
    """Return the time in seconds between two questions of ssh or sshd whether the other side is there.

    Args:
        orphan_s: time in seconds after which workers end if the process of the pool does not answer.
    """
    return max(1, int(min(MOST_ALIVE_S, orphan_s / (ALIVE_COUNT + 1))))


def door_data(site: RentedSite, user: str, public_key: str) -> str:
    """Return the script of an instance whose workers are started by ssh.

    Its first act is to set the end of its own life. It ends earlier when no worker is started in time, and when what
    watches the workers has ended, for whatever reason.

    Args:
        site: settings of the pool.
        user: user on the instance who runs the workers.
        public_key: key with which the process of the pool logs in.
    """
    return SCRIPT.format(
        end_of_life=end_of_life(site),
        place=PLACE,
        begin=BEGIN,
        leash=LEASH,
        keys=KEYS,
        user=user,
        public_key=shlex.quote(public_key),
        alive_s=alive_s_of(60 * site.orphan_minutes),
        alive_count=ALIVE_COUNT,
        start_s=f"{60 * site.start_minutes:g}",
    )


def host_keys_in(console: Iterable[str]) -> tuple[str, ...]:
    """Return the public keys that an instance has shown on its console."""
    return tuple(dict.fromkeys(found[1] for line in console if (found := HOST_KEY.search(line))))


def public_key_of(key_file: Path) -> str:
    """Return the public half of a key with which ssh logs in.

    Raises:
        InputError: the file is missing, others can read it, or it is no private key without passphrase.
    """
    what = f"ssh_key_file: found {key_file}"
    try:
        mode = key_file.expanduser().stat().st_mode
    except OSError as error:
        raise InputError(f"{what}, expected a private key: {error.strerror}; make one: ssh-keygen -f KEY") from error
    if mode & OTHERS:
        raise InputError(
            f"{what}, which others can use (mode {mode & 0o777:03o}), expected a file of its owner alone: chmod 600 "
            f"{key_file}"
        )
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(key_file.expanduser())]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise InputError("connection: ssh needs ssh and ssh-keygen; install the client of OpenSSH") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        raise InputError(f"{what}, expected a private key without passphrase; ssh-keygen says: {said}")
    return " ".join(done.stdout.split()[:2])
