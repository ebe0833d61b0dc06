"""The services of a real server by which campaigns are scheduled, limited, cancelled and given up."""

import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.states import Cancelled, Completed, Pending, Running
from prefect_server import ANSWER_S, post
from processes import PATIENCE_S, wait_until

from surveyor.flows.bootstrap import bootstrap
from surveyor.flows.label_dataset import label_dataset
from surveyor.flows.online_learning import next_generation, online_learning
from surveyor.flows.sample_walkers import sample_walkers
from surveyor.flows.train_model import train_model

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
(NIGHTLY,) = yaml.safe_load((DEPLOYMENTS / "local" / "prefect.yaml").read_text())["deployments"][0]["schedules"]
CRON = CronSchedule(cron=NIGHTLY["cron"], timezone=NIGHTLY["timezone"])
INTERVAL = IntervalSchedule(interval=timedelta(seconds=5))
EVERY_SECOND = {"heartbeat_interval_seconds": 1}


Deploy = Callable[..., UUID]


@pytest.fixture
def deploy(client: SyncPrefectClient) -> Iterator[Deploy]:
    """Make a deployment in a work pool without a worker."""
    pool = client.create_work_pool(WorkPoolCreate(name=f"nobody-{uuid4()}", type="process")).name
    flow = client.create_flow_from_name("online-learning")
    made = []

    def make(**arguments: Any) -> UUID:
        made.append(client.create_deployment(flow, f"scheduled-{uuid4()}", work_pool_name=pool, **arguments))
        return made[-1]

    yield make
    for deployment in made:
        client.delete_deployment(deployment)  # with its schedules
    client.delete_work_pool(pool)


def test_prefect_that_schedules_nothing_is_excluded() -> None:
    project = tomllib.loads((DEPLOYMENTS.parent / "pyproject.toml").read_text())["project"]
    (wanted,) = (each for each in map(Requirement, project["dependencies"]) if each.name == "prefect")
    assert "3.8.8" not in wanted.specifier  # it allows SQLAlchemy 2.1, with which its scheduler fails


@pytest.mark.parametrize("folder", ["local", "slurm", "cloud-gpu", "kubernetes"])
def test_deploying_asks_for_no_schedule(folder: str) -> None:
    """In a terminal, `prefect deploy` asks for the schedule of a deployment that does not say whether it has one."""
    deployments = yaml.safe_load((DEPLOYMENTS / folder / "prefect.yaml").read_text())["deployments"]
    assert [each["entrypoint"] for each in deployments if "schedules" not in each] == []


def test_the_automation_watches_every_flow() -> None:
    (automation,) = yaml.safe_load((DEPLOYMENTS / "automations.yaml").read_text())["automations"]
    flows = (online_learning, bootstrap, next_generation, label_dataset, train_model, sample_walkers)
    watched = automation["trigger"]["match_related"]["prefect.resource.name"]
    assert sorted(watched) == sorted(each.name for each in flows)


def states(client: SyncPrefectClient, deployment: UUID) -> list[str | None]:
    wanted = DeploymentFilter.model_validate({"id": {"any_": [deployment]}})
    return [run.state_name for run in client.read_flow_runs(deployment_filter=wanted)]


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    wait_until(condition, lambda: "it did not come true", timeout_s)


@pytest.mark.parametrize("schedule", [CRON, INTERVAL], ids=["nightly", "interval"])
def test_an_active_schedule_makes_runs_until_it_is_paused_and_again_when_it_is_resumed(
    schedule: CronSchedule | IntervalSchedule, client: SyncPrefectClient, deploy: Deploy
) -> None:
    deployment = deploy(schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)])
    wait_for(lambda: "Scheduled" in states(client, deployment))
    (made,) = client.read_deployment_schedules(deployment)

    def is_idle() -> bool:
        # Pausing deletes the planned runs, but the scheduler may be about to store more of them.
        client.update_deployment_schedule(deployment, made.id, active=False)
        return "Scheduled" not in states(client, deployment)

    wait_for(is_idle)

    client.update_deployment_schedule(deployment, made.id, active=True)
    wait_for(lambda: "Scheduled" in states(client, deployment))


def test_runs_beyond_the_limit_of_their_work_pool_wait_for_their_turn(
    client: SyncPrefectClient, deploy: Deploy
) -> None:
    deployment = deploy()
    pool = str(client.read_deployment(deployment).work_pool_name)
    client.update_work_pool(pool, WorkPoolUpdate(concurrency_limit=1))
    for _ in range(2):
        client.create_flow_run_from_deployment(deployment)

    def taken() -> list[UUID]:
        """Return the runs that a worker is given when it asks."""
        return [each.flow_run.id for each in client.get_scheduled_flow_runs_for_work_pool(pool)]

    (first,) = taken()
    client.set_flow_run_state(first, Running(), force=True)
    assert taken() == []
    client.set_flow_run_state(first, Completed(), force=True)
    assert len(taken()) == 1


