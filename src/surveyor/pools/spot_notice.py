"""The notice that Amazon gives an instance which it is about to take away, heard inside the instance."""

import json
import os
import threading
import time
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

ENDPOINT = "AWS_EC2_METADATA_SERVICE_ENDPOINT"  # the variable by which AWS's own clients find another one
METADATA = "http://169.254.169.254"
ASK_S = 5.0  # how often; Amazon recommends it, and gives notice two minutes before
ANSWER_S = 2.0
TOKEN_S = 60


def listen(file: Path) -> None:
    """Ask for a notice, in a thread of its own, until there is one, and write it to a file.

    Args:
        file: is to hold the time at which the instance is taken away, in seconds since the epoch.
    """
    threading.Thread(target=_listen, args=(file,), daemon=True).start()


def _listen(file: Path) -> None:
    while (at := announced()) is None:
        time.sleep(ASK_S)
    file.write_text(json.dumps({"taken_at": at}))


def announced() -> float | None:
    """Return when the instance is to be taken away, in seconds since the epoch; None without a notice.

    The metadata service is asked as its second version demands, with a token; see "Spot Instance interruption notices"
    in the user guide of EC2. A service that does not answer has given no notice.
    """
    try:
        token = _ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)})
        notice = json.loads(_ask("meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": token}))
        return datetime.fromisoformat(notice["time"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def taken_at(file: Path) -> float | None:
    """Return the time that a file of `listen` holds; None without a notice."""
    try:
        record: dict[str, Any] = json.loads(file.read_text())  # Any: whatever JSON holds
    except (OSError, ValueError):  # not there, or half written
        return None
    return float(record["taken_at"])


def _ask(path: str, method: str, headers: dict[str, str]) -> str:
    url = f"{os.environ.get(ENDPOINT, METADATA).rstrip('/')}/latest/{path}"
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
        return str(answer.read().decode())
