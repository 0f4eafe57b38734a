"""The page on a data set: it holds all it shows, and its sentences follow the numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from napari_prosma.data.case import Case, Image
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.inspection import findings
from napari_prosma.inspection.data_set import (
    CaseNumbers,
    DataSetInspection,
    ModelNumbers,
    SkipNumbers,
    deviations_of,
    inspect_cases,
)
from napari_prosma.inspection.data_set_trials import Trials, run_trials
from napari_prosma.inspection.html import About, write_data_set
from napari_prosma.training.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
Row = dict[str, str | float]
HOSTILE = "<script>alert(1)</script> & 'co'"


def result_of(events: Iterator[Event]) -> object:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last.result


class Links(HTMLParser):
    """Tags that are open, and everything that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Trials]:
    """Folder of a report on six cases, one of them with a name that is markup, and the tests in it."""
    folder = tmp_path_factory.mktemp("report")
    first = replace(make_checkpoint(), config={"data": "/home/somebody/busi", "seed": 7})
    twins = {"plain": make_checkpoint("none")}
    cases = [replace(ultrasound[0], name=HOSTILE), *ultrasound[1:]]
    found = result_of(inspect_cases(first, cases, folder, name="prosma", twins=twins))
    trials = result_of(run_trials(first, cases[:1], folder, name="prosma", twins=twins))
    assert isinstance(found, DataSetInspection)
    assert isinstance(trials, Trials)
    found.failed["torn"] = "'torn.png' is cut short"
    about = About("busi", "six phantoms", ("read as gray",))
    page = result_of(write_data_set(found, cases, folder, about, trials, 1, "cpu"))
    assert page == folder / "report.html"
    return folder, trials


def test_the_page_loads_nothing_from_elsewhere_and_its_tags_are_closed(written: tuple[Path, Trials]) -> None:
    links = Links()
    page = (written[0] / "report.html").read_text(encoding="utf-8")
    links.feed(page)
    assert links.open == []
    assert len(links.loaded) >= 10
    assert all(
        link.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for link in links.loaded
    )
    assert "@import" not in page
    assert "url(" not in page


