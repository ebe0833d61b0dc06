"""Training on files: as a Python call and by the command, on a local pool, with a real Prefect server."""

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from labelling_inputs import copper, labelled, written
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from processes import PATIENCE_S, wait_until
from rich.console import Console

from surveyor.dataset import ENERGY, Dataset, DataSets
from surveyor.dataset.metrics import Errors, errors_of
from surveyor.errors import CampaignInUse, InputError
from surveyor.events.kinds import EpochEnds
from surveyor.events.log import of_kind
from surveyor.files import read_json, write_json
from surveyor.flows.train_commands import TRAINING_VIEW
from surveyor.flows.train_model import train_model
from surveyor.flows.training import format_errors
from surveyor.lease import hold_lease
from surveyor.models.choice import load_model
from surveyor.models.history import load_history, reported_epochs
from surveyor.run_directory import RunDirectory
from surveyor.tasks.report import report_training
from surveyor.works.training import TRAINING, TrainingParameters

pytestmark = [pytest.mark.slow]

PAIR: dict[str, Any] = {"pair": {"n_basis": 8}}
TINY_MACE: dict[str, Any] = {
    "mace": {
        "num_channels": 4,
        "max_L": 0,
        "correlation": 1,
        "num_interactions": 1,
        "max_num_epochs": 5,
        "device": "cpu",
        "options": {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
    }
}


def gold() -> list[Atoms]:
    atoms = bulk("Au", cubic=True)
    atoms.rattle(0.1, seed=1)
    return labelled([atoms])


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Any]:
    frames = labelled(copper(15))
    return {
        "train": written(tmp_path / "train.extxyz", frames[:12]),
        "test": written(tmp_path / "test.extxyz", frames[12:]),
        "output_directory": tmp_path / "out",
        "model": PAIR,
    }


def test_a_call_trains_and_the_same_call_does_nothing(parameters: dict[str, Any], tmp_path: Path) -> None:
    out = parameters["output_directory"] = tmp_path / "trained-once"  # the server's artifacts are those of all tests
    weights = train_model(**parameters, valid_fraction=0.25)
    summary = read_json(out / "summary.json")
    assert summary["n_structures"] == {"train": 9, "valid": 3, "test": 3}
    model = load_model(weights.parent)
    test = Dataset.load(parameters["test"])
    errors = errors_of(test, model.deploy().evaluate(test))
    assert summary["errors"]["test"]["forces_rmse"] == pytest.approx(errors.forces_rmse)
    kept = Dataset.load(out / "train.extxyz") + Dataset.load(out / "valid.extxyz")
    given = Dataset.load(parameters["train"])
    assert {atoms.info[ENERGY] for atoms in kept} == {atoms.info[ENERGY] for atoms in given}

    figure = out / "figures" / "parity.png"
    (artifact,) = artifacts_of("trained-once-training")
    assert "data:image/png;base64," in artifact.data
    written_at = weights.stat().st_mtime_ns, figure.stat().st_mtime_ns
    assert train_model(**parameters, valid_fraction=0.25) == weights
    assert (weights.stat().st_mtime_ns, figure.stat().st_mtime_ns) == written_at
    assert len(artifacts_of("trained-once-training")) == 1

    with pytest.raises(InputError, match=r"(?s)holds a training with other parameters:.*seed: 0 there, 1 here"):
        train_model(**parameters, valid_fraction=0.25, seed=1)
    with (
        hold_lease(RunDirectory(out).lease),
        pytest.raises(CampaignInUse),
    ):
        train_model(**parameters, valid_fraction=0.25)


