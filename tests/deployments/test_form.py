"""The form of the deployment in the UI, in a browser: a campaign without a line of JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect_form import Form, open_browser
from selenium import webdriver

from surveyor.run_directory import RunDirectory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("worker"),
    pytest.mark.timeout(400),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path / "profile") as browser:
        yield browser


def test_a_campaign_is_set_up_in_the_form(
    browser: webdriver.Chrome, client: SyncPrefectClient, prefect_api_url: str, tmp_path: Path, starts: Path
) -> None:
    deployment = client.read_deployment_by_name("online-learning/local")
    site = prefect_api_url.removesuffix("/api")
    form = Form(browser, f"{site}/v2/deployments/deployment/{deployment.id}/run")
    form.fill("run_directory", str(tmp_path / "run"))
    form.click_after("walkers", "Add item")
    form.fill("Start structures (file)", str(starts))
    form.fill("Number of walkers", "2")
    form.fill("Steps per sample", "10")
    form.click_after("EMT", "EMT")
    form.click_after("Pair model", "Pair")
    form.fill("Structures", "6")
    form.fill("Generations", "1")
    form.submit()

    finished = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})

    def is_final(_browser: Any) -> bool:
        runs = client.read_flow_runs(flow_run_filter=finished)
        mine = [run for run in runs if run.parameters["run_directory"] == str(tmp_path / "run")]
        return bool(mine) and mine[0].state is not None and mine[0].state.is_final()

    form.patience.until(is_final)
    (run,) = (
        run
        for run in client.read_flow_runs(flow_run_filter=finished)
        if run.parameters["run_directory"] == str(tmp_path / "run")
    )
    assert run.state.name == "Completed", run.state.message
    assert RunDirectory(tmp_path / "run").n_complete() == 2
