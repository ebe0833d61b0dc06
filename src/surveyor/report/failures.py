"""The table of failed labels, with the reason and the place to look for each."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ase import Atoms

from surveyor.dataset import FAILURE, KEY, MESSAGE, OUTPUT, Dataset
from surveyor.files import read_json
from surveyor.labels import LabelStore
from surveyor.labels.calculations import folder_in
from surveyor.report.tables import NOTHING, Manifest, Table, make_table, walkers_by_key
from surveyor.run_directory import RunDirectory
from surveyor.storage.buckets import store_address
from surveyor.words import generation_name

N_LINES = 5  # of the output
HEAD = ("Structure", "Generation", "Walker", "Reason", "Message", "Folder", "Last lines")


def failed_labels_table(
    directory: RunDirectory, manifests: Sequence[Manifest], store: LabelStore | None = None
) -> Table | None:
    """Return a table with a row for each failed label of the given generations; None without failures.

    Args:
        directory: run directory of the campaign.
        manifests: manifests of the generations, in order.
        store: the label store; by default that of the campaign, if it is in a folder.
    """
    generations = {key: number for number, key in _failed_keys(directory, manifests)}
    if not generations:
        return None
    walkers = {key: walker for each in manifests for key, walker in walkers_by_key(each).items()}
    newest = directory.generation(max(generations.values()))
    failed = {str(atoms.info.get(KEY)): atoms for atoms in Dataset.load(newest.set_file("failed"))}
    store = store or _store(directory)
    rows = [
        _row(failed[key], generation_name(number), str(walkers.get(key, NOTHING)), store)
        for key, number in sorted(generations.items(), key=lambda each: (each[1], walkers.get(each[0], math.inf)))
        if key in failed
    ]
    return make_table(HEAD, rows, "Failed labels; structures by formula and key of the label.")


def _failed_keys(directory: RunDirectory, manifests: Sequence[Manifest]) -> Iterator[tuple[int, str]]:
    """Yield the labels that are failed since a generation, with its number."""
    for manifest in manifests:
        number = manifest["number"]
        before: Mapping[str, str] = directory.read_manifest(number - 1)["labels"] if number else {}
        for key, fate in manifest["labels"].items():
            if fate == "failed" and before.get(key) != "failed":
                yield number, key


def _row(atoms: Atoms, generation: str, walker: str, store: LabelStore | None) -> list[str]:
    key = str(atoms.info[KEY])
    recorded = () if store is None else store.failures(key)
    lines = recorded[-1].last_lines.strip().splitlines() if recorded else []
    output = str(atoms.info.get(OUTPUT, ""))
    return [
        f"{atoms.symbols} {key.partition(':')[2][:8] or key[:8]}",
        generation,
        walker,
        str(atoms.info[FAILURE]),
        str(atoms.info.get(MESSAGE, NOTHING)),
        str(folder_in(output)) if output else NOTHING,
        "\n".join(lines[-N_LINES:]) or NOTHING,
    ]


def _store(directory: RunDirectory) -> LabelStore | None:
    """Return the label store of a campaign; None for one in a bucket, to which a run directory has no access."""
    labels = read_json(directory.parameters)["parameters"].get("labels")
    store = directory.path.absolute().parent / "labels" if labels is None else store_address(labels)
    if isinstance(store, str):
        return None
    return LabelStore.in_folder(store)
