"""Storage in buckets, against real services on loopback."""

import pytest
from object_stores import S3, Azure

from surveyor.testing.storage import check_storage


def test_s3_conforms(s3: S3) -> None:
    check_storage(s3.storage())
    check_storage(s3.storage(prefix=""))


@pytest.mark.azurite
def test_azure_conforms(azure: Azure) -> None:
    check_storage(azure.storage())
