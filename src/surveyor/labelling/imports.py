"""Labels that were computed elsewhere, brought into a store under a level of theory that the user states."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress

from surveyor.campaign.beginnings import check_given_label
from surveyor.dataset import with_label
from surveyor.errors import InputError
from surveyor.labelling.requests import make_requests
from surveyor.labels import Label, LabelStore, LevelOfTheory, load_theory
from surveyor.learning import structure_error
from surveyor.parameter_files import absolute_paths, parse_parameters, read_fields
from surveyor.parameters import Parameters
from surveyor.potentials import Prediction
from surveyor.reading.images import read_images
from surveyor.reading.suspicions import SAME_ENERGY_MEV, SAME_FORCES_MEV
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.reference import Reference
from surveyor.structures import is_periodic

N_SHOWN = 8  # complaints in a message; a file that is wrong is often wrong in each of its structures


class _Stated(Parameters):
    reference: ReferenceParameters
    codes: Codes = Codes()


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """Labels that a file holds, each checked.

    Attributes:
        path: the file.
        structures: in its order, in canonical coordinates.
        keys: of the labels.
        labels: one for each structure.
    """

    path: Path
    structures: Sequence[Atoms]
    keys: Sequence[str]
    labels: Sequence[Label]


@dataclass(frozen=True, slots=True)
class ImportedLabels:
    """What came of an import.

    Attributes:
        n_new: labels that are in the store since.
        n_present: labels that the store had already, which stay as they were.
        n_repeated: labels that the file holds a second time.
        differing: numbers of the structures whose label in the store is another one.
    """

    n_new: int
    n_present: int
    n_repeated: int
    differing: tuple[int, ...]


def stated_theory(path: Path) -> tuple[LevelOfTheory, Reference | None]:
    """Return a level of theory that a user states, and the reference that computes it, where the file has one.

    Args:
        path: `level_of_theory.json` of a campaign or a labelling, or a YAML file with `reference` and maybe `codes`,
            such as the file of a campaign, which is resolved here.

    Raises:
        InputError: the file is missing or holds something else, or the reference cannot be computed here.
    """
    if not path.is_file():
        raise InputError(f"level of theory: file {path} does not exist")
    if path.suffix == ".json":
        try:
            return load_theory(path), None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"level of theory: {path} is no file level_of_theory.json of a campaign or a labelling: {error!r}"
            ) from error
    fields = read_fields(path, "level of theory: file", "reference")
    stated = parse_parameters(
        _Stated, {name: fields[name] for name in _Stated.model_fields if name in fields}, str(path)
    )
    stated = absolute_paths(stated, path.absolute().parent)
    reference = make_reference(stated.reference, stated.codes)
    return reference.resolve(), reference


def read_labels(path: Path, theory: LevelOfTheory, prefix: str = "REF_") -> GivenLabels:
    """Read labelled structures, and check each of them.

    Args:
        path: extxyz file, or another that ASE reads.
        theory: at which they were labelled.
        prefix: of the names `energy` (eV), `forces` (eV/Å) and `stress` (eV/Å³, ASE's sign; six Voigt components or
            a 3x3 matrix); without a prefix, what ASE takes for the results of a calculator.

    Raises:
        InputError: a structure has no label, a wrong one, or could have none; names those structures.
    """
    images = read_images(path)
    requests = make_requests(images, theory)
    labels: list[Label] = []
    complaints = {index: failure.message for index, failure in requests.refused.items()}
    for index, atoms in enumerate(images):
        try:
            labels.append(_label_in(atoms, prefix))
        except InputError as error:
            complaints.setdefault(index, f"structure {index}: {error}")
    if not complaints:
        complaints = dict(_contradictions(requests.structures, requests.keys, labels))
    if complaints:
        lines = [f"  {complaints[index]}" for index in sorted(complaints)[:N_SHOWN]]
        more = [f"  and {len(complaints) - N_SHOWN} more"] if len(complaints) > N_SHOWN else []
        raise InputError("\n".join([f"{path} cannot be imported, nothing was written:", *lines, *more]))
    return GivenLabels(path, requests.structures, [key for key in requests.keys if key is not None], labels)


def _label_in(atoms: Atoms, prefix: str) -> Label:
    if prefix:
        values: Mapping[str, Any] = {**atoms.info, **atoms.arrays}  # Any: whatever the file holds
    else:
        values = {} if atoms.calc is None else atoms.calc.results
    energy = values.get("free_energy", values.get("energy")) if not prefix else values.get(f"{prefix}energy")
    forces, stress = values.get(f"{prefix}forces"), values.get(f"{prefix}stress")
    if energy is None or forces is None:
        raise InputError(f"there is no label; expected {prefix}energy (eV) and {prefix}forces (eV/Å)")
    if stress is not None and not is_periodic(atoms):
        raise InputError(f"{prefix}stress belongs to three periodic directions, found pbc {atoms.pbc.tolist()}")
    try:
        label = Label(float(energy), np.array(forces, dtype=float), None if stress is None else _voigt(stress))
    except (TypeError, ValueError) as error:
        raise InputError(f"the label is not made of numbers: {error}") from error
    if not label.is_complete_for(atoms):
        raise InputError(
            "the label has numbers that are not finite, or another shape; expected one energy, three forces for each "
            "atom, and six components of the stress or none"
        )
    return label


def _voigt(stress: Any) -> np.ndarray:  # Any: what ASE's readers make of it
    values = np.array(stress, dtype=float)
    if values.size != 9:
        return values
    matrix = values.reshape(3, 3)
    if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-8):
        raise ValueError(f"the stress {matrix.tolist()} is not symmetric")
    return np.array(full_3x3_to_voigt_6_stress(matrix), dtype=float)


def _contradictions(
    structures: Sequence[Atoms], keys: Sequence[str | None], labels: Sequence[Label]
) -> Iterator[tuple[int, str]]:
    first: dict[str | None, int] = {}
    for index, key in enumerate(keys):
        other = first.setdefault(key, index)
        if other != index and not _agree(structures[index], labels[index], labels[other]):
            yield index, f"structure {index} is the same as structure {other}, but has another label"


def _agree(atoms: Atoms, one: Label, other: Label) -> bool:
    """Say whether two labels of a structure agree as computations of one level of theory do."""
    error = structure_error(with_label(atoms, None, one), Prediction(other.energy, other.forces))
    return not error.exceeds(SAME_ENERGY_MEV, SAME_FORCES_MEV)


def check_labels(given: GivenLabels, reference: Reference, theory: LevelOfTheory, n_checked: int) -> None:
    """Compute some of the labels, spread over the file, and compare.

    Args:
        given: labels.
        reference: computes them here.
        theory: its level of theory.
        n_checked: how many to compute.

    Raises:
        InputError: one disagrees.
    """
    n_labels = len(given.labels)
    for index in np.unique(np.linspace(0, n_labels - 1, min(n_checked, n_labels)).round().astype(int)):
        atoms, key = given.structures[index], given.keys[index]
        with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
            outcome = reference.compute(theory.with_electrons(atoms), Path(folder))
        name = f"structure {index} of {given.path}"
        check_given_label(with_label(atoms, key, given.labels[index]), with_label(atoms, key, outcome), name)


def import_labels(
    given: GivenLabels, theory: LevelOfTheory, store: LabelStore, source: Mapping[str, Any]
) -> ImportedLabels:
    """Put labels into a store; what it has already stays as it is.

    Args:
        given: labels.
        theory: at which they were computed.
        store: where to.
        source: where they come from, for their provenance; Any: whatever JSON holds.
    """
    new: set[str] = set()
    present: set[str] = set()
    differing = []
    for index, (atoms, key, label) in enumerate(zip(given.structures, given.keys, given.labels, strict=True)):
        if key in new | present:
            continue
        if store.put(key, atoms, theory, replace(label, provenance={"imported": True, **source})):
            new.add(key)
            continue
        present.add(key)
        kept = store.get(key)
        if kept is not None and not _agree(atoms, label, kept):
            differing.append(index)
    n_repeated = len(given.keys) - len(new) - len(present)
    return ImportedLabels(len(new), len(present), n_repeated, tuple(differing))
