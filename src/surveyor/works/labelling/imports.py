"""Import of labels that were computed elsewhere, under a level of theory that the user states."""

import shlex
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from surveyor.dataset import Dataset, label_of, with_label
from surveyor.dataset.isolated_atoms import CONFIG_TYPE, energies_of, is_isolated_atom, is_stated, named
from surveyor.dataset.metrics import structure_error
from surveyor.dataset.weights import counts, is_counted, weighted_properties
from surveyor.errors import InputError
from surveyor.labels import Label, LabelFailure, LabelStore, LevelOfTheory, load_theory
from surveyor.parameters import Parameters
from surveyor.parameters.files import absolute_paths, parse_parameters, read_fields
from surveyor.reading import GIVEN_DATA, Finding, ReadingReport
from surveyor.reading.identity import copies, copies_that_share
from surveyor.reading.keys import REF_KEYS, LabelKeys, Suggestion
from surveyor.reading.labels import read_label
from surveyor.reading.reading import read_in_steps
from surveyor.reading.suspicions import (
    SAME_ENERGY_MEV,
    SAME_FORCES_MEV,
    electrons_of,
    findings_of,
    suspicions_of,
)
from surveyor.reference.choice import Codes, ReferenceParameters, make_reference
from surveyor.reference.reference import Reference
from surveyor.works.checks import check_given_label
from surveyor.works.labelling.requests import Requests, make_requests

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
        indices: of the structures in the file.
        report: on the reading.
        suspicious: numbers of the labels, from 0, that are probably mistakes.
    """

    path: Path
    structures: Sequence[Atoms]
    keys: Sequence[str]
    labels: Sequence[Label]
    indices: Sequence[int]
    report: ReadingReport
    suspicious: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ImportedLabels:
    """The outcome of an import.

    Attributes:
        n_new: number of new labels in the store.
        n_present: number of labels that were already in the store, which remain unchanged.
        n_repeated: number of repeated labels in the file.
        differing: numbers of the structures whose label in the store is different.
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
        _Stated, {name: fields[name] for name in _Stated.model_fields if name in fields}, str(path), path
    )
    stated = absolute_paths(stated, path.absolute().parent)
    reference = make_reference(stated.reference, stated.codes)
    return reference.resolve(), reference


def read_labels(path: Path, theory: LevelOfTheory, keys: LabelKeys = REF_KEYS) -> GivenLabels:
    """Read labelled structures, and check each of them; those whose energy or forces have weight 0 are left out.

    Labels that are probably mistakes are warned of, as before a training.

    Args:
        path: extxyz file, or another that ASE reads.
        theory: at which they were labelled.
        keys: names of the labels in the file.

    Raises:
        InputError: a structure has no label, a wrong one, or could have none; names those structures. Or none is left,
            or isolated atoms contradict each other.
    """
    step = partial(read_label, keys=keys, advice=as_options)
    reading = read_in_steps(path, (*GIVEN_DATA, step), keeps_refused=True)
    requests = make_requests(reading.structures, theory, known=reading.refused)
    kept = {i: atoms for i, atoms in enumerate(reading.structures) if i in reading.refused or _is_trusted(atoms)}
    labels = _checked_labels(path, kept, requests)
    isolated = _isolated_atoms({index: kept[index] for index in labels}, path)
    suspicions = _suspicions([kept[index] for index in labels], [*labels])
    report = reading.report.with_use_of(CONFIG_TYPE) if any(map(is_stated, isolated)) else reading.report
    return GivenLabels(
        path,
        [requests.structures[index] for index in labels],
        [str(requests.keys[index]) for index in labels],
        [*labels.values()],
        tuple(labels),
        report.with_findings(*_findings(reading.structures), *suspicions.findings),
        suspicions.numbers,
    )


def _checked_labels(path: Path, kept: Mapping[int, Atoms], requests: Requests) -> dict[int, Label]:
    """Return the labels of structures by index; refuse the file if one is missing or wrong, or two contradict."""
    complaints = {index: requests.refused[index].message for index in kept if index in requests.refused}
    labels = {} if complaints else {index: label_of(atoms) for index, atoms in kept.items()}
    complaints = complaints or dict(_contradictions(requests, labels))
    if complaints:
        lines = [f"  {complaints[index]}" for index in sorted(complaints)[:N_SHOWN]]
        more = [f"  and {len(complaints) - N_SHOWN} more"] if len(complaints) > N_SHOWN else []
        raise InputError("\n".join([f"{path} cannot be imported, nothing was written:", *lines, *more]))
    if not kept:
        raise InputError(f"{path} cannot be imported: the labels of all structures have weight 0")
    return labels


@dataclass(frozen=True, slots=True)
class _Suspicions:
    findings: Sequence[Finding] = ()
    numbers: Sequence[int] = ()  # of labels that are probably mistakes


