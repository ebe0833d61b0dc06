"""Checks of training data before a model learns from them, by the command and by the call."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from labelling_inputs import copper, labelled, written
from processes import PATIENCE_S

from surveyor.dataset import ENERGY, FORCES, Dataset
from surveyor.errors import InputError
from surveyor.events.kinds import FileSuspicious
from surveyor.events.log import of_kind
from surveyor.files import read_json, write_json
from surveyor.flows.online_learning import online_learning
from surveyor.flows.train_model import train_model
from surveyor.run_directory import RunDirectory
from surveyor.works.campaign import CAMPAIGN
from surveyor.works.training import TRAINING, TrainingParameters

pytestmark = [pytest.mark.slow]

FREE = {"H": -10.7072, "O": -102.5218}  # eV
BOND_EV, BOND_A, STIFFNESS = -12.2, 0.97, 45.0
PAIR: dict[str, Any] = {"pair": {"n_basis": 8}}
MACE: dict[str, Any] = {
    "mace": {
        "num_channels": 4,
        "max_L": 0,
        "r_max_A": 4.0,
        "correlation": 1,
        "num_interactions": 1,
        "max_num_epochs": 2,
        "device": "cpu",
        "options": {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
    }
}


def with_springs(atoms: Atoms) -> Atoms:
    """Return a molecule of bonds from its first atom, labelled by springs."""
    vectors = atoms.positions[1:] - atoms.positions[0]
    lengths = np.linalg.norm(vectors, axis=1)
    pulls = STIFFNESS * (lengths - BOND_A)[:, None] * vectors / lengths[:, None]
    copy = atoms.copy()
    springs = 0.5 * STIFFNESS * ((lengths - BOND_A) ** 2).sum()
    copy.info[ENERGY] = sum(FREE[symbol] for symbol in atoms.symbols) + BOND_EV * (len(atoms) > 1) + float(springs)
    copy.arrays[FORCES] = np.concatenate([pulls.sum(axis=0)[None], -pulls])
    return copy


def molecules(n_structures: int, *names: str) -> list[Atoms]:
    structures = [molecule(names[number % len(names)]) for number in range(n_structures)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
        atoms.arrays.pop("initial_magmoms", None)
    return [with_springs(atoms) for atoms in structures]


def free_atoms() -> list[Atoms]:
    atoms = [with_springs(Atoms(symbol)) for symbol in FREE]
    for atom in atoms:
        atom.info["config_type"] = "IsolatedAtom"
    return atoms


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A parameter file of a training on water, OH and isolated atoms."""
    written(tmp_path / "train.extxyz", [*free_atoms(), *molecules(12, "H2O", "OH")])
    return parameter_file(tmp_path, train="train.extxyz")


def parameter_file(folder: Path, **fields: Any) -> Path:
    file = folder / "train.yaml"
    file.write_text(yaml.safe_dump({"output_directory": "out", "model": PAIR, **fields}))
    return file


