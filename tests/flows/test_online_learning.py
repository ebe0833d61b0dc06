"""Whole campaigns by a Python call: EMT and the pair model, on a local pool, with a real Prefect server."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from campaigns import Folder, write_starts
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect_events import heartbeats

from surveyor.dataset import ENERGY, KEY, Dataset, DataSets, with_label
from surveyor.dataset.metrics import coverage_in_words, covered, typical_error
from surveyor.errors import CampaignInUse, InputError, NothingLearned
from surveyor.events.kinds import CampaignBegins, CampaignComplete, CommitteeCalibrated, ErrorsMeasured, Rejected
from surveyor.events.log import of_kind
from surveyor.files import read_json, write_json
from surveyor.labels import Label, LevelOfTheory, save_theory
from surveyor.learning.decisions import TARGETS_MET
from surveyor.lease import hold_lease
from surveyor.models.atomic_energies import fit_atomic_energies
from surveyor.models.committee import SUMMARY, CommitteeModel
from surveyor.models.history import load_history
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.potentials import predict
from surveyor.progress import read_trust
from surveyor.report.markdown import generation_markdown
from surveyor.run_directory import RunDirectory
from surveyor.sampling.frames import independent_frames
from surveyor.testing.references import launches
from surveyor.works.campaign import CAMPAIGN, Campaign

pytestmark = [pytest.mark.slow]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def newest_run(directory: RunDirectory) -> str:
    """The identifier of the newest run of a campaign."""
    url = of_kind(directory.events.read()[0], CampaignBegins)[-1].url
    identifier: str = url.rsplit("/", 1)[-1]
    return identifier


def reports_of(directory: RunDirectory) -> list[str]:
    """The names of the tasks of the newest run of a campaign that report on a generation."""
    of_run = FlowRunFilter.model_validate({"id": {"any_": [newest_run(directory)]}})
    with get_client(sync_client=True) as client:
        names = [task.name for task in client.read_task_runs(flow_run_filter=of_run)]
    return [name for name in names if name.startswith("report")]


def flow_runs(client: SyncPrefectClient, directory: RunDirectory) -> list[FlowRun]:
    """The generations of the newest run of a campaign."""
    campaign = client.read_flow_run(newest_run(directory))
    children = FlowRunFilter.model_validate({"parent_flow_run_id": {"any_": [campaign.id]}})
    return client.read_flow_runs(flow_run_filter=children)


def test_a_call_runs_a_campaign_and_the_same_call_finds_it_done(folder: Folder) -> None:
    weights = folder.run(n_walkers=3, learning={"n_generations": 1})
    assert weights.exists()
    assert [folder.n_brought(number) for number in range(2)] == [6, 3]
    first, models = folder.n_launches(), sorted(folder.directory.path.glob("generations/*/model/*"))
    written = [path.stat().st_mtime_ns for path in models]
    assert max(Counter(launches(folder.log)).values()) == 1
    assert not folder.directory.lease.exists()

    assert folder.run(n_walkers=3, learning={"n_generations": 1}) == weights
    assert folder.n_launches() == first
    assert [path.stat().st_mtime_ns for path in models] == written
    with get_client(sync_client=True) as client:
        generations = flow_runs(client, folder.directory)
        assert generations == []  # nothing was opened that could do anything

    with pytest.raises(InputError, match=r"walkers\[0\]\.temperature_K: 300\.0 there, 400\.0 here"):
        folder.run(
            walkers=[{**folder.walkers, "n_walkers": 3, "temperature_K": 400}],
            learning={"n_generations": 1},
        )
    with (
        hold_lease(folder.directory.lease),
        pytest.raises(CampaignInUse, match=r"is in use by process \d+ on .*; wait for it, or stop it"),
    ):
        folder.run(n_walkers=3, learning={"n_generations": 1})

    folder.run(n_walkers=3, learning={"n_generations": 2})
    assert folder.directory.n_complete() == 3
    assert folder.n_launches() == first + 3


@pytest.mark.long
def test_a_campaign_that_goes_on_does_not_draw_again_what_a_killed_run_has_reported_on(folder: Folder) -> None:
    folder.run(learning={"n_generations": 1})
    events = folder.directory.events.path
    before = events.read_text().splitlines(keepends=True)
    events.write_text("".join(line for line in before if '"campaign_complete"' not in line))  # as if it was killed
    folder.run(learning={"n_generations": 2})
    assert reports_of(folder.directory) == ["report generation 2"]

    folder.run(learning={"n_generations": 3})
    # The report of a campaign that was complete says so, and must not any more.
    assert sorted(reports_of(folder.directory)) == ["report generation 2", "report generation 3"]


def test_frames_of_trajectories_are_labelled_beside_the_samples(folder: Folder) -> None:
    walkers = [{**folder.walkers, "n_walkers": 2, "timestep_fs": 3, "n_steps": 600, "frame_interval": 3}]
    folder.run(walkers=walkers, learning={"n_frames": 2, "max_labels": 6 + 2 + 3})
    samples = folder.directory.generation(1).samples
    names = [walker["name"] for walker in _walkers(folder, 1)]
    n_frames = [len(independent_frames(samples, name)) - 1 for name in names]  # the last one is the sample
    assert max(n_frames) > 1
    # One frame for each, as the budget has no room for four.
    assert folder.n_brought(1) == len(names) + sum(min(1, n) for n in n_frames)


@pytest.mark.long
def test_states_fewer_and_more_than_walkers_until_the_budget_is_used_up(folder: Folder) -> None:
    learning = {"n_states": 2, "n_generations": 10, "max_labels": 6 + 2 + 1}
    folder.run(n_walkers=3, learning=learning)
    assert [folder.n_brought(number) for number in range(3)] == [6, 2, 1]
    brought = [walker["index"] for number in (1, 2) for walker in _walkers(folder, number)]
    assert Counter(brought) == {0: 1, 1: 1, 2: 1}  # in turn
    assert _end(folder) == "the budget of 9 labels is used up"

    more = Folder(folder.path / "more")
    more.run(n_walkers=2, learning={"n_states": 5})
    assert more.n_brought(1) == 5
    assert {walker["index"] for walker in _walkers(more, 1)} == {0, 1}


def _walkers(folder: Folder, number: int) -> list[dict[str, Any]]:
    return folder.directory.read_manifest(number)["details"]["walkers"]


def _end(folder: Folder) -> str:
    return of_kind(folder.directory.events.read()[0], CampaignComplete)[-1].reason


@pytest.mark.long
def test_several_compositions_until_the_target_and_on_from_there(folder: Folder) -> None:
    alloy = bulk("Cu", cubic=True)
    alloy.symbols[0] = "Au"
    gold = write_starts(folder.path / "gold.extxyz", alloy)
    groups = [
        {**folder.walkers, "n_walkers": 2},
        {**folder.walkers, "start": gold, "n_walkers": 2, "method": "perturbation", "amplitude_A": 0.02},
    ]
    many = {"n_states": 32, "valid_fraction": 0.48, "test_fraction": 0.48}  # so that one generation has enough audits
    folder.run(walkers=groups, learning={"n_generations": 9, "target_forces_meV_per_A": 1e5, **many})
    assert _end(folder) == TARGETS_MET
    assert folder.directory.n_complete() == 3  # two generations in succession
    assert [len(examined.audits) >= 30 for examined in folder.directory.examined(2)] == [False, True, True]
    statements = read_trust(folder.directory).statements
    assert [each.name for each in statements] == ["group 1, 300 K", "group 2, perturbation"]
    assert all("Not examined: " in each.in_words for each in statements)
    assert statements[0].in_words in folder.directory.report.read_text()
    formulas = {str(atoms.symbols) for name in ("train", "valid", "test") for atoms in getattr(folder.data(1), name)}
    assert {"Cu4", "AuCu3", "Cu13"} <= formulas

    new = Folder(folder.path / "next")
    origin = {"run_directory": folder.directory.path, "generation": 1}
    before = folder.n_launches()
    new.log = folder.log  # launches of both are counted
    new.run(walkers=groups, begin_from=origin)
    assert folder.n_launches() == before + 4  # the data came with their labels
    assert new.data(0).keys() == folder.data(1).keys()
    assert new.data(1).test.keys()[: len(folder.data(1).test)] == folder.data(1).test.keys()

    other = {"emt": {"asap_cutoff": True}}
    with pytest.raises(InputError, match=r"begin_from: .* was labelled with another level of theory"):
        new.run(run_directory=folder.path / "other", walkers=groups, begin_from=origin, reference=other)


def labelled_copper(path: Path, shift: float = 0.0) -> Path:
    structures = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.info = {ENERGY: atoms.get_potential_energy() + shift}
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.info["REF_stress"] = atoms.get_stress()
        atoms.calc = None
        structures.append(atoms)
    ase.io.write(path, structures, format="extxyz")
    return path


def test_members_of_a_committee_are_trained_side_by_side_and_calibrated_together(folder: Folder) -> None:
    committee = {"n_members": 3, "resample": True, "member": {"pair": {"n_basis": 8}}}
    weights = folder.run(n_walkers=3, model={"committee": committee}, bootstrap={"n_structures": 10})
    assert weights.name == SUMMARY
    with get_client(sync_client=True) as client:
        by_name = {run.name: run.id for run in flow_runs(client, folder.directory)}
        asked = TaskRunFilter.model_validate({"flow_run_id": {"any_": [by_name["generation 1"]]}})
        names = sorted(task.name for task in client.read_task_runs(task_run_filter=asked))
    assert [name for name in names if name.startswith("train ")] == [
        "train generation 1",
        *(f"train generation 1, member {index}" for index in range(3)),
    ]
    model = folder.directory.load_generation(1, ()).model
    assert isinstance(model, CommitteeModel)
    assert model.calibration is not None
    assert model.calibration.forces.factor is not None
    assert "coverage" not in folder.directory.read_manifest(1)["details"]  # of a bound, which it does not state
    (_, examined) = folder.directory.examined(1)
    assert [audit.uncertainty is not None for audit in examined.audits] == [True, True]
    words = of_kind(folder.directory.events.read()[0], CommitteeCalibrated)
    assert [event.forces["n"] for event in words][-1] == model.calibration.forces.n
    assert folder.run(n_walkers=3, model={"committee": committee}, bootstrap={"n_structures": 10}) == weights


def test_given_data_are_taken_only_when_the_reference_agrees(folder: Folder) -> None:
    given = {"data": labelled_copper(folder.path / "given.extxyz"), "level_of_theory": "EMT"}
    emt = {"reference": {"emt": {}}, "learning": {"n_generations": 0}}
    folder.run(bootstrap=given, **emt)
    assert len(folder.data(0).keys()) == 6

    with pytest.raises(InputError, match=r"bootstrap.level_of_theory.*PBE"):
        folder.run(bootstrap={**given, "level_of_theory": "PBE"}, run_directory=folder.path / "wrong name", **emt)
    shifted = {**given, "data": labelled_copper(folder.path / "shifted.extxyz", shift=4.0)}
    with pytest.raises(InputError, match=r"disagrees with the label .* 1e\+03 meV/atom"):
        folder.run(bootstrap=shifted, run_directory=folder.path / "shifted", **emt)


def test_failed_labels_are_kept_apart_and_shown_by_their_reason(folder: Folder) -> None:
    learning = {"atomic_energies": "least_squares", "max_failed_fraction": 1}
    reference = {"emt": {"rehearsal": {"failing_fraction": 0.4}}}
    folder.run(reference=reference, bootstrap={"n_structures": 9}, learning=learning)
    data = folder.data(0)
    assert 0 < len(data.failed) < 9
    assert {atoms.info["failure"] for atoms in data.failed} == {"scf_not_converged"}
    assert not set(data.failed.keys()) & set((data.train + data.valid + data.test).keys())

    with get_client(sync_client=True) as client:
        generations = flow_runs(client, folder.directory)
        by_name = {run.name: run for run in generations}
        assert set(by_name) == {"generation 0", "generation 1"}
        assert {*heartbeats(by_name["generation 0"].id)} == {"bootstrap"}
        assert {*heartbeats(by_name["generation 1"].id)} == {"generation"}
        assert "scf_not_converged" in by_name["generation 0"].tags
        parent = client.read_task_run(by_name["generation 0"].parent_task_run_id)
        assert "scf_not_converged" in client.read_flow_run(parent.flow_run_id).tags
        tasks = client.read_task_runs(
            task_run_filter=TaskRunFilter.model_validate({"flow_run_id": {"any_": [by_name["generation 0"].id]}})
        )
        states = Counter(run.state_name for run in tasks if run.name.startswith("label "))
        assert states == {"scf_not_converged": len(data.failed), "Labelled": 9 - len(data.failed)}


def test_a_campaign_that_learns_nothing_fails_with_advice_and_is_tried_again_with_other_guards(folder: Folder) -> None:
    strict = {**folder.walkers, "n_walkers": 2, "max_force_eV_per_A": 1e-6}
    with pytest.raises(NothingLearned, match=r"generation 1 brought no new label: 2 of 2 samples .*\n  force: raise"):
        folder.run(walkers=[strict])
    assert "Failure" in folder.directory.report.read_text()
    assert "10 x force" in folder.directory.report.read_text()
    assert len(of_kind(folder.directory.events.read()[0], Rejected)) == 2
    with get_client(sync_client=True) as client:
        (generation,) = [run for run in flow_runs(client, folder.directory) if run.name == "generation 1"]
        assert generation.state is not None
        assert generation.state.is_failed()
        assert "NothingLearned: generation 1 brought no new label" in str(generation.state.message)

    folder.run(walkers=[{**strict, "max_force_eV_per_A": 1e3}])
    assert folder.n_brought(1) == 2
    assert {walker["n_resets"] for walker in _walkers(folder, 1)} == {5}  # from where the walkers were then


def test_samples_that_differ_too_little_end_a_campaign_until_they_may(folder: Folder) -> None:
    still = [{**folder.walkers, "n_walkers": 2, "n_steps": 1, "max_temperature_factor": 1e6}]
    with pytest.raises(NothingLearned, match="2 of 2 samples are almost the same as known structures"):
        folder.run(walkers=still, learning={"min_difference_A": 1.0})
    folder.run(walkers=still, learning={"min_difference_A": 0.0})
    assert folder.n_brought(1) == 2


@pytest.mark.long
def test_pending_structures_join_the_next_generation(folder: Folder) -> None:
    folder.run(learning={"n_generations": 0})
    generation = folder.directory.generation(0)
    data = folder.data(0)
    late = data.train[:1]
    DataSets(data.train[1:], data.valid, data.test, data.failed, data.discarded, late).save(generation.path)
    manifest = read_json(generation.manifest)
    manifest["labels"][late[0].info[KEY]] = "pending"
    write_json(generation.manifest, manifest)

    folder.run()
    after = folder.data(1)
    assert after.pending.keys() == ()
    assert late[0].info[KEY] in after.train.keys() + after.valid.keys() + after.test.keys()


RUN = """
import sys
from surveyor.flows.command_line import main
code = main(["run", sys.argv[1]])
print([name for name in ("wandb", "torch", "tblite") if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.long
def test_a_file_and_a_call_give_the_same_campaign(folder: Folder, prefect_api_url: str) -> None:
    parameters = folder.parameters(learning={"n_generations": 0})
    file = folder.path / "campaign.yaml"
    file.write_text(json.dumps(parameters, default=lambda path: str(path.relative_to(folder.path))))
    checked = json.loads(_python("-m", "surveyor.flows.command_line", "check", "--json", file))
    assert checked == CAMPAIGN.load(file).model_dump(mode="json")

    printed = _python("-c", RUN, file, PREFECT_API_URL=prefect_api_url)
    assert "[]" in printed.splitlines()  # what was not asked for is not even imported
    assert read_json(folder.directory.parameters)["parameters"] == checked
    before = folder.n_launches()
    folder.run(learning={"n_generations": 0})
    assert folder.n_launches() == before


def _python(*arguments: str | Path, **environment: str) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def foundation(tmp_path: Path) -> Path:
    """A network of MACE that takes a part of the energy of each copper atom for that of its bonds."""
    labelled = []
    for seed in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        found = predict(EMT(), atoms)
        labelled.append(with_label(atoms, None, Label(found.energy, found.forces, found.stress)))
    parameters = MACEParameters(
        num_channels=4, max_L=0, r_max_A=4.0, num_interactions=1, max_num_epochs=20, device="cpu"
    )
    untrained = MACEModel(parameters).initialize(Dataset(labelled), atomic_energies={"Cu": 3.0}, seed=0)
    trained, _ = untrained.train(Dataset(labelled[:4]), Dataset(labelled[4:]), tmp_path / "foundation")
    return trained.network


@pytest.mark.long  # the next test trains MACE in a campaign, and those of the model fine-tune
@pytest.mark.mace
def test_a_campaign_on_a_foundation_model_fits_its_atomic_energies_beside_it(foundation: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "campaign")
    model = {"mace": {"foundation_model": foundation, "max_num_epochs": 1, "lr": 1e-4, "device": "cpu"}}
    learning = {"atomic_energies": "least_squares"}
    starts = write_starts(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    walkers = [{"start": starts, "n_steps": 5, "max_temperature_factor": 100}]
    folder.run(n_walkers=1, model=model, learning=learning, walkers=walkers)
    first, second = (folder.directory.load_generation(number, ()).model.atomic_energies for number in (0, 1))
    assert first is not None
    assert first["Cu"] > fit_atomic_energies(folder.data(0).train)["Cu"] + 0.5
    assert second == first


@pytest.mark.long
@pytest.mark.mace
def test_generations_go_on_from_the_weights_before_with_settings_of_their_own(
    folder: Folder, tmp_path: Path, one_worker: str
) -> None:
    size = {"num_channels": 4, "max_L": 0, "r_max_A": 4.0, "num_interactions": 1}
    almost_nothing = {"max_num_epochs": 1, "lr": 1e-9}
    model = {"mace": {**size, "max_num_epochs": 3, "lr": 0.01, "continued": almost_nothing, "device": "cpu"}}
    learning = {"atomic_energies": "least_squares", "train_from_scratch": False}
    starts = write_starts(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    walkers = [{"start": starts, "n_steps": 5, "max_temperature_factor": 100}]
    pools = dict.fromkeys(("sampling", "labelling", "training"), one_worker)
    folder.run(n_walkers=1, model=model, learning=learning, walkers=walkers, pools=pools)

    before, after = (folder.directory.load_generation(number, ()).model for number in (0, 1))
    probe = folder.data(0).train[:1]
    forces = [each.deploy().evaluate(probe)[0].forces for each in (before, after)]
    np.testing.assert_allclose(*forces, atol=1e-5)
    n_epochs = [len(load_history(folder.directory.generation(number).model)) for number in (0, 1)]
    assert n_epochs == [3, 1]


@pytest.mark.long
@pytest.mark.mace
def test_a_single_model_states_an_uncertainty_that_stops_walkers_and_is_compared_with_new_labels(
    folder: Folder, tmp_path: Path
) -> None:
    size = {"num_channels": 4, "max_L": 0, "r_max_A": 4.0, "num_interactions": 1}
    model = {"mace": {**size, "max_num_epochs": 6, "lr": 0.02, "device": "cpu"}}
    learning = {"valid_fraction": 0.35, "test_fraction": 0.35, "atomic_energies": "least_squares"}
    starts = write_starts(tmp_path / "copper.extxyz", bulk("Cu", cubic=True))
    walkers = [{"start": starts, "n_steps": 5, "n_walkers": 2, "max_uncertainty_meV_per_A": "auto"}]
    bootstrap = {"n_structures": 30}
    folder.run(model=model, learning=learning, walkers=walkers, bootstrap=bootstrap)

    before = folder.directory.load_generation(0, ())
    assert isinstance(before.model, MACEModel)
    potential, labelled = before.model.deploy(), Dataset.load(folder.directory.generation(1).labelled)
    assert potential.uncertainty is not None
    assert potential.uncertainty.n_structures == 20  # validation and test set
    details = folder.directory.read_manifest(1)["details"]
    n_covered, n = covered(labelled, potential.evaluate(labelled))
    assert details["coverage"] == {"n_covered": n_covered, "n": n, "expected": 0.9}
    assert n == 2
    typical = typical_error(before.data.valid, potential.evaluate(before.data.valid)) or 0.0
    limits = [walker["max_uncertainty_meV_per_A"] for walker in details["walkers"]]
    assert limits == pytest.approx([max(100.0, 3e3 * typical)] * 2)
    words = coverage_in_words(**details["coverage"])
    errors = [event.message for event in of_kind(folder.directory.events.read()[0], ErrorsMeasured)]
    assert [words in message for message in errors] == [True]
    assert f"before training: {words}." in generation_markdown(folder.directory, 1)


def test_labels_of_a_version_that_calls_the_level_of_theory_otherwise_are_not_bought_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.run(learning={"n_generations": 0})
    n_launches = folder.n_launches()

    def frozen_by_another_version(campaign: Campaign, theory: LevelOfTheory) -> LevelOfTheory:
        frozen = replace(theory, content={**theory.content, "written": "otherwise"})
        save_theory(campaign.directory.theory, frozen)
        return replace(frozen, former=(theory.digest,))

    monkeypatch.setattr("surveyor.flows.pool_checks.freeze_theory", frozen_by_another_version)
    folder.run(learning={"n_generations": 0}, run_directory=folder.path / "again")
    assert folder.n_launches() == n_launches
