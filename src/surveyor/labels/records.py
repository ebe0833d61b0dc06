"""Records as JSON: their hash, and the version of their form."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from surveyor.errors import InputError

SCHEMA_VERSION = 1


def hash_of(content: Mapping[str, Any]) -> str:  # Any: whatever JSON holds
    """Return the hash of JSON values, hexadecimal; it does not depend on the order of the keys."""
    return hashlib.sha256(
        json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def read_record(content: bytes, key: str) -> dict[str, Any]:  # Any: whatever JSON holds
    """Return the values of a record.

    Args:
        content: the record as JSON.
        key: name of the record in messages.

    Raises:
        InputError: a later version of surveyor has written it.
    """
    record: dict[str, Any] = json.loads(content)
    if record["schema_version"] > SCHEMA_VERSION:
        raise InputError(
            f"the record of {key} has schema version {record['schema_version']}, "
            f"this surveyor reads up to {SCHEMA_VERSION}; update surveyor"
        )
    return record
