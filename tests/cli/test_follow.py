"""What a shell shows: names as they are, errors in one line, and of the unforeseen the place of a log."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console

from napari_prosma.cli import follow
from napari_prosma.cli.follow import describe, exit_codes, say
from napari_prosma.cli.tables import table
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import DataSet
from napari_prosma.errors import DataError
from napari_prosma.events import EpochEnd, Finished, Verdict
from napari_prosma.training.figures import validation_figures


def shown(rows: list[dict[str, str | float]]) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(table(rows))
    return out.getvalue()


@pytest.mark.parametrize(
    "name", ["case [left].png", "case [/red].png", "a:warning:b.png", "[link=x]a[/]", "a\\[b]"]
)
def test_names_in_tables_are_no_markup(name: str) -> None:
    text = shown([{"image": name, f"{name} (mm2)": 1.5}])
    assert text.count(name) == 2


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\x07 [bold]c :warning:")
    assert capsys.readouterr().out == "a\\x1b[2Jb\\x07 [bold]c :warning:\n"
    assert "\x1b" not in shown([{"a\x1b[31m": "b\x1b]0;title\x07"}])


def test_what_was_decided_begins_with_a_capital(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rule = LabelRule.instances("cell")
    data = DataSet("names", tmp_path, (), rule.class_names, 1, 2, "2 cases", (), rule)
    describe(data, ("labels of 'a.png' were rounded", "'b.png' is not used"))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Labels of 'a.png' were rounded",
        "'b.png' is not used",
    ]


def test_an_error_of_ours_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end, exit_codes():
        raise DataError("'a\nerror: b [red].png' is damaged")
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == "error: 'a\\nerror: b [red].png' is damaged\n"


def test_what_nobody_foresaw_is_one_line_with_the_place_of_its_details(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "user_log_path", lambda *_, **__: tmp_path / "logs")
    with pytest.raises(typer.Exit) as end, exit_codes():
        raise RecursionError("too\ndeep")
    assert end.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    log = tmp_path / "logs" / "prosma-errors.log"
    assert line == (
        f"error: unexpected error (RecursionError: too); please report it; the details are in '{log}': take "
        f"names of patients out before you attach it"
    )
    assert "Traceback" in log.read_text()


def test_an_exit_that_was_meant_stays_as_it_is() -> None:
    with pytest.raises(typer.Exit) as end, exit_codes():
        raise typer.Exit(7)
    assert end.value.exit_code == 7


def test_validation_without_any_structure_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    ended = EpochEnd(1, 3, 0.5, 1e-3, 1.0, validation_figures([]), {}, 0)
    follow.follow(event for event in [ended, Finished(None)])
    said = capsys.readouterr().out
    assert "unknown (no validation case holds a structure)" in " ".join(said.split())
    assert "nan" not in said


def test_the_last_verdict_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    ended = EpochEnd(1, 3, 0.5, 1e-3, 1.0, {"dice": 0.5, "iou": 0.4}, {}, 0)
    good, better = Verdict(1, "Finds half", ("train on",)), Verdict(2, "Finds most")
    follow.follow(event for event in [ended, good, ended, better, better, Finished(None)])
    said = capsys.readouterr().out
    assert said.count("Finds half. train on") == said.count("Finds most") == 1
    unchanged = [ended, good, ended, good, Finished(None)]
    follow.follow(event for event in unchanged)
    assert capsys.readouterr().out.count("Finds half") == 2
