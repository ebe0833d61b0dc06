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
from surveyor.evaluation import evaluate_dataset, load_predictions
from surveyor.labels import Label
from surveyor.metrics import errors_of
from surveyor.models.choice import ModelParameters, make_model
from surveyor.models.history import load_history, save_history
from surveyor.models.model import Epoch
from surveyor.report import training_markdown, write_training_figures
from surveyor.report.figures import History, training_figure
from surveyor.report.images import history_of_training
from surveyor.report.tables import number
from surveyor.run_directory import GenerationDirectory, RunDirectory
from surveyor.training import read_training_summary, write_summary

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
    write_summary(directory, model, data, errors)
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
    *_, rates = training_figure([history]).axes
    (line,) = rates.lines
    assert rates.get_ylabel() == "learning rate"
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3], list(RATES))
    assert rates.get_legend() is None  # there are no generations
    # An engine that does not tell the learning rate, and histories of earlier versions, have no panel for it.
    old = [{name: value for name, value in epoch.items() if name != "learning_rate"} for epoch in history.epochs]
    labels = [axes.get_ylabel() for axes in training_figure([History(None, old)]).axes]
    assert len(labels) == 3
    assert "learning rate" not in labels


def test_a_constant_learning_rate_is_drawn_from_zero() -> None:
    epochs: Sequence[dict[str, float]] = [{"number": index, "loss": 1.0, "learning_rate": 0.01} for index in range(5)]
    *_, rates = training_figure([History(None, epochs)]).axes
    assert rates.get_ylim()[0] == 0


def test_markdown_has_errors_by_element_the_offset_and_the_figures(training: RunDirectory) -> None:
    summary = read_training_summary(training)
    markdown = training_markdown(training, summary)
    assert markdown.startswith("# Training of a\\|b\n")
    assert markdown.count("data:image/png;base64,") == 2
    assert len(markdown) < 300_000
    assert "7 structures, 2 for validation, 3 for the test; 3 epoch(s)" in markdown
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
