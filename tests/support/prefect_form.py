"""Forms of the Prefect UI in a browser, for tests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as expected
from selenium.webdriver.support.ui import WebDriverWait

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


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Run a browser without a window.

    Args:
        profile: folder for what it keeps.
    """
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
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
        """Write into the first field after a label."""
        path = "./following::*[self::input or self::textarea][1]"
        field = self.label(text).find_element(By.XPATH, path)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def click_after(self, text: str, button: str) -> None:
        """Press the first button with a caption that follows a label."""
        path = f"./following::button[normalize-space()='{button}'][1]"
        found = self.label(text).find_element(By.XPATH, path)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()

    def submit(self) -> None:
        """Send it, and wait for the page that follows."""
        before = self.browser.current_url
        button = self.browser.find_element(By.XPATH, "//button[@type='submit']")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        self.patience.until(expected.url_changes(before))
