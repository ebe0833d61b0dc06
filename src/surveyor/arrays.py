"""Plain arrays in files, without pickles."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from surveyor.files import write_with


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write plain arrays by name (npz), as `write_atomically` does."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the names for its own options

    write_with(write, path)
