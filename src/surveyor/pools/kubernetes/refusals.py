"""Meanings of refusals by the API server of Kubernetes: a missing permission, a quota, a fault, or a bad moment."""

import json
import re
from typing import Any

from surveyor.pools.machines import QueueSilent, Refused

PERMISSION = re.compile(r'cannot (\S+) resource "([^"]+)"')
QUOTA = "exceeded quota"
UNAUTHORIZED, FORBIDDEN, CONFLICT, TOO_MANY = 401, 403, 409, 429


def words_of(error: Any) -> str:  # Any: the client is untyped
    """Return the message of an `ApiException`."""
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        said = error.body or error.reason
    return str(said).strip()


def refusal_of(error: Any, what: str) -> Exception:  # Any: the client is untyped
    """Return the exception that matches a refusal by Kubernetes.

    Args:
        error: an `ApiException` of the client.
        what: what was asked, such as "to create a pod".
    """
    message = f"Kubernetes refused {what} ({error.status}): {words_of(error)}"
    if error.status in (CONFLICT, TOO_MANY) or not error.status or error.status >= 500:
        return QueueSilent(message)
    return Refused(f"{message}{_advice(error.status, message)}")


def _advice(status: int, message: str) -> str:
    if status == FORBIDDEN and (missing := PERMISSION.search(message)):
        return f". Give the role of that account the permission {missing[1]} on {missing[2]}"
    if status == FORBIDDEN and QUOTA in message:
        return ". Have that quota raised, or lower max_jobs of the pool or what a pod asks for"
    return ""