def surveyor(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "surveyor.flows.command_line", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_isolated_atoms_give_the_atomic_energies_and_leave_the_sets(training: Path, prefect_api_url: str) -> None:
    done = surveyor("train", str(training))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 isolated atoms are left out; atomic energies from them: H -10.7072 eV, O -102.5218 eV" in said
    assert "training on 11 structures, 1 for validation" in said
    summary = read_json(training.parent / "out" / "summary.json")
    assert summary["atomic_energies"] == FREE
    assert summary["n_structures"] == {"train": 11, "valid": 1, "test": 0}
    for name in ("train", "valid"):
        assert all(len(atoms) > 1 for atoms in Dataset.load(training.parent / "out" / f"{name}.extxyz"))


@pytest.mark.mace
@pytest.mark.skipif(find_spec("mace") is None, reason='needs MACE: pip install "surveyor[mace]"')
def test_mace_takes_the_atomic_energies_of_isolated_atoms(training: Path, one_worker: str) -> None:
    train_model(
        train=training.parent / "train.extxyz", output_directory=training.parent / "out", model=MACE, pool=one_worker
    )
    summary = read_json(training.parent / "out" / "summary.json")
    assert summary["atomic_energies"] == FREE
    assert summary["n_structures"]["train"] == 11
    assert summary["errors"]["train"]["energy_rmse"] < 6  # a bond is 12.2 eV; with other atomic energies it is 100 eV
    trained_on = Dataset.load(training.parent / "out" / "training" / "train.extxyz")
    assert sorted({len(atoms) for atoms in trained_on}) == [2, 3]


def test_elements_without_an_isolated_atom_are_fitted_beside_the_others(training: Path) -> None:
    structures = [free_atoms()[0], *molecules(12, "H2O")]
    written(training.parent / "train.extxyz", structures)
    found = checked(training, valid_fraction=0).model.atomic_energies
    assert found["H"] == FREE["H"]
    mean = np.mean([atoms.info[ENERGY] for atoms in structures[1:]])
    assert found["O"] == pytest.approx(mean - 2 * FREE["H"])
    assert "the atomic energies of O are not known, and are fitted" in checked(training).reports[0].summary


def test_elements_without_a_given_energy_are_fitted_beside_the_others(training: Path) -> None:
    written(training.parent / "train.extxyz", molecules(12, "H2O"))
    found = checked(training, atomic_energies={"O": FREE["O"]})
    assert found.model.atomic_energies["O"] == FREE["O"]
    mean = np.mean([atoms.info[ENERGY] for atoms in found.data.train])
    assert found.model.atomic_energies["H"] == pytest.approx((mean - FREE["O"]) / 2)
    assert "the atomic energies of H are not known, and are fitted" in found.reports[0].summary


def checked(training: Path, **changes: Any) -> Any:
    fields = {**yaml.safe_load(training.read_text()), **changes}
    for name in ("train", "valid", "test", "output_directory", "start"):
        if name in fields:
            fields[name] = training.parent / fields[name]
    return TRAINING.check(TrainingParameters.model_validate(fields))


def test_given_atomic_energies_are_completed_by_isolated_atoms_and_must_agree(training: Path) -> None:
    found = checked(training, atomic_energies={"O": FREE["O"] + 0.005}).model.atomic_energies
    assert found == {"H": FREE["H"], "O": FREE["O"] + 0.005}
    with pytest.raises(
        InputError, match=r"atomic_energies: found -100\.0+ eV for O, .* has -102\.5218\d* eV; .* 10 meV"
    ):
        checked(training, atomic_energies={"O": -100.0})


def test_isolated_atoms_in_any_file_count_and_contradictions_are_refused(training: Path) -> None:
    hydrogen, oxygen = free_atoms()
    written(training.parent / "train.extxyz", [oxygen, *molecules(12, "H2O", "OH")])
    written(training.parent / "valid.extxyz", [hydrogen, *molecules(16, "H2O")[12:]])
    data = checked(training, valid="valid.extxyz")
    assert data.model.atomic_energies == FREE
    assert len(data.data.valid) == 4
    oxygen.info[ENERGY] += 2.0
    written(training.parent / "valid.extxyz", [oxygen, *molecules(16, "H2O")[12:]])
    with pytest.raises(InputError, match=r"structure 0 of .*valid\.extxyz and structure 0 of .*train\.extxyz are isol"):
        checked(training, valid="valid.extxyz")


def test_a_training_from_a_saved_model_says_that_isolated_atoms_are_not_used(training: Path) -> None:
    frames = training.parent / "frames.extxyz"
    written(frames, molecules(12, "H2O", "OH"))
    start = train_model(train=frames, output_directory=training.parent / "first", model=PAIR).parent
    (report,) = checked(training, start=str(start), model=None).reports
    assert "isolated atoms have other energies than the model of start, which keeps its own (H -" in report.summary


def test_copies_stay_on_one_side_of_the_division(training: Path) -> None:
    copies = molecules(4, "H2O")
    written(training.parent / "train.extxyz", [*copies, *copies, *copies])
    for seed in range(4):
        data = checked(training, valid_fraction=0.3, seed=seed).data
        energies = [{atoms.info[ENERGY] for atoms in part} for part in (data.train, data.valid)]
        assert not energies[0] & energies[1]
        assert (len(data.train), len(data.valid)) == (6, 6)
    written(training.parent / "train.extxyz", copies[:1] * 3)
    with pytest.raises(InputError, match="has 3 structures, of which 3 would be for validation, where copies"):
        checked(training)


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    frames = molecules(12, "H2O", "OH")
    frames[7].info[ENERGY] += 1000.0
    written(tmp_path / "train.extxyz", frames)
    moved = frames[3].copy()
    moved.translate([1.0, 2.0, 3.0])
    written(tmp_path / "test.extxyz", [*molecules(14, "H2O")[12:], moved])
    return parameter_file(tmp_path, train="train.extxyz", test="test.extxyz")


@pytest.mark.parametrize("command", ["train", "check"])
def test_test_data_in_the_training_data_are_refused(leaking: Path, command: str) -> None:
    done = surveyor(command, str(leaking))
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "(test) is the same as structure 3 of" in said
    assert "or set allow_leaks: true" in said
    assert not (leaking.parent / "out").exists()


def test_suspicious_labels_are_shown_by_check_and_announced_in_the_run(leaking: Path) -> None:
    parameter_file(leaking.parent, train="train.extxyz", test="test.extxyz", allow_leaks=True)
    warnings = [
        "train: train.extxyz: an energy far from those of the others, by up to 500 eV/atom "
        "(1 structure, the first is 7)",
        "test: test.extxyz: the same structure as one of train (1 structure, the first is 2)",
    ]
    output = " ".join(surveyor("check", str(leaking)).stdout.split())
    assert all(f"warning: {line}" in output for line in warnings)
    train_model(
        train=leaking.parent / "train.extxyz",
        test=leaking.parent / "test.extxyz",
        allow_leaks=True,
        output_directory=leaking.parent / "out",
        model=PAIR,
    )
    events, _ = RunDirectory(leaking.parent / "out").events.read()
    assert [each.message for each in of_kind(events, FileSuspicious)] == warnings


@pytest.mark.long
def test_isolated_atoms_in_the_data_of_a_campaign_must_be_those_of_its_reference(tmp_path: Path) -> None:
    atom, *crystals = labelled([Atoms("Cu"), *copper(6)])
    atom.info[ENERGY] += 2.0  # as in another state
    written(tmp_path / "data.extxyz", [atom, *crystals])
    written(tmp_path / "start.extxyz", [bulk("Cu", cubic=True)])
    with pytest.raises(InputError, match=r"(?s)found 3\.5\d* eV for Cu, .* 5\.5\d* eV; .* to least_squares to keep"):
        run(tmp_path, "isolated_atoms")
    frozen = tmp_path / "isolated_atoms" / "atomic_energies.json"
    assert not frozen.exists()
    write_json(frozen, {"schema_version": 1, "energies_eV": {"Cu": 0.01}})  # as an earlier surveyor fitted them
    with pytest.raises(InputError, match=r"(?s)found 0\.01\d* eV for Cu.*earlier surveyor.*in another run directory"):
        run(tmp_path, "isolated_atoms")
    run(tmp_path, "least_squares")
    energies = read_json(tmp_path / "least_squares" / "atomic_energies.json")["energies_eV"]
    assert energies == {"Cu": pytest.approx(atom.info[ENERGY])}
    data = RunDirectory(tmp_path / "least_squares").load_generation(0, ()).data
    assert [len(atoms) for atoms in data.everything] == [4] * 6


def run(folder: Path, atomic_energies: str) -> None:
    file = folder / f"{atomic_energies}.yaml"
    file.write_text(yaml.safe_dump(campaign(atomic_energies, "data.extxyz", atomic_energies)))
    parameters = CAMPAIGN.load(file)
    online_learning(**{name: getattr(parameters, name) for name in type(parameters).model_fields})


def campaign(name: str, data: str, atomic_energies: str) -> dict[str, Any]:
    return {
        "run_directory": name,
        "walkers": [{"start": "start.extxyz", "n_steps": 2}],
        "reference": {"emt": {}},
        "model": PAIR,
        "bootstrap": {"data": data, "level_of_theory": "EMT"},
        "learning": {"n_generations": 0, "atomic_energies": atomic_energies},
    }
