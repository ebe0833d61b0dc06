"""Runs the workers of a job on a machine that is reached by ssh, and ends them when nobody wants them any more.

Usage: python -m surveyor.pools.ssh.watch, with the order as a line of JSON on standard input, which stays open.

The workers end, with all that they have started, when standard input is closed: the connection is gone, or the process
of the pool. A machine that sleeps or hangs closes nothing, so they also end when the scheduler does not answer for the
orphan time, whatever the settings of ssh on both sides; and at the end of their lifetime.

On an instance of a cloud, this program holds the leash: when it ends, however that happens, the instance does. The
scheduler is told when the cloud announces that it takes the instance away.
"""

import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Security

from surveyor.pools.clouds import spot_notice
from surveyor.pools.clouds.instance_watch import ANSWER_S, LOOK_S, answers, send_notice
from surveyor.programs import launcher

WORKER = "surveyor.pools.ssh.worker"  # importing it takes long
POLL_S = 0.5
ENDED = "surveyor: this worker has ended with all its processes"


def main() -> None:
    """Run workers as long as they are wanted."""
    launcher.adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(f"surveyor: ended by signal {number}"))
    line = sys.stdin.buffer.readline()
    order = json.loads(line)
    leash = _held(order["leash"]) if order["leash"] else None
    folder = Path(tempfile.mkdtemp(prefix="surveyor-worker-"))
    reason = "surveyor: the workers were not started"
    try:
        context = _context(order["certificate"], order["key"])
        if order["notice"]:
            _listen(order)
        worker = _start(line, folder)
        orphan_s, lifetime_s = float(order["orphan_s"]), float(order["lifetime_s"])
        reason = _watch(
            worker, lambda: answers(order["scheduler"], context, min(ANSWER_S, orphan_s)), orphan_s, lifetime_s
        )
    finally:
        launcher.kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)
        if leash is not None:
            os.close(leash)  # before what may wait for a reader that is gone
        with suppress(OSError):  # nobody may listen any more
            print(f"{reason}\n{ENDED}", flush=True)  # noqa: T201 (the pool reads it)
    sys.exit(worker.returncode and 1)


def _held(leash: str) -> int:
    """Take the leash of an instance, which no process that this one starts inherits."""
    descriptor = os.open(leash, os.O_WRONLY)
    os.write(descriptor, b"\n")
    return descriptor


def _listen(order: Mapping[str, Any]) -> None:  # Any: as JSON gives it
    """Tell the scheduler when the cloud announces that it takes the instance away."""
    certificate, key = order["certificate"], order["key"]
    security = Security(
        tls_ca_file=certificate, tls_worker_cert=certificate, tls_worker_key=key, require_encryption=True
    )
    spot_notice.listen(order["notice"], lambda at: send_notice(order["scheduler"], security, str(order["name"]), at))


def _start(line: bytes, folder: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "TMPDIR": str(folder)}  # so that nothing of it is left
    worker = subprocess.Popen([sys.executable, "-m", WORKER], stdin=subprocess.PIPE, cwd=folder, env=environment)
    if worker.stdin is not None:
        with suppress(BrokenPipeError):  # its end is seen below
            worker.stdin.write(line)
            worker.stdin.close()
    return worker


def _context(certificate: str, key: str) -> ssl.SSLContext:
    """Return the TLS context for the scheduler. Its secret is in memory alone, in a file without a name."""
    context = ssl.create_default_context(cadata=certificate)
    context.check_hostname = False  # the certificate of a pool names no host
    with os.fdopen(os.memfd_create("certificate"), "w") as file:
        file.write(certificate + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context


def _watch(
    worker: "subprocess.Popen[bytes]", is_answered: Callable[[], bool], orphan_s: float, lifetime_s: float
) -> str:
    """Wait until a worker ends or nobody wants it any more, and say why."""
    begun = heard = asked = time.monotonic()
    while worker.poll() is None:
        if select.select([sys.stdin], [], [], POLL_S)[0]:
            return "surveyor: the connection to the pool is closed: its workers end"
        now = time.monotonic()
        if now - begun > lifetime_s:
            return f"surveyor: the workers have reached their lifetime of {lifetime_s:.0f} s, and end"
        if now - asked > min(LOOK_S, orphan_s / 3):
            asked = now
            if is_answered():
                heard = time.monotonic()
        if time.monotonic() - heard > orphan_s:
            return f"surveyor: the scheduler has not answered for {orphan_s:.0f} s: its workers end"
    return f"surveyor: the process of the workers has ended with status {worker.returncode}"


if __name__ == "__main__":
    main()
