"""Meanings of refusals by Google Compute Engine: no capacity at present, a quota, a missing permission, or a fault."""

import re
from collections.abc import Mapping
from typing import Any

from surveyor.pools.machines import NoCapacity, QueueSilent, Refused

NO_CAPACITY = re.compile(
    r"RESOURCE_POOL_EXHAUSTED|IP_SPACE_EXHAUSTED|STOCKOUT|INSUFFICIENT_CAPACITY|does not have enough resources",
    re.IGNORECASE,
)
NOT_OFFERED = re.compile(r"machine ?types?/.*(not found|does not exist)|acceleratorTypes/.*not found", re.IGNORECASE)
QUOTA = re.compile(r"quota ?'?([A-Z_]+)?'? ?exceeded|QUOTA_EXCEEDED|quotaExceeded", re.IGNORECASE)
NAMED_QUOTA = re.compile(r"Quota '([^']+)' exceeded")
PASSING = re.compile(r"rateLimitExceeded|userRateLimitExceeded|backendError|INTERNAL_ERROR")
PERMISSION = re.compile(r"Required '([^']+)' permission")
UNAUTHORIZED, TOO_MANY = 401, 429


def refusal_of(status: int, error: Mapping[str, Any], what: str) -> Exception:  # Any: as Google gives it
    """Return the exception that matches a refusal by Compute Engine.

    Args:
        status: HTTP status of the answer; 200 for an operation that failed later.
        error: the field `error` of an answer or of an operation.
        what: what was asked, such as "to create an instance".
    """
    details = [each for each in error.get("errors", []) if isinstance(each, Mapping)]
    codes = ", ".join(dict.fromkeys(str(each.get("code") or each.get("reason") or "") for each in details))
    words = "; ".join(dict.fromkeys(str(each.get("message", "")) for each in details)) or str(error.get("message", ""))
    message = f"Compute Engine refused {what} ({codes or status}): {words}"
    if NO_CAPACITY.search(message):
        return NoCapacity(message)
    if NOT_OFFERED.search(message):
        return NoCapacity(message, is_offered=False)
    if PASSING.search(message) or status == TOO_MANY or status >= 500:
        return QueueSilent(message)
    return Refused(f"{message}{_advice(message)}")


def _advice(message: str) -> str:
    if missing := PERMISSION.search(message):
        return f" Give the credentials the permission {missing[1]}"
    if QUOTA.search(message):
        named = NAMED_QUOTA.search(message)
        return f" Have the quota{f' {named[1]}' if named else ''} raised, or lower max_jobs of the pool"
    return ""
