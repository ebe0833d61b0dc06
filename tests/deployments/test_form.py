"""The form of the deployment in the UI, in a browser: a campaign without a line of JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from prefect_form import Form, open_browser
from selenium import webdriver

from surveyor.run_directory import RunDirectory

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("worker"),
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
    form.fill("Run directory", str(tmp_path / "run"))
    form.click_after("Walkers", "Add item")
    form.fill("Start structures (file)", str(starts))
    form.fill("Number of walkers", "2")
    form.fill("Steps per sample", "10")
    form.click_after("EMT", "EMT")
    form.click_after("Pair model", "Pair")
    form.fill("Structures", "6")
    form.fill("Generations", "1")
    form.submit()

    run = final_run_in(tmp_path / "run", client, form)
    assert run.state.name == "Completed", run.state.message
    assert run.name == "campaign run"  # the name that the form makes up says nothing
    assert RunDirectory(tmp_path / "run").n_complete() == 2


@pytest.fixture
def refused(
    request: pytest.FixtureRequest,
    browser: webdriver.Chrome,
    client: SyncPrefectClient,
    prefect_api_url: str,
    tmp_path: Path,
) -> Form:
    """The form after it has refused two references; it names a file that does not exist, too."""
    deployment = client.read_deployment_by_name("online-learning/local")
    site = prefect_api_url.removesuffix("/api")
    form = Form(browser, f"{site}/{request.param}deployments/deployment/{deployment.id}/run")
    form.fill("Run Name", "mine")
    form.fill("Run directory", str(tmp_path / "run"))
    form.click_after("Walkers", "Add item")
    form.fill("Start structures (file)", str(tmp_path / "missing.extxyz"))
    form.click_after("EMT", "EMT")
    form.click_after("GFN-xTB", "XTB")
    form.click_after("Pair model", "Pair")
    form.submit_in_vain("none or several of cp2k, xtb, emt, ase; give exactly one")
    return form


@pytest.mark.parametrize("refused", ["v2/"], indirect=True)
def test_the_form_refuses_two_references(refused: Form, tmp_path: Path) -> None:
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("refused", [""], indirect=True)
def test_the_former_form_does_so_too_and_a_run_says_what_forms_cannot_see(
    refused: Form, client: SyncPrefectClient, tmp_path: Path
) -> None:
    refused.click_after("GFN-xTB", "None")
    refused.submit_until_sent()
    run = final_run_in(tmp_path / "run", client, refused)
    assert run.name == "mine"
    assert run.state.name == "Failed"
    assert run.state.message.startswith(f"walkers[0].start: file {tmp_path / 'missing.extxyz'} does not exist")
    mine = LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}})
    assert not [log.message for log in client.read_logs(mine) if "Traceback" in log.message]


def final_run_in(directory: Path, client: SyncPrefectClient, form: Form) -> FlowRun:
    """Wait until the run of a campaign is over, and return it."""
    deployment = client.read_deployment_by_name("online-learning/local")
    finished = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}})

    def runs(_browser: Any) -> list[FlowRun]:
        found = client.read_flow_runs(flow_run_filter=finished)
        mine = [run for run in found if run.parameters["run_directory"] == str(directory)]
        return [run for run in mine if run.state is not None and run.state.is_final()]

    (run,) = form.patience.until(runs)
    return run
