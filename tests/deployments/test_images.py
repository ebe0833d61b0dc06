"""The images of deployments/images: no file of a clone gets into them but the wheel of surveyor and the constraints."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRET = b"planted-secret-4711"
PLACES = (".env", "account.json", "src/surveyor/credentials.json", "src/surveyor/pools/key.pem", "flows/.env")
PLACES += ("blocks/token.txt", "constraints-private.txt", "deployments/images/secret.txt", "build/lib/surveyor/key.pem")
BUILDER = """\
#!/bin/sh
printf '%s\\n' "$@" >"$SEEN/arguments"
for context; do :; done
cp -a "$context" "$SEEN/context"
"""


def clone(folder: Path) -> Path:
    """Copy the files of this repository, and plant secrets among them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in PLACES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(SECRET)
    return folder


@pytest.mark.parametrize("engine", ["mace", "nequip"])
def test_the_builder_gets_the_wheel_and_the_constraints_and_no_secret(tmp_path: Path, engine: str) -> None:
    folder, builder, seen = clone(tmp_path / "clone"), tmp_path / "builder", tmp_path / "seen"
    seen.mkdir()
    builder.write_text(BUILDER)
    builder.chmod(0o755)
    # The wheel is built with what is installed here, as no package index is asked.
    environment = {**os.environ, "SEEN": str(seen), "PIP_NO_BUILD_ISOLATION": "0"}
    command = ["make", f"image-{engine}", f"BUILD={builder}", f"MACE={Path(sys.prefix)}", "TAG=7"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (seen / "context").glob("surveyor-*.whl")
    assert {path.name for path in (seen / "context").iterdir()} == {
        *(wheel.name, "constraints.txt", "constraints-nequip.txt")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert len(archive.namelist()) > 100
        assert [name for name in archive.namelist() if SECRET in archive.read(name)] == []
    arguments = (seen / "arguments").read_text().splitlines()
    assert f"surveyor-{engine}:7" in arguments
    assert any(each.startswith(f"EXTRAS={engine}") for each in arguments)
    assert ("CONSTRAINTS=constraints-nequip.txt" in arguments) == (engine == "nequip")


def test_the_dockerfile_copies_nothing_else_and_asks_for_no_secret() -> None:
    """The history of an image shows the values of build arguments."""
    text = (ROOT / "deployments" / "images" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    given = [rest for word, rest in lines if word in ("ARG", "ENV")]
    assert given
    assert [each for each in given if re.search(r"key|secret|token|password|credential", each, re.IGNORECASE)] == []
    assert [rest for word, rest in lines if word in ("COPY", "ADD")] == ["*.txt *.whl /tmp/install/"]