def test_a_report_that_fails_is_told_and_written_by_the_next_call(
    parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_space(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("surveyor.flows.train_model.report_training", report_training.with_options(retries=0))
        patch.setattr("surveyor.report.write_training_figures", without_space)
        weights = train_model(**parameters)
    assert weights.is_file()
    assert "the report failed" in caplog.text
    assert "No space left on device" in caplog.text
    figures = tmp_path / "out" / "figures"
    assert not figures.exists()
    assert train_model(**parameters) == weights
    assert [path.name for path in figures.iterdir()] == ["parity.png"]


def artifacts_of(key: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))


def test_a_complete_training_of_an_earlier_version_is_returned(parameters: dict[str, Any], tmp_path: Path) -> None:
    out = parameters["output_directory"]
    frames = labelled(copper(12))
    written(parameters["train"], [*frames, *frames[:3]])
    weights = train_model(**parameters)
    as_an_earlier_surveyor_wrote(out, frames)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".extxyz", ".npz")}
    assert train_model(**parameters) == weights
    assert {path: path.read_bytes() for path in before} == before
    events, _ = RunDirectory(out).events.read()
    assert events[-1].message == "out is complete"
    # One that was killed before its end goes on with the sets that it had.
    (out / "summary.json").unlink()
    checked = TRAINING.check(TrainingParameters.model_validate(parameters))
    assert [len(checked.data.train), len(checked.data.valid)] == [13, 2]
    train_model(**parameters)
    assert (out / "valid.extxyz").read_bytes() == before[out / "valid.extxyz"]


def as_an_earlier_surveyor_wrote(out: Path, frames: list[Atoms]) -> None:
    """Divide a training as surveyor of November 27 did, which had copies of one structure in both sets."""
    sets = DataSets.load(out)
    train, valid = Dataset([*frames[1:], *frames[:2]]), Dataset([frames[0], frames[2]])
    DataSets(train=train, valid=valid, test=sets.test).save(out)
    contents = [(out / f"{name}.extxyz").read_bytes() for name in ("train", "valid")]
    digest = hashlib.sha256(b"".join(contents)).hexdigest()
    write_json(out / "model" / "data.json", {"schema_version": 1, "digest": digest})


def test_a_training_starts_from_a_saved_model_and_keeps_its_atomic_energies(
    parameters: dict[str, Any], tmp_path: Path
) -> None:
    first = load_model(train_model(**parameters, atomic_energies={"Cu": 3.51}).parent)
    assert first.atomic_energies == {"Cu": 3.51}
    others = {**parameters, "output_directory": tmp_path / "second", "model": None, "start": first.weights.parent}
    second = load_model(train_model(**others).parent)
    assert second.atomic_energies == {"Cu": 3.51}
    assert second.parameters == first.parameters
    TRAINING.check(TrainingParameters.model_validate(others))

    # The folder is known by what is in it, as files are.
    first.weights.write_bytes(b"another model")
    with pytest.raises(InputError, match=r"start: 'file with hash \w+' there, 'file with hash \w+' here"):
        TRAINING.check(TrainingParameters.model_validate(others))


def test_the_command_trains_says_the_errors_and_is_shown_by_status(
    parameters: dict[str, Any], tmp_path: Path, prefect_api_url: str
) -> None:
    file = tmp_path / "train.yaml"
    relative = {"train": "train.extxyz", "test": "test.extxyz", "output_directory": "out", "model": PAIR}
    file.write_text(yaml.safe_dump(relative))
    done = surveyor("train", str(file))
    assert done.returncode == 0, done.stderr
    assert "training on 11 structures, 1 for validation" in done.stdout
    assert f"potential: {tmp_path / 'out' / 'model'}" in done.stdout
    forces = read_json(tmp_path / "out" / "summary.json")["errors"]["test"]["forces_rmse"]
    assert f"{1e3 * forces:.2f}" in done.stdout

    status = surveyor("status", str(tmp_path / "out"))
    assert "is complete" in status.stdout
    assert f"{1e3 * forces:.2f}" in status.stdout
    assert f"figures: {tmp_path / 'out' / 'figures'}: parity.png" in status.stdout
    assert "by element" not in status.stdout  # there is one

    output = json.loads(surveyor("train", "--json", str(file)).stdout)
    assert TrainingParameters.model_validate(output).train == tmp_path / "train.extxyz"


def test_a_mostly_constant_error_of_energies_is_told() -> None:
    errors = Errors(50, 0.0103, 0.0097, 0.0956, 0.07, energy_offset=-0.0096, energy_rmse_without_offset=0.0037)
    assert format_errors(errors) == "10.30 meV/atom (mostly a constant offset of -9.60; 3.70 without it), 95.6 meV/Å"
    assert format_errors(replace(errors, energy_offset=0.001)) == "10.30 meV/atom, 95.6 meV/Å"


