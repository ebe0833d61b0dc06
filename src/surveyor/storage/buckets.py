"""Buckets of object stores: their addresses, and how they are reached."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PlainValidator, SecretStr, WithJsonSchema, model_validator

from surveyor.errors import InputError
from surveyor.parameters import Parameters

SERVICES = {"s3": "s3", "gs": "gcs", "az": "azure"}  # by the scheme of an address, the kind of block that fits it
EXPECTED = "expected a folder, or a bucket such as s3://bucket/labels, gs://bucket/labels or az://container/labels"
ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<name>[^/?#]+)/*(?P<prefix>[^?#]*)")
BLOCK = re.compile(rf"({'|'.join(SERVICES.values())})/[a-z0-9][a-z0-9-]*")
MASK = "**********"

TIMEOUT_S, CONNECT_S = 60.0, 5.0
RETRY_S = 15.0  # a service that fails for longer is away, which those who ask have more patience for


@dataclass(frozen=True, slots=True)
class Bucket:
    """A part of a bucket.

    Attributes:
        scheme: s3, gs or az.
        name: name of the bucket; Azure calls it a container.
        prefix: first part of the names of its objects, without slashes at its ends.
    """

    scheme: str
    name: str
    prefix: str

    @classmethod
    def at(cls, address: str) -> "Bucket":
        """Return the bucket at an address.

        Raises:
            ValueError: it is no address of a bucket.
        """
        match = ADDRESS.fullmatch(address)
        if match is None or match["scheme"] not in SERVICES:
            raise ValueError(f"found {address!r}, {EXPECTED}")
        return cls(match["scheme"], match["name"], match["prefix"].strip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}{self.prefix and '/'}{self.prefix}"

    def part(self, name: str) -> "Bucket":
        """Return a part of this part."""
        return replace(self, prefix=f"{self.prefix}/{name}".strip("/"))

    @property
    def service(self) -> str:
        """The kind of block that holds access to it."""
        return SERVICES[self.scheme]


def store_address(value: object) -> Path | str:
    """Return where a store is: the path of a folder, or the address of a bucket.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"found {value!r}, {EXPECTED}")
    if isinstance(value, Path) and re.match("[a-z0-9]{2,}:/", str(value)):
        raise ValueError(f"found the path {value}; give the address of a bucket as a text, such as s3://bucket/labels")
    return str(Bucket.at(value)) if isinstance(value, str) and "://" in value else Path(value)


BucketAddress = Annotated[str, AfterValidator(lambda address: str(Bucket.at(address)))]
StoreAddress = Annotated[Path | str, PlainValidator(store_address), WithJsonSchema({"type": "string"})]


def _checked(name: str) -> str:
    if not BLOCK.fullmatch(name):
        raise ValueError(f"found {name!r}, expected the kind and name of a block, such as s3/minio")
    return name


StorageName = Annotated[str, AfterValidator(_checked)]

Endpoint = Annotated[str, Field(pattern=r"^https?://[^/?#]+(/[^?#]*)?$")]


class BucketAccess(Parameters):
    """Base of the access to buckets. Fields that are left out are taken from the environment of each process."""

    kind: ClassVar[str]

    @property
    def options(self) -> dict[str, Any]:  # Any: whatever the constructor of a store in obstore takes
        """The options of a store in obstore."""
        raise NotImplementedError

    @property
    def secrets(self) -> Iterator[str]:
        """The secrets, which must be shown nowhere."""
        values = (getattr(self, name) for name in type(self).model_fields)
        yield from (value.get_secret_value() for value in values if isinstance(value, SecretStr))


