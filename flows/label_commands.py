"""`surveyor label` and `surveyor labels`: label a dataset, import labels, have failed ones tried again."""

import argparse
import getpass
import hashlib
import socket
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, RenderableType

from surveyor.errors import InputError
from surveyor.events.kinds import FileRead, LabellingBegins, LabelsRequested
from surveyor.flows.display import WAITS, View, where_it_runs
from surveyor.flows.stores import add_storage_option, open_label_store, reaching, store_argument
from surveyor.flows.work_commands import add_work_command
from surveyor.labels import POLICIES, REASONS, LabelFailure, LevelOfTheory
from surveyor.reading.keys import NAMES, LabelKeys
from surveyor.reference.reference import Reference
from surveyor.run_directory import RunDirectory
from surveyor.words import number_of
from surveyor.works.labelling import LABELLING
from surveyor.works.labelling.imports import GivenLabels, check_labels, import_labels, read_labels, stated_theory
from surveyor.works.labelling.progress import labelling_summary, read_labelling_progress, render_labelling
from surveyor.works.labelling.results import failed_file, labelled_file
from surveyor.works.summary import read_summary

OF_MACHINES = tuple(reason for reason in REASONS if POLICIES[reason].is_by_machine)


def _look(directory: RunDirectory) -> tuple[RenderableType, str]:
    progress = read_labelling_progress(directory)
    return render_labelling(progress), labelling_summary(progress)


def _conclude(console: Console, directory: RunDirectory, _labelled: Path) -> int:
    """Print the results; return 1 if there is no label at all."""
    summary = read_summary(directory)
    of_all = f"{summary['n_labelled']} of {number_of(summary['n_structures'], 'structure')} labelled"
    console.print(f"{of_all}; {number_of(summary['n_new'], 'new label')}")
    for reason, n in summary["failures"].items():
        console.print(f"{n} failed: {reason}")
    files = {"labelled": labelled_file(directory), "failed": failed_file(directory), "summary": directory.summary}
    for name, path in files.items():
        console.print(f"{f'{name}:':<10}{path}")
    return 0 if summary["n_labelled"] else 1


def _show(console: Console, directory: RunDirectory) -> None:
    console.print(render_labelling(read_labelling_progress(directory)))
    if running := where_it_runs(directory):
        console.print(f"running{running}", markup=False)


LABELLING_VIEW = View(
    begins=LabellingBegins,
    milestones=(LabellingBegins, FileRead, LabelsRequested, *WAITS),
    look=_look,
    conclude=_conclude,
    show=_show,
    kind=LABELLING,
    flow="label_dataset",
    run_name="labels of {}",
)


