"""Runs the worker of an instance, and ends it when the scheduler of its pool does not answer for long.

Usage: python -m surveyor.pools.instance_watch ADDRESS ORPHAN_S NOTICE CA_FILE CERTIFICATE_FILE KEY_FILE COMMAND...

NOTICE is the cloud with the file of a notice, such as ec2=/pool/jobs/gpu-1.notice, or a hyphen for none.

A connection that breaks ends a worker by itself. A machine that sleeps or hangs breaks none: its worker would wait, and
cost, for ever. The user data of the instance power it off when this program ends.
"""

import logging
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from surveyor.pools import spot_notice

logger = logging.getLogger("surveyor.pools.instance")

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
        cloud, _, file = notice.partition("=")
        spot_notice.listen(cloud, Path(file))
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


def answers(address: str, context: ssl.SSLContext, within_s: float) -> bool:
    """Say whether a scheduler completes a TLS handshake, for which its event loop must be at work."""
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
