"""Versions on both sides of a pool; also run by path before a worker starts, and ends with an error where they differ.

Usage: worker_check.py FILE, with what `this_side` returned on the other side.

It is copied into the folder of the pool, and needs nothing but the standard library: it has to work, and to say what
is wrong, in an environment in which surveyor is missing or another one.
"""

import json
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = ("dask", "distributed", "cloudpickle", "surveyor")
DIFFERENT = "versions differ: "


@lru_cache(maxsize=None)  # noqa: UP033  (Python 3.8 has no cache)
def versions() -> "Mapping[str, str]":
    """Return the versions of Python and of the packages that understand each other only in the same version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7 cannot tell; its own version is enough
        return found
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def this_side() -> "dict[str, Any]":  # Any: strings and versions
    """Return what the other side has to know of this one, as JSON can hold it."""
    return {"interpreter": sys.executable, "host": platform.node(), "versions": dict(versions())}


def difference(there: "Mapping[str, Any]") -> "str | None":  # Any: strings and versions
    """Return what differs between this side and the other one, and what to do; None where nothing does.

    Args:
        there: what `this_side` returned on the other side.
    """
    other = there["versions"]
    different = [
        f"{name} {version} (there {other.get(name, 'none')})"
        for name, version in versions().items()
        if version != other.get(name)
    ]
    if not different:
        return None
    return (
        f"{DIFFERENT}{sys.executable} on {platform.node()} has {', '.join(different)}, where there is "
        f"{there['interpreter']} on {there['host']}. Install the same versions on both sides, or name another "
        "interpreter (python) for the pool"
    )


def main() -> None:
    """Compare this side with the one that a file tells of."""
    sys.exit(difference(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
