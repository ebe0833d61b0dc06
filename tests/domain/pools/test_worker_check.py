"""The program that each job runs before its worker, in environments that differ for real."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from environments import make_environment

import surveyor
from surveyor.pools import worker_check
from surveyor.pools.worker_check import difference, this_side

HERE = {"interpreter": "/opt/flow/bin/python", "host": "login1", "versions": this_side()["versions"]}


def run_check(python: str | Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the program as a job does: a copy of it, in a folder without the modules of surveyor."""
    copy, there = folder / "worker_check.py", folder / "versions.json"
    copy.write_text(Path(worker_check.__file__).read_text())
    there.write_text(json.dumps(HERE))
    return subprocess.run([python, copy, there], capture_output=True, text=True, check=False)


def with_versions(**versions: str) -> dict[str, Any]:
    return {**HERE, "versions": {**HERE["versions"], **versions}}


def test_same_versions_pass_in_silence(tmp_path: Path) -> None:
    done = run_check(make_environment(tmp_path / "same", "surveyor"), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("package", worker_check.PACKAGES)
def test_another_version_of_a_package_is_told_with_both_sides_and_the_remedy(package: str, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "other", "surveyor", versions={package: "0.0.1"})
    done = run_check(python, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"versions differ: {python} on ")
    here = HERE["versions"][package]
    assert f" has {package} 0.0.1 (there {here}), where there is /opt/flow/bin/python on login1. " in done.stderr
    assert "Install the same versions on both sides, or name another interpreter (python)" in done.stderr


def checkout(folder: Path) -> Path:
    """Return an interpreter whose surveyor is a copy of the one of here, in a folder `surveyor` of its packages."""
    python = make_environment(folder, "cloudpickle", "dask", "distributed")
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(Path(surveyor.__file__).parent, packages / "surveyor")
    information = packages / "surveyor.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: surveyor\nVersion: {HERE['versions']['surveyor']}\n"
    )
    return python


def test_two_checkouts_of_one_version_are_told_apart_by_their_code(tmp_path: Path) -> None:
    python = checkout(tmp_path / "copy")
    (package,) = tmp_path.glob("copy/lib/python*/site-packages/surveyor")
    done = run_check(python, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (package / "flows").mkdir()
    (package / "flows" / "run.py").write_text("no worker imports this")
    (package / "errors.pyc").write_bytes(b"nor reads this")
    assert run_check(python, tmp_path).returncode == 0

    with (package / "errors.py").open("a") as file:
        file.write("# changed\n")
    done = run_check(python, tmp_path)
    assert done.returncode == 1
    assert re.match(rf"versions differ: {python} on \S+ has code of surveyor [0-9a-f]{{12}} \(there ", done.stderr)
    assert f"(there {HERE['versions']['code of surveyor']}), where there is" in done.stderr
    assert "where files of the package were changed while the pool was open, close the pool" in done.stderr


def test_an_environment_without_surveyor_is_told(tmp_path: Path) -> None:
    done = run_check(make_environment(tmp_path / "bare", "cloudpickle"), tmp_path)
    versions = HERE["versions"]
    missing = ", ".join(f"{name} none (there {versions[name]})" for name in ("dask", "distributed", "surveyor"))
    assert done.returncode == 1
    assert f" has {missing}, where " in done.stderr


def test_another_python_is_told_but_not_another_patch_release() -> None:
    major, minor = sys.version_info[:2]
    assert HERE["versions"]["python"] == f"{major}.{minor}"
    assert difference(HERE) is None
    assert f" has python {major}.{minor} (there 3.6), where " in str(difference(with_versions(python="3.6")))


def test_a_python_that_cannot_tell_the_versions_of_packages_tells_its_own(tmp_path: Path) -> None:
    # As Python 3.6 and 3.7, which are /usr/bin/python3 of some clusters.
    old = (
        "import runpy, sys; sys.modules['importlib.metadata'] = None; import platform; "
        "platform.python_version_tuple = lambda: ('3', '6', '8'); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    )
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{old}" "$@"\n')
    python.chmod(0o755)
    done = run_check(python, tmp_path)
    assert done.returncode == 1
    assert f" has python 3.6 (there {HERE['versions']['python']}), where " in done.stderr
