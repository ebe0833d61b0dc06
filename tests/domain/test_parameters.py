from collections.abc import Iterator

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field, ValidationError

from surveyor.benchmark.parameters import HeldOut, Structures
from surveyor.models.mace_parameters import MACEParameters
from surveyor.models.nequip_parameters import NequIPParameters
from surveyor.parameters import Choice, Fraction, Parameters
from surveyor.reference.choice import Codes
from surveyor.reference.cp2k import CP2KParameters


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


def refusals(kind: type[Parameters], given: dict) -> list[str]:
    """The Prefect server's answer to parameters at submission."""
    errors = Draft202012Validator(kind.model_json_schema()).iter_errors(given)
    return [error.message.partition(" should not be valid under {'description': ")[2] for error in errors]


# The null is what the form sends for a variant that is not chosen.
@pytest.mark.parametrize("given", [{}, {"langevin": {}, "npt": {}}, {"langevin": None, "npt": None}])
def test_the_schema_of_a_choice_refuses_none_and_several(given):
    (message,) = refusals(Method, given)
    assert message.startswith("'none or several of langevin, npt; give exactly one'")


@pytest.mark.parametrize("given", [{"langevin": {}}, {"langevin": {}, "npt": None}])
def test_the_schema_of_a_choice_takes_one(given):
    assert refusals(Method, given) == []


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (MACEParameters, {"foundation_model": "/a.model", "foundation_name": "small"}),
        (NequIPParameters, {"config": "/a.yaml", "config_text": "a: 1"}),
        (Codes, {"cp2k": {}, "cp2k_block": "cp2k/genoa"}),
        (CP2KParameters, {"input": "/a.inp", "input_text": "&FORCE_EVAL"}),
        (CP2KParameters, {}),
    ],
)
def test_what_excludes_each_other_is_refused_by_schema_and_class_alike(kind, given):
    with pytest.raises(ValidationError, match=r"expected (exactly|at most)? ?one of"):
        kind.model_validate(given)
    (message,) = refusals(kind, given)
    assert message.startswith(("'both", "'none or several"))
    if given:
        first = next(iter(given))
        assert refusals(kind, {first: given[first], **dict.fromkeys(set(given) - {first})}) == []


@pytest.mark.parametrize(("kind", "name"), [(Structures, {}), (HeldOut, {"name": "600 K"})])
def test_a_list_is_given_if_it_is_not_empty(kind, name):
    file, walkers = {"file": "/a.extxyz"}, {"walkers": [{"start": "/a.extxyz", "frame_interval": 5}]}
    for given in ({}, {"file": None, "walkers": []}, file | walkers):
        (message,) = refusals(kind, name | given)
        assert message.startswith("'none or several of file, walkers; give exactly one'")
        with pytest.raises(ValidationError, match="expected exactly one of file and walkers"):
            kind.model_validate(name | given)
    for given in (file, {**file, "walkers": []}, {**walkers, "file": None}):
        assert refusals(kind, name | given) == []
        kind.model_validate(name | given)


def test_what_was_chosen_is_at_hand():
    assert Method(npt={"temperature_K": 10}).chosen == Conditions(temperature_K=10)


def subclasses(kind: type) -> Iterator[type]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_no_field_is_named_like_the_method_by_which_mappings_are_told():
    # Prefect makes a dict of each model among the arguments of a task, and Python asks such a model for its keys.
    assert [kind for kind in subclasses(Parameters) if "keys" in kind.model_fields] == []
