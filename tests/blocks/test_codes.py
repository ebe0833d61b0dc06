from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_server import free_address
from pydantic import ValidationError

from surveyor.blocks.codes import CODES, CP2KCodeBlock, load_codes
from surveyor.errors import InputError
from surveyor.reference.choice import Codes
from surveyor.reference.cp2k_code import CP2KCode

GENOA = {
    "command": "srun --ntasks={ranks} --mpi=pmix cp2k.psmp",
    "ranks": 32,
    "environment": {"OMP_STACKSIZE": "64M"},
    "data_directory": Path("/opt/cp2k/data"),
    "scratch": "$TMPDIR",
    "memory_GB": 62.5,
    "timeout_minutes": 30.0,
}


@pytest.mark.parametrize("block", CODES.values(), indirect=True, ids=CODES.keys())
class TestAsPrefectWantsBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Have an address of an image; Prefect's own test would fetch it."""
        assert block._logo_url is not None
        assert block._logo_url.scheme == "https"


def test_the_example_of_the_block_runs() -> None:
    example = CP2KCodeBlock.get_code_example()
    assert example is not None
    code = example.partition("```python")[2].partition("```")[0]
    scope: dict[str, Any] = {}
    exec(code.replace('.save("genoa")', '.save("from-example")').replace("BLOCK_NAME", "from-example"), scope)
    assert load_codes(Codes(cp2k_block="cp2k/from-example")) == Codes(cp2k=scope["code"].code)
    assert "cp2k/genoa" in (CP2KCodeBlock.get_description() or "")


def test_what_was_stored_is_loaded_in_place_of_its_name() -> None:
    CP2KCodeBlock(**GENOA).save("stored")
    loaded = load_codes(Codes.model_validate({"cp2k": "cp2k/stored"}))
    assert loaded == Codes(cp2k=CP2KCode(**GENOA))
    assert loaded.cp2k_code.words[:2] == ["srun", "--ntasks=32"]


def test_a_code_that_is_given_needs_no_server() -> None:
    with temporary_settings({PREFECT_API_URL: free_address()}):
        assert load_codes(Codes()) == Codes()
        assert load_codes(Codes(cp2k=CP2KCode(ranks=1))) == Codes(cp2k=CP2KCode(ranks=1))


def test_a_change_to_something_wrong_is_refused() -> None:
    code = CP2KCodeBlock(**GENOA)
    with pytest.raises(ValidationError, match=r"found {rank}, expected no placeholder"):
        code.command = "srun --ntasks={rank} cp2k.psmp"


def test_a_misspelt_field_is_refused_with_the_right_one() -> None:
    with pytest.raises(
        ValidationError, match=r"timeout: CP2KCodeBlock has no such field; did you mean timeout_minutes"
    ):
        CP2KCodeBlock(timeout=3)


def test_a_block_that_is_missing_is_said_with_those_that_there_are() -> None:
    CP2KCodeBlock().save("there")
    with pytest.raises(InputError, match=r"^code cp2k/absent: there is no such block .* cp2k/there.* `surveyor blocks"):
        load_codes(Codes(cp2k_block="cp2k/absent"))


def test_a_server_that_does_not_answer_is_said() -> None:
    address = free_address()
    with (
        temporary_settings({PREFECT_API_URL: address}),
        pytest.raises(InputError, match=f"^code cp2k/genoa: .*{address}, which cannot be asked: .*PREFECT_API_URL"),
    ):
        load_codes(Codes(cp2k_block="cp2k/genoa"))
