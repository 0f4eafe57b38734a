"""JSON, CSV and names that somebody else wrote are data: within limits, no formula, no escape sequence."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_prosma.data import texts
from napari_prosma.data.limits import require_inside
from napari_prosma.data.names import as_cell, from_cell, printable
from napari_prosma.data.texts import DEEPEST, parse_json, read_json, read_rows, read_yaml, write_rows
from napari_prosma.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"a":' * 150 + b"1" + b"}" * 150,
        b"{",
        b"",
        b"\xff\xfe\x00",
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=["open brackets", "closed braces", "cut", "empty", "no text", "endless number"],
)
def test_json_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json'") as told:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(told.value)


def test_brackets_within_text_are_no_levels() -> None:
    text = {"note": '[{"' * 3 * DEEPEST, "values": [[1, 2]]}
    assert parse_json(json.dumps(text), "it") == text
    assert parse_json(json.dumps(text).encode("utf-8-sig"), "it") == text


@pytest.mark.parametrize(
    "content",
    [
        "[" * 2000 + "]" * 2000,
        "a: " + "{a: " * 2000 + "}" * 2000,
        "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]",
        "names: !!python/object/apply:os.getcwd []",
        "names: [",
        "\x00",
    ],
    ids=["brackets", "braces", "aliases", "code", "cut", "no text"],
)
def test_yaml_that_unfolds_or_runs_code_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(DataError, match=r"a\.yaml'"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes of this kind")
@pytest.mark.parametrize("read", [read_json, read_yaml, read_rows])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "a")
    with pytest.raises(DataError, match="a pipe"):
        read(tmp_path / "a")


def test_what_is_far_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_BYTES", 10)
    (tmp_path / "a.csv").write_text("a\n" * 10)
    with pytest.raises(DataError, match="far too many"):
        read_rows(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n\xff\xfe,1\n", "no table"),
        (b"x,y\n1,2\n", "no column 'a'"),
        (b'a\n"' + b"1" * 200_000, "no table"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"t\.csv' .*{said}"):
        read_rows(tmp_path / "t.csv", ["a"])


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_comes_back_from_its_cell(text: str) -> None:
    assert from_cell(str(as_cell(text))) == text


def test_no_cell_steers_the_terminal_that_shows_it(tmp_path: Path) -> None:
    name = "a\x1b[2J\x1b]0;mine\x07\u202egnp.exe"
    write_rows(tmp_path / "t.csv", [{"case": name, "path": r"images\x1b.png"}])
    assert "".join((tmp_path / "t.csv").read_text().splitlines()).isprintable()
    assert read_rows(tmp_path / "t.csv") == [{"case": name, "path": r"images\x1b.png"}]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n+", "\uff1d", "\uff20"])
def test_no_cell_begins_a_formula(tmp_path: Path, start: str) -> None:
    name = f'{start}HYPERLINK("http://127.0.0.1";A2).png'
    write_rows(tmp_path / "t.csv", [{"case": name, name: 1.5}])
    with open(tmp_path / "t.csv", newline="") as file:
        heads, cells = csv.reader(file)
    assert heads[1][0] == cells[0][0] == "'"
    assert read_rows(tmp_path / "t.csv") == [{"case": name, name: "1.5"}]


def test_a_formula_after_the_separator_of_another_country_stays_within_quotes(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"case": "a;=1+1", "n": 2}])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == '"a;=1+1",2'


@pytest.mark.parametrize("number", [-1.5, "-1.5", "+3", "-2e-05", "-inf", 7])
def test_numbers_stay_numbers(number: object) -> None:
    assert as_cell(number) == number


def test_rows_need_not_have_the_same_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.csv", [{"a": 1}, {"b": "x"}])
    assert read_rows(tmp_path / "t.csv", ["a", "b"]) == [{"a": "1", "b": ""}, {"a": "", "b": "x"}]


def test_what_would_steer_a_terminal_is_shown_instead() -> None:
    assert printable("a\x1b[2Jb\rc\nd\x9be") == r"a\x1b[2Jb\rc\nd\x9be"
    assert printable("scan\u202egnp.exe") == r"scan\u202egnp.exe"
    assert printable(b"\xff.png".decode(errors="surrogateescape")) == r"\udcff.png"
    assert printable("Müller [links] 肝臓.png") == "Müller [links] 肝臓.png"


@pytest.mark.parametrize(
    "name",
    [
        "../a.raw",
        "b/../../a.raw",
        "/etc/passwd",
        r"\\server\share\a.raw",
        "//server/a",
        "C:\\a.raw",
        "C:a.raw",
        r"..\a",
    ],
)
def test_no_file_is_looked_for_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="points outside its folder"):
        require_inside(tmp_path / "a.nhdr", tmp_path, name)


def test_files_in_the_folder_are_found(tmp_path: Path) -> None:
    assert require_inside(tmp_path / "a.nhdr", tmp_path, "sub/a.raw") == tmp_path / "sub" / "a.raw"
