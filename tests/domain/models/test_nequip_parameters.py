from pathlib import Path

import pytest
from pydantic import ValidationError

from surveyor.errors import InputError
from surveyor.models.nequip_parameters import NequIPParameters


def test_fields_that_a_configuration_decides_are_refused_beside_it() -> None:
    NequIPParameters(config_text="trainer: {}", time_limit_minutes=3, device="cpu", is_compiled=False)
    with pytest.raises(ValidationError, match="a configuration of NequIP and also lr, num_layers, which it decides"):
        NequIPParameters(config_text="trainer: {}", num_layers=2, lr=0.1)


def test_file_and_text_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"at most one of config .* and config_text; found both"):
        NequIPParameters(config=tmp_path / "config.yaml", config_text="trainer: {}")


def test_a_file_is_taken_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("trainer: {}\n")
    parameters = NequIPParameters(config=file, device="cpu").with_contents()
    assert parameters == NequIPParameters(config_text="trainer: {}\n", device="cpu")
    assert parameters.with_contents() == parameters
    assert NequIPParameters().with_contents() == NequIPParameters()


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("", "is empty")])
def test_a_file_without_content_is_told(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        NequIPParameters(config=file).with_contents()


def test_defaults_survive_a_round_trip_through_json() -> None:
    assert NequIPParameters.model_validate_json(NequIPParameters().model_dump_json()) == NequIPParameters()
