from collections.abc import Iterator

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


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_no_field_is_named_like_the_method_by_which_mappings_are_told():
    # Prefect makes a dict of each model among the arguments of a task, and Python asks such a model for its keys.
    assert [kind for kind in subclasses(Parameters) if "keys" in kind.model_fields] == []