def test_names_are_no_markup_and_folders_of_a_person_are_not_told(written: tuple[Path, Trials]) -> None:
    page = (written[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "somebody" not in page
    assert "data: busi" in page


def test_the_page_says_what_was_inspected_what_failed_and_what_words_mean(
    written: tuple[Path, Trials],
) -> None:
    page = " ".join((written[0] / "report.html").read_text(encoding="utf-8").split())
    for said in ("six phantoms", "read as gray", "&#39;torn.png&#39; is cut short", "gate floor", "seed: 7"):
        assert said in page
    assert not re.search(r"% of the skip (is |was )?removed", page)
    assert "not how much of a skip is cut" in page


def test_every_number_is_in_a_table_beside_the_page(written: tuple[Path, Trials]) -> None:
    rows = {}
    for name in ("measures", "summary", "cases", "channels"):
        with open(written[0] / f"{name}.csv", newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert len(rows["measures"]) == 6 * 2 * 2
    zeros = [
        float(r["z_zero_fraction"]) for r in rows["measures"] if r["model"] == "prosma" and r["skip"] == "1"
    ]
    said = next(
        r for r in rows["summary"]
        if (r["model"], r["skip"], r["measure"]) == ("prosma", "1", "z_zero_fraction")
    )  # fmt: skip
    assert float(said["mean"]) == pytest.approx(sum(zeros) / 6)
    assert [r["case"] for r in rows["cases"]][-1] == "torn"
    assert {r["skip"] for r in rows["channels"]} == {"1", "2"}
    for test in written[1].rows:
        for kind in ("svg", "png", "csv"):
            assert (written[0] / "plots" / f"{test}.{kind}").is_file()
    assert len(list((written[0] / "pictures").iterdir())) == 6


def test_a_pictured_case_shows_the_masks_of_all_models(written: tuple[Path, Trials]) -> None:
    page = (written[0] / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="masks of the models side by side of ') == 1
    (drawing,) = (written[0] / "pictures").glob("*_side_by_side.svg")
    said = drawing.read_text(encoding="utf-8")
    for model in ("prosma, lambda = 0 (not retrained)", "no mask: plain"):
        assert f"<!-- {model} -->" in said


def test_tests_that_were_done_are_not_done_again(
    written: tuple[Path, Trials], ultrasound: list[Case], make_checkpoint: Make
) -> None:
    def cannot() -> Image:
        raise DataError("it was read again")

    first = replace(make_checkpoint(), config={"data": "/home/somebody/busi", "seed": 7})
    twins = {"plain": make_checkpoint("none")}
    unread = Case(HOSTILE, cannot)
    again = result_of(run_trials(first, [unread], written[0], name="prosma", twins=twins))
    assert isinstance(again, Trials)
    assert again.rows == written[1].rows
    events = list(run_trials(make_checkpoint(seed=9), [unread], written[0], name="prosma"))
    assert any("read again" in event.message for event in events if isinstance(event, Notice))


def test_a_gate_without_a_threshold_says_which_tests_do_not_apply(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    trials = result_of(run_trials(make_checkpoint("none"), ultrasound[:1], tmp_path))
    assert isinstance(trials, Trials)
    assert set(trials.not_applied) == {"deletion_curve", "threshold_sweep", "sanity_check"}
    assert set(trials.rows) == {"leave_one_out", "noise_test"}


# ---- sentences ------------------------------------------------------------------------------------------


def inspected(make_checkpoint: Make, **measures: tuple[float, float]) -> DataSetInspection:
    """Six equal cases with two skips, whose measures are given per skip."""
    skips = {
        level: SkipNumbers({name: values[level - 1] for name, values in measures.items()}) for level in (1, 2)
    }
    cases = [CaseNumbers(str(n), "", "unseen", "label", {"m": ModelNumbers(skips)}, {}) for n in range(6)]
    return DataSetInspection({"m": make_checkpoint()}, tuple(cases), deviations_of(cases), {})


def test_a_mask_is_said_to_tell_apart_only_where_it_does(make_checkpoint: Make) -> None:
    said = findings.telling_apart(inspected(make_checkpoint, psi_auc=(0.9, 0.52)))
    assert said.startswith(
        "In m psi is higher inside the foreground at 0.90 (skip 1), tells nothing at 0.52 (skip 2)"
    )
    assert "lower inside at 0.20 (skip 1)" in findings.telling_apart(
        inspected(make_checkpoint, psi_auc=(0.2, 0.5))
    )


def test_energy_inside_and_outside_are_compared_skip_by_skip(make_checkpoint: Make) -> None:
    found = inspected(make_checkpoint, retained_energy_inside=(0.4, 0.1), retained_energy_outside=(0.2, 0.3))
    assert "more inside than outside at skip 1, less at skip 2" in findings.energy_inside(found)
    assert "20 % (skip 1) to 30 % (skip 2)" in findings.energy_outside(found)


def test_the_floor_passes_but_with_prosma_exact(make_checkpoint: Make) -> None:
    found = inspected(make_checkpoint, floor_pixel_fraction=(0.2, 0.2), gate_floor=(0.45, 0.45))
    assert "not zero there but stands at the gate floor of 0.45" in findings.without_evidence(found)
    exact = replace(found, checkpoints={"m": make_checkpoint("prosma-exact")})
    assert "psi is exactly zero there" in findings.without_evidence(exact)


@pytest.mark.parametrize(
    ("gain", "said"), [(0.2, "psi is faithful here"), (-0.2, "psi misleads here"), (0.0, "do not show")]
)
def test_deletion_is_called_faithful_only_where_it_beats_chance(gain: float, said: str) -> None:
    rows: list[Row] = [
        {"image": str(n), "order": order, "q": q, "dice": 0.6 + (gain + 0.02 * (-1) ** n) * (order == "psi")}
        for n in range(8)
        for order in ("psi", "random")
        for q in (0.0, 0.5)
    ]
    assert said in findings.deletion_curve(rows)
    few = [row for row in rows if row["image"] in ("0", "1")]
    assert "too few cases to tell" in findings.deletion_curve(few)


def test_thresholds_that_change_nothing_are_said_to_change_nothing() -> None:
    def rows(dice: Callable[[float], float]) -> list[Row]:
        return [
            {"image": "a", "skip": 1, "scale": s, "dice": dice(s), "z_zero_fraction": s / 4}
            for s in (0.0, 1.0, 4.0)
        ]

    assert "make no difference" in findings.threshold_sweep(rows(lambda s: 0.8 + s / 1000))
    assert "highest times 0, 0.900" in findings.threshold_sweep(rows(lambda s: 0.9 - s / 10))
    assert "No other scale is better" in findings.threshold_sweep(rows(lambda s: 0.8 - abs(s - 1) / 10))


def test_under_noise_models_are_told_apart_only_where_cases_show_it() -> None:
    def rows(loss: float) -> list[Row]:
        return [
            {
                "image": str(n), "model": model, "kind": "speckle", "strength": strength, "skip": 1,
                "dice": 0.8 - strength * ({"a": 0.1, "b": loss}[model] + 0.01 * (-1) ** (n + (model == "b"))),
            }
            for n in range(8) for model in ("a", "b") for strength in (0.0, 1.0)
        ]  # fmt: skip

    assert "a loses less than b" in findings.noise_test(rows(0.3))
    assert "a loses more than b" in findings.noise_test(rows(0.0))
    assert "these cases do not show" in findings.noise_test(rows(0.1))


def test_a_map_that_survives_a_random_decoder_is_told() -> None:
    rows: list[Row] = [
        {"image": "a", "randomised": "decoder", "skip": skip, "correlation": value}
        for skip, value in ((1, 0.1), (2, 0.95))
    ]
    assert "At skip 2 the map hardly shows what the decoder learned" in findings.sanity_check(rows)


def test_leaving_out_what_does_nothing_is_said_to_do_nothing() -> None:
    rows: list[Row] = [
        {"image": "a", "skip": skip, "part": part, "effect": 0.1, "dice_change": change}
        for skip, part, change in (
            (1, "psi", 0.001),
            (2, "psi", -0.002),
            (1, "whole", -0.3),
            (2, "whole", 0.0),
        )
    ]
    said = findings.leave_one_out(rows)
    assert "skip 1 matters most when the whole skip is cut (Dice -0.300)" in said[0].lower() + said[1:]
    assert "at no skip does it matter whether its mask is set to 1" in said


def test_where_nothing_is_found_the_probabilities_are_told_and_not_a_dice_of_one() -> None:
    rows: list[Row] = [
        {"image": "a", "skip": 1, "part": "whole", "effect": 0.004, "dice": 1.0, "dice_change": 0.0}
    ]
    said = findings.leave_one_out(rows)
    assert "mean change of the probabilities 0.004" in said
    assert "Dice" not in said
    assert said.startswith("At no skip does it matter")
    found = findings.leave_one_out([{**rows[0], "agreement": 0.0}])
    assert found.startswith("Skip 1 matters most")


def test_an_overlap_with_the_own_result_is_not_called_a_dice_against_the_truth() -> None:
    rows: list[Row] = [
        {"image": "a", "skip": 1, "scale": s, "agreement": 1 - abs(s - 1) / 10, "z_zero_fraction": s / 4}
        for s in (0.0, 1.0, 4.0)
    ]
    said = findings.threshold_sweep(rows)
    assert "Dice against the unchanged result is 0.900" in said
    assert "Without a label it cannot be told whether another scale is better." in said


def test_one_case_alone_does_not_make_a_skip_matter() -> None:
    rows: list[Row] = [
        {"image": str(n), "skip": 1, "part": "whole", "effect": 0.1, "dice_change": -1.0 if n == 0 else 0.0}
        for n in range(8)
    ]
    assert "these cases do not show at which skip it matters" in findings.leave_one_out(rows).lower()
