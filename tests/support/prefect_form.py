"""Forms of the Prefect UI in a browser, for tests."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from processes import PATIENCE_S
from selenium import webdriver
from selenium.common.exceptions import (
    ElementNotInteractableException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.ui import WebDriverWait

AGAIN_S = 5
COUNT_REFUSALS = "return performance.getEntriesByType('resource').filter(each => each.responseStatus == 503).length"
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
# Chromium asks its makers for updates, the time and suggestions, whatever the flags above say. Prefect's pages load
# pictures and report statistics, whatever its settings say.
UNFOUND = (
    "*.google.com",
    "*.googleapis.com",
    "*.gvt1.com",
    "*.duckduckgo.com",
    "avatars.githubusercontent.com",
    "*.amplitude.com",
)


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser without a window, whose pages are watched (`foreign_connections`).

    Args:
        profile: folder for what it keeps.
    """
    options = webdriver.ChromeOptions()
    places = {
        "user-data-dir": str(profile),
        "proxy-server": os.environ["http_proxy"],
        "proxy-bypass-list": ";".join(UNFOUND),
        "host-resolver-rules": ", ".join(f"MAP {host} ~NOTFOUND" for host in UNFOUND),
    }
    for flag in (*FLAGS, *(f"--{name}={value}" for name, value in places.items())):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


class Form:
    """A form as a user sees it: fields by their labels.

    Args:
        browser: shows it.
        address: of its page.
    """

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.patience = WebDriverWait(browser, PATIENCE_S)
        browser.get(address)

    def label(self, text: str) -> WebElement:
        """Return the label with a text."""
        # Fields with a default are marked "(Optional)".
        path = f"//label[normalize-space()='{text}' or normalize-space()='{text} (Optional)']"
        return self.patience.until(expected.presence_of_element_located((By.XPATH, path)))

    def fill(self, text: str, value: str) -> None:
        """Write into the field of a label until it holds the value, as a page that is still being drawn loses keys."""
        label = self.label(text)
        path = "./following::*[self::input or self::textarea][1]"

        def holds_value(_browser: webdriver.Chrome) -> bool:
            field = label.find_element(By.XPATH, path)
            if field.get_attribute("value") != value:
                field.send_keys(Keys.CONTROL, "a")
                field.send_keys(value)
            return field.get_attribute("value") == value

        self.patience.until(holds_value, f"{value} in {text}")

    def click_after(self, text: str, button: str) -> None:
        """Press the first button with a caption that follows a label."""
        path = f"./following::button[normalize-space()='{button}'][1]"
        found = self.label(text).find_element(By.XPATH, path)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def submit(self) -> None:
        """Send it, again as often as a busy server refuses it, and wait for the page that follows.

        With SQLite, a server whose database is locked at that moment answers with status 503, and keeps nothing.
        """
        before, n_refused = self.browser.current_url, self._n_refused()
        self._press_submit()

        def is_sent(browser: webdriver.Chrome) -> bool:
            nonlocal n_refused
            if browser.current_url == before and self._n_refused() > n_refused:
                n_refused = self._n_refused()
                self._press_submit()
            return browser.current_url != before

        try:
            self.patience.until(is_sent)
        except TimeoutException:
            raise AssertionError(f"the form was not sent:\n{self.text()}") from None

    def submit_in_vain(self, message: str) -> None:
        """Send what the server refuses, and wait until the page shows a part of its message."""
        before = self.browser.current_url
        self._press_submit()
        self.patience.until(lambda browser: message in browser.find_element(By.TAG_NAME, "body").text, message)
        assert self.browser.current_url == before

    def submit_until_sent(self) -> None:
        """Send what was refused before: version 2 of the UI heeds only the second press after a refusal."""
        before = self.browser.current_url

        def is_sent(browser: webdriver.Chrome) -> bool:
            if browser.current_url == before:
                self._press_submit()
            with suppress(TimeoutException):
                WebDriverWait(browser, AGAIN_S).until(expected.url_changes(before))
            return bool(browser.current_url != before)

        self.patience.until(is_sent, "the form was not sent")

    def _n_refused(self) -> int:
        return int(self.browser.execute_script(COUNT_REFUSALS))

    def _press_submit(self) -> None:
        def is_pressed(browser: webdriver.Chrome) -> bool:
            # By its key, as the message of a refusal may lie over it.
            browser.find_element(By.XPATH, "//button[@type='submit']").send_keys(Keys.ENTER)
            return True

        # A page that is still being drawn cannot be worked with for a moment.
        moments = (ElementNotInteractableException, StaleElementReferenceException)
        WebDriverWait(self.browser, PATIENCE_S, ignored_exceptions=moments).until(is_pressed)

    def text(self) -> str:
        """Return what the page shows, with what its fields hold."""
        fields = self.browser.find_elements(By.XPATH, "//input | //textarea")
        values = [f"{field.get_attribute('id')}: {field.get_attribute('value')}" for field in fields]
        return "\n".join([self.browser.find_element(By.TAG_NAME, "body").text, *values])
