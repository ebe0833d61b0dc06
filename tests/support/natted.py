"""A laptop behind a router with network address translation, and a machine outside with a real sshd.

Each is a network namespace of its own, so no packet leaves this machine. They share its file system, but for a folder.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from processes import Servers, kill_all, processes_where, servers, wait_until

SSHD = "/usr/sbin/sshd"
ADDRESS = "203.0.113.2"
LAPTOP, ROUTER, OUTSIDE = "laptop", "router", "outside"
CONFIG = """\
ListenAddress {address}:22
ListenAddress {address}:2222
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


def has_sshd() -> bool:
    """Say whether this user can make network namespaces, and has all programs for it."""
    programs = ("ssh", "ssh-keygen", "ip", "iptables", "nsenter", "unshare")
    return os.geteuid() == 0 and Path(SSHD).exists() and all(map(shutil.which, programs))


@dataclass(frozen=True)
class Natted:
    """The three namespaces.

    Attributes:
        folder: keys and configurations.
        holders: a process in each namespace that does nothing.
        started: the servers.
    """

    folder: Path
    holders: dict[str, int]
    started: Servers

    @property
    def fields(self) -> dict[str, object]:
        """The fields of a pool on the laptop that uses the machine."""
        return {"hosts": [f"root@{ADDRESS}"], "key_file": self.folder / "user", "config_file": self.folder / "config"}

    @property
    def unseen(self) -> Path:
        """A folder that the machine outside does not see."""
        return self.folder / "unseen"

    def run(self, where: str, *command: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.holders[where]), "-n", *command], check=True, capture_output=True)

    @contextmanager
    def inside(self, where: str) -> Iterator[None]:
        """Have this thread, and all threads and processes that it starts, in a namespace."""
        with (
            Path("/proc/thread-self/ns/net").open() as before,
            Path(f"/proc/{self.holders[where]}/ns/net").open() as after,
        ):
            _enter(after.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Drop all packets, as when the laptop sleeps."""
        self.run(ROUTER, "iptables", "-I", "FORWARD", "-j", "DROP")
        try:
            yield
        finally:
            self.run(ROUTER, "iptables", "-D", "FORWARD", "-j", "DROP")

    def processes(self) -> set[psutil.Process]:
        """All that runs on the machine outside, but for its sshd."""
        namespace = self.namespace(OUTSIDE)

        def is_meant(process: psutil.Process) -> bool:
            if process.pid == self.holders[OUTSIDE] or process.name().startswith("sshd"):
                return False
            try:
                return network_of(process.pid) == namespace
            except OSError:  # it is gone
                return False

        return processes_where(is_meant)

    def wait_until_idle(self, timeout_s: float) -> None:
        """Wait until nothing but sshd runs on the machine outside."""
        wait_until(lambda: not self.processes(), lambda: f"there is still {self.processes()}", timeout_s)

    def namespace(self, where: str) -> str:
        return network_of(self.holders[where])


def network_of(process: int) -> str:
    """Return what tells the network namespace of a process from others."""
    return str(Path(f"/proc/{process}/ns/net").readlink())


def network_and_bytes(count: int) -> tuple[str, bytes]:
    """Return the network namespace of this process, and some bytes."""
    return network_of(os.getpid()), bytes(count)


def settings_of_sshd() -> set[str]:
    """Return the settings of the sshd of this machine."""
    return {*subprocess.run([SSHD, "-T"], check=True, capture_output=True, text=True).stdout.splitlines()}


def start_a_program() -> None:
    """Start a program that has nothing to do with this process any more."""
    subprocess.Popen(["sleep", "1000"], start_new_session=True)


@contextmanager
def natted(*, serves: bool = True) -> Iterator[Natted]:
    """Set the namespaces and the sshd up; nothing of them is left.

    Args:
        serves: whether there is an sshd.
    """
    with servers("/tmp/svy-ssh-") as started:
        environment = {"SVY_FOLDER": str(started.folder)}
        holders = {
            where: started.start("unshare", "-n", "sleep", "infinity", environment=environment).pid
            for where in (LAPTOP, ROUTER, OUTSIDE)
        }
        scene, own = Natted(started.folder, holders, started), network_of(os.getpid())
        wait_until(lambda: own not in map(scene.namespace, holders), lambda: "no unshare")
        _connect(scene)
        _write_keys(scene.folder)
        Path("/run/sshd").mkdir(exist_ok=True)
        scene.unseen.mkdir()
        if serves:
            enter = ("nsenter", "-t", str(holders[OUTSIDE]), "-n", "unshare", "-m", "sh", "-c")
            serve = f"mount -t tmpfs none {scene.unseen} && exec {SSHD} -D -e -f {scene.folder}/sshd_config"
            started.start(*enter, serve, environment=environment)
            wait_until(lambda: "Server listening" in started.logs(), started.logs)
        try:
            yield scene
        finally:
            kill_all(scene.processes)


def _connect(scene: Natted) -> None:
    for link, where, near, far in (
        ("l", LAPTOP, "192.168.77.1", "192.168.77.2"),
        ("o", OUTSIDE, "203.0.113.1", ADDRESS),
    ):
        peer = ("peer", "name", f"{link}0", "netns", str(scene.holders[where]))
        scene.run(ROUTER, "ip", "link", "add", f"{link}1", "type", "veth", *peer)
        for each, end, address in ((ROUTER, f"{link}1", near), (where, f"{link}0", far)):
            scene.run(each, "ip", "addr", "add", f"{address}/24", "dev", end)
            scene.run(each, "ip", "link", "set", end, "up")
    for where in scene.holders:
        scene.run(where, "ip", "link", "set", "lo", "up")
    scene.run(LAPTOP, "ip", "route", "add", "default", "via", "192.168.77.1")
    scene.run(ROUTER, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    scene.run(ROUTER, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "o1", "-j", "MASQUERADE")
    # Only ssh comes in (by two ports, as to two machines), as where a provider closes all other ports.
    scene.run(
        OUTSIDE,
        "iptables",
        "-A",
        "INPUT",
        "-i",
        "o0",
        "-p",
        "tcp",
        "-m",
        "multiport",
        "--dports",
        "22,2222",
        "-j",
        "ACCEPT",
    )
    scene.run(OUTSIDE, "iptables", "-A", "INPUT", "-i", "o0", "-j", "DROP")


def _write_keys(folder: Path) -> None:
    for name in ("user", "host", "stranger", "restricted"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    user, restricted = (folder / "user.pub").read_text(), (folder / "restricted.pub").read_text()
    (folder / "authorized").write_text(f"{user}no-port-forwarding {restricted}")
    (folder / "known").write_text(f"{ADDRESS},[{ADDRESS}]:2222 {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(f"UserKnownHostsFile {folder}/known\nGlobalKnownHostsFile none\n")
    (folder / "sshd_config").write_text(CONFIG.format(address=ADDRESS, folder=folder))


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")
