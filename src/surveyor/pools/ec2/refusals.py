"""Meanings of refusals by Amazon EC2: no capacity at present, a quota, a missing permission, or a fault."""

import re
from collections.abc import Mapping
from typing import Any

from surveyor.pools.machines import NoCapacity, QueueSilent, Refused

# See "Error codes for the Amazon EC2 API" in its reference.
NO_CAPACITY = {
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientHostCapacity",
    "InsufficientInstanceCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientVolumeCapacity",
    "SpotMaxPriceTooLow",  # the spot price is above the price on demand, the most that a request pays by default
    "UnfulfillableCapacity",
}
NOT_OFFERED = {"Unsupported", "VolumeTypeNotAvailableInZone"}  # by a zone; another one may have it
PASSING = {"InternalError", "InternalFailure", "RequestLimitExceeded", "ServiceUnavailable", "Unavailable"}
PASSING |= {"RequestThrottled", "RequestThrottledException", "Throttling", "ThrottlingException"}
PASSING |= {"EC2ThrottledException"}
QUOTA = re.compile(r"(LimitExceeded|CountExceeded|VolumeIOPSLimit)$")
# Why an instance ended that EC2 had accepted; see "StateReason" there.
LATE_SHORTAGE = "Server.InsufficientInstanceCapacity"
LATE_FAULTS = {"Client.InternalError", "Client.InvalidSnapshot.NotFound", "Client.VolumeLimitExceeded"}
NO_PERMISSION = "UnauthorizedOperation"
ENCODED = re.compile(r"\s*Encoded authorization failure message: \S+")  # for those who may decode it
PERMISSION = re.compile(r"not authorized to perform: (\S+)")

# The quotas on cores of instances on demand and of spot instances, by the first letters of their types.
QUOTAS = {
    "p": "Running On-Demand P instances (L-417A185B)",
    "g": "Running On-Demand G and VT instances (L-DB2E81BA)",
    "gr": "Running On-Demand G and VT instances (L-DB2E81BA)",
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
SPOT_QUOTAS = {
    "p": "on P spot instances (All P4, P3 and P2 Spot Instance Requests, L-7212CCBC, or that of the newer types)",
    "g": "All G and VT Spot Instance Requests (L-3819A6DF)",
    "gr": "All G and VT Spot Instance Requests (L-3819A6DF)",
    "vt": "All G and VT Spot Instance Requests (L-3819A6DF)",
    "dl": "All DL Spot Instance Requests (L-85EED4F7)",
    "f": "All F Spot Instance Requests (L-88CF9481)",
    "inf": "All Inf Spot Instance Requests (L-B5D1601B)",
    "trn": "All Trn Spot Instance Requests (L-6B0D517C)",
    "x": "All X Spot Instance Requests (L-E3A00192)",
}
SPOT_STANDARD = "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests (L-34B43A08)"
OF_CORES = {"VcpuLimitExceeded": (QUOTAS, STANDARD), "MaxSpotInstanceCountExceeded": (SPOT_QUOTAS, SPOT_STANDARD)}


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
    if code in NO_CAPACITY or code in NOT_OFFERED:
        return NoCapacity(text, is_offered=code not in NOT_OFFERED)
    if code in PASSING:
        return QueueSilent(text)
    if code == NO_PERMISSION:
        missing = PERMISSION.search(message)
        return Refused(f"{text} Give the credentials the permission {missing[1] if missing else f'ec2:{operation}'}")
    if QUOTA.search(code):
        return Refused(f"{text} {_advice_on_quota(code, instance_type)}")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
    return QueueSilent(text) if status >= 500 else Refused(text)


def late_refusal(reason: Mapping[str, str], instance_type: str) -> Exception | None:
    """Return the refusal by which an instance ended that EC2 had accepted; None if it ended for another reason.

    Args:
        reason: state reason of the instance.
        instance_type: its type.
    """
    code = reason.get("Code", "")
    text = f"EC2 refused {instance_type} after it had accepted it: {reason.get('Message') or code}"
    if code == LATE_SHORTAGE:
        return NoCapacity(text)
    if code not in LATE_FAULTS:
        return None
    name = code.removeprefix("Client.")
    return Refused(f"{text}. {_advice_on_quota(name, instance_type)}" if QUOTA.search(name) else text)


def _advice_on_quota(code: str, instance_type: str) -> str:
    if code not in OF_CORES:
        return f"Raise that quota ({code}) in Service Quotas, or lower max_jobs of the pool"
    quotas, standard = OF_CORES[code]
    family = re.match(r"[a-z]+", instance_type)
    quota = quotas.get(family[0] if family else "", standard)
    return f"Raise the quota {quota} in Service Quotas, or lower max_jobs of the pool"
