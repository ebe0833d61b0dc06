"""The command `surveyor` as a whole: its help, its version, and what it says of running work."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.utilities.names import generate_slug

from surveyor import __version__
from surveyor.events.kinds import CampaignBegins, GenerationBegins, Labelled, Sampled
from surveyor.events.log import EventLog
from surveyor.files import write_json
from surveyor.flows.command_line import command_parser, main
from surveyor.flows.run_names import is_made_up
from surveyor.lease import hold_lease
from surveyor.run_directory import RunDirectory

JOURNALS = Path(__file__).parents[1] / "domain" / "journals"
BEGUN = Path(__file__).parents[1] / "begun"  # by the version before, which kept no journal


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def test_the_help_of_each_command_has_an_example_that_works() -> None:
    everything = command_parser()
    for parser in parsers(everything):
        example = parser.format_help().partition("example: ")[2]
        assert example.startswith(parser.prog), parser.prog
        assert everything.parse_args(shlex.split(example)[1:]).command


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"surveyor {__version__}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n", "is empty"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"- 1\n", "holds a list"),
        (b"reference: {emt: {}}\nwalkers: []\nreference: {xtb: {}}\n", "line 3, column 1: found reference again"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "run",
        "sample",
        "label",
        "train",
        "benchmark-labels",
        "check",
        "doctor",
        "labels import {folder}/structures.extxyz --store {folder}/labels --level-of-theory",
    ],
    ids=lambda command: command.partition(" {")[0],
)
def test_a_file_that_holds_no_parameters_is_told_by_each_command(
    command: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_bytes(content)
    (tmp_path / "structures.extxyz").write_bytes((BEGUN / "structures.extxyz").read_bytes())
    assert main([*command.format(folder=tmp_path).split(), str(file)]) == (1 if command == "doctor" else 2)
    said = " ".join("".join(capsys.readouterr()).split())
    assert str(file) in said
    assert message in said
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_status_of_running_work_names_what_it_is_at_and_its_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory(tmp_path)
    write_json(directory.parameters, {"schema_version": 1, "parameters": {"learning": {"n_generations": 4}}})
    log = EventLog(directory.events.path)
    log.append(CampaignBegins())
    log.append(GenerationBegins(generation=2, n_samples=16))
    for index in range(16):
        log.append(Sampled(name=f"g002-w{index:03d}-0"))
    for index in range(7):
        log.append(Labelled(key=f"v1:{index}", new=True))
    with hold_lease(directory.lease):
        assert main(["status", str(tmp_path)]) == 0
        said = capsys.readouterr().out.splitlines()[0]
        assert said.startswith("running: generation 2, labelling 7/16, on ")
        assert int(said.rpartition(", pid ")[2]) > 1
    main(["status", str(tmp_path)])
    assert "pid" not in capsys.readouterr().out


def test_replay_makes_all_decisions_again_and_names_the_first_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (JOURNALS / "0.1.0.dev0" / "overlapped-stopped.jsonl").read_text().splitlines()
    path = RunDirectory(tmp_path).journal
    path.write_text("\n".join(lines) + "\n")
    assert main(["replay", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said == "124 entries, 41 decisions: each decision follows from the entries before it\n"
    number = next(number for number, line in enumerate(lines) if '"entry":"training"' in line)
    lines[number] = lines[number].replace("g001-w001-0", "g001-w099-0")
    path.write_text("\n".join(lines) + "\n")
    assert main(["replay", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"journal.jsonl, entry {number + 1}: found " in said
    assert "g001-w099-0" in said.partition("expected")[0]
    assert "g001-w001-0" in said.partition("expected")[2]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (JOURNALS, "journals is not the run directory of a campaign"),
        (BEGUN / "labelling", "labelling is not the run directory of a campaign"),
        (BEGUN / "nowhere", "nowhere is not the run directory of a campaign"),
        (BEGUN / "campaign", "campaign has no journal.jsonl yet: .* if an earlier surveyor made the campaign, when"),
    ],
)
def test_a_folder_without_a_journal_cannot_be_replayed(
    folder: Path, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(folder)]) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err)
    assert said.out == ""


@pytest.mark.parametrize("n_lines", [1, 60, 124])
def test_the_journal_of_a_running_or_killed_campaign_is_replayed_without_its_last_half_line(
    n_lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (JOURNALS / "0.1.0.dev0" / "overlapped-stopped.jsonl").read_bytes().splitlines(keepends=True)
    journal = RunDirectory(tmp_path).journal
    journal.write_bytes(b"".join(lines[: n_lines - 1]) + lines[n_lines - 1][:-20])
    before = journal.read_bytes()
    status = main(["replay", str(tmp_path)])
    said = capsys.readouterr()
    if n_lines == 1:
        assert (status, said.out) == (2, "")
        assert "journal.jsonl has no entry of a journal" in said.err
    else:
        assert status == 0
        assert said.out.startswith(f"{n_lines - 1} entries, ")
        assert said.out.endswith("\n1 line left incomplete by a run that was killed, or is writing now: passed over\n")
    assert journal.read_bytes() == before


def test_names_that_prefect_makes_up_are_told_from_those_of_users() -> None:
    assert all(is_made_up(generate_slug(2)) for _ in range(500))
    assert all(is_made_up(name) for name in ("Ergonomic-Daniff", "Small-Newt", "Tasty-Vicuña"))
    given = ("copper", "my-copper", "Small-Cu111", "water-64", "Tasty", "campaign copper", "test run 2")
    assert not [name for name in given if is_made_up(name)]