def add_label_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `label`, and `labels` with its subcommands."""
    add_work_command(
        commands, "label", "label the structures of a file, or continue an interrupted labelling", LABELLING_VIEW
    )
    labels = commands.add_parser(
        "labels", help="manage a label store", epilog="example: surveyor labels retry labels --reason timeout"
    )
    actions = labels.add_subparsers(required=True, metavar="ACTION")
    _add_import(actions)
    _add_retry(actions)


def _add_import(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    importing = actions.add_parser(
        "import",
        help="import labels that were computed elsewhere into a label store",
        epilog="example: surveyor labels import old.extxyz --store labels --level-of-theory level_of_theory.json",
    )
    importing.add_argument("dataset", type=Path, help="labelled structures (extxyz, or another format that ASE reads)")
    importing.add_argument(
        "--store", type=store_argument, required=True, metavar="STORE", help="folder or bucket of the label store"
    )
    add_storage_option(importing)
    importing.add_argument(
        "--level-of-theory",
        type=Path,
        required=True,
        metavar="FILE",
        help="level_of_theory.json of a campaign or labelling, or a YAML file with `reference`, which is "
        "resolved on this machine",
    )
    importing.add_argument(
        "--prefix",
        default="REF_",
        help="prefix of energy, forces, stress and virials in the file; '' for ASE's results; REF_ by default",
    )
    importing.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="LABEL=NAME",
        help="complete name of a label in the file, if it is not the prefix followed by LABEL, such as "
        "forces=dft_force",
    )
    importing.add_argument(
        "--check",
        type=int,
        metavar="N",
        help="first compute N of the labels here, and compare; 1 by default, if the level of theory "
        "contains the reference",
    )
    importing.set_defaults(command=_import)


def _add_retry(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    retrying = actions.add_parser(
        "retry",
        help="allow new attempts for labels whose failure is final, after the cause is corrected",
        epilog="example: surveyor labels retry labels --reason timeout",
    )
    retrying.add_argument("store", type=store_argument, help="folder or bucket of the label store")
    add_storage_option(retrying)
    retrying.add_argument(
        "--reason",
        action="append",
        choices=REASONS,
        metavar="REASON",
        help=f"reason of the failures to retry; may be repeated; by default {', '.join(OF_MACHINES)}",
    )
    retrying.set_defaults(command=_retry)


def _retry(options: argparse.Namespace, console: Console) -> None:
    store = open_label_store(options.store, options.storage)
    with reaching(store):
        failed = list(store.failed_keys())
    if not failed and not any(store.storage.list("failures/")):
        expected = "the folder or bucket of a label store that has some"
        raise InputError(f"{options.store}: there are no failures; expected {expected}")
    retried: Counter[str] = Counter()
    for key in failed:
        outcome = store.outcome(key)
        if isinstance(outcome, LabelFailure) and outcome.reason in (options.reason or OF_MACHINES):
            store.retry(key)
            retried[outcome.reason] += 1
    for reason, n in sorted(retried.items()):
        console.print(f"{n} failed: {reason}")
    labels = number_of(retried.total(), "label")
    console.print(f"{labels} will be tried again when a campaign or a labelling requests them")


def _keys(prefix: str, named: list[str]) -> LabelKeys:
    names = dict(each.partition("=")[::2] for each in named)
    wrong = [each for each in named if not each.partition("=")[2] or each.partition("=")[0] not in NAMES]
    if wrong:
        raise InputError(
            f"--key: found {', '.join(wrong)}, expected {', '.join(NAMES)} with a name, as forces=dft_force"
        )
    return LabelKeys(prefix=prefix, **names)


def _check(
    options: argparse.Namespace,
    console: Console,
    given: GivenLabels,
    theory: LevelOfTheory,
    reference: Reference | None,
) -> None:
    """Compute some labels to compare, as far as that is asked for and possible."""
    if options.check == 0:
        return
    if reference is None:
        text = f"{options.level_of_theory} does not say how to compute a label; give a YAML file with `reference`"
        if options.check is not None:
            raise InputError(f"--check: {text}")
        console.print(f"[bold yellow]no label is compared[/]: {text}", soft_wrap=True)
        return
    n_checked = 1 if options.check is None else options.check
    check_labels(given, reference, theory, n_checked)
    console.print(f"labels computed here: {min(n_checked, len(given.labels))} of {len(given.labels)}, in agreement")


def _import(options: argparse.Namespace, console: Console) -> None:
    if options.check is not None and options.check < 0:
        raise InputError(f"--check: found {options.check}, expected a number of labels, from 0 on")
    store = open_label_store(options.store, options.storage)
    theory, reference = stated_theory(options.level_of_theory)
    given = read_labels(options.dataset, theory, _keys(options.prefix, options.key))
    for line in given.report.lines:
        console.print(line, markup=False, soft_wrap=True)
    _check(options, console, given, theory, reference)
    source = {
        "file": str(options.dataset.absolute()),
        "file_sha256": hashlib.sha256(options.dataset.read_bytes()).hexdigest(),
        "by": f"{getpass.getuser()} on {socket.gethostname()}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    with reaching(store):
        done = import_labels(given, theory, store, source)
    console.print(f"level of theory: {theory.name} ({theory.digest[:12]})")
    new = number_of(done.n_new, "new label")
    console.print(f"{new} in {options.store}; there before, and unchanged: {done.n_present}")
    if done.n_repeated:
        console.print(f"{number_of(done.n_repeated, 'repeated label')} in {options.dataset}")
    if done.differing:
        numbers = ", ".join(map(str, done.differing[:8]))
        differing = number_of(len(done.differing), "label")
        console.print(f"[bold yellow]{differing} in the store, but different in the file[/]: {numbers} …")
