"""What the documentation shows works: campaign files parse, examples run, tables of parameters are complete."""

import importlib.util
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from surveyor.campaign import CampaignParameters, parse_campaign

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^<!-- (?P<mark>[a-z ]+) -->\n```\w+[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- parameters: (\S+) -->$", re.MULTILINE)


def blocks(mark: str) -> list[object]:
    return [
        pytest.param(block["text"], id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(BLOCK.finditer(page.read_text()))
        if block["mark"] == mark
    ]


@pytest.mark.parametrize("text", blocks("complete campaign file"))
def test_campaign_files_in_pages_are_valid(text: str) -> None:
    assert parse_campaign(yaml.safe_load(text), "example").walkers


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


# Sockets of the client and of the server's process end with the interpreter, not with the test.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("text", blocks("runnable"))
def test_runnable_examples_in_pages_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "example.py"
    script.write_text(text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")


def table_maker() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert specification is not None
    assert specification.loader is not None
    hooks = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hooks)
    return hooks


def test_page_of_parameters_has_every_field_of_a_campaign() -> None:
    page = table_maker().on_page_markdown((ROOT / "docs" / "reference" / "parameters.md").read_text())
    schema = CampaignParameters.model_json_schema()
    fields = {name for model in (schema, *schema["$defs"].values()) for name in model.get("properties", ())}

    assert not MARK.search(page)
    assert [name for name in sorted(fields) if f"| `{name}` |" not in page] == []


def test_table_of_parameters_shows_type_bounds_default_and_unit() -> None:
    hooks = table_maker()
    page = hooks.on_page_markdown("<!-- parameters: surveyor.sampling.walkers.Walkers -->")

    assert "| `temperature_K` | number, > 0, ≤ 100000 | `300.0` | **Temperature (K).**" in page
    assert "| `start` | path | required |" in page
    assert "| `method` | `langevin`, `npt`, `perturbation` | `langevin` |" in page
