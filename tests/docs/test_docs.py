"""What the documentation shows works: campaign files parse, examples run, tables of parameters are complete."""

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from prefect import flow

from surveyor.benchmark import BenchmarkParameters
from surveyor.dataset import ENERGY
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory
from surveyor.parameters.files import parse_parameters
from surveyor.reference.labelling import Labeller, label_structure
from surveyor.tasks.label import label
from surveyor.works.campaign import CampaignParameters
from surveyor.works.labelling import LabellingParameters
from surveyor.works.sampling import SamplingParameters
from surveyor.works.training import TrainingParameters

ROOT = Path(__file__).parents[2]
DIAGRAMS = ROOT / "docs" / "diagrams"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"^(<!-- (?P<mark>[a-z ]+) -->\n+)?```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
TABLE = re.compile(r"^<!-- parameters: (\S+) -->$", re.MULTILINE)
INCLUDED = "--8<--"  # the block is another file
COMPLETE, LABELLING, RUNNABLE = "complete campaign file", "complete parameter file", "runnable"
TRAINING, SAMPLING, BENCHMARK = "complete training file", "complete sampling file", "complete benchmark file"
BENCHMARK_PART = "part of a benchmark file"
FOREIGN = re.compile(
    r"""<(?:script|link|img|iframe|object|embed|source)\b[^>]*?\b(?:src|href|data)=["']?(?:https?:)?//[^"'> ]+"""
)
LABEL = re.compile(r"[\[({]([^\[\](){}]+)[\])}]|-- ([^-\n]+) --|->>\w+: (.+)|Note over \w+: (.+)")  # of a diagram
STYLE = re.compile(r"""(?:url\(|@import )\s*["']?(?:https?:)?//[^"') ]+""")
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
    assert parse_parameters(CampaignParameters, yaml.safe_load(text), "example").walkers


@pytest.mark.parametrize("text", blocks("yaml", LABELLING))
def test_complete_parameter_files_of_labellings_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(LabellingParameters, yaml.safe_load(text), "example").structures


@pytest.mark.parametrize("text", blocks("yaml", TRAINING))
def test_complete_parameter_files_of_trainings_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(TrainingParameters, yaml.safe_load(text), "example").train


@pytest.mark.parametrize("text", blocks("yaml", SAMPLING))
def test_complete_parameter_files_of_samplings_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(SamplingParameters, yaml.safe_load(text), "example").potential


@pytest.mark.parametrize("text", blocks("yaml", BENCHMARK))
def test_complete_parameter_files_of_benchmarks_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(BenchmarkParameters, yaml.safe_load(text), "example").tests


@pytest.mark.parametrize("text", blocks("yaml", BENCHMARK_PART))
def test_parts_of_parameter_files_of_benchmarks_in_pages_are_valid(text: str) -> None:
    least = {"output_directory": "out", "model": {"pair": {}}, "arms": ["random", "farthest"]}
    assert parse_parameters(BenchmarkParameters, least | yaml.safe_load(text), "example").tests


@pytest.mark.parametrize("text", blocks("yaml", None))
def test_parts_of_campaign_files_in_pages_are_valid(text: str) -> None:
    assert parse_parameters(CampaignParameters, LEAST | yaml.safe_load(text), "example").walkers


