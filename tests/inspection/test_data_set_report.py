"""The page on a data set: it holds all it shows, and its sentences follow the numbers."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image as Pictures

from napari_prosma.data.case import Case, Image
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection import data_set_plots as plots
from napari_prosma.inspection import findings
from napari_prosma.inspection.citing import in_methods, without_folders
from napari_prosma.inspection.data_set import (
    CaseNumbers,
    DataSetInspection,
    ModelNumbers,
    SkipNumbers,
    deviations_of,
    inspect_cases,
    read_fitting_case,
)
from napari_prosma.inspection.data_set_trials import Trials, run_trials
from napari_prosma.inspection.faithfulness import Row
from napari_prosma.inspection.html import About, _saved_picture, write_data_set
from napari_prosma.inspection.kinship import (
    ablation_in_words,
    is_another_training,
    not_an_ablation,
    unlike_training,
)
from napari_prosma.inspection.statistics import noting, simultaneous
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
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
    others = {"plain": make_checkpoint("none")}
    cases = [replace(ultrasound[0], name=HOSTILE), *ultrasound[1:]]
    found = result_of(inspect_cases(first, cases, folder, name="prosma", others=others))
    trials = result_of(run_trials(first, cases[:1], folder, name="prosma", others=others))
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


def test_on_paper_no_heading_and_no_line_about_a_case_stands_without_what_follows(
    written: tuple[Path, Trials],
) -> None:
    page = (written[0] / "report.html").read_text(encoding="utf-8")
    before, _ = page.split("{ break-after: avoid; }")
    rules = before.rpartition("}")[2]
    kept = {rule.strip() for rule in rules.split(",")}
    assert kept >= {"h2", "h3", "h2 + p", ".case > p", "dt", "summary"}


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
    assert "not how much of a skip is removed" in page


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
        for kind in ("svg", "csv"):
            assert (written[0] / "plots" / f"{test}.{kind}").is_file()
    assert len(list((written[0] / "pictures").iterdir())) == 3


def test_a_pictured_case_shows_the_masks_of_all_models(written: tuple[Path, Trials]) -> None:
    page = (written[0] / "report.html").read_text(encoding="utf-8")
    assert page.count('alt="masks of the models side by side of ') == 1
    (drawing,) = (written[0] / "pictures").glob("*_side_by_side.png")
    content = base64.b64encode(drawing.read_bytes()).decode()
    assert f"data:image/png;base64,{content}" in page  # encoded once


def test_one_json_holds_every_number_and_sentence_and_the_methods_cite_it(
    written: tuple[Path, Trials],
) -> None:
    kept = json.loads((written[0] / "inspection.json").read_text(encoding="utf-8"))
    page = html.unescape((written[0] / "report.html").read_text(encoding="utf-8"))
    assert len(kept["cases"]) == 6
    assert {model: each["gate"] for model, each in kept["models"].items()} == {
        "prosma": "prosma",
        "plain": "none",
    }
    assert kept["models"]["prosma"]["seed"] == 7
    assert kept["tests"] == json.loads(json.dumps(written[1].rows))
    assert "somebody" not in json.dumps(kept)
    for sentence in kept["sentences"].values():
        assert sentence in page
    assert kept["intervals"].keys() == kept["sentences"].keys()
    worth = {tuple(each["of"]): each for each in kept["intervals"]["leave_one_out"]}
    for (skip, part), each in worth.items():
        rows = [r for r in kept["tests"]["leave_one_out"] if (r["skip"], r["part"]) == (skip, part)]
        assert each["mean"] == pytest.approx(np.mean([row["worth"] for row in rows]))
        assert each["low"] is None  # too few cases
    assert kept["association"]["cases"] == 0
    methods = in_methods(kept)
    assert kept["methods"] == methods
    said = {text for tag in ("figcaption", 'p class="lead"') for text in re.findall(f"<{tag}>(.*?)<", page)}
    assert {methods, kept["lead"], *kept["sentences"].values()} > said > {kept["lead"]}
    assert kept["cautions"]["plain"] == [
        "The model has no gates: every skip passes whole, so there is no mask to show."
    ]
    assert kept["cautions"]["prosma"][0] in page
    assert kept["about"]["notices"] == ["read as gray"]
    assert kept["models"]["prosma"]["weights"] in methods
    assert re.search(r"prosma \(2D, gate prosma, \d+ steps, seed 7, weights ", methods)
    assert kept["models"]["prosma"]["plan"].startswith("2D, 1 channel, classes background, lesion; ")
    assert "<dt>foreground</dt><dd>lesion, as labelled; without a label as the model predicts.</dd>" in page
    assert "on 6 images, 6 with a label and 6 independent" in methods
    assert re.search(r"\(4 shares\).* and chance \(mean of 2 random orders\); lambda was", methods)
    assert "that of 3 random decoders (seeds 0, 1, 2); " in methods
    assert "Other random draws use seed 0; noise" in methods
    assert "bootstrap" not in methods  # six cases have no interval
    assert "Spearman" not in methods


def test_the_methods_tell_of_the_intervals_that_there_are(make_checkpoint: Make, tmp_path: Path) -> None:
    found = inspected(make_checkpoint, 12, psi_auc=(0.9, 0.9), psi_mean=(0.5, 0.5))
    for n, case in enumerate(found.cases):
        case.models["m"].skips[1].measures.update(psi_auc=0.9 + 0.001 * n, psi_mean=0.5 + 0.05 * n**2)
        case.models["m"].overlap["dice"] = 0.9 - 0.01 * n
    found = replace(found, deviations=deviations_of(found.cases))
    result_of(write_data_set(found, [], tmp_path, About("both", "twelve"), pictures=0))
    kept = json.loads((tmp_path / "inspection.json").read_text(encoding="utf-8"))
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Intervals are bootstrap-t at 95 % (4096 resamples" in kept["methods"]
    assert "The 95 % interval of Spearman's rho is by Fisher's transformation" in kept["methods"]
    assert kept["lead"] in page
    assert kept["lead"].endswith(kept["sentences"]["unusual"])
    assert kept["of_cases"].keys() == {case.name for case in found.cases}
    assert all(said.removesuffix(" That is not unusual.") in page for said in kept["of_cases"].values())
    assert f"{kept['association']['rho']:.2f}" in kept["lead"]


def test_the_methods_tell_of_no_test_that_was_not_done() -> None:
    rows: list[Row] = [
        {"image": "a", "skip": 1, "part": "skip mean", "dice": 0.5},
        {"image": "b", "part": "skip zero", "window": "32 x 32 of 40 x 40", "empty": "prediction"},
    ]
    noise: list[Row] = [{"image": "c", "kind": "rician", "strength": s} for s in (0.0, 0.5)]
    kept = {
        "versions": {"napari-prosma": "1", "torch": "2"},
        "cases": [],
        "units": {},
        "models": {},
        "seed": 0,
        "intervals": {},
        "association": {"rho": None},
        "tests": {"leave_one_out": rows, "noise_test": noise},
    }
    methods = in_methods(kept)
    assert (
        " On 3 of the images, 1 with a label, 1 with nothing to lose and not counted, in one window of each "
        "larger image: whole skips were set to their means, and whole skips to zero; Rician noise of "
        "strength 0 to 0.5 was added (as in magnitude images, MR). Random draws use seed 0; noise "
        "and orders also depend on the image."
    ) in methods
    assert "in rising order" not in methods


def test_tests_that_were_done_are_not_done_again(
    written: tuple[Path, Trials],
    ultrasound: list[Case],
    make_checkpoint: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot() -> Image:
        raise DataError("it was read again")

    first = replace(make_checkpoint(), config={"data": "/home/somebody/busi", "seed": 7})
    others = {"plain": make_checkpoint("none")}
    unread = Case(HOSTILE, cannot)
    again = result_of(run_trials(first, [unread], written[0], name="prosma", others=others))
    assert isinstance(again, Trials)
    assert again.rows == written[1].rows
    events = list(run_trials(make_checkpoint(seed=9), [unread], written[0], name="prosma"))
    assert any("read again" in event.message for event in events if isinstance(event, Notice))
    monkeypatch.setattr("napari_prosma.inspection.kept.MEANING", "of another version")
    events = list(run_trials(first, [unread], written[0], name="prosma", others=others))
    assert any("read again" in event.message for event in events if isinstance(event, Notice))


def test_a_gate_without_a_threshold_says_which_tests_do_not_apply(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    trials = result_of(run_trials(make_checkpoint("none"), ultrasound[:1], tmp_path))
    assert isinstance(trials, Trials)
    assert set(trials.not_applied) == {"deletion_curve", "threshold_sweep", "sanity_check"}
    assert set(trials.rows) == {"leave_one_out", "noise_test"}
    assert all(why.startswith("left out: this model has no gates") for why in trials.not_applied.values())


def test_a_test_that_some_cases_do_not_allow_says_how_many(make_checkpoint: Make, tmp_path: Path) -> None:
    checkpoint = replace(make_checkpoint("none"), config={"modality": "mr"})
    values = np.random.default_rng(0).random((1, 16, 16), np.float32)
    cases = [Case.from_arrays("a", values), Case.from_arrays("b", values - 1), Case.from_arrays("c", values)]
    trials = result_of(run_trials(checkpoint, cases, tmp_path))
    assert {row["image"] for row in trials.rows["noise_test"]} == {"a", "c"}
    said = trials.not_applied["noise_test"]
    assert said.startswith("left out in 1 of 3 cases, such as 'b': rician noise is that of images without")


def test_what_was_decided_about_an_image_is_told_again_and_in_the_report(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    """By whoever resumes, too: a page of another kind of images would be read as if they were the usual."""
    values = np.random.default_rng(0).random((1, 16, 16), np.float32)
    usual = Case.from_arrays("usual", values, np.ones((16, 16), np.uint8))
    geometry = Geometry.pixels(2)
    torn = Case(
        "torn",
        lambda: Image(values, geometry, ("12 % of the image is NaN",)),
        lambda: np.ones((16, 16), np.uint8),
        label_notices=lambda: ("a contour was left out",),
    )
    cases, checkpoint = (usual, torn), make_checkpoint("none")
    told = ["a contour was left out", "12 % of the image is NaN"]
    others = {gate: make_checkpoint(gate) for gate in ("scale", "dense")}  # of the image, not of a model
    for _ in range(2):
        events = list(inspect_cases(checkpoint, cases, tmp_path, name="m", others=others))
        assert [e.message for e in events if isinstance(e, Notice) and "no gates" not in e.message] == told
        assert "Inspecting 2 cases with 3 models" in [e.message for e in events if isinstance(e, Started)]
    found = result_of(iter(events))
    assert found.notices() == {words: ["torn"] for words in told}
    drawing = list(write_data_set(found, cases, tmp_path, About("d", "two cases"), None, 2, "cpu"))
    assert not any(isinstance(event, Notice) for event in drawing)  # it was told before
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 cases, such as torn:</strong> 12 % of the image is NaN</p>" in page
    assert "unusual gating first" not in page  # nothing is usual among two


def test_of_many_notices_the_page_shows_the_first_and_counts_the_rest(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).random((1, 16, 16), np.float32)

    def case(number: int) -> Case:
        notices = (f"{number} rows are cut", "it is torn")
        return Case(str(number), lambda: Image(values, Geometry.pixels(2), notices))

    cases = [case(number) for number in range(7)]
    names = ("background", "GTV p")
    checkpoint = make_checkpoint("dense", classes=names)
    found = result_of(inspect_cases(checkpoint, cases, tmp_path))
    list(write_data_set(found, cases, tmp_path, About("d", "seven cases"), None, 0, "cpu"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "7 of 7 cases, such as 0:</strong> it is torn</p>" in page
    assert page.count("rows are cut</p>") == 4
    assert "and 3 others, in cases.csv" in page
    assert "<dd>GTV p, as labelled" in page


def test_a_case_that_does_not_fit_is_named_once(make_checkpoint: Make, tmp_path: Path) -> None:
    wide = Case.from_arrays("wide", np.zeros((2, 16, 16), np.float32))
    usual = Case.from_arrays("usual", np.random.default_rng(0).random((1, 16, 16), np.float32))
    events = list(inspect_cases(make_checkpoint(), [usual, wide], tmp_path))
    (left_out,) = [e.message for e in events if isinstance(e, Notice) and "left out" in e.message]
    assert left_out.startswith("'wide' is left out: found an image with 2 channels")


# ---- sentences ------------------------------------------------------------------------------------------


def inspected(make_checkpoint: Make, number: int, **measures: tuple[float, float]) -> DataSetInspection:
    """So many equal cases with two skips, whose measures are given per skip."""
    skips = {
        level: SkipNumbers({name: values[level - 1] for name, values in measures.items()}) for level in (1, 2)
    }
    cases = [
        CaseNumbers(str(n), "", "unseen", "label", {"m": ModelNumbers(deepcopy(skips))}, {})
        for n in range(number)
    ]
    return DataSetInspection({"m": make_checkpoint()}, tuple(cases), deviations_of(cases), {})


AUC = "AUC of psi, inside against outside the foreground (0.5 = chance): in m "
RELATIVE = "relative_energy_inside"
FOCUS = (
    "Relative energy inside the foreground, geometric mean over the cases (1 x = psi passes as much there "
    "as on average): in m "
)
ENERGY = "With m, energy kept inside the foreground relative to that outside, geometric mean over the cases: "
SAID = [
    (
        findings.telling_apart,
        {"psi_auc": (0.9, 0.52)},
        12,
        AUC + "psi is higher inside at skip 1 (0.90), skip 2 (0.52).",
    ),
    (
        findings.telling_apart,
        {"psi_auc": (0.9, 0.5)},
        12,
        AUC + "psi is higher inside at skip 1 (0.90); no difference shown by these cases at skip 2 (0.50).",
    ),
    (
        findings.telling_apart,
        {"psi_auc": (0.9, 0.1)},
        6,
        AUC + "no claim from 6 independent cases at skip 1 (0.90), skip 2 (0.10).",
    ),
    (findings.telling_apart, {}, 12, findings.NO_FOREGROUND),
    (
        findings.telling_apart_in_errors,
        {"psi_auc_in_errors": (0.2, 0.2)},
        12,
        "AUC of psi among errors, where the model confuses structure and background (0.5 = chance): in m psi "
        "sides with the prediction at skip 1 (0.20), skip 2 (0.20).",
    ),
    (findings.telling_apart_in_errors, {}, 12, ""),
    (
        findings.focus,
        {"relative_energy_inside": (2.0, 0.07)},
        12,
        FOCUS + "above average at skip 1 (2.0 x); below average at skip 2 (0.07 x).",
    ),
    (
        findings.selecting,
        {"selectivity": (0.065, 0.105)},
        2,
        "Selectivity, the share of a gated skip that no constant per channel explains, is 6 % (skip 1) to 10 "
        "% (skip 2) with m. The rest only rescales channels, which the next convolution can undo.",
    ),
    (
        findings.energy_ratio,
        {"retained_energy_ratio": (0.07, 1.5), "retained_energy": (0.06, 0.08)},
        2,
        ENERGY + "no claim from 2 independent cases at skip 1 (0.07 x), skip 2 (1.5 x); over the whole image "
        "6 % (skip 1) to 8 % (skip 2) is kept, where a gate that selects nothing keeps 6.25 %.",
    ),
    (
        findings.energy_ratio,
        {"retained_energy_ratio": (0.07, 1.5), "retained_energy": (0.06, 0.06)},
        12,
        ENERGY + "above 1 at skip 2 (1.5 x); below 1 at skip 1 (0.07 x); over the whole image 6 % is kept, "
        "where a gate that selects nothing keeps 6.25 %.",
    ),
    (
        findings.energy_ratio,
        {"retained_energy_ratio": (0.0, 1.0), "retained_energy": (0.06, 0.06)},
        12,
        ENERGY + "below 1 at skip 1 (less than 0.00098 x); no difference shown by these cases at skip 2 (1.0 "
        "x); over the whole image 6 % is kept, where a gate that selects nothing keeps 6.25 %.",
    ),
    (findings.energy_ratio, {}, 2, "No case has a foreground to compare with."),
    (
        findings.zeros_in_z,
        {"z_zero_fraction": (0.6, 0.41)},
        2,
        "In m 41 % (skip 2) to 60 % (skip 1) of z is exactly zero. This is how sparse z is, not how much of "
        "a skip is removed.",
    ),
    (
        findings.zeros_in_z,
        {},
        2,
        "The gate of m has no threshold, so it sets nothing to zero. This is how sparse z is, not how much "
        "of a skip is removed.",
    ),
    (
        findings.mask_level,
        {"psi_mean": (0.5, 0.5), "psi_std": (0.2, 0.001)},
        2,
        "In m the mean of psi is 0.50, and psi is nearly constant at skip 2.",
    ),
    (findings.mask_level, {}, 2, "The gate of m has no spatial mask."),
    (
        findings.without_evidence,
        {},
        2,
        "The gate of m has no threshold, so no position is without evidence.",
    ),
    (findings.channels, {}, 2, "The gate of m has no threshold, so it has no dead channels."),
    (findings.overlap, {}, 2, "No case has a label with a structure, so the Dice is unknown."),
    (
        findings.telling_apart,
        {"psi_auc": (float("nan"), 0.9)},
        12,
        AUC + "psi is higher inside at skip 2 (0.90).",
    ),
    (
        findings.focus,
        {"relative_energy_inside": (0.0, 0.0)},
        12,
        FOCUS + "below average at skip 1 (less than 0.00098 x), skip 2 (less than 0.00098 x).",
    ),
    (
        findings.unusual,
        {"psi_mean": (0.5, 0.5)},
        7,
        "7 cases are too few to say what is usual; 8 are needed.",
    ),
]


@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning:matplotlib")
@pytest.mark.parametrize("values", [(0.0, 3.0), (0.0, 0.0), (1e-12, 2.0), (0.3, 4.0)])
def test_what_hardly_passes_is_drawn_at_the_foot_of_a_readable_axis(
    values: tuple[float, float], make_checkpoint: Make
) -> None:
    figure = plots.distribution(inspected(make_checkpoint, 9, relative_energy_inside=values), RELATIVE)
    assert figure is not None
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    shown = [label for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high]
    assert all(label.get_window_extent().x0 > 0 for label in shown)  # none is cut off
    dots = np.concatenate([np.atleast_1d(line.get_ydata()) for line in axes.lines])
    assert np.isfinite(dots).all()
    assert dots.min() >= 2**-10


def test_a_case_without_anything_inside_makes_no_mean_of_the_others(make_checkpoint: Make) -> None:
    """Where psi is exactly zero inside, the logarithm of it is no reason to leave the case out."""
    found = inspected(make_checkpoint, 10, relative_energy_inside=(1.2, 1.2))
    for case in found.cases[:5]:
        case.models["m"].skips[1].measures["relative_energy_inside"] = 0.0
    said = findings.focus(found)
    assert said.startswith(
        f"{FOCUS}above average at skip 2 (1.2 x); below average at skip 1 (less than 0.034 x)."
    )


@pytest.mark.parametrize(
    ("others", "nothing", "said"),
    [
        (
            4.0,
            1,
            "no claim, as next to nothing passes in the foreground of 1 case, at skip 1 (less than 3.",
        ),
        (4.0, 0, "above average at skip 1 (3.9 x)"),
        (0.5, 1, "below average at skip 1 (less than 0.4"),
    ],
)
def test_no_floor_makes_a_mean_of_factors_with_a_zero_above_average(
    others: float, nothing: int, said: str, make_checkpoint: Make
) -> None:
    """Whatever it is: the smaller the factor that stands for 0, the smaller the mean."""
    found = inspected(make_checkpoint, 100, relative_energy_inside=(others, others))
    for n, case in enumerate(found.cases):
        value = 0.0 if n < nothing else others * 2 ** (n % 21 / 10 - 1)
        case.models["m"].skips[1].measures["relative_energy_inside"] = value
        del case.models["m"].skips[2]
    assert findings.focus(found).startswith(f"{FOCUS}{said}")


def test_a_case_that_a_coarse_skip_lacks_counts_at_the_fine_ones(make_checkpoint: Make) -> None:
    """A small structure lies mostly in no position of a coarse skip; psi of the fine ones counts."""
    found = inspected(make_checkpoint, 60, psi_auc=(0.4, 0.6), relative_energy_inside=(0.5, 2.0))
    for number, case in enumerate(found.cases):
        fine, coarse = (case.models["m"].skips[level].measures for level in (1, 2))
        if number >= 9:  # small ones
            fine |= {"psi_auc": 0.8 + 0.001 * number, "relative_energy_inside": 4.0 + 0.1 * number}
            coarse.clear()
        else:
            fine["psi_auc"] += 0.01 * number
    with noting() as intervals:
        said = findings.telling_apart(found)
    assert (
        "(0.5 = chance; cases of m: 60 at skip 1, 9 at skip 2): in m psi is higher inside at skip 1" in said
    )
    assert "lower" not in said
    assert {(each["model"], each["measure"], each["units"]) for each in intervals} == {
        ("m", "AUC of psi - 0.5", 60),
        ("m", "AUC of psi - 0.5", 9),
    }
    focus = findings.focus(found)
    assert "cases of m: 60 at skip 1, 9 at skip 2): in m above average at skip 1 (4.9 x), skip 2" in focus


def test_intervals_of_other_cases_share_the_error(make_checkpoint: Make) -> None:
    """Two skips of different cases: each interval is as wide as of two at once, by Bonferroni."""
    found = inspected(make_checkpoint, 20, psi_auc=(0.5, 0.5))
    drawn = np.random.default_rng(0).normal(0.6, 0.1, 20)
    for case, value in zip(found.cases, drawn, strict=True):
        for level in (1, 2):
            case.models["m"].skips[level].measures["psi_auc"] = value
    del found.cases[0].models["m"].skips[2].measures["psi_auc"]
    with noting() as intervals:
        findings.telling_apart(found)
    (first,) = (each for each in intervals if each["units"] == 20)
    right = simultaneous({1: drawn - 0.5}, (-0.5, 0.5), 0.975)[1]
    assert (first["low"], first["high"]) == (pytest.approx(right.low), pytest.approx(right.high))


def test_means_are_of_what_their_difference_is_of(make_checkpoint: Make) -> None:
    """Ten near-duplicates are one independent case, in the means as in the difference."""
    both = [(0.9, 0.3)] * 10 + [(0.5 + 0.01 * n, 0.6 + 0.01 * n) for n in range(9)]
    cases = [
        CaseNumbers(str(n), "", "unseen", "label", {"m": dice(m), "d": dice(d)}, {})
        for n, (m, d) in enumerate(both)
    ]
    models = {"m": make_checkpoint(), "d": make_checkpoint()}
    units = dict.fromkeys(map(str, range(10)), "0")
    said = findings.overlap(DataSetInspection(models, tuple(cases), {}, {}, units))
    assert said.startswith(
        "The mean Dice over 19 labelled cases (10 independent cases, each counted once) is 0.576 with m; "
        "0.606 with d (m minus d: -0.030"
    )


def test_a_skip_without_a_gate_is_told_and_kept_out_of_the_gates(make_checkpoint: Make) -> None:
    measures = {
        "selectivity": (0.0, 0.1),
        "retained_energy": (1.0, 0.07),
        "retained_energy_ratio": (1.0, 1.5),
    }
    found = inspected(make_checkpoint, 12, **measures)
    first = found.checkpoints["m"]
    found = replace(found, checkpoints={"m": replace(first, spec=replace(first.spec, gated_levels=(2,)))})
    assert "is 10 % with m (skip 1 has no gate)." in findings.selecting(found)
    said = findings.energy_ratio(found)
    assert "the cases: above 1 at skip 2 (1.5 x); over the whole image 7 % is kept" in said
    assert said.endswith("keeps 6.25 % (skip 1 has no gate).")


def test_a_report_without_a_dice_says_what_is_found_in_normals_and_what_models_differ_in(
    ultrasound: list[Case], make_checkpoint: Make, tmp_path: Path
) -> None:
    normals = [replace(case, read_label=lambda: np.zeros((48, 48), np.uint8)) for case in ultrasound[:2]]
    models = {"other": replace(make_checkpoint("dense"), config={"learning_rate": 0.1})}
    first = replace(make_checkpoint(), config={"learning_rate": 0.01, "start_from": "elsewhere.safetensors"})
    for cases, said in (
        (normals, "In 2, the labels are empty; model finds something in"),
        ([replace(case, read_label=None) for case in ultrasound[:2]], "is no gate ablation of model"),
    ):
        folder = tmp_path / said[:3]
        found = result_of(inspect_cases(first, cases, folder, others=models))
        result_of(write_data_set(found, cases, folder, About("normals", "two"), None, 0, "cpu"))
        assert said in json.loads((folder / "inspection.json").read_text())["sentences"]["dice"]
        page = (folder / "report.html").read_text()
        assert said in page
        assert 'src=""' not in page
    assert {case.part for case in found.cases} == {"unknown"}
    assert "it is unknown whether it learned from 2 of them" in page


@pytest.mark.parametrize(("say", "measures", "cases", "right"), SAID)
def test_the_sentence_is_right(
    say: Callable[[DataSetInspection], str],
    measures: dict[str, tuple[float, float]],
    cases: int,
    right: str,
    make_checkpoint: Make,
) -> None:
    assert say(inspected(make_checkpoint, cases, **measures)) == right


@pytest.mark.parametrize(
    ("few", "said"),
    [
        (1, "with the label at skip 1 (0.90); no claim from 1 independent case at skip 2 (0.10)."),
        (7, "with the label at skip 1 (0.90); no claim from 7 independent cases at skip 2 (0.10)."),
        (8, "with the label at skip 1 (0.90); psi sides with the prediction at skip 2 (0.10)."),
    ],
)
def test_a_coarse_skip_with_few_errors_takes_no_cases_from_the_others(
    few: int, said: str, make_checkpoint: Make
) -> None:
    found = inspected(make_checkpoint, 12, psi_auc_in_errors=(0.9, 0.1))
    for case in found.cases[few:]:
        del case.models["m"].skips[2].measures["psi_auc_in_errors"]
    assert findings.telling_apart_in_errors(found).endswith(f"in m psi sides {said}")


def test_a_model_without_gates_is_told_as_that(make_checkpoint: Make) -> None:
    """Not as one whose gate lacks a part."""
    found = replace(inspected(make_checkpoint, 2), checkpoints={"m": make_checkpoint("none")})
    told = [
        say(found)
        for say in (findings.zeros_in_z, findings.mask_level, findings.without_evidence, findings.channels)
    ]
    assert all(text.startswith("M has no gates") for text in told), told


def test_a_channel_is_dead_or_open_only_if_it_is_so_in_every_case(make_checkpoint: Make) -> None:
    zeros = ((1.0, 1.0, 0.0, 0.0, 0.5), (1.0, 0.9, 0.0, 0.1, 0.7))
    cases = [
        CaseNumbers(str(n), "", "unseen", "label", {"m": ModelNumbers({1: SkipNumbers({}, z)})}, {})
        for n, z in enumerate(zeros)
    ]
    said = findings.channels(DataSetInspection({"m": make_checkpoint()}, tuple(cases), {}, {}))
    assert said == (
        "Latent channels of m: 5, of which 1 dead (zero everywhere in every case) and 1 always open (zero "
        "nowhere in any case)."
    )


def test_agreement_with_the_own_prediction_is_called_so(make_checkpoint: Make) -> None:
    found = inspected(make_checkpoint, 12, psi_auc=(0.9, 0.9))
    guessed = replace(found, cases=tuple(replace(case, reference="prediction") for case in found.cases))
    for say in (findings.telling_apart, findings.focus):
        assert "not evidence" not in say(found)
    assert findings.telling_apart(guessed).endswith("this is agreement with itself, not evidence.")


@pytest.mark.parametrize(
    ("labelled", "said"),
    [
        (1, "Over the only case with a label, of 12: {} no claim from 1 independent case at skip 1 ({}"),
        (7, "Over the 7 cases with a label, of 12: {} no claim from 7 independent cases at skip 1 ({}"),
        (8, "Over the 8 cases with a label, of 12: {} {} at skip 1 ({}"),
        (12, "{} {} at skip 1 ({}"),
    ],
)
def test_cases_without_a_label_are_no_evidence_beside_those_with_one(
    labelled: int, said: str, make_checkpoint: Make
) -> None:
    found = inspected(make_checkpoint, 12, psi_auc=(0.9, 0.9), relative_energy_inside=(2.0, 2.0))
    cases = [
        replace(c, reference="label" if n < labelled else "prediction") for n, c in enumerate(found.cases)
    ]
    mixed = replace(found, cases=tuple(cases))
    for say, begins, claim, value in (
        (findings.telling_apart, AUC.removesuffix(" "), "psi is higher inside", "0.90"),
        (findings.focus, FOCUS.removesuffix(" "), "above average", "2.0 x"),
    ):
        filled = said.format(begins, value) if labelled < 8 else said.format(begins, claim, value)
        assert say(mixed).startswith(filled), say(mixed)
        assert "not evidence" not in say(mixed)


def of_references(inspection: DataSetInspection, labelled: int) -> DataSetInspection:
    """So many cases with a label, the others with what the first model predicts."""
    cases = [
        replace(case, reference="label" if n < labelled else "prediction")
        for n, case in enumerate(inspection.cases)
    ]
    return replace(inspection, cases=tuple(cases))


INSIDE = {"psi_auc": (0.9, 0.9), "relative_energy_inside": (2.0, 2.0), "retained_energy_ratio": (1.5, 1.5)}
SAYING: dict[str, Callable[[DataSetInspection], str]] = {
    "psi_auc": findings.telling_apart,
    "relative_energy_inside": findings.focus,
    "retained_energy_ratio": findings.energy_ratio,
}


@pytest.mark.parametrize("measure", INSIDE)
@pytest.mark.parametrize(
    ("empty", "which"), [(3, "the 3 cases with one have"), (1, "the only case with one has")]
)
def test_labels_without_a_foreground_hide_no_case_that_has_one(
    measure: str, empty: int, which: str, make_checkpoint: Make
) -> None:
    """Such as normal images with empty masks beside others without any."""
    found = of_references(inspected(make_checkpoint, 12, retained_energy=(0.06, 0.08), **INSIDE), empty)
    for case in found.cases[:empty]:
        for skip in case.models["m"].skips.values():
            for name in INSIDE:
                skip.measures[name] = float("nan")
            del skip.measures[measure]
    said = SAYING[measure](found)
    assert said.startswith(f"Over the cases without a label, as {which} no foreground that can be compared: ")
    assert {"psi_auc": "0.90", "relative_energy_inside": "2.0 x", "retained_energy_ratio": "1.5 x"}[
        measure
    ] in said
    assert said.endswith("agreement with itself, not evidence.")


@pytest.mark.parametrize("measure", ["psi_auc", "relative_energy_inside"])
def test_a_gate_without_a_mask_is_no_matter_of_labels(measure: str, make_checkpoint: Make) -> None:
    found = of_references(inspected(make_checkpoint, 12, selectivity=(0.1, 0.1)), 3)
    assert SAYING[measure](found) == findings.NO_FOREGROUND


def test_energy_kept_inside_and_outside_is_judged_by_labels(make_checkpoint: Make) -> None:
    """What is kept over the whole image needs none, and is told of all cases."""
    found = inspected(make_checkpoint, 12, retained_energy_ratio=(1.5, 1.5), retained_energy=(0.06, 0.06))
    found = of_references(found, 8)
    for case in found.cases[8:]:
        for skip in case.models["m"].skips.values():
            skip.measures.update(retained_energy_ratio=40.0, retained_energy=0.36)
    assert findings.energy_ratio(found) == (
        f"Over the 8 cases with a label, of 12: w{ENERGY[1:]}above 1 at skip 1 (1.5 x), skip 2 (1.5 x); over "
        "the whole image of all 12 cases 16 % is kept, where a gate that selects nothing keeps 6.25 %."
    )
    assert findings.energy_ratio(of_references(found, 0)).endswith(
        "keeps 6.25 %. Without a label, the foreground is the prediction of m, to which its gates contribute"
        ": this is agreement with itself, not evidence."
    )


def test_ratios_that_balance_are_no_preference(make_checkpoint: Make) -> None:
    """Half of the cases keep eight times as much inside, the others an eighth: their arithmetic mean is 4."""
    found = inspected(make_checkpoint, 12, retained_energy_ratio=(8.0, 8.0), retained_energy=(0.06, 0.06))
    for case in found.cases[:6]:
        case.models["m"].skips[1].measures["retained_energy_ratio"] = 0.125
    with noting() as intervals:
        said = findings.energy_ratio(found)
    assert said.startswith(
        f"{ENERGY}above 1 at skip 2 (8.0 x); no difference shown by these cases at skip 1 (1.0 x); over"
    )
    (first, _) = intervals
    assert first["mean"] == pytest.approx(0)
    assert first["low"] < -1 < 1 < first["high"]


@pytest.mark.parametrize(("labelled", "is_told"), [(0, False), (8, True), (12, False)])
def test_a_table_over_cases_with_and_without_a_label_is_called_so(
    labelled: int, is_told: bool, make_checkpoint: Make, tmp_path: Path
) -> None:
    found = of_references(inspected(make_checkpoint, 12, retained_energy=(0.06, 0.06), **INSIDE), labelled)
    result_of(write_data_set(found, [], tmp_path, About("both", "twelve"), pictures=0))
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    told = "8 with a label, and 4 without one, whose foreground is the prediction of m."
    assert (told in page) == is_told
    assert ("without one, whose" in page) == is_told


@pytest.mark.parametrize("measure", INSIDE)
def test_another_model_agrees_with_the_first_and_not_with_itself(measure: str, make_checkpoint: Make) -> None:
    found = of_references(inspected(make_checkpoint, 12, retained_energy=(0.06, 0.08), **INSIDE), 0)
    for case in found.cases:
        case.models["d"] = deepcopy(case.models["m"])
    both = replace(found, checkpoints={**found.checkpoints, "d": make_checkpoint("dense")})
    assert SAYING[measure](both).endswith(
        ": for m this is agreement with itself, for d agreement with m. Neither is evidence."
    )
    for case in both.cases:
        for skip in case.models["m"].skips.values():
            del skip.measures[measure]
    assert SAYING[measure](both).endswith(
        "the foreground is the prediction of m: this is agreement with m, not evidence."
    )


@pytest.mark.parametrize(
    ("theirs", "apart", "said"),
    [
        ({"epochs": 20, "steps_per_epoch": 5}, (), "d was kept after 40 of 100 steps, m after 100."),
        ({"epochs": 8, "steps_per_epoch": 5}, ("steps (40 instead of 100)",), "d is no gate ablation of m"),
        ({"epochs": 20, "steps_per_epoch": 5, "minutes": 3.0}, ("steps (40 instead of 100)",), "d is no"),
        (
            {"epochs": 20, "steps_per_epoch": 5, "start_from": "m"},
            ("steps (40 instead of 100)",),
            "d is no gate ablation of m",
        ),
        ({}, ("steps (40 instead of 100)",), "d is no gate ablation of m"),
    ],
)
def test_the_best_epochs_of_trainings_of_one_length_may_differ(
    theirs: dict[str, object], apart: tuple[str, ...], said: str, make_checkpoint: Make
) -> None:
    ours = {"epochs": 20, "steps_per_epoch": 5}
    first = replace(make_checkpoint(), place={"learned": 100}, config=ours)
    other = replace(make_checkpoint("dense"), place={"learned": 40}, config=theirs)
    assert not_an_ablation(first, other) == apart
    assert ablation_in_words("m", first, "d", other).startswith(said)
    assert ablation_in_words("m", first, "d", replace(other, config=ours, place={"learned": 95})) == ""


def dice(value: float) -> ModelNumbers:
    return ModelNumbers({}, {"dice": value})


def test_models_that_differ_in_more_than_the_gate_are_no_ablations(make_checkpoint: Make) -> None:
    first = replace(make_checkpoint(), place={"step": 100}, config={"learning_rate": 1e-3, "gate": "prosma"})
    assert (
        not_an_ablation(first, replace(make_checkpoint("dense"), place={"step": 95}, config=first.config))
        == ()
    )
    other = replace(
        make_checkpoint("dense"),
        place={"step": 40},
        config={"learning_rate": 1e-2},
        split={"training": ("a",)},
    )
    assert not_an_ablation(first, other) == (
        "split",
        "steps (40 instead of 100)",
        "learning rate",
    )
    here, moved, another = (
        replace(first, config={**first.config, "data": data}) for data in ("/a/busi", "/b/busi", "/b/glas")
    )
    assert not_an_ablation(here, moved) == ()
    assert not_an_ablation(here, another) == ("data folder ('glas' instead of 'busi')",)
    assert not_an_ablation(first, another) == ()  # nobody said
    fold = replace(first, config={**first.config, "entry": 1, "fold": (1, 2)})
    assert not_an_ablation(replace(first, config={**first.config, "entry": "auto"}), fold) == ()
    halved = replace(first, spec=replace(first.spec, entry=2))
    assert not_an_ablation(first, halved) == ("network",)
    there = replace(here, config={**here.config, "data": "C:\\\\Users\\\\Anna\\\\busi"})
    assert not_an_ablation(here, there) == ()
    assert without_folders("C:\\\\Users\\\\Anna\\\\busi") == without_folders("/home/anna/busi") == "busi"
    cases = [
        CaseNumbers(str(n), "", "unseen", "label", {m: dice(v) for m, v in both.items()}, {})
        for n, both in enumerate({"m": 0.8 + 0.001 * n, "d": 0.6 - 0.001 * n} for n in range(10))
    ]
    said = findings.overlap(DataSetInspection({"m": first, "d": other}, tuple(cases), {}, {}))
    assert "m minus d: +0.209, 95 % interval +0.205 to +0.213, for these two trainings" in said
    assert said.endswith(
        "d is no gate ablation of m: they differ in split, steps (40 instead of 100), learning rate."
    )
    few = findings.overlap(DataSetInspection({"m": first, "d": other}, tuple(cases[:3]), {}, {}))
    assert "no claim from 3 independent cases, 8 are needed" in few
    same = dict.fromkeys(map(str, range(10)), "0")
    one = findings.overlap(DataSetInspection({"m": first, "d": other}, tuple(cases), {}, {}, same))
    assert "no claim from 1 independent case, 8 are needed" in one


def test_normals_in_which_nothing_is_found_make_no_dice(make_checkpoint: Make) -> None:
    cases = [
        CaseNumbers(str(n), "", "unseen", "label", {"m": dice(m), "d": dice(d)}, {}, empty=n < 9)
        for n, (m, d) in enumerate([*[(1.0, 1.0)] * 8, (1.0, 0.0), (0.8, 0.6)])
    ]
    models = {"m": make_checkpoint(), "d": make_checkpoint()}
    found = DataSetInspection(models, tuple(cases), {}, {})
    assert findings.overlap(found) == (
        "The mean Dice over 1 labelled case with a structure is 0.800 with m; 0.600 with d (m minus d: "
        "+0.200, no claim from 1 independent case, 8 are needed, for these two trainings). In 9 more, "
        "the labels are empty; m finds something in 0 of them, d in 1."
    )
    assert found.overlaps("m") == {"9": 0.8}
    assert found.association().cases == 0  # no deviations
    nothing = replace(found, cases=tuple(cases[:9]))
    assert findings.overlap(nothing) == (
        "No case has a label with a structure, so the Dice is unknown. In 9, the labels are empty; m finds "
        "something in 0 of them, d in 1."
    )
    assert plots.overlap(nothing) is None


def test_intervals_of_several_models_hold_together(make_checkpoint: Make) -> None:
    drawn = np.random.default_rng(4).normal(0.5, 0.1, (12, 5))
    cases = [
        CaseNumbers(
            str(n), "", "unseen", "label", {m: dice(v) for m, v in zip("mabcd", row, strict=True)}, {}
        )
        for n, row in enumerate(drawn)
    ]
    with noting() as intervals:
        findings.overlap(DataSetInspection({m: make_checkpoint() for m in "mabcd"}, tuple(cases), {}, {}))
    right = simultaneous({m: drawn[:, 0] - drawn[:, n] for n, m in enumerate("abcd", start=1)})
    assert {each["of"]: (each["low"], each["high"]) for each in intervals} == {
        m: (each.low, each.high) for m, each in right.items()
    }
    alone = simultaneous({"a": drawn[:, 0] - drawn[:, 1]})["a"]
    assert right["a"].high - right["a"].low > 1.1 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("geometry", "intensity", "said"),
    [
        (Geometry.pixels(2), "zscore", ""),
        (Geometry.pixels(3), "zscore", "images with 2 axes, this one has 3"),
        (Geometry((1.0, 1.0), (0.0, 0.0), "mm"), "zscore", "the unit none, this one has mm"),
        (Geometry.pixels(2), "ct", "no value of this image is negative"),
    ],
)
def test_an_image_of_another_kind_is_told(
    geometry: Geometry, intensity: str, said: str, make_checkpoint: Make
) -> None:
    changes = {"axes": 2, "intensity": intensity, "spacing": (1.0, 1.0), "unit": "pixel"}
    checkpoint = make_checkpoint()
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update=changes))
    image = Image(np.ones((1, *(4,) * geometry.ndim), np.float32), geometry)
    found = unlike_training(checkpoint, image)
    assert [said in sentence for sentence in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("plan", "size", "said"),
    [
        ({"side": 4, "unit": "pixel"}, 5, ""),
        (
            {"side": 4, "unit": "pixel"},
            40,
            "short side of the image is 40 pixels, and was about 4 in training",
        ),
        ({"native": (0.5, 0.5), "unit": "mm"}, 4, "spacing of the training images is assumed: 0.5 x 0.5 mm."),
    ],
)
def test_an_image_of_another_size_is_told(
    plan: dict[str, Any], size: int, said: str, make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint()
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update={"axes": 2, **plan}))
    found = unlike_training(checkpoint, Image(np.ones((1, size, size), np.float32), Geometry.pixels(2)))
    assert [said in sentence for sentence in found] == ([True] if said else [])


@pytest.mark.parametrize(
    ("dims", "shape", "said"),
    [
        (3, (1, 16, 16), "Along z the image has 1 position for the network, whose patches had 16: what"),
        (3, (2, 16, 16), ""),
        (2, (1, 16, 16), ""),  # the network does not see that axis
    ],
)
def test_an_image_that_is_flat_for_its_network_is_told(
    dims: int, shape: tuple[int, ...], said: str, make_checkpoint: Make
) -> None:
    checkpoint = make_checkpoint(dims=dims, patch=(16,) * dims)
    checkpoint = replace(checkpoint, plan=checkpoint.plan.model_copy(update={"axes": 3, "unit": "pixel"}))
    found = unlike_training(checkpoint, Image(np.ones((1, *shape), np.float32), Geometry.pixels(3)))
    assert [said in sentence for sentence in found] == ([True] if said else [])


@pytest.mark.parametrize(("colour", "is_told"), [(200, True), (3, False)])
def test_colours_that_a_model_does_not_know_are_told(
    colour: int, is_told: bool, make_checkpoint: Make
) -> None:
    """Gray pictures that JPEG kept as three channels are gray; marks in colour, and endoscopy, are not."""
    array = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (3, 25, 1))
    array[0, 3, 3] = array[1, 3, 3] + colour
    case = Case.from_arrays("marked", array)
    image, _ = read_fitting_case(case, make_checkpoint())
    assert image.array.shape == (1, 25, 25)
    assert [said.startswith("The image has colours") for said in image.notices] == [True] * is_told
    assert read_fitting_case(case, make_checkpoint(channels=3))[0].notices == ()


def test_the_floor_passes_but_with_prosma_exact(make_checkpoint: Make) -> None:
    found = inspected(make_checkpoint, 6, floor_pixel_fraction=(0.2, 0.2), gate_floor=(0.45, 0.45))
    assert findings.without_evidence(found).endswith(
        "psi is not zero there but equals the gate floor of 0.45, times c, so the skip is "
        "attenuated, not cut."
    )
    spatial = replace(found, checkpoints={"m": make_checkpoint("spatial")})
    assert findings.without_evidence(spatial).endswith(
        "the gate floor of 0.45, so the skip is attenuated, not cut."
    )
    exact = replace(found, checkpoints={"m": make_checkpoint("prosma-exact")})
    assert "psi is exactly zero there" in findings.without_evidence(exact)


def test_the_size_of_the_training_images_makes_no_other_kind_of_model(make_checkpoint: Make) -> None:
    first = make_checkpoint(dims=3)
    other = replace(first, plan=first.plan.model_copy(update={"largest": (8, 8, 9)}), config={"seed": 7})
    assert is_another_training(first, other)
    assert "plan" not in not_an_ablation(first, other)


def test_a_legend_beside_a_photograph_keeps_its_colours(tmp_path: Path) -> None:
    """The most frequent 256 colours once had an orange end of a green and yellow scale."""
    photograph = np.random.default_rng(0).integers(60, 255, (90, 90, 3), np.uint8)
    photograph[..., 2] = photograph[..., 1] = photograph[..., 0] // 2
    figure = Figure(figsize=(4, 3))
    axes, legend = figure.add_axes((0, 0, 0.7, 1)), figure.add_axes((0.8, 0.1, 0.02, 0.8))
    axes.imshow(photograph)
    axes.contour(photograph[..., 0] > 200, levels=[0.5], colors="#ff9f1c")
    figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), cax=legend)
    saved = np.asarray(Pictures.open(io.BytesIO(_saved_picture(figure, tmp_path / "a.png"))).convert("RGB"))
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    assert np.abs(saved.astype(int) - drawn).max() < 24
