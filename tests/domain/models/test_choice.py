import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from surveyor.dataset import Dataset
from surveyor.errors import InputError
from surveyor.models.choice import ModelParameters, check_model_parameters, load_model, make_model
from surveyor.models.mace import MACEModel
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.pair import PairModel, PairParameters

PAIR = ModelParameters(pair=PairParameters())


def saved(train: Dataset, directory: Path) -> Path:
    model = make_model(PAIR).initialize(train, atomic_energies=None, seed=7)
    model.train(train, Dataset(), directory / "training")[0].save(directory / "saved")
    return directory / "saved"


def test_the_given_kind_is_made() -> None:
    assert isinstance(make_model(PAIR), PairModel)
    assert isinstance(make_model(ModelParameters(mace=MACEParameters())), MACEModel)


def test_exactly_one_kind_is_given() -> None:
    with pytest.raises(ValidationError, match=r"exactly one of mace, .*; found none"):
        ModelParameters()
    with pytest.raises(ValidationError, match="found mace and pair"):
        ModelParameters(mace=MACEParameters(), pair=PairParameters())


def test_parameters_survive_json() -> None:
    parameters = ModelParameters(mace=MACEParameters(num_channels=8, options={"swa": True}))
    assert ModelParameters.model_validate_json(parameters.model_dump_json()) == parameters


def test_pair_model_needs_nothing_that_could_be_missing() -> None:
    check_model_parameters(PAIR)


def test_saved_model_is_loaded_with_all_that_made_it(train: Dataset, tmp_path: Path) -> None:
    folder = saved(train, tmp_path)
    loaded = load_model(folder)
    assert isinstance(loaded, PairModel)
    assert loaded.seed == 7
    assert loaded.parameters == PAIR.pair
    assert set(json.loads((folder / "model.json").read_text())["versions"]) >= {"surveyor", "numpy"}


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("schema_version", 99, "update surveyor"), ("kind", "other", "'other'; expected mace")],
)
def test_a_record_that_is_not_understood_is_refused(
    train: Dataset, tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = saved(train, tmp_path) / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(InputError, match=message):
        load_model(path.parent)
