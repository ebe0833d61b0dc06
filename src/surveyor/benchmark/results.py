"""Results of a benchmark: the files that hold its learning curves and ratios of labels."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from surveyor.benchmark.benchmark import Benchmark
from surveyor.benchmark.comparison import compare, curves_of, markdown_of, table_of
from surveyor.files import write_atomically
from surveyor.run_directory import RunDirectory
from surveyor.works.summary import write_summary

COMPARISON, FIGURE = "comparison.md", "learning-curves.png"


def write_results(benchmark: Benchmark) -> Path:
    """Write the learning curves as a figure, the comparison as Markdown, and last the summary.

    Args:
        benchmark: the open benchmark, whose points are all complete.

    Returns:
        The file with the comparison.
    """
    from surveyor.benchmark.figure import curves_figure  # matplotlib takes its time
    from surveyor.report.style import to_png

    parameters, path = benchmark.parameters, benchmark.directory.path / COMPARISON
    curves = curves_of(benchmark)
    comparisons = compare(curves, parameters.n_labels, parameters.reference_labels)
    table = table_of(comparisons, parameters.reference_labels)
    write_atomically(path.with_name(FIGURE), to_png(curves_figure(comparisons, parameters.n_labels)))
    write_atomically(path, f"{markdown_of(table)}\n\n![learning curves]({FIGURE})\n")
    summary = {
        "n_labels": parameters.n_labels,
        "reference_labels": parameters.reference_labels,
        "n_seeds": parameters.n_seeds,
        "errors": _finite(curves),
        "comparisons": _finite([asdict(each) for each in comparisons]),
        "table": table,
    }
    write_summary(benchmark.directory, summary)
    return path


def markdown_of_benchmark(directory: RunDirectory) -> str:
    """Return the comparison of a complete benchmark as a page that holds its figure."""
    from surveyor.report.style import data_uri

    figure = data_uri((directory.path / FIGURE).read_bytes(), "png")
    return (directory.path / COMPARISON).read_text().replace(f"({FIGURE})", f"({figure})")


def _finite(value: Any) -> Any:  # Any: JSON
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
