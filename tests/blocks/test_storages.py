from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_server import free_address
from pydantic import ValidationError

from surveyor.blocks.storages import STORAGES, S3Storage, load_access
from surveyor.errors import InputError
from surveyor.storage.buckets import ACCESS, SERVICES, S3Access

SECRET = "planted"
MINIO = {"endpoint": "https://minio.example.org", "access_key_id": "me", "secret_access_key": SECRET}


@pytest.mark.parametrize("block", STORAGES.values(), indirect=True, ids=STORAGES.keys())
class TestAsPrefectWantsBlocks(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Have an address of an image; Prefect's own test would fetch it."""
        assert block._logo_url is not None
        assert block._logo_url.scheme == "https"


def test_there_is_a_block_for_each_kind_of_service() -> None:
    assert list(STORAGES) == list(ACCESS) == list(SERVICES.values())


@pytest.mark.parametrize("kind", STORAGES)
def test_the_example_of_a_block_runs(kind: str) -> None:
    example = STORAGES[kind].get_code_example()
    assert example is not None
    code = example.partition("```python")[2].partition("```")[0]
    named = code.partition('.save("')[2].partition('"')[0]
    scope: dict[str, Any] = {}
    exec(code.replace(f'.save("{named}")', '.save("from-example")').replace("BLOCK_NAME", "from-example"), scope)
    assert load_access(f"{kind}/from-example") == scope["storage"].bucket_access
    assert f"{kind}/{named}" in (STORAGES[kind].get_description() or "")


def test_what_was_stored_is_loaded_with_its_secret_which_is_not_shown() -> None:
    S3Storage(**MINIO).save("stored")
    access = load_access("s3/stored")
    assert access == S3Access(**MINIO)
    assert list(access.secrets) == [SECRET]
    block = S3Storage.load("stored")
    assert SECRET not in f"{access} {access!r} {block!r} {block.model_dump_json()}"


def test_no_block_needs_no_server() -> None:
    with temporary_settings({PREFECT_API_URL: free_address()}):
        assert load_access(None) is None


def test_half_of_a_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected both access_key_id and secret_access_key"):
        S3Storage(access_key_id="me")


def test_a_misspelt_field_is_refused_with_the_right_one() -> None:
    with pytest.raises(ValidationError, match="end_point: S3Storage has no such field; did you mean endpoint"):
        S3Storage(end_point="https://minio.example.org")


def test_a_block_that_is_missing_is_said_with_those_that_there_are() -> None:
    S3Storage().save("there")
    with pytest.raises(InputError, match=r"^storage s3/absent: there is no such block .* s3/there.* `surveyor blocks"):
        load_access("s3/absent")


@pytest.mark.parametrize("name", ["s4/minio", "minio", "s3/", "slurm/genoa"])
def test_a_name_of_no_storage_is_refused_with_the_kinds(name: str) -> None:
    with pytest.raises(InputError, match=f"^storage {name}: expected kind and name .* kinds are s3, gcs, azure"):
        load_access(name)
