"""The timeline of a campaign in its report."""

import numpy as np

from surveyor.learning.advance import advance, replayed
from surveyor.learning.entries import Continues, Entry, GenerationEnds, RunBegins, SampleReturned, TrainingBegins
from surveyor.learning.schedule import due
from surveyor.report.style import to_png
from surveyor.report.timeline import timeline_figure, timeline_of

RULES = RunBegins(n_walkers=2, n_states=2, labels_ahead=4, n_generations=3)


def journal(*timed: tuple[float, Entry]) -> list[tuple[float, Entry]]:
    """Return events with the decisions that follow from each."""
    entries: list[tuple[float, Entry]] = []
    schedule = replayed([])
    for time, event in timed:
        entries.append((time, event))
        schedule = advance(event, schedule)
        while (decision := due(schedule)) is not None:
            entries.append((time, decision))
            schedule = advance(decision, schedule)
    return entries


BEGINNING = ((100.0, Continues(generation=0, n_labels=0, round=0)), (101.0, RULES))
EMPTY_GENERATION = (
    (103.0, SampleReturned(name="g001-w000-0")),
    (104.0, SampleReturned(name="g001-w001-0")),
    (110.0, GenerationEnds(generation=1, n_labels=0)),
)


def test_bars_reach_from_the_beginning_of_a_sample_to_its_end() -> None:
    nothing = SampleReturned(name="g001-w000-0"), SampleReturned(name="g001-w001-0")
    entries = journal(
        *BEGINNING, (103.0, nothing[0]), (104.0, nothing[1]), (110.0, GenerationEnds(generation=1, n_labels=0))
    )
    timeline = timeline_of(entries)
    spans = [(span.row, span.begin, span.end, span.generation) for span in timeline.spans]
    assert spans == [(0, 101.0, 103.0, 0), (1, 101.0, 104.0, 0), (0, 104.0, 110.0, 1)]


def test_labels_are_counted_until_they_arrive_and_anew_by_each_run() -> None:
    first = SampleReturned(name="g001-w000-0", labels=("g001-w000-0", "g001-w000-0-step-5"))
    entries = journal(*BEGINNING, (103.0, first), (120.0, RULES))
    numbers = dict(timeline_of(entries).outstanding)
    assert (numbers[101.0], numbers[103.0], numbers[120.0]) == (0, 0, 2)  # none between the runs


def test_what_a_killed_run_had_under_way_ends_with_it_and_begins_again_with_the_next() -> None:
    entries = journal(*BEGINNING, (103.0, SampleReturned(name="g001-w000-0")), (200.0, RULES))
    entries += [(210.0, SampleReturned(name="g001-w001-0"))]
    of_second = [(span.begin, span.end) for span in timeline_of(entries).samples if span.row == 1]
    assert of_second == [(101.0, 103.0), (200.0, 210.0)]


def test_the_figure_has_a_bar_for_each_span() -> None:
    nothing = SampleReturned(name="g001-w000-0"), SampleReturned(name="g001-w001-0")
    entries = journal(
        *BEGINNING, (103.0, nothing[0]), (104.0, nothing[1]), (110.0, GenerationEnds(generation=1, n_labels=0))
    )
    assert any(isinstance(entry, TrainingBegins) for _, entry in entries)
    timeline = timeline_of(entries)
    figure = timeline_figure(timeline)
    bars = [len(axes.collections[0].get_paths()) if axes.collections else 0 for axes in figure.axes]
    assert bars == [2, 0, 1]
    (step,) = figure.axes[1].lines
    assert np.allclose(np.asarray(step.get_ydata()), [number for _, number in timeline.outstanding])
    assert to_png(figure).startswith(b"\x89PNG")
