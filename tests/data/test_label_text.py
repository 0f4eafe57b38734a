"""Which stored value is which class, as a line that a shell takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_prosma.data.labels import IGNORE, LabelRule, rule_from_text, rule_to_text
from napari_prosma.errors import ConfigError

NAMES = ("background", "liver", "tumour")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("0=background,1=liver,2=tumour", LabelRule("values", NAMES, (0, 1, 2))),
        ("1=background,7=liver,unlabelled=0", LabelRule("values", NAMES[:2], (1, 7), unlabelled=0)),
        ("0=background,on=liver", LabelRule("on", NAMES[:2])),
        ("0=outside,any=gland", LabelRule("any", ("outside", "gland"))),
        ("0=background,above=liver,slices", LabelRule("above", NAMES[:2], labelled_slices_only=True)),
        (
            "0=background,1=liver,2=tumour,5=liver,9=background",
            LabelRule("values", NAMES, (0, 1, 2), merged=((5, 1), (9, 0))),
        ),
        ("255=background,0=liver", LabelRule("values", NAMES[:2], (255, 0))),
        (
            '0=background,"1=liver, left = ""old"""',
            LabelRule("values", (NAMES[0], 'liver, left = "old"'), (0, 1)),
        ),
    ],
)
def test_a_rule_is_one_line_and_the_line_is_the_rule(text: str, rule: LabelRule) -> None:
    assert rule_to_text(rule) == text
    assert rule_from_text(text) == rule


@pytest.mark.parametrize("text", ["0=background, 1=liver", "0 =background,1 =liver"])
def test_blanks_where_a_person_sets_them_do_not_count(text: str) -> None:
    assert rule_from_text(text) == LabelRule("values", NAMES[:2], (0, 1))
    assert rule_from_text(f'{text}, unlabelled =7, slices, "8=a, b"') == LabelRule(
        "values", (*NAMES[:2], "a, b"), (0, 1, 8), 7, labelled_slices_only=True
    )


def test_of_a_single_class_the_background_goes_without_saying() -> None:
    assert rule_from_text("any=gland") == LabelRule.instances("gland")
    assert rule_from_text("on=lesion,slices") == LabelRule("on", ("background", "lesion")).sparse("slices")


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
values = st.lists(st.integers(-(2**31), 2**32), min_size=2, max_size=5, unique=True)


@st.composite
def rules(draw: st.DrawFn) -> LabelRule:
    kind = draw(st.sampled_from(["on", "above", "any", "values"]))
    stored = tuple(draw(values)) if kind == "values" else (0, 1)
    told = draw(st.lists(names, min_size=2, max_size=len(stored), unique=True))
    told += [draw(st.sampled_from(told)) for _ in stored[len(told) :]]
    rule = LabelRule.of_pairs(zip(stored, told, strict=True))
    rule = rule if kind == "values" else LabelRule(kind, rule.class_names)
    unlabelled, slices = draw(st.none() | st.integers(-5, 300)), draw(st.booleans())
    return replace(rule, unlabelled=unlabelled, labelled_slices_only=slices)


@settings(deadline=None)
@given(rules())
def test_every_rule_comes_back_from_its_line(rule: LabelRule) -> None:
    assert rule_from_text(rule_to_text(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "liver",
        "0=background",
        "0=background,one=liver",
        "0=background,0=liver",
        "0=liver,1=liver",
        "0=background,1=liver,on=tumour",
        "3=background,on=liver",
        "on=liver,0=background",
        "0=background,1=liver,unlabelled=none",
        '0=background,"1=liver',
        "0=background,1=liver\n2=tumour",
        "slices",
    ],
)
def test_a_line_that_is_no_rule_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match="not understood; write every stored value once"):
        rule_from_text(text)


@pytest.mark.parametrize("far", [2, 10**6, -1])
def test_classes_are_those_of_the_line_in_whatever_order_their_values_come(far: int) -> None:
    """``far``: values beyond a table are looked up in another way."""
    rule = LabelRule("values", NAMES, (255, 0, far))
    assert rule.apply(np.array([0, 255, far, 0], np.int32), "a").tolist() == [1, 0, 2, 1]


@pytest.mark.parametrize("far", [5, 10**6, -1])
def test_values_of_one_name_are_one_class(far: int) -> None:
    rule = LabelRule.of_names({-7: "background", 1: "liver", 2: "tumour", far: "liver", 3: "background"})
    assert rule.class_names == NAMES
    stored = np.array([-7, 1, 2, far, 3], np.int64)
    assert rule.apply(stored, "a").tolist() == [0, 1, 2, 1, 0]
    assert f"{far} is liver" in rule.in_words()
    scribbles = LabelRule.of_names({0: "none", 1: "outside", 2: "liver", far + 8: "liver", 3: "outside"})
    found = scribbles.sparse("scribbles").apply(np.array([0, 1, 2, far + 8, 3]), "a")
    assert found.tolist() == [IGNORE, 0, 1, 1, 0]
