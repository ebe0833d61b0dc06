"""Runs the worker of an instance, and ends it when the scheduler of its pool does not answer for long.

Usage: python -m surveyor.pools.clouds.instance_watch ADDRESS ORPHAN_S NOTICE CA_FILE CERTIFICATE_FILE KEY_FILE PROGRAM

NOTICE is the kind of the cloud that may take the instance or pod away, with the name of its job, such as ec2=gpu-1. The
scheduler is told when the cloud announces it. A hyphen stands for an instance that stays.

A connection that breaks ends a worker by itself. A machine that sleeps or hangs breaks none: its worker would wait, and
cost, for ever. The user data of the instance power it off when this program ends, and when it does not begin in time.
The file that the variable SURVEYOR_WATCHED names, if there is one, shows that it has begun.
"""

import asyncio
import logging
import os
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from distributed import Security
from distributed.core import rpc

from surveyor.pools.clouds import spot_notice
from surveyor.pools.scheduler import NOTICE

logger = logging.getLogger("surveyor.pools.instance")

WATCHED = "SURVEYOR_WATCHED"  # the variable with the file by which an instance knows that the watch has begun
NO_NOTICE = "-"  # for an instance that nobody takes away
ANSWER_S = 10.0  # a scheduler with much to do takes its time
LOOK_S = 10.0
END_S = 10.0


def main() -> None:
    """Run a worker as long as its scheduler answers."""
    address, orphan_s, notice, ca_file, certificate, key, *command = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    context = ssl.create_default_context(cafile=ca_file)
    context.check_hostname = False  # the certificate of a pool names no host
    context.load_cert_chain(certificate, key)
    if notice != NO_NOTICE:
        cloud, _, job = notice.partition("=")
        files = Security(tls_ca_file=ca_file, tls_worker_cert=certificate, tls_worker_key=key, require_encryption=True)
        spot_notice.listen(cloud, lambda at: send_notice(address, files, job, at))
    if mark := os.environ.get(WATCHED):
        Path(mark).touch()
    sys.exit(_watch(subprocess.Popen(command), address, float(orphan_s), context))


def _watch(worker: "subprocess.Popen[bytes]", address: str, orphan_s: float, context: ssl.SSLContext) -> int:
    """Return the exit status of a worker, or 1 if it was ended because its scheduler is silent."""
    heard = time.monotonic()
    while worker.poll() is None:
        if answers(address, context, min(ANSWER_S, orphan_s)):
            heard = time.monotonic()
        elif time.monotonic() - heard > orphan_s:
            logger.warning("%s has not answered for %.0f s: this instance ends", address, orphan_s)
            worker.terminate()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(END_S)
            return 1
        with suppress(subprocess.TimeoutExpired):
            worker.wait(min(LOOK_S, orphan_s / 3))
    return worker.returncode


def send_notice(address: str, security: Security, job: str, at: float) -> None:
    """Tell the scheduler of a pool that the machine of a job is taken away.

    Args:
        address: address of the scheduler.
        security: certificates, by their files.
        job: name of the job.
        at: when, in seconds since the epoch.

    Raises:
        OSError: the scheduler does not answer.
    """

    async def send() -> None:
        async with rpc(address, connection_args=security.get_connection_args("worker")) as scheduler:
            await asyncio.wait_for(getattr(scheduler, NOTICE)(job=job, at=at), ANSWER_S)

    asyncio.run(send())


def answers(address: str, context: ssl.SSLContext, within_s: float) -> bool:
    """Return whether a scheduler completes a TLS handshake, for which its event loop must be at work."""
    target = urlsplit(address)
    try:
        with (
            socket.create_connection((target.hostname, target.port), timeout=within_s) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:  # ssl.SSLError is one, too
        return False


if __name__ == "__main__":
    main()
