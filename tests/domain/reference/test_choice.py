from pathlib import Path

import pytest
from pydantic import ValidationError

from surveyor.errors import InputError
from surveyor.reference.ase import ASEReference, EMTReference
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.cp2k import CP2KReference
from surveyor.reference.cp2k_code import CP2KCode
from surveyor.reference.xtb import XTBReference


def chosen(**variant: object) -> ReferenceParameters:
    return ReferenceParameters.model_validate(variant)


def test_each_choice_makes_its_reference(hydrogen_input: str, tmp_path: Path) -> None:
    path = tmp_path / "h2.inp"
    path.write_text(hydrogen_input)
    codes = Codes.model_validate({"cp2k": {"command": "mpirun -np 2 cp2k.psmp"}})
    cp2k = make_reference(chosen(cp2k={"input": path}), codes)
    assert isinstance(cp2k, CP2KReference)
    assert cp2k.code.command == "mpirun -np 2 cp2k.psmp"
    assert isinstance(make_reference(chosen(xtb={"method": "GFN1-xTB"})), XTBReference)
    assert isinstance(make_reference(chosen(emt={})), EMTReference)
    codes = Codes.model_validate({"ase": {"timeout_minutes": 2}})
    orca = make_reference(chosen(ase={"calculator": "orca", "arguments": {"orcasimpleinput": "PBE"}}), codes)
    assert isinstance(orca, ASEReference)
    assert orca.time_limit_s == 120


def test_an_input_of_cp2k_may_be_text(hydrogen_input: str, tmp_path: Path) -> None:
    path = tmp_path / "h2.inp"
    path.write_text(hydrogen_input)
    assert make_reference(chosen(cp2k={"input_text": hydrogen_input})) == make_reference(chosen(cp2k={"input": path}))
    with pytest.raises(ValidationError, match=r"exactly one of input \(a file\) and input_text; found both"):
        chosen(cp2k={"input_text": hydrogen_input, "input": path})


def test_a_code_is_given_or_named_as_a_block(hydrogen_input: str) -> None:
    named = Codes.model_validate({"cp2k": "cp2k/genoa"})
    assert named == Codes(cp2k_block="cp2k/genoa")
    assert Codes.model_validate(named.model_dump()) == named
    assert Codes().cp2k_code == CP2KCode()
    # Without the block it would be run with another command than the user's.
    with pytest.raises(InputError, match=r"code cp2k/genoa: .*was not loaded"):
        make_reference(chosen(cp2k={"input_text": hydrogen_input}), named)


@pytest.mark.parametrize(
    "codes",
    [
        {"cp2k": "genoa"},
        {"cp2k": "slurm/genoa"},
        {"cp2k": {}, "cp2k_block": "cp2k/genoa"},
        {"cp2k": "cp2k/genoa", "cp2k_block": "cp2k/other"},
    ],
)
def test_a_code_that_is_neither_or_both_is_refused(codes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"such as cp2k/genoa|found both"):
        Codes.model_validate(codes)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"emt": {}, "xtb": {}},
        {"emt": {"colour": "red"}},
        {"xtb": {"method": "GFN3-xTB"}},
        {"ase": {"calculator": "ase.calculators.emt.EMT"}},
        {"cp2k": {}},
    ],
)
def test_wrong_choice_is_refused(variant: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        chosen(**variant)


def test_missing_input_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.inp"):
        make_reference(chosen(cp2k={"input": tmp_path / "nowhere.inp"}))
