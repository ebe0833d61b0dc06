"""Common parts of the flows that users start."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from surveyor.benchmark import BenchmarkParameters
from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.flows.benchmark_labels import benchmark_labels
from surveyor.flows.label_dataset import label_dataset
from surveyor.flows.online_learning import online_learning
from surveyor.flows.paths import of_run, run_url
from surveyor.flows.sample_walkers import sample_walkers
from surveyor.flows.server import ServerRefused, using_server
from surveyor.flows.train_model import train_model
from surveyor.parameters import Parameters
from surveyor.works.campaign import CampaignParameters
from surveyor.works.labelling import LabellingParameters
from surveyor.works.sampling import SamplingParameters
from surveyor.works.training import TrainingParameters

FLOWS = [
    (online_learning, CampaignParameters),
    (label_dataset, LabellingParameters),
    (train_model, TrainingParameters),
    (sample_walkers, SamplingParameters),
    (benchmark_labels, BenchmarkParameters),
]


@pytest.mark.parametrize(("flow", "kind"), FLOWS)
def test_fields_of_a_form_have_the_titles_of_the_parameters(flow: Flow[..., Any], kind: type[Parameters]) -> None:
    schema = flow.parameters

    def title(field: dict[str, Any]) -> str:
        return field["title"] if "title" in field else schema.definitions[field["$ref"].rpartition("/")[2]]["title"]

    titles = {name: title(field) for name, field in schema.properties.items()}
    assert titles == {name: field.title for name, field in kind.model_fields.items()}


def test_fields_of_a_form_have_the_bounds_of_the_parameters() -> None:
    assert label_dataset.parameters.properties["chunk_size"]["anyOf"][0]["minimum"] == 1
    assert online_learning.parameters.properties["walkers"]["minItems"] == 1


DATA = Path(__file__).parents[2] / "deployments" / "train" / "ethanol.extxyz"
CALL = """
from surveyor.flows.train_model import train_model
train_model(train={data!r}, output_directory={out!r}, model={{"pair": {{}}}}, display={display})
"""


def printed(tmp_path: Path, *, display: bool) -> list[str]:
    """The output of a call in Python."""
    call = CALL.format(data=str(DATA), out=str(tmp_path / "out"), display=display)
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


@pytest.mark.slow
def test_a_call_in_python_shows_what_the_command_shows(tmp_path: Path) -> None:
    lines = printed(tmp_path, display=True)
    assert sum("training on 45 structures" in line for line in lines) == 1
    assert not [line for line in lines if "| INFO" in line]  # as Prefect's log has it
    assert lines[-1] == f"potential: {tmp_path / 'out' / 'model' / 'pair.npz'}"
    assert any("energy (meV/atom)" in line for line in lines)
    assert printed(tmp_path, display=False) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trian": "x"}, r"train_model\(\) has 1 wrong field:\n  trian: .*did you mean train\?"),
        ({"model": {"pair": {"cutof_A": 3}}}, r"  model\.pair\.cutof_A: .*did you mean cutoff_A\?"),
        ({"train": "nowhere.xyz"}, r"train: file /.*/nowhere\.xyz does not exist; relative paths begin in the current"),
        ({"train": 3}, r"  train: Input is not a valid path .*\(found 3\)"),
    ],
)
def test_a_call_with_wrong_arguments_is_refused_before_a_run_begins(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    good = {"train": DATA, "output_directory": tmp_path / "out", "model": {"pair": {}}}
    with pytest.raises(InputError, match=message):
        train_model(**{**good, **wrong})
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC)
    assert not [run for run in runs if run.parameters.get("output_directory") == str(tmp_path / "out")]


def test_surplus_and_repeated_arguments_are_refused_as_python_does(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="too many positional arguments"):
        train_model(*[None] * 100)
    with pytest.raises(TypeError, match="multiple values for argument 'train'"):
        train_model(tmp_path, train=DATA)


def test_parameters_that_prefect_cannot_store_are_refused_with_the_field(tmp_path: Path) -> None:
    Dataset().save(str(tmp_path / "x.extxyz"))
    reference = {"cp2k": {"input_text": "! long\n" * 100_000}}
    message = r"^reference\.cp2k\.input_text: takes 800,002 bytes of .* stores 524,288 .* file"
    with pytest.raises(InputError, match=message):
        label_dataset(structures=tmp_path / "x.extxyz", output_directory=tmp_path / "out", reference=reference)
    walkers = [{"start": tmp_path / "x.extxyz"}] * 3000
    with pytest.raises(InputError, match=r"^walkers: takes "):
        sample_walkers(potential=tmp_path, output_directory=tmp_path, walkers=walkers)


def test_what_a_server_refuses_is_told_without_the_request(prefect_api_url: str) -> None:
    with get_client(sync_client=True) as client, pytest.raises(ServerRefused) as caught, using_server():
        client.create_flow_run(train_model, parameters={"secret": "confidential " * 50_000})
    assert "parameters must be less than 524,288 bytes" in str(caught.value)
    assert "confidential" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_links_lead_to_the_ui_to_which_the_address_of_a_server_leads(prefect_api_url: str) -> None:
    @flow
    def look() -> str | None:
        return run_url()

    assert str(look()).startswith(f"{prefect_api_url.removesuffix('/api')}/v2/runs/flow-run/")


def test_a_server_without_a_ui_has_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__UI_URL", "None/flow-runs/flow-run/1")  # as Prefect has it
    assert run_url() is None
    assert of_run(None) == ""


def test_a_call_in_python_gives_a_temporary_server_time_to_make_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience_s: list[float] = []
    setting = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS
    monkeypatch.setattr(Flow, "__call__", lambda *_, **__: patience_s.append(setting.value()))
    train_model(train=DATA, output_directory=tmp_path, model={"pair": {}}, display=False)  # type: ignore[arg-type]
    assert patience_s == [300]