@pytest.mark.parametrize(
    ("strategy", "state"),
    [(ConcurrencyLimitStrategy.CANCEL_NEW, "Cancelled"), (ConcurrencyLimitStrategy.ENQUEUE, "AwaitingConcurrencySlot")],
)
def test_a_run_beyond_the_limit_of_its_deployment_is_refused_until_the_first_has_ended(
    strategy: ConcurrencyLimitStrategy, state: str, client: SyncPrefectClient, deploy: Deploy
) -> None:
    deployment = deploy(concurrency_limit=1, concurrency_options=ConcurrencyOptions(collision_strategy=strategy))
    first, second, third = (client.create_flow_run_from_deployment(deployment).id for _ in range(3))
    for run in (first, second):
        client.set_flow_run_state(run, Pending())
    assert [client.read_flow_run(run).state_name for run in (first, second)] == ["Pending", state]

    client.set_flow_run_state(first, Completed(), force=True)
    client.set_flow_run_state(third, Pending())
    assert client.read_flow_run(third).state_name == "Pending"


def test_a_run_that_no_worker_takes_is_late(client: SyncPrefectClient, deploy: Deploy) -> None:
    deployment = deploy()
    client.create_flow_run_from_deployment(deployment)
    wait_for(lambda: states(client, deployment) == ["Late"])


@flow
def generation() -> None:
    """Do nothing; only the name matters."""


@task
def sample() -> None:
    """Do nothing; only the name matters."""


def test_what_a_cancelled_run_has_not_finished_is_cancelled(client: SyncPrefectClient, deploy: Deploy) -> None:
    parent = client.create_flow_run_from_deployment(deploy(), state=Running()).id
    unfinished, stands_for_subflow = (
        client.create_task_run(sample, parent, dynamic_key=key, state=Running()).id for key in ("0", "1")
    )
    subflow = client.create_flow_run(generation, parent_task_run_id=stands_for_subflow, state=Running()).id

    client.set_flow_run_state(parent, Cancelled(), force=True)
    wait_for(lambda: client.read_task_run(unfinished).state_name == "Cancelled")
    wait_for(lambda: client.read_flow_run(subflow).state_name == "Cancelled")


@pytest.fixture
def dead_runs(prefect_api_url: str) -> Iterator[int]:
    """Register our automation, in a hurry; give the seconds of silence after which a run is Crashed."""
    (automation,) = yaml.safe_load((DEPLOYMENTS / "automations.yaml").read_text())["automations"]
    automation["trigger"]["within"] = 10
    with httpx.Client(base_url=prefect_api_url, trust_env=False, timeout=ANSWER_S) as api:
        made = api.post("/automations/", json=automation).raise_for_status().json()["id"]
        yield automation["trigger"]["within"]
        api.delete(f"/automations/{made}").raise_for_status()


def test_a_run_that_falls_silent_is_crashed_by_the_automation_and_one_that_does_not_is_left_alone(
    dead_runs: int, client: SyncPrefectClient, deploy: Deploy, prefect_api_url: str
) -> None:
    deployment = deploy()
    dead, alive = (client.create_flow_run_from_deployment(deployment, state=Running()).id for _ in range(2))
    heartbeat(prefect_api_url, dead)

    def is_crashed() -> bool:
        heartbeat(prefect_api_url, alive)
        return client.read_flow_run(dead).state_name == "Crashed"

    wait_for(is_crashed, timeout_s=dead_runs + 30)
    assert client.read_flow_run(alive).state_name == "Running"


def test_events_are_removed_when_they_are_old(prefect_api_url: str) -> None:
    old, new = uuid4(), uuid4()
    heartbeat(prefect_api_url, new)
    wait_for(lambda: has_heartbeat(prefect_api_url, new))

    heartbeat(prefect_api_url, old, age=timedelta(days=8))  # Prefect keeps heartbeats for a week
    wait_for(lambda: has_heartbeat(prefect_api_url, old))
    wait_for(lambda: not has_heartbeat(prefect_api_url, old), timeout_s=PATIENCE_S)
    assert has_heartbeat(prefect_api_url, new)


def has_heartbeat(url: str, run: UUID) -> bool:
    since = (datetime.now(UTC) - timedelta(days=30)).isoformat()
    wanted = {"resource": {"id": [f"prefect.flow-run.{run}"]}, "occurred": {"since": since}}
    return bool(post(url, "events/filter", {"filter": wanted})["events"])


def test_a_worker_that_falls_silent_is_offline_and_its_pool_is_not_ready(
    client: SyncPrefectClient, deploy: Deploy
) -> None:
    pool = str(client.read_deployment(deploy()).work_pool_name)
    sent = client.request(
        "POST", "/work_pools/{name}/workers/heartbeat", path_params={"name": pool}, json={"name": "w", **EVERY_SECOND}
    )
    sent.raise_for_status()
    assert client.read_work_pool(pool).status == "READY"

    wait_for(lambda: client.read_work_pool(pool).status == "NOT_READY")
    workers = client.request("POST", "/work_pools/{name}/workers/filter", path_params={"name": pool}, json={})
    assert [worker["status"] for worker in workers.json()] == ["OFFLINE"]


def heartbeat(url: str, run: UUID, age: timedelta = timedelta()) -> None:
    """Send what the process of a run sends every 30 s."""
    event = {
        "id": str(uuid4()),
        "occurred": (datetime.now(UTC) - age).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [
            {
                "prefect.resource.id": f"prefect.flow.{uuid4()}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": "online-learning",
            }
        ],
    }
    httpx.post(f"{url}/events", json=[event], trust_env=False, timeout=ANSWER_S).raise_for_status()
