"""A campaign whose processes are killed at random ends like one that nobody disturbed, and buys no label twice."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
from killed_campaign import KilledCampaign, MortalServer, check_same_datasets, repeats_in
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import wait_until
from slurm import SlurmCluster

from surveyor.blocks.pools import SLURMPool
from surveyor.learning.journal import Journal, first_difference

WEAPONS: Mapping[str, Callable[[KilledCampaign], None]] = {
    "flow": KilledCampaign.kill_flow,
    "pool": KilledCampaign.kill_pool,
    "server": KilledCampaign.kill_server,
    "worker": KilledCampaign.kill_worker,
}
SEED = int(os.environ.get("SURVEYOR_TEST_SEED", "1"))
N_KILLS = {
    "20 kills": 20,
    "200 kills": 200,
    "overlapped": 20,
    "200 overlapped": 200,
    "SLURM": 40,
    "SLURM overlapped": 40,
}
ON_SLURM = dict.fromkeys(("sampling", "labelling", "training"), "slurm/killed")
SELECTED = {"select": "random", "n_frames": 3}
SIZES: Mapping[str, dict[str, Any]] = {  # Any: as the campaign takes it
    "20 kills": {},
    "overlapped": {"labels_ahead": 16, **SELECTED},
    "200 overlapped": {"n_generations": 12, "n_states": 16, "labels_ahead": 32, **SELECTED},
    "200 kills": {"n_generations": 12, "n_states": 16},
    "SLURM": {"pools": ON_SLURM, "n_generations": 8},
    "SLURM overlapped": {"pools": ON_SLURM, "n_generations": 8, "labels_ahead": 16, **SELECTED},
}

pytestmark = [pytest.mark.slow]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("20 kills", id="20 kills"),
        pytest.param("200 kills", id="200 kills", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
        pytest.param("overlapped", id="overlapped", marks=[pytest.mark.long]),
        pytest.param("200 overlapped", id="200 overlapped", marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
        *(
            pytest.param(name, id=name, marks=[pytest.mark.long, pytest.mark.slurm, pytest.mark.timeout(7200)])
            for name in ("SLURM", "SLURM overlapped")
        ),
    ],
)
def campaign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KilledCampaign]:
    """The campaign after its kills and its end, beside the folder `undisturbed` of one that nobody has killed."""
    folder = tmp_path_factory.mktemp("killed")
    server = MortalServer(folder / "prefect")
    campaign = KilledCampaign(folder, server, **SIZES[request.param])
    try:
        weapons, n_kills = dict(WEAPONS), N_KILLS[request.param]
        if "slurm/" in str(SIZES[request.param]):
            weapons["job"] = partial(cancel_job, request.getfixturevalue("slurm_cluster"))
            register_pool(server)
        campaign.run_and_kill(weapons, n_kills, SEED)
        print_line(request, campaign.summary())
        yield campaign
    finally:
        campaign.end()
        server.end()


def print_line(request: pytest.FixtureRequest, line: str) -> None:
    """Print a line, although pytest captures what tests print."""
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        sys.stderr.write(f"\n{line}\n")


def register_pool(server: MortalServer) -> None:
    """Save the pool of workers in jobs of the cluster."""
    common = {"memory_GB": 1, "walltime_minutes": 10, "idle_minutes": 0.2, "interface": "lo"}
    with temporary_settings({PREFECT_API_URL: server.url}):
        SLURMPool(queue="label", max_jobs=2, **common).save("killed")


def cancel_job(cluster: SlurmCluster, campaign: KilledCampaign) -> None:
    """Cancel a job in which a worker is."""
    job = int(campaign.one_of(campaign.workers).environ()["SLURM_JOB_ID"])
    pids = cluster.pids_of(job)
    campaign.note({worker for worker in campaign.workers() if worker.pid in pids})
    cluster.cancel(job)


def test_no_label_is_lost(campaign: KilledCampaign) -> None:
    for kill in campaign.kills:
        assert kill.keys <= campaign.stored_keys()
    labels = json.loads(campaign.directory.generation(campaign.n_generations).manifest.read_text())["labels"]
    assert len(labels) == campaign.n_labels
    assert len(campaign.stored_keys() - {*labels}) == 1  # the isolated atom
    assert {*labels} <= campaign.stored_keys()


def test_nothing_that_had_finished_is_computed_again(campaign: KilledCampaign) -> None:
    assert {*campaign.structures().values()} == {line.split()[1] for line in campaign.lines()}
    assert not campaign.finished_again()


def test_what_was_in_flight_is_computed_again_only_where_its_own_worker_died(campaign: KilledCampaign) -> None:
    for structure, worker in repeats_in(campaign.lines()).in_flight:
        assert worker in campaign.victims, f"{structure} was computed again, and worker {worker} was not killed"


def test_no_finished_file_is_written_again(campaign: KilledCampaign) -> None:
    at_the_end = campaign.finished_work()
    for kill in campaign.kills:
        assert kill.files.items() <= at_the_end.items()


def test_no_decision_is_lost_and_each_follows_again_from_the_journal(campaign: KilledCampaign) -> None:
    journal = campaign.journal
    for kill in campaign.kills:
        assert journal.startswith(kill.journal)
    entries = Journal(campaign.directory.journal).read()
    assert len(entries) == len(journal.splitlines())
    assert first_difference(entries) is None


def test_final_datasets_are_those_of_an_undisturbed_run(campaign: KilledCampaign) -> None:
    if campaign.is_overlapped:  # which labels arrive first, and what the walkers learn on the way, is chance
        assert campaign.directory.n_complete() == campaign.undisturbed.n_complete()
    else:
        check_same_datasets(campaign.directory, campaign.undisturbed)


def test_no_process_is_left_at_the_end(campaign: KilledCampaign) -> None:
    wait_until(lambda: not campaign.processes(), lambda: f"left: {campaign.processes()}")


def test_repeats_are_told_apart() -> None:
    lines = ["begin a 1", "begin b 2", "end a 1", "begin c 1", "begin a 2", "end a 2", "begin c 3", "end c 3"]
    repeats = repeats_in(lines)
    assert repeats.finished == {"a"}
    assert repeats.in_flight == (("c", 1),)
