"""Wavefunctions of finished labels, from which the labels of similar structures can start.

They are stored beside the calculations, visible to all workers of the labelling pool, in one folder for each input,
composition and charge. Each has a small file with its cell and positions. A wavefunction is only an initial guess: the
SCF runs until it has converged, and a missing or damaged wavefunction only costs a cold start. Nothing
here is therefore forced to disk.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from surveyor.files import temporary_beside
from surveyor.labels import Label
from surveyor.reference.cp2k_input import WAVEFUNCTION, CP2KInput, sections_of
from surveyor.reference.cp2k_repair import AT_A_LIMIT, WARM, WARM_START, Trial, without_solver
from surveyor.structures import charge_of, is_periodic, kinds_of, multiplicity_of

logger = logging.getLogger(__name__)

FOLDER = "wavefunctions"
SUFFIX, GEOMETRY = ".wfn", ".geometry"  # a wavefunction, and what it belongs to
START = re.compile(r"^\s*WFN_RESTART_FILE_NAME from-(\w+)\.wfn$", re.MULTILINE)
CELL_TOLERANCE = 0.05  # largest component of the strain between two cells of one shape: the strain of a bootstrap
MOST_KEPT = 1000  # all are looked at before each label
GB = 1e9
FLOAT = np.dtype("<f8")


def begin_warm(given: CP2KInput, atoms: Atoms, directory: Path, working: Path) -> str | None:
    """Lay the wavefunction of the nearest structure ready; return the name of its file, None for a cold start."""
    if not has_one_state(given, atoms):
        return None
    folder = folder_for(given, atoms, directory)
    name = nearest(folder, atoms)
    if name is None:
        return None
    (working / WARM).mkdir(exist_ok=True)
    # A copy, as another worker may make room meanwhile.
    return start_file(name) if _copy(folder, name, working / WARM / start_file(name)) else None


def keep_wavefunction(
    given: CP2KInput, atoms: Atoms, trials: Sequence[Trial], directory: Path, limit_GB: float
) -> None:
    """Keep the wavefunction of a label for those of other structures, and remove one that turned out to be damaged."""
    if not has_one_state(given, atoms):
        return
    folder = folder_for(given, atoms, directory)
    for trial in trials:
        outcome = trial.outcome
        if isinstance(outcome, Label):
            keep(trial.folder / WAVEFUNCTION, folder, _name_in(directory), atoms, limit_GB)
        elif trial.rung == WARM_START and outcome.reason not in (*AT_A_LIMIT, "scf_not_converged"):
            name = outcome.provenance["began_from"]
            logger.warning("CP2K could not begin from %s/%s, which is removed (%s)", folder, name, outcome.reason)
            drop(folder, name)


def has_one_state(given: CP2KInput, atoms: Atoms) -> bool:
    """Return whether the label of a structure does not depend on where its SCF begins.

    Open shells may converge to one of several states, and integrals that are screened by the first density matrix
    depend on it.
    """
    is_open = multiplicity_of(atoms) > 1 or bool(given.dft.get("UKS") or given.dft.get("ROKS"))
    return not is_open and not any(section.get("SCREEN_ON_INITIAL_P") for _, section in sections_of(given.force_eval))


def folder_for(given: CP2KInput, atoms: Atoms, directory: Path) -> Path:
    """Return the folder of the wavefunctions that suit a structure, whatever its cell."""
    content = [without_solver(given.force_eval), kinds_of(atoms), charge_of(atoms), is_periodic(atoms)]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return directory.parent / FOLDER / digest[:16]


def start_file(name: str) -> str:
    """Return the name of a wavefunction in the calculation that starts from it, so that the input names its origin."""
    return f"from-{name}{SUFFIX}"


def start_in(text: str) -> str | None:
    """Return the name of the wavefunction from which an input begins, None where it begins from atoms."""
    found = START.search(text)
    return found[1] if found else None


def nearest(folder: Path, atoms: Atoms) -> str | None:
    """Return the name of the wavefunction of the structure nearest to a structure; None if there is none.

    The distance is the root mean square displacement, between nearest images for periodic structures. A
    common translation of all atoms is ignored, because it changes no coefficient of a wavefunction. Cells of another
    shape are left out.
    """
    names, geometries = _geometries(folder, len(atoms))
    (chosen,) = _are_of_one_shape(atoms, geometries[:, :3]).nonzero()
    distances = _distances(atoms, geometries[chosen])
    return names[chosen[np.nanargmin(distances)]] if np.isfinite(distances).any() else None


def _geometries(folder: Path, n_atoms: int) -> tuple[list[str], np.ndarray]:
    """Return names, and three cell vectors above the positions in Å for each, shape (n, 3 + n_atoms, 3)."""
    shape, n_bytes = (3 + n_atoms, 3), FLOAT.itemsize * 3 * (3 + n_atoms)
    found: dict[str, bytes] = {}
    for file in folder.glob(f"[!.]*{GEOMETRY}"):  # without those being written
        with suppress(OSError):  # another worker has made room, or it is another user's
            content = _content_of(file)
            if len(content) == n_bytes:
                found[file.stem] = content
    return list(found), np.frombuffer(b"".join(found.values()), FLOAT).reshape(-1, *shape)


@lru_cache(maxsize=2 * MOST_KEPT)
def _content_of(file: Path) -> bytes:
    """Read a geometry once in each worker: it does not change, and to open a thousand files takes 0.1 s."""
    return file.read_bytes()


def _are_of_one_shape(atoms: Atoms, cells: np.ndarray) -> np.ndarray:
    if not is_periodic(atoms):  # the box follows the atoms
        return np.full(len(cells), True)
    strains = np.linalg.inv(atoms.cell.array) @ cells - np.eye(3)
    return np.abs(strains).max(axis=(1, 2)) <= CELL_TOLERANCE  # type: ignore[no-any-return]


def _distances(atoms: Atoms, geometries: np.ndarray) -> np.ndarray:
    moved = geometries[:, 3:] - atoms.positions
    if is_periodic(atoms):
        # In the lattice vectors that are nearest to orthogonal, rounding gives the nearest image. Cells that differ a
        # little are laid over each other.
        cell, operation = minkowski_reduce(atoms.cell.array)
        moved = _fractional(geometries[:, 3:], operation @ geometries[:, :3]) - _fractional(atoms.positions, cell)
        moved = (moved - np.round(moved)) @ cell
    moved -= moved.mean(axis=1, keepdims=True)
    return np.sqrt((moved**2).sum(axis=2).mean(axis=1))  # type: ignore[no-any-return]


def _fractional(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    return positions @ np.linalg.inv(cells)


def _copy(folder: Path, name: str, path: Path) -> bool:
    try:
        shutil.copyfile(folder / f"{name}{SUFFIX}", path)
    except FileNotFoundError:
        drop(folder, name)
        return False
    except OSError as error:
        logger.warning("the wavefunction %s in %s cannot be taken, which costs a cold start: %s", name, folder, error)
        return False
    return True


def _name_in(directory: Path) -> str:
    """Return the first digits of the key of a label, with which the name of its calculation begins."""
    return re.sub(r"\W", "_", directory.name.partition("-")[0])


def keep(wavefunction: Path, folder: Path, name: str, atoms: Atoms, limit_GB: float) -> None:
    """Move a wavefunction to the others, and make room for it: the oldest go first.

    Args:
        wavefunction: file that CP2K has left; there is none with k-points.
        folder: folder of the wavefunctions that suit the structure.
        name: name of the wavefunction there.
        atoms: the structure.
        limit_GB: total size of the wavefunctions in all folders.
    """
    if not wavefunction.exists():
        return
    geometry = np.vstack([atoms.cell.array, atoms.positions]).astype(FLOAT).tobytes()
    try:
        with temporary_beside(folder / f"{name}{SUFFIX}") as temporary:
            shutil.move(wavefunction, temporary)
            temporary.replace(folder / f"{name}{SUFFIX}")
        with temporary_beside(folder / f"{name}{GEOMETRY}") as temporary:
            temporary.write_bytes(geometry)
            temporary.replace(folder / f"{name}{GEOMETRY}")
        _make_room(folder.parent, limit_GB)
    except OSError as error:  # the label is there all the same
        logger.warning("the wavefunction of %s could not be kept in %s: %s", name, folder, error)


def _make_room(folder: Path, limit_GB: float) -> None:
    found: list[tuple[float, int, Path]] = []
    for file in folder.glob(f"*/*{SUFFIX}"):
        with suppress(FileNotFoundError):
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    found.sort(reverse=True)
    totals = accumulate(size for _, size, _ in found)
    for number, (total, (_, _, file)) in enumerate(zip(totals, found, strict=True)):
        if number >= MOST_KEPT or total > limit_GB * GB:
            drop(file.parent, file.stem)


def drop(folder: Path, name: str) -> None:
    """Remove a wavefunction; its geometry first, so that it is no longer found."""
    with suppress(OSError):  # it is another user's
        for suffix in (GEOMETRY, SUFFIX):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
