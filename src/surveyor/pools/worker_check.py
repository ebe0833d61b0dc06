"""Run by path in a job, before its worker: ends with an error where versions differ from those of the pool's process.

Usage: worker_check.py VERSIONS_FILE

It is copied into the folder of the pool, and needs nothing but the standard library: it has to work, and to say what
is wrong, in an environment in which surveyor is missing or another one.
"""

import json
import platform
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("dask", "distributed", "cloudpickle", "surveyor")


def versions() -> "dict[str, str]":
    """Return the versions of Python and of the packages that understand each other only in the same version."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def main() -> None:
    """Compare the versions here with those in a file."""
    expected, here = json.loads(Path(sys.argv[1]).read_text()), versions()
    different = [
        f"{name} {here.get(name)} (there {expected[name]})" for name in expected if expected[name] != here.get(name)
    ]
    if different:
        sys.exit(
            f"versions differ: {sys.executable} on {platform.node()} has {', '.join(different)}, where there is the "
            "environment of the pool's process. Install the same versions on both sides, or name another interpreter."
        )


if __name__ == "__main__":
    main()
