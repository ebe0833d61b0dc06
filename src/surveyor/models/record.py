"""The record beside the native file of a model: hyper-parameters, atomic energies, seed and versions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from surveyor.errors import InputError
from surveyor.files import read_json, write_json

SCHEMA_VERSION = 1
RECORD = "model.json"


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """The data needed in addition to the native file to load a model.

    Attributes:
        kind: name of the variant in `ModelParameters`.
        parameters: hyper-parameters as JSON.
        atomic_energies: energy in eV of the isolated atom by chemical symbol.
        seed: seed of the weights and the order of batches.
        versions: versions of the distributions that trained the model; for people.
    """

    kind: str
    parameters: Mapping[str, Any]  # Any: whatever JSON holds
    atomic_energies: Mapping[str, float]
    seed: int
    versions: Mapping[str, str] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write `model.json`."""
        write_json(directory / RECORD, {"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def load(cls, directory: Path) -> "ModelRecord":
        """Read `model.json`.

        Raises:
            InputError: there is none, or a newer surveyor wrote it.
        """
        path = directory / RECORD
        if not path.is_file():
            raise InputError(
                f"{directory} holds no model: expected {RECORD} in it; give a folder that surveyor saved a model to"
            )
        record = read_json(path)
        found = record.pop("schema_version")
        if found > SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {found}, this surveyor reads up to {SCHEMA_VERSION}; update surveyor"
            )
        return cls(**record)


def versions_of(distributions: Sequence[str]) -> dict[str, str]:
    """Return the installed versions of distributions."""
    return {name: version(name) for name in distributions}
