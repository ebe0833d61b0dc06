"""NequIP trained on files by the command, and exported for other programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from labelling_inputs import copper, labelled, written

from surveyor.dataset import Dataset
from surveyor.models.choice import load_model
from surveyor.models.history import reported_epochs

pytestmark = [pytest.mark.nequip, pytest.mark.slow, pytest.mark.timeout(300)]

MODEL = {
    "nequip": {
        "r_max_A": 4.0,
        "num_layers": 1,
        "num_features": 4,
        "radial_mlp_width": 8,
        "max_num_epochs": 3,
        "lr": 0.005,
        "device": "cpu",
        "is_compiled": False,
    }
}

IN_LAMMPS = """
import json, sys
import ase.io
from nequip.data import AtomicDataDict, from_ase
from nequip.integrations.utils import basic_transforms
from nequip.model.inference_models import load_compiled_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
target = COMPILE_TARGET_DICT["pair_nequip"]
model, metadata = load_compiled_model(sys.argv[1], "cpu", list(target["input"]), list(target["output"]))
types = metadata["type_names"]
transforms = basic_transforms(metadata, metadata["r_max"], types, {name: name for name in types})
found = []
for atoms in ase.io.read(sys.argv[2], index=":"):
    data = from_ase(atoms)
    for transform in transforms:
        data = transform(data)
    result = model(data)
    found.append([float(result["atomic_energy"].sum()), result["forces"].tolist()])
print(json.dumps([types, float(metadata["r_max"]), found]))
"""

IN_ASE = """
import json, sys
import ase.io
from nequip.integrations.ase import NequIPCalculator
calculator = NequIPCalculator.from_compiled_model(sys.argv[1], chemical_species_to_atom_type_map=True)
found = []
for atoms in ase.io.read(sys.argv[2], index=":"):
    atoms.calc = calculator
    found.append([float(atoms.get_potential_energy()), atoms.get_forces().tolist()])
print(json.dumps(found))
"""


def surveyor(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "surveyor.flows.command_line", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    return done.stdout if done.returncode == 0 else f"error {done.returncode}: {done.stderr}"


def printed_by(script: str, *files: Path) -> list[object]:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_nequip_is_trained_and_exported_for_ase_and_lammps(tmp_path: Path, prefect_api_url: str) -> None:
    frames = labelled(copper(12))
    written(tmp_path / "train.extxyz", frames[:9])
    test = written(tmp_path / "test.extxyz", frames[9:])
    content = {"train": "train.extxyz", "test": "test.extxyz", "output_directory": "out", "valid_fraction": 0.25}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**content, "model": MODEL}))
    assert f"potential: {tmp_path / 'out' / 'model'}" in surveyor(tmp_path, "train", "train.yaml")
    rates = [epoch.learning_rate for epoch in reported_epochs(tmp_path / "out" / "training")]
    assert rates == [0.005] * 3
    predictions = load_model(tmp_path / "out" / "model").deploy().evaluate(Dataset.load(test))
    energies = [each.energy for each in predictions]
    forces = [each.forces for each in predictions]

    assert not surveyor(tmp_path, "export", "out", "copper.nequip.zip").startswith("error")
    native = tmp_path / "out" / "model" / "model.nequip.zip"
    assert (tmp_path / "copper.nequip.zip").read_bytes() == native.read_bytes()

    assert not surveyor(tmp_path, "export", "out", "copper.nequip.pt2").startswith("error")
    in_ase = printed_by(IN_ASE, tmp_path / "copper.nequip.pt2", test)
    assert [energy for energy, _ in in_ase] == pytest.approx(energies, abs=1e-6)
    np.testing.assert_allclose([each for _, each in in_ase], forces, rtol=0, atol=1e-6)

    assert not surveyor(tmp_path, "export", "out", "lammps.nequip.pt2", "--format", "lammps").startswith("error")
    # What LAMMPS loads; LAMMPS itself, with `pair_style nequip`, is in no package.
    types, r_max, in_lammps = printed_by(IN_LAMMPS, tmp_path / "lammps.nequip.pt2", test)
    assert (types, r_max) == (["Cu"], 4.0)
    assert [energy for energy, _ in in_lammps] == pytest.approx(energies, abs=1e-6)
    np.testing.assert_allclose([each for _, each in in_lammps], forces, rtol=0, atol=1e-6)

    refused = surveyor(tmp_path, "export", "out", "copper.pt", "--format", "lammps")
    assert refused.startswith("error 2")
    assert "expected a name that ends with .nequip.pt2" in refused
