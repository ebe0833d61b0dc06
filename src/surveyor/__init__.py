"""Machine-learned interatomic potentials by online learning.

This package is the domain: it imports neither Prefect nor torch. The tasks and flows that orchestrate it are in
`surveyor.tasks` and `surveyor.flows`.

The public names are those of `__init__.pyi`, which type checkers read. Each is imported when it is first used.
"""

import logging
import re
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_PUBLIC = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)
_MODULES = {name: module for module, name in _PUBLIC.findall(Path(__file__).with_suffix(".pyi").read_text())}
__all__ = sorted(_MODULES)

# Prefect relays the records of a package from the package's own level on: without one, nothing below WARNING is shown.
logging.getLogger(__name__).setLevel(logging.INFO)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
