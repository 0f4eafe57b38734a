"""The curves of a run: what is drawn is what the epochs say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from napari_prosma.errors import DataError
from napari_prosma.events import OBJECTIVE, EpochEnd
from napari_prosma.training.curves import MOST_POINTS, Colours, draw_curves, picture_of, save_curves, smoothed
from napari_prosma.training.run_folder import METRICS, read_metrics

CLASSES = ("liver", "tumour")


def epochs(
    number: int, classes: tuple[str, ...] = CLASSES, skips: tuple[int, ...] = (1, 2)
) -> list[EpochEnd]:
    return [
        EpochEnd(
            epoch=n,
            epochs=number,
            loss=1 / n,
            learning_rate=1e-3 / n,
            seconds=1.0,
            validation={"dice": 0.5 + 0.01 * (n % 7)}
            | {f"dice/{name}": 0.1 * k for k, name in enumerate(classes)},
            gates={k: {"lambda_mean": 0.6 + 0.01 * k * n, "z_zero_fraction": 0.4} for k in skips},
        )
        for n in range(1, number + 1)
    ]


def drawn(history: list[EpochEnd], size: tuple[float, float] = (3.5, 3.7)) -> dict[str, Axes]:
    """Panels by the first word of their title."""
    figure = Figure(figsize=size)
    draw_curves(figure, history)
    figure.canvas.draw()
    return {axes.get_title("left"): axes for axes in figure.axes}


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}


def test_every_panel_draws_its_figures() -> None:
    history = epochs(5)
    panels = drawn(history)
    assert list(panels) == ["loss", "Dice", "learning rate", "mean λ", "zeros in z"]
    raw, line = (list(line.get_ydata()) for line in panels["loss"].lines)
    assert raw == [e.loss for e in history]
    assert line == smoothed(raw)
    assert lines(panels["Dice"])["tumour"] == [0.1] * 5
    assert lines(panels["Dice"])["mean"] == [e.validation["dice"] for e in history]
    assert list(panels["learning rate"].lines[0].get_ydata()) == [e.learning_rate for e in history]
    assert lines(panels["mean λ"])["2"] == [e.gates[2]["lambda_mean"] for e in history]
    assert lines(panels["zeros in z"])["skip 1"] == [0.4] * 5
    for axes in panels.values():
        assert list(axes.lines[0].get_xdata()) == [1, 2, 3, 4, 5]
    assert panels["Dice"].get_title("right") == "best 0.550"


@pytest.mark.parametrize("width", [3.2, 3.5, 3.9, 4.2, 5.0])
def test_the_names_of_the_skips_never_lie_on_the_title(width: float) -> None:
    axes = drawn(epochs(3, skips=(1, 2, 3, 4)), (width, 3.6))["mean λ"]
    legend = axes.get_legend()
    assert legend is not None
    (title,) = (text for text in axes.findobj(Text) if text.get_text() == "mean λ")
    assert title.get_window_extent().x1 < legend.get_window_extent().x0


def with_objective(figures: list[dict[str, float]]) -> list[EpochEnd]:
    return [
        replace(e, validation=e.validation | {OBJECTIVE + name: value for name, value in told.items()})
        for e, told in zip(epochs(len(figures)), figures, strict=True)
    ]


def test_figures_of_the_objective_share_one_scale_which_is_named() -> None:
    told = [{"divergence": 0.02, "teacher sure": 0.5}, {"divergence": 0.01, "teacher sure": 0.9}]
    axes = drawn(with_objective(told))["objective"]
    assert lines(axes) == {"divergence, 1 = 0.02": [1.0, 0.5], "teacher sure": [0.5, 0.9]}
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["divergence, 1 = 0.02", "teacher sure"]


@pytest.mark.parametrize("size", [(3.3, 4.7), (9.0, 5.0)])
def test_the_names_of_the_objectives_figures_lie_beside_them_and_in_the_picture(
    size: tuple[float, float],
) -> None:
    told = {"confidence": 0.8, "confidence/lowest": 0.1, "alignment": 0.0123}
    axes = drawn(with_objective([told] * 3), size)["objective"]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert legend.get_window_extent().x1 <= axes.figure.bbox.x1


def test_a_distribution_is_drawn_as_its_mean_and_range() -> None:
    told = {"confidence": 0.8, "confidence/lowest": 0.1, "confidence/median": 1.0}
    axes = drawn(with_objective([told] * 3))["objective"]
    assert list(lines(axes)) == ["confidence and range"]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.1, 1.0)


def test_a_gate_without_a_threshold_has_no_panel_for_it() -> None:
    assert list(drawn(epochs(3, skips=()))) == ["loss", "Dice", "learning rate"]


def test_what_one_epoch_does_not_say_is_a_gap_and_not_a_zero() -> None:
    history = epochs(3)
    history[0] = EpochEnd(1, 3, math.nan, 1e-3, 1.0, {"dice": math.nan})
    panels = drawn(history)
    for name, label in (("Dice", "liver"), ("Dice", "mean"), ("mean λ", "2"), ("zeros in z", "skip 1")):
        assert math.isnan(lines(panels[name])[label][0])
    assert panels["Dice"].get_title("right") == "best 0.530"


def test_of_one_class_nothing_is_drawn_twice() -> None:
    (axes,) = (axes for name, axes in drawn(epochs(3, ("lesion",))).items() if name == "Dice")
    assert len(axes.lines) == 1
    assert axes.get_legend() is None


def test_many_classes_are_all_drawn_and_counted_instead_of_named() -> None:
    axes = drawn(epochs(3, tuple(f"organ {k}" for k in range(20))))["Dice, 20 classes"]
    assert len(axes.lines) == 21
    assert axes.get_legend() is None


def test_long_runs_are_drawn_as_means_of_neighbours_which_is_said() -> None:
    history = epochs(2 * MOST_POINTS + 1)
    axes = drawn(history)["mean λ"]
    values = lines(axes)["2"]
    assert len(values) == MOST_POINTS * 2 // 3 + 1
    assert values[0] == pytest.approx(np.mean([e.gates[2]["lambda_mean"] for e in history[:3]]))
    assert axes.get_xlabel() == "epoch, means of 3"
    assert list(axes.lines[0].get_xdata())[:2] == [2, 5]
    assert drawn(history)["Dice"].get_title("right") == "best 0.560"


@pytest.mark.parametrize("size", [(3.5, 3.7), (3.5, 2.0), (12.0, 2.3), (12.0, 6.0)])
@pytest.mark.parametrize("number", [1, 100])
def test_panels_lie_in_the_figure_and_never_on_each_other(size: tuple[float, float], number: int) -> None:
    boxes = [axes.get_position() for axes in drawn(epochs(number), size).values()]
    for n, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        for other in boxes[:n]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0


@pytest.mark.parametrize(("size", "columns"), [((3.5, 3.7), 2), ((12.0, 2.3), 5), ((9.0, 5.0), 3)])
def test_the_shape_of_the_figure_decides_the_columns(size: tuple[float, float], columns: int) -> None:
    boxes = [axes.get_position() for axes in drawn(epochs(4), size).values()]
    assert sum(box.y1 == boxes[0].y1 for box in boxes) == columns
    assert boxes[-1].x1 == pytest.approx(boxes[columns - 1].x1)  # the last row has no hole


def test_a_figure_without_room_is_no_error() -> None:
    figure = Figure(figsize=(0, 0))
    draw_curves(figure, epochs(2))
    assert len(figure.axes) == 5


def test_the_picture_of_a_screen_with_fine_pixels_is_the_same_but_finer() -> None:
    colours = Colours(background="#202020", text="#ffffff")
    coarse, fine = (picture_of(epochs(9), (351, 370), scale, colours) for scale in (1.0, 2.0))
    assert (coarse.shape, fine.shape) == ((370, 351, 4), (740, 702, 4))
    assert coarse.dtype == np.uint8
    assert coarse[0, 0].tolist() == [0x20, 0x20, 0x20, 255]
    halved = np.asarray(PIL.Image.fromarray(fine).resize((351, 370), PIL.Image.Resampling.BOX), float)
    assert np.abs(halved - coarse).mean() < 5


def test_a_run_without_an_epoch_says_so() -> None:
    figure = Figure()
    draw_curves(figure, [])
    assert [text.get_text() for text in figure.texts] == ["no epoch is over yet"]
    draw_curves(figure, epochs(1))
    assert figure.texts == []


def test_smoothing_hangs_on_no_first_value_and_skips_what_is_not_finite() -> None:
    assert smoothed([1.0, 1.0, 1.0]) == [1.0, 1.0, 1.0]
    assert smoothed([0.0, 1.0], past=0.5) == [0.0, pytest.approx(1 / 1.5)]
    values = smoothed([math.nan, 4.0, math.inf, 2.0], past=0.5)
    assert math.isnan(values[0])
    assert values[1:] == [4.0, 4.0, pytest.approx((2 + 4 * 0.25) / 1.25)]


def test_curves_are_saved_as_pictures_and_as_a_table(tmp_path: Path) -> None:
    history = epochs(3)
    picture = PIL.Image.open(save_curves(history, tmp_path / "a.PNG"))
    assert picture.width > 1000
    assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert save_curves(history, tmp_path / "a.svg").read_text(encoding="utf-8").count("<path") > 20
    table = save_curves(history, tmp_path / "a.csv").rename(tmp_path / METRICS)
    assert table.read_bytes().startswith(b"epoch,epochs,loss,learning_rate,seconds,memory,")
    assert table.read_bytes().count(b"\n") == 1 + len(history)
    assert repr(read_metrics(tmp_path)) == repr(tuple(history))
    with pytest.raises(DataError, match=r"\.png, \.svg or \.csv"):
        save_curves(history, tmp_path / "a.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PNG", "a.svg", METRICS]
