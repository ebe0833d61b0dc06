"""The form of the deployment in the UI, in a browser: a campaign without a line of JSON."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.ui import WebDriverWait

from surveyor.run_directory import RunDirectory

PATIENCE_S = 120
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,3000",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("worker"),
    pytest.mark.timeout(400),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()


class Form:
    """The form as a user sees it: fields by their labels."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.patience = WebDriverWait(browser, PATIENCE_S)
        browser.get(address)

    def label(self, text: str) -> WebElement:
        # Fields with a default are marked "(Optional)".
        path = f"//label[normalize-space()='{text}' or normalize-space()='{text} (Optional)']"
        return self.patience.until(expected.presence_of_element_located((By.XPATH, path)))

    def fill(self, text: str, value: str) -> None:
        field = self.browser.find_element(By.ID, self.label(text).get_attribute("for"))
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def click_after(self, text: str, button: str) -> None:
        """Press the first button with a caption that follows a label."""
        path = f"./following::button[normalize-space()='{button}'][1]"
        found = self.label(text).find_element(By.XPATH, path)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def submit(self) -> None:
        before = self.browser.current_url
        button = self.browser.find_element(By.XPATH, "//button[@type='submit']")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        self.patience.until(expected.url_changes(before))


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