def test_the_command_shows_errors_by_element_and_the_offset(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "out")
    errors = Errors(5, 0.0103, 0.0097, 0.0956, 0.07, 0.0041, 0.003, {"C": 0.0871, "H": 0.0432}, -0.0096, 0.0037)
    old = {"n_structures": 5, "energy_rmse": 0.0103, "forces_rmse": 0.0956, "forces_rmse_by_element": {}}
    write_json(
        directory.path / "summary.json",
        {"schema_version": 1, "errors": {"train": errors.to_dict(), "valid": old, "test": {"n_structures": 0}}},
    )
    console = Console(width=120, record=True, file=io.StringIO())
    TRAINING_VIEW.show(console, directory)
    output = console.export_text()
    assert rows(output, "│") == [
        ["train", "5", "10.30", "3.70", "-9.60", "95.60", "4.10"],
        ["valid", "5", "10.30", "-", "-", "95.60", "-"],
        ["train", "5", "87.10", "43.20"],
        ["valid", "5", "-", "-"],
    ]
    assert [row[-5:] for row in rows(output, "┃")] == [
        ["energy (meV/atom)", "without offset", "offset", "forces (meV/Å)", "stress (meV/Å³)"],
        ["set", "structures", "C", "H"],
    ]


def rows(text: str, border: str) -> list[list[str]]:
    """Return the cells of the lines of tables that have such a border."""
    lines = (line.strip() for line in text.splitlines())
    return [[cell.strip() for cell in line[1:-1].split(border)] for line in lines if line.startswith(border)]


def surveyor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


@pytest.mark.mace
@pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
def test_mace_is_trained_with_its_epochs_in_the_log_and_exported(
    parameters: dict[str, Any], tmp_path: Path, one_worker: str
) -> None:
    weights = train_model(**{**parameters, "model": TINY_MACE}, valid_fraction=0.25, pool=one_worker)
    assert weights.name == "mace.model"
    assert [epoch.learning_rate for epoch in reported_epochs(tmp_path / "out" / "training")] == [0.01] * 5
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {"parity.png", "training.png"}
    assert read_json(tmp_path / "out" / "summary.json")["logs"] == ["training/trainer.log"]
    events, _ = RunDirectory(tmp_path / "out").events.read()
    assert [event.number for event in of_kind(events, EpochEnds)] == [0, 1, 2, 3, 4]
    predictions = load_model(weights.parent).deploy().evaluate(Dataset.load(parameters["test"]))
    assert all(np.isfinite(each.forces).all() for each in predictions)

    exported = surveyor("export", str(tmp_path / "out"), str(tmp_path / "copper.model"))
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "copper.model").read_bytes() == weights.read_bytes()
    assert surveyor("export", str(tmp_path / "out"), str(tmp_path / "copper.model")).returncode == 2
    exported = surveyor("export", str(weights.parent), str(tmp_path / "copper.pt"), "--format", "lammps")
    assert exported.returncode == 0, exported.stderr
    # What LAMMPS loads; LAMMPS itself, with `pair_style mace`, is in no package.
    file = [str(tmp_path / "copper.pt"), str(parameters["test"])]
    done = subprocess.run([sys.executable, "-c", LOADED, *file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])  # packages print when they are imported
    assert loaded["architecture"] == [[29], 5.0, 1]
    assert loaded["energies"] == pytest.approx([each.energy for each in predictions], abs=1e-9)
    assert np.array(loaded["forces"]) == pytest.approx(np.concatenate([e.forces for e in predictions]), abs=1e-9)


