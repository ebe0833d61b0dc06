"""Walkers on a given potential: as a Python call and by the command, on a local pool, with a real Prefect server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import yaml
from ase.build import bulk, molecule
from labelling_inputs import copper, labelled
from processes import PATIENCE_S

from surveyor.dataset import Dataset
from surveyor.errors import CampaignInUse, InputError
from surveyor.events.kinds import Sampled
from surveyor.events.log import of_kind
from surveyor.files import read_json, write_json
from surveyor.flows.sample_walkers import sample_walkers
from surveyor.lease import hold_lease
from surveyor.models.choice import ModelParameters, load_model, make_model
from surveyor.run_directory import RunDirectory
from surveyor.works.sampling import SAMPLING, SamplingParameters

pytestmark = [pytest.mark.slow]

TINY_MACE: dict[str, Any] = {
    "num_channels": 4,
    "max_L": 0,
    "correlation": 1,
    "num_interactions": 1,
    "max_num_epochs": 5,
    "device": "cpu",
    "options": {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
}


def save_model(folder: Path, kind: dict[str, Any]) -> Path:
    frames = Dataset(labelled(copper(12)))
    model = make_model(ModelParameters.model_validate(kind)).initialize(frames, atomic_energies=None, seed=0)
    trained, _ = model.train(frames[:9], frames[9:], folder.with_name("training"))
    trained.save(folder)
    return folder


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Any]:
    ase.io.write(tmp_path / "start.extxyz", bulk("Cu", cubic=True))
    group = {"start": tmp_path / "start.extxyz", "timestep_fs": 2, "n_steps": 40, "frame_interval": 2}
    still = {"start": tmp_path / "start.extxyz", "n_walkers": 2, "method": "optimisation"}
    return {
        "potential": save_model(tmp_path / "model", {"pair": {"n_basis": 8}}),
        "output_directory": tmp_path / "out",
        "walkers": [{**group, "n_walkers": 3}, still],
    }


def test_walkers_move_without_learning_and_the_same_call_does_nothing(parameters, tmp_path) -> None:
    path = sample_walkers(**parameters)
    assert path == tmp_path / "out" / "samples.extxyz"
    summary = read_json(tmp_path / "out" / "summary.json")
    assert [sample["name"] for sample in summary["samples"]] == ["w000-0", "w001-0", "w002-0", "w003-0", "w004-0"]
    assert [sample["is_converged"] for sample in summary["samples"]] == [None, None, None, True, True]
    final = Dataset.load(path)
    # Both optimisations are where they began: one is kept.
    assert [atoms.info["walker"] for atoms in final] == ["w000-0", "w001-0", "w002-0", "w003-0"]

    trajectory = ase.io.read(tmp_path / "out" / "samples" / "w000-0.traj", ":")
    assert [frame.info["step"] for frame in trajectory] == list(range(2, 41, 2))
    energies = load_model(tmp_path / "model").deploy().evaluate(trajectory)
    assert [each.energy for each in energies] == pytest.approx([frame.get_potential_energy() for frame in trajectory])
    frames = Dataset.load(tmp_path / "out" / "frames.extxyz")
    assert 3 <= len(frames) <= 60
    assert {atoms.info["walker"].split()[0] for atoms in frames} == {"w000-0", "w001-0", "w002-0"}
    assert (tmp_path / "out" / "walkers.png").read_bytes().startswith(b"\x89PNG")

    written_at = (tmp_path / "out" / "samples" / "w000-0.npz").stat().st_mtime_ns
    more = sample_walkers(**parameters, n_samples=2)
    assert len(read_json(tmp_path / "out" / "summary.json")["samples"]) == 10
    assert len(Dataset.load(more)) == 7
    assert (tmp_path / "out" / "samples" / "w000-0.npz").stat().st_mtime_ns == written_at
    with pytest.raises(InputError, match=r"(?s)holds a sampling with other parameters:.*seed: 0 there, 1 here"):
        sample_walkers(**parameters, seed=1)
    with hold_lease(RunDirectory(tmp_path / "out").lease), pytest.raises(CampaignInUse):
        sample_walkers(**parameters)


def test_input_that_cannot_work_is_refused_before_anything_moves(parameters, tmp_path) -> None:
    def check(**changes: Any) -> None:
        SAMPLING.check(SamplingParameters.model_validate({**parameters, **changes}))

    with pytest.raises(InputError, match="found no model"):
        check(potential=tmp_path / "training")
    ase.io.write(tmp_path / "water.extxyz", molecule("H2O"))
    with pytest.raises(InputError, match="walkers: found H, O, expected only the elements that the model knows"):
        check(walkers=[{"start": tmp_path / "water.extxyz"}])
    with pytest.raises(InputError, match=r"walkers\[0\]: .* npt_flexible needs a cell"):
        check(walkers=[{"start": tmp_path / "water.extxyz", "method": "npt_flexible"}])
    by_labels = {"final_temperature_K": 600, "ramp_by": "labels", "ramp_labels": 5}
    with pytest.raises(
        InputError, match=r"walkers\[0\]\.ramp_by: found labels, but nothing is labelled here; expected"
    ):
        check(walkers=[{"start": tmp_path / "water.extxyz", **by_labels}])
    with pytest.raises(InputError, match="does not exist"):
        check(walkers=[{"start": tmp_path / "absent.extxyz"}])
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_walkers_ended_and_status_shows_it(parameters, tmp_path, prefect_api_url: str) -> None:
    file = tmp_path / "sample.yaml"
    group = {
        "start": "start.extxyz",
        "n_walkers": 2,
        "method": "cell_optimisation",
        "n_steps": 1,
        "fmax_eV_per_A": 1e-9,
    }
    file.write_text(yaml.safe_dump({"potential": "model", "output_directory": "out", "walkers": [group]}))
    done = surveyor("sample", str(file))
    assert done.returncode == 0, done.stderr
    assert "not converged" in done.stdout
    assert f"structures: {tmp_path / 'out' / 'samples.extxyz'}" in done.stdout

    status = surveyor("status", str(tmp_path / "out"))
    assert "is complete" in status.stdout
    assert "not converged" in status.stdout
    parameters = json.loads(surveyor("sample", "--json", str(file)).stdout)
    assert SamplingParameters.model_validate(parameters).potential == tmp_path / "model"


def test_walkers_that_bring_nothing_end_in_failure(parameters, tmp_path, prefect_api_url: str) -> None:
    file = tmp_path / "sample.yaml"
    group = {"start": "start.extxyz", "n_walkers": 2, "n_steps": 20, "max_force_eV_per_A": 1e-3}
    content = {"potential": "model", "output_directory": "out", "walkers": [group], "n_tries": 2}
    file.write_text(yaml.safe_dump(content))
    done = surveyor("sample", str(file))
    assert done.returncode == 1, done.stderr
    assert "no walker brought a structure: guards stopped all tries (4 x force)" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert read_json(tmp_path / "out" / "summary.json")["n_structures"] == {"samples.extxyz": 0}


def surveyor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_windows_are_in_all_results(parameters, tmp_path) -> None:
    restraint = {"variable": "distance", "atoms": [0, 1], "centre": 0, "force_constant": 5.0}
    windows = {"variable": "distance(1,0)", "minimum": 2.5, "maximum": 2.7}
    group = {**parameters["walkers"][0], "n_walkers": 2, "restraints": [restraint], "distribution": windows}
    sample_walkers(**{**parameters, "walkers": [group]}, min_difference_A=0)
    expected = [2.5, 2.7]
    for file in ("samples.extxyz", "frames.extxyz"):
        found = ase.io.read(tmp_path / "out" / file, ":")
        assert sorted({atoms.info["window_centre"] for atoms in found}) == expected
        assert {atoms.info["window_variable"] for atoms in found} == {"distance(1,0)"}
    samples = read_json(tmp_path / "out" / "summary.json")["samples"]
    assert [sample["window"] for sample in samples] == [
        {"variable": "distance(1,0)", "centre": centre} for centre in expected
    ]


def test_a_folder_that_a_former_version_began_keeps_its_windows(parameters, tmp_path) -> None:
    walls = [
        {"variable": "distance", "atoms": [0, 1], "kind": f"{side}_wall", "centre": centre, "force_constant": 1.0}
        for side, centre in (("lower", 2.0), ("upper", 3.0))
    ]
    windows = {"variable": "distance(0,1)", "minimum": 2.0, "maximum": 3.0}
    group = {**parameters["walkers"][0], "n_walkers": 2, "n_steps": 1, "restraints": walls, "distribution": windows}
    given = SamplingParameters.model_validate({**parameters, "walkers": [group]})

    def centres() -> list[list[float]]:
        walkers = SAMPLING.check(given).walkers
        return [[each.centre for each in walker.conditions.restraints] for walker in walkers]

    with SAMPLING.open(given, {}):
        assert centres() == [[1.5, 2.5], [2.5, 3.5]]
    record = read_json(tmp_path / "out" / "parameters.json")
    assert not record.pop("former_windows")
    write_json(tmp_path / "out" / "parameters.json", record)
    for _ in range(2):  # the second time, this version has written the parameters
        assert centres() == [[2.0, 2.0], [3.0, 3.0]]
        with SAMPLING.open(given, {}):
            pass


@pytest.mark.long
@pytest.mark.mace
def test_walkers_on_mace_move_in_batches_as_they_move_alone(parameters, tmp_path, one_worker: str) -> None:
    model = save_model(tmp_path / "mace", {"mace": TINY_MACE})
    guards = {"max_force_eV_per_A": 1e3, "max_temperature_factor": 1e3}
    group = {"start": tmp_path / "start.extxyz", "n_walkers": 4, "timestep_fs": 1, "n_steps": 10, **guards}
    found = {}
    for size in (1, 4):
        out = tmp_path / f"out-{size}"
        sample_walkers(potential=model, output_directory=out, walkers=[group], walkers_per_batch=size, pool=one_worker)
        found[size] = Dataset.load(out / "samples.extxyz")
    for one, other in zip(found[1], found[4], strict=True):
        assert np.abs(one.positions - other.positions).max() < 1e-7
    events, _ = RunDirectory(tmp_path / "out-4").events.read()
    assert len(of_kind(events, Sampled)) == 4


@pytest.mark.plumed
def test_biased_walkers_keep_their_hills_and_a_pool_without_plumed_says_so(parameters, tmp_path, monkeypatch) -> None:
    (tmp_path / "plumed.dat").write_text(
        "d: DISTANCE ATOMS=1,2\nMETAD ARG=d PACE=10 HEIGHT=1 SIGMA=0.01\nPRINT ARG=d\n"
    )
    group = {"start": tmp_path / "start.extxyz", "n_walkers": 2, "timestep_fs": 2, "n_steps": 40}
    biased = {**parameters, "walkers": [{**group, "method": "npt", "plumed": tmp_path / "plumed.dat"}]}
    sample_walkers(**biased, n_samples=2)
    with np.load(tmp_path / "out" / "samples" / "w001-1.npz") as arrays:
        hills = [line for line in arrays["history.HILLS"].tobytes().decode().splitlines() if not line.startswith("#!")]
        assert len(hills) == 8
        assert (tmp_path / "out" / "samples" / "w001-1.HILLS").read_text().splitlines()[-1] == hills[-1]
        assert arrays["observable.d"].shape == arrays["observable.bias_energy"].shape == (40,)
    assert (tmp_path / "out" / "walkers.png").exists()

    monkeypatch.setenv("PLUMED_KERNEL", "/absent.so")  # in the workers, which are processes of their own
    with pytest.raises(InputError, match=r"kernel cannot be loaded \(PLUMED_KERNEL is /absent.so\)"):
        sample_walkers(**{**biased, "output_directory": tmp_path / "other"})
