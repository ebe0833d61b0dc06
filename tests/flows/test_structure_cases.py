"""Structure files as other people write them, through the command line and the flows."""

import logging
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml
from ase.build import molecule

from surveyor.dataset import MESSAGE, Dataset
from surveyor.events.kinds import FileRead, FileSuspicious
from surveyor.events.log import EventLog, of_kind
from surveyor.flows.command_line import main
from surveyor.flows.label_dataset import label_dataset
from surveyor.flows.train_model import train_model
from surveyor.models.choice import ModelParameters, make_model
from surveyor.sampling.conditions import Walkers
from surveyor.sampling.walkers import make_walkers

HYDROXIDE = "O 0 0 0.108786{0}\nH 0 0 -0.870284{0}\n"
OXYGEN = "O 0 0 0.622978{0}\nO 0 0 -0.622978{0}\n"
PLAIN, MOMENTS = "Properties=species:S:1:pos:R:3", "Properties=species:S:1:pos:R:3:initial_magmoms:R:1"

# Comment, atoms and what a column adds to them; the first ones contradict themselves.
FRAMES = [
    (f"{MOMENTS} charge=-1", HYDROXIDE, " 0.5"),
    (f"{MOMENTS} total_charge=-1", HYDROXIDE, " 0.5"),
    (f"{MOMENTS} charge=-1 spin=1", HYDROXIDE, " 0.5"),
    (f"{PLAIN} charge=-1", HYDROXIDE, ""),
    (f"{PLAIN} total_charge=-1", HYDROXIDE, ""),
    (f"{PLAIN} total_charge=-1 total_spin=1", HYDROXIDE, ""),
    (f"{PLAIN}:initial_charges:R:1", HYDROXIDE, " -0.5"),
    (f"{PLAIN} multiplicity=3", OXYGEN, ""),
    (f"{PLAIN} spin=3", OXYGEN, ""),
    (MOMENTS, OXYGEN, " 1.0"),
    (f"{PLAIN} uhf=2", OXYGEN, ""),
    (PLAIN, HYDROXIDE, ""),
]
N_CONTRADICTIONS, N_HYDROXIDE, N_OXYGEN = 3, 4, 4


@pytest.mark.xtb
@pytest.mark.slow
def test_charge_and_spin_under_other_names_give_the_labels_of_the_same_state(tmp_path: Path) -> None:
    text = "".join(f'2\n{comment} pbc="F F F"\n{atoms.format(column)}' for comment, atoms, column in FRAMES)
    (tmp_path / "frames.extxyz").write_text(text)
    parameters: dict[str, Any] = {"structures": tmp_path / "frames.extxyz", "reference": {"xtb": {}}}
    labelled = Dataset.load(label_dataset(output_directory=tmp_path / "out", **parameters))

    energies = [atoms.info["REF_energy"] for atoms in labelled]
    anions, triplets, (radical,) = energies[:N_HYDROXIDE], energies[N_HYDROXIDE:-1], energies[-1:]
    assert anions == pytest.approx([anions[0]] * N_HYDROXIDE, abs=1e-9)
    assert triplets == pytest.approx([triplets[0]] * N_OXYGEN, abs=1e-9)
    assert abs(radical - anions[0]) > 5.0  # eV
    failed = ase.io.read(tmp_path / "out" / "failed.extxyz", ":")
    assert len(failed) == N_CONTRADICTIONS
    assert all("initial_magmoms" in atoms.info[MESSAGE] for atoms in failed)

    events, _ = EventLog(tmp_path / "out" / "events.jsonl").read()
    (report,) = of_kind(events, FileRead)
    assert report.n_structures == len(FRAMES)
    warnings = of_kind(events, FileSuspicious)
    assert {event.level for event in warnings} == {logging.WARNING}
    (taken,) = [event for event in warnings if "total_charge is taken as the charge" in event.message]
    assert (taken.n_structures, taken.first) == (3, 1)


