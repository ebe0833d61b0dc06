"""Meanings of refusals by Amazon EC2: no capacity at present, a quota, a missing permission, or a fault."""

import re
from typing import Any

from surveyor.pools.machines import NoCapacity, QueueSilent, Refused

NO_CAPACITY = {
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
}
NOT_OFFERED = "Unsupported"  # by a zone; another one may have the type
PASSING = {"InternalError", "InternalFailure", "RequestLimitExceeded", "ServiceUnavailable", "Unavailable"}
PASSING |= {"RequestThrottled", "RequestThrottledException", "Throttling", "ThrottlingException"}
NO_PERMISSION = "UnauthorizedOperation"
ENCODED = re.compile(r"\s*Encoded authorization failure message: \S+")  # for those who may decode it
PERMISSION = re.compile(r"not authorized to perform: (\S+)")

# The quotas on cores of instances on demand, by the first letters of their types.
QUOTAS = {
    "p": "Running On-Demand P instances (L-417A185B)",
    "g": "Running On-Demand G and VT instances (L-DB2E81BA)",
    "vt": "Running On-Demand G and VT instances (L-DB2E81BA)",
    "dl": "Running On-Demand DL instances (L-6E869C2A)",
    "f": "Running On-Demand F instances (L-74FC7D96)",
    "hpc": "Running On-Demand HPC instances (L-F7808C92)",
    "inf": "Running On-Demand Inf instances (L-1945791B)",
    "trn": "Running On-Demand Trn instances (L-2C3B7624)",
    "u": "Running On-Demand High Memory instances (L-43DA4232)",
    "x": "Running On-Demand X instances (L-7295265B)",
}
STANDARD = "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances (L-1216C47A)"


def code_of(error: Any) -> str:  # Any: botocore is untyped
    """Return the code of a `ClientError` of botocore."""
    return str(error.response["Error"].get("Code", ""))


def refusal_of(error: Any, instance_type: str = "") -> Exception:  # Any: botocore is untyped
    """Return the exception that matches a refusal by EC2.

    Args:
        error: a `ClientError` of botocore.
        instance_type: type of the instance that was asked for.
    """
    said, operation = error.response["Error"], error.operation_name
    code, message = code_of(error), ENCODED.sub("", str(said.get("Message", "")))
    text = f"EC2 refused {operation}{f' of {instance_type}' if instance_type else ''} ({code}): {message}"
    if code in NO_CAPACITY or code == NOT_OFFERED:
        return NoCapacity(text, is_offered=code != NOT_OFFERED)
    if code in PASSING:
        return QueueSilent(text)
    if code == NO_PERMISSION:
        missing = PERMISSION.search(message)
        return Refused(f"{text} Give the credentials the permission {missing[1] if missing else f'ec2:{operation}'}")
    if code.endswith("LimitExceeded") or code == "MaxSpotInstanceCountExceeded":
        return Refused(f"{text} {_advice_on_quota(code, instance_type)}")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    return QueueSilent(text) if status >= 500 else Refused(text)


def _advice_on_quota(code: str, instance_type: str) -> str:
    if code != "VcpuLimitExceeded":
        return f"Raise that quota ({code}) in Service Quotas, or lower max_jobs of the pool"
    family = re.match(r"[a-z]+", instance_type)
    quota = QUOTAS.get(family[0] if family else "", STANDARD)
    return f"Raise the quota {quota} in Service Quotas, or lower max_jobs of the pool"
