"""Names of cases as names of files: on every system, and never two cases in one file."""

from __future__ import annotations

from pathlib import PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_prosma.data.names import LONGEST_NAME, file_stem, file_stems, normal

REFUSED = '<>:"/\\|?*'


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("case_17", "case_17"),
        ("psi - dense", "psi_minus_dense"),
        ("left/kidney: T1?", "left_kidney_T1_"),
        ("con", "_con"),
        ("AUX.scan", "_AUX.scan"),
        ("com1", "_com1"),
        ("LPT\u00b2.x", "_LPT\u00b2.x"),
        ("console", "console"),
        ("..", "image"),
        ("scan.", "scan"),
        ("Größe 3", "Größe_3"),
    ],
)
def test_a_stem_is_a_name_that_every_system_takes(name: str, stem: str) -> None:
    assert file_stem(name) == stem
    assert not PureWindowsPath(f"{stem}.json").is_reserved()


@pytest.mark.parametrize(
    "names", [("A1", "a1"), ("a b", "a_b"), ("x:1", "x/1"), ("caf\u00e9", "cafe\u0301"), ("con", "_con")]
)
def test_names_that_would_be_one_file_get_two(names: tuple[str, str]) -> None:
    stems = file_stems([*names, "other"])
    assert len({normal(stem) for stem in stems.values()}) == 3
    assert stems["other"] == "other"
    assert stems == file_stems(["other", *reversed(names)]), "whatever their order"


@given(st.sets(st.text(st.characters(codec="utf-8"), max_size=300), max_size=4))
def test_every_name_has_a_file_of_its_own(names: set[str]) -> None:
    files = [f"{stem}_measures.csv" for stem in file_stems(sorted(names)).values()]
    assert len({normal(file) for file in files}) == len(names)
    for file in files:
        assert not set(file) & {*REFUSED, *map(chr, range(32))}
        assert len(file.encode()) <= LONGEST_NAME
        assert not PureWindowsPath(file).is_reserved()
