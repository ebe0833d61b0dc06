"""Versions on both sides of a pool; also run by path before a worker starts, and ends with an error where they differ.

Usage: worker_check.py FILE, with what `this_side` returned on the other side.

It is copied into the folder of the pool, and needs nothing but the standard library: it has to work, and to say what
is wrong, in an environment in which surveyor is missing or another one.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

PACKAGES = ("dask", "distributed", "cloudpickle", "surveyor")
CODE = "code of surveyor"  # two checkouts of one version may differ in it
NOT_ON_WORKERS = ("blocks", "flows", "tasks")  # folders of the package that no worker imports
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
    found[CODE] = _digest()
    return found


def _digest() -> str:
    """Return a hash of the code that workers run, installed or from a checkout; "none" if there is no such code."""
    from importlib.util import find_spec

    spec = find_spec("surveyor")  # it is not imported for that
    if spec is None or not spec.submodule_search_locations:
        return "none"
    folder = Path(next(iter(spec.submodule_search_locations)))
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder)
        if name.parts[0] not in NOT_ON_WORKERS:
            digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def this_side() -> "dict[str, Any]":  # Any: strings and versions
    """Return the interpreter, the host and the versions of this side, ready for JSON."""
    return {"interpreter": sys.executable, "host": platform.node(), "versions": dict(versions())}


def difference(there: "Mapping[str, Any]") -> "str | None":  # Any: strings and versions
    """Return the differences between this side and the other one, with the remedy; None if there are none.

    Args:
        there: what `this_side` returned on the other side.
    """
    here, other = versions(), there["versions"]
    names = [name for name, version in here.items() if version != other.get(name)]
    if not names:
        return None
    if names != [CODE]:  # of another version, or none, the code is another one anyway
        names = [name for name in names if name != CODE]
    different = ", ".join(f"{name} {here[name]} (there {other.get(name, 'none')})" for name in names)
    of_code = "; where files of the package were changed while the pool was open, close the pool"
    return (
        f"{DIFFERENT}{sys.executable} on {platform.node()} has {different}, where there is "
        f"{there['interpreter']} on {there['host']}. Install the same versions on both sides, or name another "
        f"interpreter (python) for the pool{of_code if names == [CODE] else ''}"
    )


def main() -> None:
    """Compare this environment with the one described in a file."""
    sys.exit(difference(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
