import base64
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from ase import units
from matplotlib.figure import Figure
from prefect_form import open_browser

from surveyor.dataset import KEY, OUTPUT, STRESS, Dataset, label_of
from surveyor.errors import InputError
from surveyor.events.kinds import CampaignBegins
from surveyor.files import read_json, write_json
from surveyor.labels import LabelFailure, LabelStore, load_theory
from surveyor.learning.audits import Audit
from surveyor.report import (
    CampaignPictures,
    errors_table,
    generation_figures,
    generation_markdown,
    write_figures,
    write_report,
)
from surveyor.report.activity import failures_by_reason
from surveyor.report.failures import failed_labels_table
from surveyor.report.figures import coverage_figure, learning_curve_figure, parity_figure
from surveyor.report.page import TIMELINE
from surveyor.report.parity import SETS, parity_points
from surveyor.report.pictures import thermostats_K
from surveyor.report.tables import NOTHING, chosen_table, number, walkers_table
from surveyor.run_directory import RunDirectory

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What is in a page; raises where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for found, attribute, value in self.attributes if (found, attribute) == (tag, name)]

    @property
    def text(self) -> str:
        return "\n".join(self.words)


@pytest.fixture(scope="module")
def page(finished_campaign: RunDirectory) -> Page:
    return Page(write_report(finished_campaign).read_text())


def test_the_page_needs_nothing_but_itself(finished_campaign: RunDirectory, page: Page) -> None:
    assert all(value.startswith("data:image/") for value in page.values("img", "src"))
    assert all(value.startswith("#") for value in page.values("a", "href"))
    assert not page.values("link", "href")
    assert not page.values("script", "src")
    assert "url(" not in finished_campaign.report.read_text()


def test_the_table_of_contents_leads_to_every_section(page: Page) -> None:
    assert page.values("a", "href") == [f"#{identifier}" for identifier in page.values("h2", "id")]


def test_every_figure_is_described(page: Page) -> None:
    assert len(page.values("img", "alt")) == len(page.values("img", "src")) == 7
    assert all(page.values("img", "alt"))


def test_the_page_shows_the_errors_of_the_manifests(finished_campaign: RunDirectory, page: Page) -> None:
    for row in errors_table(finished_campaign)[1:]:
        assert number(row.before_energy_meV_per_atom) in page.words
        assert number(row.test_forces_meV_per_A) in page.words
        assert number(row.final_forces_meV_per_A) in page.words
    errors = finished_campaign.read_manifest(3)["errors"]["train"]
    for field in ("energy_offset", "energy_rmse_without_offset"):
        assert number(errors[field], 1e3) in page.words


def test_each_failed_label_has_a_row_with_where_to_look(campaign_on_disk: RunDirectory) -> None:
    folder = "/run.1/calculations/0123456789abcdef-1-zfq3x_1a"
    path = campaign_on_disk.generation(3).set_file("failed")
    failed = Dataset.load(path)
    for atoms in failed:
        atoms.info |= {OUTPUT: folder}
    failed.save(path)
    store = LabelStore.in_folder(campaign_on_disk.path.parent / "labels")
    theory, last = load_theory(campaign_on_disk.theory), failed[-1]
    words = LabelFailure("scf_not_converged", "did not converge", last_lines="*** SCF run NOT converged ***\n| end |")
    store.put_failure(str(last.info[KEY]), last, theory, words)

    table = failed_labels_table(campaign_on_disk, [campaign_on_disk.read_manifest(number) for number in range(4)])
    assert table is not None
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    assert [row["Generation"] for row in rows] == ["1", "2", "3"]
    assert {(row["Walker"], row["Reason"], row["Folder"]) for row in rows} == {("0", "scf_not_converged", folder)}
    assert rows[-1]["Message"] == "did not converge"
    assert rows[-1]["Last lines"] == "*** SCF run NOT converged ***\n| end |"
    assert rows[-1]["Structure"].startswith(str(last.symbols))
    page = Page(write_report(campaign_on_disk).read_text())
    assert "*** SCF run NOT converged ***\n| end |" in page.words
    markdown = generation_markdown(campaign_on_disk, 3)
    assert r"\*\*\* SCF run NOT converged \*\*\* \| end \|" in markdown
    assert "\n| --- | --: | --: | --- | --- | --- | --- |\n" in markdown  # numbers to the right, words to the left
    assert markdown.count("0123456789abcdef-1-") == 1  # of this generation alone

    record = read_json(campaign_on_disk.parameters)
    record["parameters"] |= {"labels": "s3://bucket/labels", "storage": "s3/minio"}
    write_json(campaign_on_disk.parameters, record)
    assert "NOT converged" not in write_report(campaign_on_disk).read_text()  # the folder tells no access to the bucket
    assert "NOT converged" in write_report(campaign_on_disk, store=store).read_text()
    assert "NOT converged" in generation_markdown(campaign_on_disk, 3, store=store)


