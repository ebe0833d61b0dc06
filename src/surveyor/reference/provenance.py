"""The provenance of labels and failures."""

import hashlib
import socket
from collections.abc import Mapping
from typing import Any


def provenance(
    *, program: str, version: str, inputs: str, wall_time_s: float, scf_steps: int | None = None
) -> Mapping[str, Any]:  # Any: strings, numbers and None
    """Return the provenance to store with a label or a failure.

    Args:
        program: name of the program.
        version: full version of the program.
        inputs: complete input of the program as text; its hash is stored.
        wall_time_s: wall time in seconds.
        scf_steps: number of SCF steps, or None if unknown.
    """
    return {
        "program": program,
        "version": version,
        "inputs_sha256": hashlib.sha256(inputs.encode()).hexdigest(),
        "scf_steps": scf_steps,
        "wall_time_s": round(wall_time_s, 3),
        "host": socket.gethostname(),
    }
