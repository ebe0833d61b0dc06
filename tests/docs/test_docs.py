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
from surveyor.labelling import LabellingParameters
from surveyor.parameter_files import parse_parameters

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"^(<!-- (?P<mark>[a-z ]+) -->\n)?```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TABLE = re.compile(r"^<!-- parameters: (\S+) -->$", re.MULTILINE)
INCLUDED = "--8<--"  # the block is another file
COMPLETE, LABELLING, RUNNABLE = "complete campaign file", "complete parameter file", "runnable"
LEAST = {"run_directory": "run", "walkers": [{"start": "a.xyz"}], "reference": {"emt": {}}, "model": {"pair": {}}}


def blocks(language: str, mark: str | None) -> list[object]:
    """Return the texts of a kind of blocks as parameters of a test, of which there must be some."""
    found = [
        pytest.param(block["text"], id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(BLOCK.finditer(page.read_text()))
        if block["language"] == language and block["mark"] == mark and INCLUDED not in block["text"]
    ]
    if not found:
        raise ValueError(f"no page has a block of {language} marked {mark}")
    return found


@pytest.mark.parametrize("text", blocks("yaml", COMPLETE))
def test_complete_campaign_files_in_pages_are_valid(text: str) -> None:
    assert parse_campaign(yaml.safe_load(text), "example").walkers


@pytest.mark.parametrize("text", blocks("yaml", LABELLING))
def test_complete_parameter_files_of_labellings_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(LabellingParameters, yaml.safe_load(text), "example").structures


@pytest.mark.parametrize("text", blocks("yaml", None))
def test_parts_of_campaign_files_in_pages_are_valid(text: str) -> None:
    assert parse_campaign(LEAST | yaml.safe_load(text), "example").walkers


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


# Sockets of Prefect's client and of the server's process end with the interpreter, not with the test.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("text", blocks("python", RUNNABLE))
def test_runnable_examples_in_pages_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "example.py"
    script.write_text(text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("text", [*blocks("python", None), *blocks("python", RUNNABLE)])
def test_python_in_pages_is_python(text: str) -> None:
    compile(text, "example", "exec")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_page_of_parameters_has_every_field_of_a_campaign_and_of_a_labelling(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((ROOT / "docs" / "reference" / "parameters.md").read_text())
    schemas = [each.model_json_schema() for each in (CampaignParameters, LabellingParameters)]
    models = [model for schema in schemas for model in (schema, *schema["$defs"].values())]
    fields = {name for model in models for name in model.get("properties", ())}

    assert not TABLE.search(page)
    assert [name for name in sorted(fields) if f"| `{name}` |" not in page] == []


def test_table_of_parameters_shows_type_bounds_default_and_unit(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown("<!-- parameters: surveyor.sampling.walkers.Walkers -->")

    assert "| `temperature_K` | number, > 0, ≤ 100000 | `300.0` | **Temperature (K).**" in page
    assert "| `start` | path | required |" in page
    assert "| `method` | `langevin`, `npt`, `perturbation` | `langevin` |" in page
