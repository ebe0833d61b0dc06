"""Instances of simulated clouds as processes on this machine: they run their scripts, and can be powered off.

Clouds invent public addresses for instances. Nothing ever connects to them: the watch on foreign connections notes it,
also on instances.
"""

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import foreign_connections
import psutil
from hidden_workers import hiding
from processes import kill_all, processes_with, wait_until

from surveyor.pools.ec2.site import EC2Site
from surveyor.pools.gcp.site import GCPSite

SECRET = "planted-secret-0815"  # what the credentials hold here, and what must be found nowhere
POLL_S = 0.3

# The guards of an instance act on the machine, so these stand before the real ones.
SIMULATED = {
    "systemd-run": '#!/bin/sh\necho "$@" > "$SIMULATED_FOLDER/$SIMULATED_INSTANCE.guard"\n'
    'seconds=${1#--on-active=}\nshift\n(sleep "$seconds"; "$@") >/dev/null 2>&1 </dev/null &\n',
    "poweroff": '#!/bin/sh\ntouch "$SIMULATED_FOLDER/$SIMULATED_INSTANCE.off"\n',
    "systemctl": '#!/bin/sh\ncase "$*" in\n'
    '"set-default "*) echo "$2" > "$SIMULATED_FOLDER/$SIMULATED_INSTANCE.target" ;;\n'
    '"try-reload-or-restart ssh") kill -HUP "$(cat /run/sshd.pid)" ;;\n*) exit 1 ;;\nesac\n',
}
# Users other than root cannot change who they are.
AS_THEY_ARE = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'


class PlayedCloud:
    """Base of simulated clouds, which are dataclasses.

    Attributes:
        folder: where its instances have their files.
        url: where it answers.
        hidden: folder that instances do not see; None if they see all of this machine.
        boot: beginning of the command that runs the script of an instance.
        address: address of all instances; None for those that the cloud invents, to which nothing may connect.
    """

    site_type: ClassVar[type[EC2Site | GCPSite]]

    folder: Path
    url: str
    hidden: Path | None
    boot: Sequence[str]
    address: str | None

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which processes find it and their credentials."""
        raise NotImplementedError

    def fields(self, **fields: Any) -> dict[str, Any]:
        """The fields of a block for it."""
        raise NotImplementedError

    def metadata(self, instance: str) -> dict[str, str]:
        """The variable by which an instance finds its metadata."""
        raise NotImplementedError

    def script_of(self, instance: str) -> str:
        """The script that an instance runs at its first boot."""
        raise NotImplementedError

    def running(self) -> set[str]:
        """The instances that have power; asked several times a second."""
        return {*self.alive()}

    def alive(self) -> list[str]:
        """The instances that have not ended."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """The instances that cost something, if only for their disks."""
        return self.alive()

    def power_off(self, instance: str) -> None:
        """Note that an instance has powered itself off."""
        raise NotImplementedError

    def n_requested(self) -> int:
        """The number of requests for an instance so far."""
        raise NotImplementedError

    def take_away(self, instance: str) -> None:
        """End a spot instance that is wanted back, without a notice."""
        raise NotImplementedError

    @property
    def python_path(self) -> str:
        """Paths of the modules that tests share, and of the code under test if it is not installed."""
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return os.pathsep.join(dict.fromkeys([*foreign_connections.PATHS.split(os.pathsep), *filter(None, given)]))

    def file(self, instance: str, ending: str) -> Path:
        """A file of an instance, such as its console."""
        return self.folder / f"{name_of(instance)}.{ending}"

    def processes(self) -> set[Any]:
        """The processes of all instances."""
        return processes_with({"SIMULATED_METAL": str(self.folder)})

    def wait_for_the_end(self, timeout_s: float) -> None:
        """Wait until no instance and no process of one is left."""
        wait_until(lambda: not self.left(), lambda: f"left: {self.left()}", timeout_s)
        wait_until(lambda: not self.processes(), lambda: f"alive: {self.processes()}", timeout_s)


@contextmanager
def metal_of(cloud: PlayedCloud) -> Iterator[None]:
    """Run the instances of a cloud; in the end, none is left."""
    metal, stop = _Metal(cloud), threading.Event()
    thread = threading.Thread(target=metal.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        kill_all(cloud.processes)
        metal.wait()


class _Metal:
    def __init__(self, cloud: PlayedCloud) -> None:
        self.cloud = cloud
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        self.over: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(POLL_S):
            running = self.cloud.running()
            for instance in running - {*self.started}:
                self.started[instance] = boot(self.cloud, instance, self.cloud.script_of(instance))
            for instance in self.started:  # an instance whose script is over lives on
                is_off = self.cloud.file(instance, "off").exists()
                if instance not in self.over and (instance not in running or is_off):
                    self._end(instance)

    def wait(self) -> None:
        for process in self.started.values():
            process.wait()

    def _end(self, instance: str) -> None:
        self.over.add(instance)
        kill_all(lambda: processes_of(instance))
        self.started[instance].wait()
        if instance in self.cloud.alive():  # it has powered itself off
            self.cloud.power_off(instance)


def name_of(instance: str) -> str:
    """Return the name of an instance without its zone."""
    return instance.rpartition("/")[2]


def processes_of(instance: str) -> set[psutil.Process]:
    """Return the processes of an instance."""
    return processes_with({"SIMULATED_INSTANCE": name_of(instance)})


def boot(cloud: PlayedCloud, instance: str, text: str) -> "subprocess.Popen[bytes]":
    """Run the script of an instance; what it prints is in INSTANCE.console in the folder of the cloud."""
    folder, script = cloud.folder, cloud.file(instance, "sh")
    script.write_text(text)
    before = cloud.boot or (["true"] if "/etc/ssh" in text else [])  # never the settings of this machine
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": cloud.python_path,
        "SIMULATED_FOLDER": str(folder),
        "SIMULATED_METAL": str(folder),
        "SIMULATED_INSTANCE": name_of(instance),
        **foreign_connections.variables(),
        **cloud.metadata(instance),
    }
    with cloud.file(instance, "console").open("wb") as console:
        return subprocess.Popen(
            [*(hiding(cloud.hidden) if cloud.hidden else before), "bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            cwd=folder,
            env=environment,
        )


def write_programs(folder: Path) -> None:
    """Write the programs that stand before the real ones on instances."""
    (folder / "bin").mkdir()
    simulated = SIMULATED | ({} if os.geteuid() == 0 else {"setpriv": AS_THEY_ARE})
    for name, text in simulated.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
