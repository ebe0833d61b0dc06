"""The process that has a training program in memory, and forks for each training: see `preloaded`.

python -m surveyor.models.preloading ADDRESS MODULE
"""

import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from surveyor.launcher import end_with_parent

READY = b"ready"
GRACE_S = 5.0
POLL_S = 1.0
IDLE_S = 1800.0  # after which it gives its memory back; the next training starts another one


@dataclass(frozen=True, slots=True)
class Training:
    """A training that runs.

    Attributes:
        process: identifier of its process, and of the group that it leads.
        connection: to whoever has asked for it.
        ending: becomes readable when the process ends.
    """

    process: int
    connection: socket.socket
    ending: int


class Server:
    """Forks for whoever asks, and tells each how its training ended.

    Args:
        listener: where trainings are asked for.
        module: with the `main` of their program, and all imports done.
        variables: of the environment that the imports have set.
    """

    def __init__(self, listener: socket.socket, module: Any, variables: Mapping[str, str]) -> None:  # Any: a module
        self.listener = listener
        self.module = module
        self.variables = variables
        self.parent = os.getppid()
        self.trainings: dict[int, Training] = {}
        self.selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve as long as the worker lives and asks."""
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        idle_since = time.monotonic()
        while os.getppid() == self.parent and time.monotonic() - idle_since < IDLE_S:
            for key, _ in self.selector.select(POLL_S):
                if key.fileobj is sys.stdin:  # only its end can be read there
                    return
                if key.fileobj is self.listener:
                    self._begin(self.listener.accept()[0])
                elif key.fileobj is key.data.connection:  # whoever waits for it is gone
                    _kill(key.data.process)
                elif key.data.process in self.trainings:
                    self._end(key.data)
            if self.trainings:
                idle_since = time.monotonic()

    def _begin(self, connection: socket.socket) -> None:
        with connection.makefile("r") as stream:
            request = stream.readline()
        if not request or len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208  (a fork has one thread alone)
            connection.close()
            return
        server, process = os.getpid(), os.fork()
        if process == 0:
            try:
                self._forget()
                connection.close()
                end_with_parent()
                if os.getppid() == server:
                    _train(self.module, json.loads(request), self.variables)
            finally:  # a fork never serves
                os._exit(1)
        training = Training(process, connection, os.pidfd_open(process))
        self.trainings[process] = training
        for source in (connection, training.ending):
            self.selector.register(source, selectors.EVENT_READ, data=training)
        _tell(connection, {"process": process})

    def _forget(self) -> None:
        """Close, in a fork, what belongs to the server."""
        self.selector.close()
        self.listener.close()
        for training in self.trainings.values():
            training.connection.close()
            os.close(training.ending)

    def _end(self, training: Training) -> None:
        """Tell how a training has ended, and end what it has started."""
        _kill(training.process)
        _, status = os.waitpid(training.process, 0)
        del self.trainings[training.process]
        for source in (training.connection, training.ending):
            self.selector.unregister(source)
        os.close(training.ending)
        _tell(training.connection, {"returncode": os.waitstatus_to_exitcode(status)})
        training.connection.close()

    def end(self) -> None:
        """Kill all trainings."""
        for process in self.trainings:
            _kill(process)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _tell(connection: socket.socket, answer: Mapping[str, int]) -> None:
    with suppress(OSError):  # it is gone
        connection.sendall(json.dumps(answer).encode() + b"\n")


def _train(
    module: Any, request: Mapping[str, Any], variables: Mapping[str, str]
) -> NoReturn:  # Any: a module, and what JSON holds
    """Become the process of a training, in a fork."""
    os.setsid()
    os.chdir(request["directory"])
    _replace(0, os.open(os.devnull, os.O_RDONLY))
    _replace(1, os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update({**request["environment"], **variables})
    sys.argv = [str(module.__file__), *request["arguments"]]
    code = _exit_code(module)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _replace(descriptor: int, opened: int) -> None:
    os.dup2(opened, descriptor)
    os.close(opened)


def _exit_code(module: Any) -> int:  # Any: a module
    """Run a program, and return the exit code with which Python would end."""
    try:
        module.main()
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        sys.stderr.write(f"{exit_.code}\n")
        return 1
    except BaseException:  # noqa: BLE001  (whatever ends a program)
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Import a program, say so, and serve."""
    address, name = sys.argv[1:]
    answers = os.dup(1)
    _replace(1, os.open(os.devnull, os.O_WRONLY))  # imports may print
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)  # before the imports, which take their time: the path may be too long for a socket
        before = dict(os.environ)
        module = importlib.import_module(name)
        module.preload()
        variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
        listener.listen()
        os.write(answers, READY + b"\n")
        os.close(answers)
        server = Server(listener, module, variables)
        try:
            server.run()
        finally:
            server.end()
            shutil.rmtree(Path(address).parent, ignore_errors=True)


if __name__ == "__main__":
    main()