HEAVY_WATER = {
    "masses": "Properties=species:S:1:pos:R:3:masses:R:1\nO 0 0 0.119 15.999\nH 0 0.763 -0.477 2.0141\n"
    "H 0 -0.763 -0.477 2.0141\n",
    "mass": "Properties=species:S:1:pos:R:3:mass:R:1\nO 0 0 0.119 15.999\nH 0 0.763 -0.477 2.0141\n"
    "H 0 -0.763 -0.477 2.0141\n",
    "symbol": "Properties=species:S:1:pos:R:3\nO 0 0 0.119\nD 0 0.763 -0.477\nD 0 -0.763 -0.477\n",
}


@pytest.fixture
def sampling(tmp_path: Path) -> Path:
    """A folder with a model of water and a parameter file for each way to write heavy water."""
    frames = []
    for seed in range(6):
        frames.append(molecule("H2O"))
        frames[-1].rattle(0.05, seed=seed)
        frames[-1].info["REF_energy"] = -1.0
        frames[-1].arrays["REF_forces"] = 0 * frames[-1].positions
    model = make_model(ModelParameters.model_validate({"pair": {"n_basis": 4}}))
    initialized = model.initialize(Dataset(frames), atomic_energies=None, seed=0)
    trained, _ = initialized.train(Dataset(frames), Dataset(), tmp_path / "training")
    trained.save(tmp_path / "model")
    for name, text in HEAVY_WATER.items():
        (tmp_path / f"{name}.extxyz").write_text(f"3\n{text}")
        content = {"potential": "model", "output_directory": "out", "walkers": [{"start": f"{name}.extxyz"}]}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def test_heavy_water_walks_with_its_masses_or_is_refused(sampling: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(sampling / "masses.yaml")]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main(["check", str(sampling / "mass.yaml")]) == 0
    assert "the column mass is taken as masses (u)" in capsys.readouterr().out
    one, other = (make_walkers([Walkers(start=sampling / f"{each}.extxyz")], 0)[0] for each in ("masses", "mass"))
    assert one.start.get_masses().tolist() == other.start.get_masses().tolist() == [15.999, 2.0141, 2.0141]
    assert main(["check", str(sampling / "symbol.yaml")]) == 2
    assert "found the symbol D, an isotope of hydrogen; write H, and a column masses" in capsys.readouterr().err


CELL = 'Lattice="2.5456 0 0 1.2728 0 2.2045 0 16.1569 0" pbc="T T F"'
SLAB = """3
{cell} Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy={energy}
Cu 1.1926 {y} 0.6024 0.0226 0.0993 0.1900
Cu 0.0420 8.0894 1.5833 -0.1045 0.1509 -0.2744
Cu -0.0553 10.2318 -0.0785 0.0819 -0.2502 0.0844
"""
FRAMES_OF_SLAB = [(5.97, 0.76), (5.87, 0.83), (6.02, 0.83)]
TINY_MACE: dict[str, Any] = {
    "r_max_A": 4.0,
    "num_channels": 4,
    "max_L": 0,
    "correlation": 1,
    "num_interactions": 1,
    "max_num_epochs": 1,
    "device": "cpu",
    "options": {"max_ell": 1, "num_radial_basis": 4, "radial_MLP": "[8]"},
}


@pytest.mark.long
@pytest.mark.mace
@pytest.mark.slow
def test_slabs_with_their_vacuum_along_y_are_trained_on(tmp_path: Path) -> None:
    (tmp_path / "slabs.extxyz").write_text(
        "".join(SLAB.format(cell=CELL, y=y, energy=energy) for y, energy in FRAMES_OF_SLAB)
    )
    path = train_model(
        train=tmp_path / "slabs.extxyz",
        valid_fraction=0.3,
        output_directory=tmp_path / "out",
        model=ModelParameters.model_validate({"mace": TINY_MACE}),
    )
    assert path.is_file()
