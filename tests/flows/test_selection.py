"""Campaigns in which a selector chooses what is labelled: real pools and a real Prefect server."""

import json
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaigns import Folder
from interrupted_selection import DeadlyRule
from prefect import flow, task
from prefect.states import Cancelled, Crashed, State
from prefect.utilities.annotations import quote

from surveyor.dataset import Dataset
from surveyor.errors import (
    AttemptFailed,
    FunctionFailed,
    InputError,
    OutOfMemory,
    PoolFailed,
    StorageFailed,
    WorkerLost,
)
from surveyor.flows import choices
from surveyor.learning.entries import Chosen, LabelArrived, SampleReturned
from surveyor.learning.journal import Journal, first_difference

pytestmark = [pytest.mark.slow]

N_STATES = 4
LOOSE = {"discard_energy_meV_per_atom": 1e6, "discard_forces_meV_per_A": 1e6, "min_difference_A": 0}
SELECTED = {"n_generations": 2, "n_states": N_STATES, "n_frames": 3, "select": "random", "test_fraction": 0.3, **LOOSE}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.walkers |= {"n_steps": 200, "frame_interval": 5}
    return folder


def details(folder: Folder, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(folder.directory.generation(number).manifest.read_text())["details"]
    return found


@pytest.mark.parametrize("ahead", [pytest.param(N_STATES, marks=pytest.mark.long), 2 * N_STATES])
def test_each_sample_gives_one_label_and_sets_for_examination_have_audits_alone(folder: Folder, ahead: int) -> None:
    folder.run(n_walkers=N_STATES, learning=SELECTED | {"labels_ahead": ahead})
    entries = Journal(folder.directory.journal).read()
    assert first_difference(entries) is None
    assert folder.n_launches() == 6 + 1 + 2 * N_STATES  # bootstrap, isolated atom, samples
    chosen = [name for entry in entries if isinstance(entry, Chosen) for name in entry.labels]
    audits = [entry.name for entry in entries if isinstance(entry, SampleReturned) and entry.is_audit]
    assert any("-step-" in name for name in chosen)
    assert {*chosen, *audits} == {entry.name for entry in entries if isinstance(entry, LabelArrived)}
    keys = {entry.name: entry.key for entry in entries if isinstance(entry, LabelArrived)}
    check_sets(folder, chosen={keys[name] for name in chosen}, audits={keys[name] for name in audits})


def check_sets(folder: Folder, chosen: set[str], audits: set[str]) -> None:
    """Check that what was chosen is trained on, and that validation and test set have grown by audits alone."""
    newest = keys_in(folder, 2, "train"), keys_in(folder, 2, "valid", "test")
    assert chosen <= newest[0]
    assert newest[0].isdisjoint(newest[1])
    assert newest[1] - keys_in(folder, 0, "valid", "test") <= audits
    recorded = [each["key"] for number in (1, 2) for each in details(folder, number)["audits"]]
    assert sorted(recorded) == sorted(audits)


def keys_in(folder: Folder, number: int, *names: str) -> set[str]:
    sets = [Dataset.load(folder.directory.generation(number).set_file(name)) for name in names]
    return {key for each in sets for key in each.keys()}  # noqa: SIM118  (a dataset is no dict)


def test_a_selector_that_fails_is_replaced_for_those_labels_by_what_walkers_have_reached(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    learning = SELECTED | {"n_states": 2, "valid_fraction": 0.0, "test_fraction": 0.0}
    folder.run(n_walkers=2, learning=learning | {"n_generations": 1})
    # The model of generation 1 was trained without what the new selector needs; that of generation 2 has it.
    folder.run(n_walkers=2, learning=learning | {"n_generations": 3, "select": "informative"})
    entries = Journal(folder.directory.journal).read()
    first, second, third = [entry for entry in entries if isinstance(entry, Chosen)]
    assert [each.selector for each in (first, second, third)] == ["random", "walkers", "informative"]
    assert all("-step-" not in name for name in second.labels)
    assert "the selector informative failed to choose 2 of" in caplog.text
    assert all(score is not None and score > 0 for score in third.scores)
    assert {each["score"] for each in details(folder, 3)["chosen"]} == {*third.scores}
    assert [folder.n_brought(number) for number in (1, 2, 3)] == [2, 2, 2]
    assert first_difference(entries) is None


@pytest.mark.long
def test_a_choice_that_loses_its_worker_is_retried_and_then_waits_for_the_next_run(
    folder: Folder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker says nothing about the selector."""
    learning = SELECTED | {"n_states": 2, "valid_fraction": 0.0, "test_fraction": 0.0, "n_generations": 1}
    learning["select"] = "informative"
    log = folder.path / "choices.log"
    deadly = partial(DeadlyRule, log=log, n_deaths=3)
    monkeypatch.setattr(choices, "SelectionRule", deadly)
    monkeypatch.setattr(choices, "choose", choices.choose.with_options(retries=1, retry_delay_seconds=0))
    with pytest.raises(WorkerLost):
        folder.run(n_walkers=2, learning=learning)
    assert len(log.read_text().splitlines()) == 2
    folder.run(n_walkers=2, learning=learning)  # the first try dies as well
    entries = Journal(folder.directory.journal).read()
    assert [entry.selector for entry in entries if isinstance(entry, Chosen)] == ["informative"]
    assert "are taken instead" not in caplog.text
    assert folder.n_brought(1) == 2
    assert first_difference(entries) is None


@task
def end_by(outcome: BaseException | State[Any]) -> State[Any]:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def test_only_an_error_of_the_function_is_a_failure_of_the_selector() -> None:
    kinds = (WorkerLost, AttemptFailed, PoolFailed, StorageFailed, CancelledError)
    interruptions = [*(kind("gone") for kind in kinds), Crashed(), Cancelled()]
    failures = [kind("no") for kind in (ValueError, InputError, OutOfMemory, FunctionFailed, MemoryError)]
    found = []

    @flow
    def end_tasks() -> str:
        for outcome in (*interruptions, *failures):
            future = end_by.submit(quote(outcome))
            future.wait()
            found.append(choices._failure_of_selector(future))
        return "done"

    end_tasks()
    assert found[: len(interruptions)] == [None] * len(interruptions)
    assert [type(error) for error in found[len(interruptions) :]] == [type(error) for error in failures]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning": SELECTED | {"n_frames": 0}}, "learning.select: found random without n_frames"),
        ({"learning": SELECTED | {"select": "committee"}}, "learning.select: committee found a single model"),
        (
            {
                "learning": SELECTED | {"select": "informative"},
                "model": {"committee": {"n_members": 2, "member": {"pair": {}}}},
            },
            "learning.select: informative found a committee",
        ),
    ],
)
def test_a_selector_that_cannot_serve_is_refused_before_anything_is_computed(
    folder: Folder, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        folder.run(**changes)
    assert not folder.directory.path.exists()


@pytest.mark.nequip
def test_a_selector_that_the_network_cannot_serve_is_refused_before_a_model_is_trained(folder: Folder) -> None:
    training = {
        "model": {"_target_": "featureless_network.scaled_pairs", "r_max": 4.0},
        "loss": {"_target_": "nequip.train.EnergyForceLoss", "coeffs": {"total_energy": 1.0, "forces": 1.0}},
        "val_metrics": {"_target_": "nequip.train.EnergyForceMetrics", "coeffs": {"forces_mae": 1.0}},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
    }
    module = {"_target_": "nequip.train.NequIPLightningModule", **training}
    config = yaml.safe_dump({"trainer": {"max_epochs": 1}, "training_module": module})
    with pytest.raises(
        InputError, match=r"learning\.select: informative needs the features .*; choose walkers or random"
    ):
        folder.run(model={"nequip": {"config_text": config}}, learning=SELECTED | {"select": "informative"})
    assert not list(folder.directory.path.glob("generations/*/model"))  # labels may have begun before the pool answered