def _suspicions(structures: Sequence[Atoms], indices: Sequence[int]) -> _Suspicions:
    """Look for labels that are probably mistakes, as before a training."""
    numbers = np.array([number for number, atoms in enumerate(structures) if not is_isolated_atom(atoms)], dtype=int)
    bound = [structures[number] for number in numbers]
    electrons = np.array([electrons_of(atoms) for atoms in bound]).reshape(-1, 2)
    found = suspicions_of(bound, copies_that_share(copies(bound), *electrons.T), of_labels_alone=True)
    of_labels = [each.is_suspicious for each in found if each.is_of_label]
    suspicious = numbers[np.any(of_labels, axis=0)] if of_labels else ()
    findings = findings_of(found, {"": np.array(indices)[numbers]})[""]
    return _Suspicions(findings, tuple(map(int, suspicious)))


def _isolated_atoms(structures: Mapping[int, Atoms], path: Path) -> Collection[Atoms]:
    """Return the isolated atoms, for use by trainings."""
    isolated = named(structures, str(path))
    try:
        energies_of(isolated)
    except InputError as error:
        raise InputError(f"{path} cannot be imported, nothing was written: {error}") from error
    return isolated.values()


def as_options(keys: Suggestion) -> str:
    """Return names of labels as options of `surveyor labels import`."""
    return " ".join(
        f"--prefix {shlex.quote(value)}" if name == "prefix" else f"--key {shlex.quote(f'{name}={value}')}"
        for name, value in keys.items()
    )


def _is_trusted(atoms: Atoms) -> bool:
    return counts(atoms, "energy") and counts(atoms, "forces")


def _findings(structures: Sequence[Atoms]) -> Iterator[Finding]:
    """Yield the findings on weights."""
    partly = [index for index, atoms in enumerate(structures) if is_counted(atoms) and not _is_trusted(atoms)]
    if partly:
        yield Finding("the weight of the energy, or that of the forces, is 0: not imported", len(partly), partly[0])
    weighted = [
        index for index, atoms in enumerate(structures) if _is_trusted(atoms) and weighted_properties(Dataset([atoms]))
    ]
    if weighted:
        yield Finding("weights are no part of a label: they stay behind", len(weighted), weighted[0])


def _contradictions(requests: Requests, labels: Mapping[int, Label]) -> Iterator[tuple[int, str]]:
    first: dict[str | None, int] = {}
    for index, label in labels.items():
        other = first.setdefault(requests.keys[index], index)
        if other != index and not _agree(requests.structures[index], label, labels[other]):
            yield index, f"structure {index} is the same as structure {other}, but has another label"


def _agree(atoms: Atoms, one: Label, other: Label) -> bool:
    """Return whether two labels of a structure agree as computations of one level of theory do."""
    return not structure_error(with_label(atoms, None, one), other).exceeds(SAME_ENERGY_MEV, SAME_FORCES_MEV)


def check_labels(given: GivenLabels, reference: Reference, theory: LevelOfTheory, n_checked: int) -> None:
    """Compute some of the labels, suspicious ones first, and compare.

    Raises:
        InputError: one disagrees, or cannot be computed here.
    """
    for number in _to_check(given, n_checked):
        atoms, key = given.structures[number], given.keys[number]
        with tempfile.TemporaryDirectory(prefix="surveyor-") as folder:
            outcome = reference.compute(theory.with_electrons(atoms), Path(folder))
        name = f"structure {given.indices[number]} of {given.path}"
        if isinstance(outcome, LabelFailure):
            raise InputError(
                f"{name}: the reference fails here on a structure that has a label ({outcome.reason}: "
                f"{outcome.message}); correct that, or leave out the comparison with --check 0"
            )
        check_given_label(with_label(atoms, key, given.labels[number]), with_label(atoms, key, outcome), name)


def _to_check(given: GivenLabels, n_checked: int) -> list[int]:
    """Return which labels are computed: suspicious ones of few atoms, and then others.

    These are several, spread over the file, or one of few atoms, but more than one.
    """
    if n_checked == 0:
        return []
    sizes = [len(atoms) for atoms in given.structures]
    chosen = sorted(given.suspicious, key=lambda i: sizes[i])[:n_checked]
    others = [i for i in range(len(sizes)) if i not in {*chosen}]
    n = min(n_checked - len(chosen), len(others))
    if n_checked == 1 and n == 1:
        return [min(others, key=lambda i: (sizes[i] == 1, sizes[i]))]
    return chosen + [others[int(i)] for i in np.unique(np.linspace(0, len(others) - 1, n).round().astype(int))]


def import_labels(
    given: GivenLabels, theory: LevelOfTheory, store: LabelStore, source: Mapping[str, Any]
) -> ImportedLabels:
    """Add labels to a store; existing labels remain unchanged."""
    new: set[str] = set()
    present: set[str] = set()
    differing = []
    labels = zip(given.indices, given.structures, given.keys, given.labels, strict=True)
    for index, atoms, key, label in labels:
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
