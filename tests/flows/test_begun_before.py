"""Work that the surveyor of November 2026 began, before folders said what kind of work they hold, and never ended."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest

from surveyor.flows.command_line import main

BEGUN = Path(__file__).parents[1] / "begun"
COMMANDS = {"campaign": "run", "labelling": "label", "training": "train", "sampling": "sample"}

pytestmark = [pytest.mark.slow]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A copy of the folder with work of each kind; its parameters name a folder that is not there any more."""
    return Path(shutil.copytree(BEGUN, tmp_path / "begun"))


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["status", str(folder)]) == 0
    return capsys.readouterr().out


def go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Give the command that began the work again."""
    capsys.readouterr()
    assert main([COMMANDS[folder.name], str(folder.with_suffix(".yaml"))]) == 0
    return capsys.readouterr().out


def events(folder: Path) -> Iterator[dict[str, object]]:
    yield from (json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines())


def test_a_campaign_goes_on(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun / "campaign"
    assert "stopped" in status(folder, capsys)
    bootstrap = (folder / "generations" / "000" / "manifest.json").read_bytes()
    sample = (folder / "generations" / "001" / "samples" / "g001-w000-0.npz").read_bytes()
    said = go_on(folder, capsys)
    assert "is complete: " in said
    assert (folder / "generations" / "000" / "manifest.json").read_bytes() == bootstrap
    assert (folder / "generations" / "001" / "samples" / "g001-w000-0.npz").read_bytes() == sample
    assert (folder / "generations" / "002" / "manifest.json").is_file()
    output = status(folder, capsys)
    assert "complete" in output
    assert "400 K: too few to say" in output
    assert "generation" in (folder / "report.html").read_text()
    assert json.loads((folder / "parameters.json").read_text())["former_stop"]


def test_a_labelling_goes_on(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun / "labelling"
    n_found = sum(event["event"] == "labelled" for event in events(folder))
    assert "stopped" in status(folder, capsys)
    said = go_on(folder, capsys)
    assert n_found > 0
    assert "40 of 40 structures labelled" in said
    (requested,) = [event for event in events(folder) if event["event"] == "labels_requested"][1:]
    assert n_found <= requested["n_found"] < 40  # killed before it told all that it had
    assert f"{40 - requested['n_found']} new labels" in said
    assert len(ase.io.read(folder / "labelled.extxyz", ":")) == 40
    assert "complete" in status(folder, capsys)


def test_a_training_goes_on(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun / "training"
    valid = (folder / "valid.extxyz").read_bytes()
    assert "has stopped" in status(folder, capsys)
    said = go_on(folder, capsys)
    assert "potential: " in said
    assert (folder / "valid.extxyz").read_bytes() == valid
    assert "is complete" in status(folder, capsys)
    assert [*(folder / "figures").glob("*.png")]


def test_a_sampling_goes_on(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun / "sampling"
    assert "has stopped" in status(folder, capsys)
    go_on(folder, capsys)
    assert (folder / "samples.extxyz").read_text().startswith("13\n")
    said = status(folder, capsys)
    assert "is complete" in said
    assert "w001-1" in said
    assert (folder / "walkers.png").is_file()


@pytest.mark.parametrize("kind", COMMANDS)
def test_other_parameters_are_refused(begun: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = begun / f"{kind}.yaml"
    others = {"campaign": "n_basis: 8", "labelling": "emt: {}", "training": "n_basis: 8", "sampling": "n_walkers: 2"}
    changed = {"n_basis: 8": "n_basis: 9", "emt: {}": "xtb: {}", "n_walkers: 2": "n_walkers: 3"}[others[kind]]
    file.write_text(file.read_text().replace(others[kind], changed))
    assert main([COMMANDS[kind], str(file)]) == 2
    assert f"holds a {kind} with other parameters" in capsys.readouterr().err
