"""Access to buckets as blocks of Prefect, under a name that campaigns give as `s3/minio`."""

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

from prefect.client.orchestration import SyncPrefectClient
from pydantic import HttpUrl

from surveyor.blocks.site_blocks import SiteBlock, asking_server, stored_block, stored_names, stripped
from surveyor.errors import InputError
from surveyor.pools.site import BorderSite, Site
from surveyor.storage.buckets import ACCESS, AzureAccess, BucketAccess, GCSAccess, S3Access

OBSTORE_LOGO = HttpUrl("https://avatars.githubusercontent.com/u/104614781?s=200&v=4")
OBSTORE_DOCS = "https://developmentseed.org/obstore/latest/api/store/"


class StorageBlock(SiteBlock, ABC):
    """Access to buckets that Prefect stores: endpoint and credentials. Its secrets are encrypted there."""

    kind: ClassVar[str]
    _logo_url = OBSTORE_LOGO

    @property
    def bucket_access(self) -> BucketAccess:
        """The access, without the fields that Prefect adds."""
        return stripped(self, ACCESS[self.kind])


class S3Storage(S3Access, StorageBlock):
    """Access to Amazon S3, or to a service that speaks its protocol. Campaigns name it as s3/minio, for instance.

    Example:
        Store an access, and load a stored one:
        ```python
        from surveyor.blocks.storages import S3Storage

        S3Storage(
            endpoint="https://minio.example.org",
            access_key_id="campaigns",
            secret_access_key="SECRET",
        ).save("minio")
        storage = S3Storage.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "S3 storage"
    _block_type_slug = "s3-storage"  # `s3` was a block of Prefect 2, which its servers may still have
    _documentation_url = HttpUrl(f"{OBSTORE_DOCS}aws/")


class GCSStorage(GCSAccess, StorageBlock):
    """Access to Google Cloud Storage (experimental: never tried). Campaigns name it as gcs/labels, for instance.

    Example:
        Store an access, and load a stored one:
        ```python
        from surveyor.blocks.storages import GCSStorage

        GCSStorage(service_account_key='{"type": "service_account"}').save("labels")
        storage = GCSStorage.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "GCS storage"
    _block_type_slug = "gcs-storage"
    _documentation_url = HttpUrl(f"{OBSTORE_DOCS}gcs/")


class AzureStorage(AzureAccess, StorageBlock):
    """Access to Azure Blob Storage. Campaigns name it as azure/labels, for instance.

    Example:
        Store an access, and load a stored one:
        ```python
        from surveyor.blocks.storages import AzureStorage

        AzureStorage(account_name="campaigns", account_key="SECRET").save("labels")
        storage = AzureStorage.load("BLOCK_NAME")
        ```
    """

    _block_type_name = "Azure storage"
    _block_type_slug = "azure-storage"
    _documentation_url = HttpUrl(f"{OBSTORE_DOCS}azure/")


STORAGES: dict[str, type[StorageBlock]] = {block.kind: block for block in (S3Storage, GCSStorage, AzureStorage)}


def load_access(name: str | None) -> BucketAccess | None:
    """Return the access to buckets that a block holds.

    Args:
        name: kind and name of the block, such as `s3/minio`; None for no block.

    Raises:
        InputError: the block is missing or wrong, or the server does not answer.
    """
    if name is None:
        return None
    kind, _, block_name = name.partition("/")
    if kind not in STORAGES or not block_name:
        raise InputError(
            f"storage {name}: expected kind and name of a block, such as s3/minio; kinds are {', '.join(STORAGES)}"
        )
    with asking_server(f"storage {name}") as client:
        block = stored_block(client, STORAGES[kind], name, "storage", lambda: stored_storages(client))
    return block.bucket_access


def load_accesses(sites: Mapping[str, Site]) -> dict[str, BucketAccess]:
    """Return the accesses to the workspaces of pools that name a block for them, by the name of the pool.

    Raises:
        InputError: see `load_access`.
    """
    blocks = {name: site.storage for name, site in sites.items() if isinstance(site, BorderSite)}
    return {name: access for name, block in blocks.items() if (access := load_access(block)) is not None}


def stored_storages(client: SyncPrefectClient) -> list[str]:
    """Return the names of the storages that a server has, such as `s3/minio`."""
    return stored_names(client, STORAGES)