# Sockets of Prefect's client and of the server's process end with the interpreter, not with the test.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("prefect_api_url")
@pytest.mark.parametrize("text", blocks("python", RUNNABLE))
def test_runnable_examples_in_pages_run(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "example.py"
    script.write_text(text)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")


@pytest.fixture
def harmonic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that the page on adding a reference has one write, in a folder of its own."""
    page = (ROOT / "docs" / "how-to" / "add-a-reference.md").read_text()
    (text,) = (block["text"] for block in BLOCK.finditer(page) if block["mark"] == RUNNABLE)
    (tmp_path / "harmonic.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "harmonic", raising=False)
    return importlib.import_module("harmonic")


def test_reference_of_the_page_labels_into_a_store_and_never_twice(harmonic: ModuleType, tmp_path: Path) -> None:
    reference, store = harmonic.HarmonicReference(stiffness=2.0), LabelStore.in_folder(tmp_path / "labels")
    atoms, theory = molecule("H2O"), reference.resolve()
    label = label_structure(atoms, Labeller(reference, theory, store, tmp_path / "calculations"))
    assert isinstance(label, Label)
    assert label.energy == pytest.approx(float(np.sum(atoms.positions**2)))
    np.testing.assert_allclose(label.forces, -2.0 * atoms.positions, atol=1e-7)

    unable = Unable()
    assert label_structure(atoms, Labeller(unable, theory, store, tmp_path / "calculations")).energy == label.energy
    crystal = molecule("H2O", cell=[5, 5, 5], pbc=True)
    failure = label_structure(crystal, Labeller(reference, theory, store, tmp_path / "calculations"))
    assert isinstance(failure, LabelFailure)
    assert failure.reason == "invalid_input"
    assert label_structure(crystal, Labeller(unable, theory, store, tmp_path / "calculations")) == failure


class Unable:
    """A reference that must not be asked."""

    def resolve(self) -> LevelOfTheory:
        raise AssertionError("the level of theory is known")

    def compute(self, atoms: Atoms, directory: Path) -> Label | LabelFailure:
        raise AssertionError("the store has it")


@pytest.mark.usefixtures("prefect_api_url")
def test_reference_of_the_page_labels_in_a_flow(harmonic: ModuleType, tmp_path: Path) -> None:
    reference = harmonic.HarmonicReference()

    @flow
    def label_water() -> Atoms:
        future = label.submit(
            None,
            molecule("H2O"),
            labeller=Labeller(
                reference, reference.resolve(), LabelStore.in_folder(tmp_path / "labels"), tmp_path / "calculations"
            ),
            name="water",
        )
        return future.result()

    atoms = label_water()
    assert atoms.info[ENERGY] == pytest.approx(0.5 * float(np.sum(molecule("H2O").positions ** 2)))


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


def test_page_of_parameters_has_every_field(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown((ROOT / "docs" / "reference" / "parameters.md").read_text())
    work = (CampaignParameters, LabellingParameters, TrainingParameters, SamplingParameters)
    schemas = [each.model_json_schema() for each in work]
    models = [model for schema in schemas for model in (schema, *schema["$defs"].values())]
    fields = {name for model in models for name in model.get("properties", ())}

    assert not TABLE.search(page)
    assert [name for name in sorted(fields) if f"| `{name}` |" not in page] == []


def test_table_of_parameters_shows_type_bounds_default_and_unit(hooks: ModuleType) -> None:
    page = hooks.on_page_markdown("<!-- parameters: surveyor.sampling.conditions.Walkers -->")

    assert "| `temperature_K` | number, > 0, ≤ 100000 | `300.0` | **Temperature (K).**" in page
    assert "| `start` | path | required |" in page
    assert "| `method` | `langevin`, `bussi`, `nose_hoover`, `nve`, `npt`, `npt_flexible`, `optimisation`," in page


def test_diagrams_are_files_with_their_sources() -> None:
    """The theme would load a program from a network to draw a block of Mermaid."""
    assert [path for path in PAGES if "```mermaid" in path.read_text()] == []
    used = {name for path in PAGES for name in re.findall(r"\(\.\./diagrams/(\w+)\.svg\)", path.read_text())}
    assert used == {path.stem for path in DIAGRAMS.glob("*.mmd")} == {path.stem for path in DIAGRAMS.glob("*.svg")}


@pytest.mark.parametrize("source", sorted(DIAGRAMS.glob("*.mmd")), ids=lambda path: path.stem)
def test_a_diagram_has_the_words_of_its_source(source: Path) -> None:
    """Otherwise: make diagrams."""
    drawn = set(re.findall(r"\w+", re.sub("<[^>]*>", " ", source.with_suffix(".svg").read_text())))
    labels = re.findall(
        r"[\[({]([^\[\](){}]+)[\])}]|-- ([^-\n]+) --|->>\w+: (.+)|Note over \w+: (.+)", source.read_text()
    )
    assert {word for label in labels for text in label for word in re.findall(r"\w+", text)} <= drawn


def test_the_documentation_builds_without_warnings_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in (tmp_path / "site").rglob("*") if path.suffix in (".html", ".css", ".svg")]
    assert len(files) > len(PAGES)
    assert [match for path in files for kind in (FOREIGN, STYLE) for match in kind.findall(path.read_text())] == []
