"""Figures and Markdown of a training on files."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from surveyor.dataset import Dataset, DataSets, with_label
from surveyor.dataset.evaluation import evaluate_dataset, load_predictions
from surveyor.dataset.metrics import Errors, errors_of
from surveyor.dataset.weights import PROPERTY_WEIGHTS
from surveyor.labels import Label
from surveyor.models.choice import ModelParameters, make_model
from surveyor.models.history import load_history, save_history
from surveyor.models.model import Epoch
from surveyor.report import training_markdown, write_training_figures
from surveyor.report.figures import History, parity_figure, training_figure
from surveyor.report.parity import parity_points
from surveyor.report.pictures import history_of_training
from surveyor.report.tables import number, sets_table
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.works.summary import read_summary
from surveyor.works.training import summarise

RATES = (0.01, 0.01, 0.002)


def alloys(n: int) -> Dataset:
    return Dataset(_labelled(seed) for seed in range(n))


def _labelled(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    return with_label(atoms, "v1:0", Label(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A complete training of the pair model, whose history and log are those of a trainer."""
    path = tmp_path_factory.mktemp("training") / "a|b"
    structures, files, directory = alloys(12), GenerationDirectory(path), RunDirectory(path)
    data = DataSets(train=Dataset(structures[:7]), valid=Dataset(structures[7:9]), test=Dataset(structures[9:]))
    data.save(files.path)
    model = make_model(ModelParameters.model_validate({"pair": {"n_basis": 8}}))
    model = model.initialize(data.train, atomic_energies=None, seed=0)
    model, _ = model.train(data.train, data.valid, files.training)
    model.save(files.model)
    save_history(files.model, [Epoch(i, 1 / (1 + i), 0.1, 0.2, rate) for i, rate in enumerate(RATES)])
    for member in ("0", "1"):
        (files.training / "members" / member).mkdir(parents=True)
        (files.training / "members" / member / "trainer.log").write_text("epoch 0")
    errors = {}
    for name in ("train", "valid", "test"):
        file = evaluate_dataset(model.deploy(), files.set_file(name), files.predictions(name))
        dataset = Dataset.load(files.set_file(name))
        errors[name] = errors_of(dataset, load_predictions(file, dataset))
    summarise(directory, model, data, errors)
    return directory


def test_figures_are_parity_and_the_course_of_the_training(training: RunDirectory, tmp_path: Path) -> None:
    files = GenerationDirectory(Path(shutil.copytree(training.path, tmp_path / "copy")))
    written = write_training_figures(files)
    assert {path.name for path in written} == {"parity.png", "training.png"}
    assert {path.parent for path in written} == {files.path / "figures"}
    assert all(matplotlib.image.imread(path).std() > 0 for path in written)

    save_history(files.model, load_history(files.model)[:1])
    assert [path.name for path in write_training_figures(files)] == ["parity.png"]


def test_the_learning_rate_is_drawn_for_each_epoch(training: RunDirectory) -> None:
    history = history_of_training(GenerationDirectory(training.path))
    first, *_, rates = training_figure([history]).axes
    (line,) = rates.lines
    assert rates.get_ylabel() == "learning rate"
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3], list(RATES))
    assert first.get_legend() is None  # there are no generations
    # An engine that does not tell the learning rate, and histories of earlier versions, have no panel for it.
    old = [{name: value for name, value in epoch.items() if name != "learning_rate"} for epoch in history.epochs]
    labels = [axes.get_ylabel() for axes in training_figure([History(None, old)]).axes]
    assert len(labels) == 3
    assert "learning rate" not in labels


def test_the_course_of_a_training_is_drawn_in_the_units_of_its_axes(training: RunDirectory) -> None:
    figure = training_figure([history_of_training(GenerationDirectory(training.path))])
    drawn = {axes.get_ylabel(): list(axes.lines[0].get_ydata()) for axes in figure.axes}
    assert drawn == {
        "loss (engine's unit)": [1, 1 / 2, 1 / 3],
        "energy RMSE (meV/atom)": [100] * 3,
        "forces RMSE (meV/Å)": [200] * 3,
        "learning rate": list(RATES),
    }


