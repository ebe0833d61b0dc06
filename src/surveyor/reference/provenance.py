"""Where a label comes from."""

import hashlib
import socket
from collections.abc import Mapping
from typing import Any


def provenance(
    *, program: str, version: str, inputs: str, wall_time_s: float, scf_steps: int | None = None
) -> Mapping[str, Any]:  # Any: strings, numbers and None
    """Return what is kept beside a label or a failure.

    Args:
        program: what computed it.
        version: of the program, in full.
        inputs: all that the program was given, as text; its hash is kept.
        wall_time_s: how long it took, in seconds.
        scf_steps: steps to self-consistency, None where the program does not tell.
    """
    return {
        "program": program,
        "version": version,
        "inputs_sha256": hashlib.sha256(inputs.encode()).hexdigest(),
        "scf_steps": scf_steps,
        "wall_time_s": round(wall_time_s, 3),
        "host": socket.gethostname(),
    }