@pytest.mark.long  # those of the model kill trainings, and those of labellings and campaigns kill commands
@pytest.mark.mace
@pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
def test_a_killed_command_goes_on_with_the_epoch_that_it_was_in(
    parameters: dict[str, Any], tmp_path: Path, prefect_api_url: str
) -> None:
    n_epochs = 80
    long = {"mace": {**TINY_MACE["mace"], "max_num_epochs": n_epochs}}
    file, training = tmp_path / "train.yaml", tmp_path / "out" / "training"
    file.write_text(yaml.safe_dump({"train": "train.extxyz", "output_directory": "out", "model": long}))
    output = tmp_path / "output.txt"
    with output.open("wb") as printed:
        command = [sys.executable, "-m", "surveyor.flows.command_line", "train", str(file)]
        first = subprocess.Popen(command, stdout=printed, stderr=printed)
    try:
        wait_until(lambda: training.is_dir() and len(reported_epochs(training)) >= 3, output.read_text)
    finally:
        first.kill()
        first.wait()
    assert not (tmp_path / "out" / "summary.json").exists()
    assert 3 <= len(reported_epochs(training)) < n_epochs

    train_model(train=parameters["train"], output_directory=tmp_path / "out", model=long)
    numbers = [epoch.number for epoch in reported_epochs(training)]
    assert sorted(set(numbers)) == list(range(n_epochs))
    assert len(numbers) <= n_epochs + 1  # the one that was broken off may have been reported already
    assert len(load_history(tmp_path / "out" / "model")) == n_epochs
    assert (tmp_path / "out" / "summary.json").exists()


LOADED = """
import json, sys
import ase.io, e3nn, torch
from mace.data import AtomicData, config_from_atoms
from mace.tools import AtomicNumberTable
from mace.tools.torch_geometric.batch import Batch

torch.set_default_dtype(torch.float64)
network = torch.jit.load(sys.argv[1])
numbers, r_max = network.atomic_numbers.tolist(), float(network.r_max)
table = AtomicNumberTable(numbers)
energies, forces = [], []
for atoms in ase.io.read(sys.argv[2], ":"):
    graph = AtomicData.from_config(config_from_atoms(atoms), z_table=table, cutoff=r_max)
    data = Batch.from_data_list([graph]).to_dict()
    names = ("positions", "node_attrs", "edge_index", "shifts", "unit_shifts", "cell", "batch", "ptr")
    result = network({name: data[name] for name in names}, torch.ones(len(atoms)), False)
    energies.append(float(result["total_energy_local"]))
    forces += result["forces"].tolist()
architecture = [numbers, r_max, int(network.num_interactions)]
print(json.dumps({"architecture": architecture, "energies": energies, "forces": forces}))
"""


@pytest.mark.parametrize(
    ("name", "complaint"), [("out", "which no other program can use"), ("nowhere", "found no model")]
)
def test_what_cannot_be_exported_is_said(parameters: dict[str, Any], tmp_path: Path, name: str, complaint: str) -> None:
    if name == "out":
        train_model(**parameters)
    done = surveyor("export", str(tmp_path / name), str(tmp_path / "model.pt"), "--format", "lammps")
    assert done.returncode == 2
    assert complaint in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "missing.extxyz"}, r"train: file .*missing.extxyz does not exist"),
        (
            {"train": "bare.extxyz"},
            r"train: structure 0 of .* found no label; expected REF_energy \(eV\) and REF_forces",
        ),
        ({"valid": "gold.extxyz"}, r"valid: found Au, expected only the elements that the model knows \(Cu\)"),
        ({"test": "gold.extxyz"}, r"test: found Au"),
        ({"train": "gold.extxyz"}, r"train: .* has 1 structure, of which 1 would be for validation"),
        ({"start": "nowhere"}, r"nowhere holds no model"),
        ({"model": None}, r"expected model or start, found neither"),
        ({"model": TINY_MACE, "valid_fraction": 0}, r"valid_fraction: found 0, expected more"),
        ({"start": "nowhere", "atomic_energies": {"Cu": 1.0}}, r"found start and atomic_energies"),
    ],
)
def test_what_cannot_work_is_said_before_it_begins(
    parameters: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    written(tmp_path / "bare.extxyz", copper(3))
    written(tmp_path / "gold.extxyz", gold())
    for name in ("train", "valid", "test", "start"):
        if name in changes:
            changes = {**changes, name: tmp_path / changes[name]}
    with pytest.raises((InputError, ValueError), match=message):
        TRAINING.check(TrainingParameters.model_validate({**parameters, **changes}))
    assert not (tmp_path / "out").exists()