class S3Access(BucketAccess):
    """Access to Amazon S3, or to a service that speaks its protocol."""

    kind: ClassVar[str] = "s3"

    endpoint: Endpoint | None = Field(
        None, title="Endpoint", description="Address of the service, such as https://minio.example.org; by default AWS."
    )
    region: str | None = Field(
        None, min_length=1, title="Region", description="Region of the bucket, such as eu-west-1."
    )
    access_key_id: str | None = Field(
        None,
        min_length=1,
        title="Access key ID",
        description="Without it, each process uses the credentials of its environment: variables AWS_…, or the role "
        "of its machine or container.",
    )
    secret_access_key: SecretStr | None = Field(
        None, min_length=1, title="Secret access key", description="Secret that belongs to the access key ID."
    )
    session_token: SecretStr | None = Field(
        None, min_length=1, title="Session token", description="Token of temporary credentials."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> "S3Access":
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("expected both access_key_id and secret_access_key, or neither")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token: expected access_key_id and secret_access_key, too")
        return self

    @property
    def options(self) -> dict[str, Any]:  # Any: see the base
        """The options of a store in obstore."""
        options: dict[str, Any] = {"endpoint": self.endpoint, "region": self.region}
        if self.access_key_id is not None and self.secret_access_key is not None:
            token = None if self.session_token is None else self.session_token.get_secret_value()
            credential = {
                "access_key_id": self.access_key_id,
                "secret_access_key": self.secret_access_key.get_secret_value(),
                "token": token,  # as an option, one in the environment would be used where there is none here
                "expires_at": None,
            }
            options["credential_provider"] = lambda: credential
        return options


class GCSAccess(BucketAccess):
    """Access to Google Cloud Storage."""

    kind: ClassVar[str] = "gcs"

    service_account_key: SecretStr | None = Field(
        None,
        min_length=1,
        title="Service account key",
        description="Key of a service account, the content of its JSON file. Without it, each process uses the "
        "credentials of its environment: GOOGLE_APPLICATION_CREDENTIALS, or the service account of its machine.",
    )

    @property
    def options(self) -> dict[str, Any]:  # Any: see the base
        """The options of a store in obstore."""
        key = self.service_account_key
        return {"service_account_key": None if key is None else key.get_secret_value()}


class AzureAccess(BucketAccess):
    """Access to Azure Blob Storage."""

    kind: ClassVar[str] = "azure"

    account_name: str | None = Field(
        None, min_length=1, title="Account", description="Name of the storage account of the container."
    )
    endpoint: Endpoint | None = Field(
        None, title="Endpoint", description="Address of the service; by default that of the account in Azure."
    )
    account_key: SecretStr | None = Field(
        None,
        min_length=1,
        title="Account key",
        description="Without it, each process uses the credentials of its environment: variables AZURE_…, or the "
        "managed identity of its machine.",
    )
    sas_token: SecretStr | None = Field(
        None, min_length=1, title="SAS token", description="Shared access signature, in place of the account key."
    )

    @model_validator(mode="after")
    def _check_keys(self) -> "AzureAccess":
        if self.account_key is not None and self.sas_token is not None:
            raise ValueError("expected one of account_key and sas_token; found both")
        if (self.account_key or self.sas_token) and self.account_name is None:
            raise ValueError("account_name: found none, expected the account to which the key or token belongs")
        return self

    @property
    def options(self) -> dict[str, Any]:  # Any: see the base
        """The options of a store in obstore."""
        secrets = {"account_key": self.account_key, "sas_key": self.sas_token}
        given = {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}
        return {"account_name": self.account_name, "endpoint": self.endpoint, **given}


ACCESS: Mapping[str, type[BucketAccess]] = {access.kind: access for access in (S3Access, GCSAccess, AzureAccess)}


@lru_cache(maxsize=32)
def client_of(bucket: Bucket, access: BucketAccess | None, n_retries: int) -> Any:  # Any: a store of obstore
    """Return obstore's client of a bucket; one for each process.

    A process that was forked from one with clients must not use any: the threads that serve them are not there.

    Args:
        bucket: the bucket.
        access: None for that of the environment.
        n_retries: number of times that the client sends a request again that failed.

    Raises:
        InputError: obstore is not installed, or does not understand the access.
    """
    try:
        from obstore import store
        from obstore.exceptions import BaseError
    except ImportError:
        raise InputError(
            f'{bucket} needs obstore, which is not installed here; run: pip install "surveyor[storage]"'
        ) from None
    constructor = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[bucket.scheme]
    given = {} if access is None else {name: each for name, each in access.options.items() if each is not None}
    try:
        return constructor(
            bucket.name,
            prefix=bucket.prefix or None,
            client_options={"allow_http": True, "timeout": f"{TIMEOUT_S}s", "connect_timeout": f"{CONNECT_S}s"},
            retry_config={"max_retries": n_retries, "retry_timeout": timedelta(seconds=RETRY_S)},
            **given,
        )
    except (BaseError, ValueError, TypeError) as error:
        raise InputError(f"{bucket}: {without_secrets(error, access)}; correct the access to it") from None


def without_secrets(error: BaseException, access: BucketAccess | None) -> str:
    """Return the message of an error of obstore in one line, without secrets."""
    text = " ".join(str(error).partition("\n\nDebug source")[0].split())
    text = re.sub(r"<\?xml.*?<Code>([^<]*)</Code>(.*?<Message>([^<]*)</Message>)?.*", r"\1: \3", text)
    text = re.sub(r"(https?://[^\s?]+)\?\S+", rf"\1?{MASK}", text)  # the query of an address may be a signature
    for secret in () if access is None else access.secrets:
        text = text.replace(secret, MASK)
    return text
