"""Labels of whole campaigns: do chosen labels go further than random ones when the walkers move on the model?

    python benchmarks/labels/online.py benchmarks/labels/formic-acid-dimer.yaml [--arms random walkers informative]
        [--ahead 1 2] [--seeds 5] [--states 15] [--steps 300]

The file is one of `surveyor benchmark-labels`, which has been run: its test sets judge the models. Each arm is a
campaign of its own for each seed, with the walkers of the candidates, the same teacher and the same model. Its
bootstrap has the first of `n_labels`; each generation brings as many labels as `--states`, or fewer where walkers were
rejected, up to the last of `n_labels`. `--ahead` gives `labels_ahead` in units of `--states`: 2 overlaps sampling,
labelling and training. The baseline is `random` without overlap, so `random` and 1 come first. An interrupted run
continues. `PREFECT_API_URL` is to name a server, such as that of `prefect server start`.
"""

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from surveyor.benchmark import BENCHMARK, BenchmarkParameters
from surveyor.benchmark.comparison import METRICS, MILLI, compare, markdown_of, table_of
from surveyor.benchmark.parameters import BASELINE
from surveyor.benchmark.points import measured
from surveyor.benchmark.sets import SETS, load_sets
from surveyor.benchmark.statistics import error_at
from surveyor.files import read_json, write_json
from surveyor.flows.online_learning import online_learning
from surveyor.models.choice import load_model
from surveyor.run_directory import RunDirectory

ERRORS = "errors-on-tests.json"  # of the models of a campaign
PATIENCE = 4  # times the generations of a campaign none of whose walkers is rejected


@dataclass(frozen=True)
class Arm:
    """A way to choose labels, in a campaign with or without overlap.

    Attributes:
        select: the selector.
        ahead: `labels_ahead` in units of the labels of a generation.
    """

    select: str
    ahead: int

    @property
    def name(self) -> str:
        """Name in tables and folders."""
        return self.select if self.ahead == 1 else f"{self.select}, {self.ahead} ahead"


@dataclass(frozen=True)
class Tier:
    """All campaigns of a benchmark.

    Attributes:
        parameters: of the benchmark of labels whose test sets are used.
        options: of the command line.
    """

    parameters: BenchmarkParameters
    options: argparse.Namespace

    @property
    def arms(self) -> list[Arm]:
        """The arms, the baseline first."""
        return [Arm(*each) for each in product(self.options.arms, self.options.ahead)]

    @property
    def folder(self) -> Path:
        """Folder of the campaigns."""
        return self.parameters.output_directory / "online"

    @property
    def n_labels(self) -> list[int]:
        """Numbers of labels at which the arms are compared."""
        first, last = self.parameters.n_labels[0], self.parameters.n_labels[-1]
        return [*range(first, last + 1, self.options.states)]

    def campaign(self, arm: Arm, seed: int) -> dict[str, Any]:  # Any: as the campaign takes it
        """Return the parameters of the campaign of an arm."""
        given = self.parameters
        walkers = [group.model_copy(update={"n_steps": self.options.steps}) for group in given.candidates.walkers]
        return {
            "run_directory": self.folder / f"{arm.name.replace(', ', '-').replace(' ', '-')}-seed-{seed}",
            "walkers": walkers,
            "reference": given.reference,
            "model": given.model,
            "bootstrap": {"n_structures": given.n_labels[0]},
            "learning": {
                "select": arm.select,
                "n_frames": 3,
                "n_generations": PATIENCE * (len(self.n_labels) - 1),
                "max_labels": given.n_labels[-1],
                "n_states": self.options.states,
                "labels_ahead": arm.ahead * self.options.states,
                "valid_fraction": given.valid_fraction,
                "test_fraction": 0.0,
                "min_difference_A": 0.0,  # arms are compared at equal numbers of labels
                "seed": given.seed + seed,
            },
            "pools": given.pools,
            "codes": given.codes,
            "labels": given.label_store,
            "storage": given.storage,
        }

    def curve(self, arm: Arm, seed: int) -> dict[str, dict[str, list[float]]]:
        """Run a campaign to its end, and return the errors at each of `n_labels`, by test set and metric."""
        parameters = self.campaign(arm, seed)
        online_learning(**parameters, display=False)
        directory = RunDirectory(parameters["run_directory"])
        if not (directory.path / ERRORS).exists():
            write_json(directory.path / ERRORS, self._errors(directory))
        found = read_json(directory.path / ERRORS)
        return {
            name: {
                metric: [error_at(found["n_labels"], errors, n) for n in self.n_labels] for metric, errors in by.items()
            }
            for name, by in found["errors"].items()
        }

    def _errors(self, directory: RunDirectory) -> dict[str, Any]:  # Any: JSON
        """Return the errors of the models of all generations on the test sets."""
        _, tests = load_sets(self.parameters.output_directory / SETS)
        numbers = range(directory.n_complete())
        potentials = [load_model(directory.generation(number).model).deploy() for number in numbers]
        points = {
            name: [measured(test, potential.evaluate(test)) for potential in potentials] for name, test in tests.items()
        }
        return {
            "n_labels": [len(directory.read_manifest(number)["labels"]) for number in numbers],
            "errors": {
                name: {metric.field: [MILLI * each[metric.field] for each in of_test] for metric in METRICS}
                for name, of_test in points.items()
            },
        }

    def table(self) -> str:
        """Run all campaigns, and return the comparison."""
        found = {arm: [self.curve(arm, seed) for seed in range(self.options.seeds)] for arm in self.arms}
        curves = {
            test.name: {
                metric.field: {
                    arm.name: [curve[test.name][metric.field] for curve in of_arm] for arm, of_arm in found.items()
                }
                for metric in METRICS
            }
            for test in self.parameters.tests
        }
        compared = compare(curves, self.n_labels, self.parameters.reference_labels)
        return markdown_of(table_of(compared, self.parameters.reference_labels))


def main() -> None:
    """Run the campaigns, and print the table."""
    parser = argparse.ArgumentParser(description="Labels of whole campaigns")
    parser.add_argument("file", type=Path, help="file of surveyor benchmark-labels, which has been run")
    parser.add_argument("--arms", nargs="+", default=["random", "walkers", "informative"], help="the baseline first")
    parser.add_argument("--ahead", type=int, nargs="+", default=[1], help="labels_ahead, in units of --states")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--states", type=int, default=15, help="labels of a generation")
    parser.add_argument("--steps", type=int, default=300, help="of each sample")
    options = parser.parse_args()
    if options.arms[0] != BASELINE or options.ahead[0] != 1:
        parser.error(f"expected {BASELINE} as the first of --arms and 1 as the first of --ahead: they are the baseline")
    parameters = BENCHMARK.load(options.file)
    if not (parameters.output_directory / SETS).exists():
        parser.error(f"first run: surveyor benchmark-labels {options.file}")
    print(Tier(parameters, options).table())


if __name__ == "__main__":
    main()
