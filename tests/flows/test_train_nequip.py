"""NequIP trained on files by the command, and exported for other programs."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from labelling_inputs import copper, labelled, written
from processes import PATIENCE_S

from surveyor.dataset import Dataset
from surveyor.models.choice import load_model
from surveyor.models.history import reported_epochs

pytestmark = [pytest.mark.nequip, pytest.mark.slow]

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
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    return done.stdout if done.returncode == 0 else f"error {done.returncode}: {done.stderr}"


def printed_by(script: str, *files: Path) -> list[Any]:
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prefect_api_url: str) -> Path:
    """A folder with a training that the command has run, and with structures to test it on."""
    folder = tmp_path_factory.mktemp("nequip")
    frames = labelled(copper(12))
    written(folder / "train.extxyz", frames[:9])
    written(folder / "test.extxyz", frames[9:])
    content = {"train": "train.extxyz", "test": "test.extxyz", "output_directory": "out", "valid_fraction": 0.25}
    (folder / "train.yaml").write_text(yaml.safe_dump({**content, "model": MODEL}))
    assert f"potential: {folder / 'out' / 'model'}" in surveyor(folder, "train", "train.yaml")
    return folder


def check_predictions(found: Sequence[tuple[float, object]], trained: Path) -> None:
    """Compare energies and forces with those of surveyor."""
    predictions = load_model(trained / "out" / "model").deploy().evaluate(Dataset.load(trained / "test.extxyz"))
    assert [energy for energy, _ in found] == pytest.approx([each.energy for each in predictions], abs=1e-6)
    forces = [each.forces for each in predictions]
    np.testing.assert_allclose([each for _, each in found], forces, rtol=0, atol=1e-6)


@pytest.mark.long
def test_nequip_is_trained_and_exported_as_its_package_and_for_lammps(trained: Path) -> None:
    rates = [epoch.learning_rate for epoch in reported_epochs(trained / "out" / "training")]
    assert rates == [0.005] * 3

    assert not surveyor(trained, "export", "out", "copper.nequip.zip").startswith("error")
    native = trained / "out" / "model" / "model.nequip.zip"
    assert (trained / "copper.nequip.zip").read_bytes() == native.read_bytes()

    assert not surveyor(trained, "export", "out", "lammps.nequip.pt2", "--format", "lammps").startswith("error")
    # What LAMMPS loads; LAMMPS itself, with `pair_style nequip`, is in no package.
    types, r_max, found = printed_by(IN_LAMMPS, trained / "lammps.nequip.pt2", trained / "test.extxyz")
    assert (types, r_max) == (["Cu"], 4.0)
    check_predictions(found, trained)

    refused = surveyor(trained, "export", "out", "copper.pt", "--format", "lammps")
    assert refused.startswith("error 2")
    assert "expected a name that ends with .nequip.pt2" in refused


@pytest.mark.long  # it is compiled as for LAMMPS
def test_nequip_is_exported_for_ase(trained: Path) -> None:
    assert not surveyor(trained, "export", "out", "copper.nequip.pt2").startswith("error")
    check_predictions(printed_by(IN_ASE, trained / "copper.nequip.pt2", trained / "test.extxyz"), trained)
