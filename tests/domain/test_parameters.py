import pytest
from pydantic import Field, ValidationError

from surveyor.parameters import Choice, Fraction, Parameters


class Conditions(Parameters):
    temperature_K: float = Field(300.0, gt=0)
    fraction: Fraction = 0.1


class Method(Choice):
    langevin: Conditions | None = None
    npt: Conditions | None = None


def test_parameters_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        Conditions().temperature_K = 400.0


@pytest.mark.parametrize(
    "wrong", [{"temprature_K": 1}, {"temperature_K": -1}, {"temperature_K": float("nan")}, {"fraction": 1}]
)
def test_what_is_misspelt_or_out_of_bounds_is_refused(wrong):
    with pytest.raises(ValidationError):
        Conditions(**wrong)


@pytest.mark.parametrize(("given", "found"), [({}, "none"), ({"langevin": {}, "npt": {}}, "langevin and npt")])
def test_a_choice_is_exactly_one(given, found):
    with pytest.raises(ValidationError, match=f"expected exactly one of langevin, npt; found {found}"):
        Method(**given)


def test_what_was_chosen_is_at_hand():
    assert Method(npt={"temperature_K": 10}).chosen == Conditions(temperature_K=10)
