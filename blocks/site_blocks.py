"""The common parts of surveyor's blocks: their base class, and their retrieval from a Prefect server."""

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import cleandoc
from typing import Any, TypeVar

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ConfigDict, ValidationError, model_validator

from surveyor.errors import InputError
from surveyor.parameters import Parameters
from surveyor.parameters.files import complaint_of

NOT_FOUND = 404
P = TypeVar("P", bound=Parameters)


class SiteBlock(Block, ABC):
    """Base of the blocks of a site: where and how something runs, and nothing of its science."""

    # As in all parameters of surveyor, a misspelt field is an error. Blocks of Prefect may be changed and saved again.
    model_config = ConfigDict(extra="forbid", frozen=False, validate_assignment=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:  # Any: those of pydantic
        super().__pydantic_init_subclass__(**options)
        lines = [f"    {name}: {field.description}" for name, field in cls.model_fields.items()]
        cls.__doc__ = "\n".join([cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, values: Any) -> Any:  # Any: whatever is validated
        if not isinstance(values, Mapping):
            return values
        fields = {name: value for name, value in values.items() if not _is_metadata(name, value, cls)}
        unknown = [_unknown(name, cls) for name in fields if name not in cls.model_fields]
        if unknown:
            raise ValueError("; ".join(unknown))
        return fields


B = TypeVar("B", bound=SiteBlock)


def _is_metadata(name: str, value: object, block: type[Block]) -> bool:
    """Return whether a value is metadata that Prefect adds to a stored block, rather than a field of the user."""
    return (
        name.startswith("_block_")
        or name == "_is_anonymous"
        or (name == "block_type_slug" and value == block.get_block_type_slug())
    )


def _unknown(name: str, block: type[Block]) -> str:
    """Return the message on an unknown field, with the field that may be meant."""
    close = get_close_matches(name, block.model_fields, n=1)
    described = [
        each for each, field in block.model_fields.items() if name.lower() in (field.description or "").lower()
    ]
    meant = close or described
    advice = f"did you mean {' or '.join(meant)}?" if meant else f"there are {', '.join(block.model_fields)}"
    return f"{name}: {block.__name__} has no such field; {advice}"


def stripped(block: SiteBlock, kind: type[P]) -> P:
    """Return the parameters that a block stores, without the fields that Prefect adds."""
    return kind.model_validate({name: getattr(block, name) for name in kind.model_fields})


@contextmanager
def asking_server(what: str) -> Iterator[SyncPrefectClient]:
    """Give a client of the Prefect server.

    Args:
        what: is asked for, such as "pool slurm/genoa"; for messages.

    Raises:
        InputError: the server does not answer.
    """
    with get_client(sync_client=True) as client:
        try:
            yield client
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            raise InputError(
                f"{what}: it is a block of the Prefect server at {_url(client)}, which cannot be asked: {error}. Start "
                "the server, or set PREFECT_API_URL to the right one"
            ) from error


def stored_block(client: SyncPrefectClient, block: type[B], name: str, what: str, there: Callable[[], list[str]]) -> B:
    """Return a block.

    Args:
        client: of the server.
        block: its class.
        name: kind and name, such as slurm/genoa.
        what: it is: a pool, a code or a storage; for messages.
        there: gives the names of those that the server has.

    Raises:
        InputError: it is not there, or cannot be used.
    """
    block_name = name.partition("/")[2]
    try:
        document = client.read_block_document_by_name(block_name, block.get_block_type_slug())
    except ObjectNotFound as error:
        raise InputError(_missing(client, block, f"{what} {name}", there())) from error
    try:
        return block.model_validate(document.data)
    except ValidationError as error:
        raise InputError(
            f"{what} {name}: its block cannot be used: {_complaints(error)}. Fix it at {_page(client, document)}"
        ) from error


def _missing(client: SyncPrefectClient, block: type[SiteBlock], named: str, there: list[str]) -> str:
    """Return a message about a block that is not there: with those that are, best of the same name or kind."""
    what, _, name = named.partition(" ")
    kind, _, block_name = name.partition("/")
    same = [each for each in there if each.endswith(f"/{block_name}")] or [e for e in there if e.startswith(f"{kind}/")]
    advice = f"did you mean {' or '.join(same)}?" if same else f"there are {', '.join(there) or f'no {what}s at all'}."
    return (
        f"{named}: there is no such block on the Prefect server at {_url(client)}; {advice} To have it, create a "
        f"block of type {block.get_block_type_name()} with the name {block_name}; `surveyor blocks register` "
        "makes the types known, and says where"
    )


def stored_names(client: SyncPrefectClient, kinds: Mapping[str, type[SiteBlock]]) -> list[str]:
    """Return the names of the blocks of some kinds that a server has, such as `slurm/genoa`."""
    names = []
    for kind, block in kinds.items():
        try:
            documents = client.read_block_documents_by_type(block.get_block_type_slug())
            names += [f"{kind}/{document.name}" for document in documents]
        except PrefectHTTPStatusError as error:
            if error.response.status_code != NOT_FOUND:
                raise
            # The type is not registered.
    return names


def _complaints(error: ValidationError) -> str:
    return "; ".join(complaint_of(each) for each in error.errors())


def _page(client: SyncPrefectClient, document: BlockDocument) -> str:
    return f"{_url(client).removesuffix('/api')}/v2/blocks/block/{document.id}"


def _url(client: SyncPrefectClient) -> str:
    return str(client.api_url).rstrip("/")
