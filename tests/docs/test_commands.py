"""Every command in README.md and the tutorials is run by a test: on a small campaign, or in a fresh clone."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect_server import free_address, prefect_environment, prefect_server
from processes import PATIENCE_S

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
BLOCK = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(?:\.venv/mace/bin/)?((?:surveyor|make|prefect|pip|apt|\.) [^`\n]+)`")
CAMPAIGN = re.compile(r"<!-- complete campaign file -->\n+```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Commands that take seconds on a small campaign, in the order of a user, and what a page leaves out of them.
QUICK = {
    "surveyor check campaign.yaml": "",
    "surveyor doctor campaign.yaml": "",
    "surveyor run campaign.yaml": "",
    "surveyor status campaigns/ethanol": "",
    "surveyor label": " label.yaml",
    "surveyor train": " train.yaml",
    'prefect deployment run online-learning/local --params "$(surveyor check --json campaign.yaml)"': "",
}
# Commands that take minutes and a package index. Each row is run from top to bottom, in a clone of its own.
IN_A_CLONE = {
    "demo": (
        "make demo",
        ". .venv/mace/bin/activate",
        "surveyor run deployments/demo/xtb.yaml",
        "surveyor status campaigns/demo",
        "prefect server stop",
    ),
    "demo with CP2K": ("make demo REFERENCE=cp2k", "prefect server stop"),
    "installation": (
        "python3.11 -m venv env",
        ". env/bin/activate",
        'pip install --constraint constraints.txt torch==2.13.0 --editable ".[mace,xtb]"',
        'pip install "surveyor[aws]"',
    ),
    "documentation": ("make docs",),
    "tests": ("make test",),
}
OF_THE_SYSTEM = {"apt install cp2k"}  # `.ci/run` installs it
DEFAULT_PORT = 4200  # of the server that `surveyor run` starts


def commands(text: str) -> set[str]:
    """Return the commands of a page: lines of its blocks of bash, and inline code that begins with a program."""
    blocks = [body for language, body in BLOCK.findall(text) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    return {line.strip() for line in lines if line.strip()} | set(INLINE.findall(text))


def run(script: str, folder: Path, environment: dict[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def on_path(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_run_by_a_test_of_this_file(page: Path) -> None:
    found = commands(page.read_text())
    assert found
    assert found - {*QUICK, *(command for story in IN_A_CLONE.values() for command in story), *OF_THE_SYSTEM} == set()


def test_programs_of_the_system_are_installed_by_ci() -> None:
    packages = (ROOT / ".ci" / "run").read_text().split()
    assert [command for command in OF_THE_SYSTEM if command.removeprefix("apt install ") not in packages] == []


def test_commands_that_are_run_are_on_a_page() -> None:
    documented = {command for page in PAGES for command in commands(page.read_text())}
    assert {*QUICK, *(command for story in IN_A_CLONE.values() for command in story)} - documented == set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a user with the campaign of README.md, made small, and files for `label` and `train`."""
    match = CAMPAIGN.search((ROOT / "README.md").read_text())
    assert match
    campaign = yaml.safe_load(match[1])
    emt, pair = {"emt": {}}, {"pair": {}}
    campaign |= {"reference": emt, "model": pair, "bootstrap": {"n_structures": 8}, "learning": {"n_generations": 1}}
    campaign["walkers"][0] |= {"n_walkers": 2, "n_steps": 5, "max_temperature_factor": 100}
    ethanol = ROOT / "deployments" / "demo" / "ethanol.extxyz"
    (tmp_path / "ethanol.extxyz").write_bytes(ethanol.read_bytes())
    files = {
        "campaign": campaign,
        "label": {"structures": str(ethanol), "output_directory": "labelled", "reference": emt},
        "train": {
            "train": str(ROOT / "deployments" / "train" / "ethanol.extxyz"),
            "output_directory": "trained",
            "model": pair,
        },
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user with a server of his own, on which the deployment `local` is registered."""
    home, url = tmp_path_factory.mktemp("prefect"), free_address()
    environment = on_path(Path(sys.executable).parent, prefect_environment(home, url))
    with prefect_server(home, url):
        deploy = "prefect work-pool create local --type process && prefect deploy --all"
        run(deploy, ROOT / "deployments" / "local", environment, PATIENCE_S)
        yield environment


@pytest.mark.long
def test_quick_commands_run(folder: Path, environment: dict[str, str]) -> None:
    for command, rest in QUICK.items():
        run(command + rest, folder, environment, 180)
    assert (folder / "campaigns" / "ethanol" / "report.html").exists()


@pytest.fixture
def of_a_stranger(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has no server and runs no tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTEST_", "COV_"))}
    return {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.cp2k] * ("CP2K" in name)) for name in IN_A_CLONE]
)
def test_commands_run_in_a_fresh_clone(name: str, tmp_path: Path, of_a_stranger: dict[str, str]) -> None:
    with socket.socket() as probe:  # a server that is there would be used, and stopped
        assert probe.connect_ex(("127.0.0.1", DEFAULT_PORT)), f"port {DEFAULT_PORT} is in use; stop its server first"
    clone = tmp_path / "surveyor"
    run(f"git clone --quiet {ROOT} {clone}", tmp_path, of_a_stranger, PATIENCE_S)
    environment = on_path(clone / ".venv" / "mace" / "bin", of_a_stranger)
    story = list(IN_A_CLONE[name])
    if name == "installation":
        story.append("surveyor check deployments/demo/xtb.yaml")
    try:
        run("\n".join(story), clone, environment, 3 * 3600 - 300)
    finally:
        subprocess.run(["prefect", "server", "stop"], env=environment, check=False, capture_output=True)
