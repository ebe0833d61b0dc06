"""A simulated EC2 whose instances are outside the network: their pool is on a laptop behind a router, or beside them.

An instance is a process namespace with file systems of its own for settings, users, homes, and the keys of its real
sshd. All have the same address, one after the other. No packet leaves this machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from natted import ADDRESS, LAPTOP, OUTSIDE, ROUTER, SSHD, Natted, natted
from simulated_cloud import MOTO, SimulatedCloud, client_at, simulated_cloud

BOOT = f"""
mount -t tmpfs -o mode=755 none /run && mkdir /run/sshd && cp -a /etc /run/etc && mount --bind /run/etc /etc || exit 1
mount -t tmpfs -o mode=755 none /etc/ssh && mount -t tmpfs -o mode=755 none /home || exit 1
echo "$AWS_EC2_METADATA_SERVICE_ENDPOINT" >/run/metadata
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
cat >/etc/ssh/sshd_config <<'END'
ListenAddress {ADDRESS}:22
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PidFile /run/sshd.pid
END
until {SSHD} -E /run/sshd.log && sleep 0.2 && kill -0 "$(cat /run/sshd.pid)"; do sleep 0.2; done
[ -z "$SIMULATED_HIDDEN" ] || mount -t tmpfs -o ro none "$SIMULATED_HIDDEN" || exit 1
exec "$@"
"""
ISOLATED = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
# What a worker that is started by ssh has to know of this scene.
METADATA = "export AWS_EC2_METADATA_SERVICE_ENDPOINT=$(cat /run/metadata)"


@contextmanager
def tunnelled_cloud() -> Iterator[tuple[Natted, SimulatedCloud]]:
    """Simulate EC2 with instances on the machine outside; the cloud answers on loopback everywhere."""
    with natted(serves=False) as net:
        rooms = [nullcontext, *(partial(net.inside, where) for where in (LAPTOP, ROUTER, OUTSIDE))]
        with simulated_cloud(rooms) as cloud:
            enter = ("nsenter", "-t", str(net.holders[OUTSIDE]), "-n")
            cloud.address, cloud.boot = ADDRESS, (*enter, *ISOLATED, "bash", "-c", BOOT, "boot")
            cloud.client = client_at(f"{cloud.url}/{MOTO}")
            yield net, cloud
