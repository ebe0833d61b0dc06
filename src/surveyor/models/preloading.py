"""The process that has a training program in memory, and forks for each training: see `preloaded`.

python -m surveyor.models.preloading ADDRESS MODULE
"""

import importlib
import json
import os
import shutil
import signal
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from surveyor.programs.launcher import begin, end_of

READY, BEGUN = b"ready\n", b"begun\n"
POLL_S = 1.0
IDLE_S = 1800.0  # after which it gives its memory back; the next training starts another one


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """A server that forks on request, as long as the worker lives and the socket exists.

    Args:
        address: path of the socket that receives requests.
        module: name of the module with the `main` of their program, and with a `preload` that does its imports.
    """

    timeout = POLL_S
    max_children = sys.maxsize  # the worker decides how many trainings run at once
    block_on_close = False

    def __init__(self, address: str, module: str) -> None:
        super().__init__(address, TrainingRequest, bind_and_activate=False)
        self.process, self.worker = os.getpid(), os.getppid()
        self.server_bind()  # before the imports, which take their time: the path may be too long for a socket
        before = dict(os.environ)
        self.module = importlib.import_module(module)
        self.module.preload()
        self.variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
        self.server_activate()

    def verify_request(self, request: object, client_address: object) -> bool:
        """Return whether a fork is safe, that is, the process has a single thread."""
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208

    def serve(self) -> None:
        """Serve until the worker is gone, until its address is gone and no training runs, or until it is idle."""
        busy = time.monotonic()
        while os.getppid() == self.worker and time.monotonic() - busy < IDLE_S:
            self.handle_request()
            self.collect_children()
            if self.active_children:
                busy = time.monotonic()
            elif not Path(cast("str", self.server_address)).exists():
                return


class TrainingRequest(socketserver.StreamRequestHandler):
    """A request for a training, which runs in a fork of the server that forks once more.

    The first fork acts like the launcher of other programs: it ends the training with all its child processes
    when the server dies or when no caller waits for it.
    """

    server: Server

    def handle(self) -> None:
        """Run the training to its end, and tell its exit code."""
        os.setsid()
        self.server.socket.close()
        request = json.loads(self.rfile.readline())
        self.wfile.write(BEGUN)
        training = begin(lambda: self._train(request), self.server.process)
        threading.Thread(target=self._end_when_nobody_waits, daemon=True).start()
        self.wfile.write(b"%d\n" % end_of(training))

    def _end_when_nobody_waits(self) -> None:
        self.rfile.read()
        signal.pthread_kill(cast("int", threading.main_thread().ident), signal.SIGTERM)

    def _train(self, request: Mapping[str, Any]) -> NoReturn:  # Any: what JSON holds
        """Become the process of a training, in a fork."""
        try:
            self.rfile.close()
            self.connection.close()
            os.chdir(request["directory"])
            _replace(0, os.open(os.devnull, os.O_RDONLY))
            _replace(1, os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
            os.dup2(1, 2)
            os.environ.clear()
            os.environ.update({**request["environment"], **self.server.variables})
            sys.argv = [str(self.server.module.__file__), *request["arguments"]]
            code = _exit_code(self.server.module)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        finally:  # such a fork never serves
            os._exit(1)


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
    address, module = sys.argv[1:]
    answers = os.dup(1)
    _replace(1, os.open(os.devnull, os.O_WRONLY))  # imports may print
    try:
        with Server(address, module) as server:
            os.write(answers, READY)
            os.close(answers)
            server.serve()
    finally:
        shutil.rmtree(Path(address).parent, ignore_errors=True)


if __name__ == "__main__":
    main()
