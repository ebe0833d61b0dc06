"""The watch on connections to other machines: of this process, and of all that tests start.

Python processes note each attempt, by `watched/sitecustomize.py`. Libraries and programs that are not in Python, such
as obstore and curl, heed proxies: theirs is on this machine, reaches nothing, and notes where they want to go.
"""

import os
import runpy
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import psutil

SUPPORT = Path(__file__).parent
WATCHED = SUPPORT / "watched"
PATHS = f"{WATCHED}{os.pathsep}{SUPPORT}"  # for processes that need modules of tests and would lose PYTHONPATH
# Prefect's server looks there for newer types of work pools. It has no setting against that, and takes its own list
# when there is no answer.
EXPECTED = "CONNECT raw.githubusercontent.com:443 "
LOG, NETWORK = "SURVEYOR_TEST_FOREIGN_LOG", "SURVEYOR_TEST_NETWORK"


def watch() -> None:
    """Begin to watch."""
    descriptor, path = tempfile.mkstemp(prefix="surveyor-foreign-")
    os.close(descriptor)
    os.environ[LOG], os.environ[NETWORK] = path, str(Path("/proc/self/ns/net").readlink())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(WATCHED), os.environ.get("PYTHONPATH")]))
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, Path(path)), daemon=True).start()
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    found = [each for of_one in psutil.net_if_addrs().values() for each in of_one if each.family == socket.AF_INET]
    here = ",".join(["localhost", socket.gethostname(), *(each.address for each in found)])
    for name, value in {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": here}.items():
        os.environ[name] = os.environ[name.upper()] = value
    runpy.run_path(str(WATCHED / "sitecustomize.py"))


def _serve(server: socket.socket, log: Path) -> None:
    """Note the first line of each request, such as CONNECT example.org:443, and answer none."""
    while True:
        connection, _ = server.accept()
        connection.settimeout(5)
        with connection, suppress(OSError):
            line = connection.recv(1000).partition(b"\r\n")[0].decode(errors="replace")
            if line.startswith(EXPECTED):
                continue
            with log.open("a") as file:
                file.write(f"a program wants to reach {line}\n")


def variables() -> dict[str, str]:
    """The variables that a process needs to be watched, besides a PYTHONPATH."""
    proxies = (name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "no_proxy"))
    return {name: os.environ[name] for name in (LOG, NETWORK, *proxies)}


def noted() -> str:
    """Return what was noted since the last call."""
    path = Path(os.environ[LOG])
    if not path.exists() or not path.stat().st_size:
        return ""
    text = path.read_text()
    path.write_text("")
    return text


def end() -> None:
    """Remove the notes."""
    Path(os.environ[LOG]).unlink(missing_ok=True)
