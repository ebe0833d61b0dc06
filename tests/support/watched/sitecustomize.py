"""A watch on the connections of this process, which Python imports at its start if this folder is in PYTHONPATH.

Each attempt to reach an address that is not of this machine is noted in the file that LOG names, and fails. So does
each look-up of such a name. What happens in a network namespace of its own leaves no machine, and is not noted.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

LOG, NETWORK = "SURVEYOR_TEST_FOREIGN_LOG", "SURVEYOR_TEST_NETWORK"
OWN_NAMES = ("localhost", socket.gethostname(), "")
NOWHERE = (".invalid", ".localhost")  # ends of names that are promised to lead to no other machine


def _watch(event: str, arguments: tuple[Any, ...]) -> None:  # Any: as Python's auditing gives it
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    target = _looked_up(arguments) if event == "socket.getaddrinfo" else _connected_to(arguments)
    if target is None or _is_here(target):
        return
    if str(Path("/proc/thread-self/ns/net").readlink()) != os.environ.get(NETWORK):
        return
    with Path(os.environ[LOG]).open("a") as file:
        file.write(f"{sys.argv} wants to reach {target}\n")
    raise OSError(f"{target} is not on this machine, and tests reach no other one")


def _looked_up(arguments: tuple[Any, ...]) -> str | None:  # Any: as Python's auditing gives it
    """Return the name that is looked up; None for an address, which is watched when something connects to it."""
    host = arguments[0].decode(errors="replace") if isinstance(arguments[0], bytes) else arguments[0]
    return None if host is None or _is_address(host) else str(host)


def _connected_to(arguments: tuple[Any, ...]) -> str | None:  # Any: as Python's auditing gives it
    """Return the host; None for sockets of other kinds. Of those for UDP, connecting sends nothing."""
    connection, address = arguments
    is_meant = connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM
    return str(address[0]) if is_meant and isinstance(address, tuple) else None


def _is_here(host: str) -> bool:
    if not _is_address(host):
        return host in OWN_NAMES or host.endswith(NOWHERE)
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_unspecified:
        return True
    with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


if LOG in os.environ:
    sys.addaudithook(_watch)