def test_walkers_are_in_their_order(campaign_on_disk: RunDirectory) -> None:
    path = campaign_on_disk.generation(3).manifest
    manifest = read_json(path)
    manifest["details"]["walkers"] = manifest["details"]["walkers"][::-1]
    assert [row[0] for row in walkers_table(manifest).rows] == ["0", "1", "2", "3"]


def test_a_quantity_has_one_unit_on_a_page(finished_campaign: RunDirectory) -> None:
    figure = parity_figure(parity_points(finished_campaign.generation(3)))
    units_of_axes = {axes.get_ylabel().rpartition("(")[2].rstrip(")") for axes in figure.axes}
    assert units_of_axes == {"meV/atom", "meV/Å", "MPa"}
    errors = finished_campaign.read_manifest(3)["errors"]["test"]
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert f"test: {number(errors['forces_rmse'], 1e3)} meV/Å" in texts


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_read_on_a_telephone_and_in_the_dark(
    scheme: str, finished_campaign: RunDirectory, tmp_path: Path
) -> None:
    with open_browser(tmp_path / "profile") as browser:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(write_report(finished_campaign).as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") == 400
        script = "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        back, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in browser.execute_script(script))
        assert (ink - back if scheme == "dark" else back - ink) > 150


def test_the_page_has_the_timeline_of_the_journal(campaign_on_disk: RunDirectory, page: Page) -> None:
    def described(found: Page) -> set[str]:
        return set(found.values("img", "alt"))

    assert TIMELINE not in described(page)  # the campaign has no journal
    recorded = Path(__file__).parent / "journals" / "0.1.0.dev0" / "overlapped-stopped.jsonl"
    campaign_on_disk.journal.write_bytes(recorded.read_bytes())
    pictures = CampaignPictures(campaign_on_disk)
    with_timeline = Page(write_report(campaign_on_disk, pictures=pictures).read_text())
    assert described(with_timeline) == described(page) | {TIMELINE}
    sources = dict(zip(with_timeline.values("img", "alt"), with_timeline.values("img", "src"), strict=True))
    image = base64.b64decode(sources[TIMELINE].partition("base64,")[2])
    shown = pictures.timeline()
    assert shown is not None
    assert image in (shown.png, shown.svg)


def test_names_are_shown_as_they_are(finished_campaign: RunDirectory, page: Page) -> None:
    assert "Online learning: copper & <sons>" in page.words
    assert "copper &amp; &lt;sons&gt;" in finished_campaign.report.read_text()


def test_the_page_says_where_it_all_comes_from(finished_campaign: RunDirectory, page: Page) -> None:
    assert "EMT" in page.words
    assert read_json(finished_campaign.theory)["digest"] in page.words
    assert "node1" in page.words
    assert "3.510000" in page.words
    assert "reset_forces_meV_per_A: 300.0" in page.text


def test_a_campaign_without_stress_shows_none(campaign_on_disk: RunDirectory) -> None:
    generation = campaign_on_disk.generation(3)
    for name in SETS:
        structures = Dataset.load(generation.set_file(name))
        for atoms in structures:
            atoms.info.pop(STRESS, None)
        structures.save(generation.set_file(name))
    manifest = read_json(generation.manifest)
    for errors in manifest["errors"].values():
        errors |= {"stress_rmse": None, "stress_mae": None}
    write_json(generation.manifest, manifest)
    text = Page(write_report(campaign_on_disk).read_text()).text
    assert all(len(points.stresses) == 0 for points in parity_points(generation))
    assert "Forces\nRMSE" in text
    assert "Stress\nRMSE" not in text


def test_a_campaign_of_which_nothing_is_complete_has_a_report(campaign_on_disk: RunDirectory) -> None:
    for path in (campaign_on_disk.theory, campaign_on_disk.provenance, campaign_on_disk.comparison):
        path.unlink()
    for generation in range(4):
        campaign_on_disk.generation(generation).manifest.unlink()
    campaign_on_disk.events.append(CampaignBegins())
    assert "not resolved yet" in Page(write_report(campaign_on_disk).read_text()).words


def test_details_that_an_older_run_lacks_are_left_out(campaign_on_disk: RunDirectory) -> None:
    for generation in range(4):
        path = campaign_on_disk.generation(generation).manifest
        manifest = read_json(path) | {"details": {}}
        for errors in manifest["errors"].values():
            del errors["energy_offset"], errors["energy_rmse_without_offset"]
        write_json(path, manifest)
    page = Page(write_report(campaign_on_disk).read_text())
    assert "Energy\noffset\n(meV/atom)" not in page.words
    assert "No label failed, and no walker was stopped by a guard." in page.words
    assert "Walkers" not in page.words


def test_parity_points_are_labels_and_predictions_in_order(finished_campaign: RunDirectory) -> None:
    generation = finished_campaign.generation(3)
    points = {each.name: each for each in parity_points(generation)}
    structures = Dataset.load(generation.set_file("test"))
    labels = np.concatenate([label_of(atoms).forces.ravel() for atoms in structures])
    np.testing.assert_array_equal(points["test"].forces[:, 0], labels)
    errors = finished_campaign.read_manifest(3)["errors"]["test"]
    for found, expected, factor in (
        (points["test"].energies, errors["energy_rmse"], 1e3),
        (points["test"].forces, errors["forces_rmse"], 1.0),
        (points["test"].stresses, errors["stress_rmse"], 1 / units.GPa),
    ):
        assert np.sqrt(np.mean((found[:, 1] - found[:, 0]) ** 2)) == pytest.approx(factor * expected)


def test_energies_are_relative_to_their_mean(finished_campaign: RunDirectory) -> None:
    points = parity_points(finished_campaign.generation(3))
    energies = np.concatenate([each.energies[:, 0] for each in points])
    assert np.mean(energies) == pytest.approx(0, abs=1e-6)


def test_the_learning_curve_puts_an_error_before_training_at_the_labels_of_the_former_model(
    finished_campaign: RunDirectory,
) -> None:
    rows = errors_table(finished_campaign)
    energies, _ = learning_curve_figure(rows).axes
    before, final = energies.lines
    assert list(before.get_xdata()) == [row.n_labels for row in rows[:-1]]
    assert list(before.get_ydata()) == [row.before_energy_meV_per_atom for row in rows[1:]]
    assert list(final.get_xdata()) == [row.n_labels for row in rows]
    assert list(final.get_ydata()) == [row.final_energy_meV_per_atom for row in rows]


def test_the_learning_curve_shows_the_test_sets_of_their_time_until_models_are_compared(
    campaign_on_disk: RunDirectory,
) -> None:
    campaign_on_disk.comparison.unlink()
    rows = errors_table(campaign_on_disk)
    assert list(learning_curve_figure(rows).axes[1].lines[1].get_ydata()) == [row.test_forces_meV_per_A for row in rows]


def test_the_picture_of_coverage_tells_errors_within_the_uncertainty_from_larger_ones() -> None:
    pairs = [(100.0, 50.0), (100.0, 100.0), (80.0, 90.0), (None, 90.0), (70.0, None)]
    audits = [Audit(str(n), uncertainty=stated, largest_error=error) for n, (stated, error) in enumerate(pairs)]
    (axes,) = coverage_figure(audits).axes
    within, larger, line = axes.lines
    assert [*zip(within.get_xdata(), within.get_ydata(), strict=True)] == [(100.0, 50.0), (100.0, 100.0)]
    assert [*zip(larger.get_xdata(), larger.get_ydata(), strict=True)] == [(80.0, 90.0)]
    assert [*line.get_xdata()] == [*line.get_ydata()] == [40.0, 125.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["within the uncertainty: 2", "larger: 1"]
    assert len(coverage_figure([]).axes[0].lines) == 2


def test_the_learning_curve_shows_the_intervals_that_are_known(finished_campaign: RunDirectory) -> None:
    rows = errors_table(finished_campaign)
    assert [row.before_forces_95 for row in rows] == [None] * 4  # of three structures
    assert [len(axes.collections) for axes in learning_curve_figure(rows).axes] == [0, 0]
    rows[2:] = [replace(row, before_forces_95=(10.0, 20.0 + row.generation)) for row in rows[2:]]
    energies, forces = learning_curve_figure(rows).axes
    band, lines = forces.collections
    assert len(energies.collections) == 0
    assert [segment.tolist() for segment in lines.get_segments()] == [
        [[rows[1].n_labels, 10.0], [rows[1].n_labels, 22.0]],
        [[rows[2].n_labels, 10.0], [rows[2].n_labels, 23.0]],
    ]
    assert band.get_paths()[0].get_extents().height == pytest.approx(13.0)


def test_page_and_markdown_say_how_far_the_potential_can_be_trusted(
    finished_campaign: RunDirectory, page: Page
) -> None:
    sentence = "600 K: too few to say (6 audits, expected 30). Samples without a new label: 3 with a failed label."
    assert sentence in page.words
    assert sentence in generation_markdown(finished_campaign, 3)
    assert "600 K: too few to say (4 audits" in generation_markdown(finished_campaign, 2)
    assert "How far the potential can be trusted" not in generation_markdown(finished_campaign, 0)


def test_the_coverage_of_the_uncertainty_is_said_once_on_page_and_in_markdown(campaign_on_disk: RunDirectory) -> None:
    path = campaign_on_disk.generation(3).manifest
    manifest = read_json(path)
    manifest["details"]["coverage"] = {"n_covered": 11, "n": 12, "expected": 0.9}
    write_json(path, manifest)
    sentence = "Generation 3, before training: stated uncertainty covered 92 % of 12 (expected 90)."
    assert generation_markdown(campaign_on_disk, 3).count(sentence) == 1
    assert Page(write_report(campaign_on_disk).read_text()).words.count(sentence) == 1

    for index in range(1, 4):  # with enough audits, the statement on all of them takes its place
        path = campaign_on_disk.generation(index).manifest
        manifest = read_json(path)
        audits = [{**audit, "uncertainty": 1.0, "coverage": 0.9} for audit in manifest["details"]["audits"]]
        manifest["details"]["audits"] = audits * 20
        write_json(path, manifest)
    for text in (generation_markdown(campaign_on_disk, 3), write_report(campaign_on_disk).read_text()):
        assert text.count("stated uncertainty covered") == 1
        assert sentence not in text


def test_failures_are_counted_by_reason(finished_campaign: RunDirectory) -> None:
    manifests = [finished_campaign.read_manifest(generation) for generation in range(4)]
    manifests[1]["details"]["walkers"][0]["rejections"] = [{"reason": "force", "step": 3, "value": 50.0, "limit": 40.0}]
    labels, guards = failures_by_reason(manifests)
    assert labels == {"scf_not_converged": 3}
    assert guards == {"force": 1}


def test_figures_are_those_for_which_there_are_data(finished_campaign: RunDirectory) -> None:
    assert set(generation_figures(finished_campaign, 0)) == {"parity", "training"}
    assert set(generation_figures(finished_campaign, 2)) == {
        "parity",
        "learning_curve",
        "walkers",
        "observables",
        "training",
    }


def test_figures_are_written_to_the_folder_of_the_generation(campaign_on_disk: RunDirectory) -> None:
    files = write_figures(campaign_on_disk, 0)
    assert {path.parent for path in files} == {campaign_on_disk.generation(0).path / "figures"}
    assert all(matplotlib.image.imread(path).std() > 0 for path in files)


def test_figures_drawn_in_several_threads_are_equal(finished_campaign: RunDirectory) -> None:
    with ThreadPoolExecutor(3) as executor:
        first, *others = executor.map(lambda _: generation_figures(finished_campaign, 0), range(3))
    assert all(other == first for other in others)


def test_each_figure_is_drawn_once_in_each_format(
    campaign_on_disk: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, renderer: (drawn.append(figure), draw(figure, renderer)))
    pictures = CampaignPictures(campaign_on_disk)

    def show() -> tuple[str, str, dict[str, bytes]]:
        markdown = generation_markdown(campaign_on_disk, 3, pictures)
        return (
            markdown,
            write_report(campaign_on_disk, pictures).read_text(),
            generation_figures(campaign_on_disk, 3, pictures),
        )

    rendered = show()
    n_shown = len(drawn)
    n_svg, n_png = rendered[1].count("data:image/svg+xml"), len(rendered[2])
    assert n_shown == n_svg + n_png  # the pictures of the artifact are those of the files, only smaller
    assert show() == rendered
    assert len(drawn) == n_shown

    campaign_on_disk.comparison.unlink()
    assert show() != rendered
    assert len(drawn) == n_shown + 2  # the learning curve alone, in both formats


def test_figures_leave_the_global_state_of_matplotlib_alone() -> None:
    code = "import sys, surveyor.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_markdown_of_a_generation_is_small_and_shows_its_errors(finished_campaign: RunDirectory) -> None:
    markdown = generation_markdown(finished_campaign, 3)
    row = errors_table(finished_campaign)[3]
    assert len(markdown) < 300_000
    assert f"| {number(row.test_energy_meV_per_atom)} |" in markdown
    assert markdown.count("data:image/png;base64,") == 2
    assert "label: scf_not_converged" in markdown


def test_markdown_knows_nothing_of_later_generations(finished_campaign: RunDirectory) -> None:
    markdown = generation_markdown(finished_campaign, 0)
    assert markdown.startswith("# Generation 0 (bootstrap)\n")
    assert "\n| 1 |" not in markdown


def test_the_table_of_walkers_has_the_centres_of_windows(campaign_on_disk: RunDirectory) -> None:
    manifest = read_json(campaign_on_disk.generation(3).manifest)
    assert "Window" not in walkers_table(manifest).head
    window = {"variable": "torsion(0,1,2,3)", "centre": -170.0}
    first, *others = manifest["details"]["walkers"]
    manifest["details"]["walkers"] = [{**first, "window": window}, *others]
    table = walkers_table(manifest)
    assert table.head[1] == "Window"
    assert [row[1] for row in table.rows] == ["torsion(0,1,2,3) = -170", *[NOTHING] * len(others)]


def test_what_a_selector_has_chosen_is_in_report_and_artifact(campaign_on_disk: RunDirectory) -> None:
    path = campaign_on_disk.generation(3).manifest
    manifest = read_json(path)
    assert chosen_table(manifest) is None
    one = {"name": "g003-w000-0-step-40", "score": 1.25, "moved_on": 2, "energy_error": 3.5, "forces_error": 40.0}
    manifest["details"]["chosen"] = [one, {**one, "name": "g002-w001-0", "score": None}]
    write_json(path, manifest)
    table = chosen_table(manifest)
    assert table is not None
    assert table.rows[0] == ("g003-w000-0-step-40", "1.25", "2", "3.50", "40.0")
    assert table.rows[1][:2] == ("g002-w001-0", NOTHING)
    assert "g003-w000-0-step-40" in Page(write_report(campaign_on_disk).read_text()).words
    assert "## Chosen structures" in generation_markdown(campaign_on_disk, 3)


def test_the_failed_label_of_a_chosen_structure_has_its_walker_and_rows_are_in_walkers_order(
    campaign_on_disk: RunDirectory,
) -> None:
    path = campaign_on_disk.generation(3).manifest
    manifest = read_json(path)
    keys = {each["index"]: each["label_key"] for each in manifest["details"]["walkers"]}
    one = {"score": None, "moved_on": 2, "energy_error": None, "forces_error": None}
    names = {2: "g003-w002-0-step-40", 1: "g001-w001-0-step-5", 3: "g003-late-0"}
    chosen = [{**one, "name": name, "label_key": keys[index]} for index, name in names.items()]
    again = {**one, "name": "g001-w001-0-step-10", "label_key": "v1:x"}
    for each in manifest["details"]["walkers"]:
        each["label_key"] = keys[0] if each["index"] == 0 else None
    manifest["details"]["chosen"] = [again, *chosen]
    manifest["labels"] |= dict.fromkeys(keys.values(), "failed")
    write_json(path, manifest)
    failed = Dataset.load(campaign_on_disk.generation(3).set_file("failed"))
    others = [failed[-1].copy() for _ in range(3)]
    for atoms, index in zip(others, (3, 2, 1), strict=True):
        atoms.info[KEY] = keys[index]
    Dataset([*others, *failed]).save(campaign_on_disk.generation(3).set_file("failed"))

    table = failed_labels_table(campaign_on_disk, [manifest])
    assert table is not None
    assert [row[table.head.index("Walker")] for row in table.rows] == ["0", "1", "2", NOTHING]
    chosen_ones = chosen_table(manifest)
    assert chosen_ones is not None
    assert [row[0] for row in chosen_ones.rows] == [
        "g001-w001-0-step-5",
        "g001-w001-0-step-10",
        "g003-w002-0-step-40",
        "g003-late-0",
    ]


def test_words_in_an_artifact_are_shown_as_they_are(campaign_on_disk: RunDirectory) -> None:
    theory = read_json(campaign_on_disk.theory)
    write_json(campaign_on_disk.theory, theory | {"name": r"__init__ *a* `b` [c] ~~d~~ \ <e> & |f|"})
    assert r"at \_\_init\_\_ \*a\* \`b\` \[c\] \~\~d\~\~ \\ &lt;e> &amp; \|f\|." in generation_markdown(
        campaign_on_disk, 1
    )


def test_the_table_of_walkers_has_their_progress_along_ramps(campaign_on_disk: RunDirectory) -> None:
    manifest = read_json(campaign_on_disk.generation(3).manifest)
    assert "Ramp" not in walkers_table(manifest).head
    first, *others = manifest["details"]["walkers"]
    ramp = {"progress": 0.25, "pressure_MPa": 5.0}
    manifest["details"]["walkers"] = [{**first, "ramp": ramp}, *({**other, "ramp": None} for other in others)]
    table = walkers_table(manifest)
    assert table.head[1] == "Ramp"
    assert [row[1] for row in table.rows] == ["25 %", *[NOTHING] * len(others)]


def test_a_ramp_has_the_temperatures_of_both_ends(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    ramp = {"method": "langevin", "temperature_K": 300.0, "final_temperature_K": 600.0}
    groups = [ramp, {**ramp, "final_temperature_K": None}, {"method": "nve", "temperature_K": 900.0}]
    write_json(directory.parameters, {"parameters": {"walkers": groups}})
    assert thermostats_K(directory) == [300.0, 600.0]


def test_markdown_of_many_walkers_stays_small(campaign_on_disk: RunDirectory) -> None:
    path = campaign_on_disk.generation(3).manifest
    manifest = read_json(path)
    (walker, *_) = manifest["details"]["walkers"]
    manifest["details"]["walkers"] = [{**walker, "index": index, "reason": "a|b\n<c>"} for index in range(2000)]
    write_json(path, manifest)
    markdown = generation_markdown(campaign_on_disk, 3)
    assert len(markdown) < 300_000
    assert "and 1970 more" in markdown
    assert "a\\|b &lt;c>" in markdown


def test_a_generation_that_is_not_complete_is_refused(finished_campaign: RunDirectory) -> None:
    with pytest.raises(InputError, match="generation 7"):
        generation_markdown(finished_campaign, 7)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, NOTHING), (0.0, "0"), (0.012345, "0.0123"), (1.2345, "1.23"), (123.45, "123"), (12345.0, "12345")],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text