def test_parity_shows_labels_predictions_and_their_differences(training: RunDirectory) -> None:
    points = parity_points(GenerationDirectory(training.path))
    energies, forces, stresses, *differences = parity_figure(points).axes
    assert [axes.get_title(loc="left") for axes in (energies, forces, stresses)] == ["Energy", "Forces", "Stress"]
    errors = read_summary(training)["errors"]["test"]
    diagonal, *_, line = forces.lines
    assert line.get_label() == f"test: {number(errors['forces_rmse'], 1e3)} meV/Å"
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert "meV/Å" in forces.get_ylabel()
    in_meV = 1e3 * points[-1].forces
    np.testing.assert_allclose(np.column_stack([line.get_xdata(), line.get_ydata()]), in_meV)
    below = differences[1].lines[-1]
    np.testing.assert_allclose(below.get_ydata(), in_meV[:, 1] - in_meV[:, 0])


def test_labels_of_weight_0_are_not_drawn(training: RunDirectory, tmp_path: Path) -> None:
    files = GenerationDirectory(Path(shutil.copytree(training.path, tmp_path / "copy")))
    structures = Dataset(atoms.copy() for atoms in Dataset.load(files.set_file("test")))
    for name, atoms in zip(PROPERTY_WEIGHTS.values(), structures, strict=True):
        atoms.info[name] = 0.0
    structures.save(files.set_file("test"))
    *_, test = parity_points(files)
    n_atoms = len(structures[0])
    assert [len(each) for each in (test.energies, test.forces, test.stresses)] == [2, 2 * 3 * n_atoms, 2 * 6]


def test_each_error_has_its_column_and_unit() -> None:
    errors = Errors(5, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, {"Cu": 0.009}, 0.007, 0.008)
    table = sets_table({"train": errors.to_dict(), "test": Errors().to_dict()}, "")
    (row,) = table.rows  # a set without structures has none
    assert dict(zip((" ".join(name.split()) for name in table.head), row, strict=True)) == {
        "Set": "train",
        "Structures": "5",
        "Energy RMSE (meV/atom)": "1.00",
        "Energy RMSE without offset (meV/atom)": "8.00",
        "Energy offset (meV/atom)": "7.00",
        "Energy MAE (meV/atom)": "2.00",
        "Forces RMSE (meV/Å)": "3.00",
        "Forces MAE (meV/Å)": "4.00",
        "Stress RMSE (MPa)": "801",
        "Stress MAE (MPa)": "961",
    }


def test_a_constant_learning_rate_is_drawn_from_zero() -> None:
    epochs: Sequence[dict[str, float]] = [{"number": index, "loss": 1.0, "learning_rate": 0.01} for index in range(5)]
    *_, rates = training_figure([History(None, epochs)]).axes
    assert rates.get_ylim()[0] == 0


def test_markdown_has_errors_by_element_the_offset_and_the_figures(training: RunDirectory) -> None:
    summary = read_summary(training)
    assert summary["atomic_energies"].keys() == {"Au", "Cu"}
    markdown = training_markdown(training, summary)
    assert markdown.startswith("# Training of a\\|b\n")
    assert markdown.count("data:image/png;base64,") == 2
    assert len(markdown) < 300_000
    assert "7 structures, 2 for validation, 3 for the test; 3 epochs" in markdown
    errors = summary["errors"]["test"]
    cells = [number(errors[name], 1e3) for name in ("energy_rmse", "energy_rmse_without_offset", "energy_offset")]
    assert f"| test | 3 | {' | '.join(cells)} |" in markdown
    assert np.hypot(errors["energy_rmse_without_offset"], errors["energy_offset"]) == pytest.approx(
        errors["energy_rmse"]
    )
    for symbol in ("Au", "Cu"):
        assert f"Forces on {symbol} RMSE (meV/Å)" in markdown
        assert number(errors["forces_rmse_by_element"][symbol], 1e3) in markdown
    assert summary["logs"] == ["training/members/0/trainer.log", "training/members/1/trainer.log"]
    assert all(f"log: `{log}`" in markdown for log in summary["logs"])
