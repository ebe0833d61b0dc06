"""Environments of their own, made in a second of links to what is installed here.

What is left out cannot be imported there. All distributions have to be installed in the environment of the tests.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_environment(folder: Path, *wanted: str, versions: Mapping[str, str] | None = None) -> Path:
    """Make an environment with some distributions and all that they require, and return its interpreter.

    Args:
        folder: to be made.
        wanted: distributions, with their extras, such as `surveyor[mace]`.
        versions: by distribution, versions of which their metadata shall speak; the modules are those of here.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    there = installed()
    for name in sorted(required(there, *wanted)):
        _link(there[name], packages, (versions or {}).get(name))
    return folder / "bin" / "python"


def installed() -> dict[str, metadata.Distribution]:
    """Return the distributions of this environment by name, and none that lies in the current folder."""
    folders = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    return {canonicalize_name(each.name): each for each in metadata.distributions(path=sorted(folders))}


def required(there: Mapping[str, metadata.Distribution], *wanted: str) -> set[str]:
    """Return the names of distributions and of all that they require on this machine."""
    waiting, seen = [Requirement(text) for text in wanted], set[tuple[str, str]]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {known for each, known in seen if each == name}:
            seen.add((name, extra))
            asked = [Requirement(text) for text in there[name].requires or ()]
            waiting += [each for each in asked if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def _link(distribution: metadata.Distribution, packages: Path, version: str | None) -> None:
    """Put the files of a distribution into another folder of packages."""
    for top in sorted({path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}):
        source, target = Path(str(distribution.locate_file(top))), packages / top
        if version is not None and top.endswith(".dist-info"):
            target = packages / top.replace(distribution.version, version)
            target.mkdir()
            metadata = (
                (source / "METADATA").read_text().replace(f"\nVersion: {distribution.version}", f"\nVersion: {version}")
            )
            (target / "METADATA").write_text(metadata)
        elif not target.exists():
            target.symlink_to(source)
