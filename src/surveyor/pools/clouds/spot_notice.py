"""The notice that a cloud gives an instance or pod which it is about to take away, heard inside of it."""

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime

# Where the metadata are, and the variables by which the clients of Amazon and Google find them elsewhere.
AMAZON, AMAZONS = "http://169.254.169.254", "AWS_EC2_METADATA_SERVICE_ENDPOINT"
GOOGLE, GOOGLES = "metadata.google.internal", "GCE_METADATA_HOST"
ASK_S = 5.0  # how often; Amazon recommends it, and gives notice two minutes before
GOOGLES_S = 30.0  # how long before Google gives notice
PODS, PODS_S = "kubernetes", 30.0  # how long before its end a pod gets SIGTERM, unless its manifest says otherwise
ANSWER_S = 2.0
TOKEN_S = 60


def listen(cloud: str, send: Callable[[float], None]) -> None:
    """Send the notice of a cloud once there is one; it has to be called in the main thread.

    Instances ask for it in a thread of its own. Pods get SIGTERM, whatever takes them away.

    Args:
        cloud: kind of the pool.
        send: takes the time at which the machine is taken away, in seconds since the epoch; called again when it raises
            `OSError`.
    """
    if cloud == PODS:
        signal.signal(signal.SIGTERM, lambda *_: _start(lambda: time.time() + PODS_S, send))
    else:
        _start(NOTICES[cloud], send)


def _start(announced: Callable[[], float | None], send: Callable[[float], None]) -> None:
    threading.Thread(target=_listen, args=(announced, send), daemon=True).start()


def _listen(announced: Callable[[], float | None], send: Callable[[float], None]) -> None:
    while True:
        at = announced()
        with suppress(OSError):
            if at is not None:
                send(at)
                return
        time.sleep(ASK_S)


def announced_by_amazon() -> float | None:
    """Return when the instance is to be taken away, in seconds since the epoch; None without a notice.

    The metadata service is asked as its second version demands, with a token; see "Spot Instance interruption notices"
    in the user guide of EC2. A service that does not answer has given no notice.
    """
    url = f"{os.environ.get(AMAZONS, AMAZON).rstrip('/')}/latest"
    try:
        token = _ask(f"{url}/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}, "PUT")
        notice = json.loads(_ask(f"{url}/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token}))
        return datetime.fromisoformat(notice["time"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def announced_by_google() -> float | None:
    """Return when the instance is to be taken away, in seconds since the epoch; None without a notice.

    See "Preemption process" in the documentation of Compute Engine.
    """
    url = f"http://{os.environ.get(GOOGLES, GOOGLE)}/computeMetadata/v1/instance/preempted"
    try:
        is_announced = _ask(url, {"Metadata-Flavor": "Google"}).strip() == "TRUE"
    except OSError:
        return None
    return time.time() + GOOGLES_S if is_announced else None


NOTICES: Mapping[str, Callable[[], float | None]] = {"ec2": announced_by_amazon, "gcp": announced_by_google}


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, method=method, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return str(answer.read().decode())
