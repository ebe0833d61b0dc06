"""Tables of the report as rows of text, for the page and for Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ase import units

from surveyor.learning.states import origin_of
from surveyor.progress import GenerationErrors
from surveyor.report.parity import SETS
from surveyor.sampling.collection import FRAME
from surveyor.words import generation_name

Manifest = Mapping[str, Any]  # Any: whatever JSON holds

NOTHING = "–"  # noqa: RUF001  (a dash, as tables have it)

# Heading, with the field of `Errors` and the factor to its unit.
SETS_COLUMNS = {
    "Energy\nRMSE\n(meV/atom)": ("energy_rmse", 1e3),
    "Energy\nRMSE without offset\n(meV/atom)": ("energy_rmse_without_offset", 1e3),
    "Energy\noffset\n(meV/atom)": ("energy_offset", 1e3),
    "Energy\nMAE\n(meV/atom)": ("energy_mae", 1e3),
    "Forces\nRMSE\n(meV/Å)": ("forces_rmse", 1e3),
    "Forces\nMAE\n(meV/Å)": ("forces_mae", 1e3),
    "Stress\nRMSE\n(MPa)": ("stress_rmse", 1e3 / units.GPa),
    "Stress\nMAE\n(MPa)": ("stress_mae", 1e3 / units.GPa),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under headings.

    Attributes:
        head: one heading per column, with units.
        rows: rows of cells; the first cell names the row.
        caption: what the table shows.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    """Return a table without the columns in which no row has anything."""
    kept = [column for column in range(len(head)) if not rows or any(row[column] != NOTHING for row in rows)]
    return Table(
        head=tuple(head[column] for column in kept),
        rows=tuple(tuple(row[column] for column in kept) for row in rows),
        caption=caption,
    )


def number(value: float | None, factor: float = 1.0) -> str:
    """Return a number with three significant digits, or a dash for None.

    Args:
        value: the number.
        factor: factor to convert it to the unit shown.
    """
    if value is None:
        return NOTHING
    scaled = factor * value
    if scaled == 0 or not math.isfinite(scaled):
        return f"{scaled:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(scaled))))
    return f"{scaled:.{decimals}f}" if decimals <= 6 else f"{scaled:.2e}"


def generations_table(rows: Sequence[GenerationErrors]) -> Table:
    """Return the errors of all generations."""
    energy, forces = "energy\n(meV/atom)", "forces\n(meV/Å)"
    moments = ("Before\ntraining", "Test\nset", "Final\ntest set")
    return make_table(
        [
            "Generation",
            "Labels",
            "Training\nset",
            "Discarded",
            *(f"{when}\n{what}" for when in moments for what in (energy, forces)),
            "Epochs",
        ],
        [
            [
                generation_name(row.generation),
                str(row.n_labels),
                str(row.n_train),
                str(row.n_discarded),
                number(row.before_energy_meV_per_atom),
                number(row.before_forces_meV_per_A),
                number(row.test_energy_meV_per_atom),
                number(row.test_forces_meV_per_A),
                number(row.final_energy_meV_per_atom),
                number(row.final_forces_meV_per_A),
                NOTHING if row.epochs is None else str(row.epochs),
            ]
            for row in rows
        ],
        "Root mean square errors of energies per atom and of force components. Before training: of the former model on "
        "the new structures. Test set: of the new model on the test set of that time. Final test set: of the models of "
        "all generations on one and the same set. Labels: all that were requested so far, failed ones included. "
        "Discarded: labelled, but kept from training, as the model before was too far off (learning.discard_…).",
    )


def sets_table(errors: Mapping[str, Mapping[str, Any]], caption: str) -> Table:  # Any: numbers, None and a dict
    """Return the errors of a model on each set.

    Args:
        errors: fields of `Errors` by set; those that came with later versions may be missing.
        caption: of which model they are.
    """
    evaluated = {name: errors[name] for name in SETS if name in errors and errors[name]["n_structures"]}
    symbols = sorted({symbol for each in evaluated.values() for symbol in each["forces_rmse_by_element"]})
    # The errors of a single element are those of all atoms.
    symbols = symbols if len(symbols) > 1 else []
    return make_table(
        ["Set", "Structures", *SETS_COLUMNS, *(f"Forces on {symbol}\nRMSE\n(meV/Å)" for symbol in symbols)],
        [
            [
                name,
                str(each["n_structures"]),
                *(number(each.get(field), factor) for field, factor in SETS_COLUMNS.values()),
                *(number(each["forces_rmse_by_element"].get(symbol), 1e3) for symbol in symbols),
            ]
            for name, each in evaluated.items()
        ],
        f"{caption} Offset: mean of predicted minus labelled energy per atom.",
    )


def generation_caption(number: int) -> str:
    """Return the caption of the table of errors of a generation."""
    return f"Errors of the model of generation {number} on each set."


def walkers_of(manifest: Manifest) -> Sequence[Mapping[str, Any]]:
    """Return the samples in the manifest of a generation, in the order of the walkers.

    The bootstrap has none.
    """
    samples: Sequence[Mapping[str, Any]] = manifest["details"].get("walkers", ())  # Any: whatever JSON holds
    return sorted(samples, key=lambda sample: (sample["index"], sample.get("name", "")))


def chosen_table(manifest: Manifest) -> Table | None:
    """Return a table of the structures that a selector has chosen for a generation; None without a selector."""
    chosen = manifest["details"].get("chosen")
    if chosen is None:
        return None
    return make_table(
        ["Structure", "Score", "Model", "Energy error\n(meV/atom)", "Forces error\n(meV/Å)"],
        [
            [
                each["name"],
                number(each["score"]),
                str(each["moved_on"]),
                number(each["energy_error"]),
                number(each["forces_error"]),
            ]
            for each in sorted(chosen, key=_walker_and_turn)
        ],
        f"Structures that the selector has chosen for generation {manifest['number']}. Model: the generation on which "
        "the walker moved. The errors are those before training.",
    )


def _walker_and_turn(chosen: Mapping[str, Any]) -> tuple[float, ...]:  # Any: JSON
    """Return walker, round, turn and step of a chosen structure; those of unknown origin come last."""
    origin, step = origin_of(chosen["name"]), chosen["name"].partition(FRAME)[2]
    place = (math.inf,) * 3 if origin is None else (origin.walker, origin.round, origin.turn)
    return *place, int(step) if step.isdecimal() else math.inf


def walkers_by_key(manifest: Manifest) -> dict[str, int]:
    """Return the index of the walker of each structure that was labelled for a generation, by the key of its label."""
    details = manifest["details"]
    found = {each["label_key"]: each["index"] for each in walkers_of(manifest) if each.get("label_key")}
    origins = {each.get("label_key"): origin_of(each["name"]) for each in details.get("chosen") or ()}
    return {key: origin.walker for key, origin in origins.items() if key and origin is not None} | found


def walkers_table(manifest: Manifest) -> Table:
    """Return a table of the outcome of each sample of a generation, with windows and progress along ramps, if any."""
    samples = walkers_of(manifest)
    has_windows, has_ramps = (any(sample.get(name) for sample in samples) for name in ("window", "ramp"))
    return make_table(
        [
            "Walker",
            *(["Window"] if has_windows else []),
            *(["Ramp"] if has_ramps else []),
            "Temperature\n(K)",
            "Steps",
            "Rejected\ntries",
            "Energy error\n(meV/atom)",
            "Forces error\n(meV/Å)",
            "Fate",
            "Reason",
        ],
        [
            [
                str(sample["index"]),
                *([_window(sample)] if has_windows else []),
                *([_ramp(sample)] if has_ramps else []),
                number(sample.get("temperature_K")),
                str(sample.get("n_steps", NOTHING)),
                str(len(sample.get("rejections", ()))),
                number(sample.get("energy_error")),
                number(sample.get("forces_error")),
                sample["fate"],
                sample.get("reason") or NOTHING,
            ]
            for sample in samples
        ],
        f"Walkers of generation {manifest['number']}. The errors are those of the model on which they moved.",
    )


def _window(sample: Mapping[str, Any]) -> str:  # Any: JSON
    window = sample.get("window")
    return NOTHING if window is None else f"{window['variable']} = {window['centre']:.6g}"


def _ramp(sample: Mapping[str, Any]) -> str:  # Any: JSON
    ramp = sample.get("ramp")
    return NOTHING if ramp is None else f"{100 * ramp['progress']:.0f} %"
