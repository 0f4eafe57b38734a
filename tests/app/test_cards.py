"""What a card says of a run, of a file alone, of an older file; as text and as a page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_prosma.app.card_pages import as_html, as_markdown, write_page
from napari_prosma.app.card_pictures import FOUND, LABEL, picture
from napari_prosma.app.cards import Card, Figures, Worst, card_of, figures_of, worst_of
from napari_prosma.cli.app import app
from napari_prosma.data.case import Image as Held
from napari_prosma.data.metrics import Overlap
from napari_prosma.events import Event
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

Make = Callable[..., Checkpoint]


def overlaps(dice: list[float], name: str = "lesion") -> list[Overlap]:
    """A case of 100 elements for each Dice."""
    return [Overlap(f"case {n}", name, 100, 100, round(100 * d)) for n, d in enumerate(dice)]


def test_figures_are_over_the_cases_that_hold_the_structure() -> None:
    absent = [Overlap("empty", "lesion", 0, 0, 0), Overlap("wrong", "lesion", 0, 5, 0)]
    (figures,) = figures_of([*overlaps([0.0, 0.8, 0.9]), *absent])
    assert (figures.cases, figures.missed, figures.without, figures.wrong) == (3, 1, 2, 1)
    assert figures.dice == pytest.approx(1.7 / 3)
    assert figures.middle == pytest.approx(0.8)
    assert figures.spread == pytest.approx(np.std([0.0, 0.8, 0.9], ddof=1))


def test_the_worst_tenth_is_named_worst_first() -> None:
    found = worst_of(overlaps([0.01 * n for n in range(30)][::-1]))
    assert [worst.case for worst in found] == ["case 29", "case 28", "case 27"]
    assert len(worst_of(overlaps([0.5] * 900))) == 8


def test_what_is_found_where_nothing_is_counts_among_the_worst() -> None:
    (worst,) = worst_of([*overlaps([0.4, 0.9]), Overlap("wrong", "lesion", 0, 5, 0)])
    assert (worst.case, worst.dice) == ("wrong", 0)


def test_a_run_keeps_the_overlaps_that_its_figures_are_made_of(trained: tuple[Path, list[Event]]) -> None:
    for name in ("best", "last"):
        kept = load_checkpoint(trained[0] / f"{name}.safetensors")
        (figures,) = figures_of(kept.overlaps)
        assert figures.dice == pytest.approx(kept.metrics["dice/lesion"])
        assert {overlap.case for overlap in kept.overlaps} == set(kept.split["validation"])


def test_the_card_of_a_run_says_on_what_it_was_made_and_measured(trained: tuple[Path, list[Event]]) -> None:
    card, kept = card_of(trained[0]), load_checkpoint(trained[0])
    assert card.finds == ("lesion",)
    assert (card.learned, card.measured, card.measured_on) == (4, 2, "validation")
    assert card.sizes == "48 x 48 pixels of 0.8333 x 0.8333 mm"
    assert card.dice == pytest.approx(kept.metrics["dice"])
    assert set(card.gates) == set(kept.spec.gated_levels)
    assert "torch" in card.versions
    assert card.images == "2D, gray"
    assert "Measured on only 2 cases, which says little." in card.verdict


def test_a_card_says_that_large_cases_were_measured_in_part(trained: tuple[Path, list[Event]]) -> None:
    whole = card_of(trained[0])
    assert whole.windows == 0
    assert "windows" not in whole.verdict
    cut = whole.model_copy(update={"windows": 12})
    assert "Measured on at most 12 windows of each case" in cut.verdict
    assert "Measured on at most 12 windows of each case" in as_markdown(cut)


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ((), "This model has not been tested"),
        ((Figures(name="liver", dice=0.03),), "Does not find liver."),
        ((Figures(name="liver", dice=0.91),), "Finds liver with a mean Dice of 0.91."),
        (
            figures_of(overlaps([0.3] * 2 + [0.9] * 18)),
            "Finds lesion in 20 of 20 cases that show it: mean Dice 0.84, median 0.90, 0.30 or less in the "
            "worst tenth.",
        ),
        (  # the missed ones are the worst tenth
            figures_of(overlaps([0.0] * 2 + [0.9] * 18)),
            "Finds lesion in 18 of 20 cases that show it: mean Dice 0.81, median 0.90.",
        ),
    ],
)
def test_the_verdict_is_in_words(figures: tuple[Figures, ...], words: str) -> None:
    assert Card(name="m", finds=("x",), dims=2, channels=1, figures=figures).verdict.startswith(words)


def test_figures_of_cases_that_it_learned_from_are_called_worthless() -> None:
    figures = (Figures(name="liver", dice=0.99),)
    card = Card(name="m", finds=("liver",), dims=2, channels=1, figures=figures, measured_on="training")
    assert "say nothing about new images" in card.verdict


def test_a_file_alone_has_a_card_too(make_checkpoint: Make, tmp_path: Path) -> None:
    made = replace(make_checkpoint(), metrics={"dice": 0.7, "dice/lesion": 0.7}, split={"validation": ["a"]})
    save_checkpoint(tmp_path / "mine.safetensors", made)
    card = card_of(tmp_path / "mine.safetensors")
    assert (card.name, card.dice, card.worst) == ("mine", 0.7, ())
    assert "mean Dice of 0.70" in as_markdown(card)


def test_pages_say_the_verdict_first_and_hold_their_pictures(tmp_path: Path) -> None:
    shown = base64.b64encode(b"a picture").decode()
    card = Card(
        name="<b>model</b>",
        finds=("lesion",),
        dims=2,
        channels=1,
        figures=figures_of(overlaps([0.5, 0.9])),
        worst=(Worst(case="a\x1b[31m", dice=0.5, picture=shown),),
        gates={1: {"psi_mean": 0.25}},
        not_for=("Photographs.",),
    )
    page = as_html(card)
    assert "<h1>&lt;b&gt;model" in page
    assert page.index(card.verdict) < page.index("Photographs.")
    assert f"base64,{shown}" in page
    assert "outline" in page
    bare = card.model_copy(update={"worst": (Worst(case="a", dice=0.5),)})
    assert "outline" not in as_html(bare)
    assert "\x1b" not in page
    write_page(card, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert text.index(card.verdict) < text.index("Photographs.")
    assert "](card_pictures/worst-1.jpg)" in text
    assert (tmp_path / "card_pictures" / "worst-1.jpg").read_bytes() == b"a picture"
    assert "| mean of the mask psi (1: everything passes) | 0.250 |" in text


def test_a_picture_shows_the_slice_that_differs_most_with_both_outlines() -> None:
    label = np.zeros((5, 20, 40), np.uint8)
    label[1, 2:4, 2:4] = label[3, 5:15, 5:15] = 1
    predicted = np.zeros_like(label)
    predicted[1, 2:4, 2:4] = predicted[3, 5:15, 25:35] = 1
    image = Held(np.zeros((1, 5, 20, 40), np.float32), Geometry.pixels(3))
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture(image, label, predicted)))), int)
    assert drawn.shape == (160, 320, 3)
    for column, colour in ((5 * 8, LABEL), (25 * 8, FOUND)):
        assert np.abs(drawn[80, column - 1 : column + 2] - colour).sum(axis=-1).min() < 120
    assert np.abs(drawn[20, 20:30] - LABEL).sum(axis=-1).min() > 300  # slice 1 is not the one


def test_a_shell_prints_the_card_or_writes_it_with_pictures(
    folder_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = CliRunner().invoke(app, ["card", str(folder_run)])
    assert done.exit_code == 0, done.output
    assert "## What it must not be used for" in done.output
    page = tmp_path / "card.html"
    done = CliRunner().invoke(app, ["card", str(folder_run), "--out", str(page), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert re.search("base64,/9j/", page.read_text(encoding="utf-8"))
    again = CliRunner().invoke(app, ["card", str(folder_run), "--out", str(page)])
    assert again.exit_code == 2
    assert "is there already" in again.output
    odd = CliRunner().invoke(app, ["card", str(folder_run), "--out", str(tmp_path / "card.pdf")])
    assert odd.exit_code == 2
    assert ".html or .md" in odd.output


def test_where_the_cases_are_gone_the_card_says_so(folder_run: Path, tmp_path: Path) -> None:
    folder_run.parent.joinpath("data").rename(folder_run.parent / "elsewhere")
    done = CliRunner().invoke(app, ["card", str(folder_run), "--out", str(tmp_path / "card.html")])
    assert done.exit_code == 0, done.output
    assert "have no pictures" in done.output
    assert (tmp_path / "card.html").is_file()
