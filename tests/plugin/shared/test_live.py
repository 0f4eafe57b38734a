"""Layers that a run learns from while they are drawn on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import napari
import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from napari_prosma.data.labels import IGNORE, LabelRule
from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import DataError
from napari_prosma.events import LivePreview
from napari_prosma.plugin.shared.layers import IS_PREVIEW
from napari_prosma.plugin.shared.live import LiveCase, LiveSteering
from napari_prosma.plugin.shared.placing import plane_on_screen
from napari_prosma.plugin.shared.prediction import PREDICTION, Prediction, prediction_in
from napari_prosma.plugin.shared.strokes import Strokes
from napari_prosma.plugin.train.data import LayerData
from napari_prosma.plugin.train.live_preview import LIVE, LiveLoop, drawn_values
from napari_prosma.training.steering import Steering, View

SHAPE = (4, 12, 10)
SOON = 5_000


@pytest.fixture
def scan(viewer: napari.Viewer) -> ImageLayer:
    return viewer.add_image(
        np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), name="scan", scale=(3, 1, 1)
    )


@pytest.fixture
def drawn(viewer: napari.Viewer, scan: ImageLayer) -> LabelsLayer:
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint8), name="strokes", scale=(3, 1, 1))
    layer.data[1, 2:5, 2:5] = 1
    return layer


@pytest.fixture
def live(scan: ImageLayer, drawn: LabelsLayer, tmp_path: Path) -> LiveCase:
    return LiveCase(scan, drawn, None, tmp_path / "run")


@pytest.fixture
def rests(viewer: napari.Viewer, drawn: LabelsLayer) -> Iterator[list[int]]:
    """Grows with every rest of the hand."""
    told: list[int] = []
    parent = QObject()
    strokes = Strokes(viewer, parent)
    strokes.watch(drawn)
    strokes.rested.connect(lambda: told.append(1))
    yield told
    strokes.watch(None)


# ---- the case ---------------------------------------------------------------------------------------------


def test_the_label_is_what_the_layer_holds_when_it_is_asked_for(live: LiveCase, drawn: LabelsLayer):
    case = live.open()
    assert case.read_label is not None
    assert case.read_label().sum() == 9
    drawn.fill((1, 0, 0), 1)
    assert case.read_label().sum() == 9 + 111
    drawn.undo()
    assert case.read_label().sum() == 9
    assert not live.folder.exists(), "looking writes nothing"


def test_what_is_learned_from_is_not_the_layers_own_array(live: LiveCase, drawn: LabelsLayer):
    case = live.open()
    assert case.read_label is not None
    before = case.read_label()
    drawn.data[:] = 1
    assert before.sum() == 9


def test_a_correction_is_kept_on_disk_as_well(live: LiveCase, drawn: LabelsLayer):
    opened = LayerData(live).begin()
    drawn.data[3, :2] = 1
    assert opened.cases[0].read_label is not None
    label = opened.cases[0].read_label()
    (kept,) = find_cases(opened.settings["data"], labels=opened.settings["labels"]).cases
    assert kept.name == opened.cases[0].name == "scan"
    assert kept.read_label is not None
    np.testing.assert_array_equal(kept.read_label(), label)
    np.testing.assert_array_equal(kept.read_image().array, live.image.data[None])
    assert kept.read_image().geometry == opened.cases[0].read_image().geometry


@pytest.mark.parametrize("labelled", ["slices", "scribbles"])
def test_labels_that_leave_something_out_are_found_again_as_they_were(
    labelled: str, scan: ImageLayer, drawn: LabelsLayer, tmp_path: Path
):
    drawn.data[1, 8:, :] = 2
    opened = LayerData(LiveCase(scan, drawn, labelled, tmp_path)).begin()
    assert opened.cases[0].read_label is not None
    label = opened.cases[0].read_label()
    assert (label == IGNORE).any()
    (kept,) = find_cases(opened.settings["data"], labels=opened.settings["labels"]).cases
    assert kept.read_label is not None
    np.testing.assert_array_equal(kept.read_label(), label)


def corrected(live: LiveCase, steering: Steering) -> np.ndarray:
    """The label as a run reads it that was told of a correction."""
    steering.relabel("scan")
    assert steering.take().relabelled == {"scan"}
    return live.read_label()


def test_a_value_that_is_new_is_refused_until_it_is_undone(live: LiveCase, drawn: LabelsLayer):
    live.open()
    steering = LiveSteering(live)
    drawn.data_setitem((np.array([2]), np.array([3]), np.array([4])), 3)
    with pytest.raises(DataError, match=r"value 3 is new in 'strokes'.* undo or erase it.* fine-tuning run"):
        corrected(live, steering)
    assert "value 3" in live.trouble
    drawn.undo()
    assert corrected(live, steering).sum() == 9
    assert live.trouble == ""


def test_labels_that_were_all_erased_are_no_correction(live: LiveCase, drawn: LabelsLayer):
    live.open()
    steering, before = LiveSteering(live), drawn.data.copy()
    drawn.data = np.zeros_like(before)
    with pytest.raises(
        DataError, match="all labels of 'strokes' were erased; the run continues with the previous labels"
    ):
        corrected(live, steering)
    assert "were erased" in live.trouble
    assert live.read_label().sum() == 9, "whoever only reads gets them as they were"
    drawn.data = before
    assert corrected(live, steering).sum() == 9
    assert live.trouble == ""


def test_a_layer_of_another_size_or_closed_leaves_the_run_its_labels(live: LiveCase, drawn: LabelsLayer):
    live.open()
    steering, before = LiveSteering(live), drawn.data
    drawn.data = np.ones((2, 12, 10), np.uint8)
    with pytest.raises(DataError, match=r"another shape now, \(2, 12, 10\).* with the previous labels"):
        corrected(live, steering)
    drawn.data = before
    assert corrected(live, steering).sum() == 9
    live.is_closed = True
    with pytest.raises(DataError, match="was closed; the run continues"):
        corrected(live, steering)


def test_a_run_that_only_reads_its_case_never_ends_by_what_is_drawn_meanwhile(
    live: LiveCase, drawn: LabelsLayer
):
    case = live.open()
    assert case.read_label is not None
    drawn.data[0] = 3
    assert case.read_label().sum() == 9
    assert "value 3" in live.trouble
    live.is_closed = True
    assert case.read_label().sum() == 9


def test_layers_that_are_closed_before_the_run_begins_are_told_so(live: LiveCase):
    live.is_closed = True
    with pytest.raises(DataError, match="was closed; start again with others"):
        live.open()


def test_labels_of_another_image_are_refused_before_anything_is_read(drawn: LabelsLayer, tmp_path: Path):
    other = ImageLayer(np.zeros((4, 4)), name="other")
    with pytest.raises(
        DataError, match=r"'strokes' has shape \(4, 12, 10\) but image layer 'other' has \(4, 4\)"
    ):
        LiveCase(other, drawn, None, tmp_path)


def test_nothing_drawn_is_told_in_plain_words(live: LiveCase, drawn: LabelsLayer):
    drawn.data[:] = 0
    with pytest.raises(DataError, match="nothing is drawn on 'strokes' yet; paint the structure"):
        live.open()


def test_nan_in_the_image_is_filled_and_told(live: LiveCase, scan: ImageLayer):
    scan.data[2, 3, 3] = np.nan
    (case,) = LayerData(live).begin().cases
    image = case.read_image()
    assert image.array[0, 2, 3, 3] == np.nanmin(scan.data)
    assert image.notices == ("0.21 % of the image is NaN; replaced by its lowest value",)
    assert np.isnan(scan.data[2, 3, 3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_cannot_be_filled_is_told_before_anything_is_written(
    value: float, live: LiveCase, scan: ImageLayer
):
    scan.data[:] = value
    with pytest.raises(DataError, match="the image 'scan' holds infinite values or nothing but NaN"):
        LayerData(live).begin()
    assert not live.folder.exists()


def test_gray_pictures_stored_in_colour_have_one_channel(tmp_path: Path):
    gray = np.random.default_rng(0).integers(0, 255, (8, 9), dtype=np.uint8)
    layer = ImageLayer(np.stack([gray] * 3 + [gray * 0 + 255], axis=-1), rgb=True, name="../odd/name")
    live = LiveCase(layer, LabelsLayer(np.eye(8, 9, dtype=int)), None, tmp_path)
    case = live.open()
    np.testing.assert_array_equal(case.read_image().array, gray[None])
    assert "/" not in case.name


# ---- the hand ---------------------------------------------------------------------------------------------


def test_every_way_to_change_labels_is_noticed_once_the_hand_rests(
    viewer: napari.Viewer, drawn: LabelsLayer, rests: list[int], qtbot: QtBot
):
    def paint() -> None:
        for y in range(5):
            drawn.paint((1, y, 7), 1)

    def erase() -> None:
        drawn.paint((1, 2, 2), 0)

    def script() -> None:
        drawn.data[0] = 1
        drawn.refresh()

    def replace() -> None:
        drawn.data = np.ones(SHAPE, np.uint8)

    viewer.dims.set_point(0, 3)
    drawn.brush_size = 1
    for number, change in enumerate(
        [paint, erase, lambda: drawn.fill((1, 9, 9), 1), drawn.undo, drawn.redo, script, replace], start=1
    ):
        change()
        qtbot.waitUntil(lambda number=number: len(rests) == number, timeout=SOON)
    qtbot.wait(600)
    assert len(rests) == 7


def test_looking_at_other_slices_is_no_change_of_the_labels(
    viewer: napari.Viewer, rests: list[int], qtbot: QtBot
):
    for z in range(4):
        viewer.dims.set_current_step(0, z)
    viewer.dims.order = (1, 0, 2)
    qtbot.wait(600)
    assert rests == []


# ---- the slice on screen ----------------------------------------------------------------------------------


def test_the_plane_on_screen_is_told_in_the_layers_own_indices(viewer: napari.Viewer, drawn: LabelsLayer):
    viewer.dims.set_current_step(0, 2)
    assert plane_on_screen(viewer.dims, drawn, SHAPE) == (2, None, None)
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 7)
    assert plane_on_screen(viewer.dims, drawn, SHAPE) == (None, None, 7)
    viewer.dims.ndisplay = 3
    assert plane_on_screen(viewer.dims, drawn, SHAPE) is None


def test_a_layer_with_fewer_axes_than_the_viewer_or_out_of_sight_is_no_trouble(viewer: napari.Viewer):
    viewer.add_image(np.zeros((3, 6, 8, 8)))
    layer = viewer.add_labels(np.zeros((4, 8, 8), np.uint8))
    viewer.dims.set_current_step(1, 3)
    assert plane_on_screen(viewer.dims, layer, (4, 8, 8)) == (3, None, None)
    viewer.dims.set_current_step(1, 5)
    assert plane_on_screen(viewer.dims, layer, (4, 8, 8)) is None
    viewer.dims.order = (1, 2, 0, 3)
    assert plane_on_screen(viewer.dims, layer, (4, 8, 8)) is None


def test_channels_on_a_slider_are_no_axis_of_the_plane(viewer: napari.Viewer):
    layer = viewer.add_image(np.zeros((2, 4, 8, 8)), metadata={"channels_first": True})
    viewer.dims.set_current_step(0, 1)
    viewer.dims.set_current_step(1, 3)
    assert plane_on_screen(viewer.dims, layer, (4, 8, 8)) == (3, None, None)


@pytest.fixture
def loop(viewer: napari.Viewer, live: LiveCase) -> Iterator[tuple[LiveLoop, Steering]]:
    live.open()
    parent, steering = QObject(), Steering()
    made = LiveLoop(viewer, parent)
    made.start(live, steering)
    yield made, steering
    made.stop()


def preview(z: int, rows: slice, step: int = 1) -> LivePreview:
    labels = np.zeros((1, *SHAPE[1:]), np.uint8)
    labels[0, rows] = 1
    return LivePreview(step, "scan", labels, np.full_like(labels, 255), (z, None, None))


def test_the_run_is_told_what_is_drawn_and_what_is_looked_at(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, drawn: LabelsLayer, qtbot: QtBot
):
    _, steering = loop
    assert steering.view == View("scan", (1, None, None))
    viewer.dims.set_current_step(0, 3)
    qtbot.waitUntil(lambda: steering.view == View("scan", (3, None, None)), timeout=SOON)
    assert not steering.take().relabelled
    drawn.paint((3, 5, 5), 1)
    qtbot.waitUntil(lambda: bool(steering.take().relabelled), timeout=SOON)


def test_the_prediction_lies_on_the_slice_and_leaves_hand_and_undo_alone(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, drawn: LabelsLayer, qtbot: QtBot
):
    viewer.layers.selection.active = drawn
    drawn.mode = "paint"
    drawn.paint((1, 8, 8), 1)
    loop[0].show(preview(1, slice(3, 6)))
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)
    layer = viewer.layers[LIVE]
    assert viewer.layers.selection.active is drawn
    assert set(viewer.layers.selection) == {drawn}
    assert drawn.mode == "paint"
    assert not layer.editable
    assert layer.metadata[IS_PREVIEW]
    shown: Prediction = layer.metadata[PREDICTION]
    assert (shown.at, int(shown.labels.sum())) == ((1, None, None), 30)
    hues = [rgb_to_hsv(np.asarray(of.get_color(1))[:3])[0] for of in (layer, drawn)]
    assert hues[0] == pytest.approx(hues[1], abs=1e-3), "of one class, one colour"

    loop[0].show(preview(2, slice(0, 1), 2))
    qtbot.waitUntil(lambda: layer.data[2].any(), timeout=SOON)
    assert viewer.layers[LIVE] is layer
    assert (shown.at, int(shown.labels.sum())) == ((2, None, None), 10)
    assert not layer.data[1].any()
    drawn.undo()
    assert drawn.data[1].sum() == 9


def test_the_layer_of_the_prediction_is_made_before_the_first_one_and_goes_if_none_came(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, live: LiveCase, qtbot: QtBot
):
    (made,) = (layer for layer in viewer.layers if PREDICTION in layer.metadata)
    assert made.name == "prediction (to come)"
    assert prediction_in(viewer) is None
    loop[0].show(preview(1, slice(3, 6)))
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)
    assert viewer.layers[LIVE] is made
    shown = prediction_in(viewer)
    assert shown is not None
    assert shown.outline.layer is made
    loop[0].stop()
    assert made in viewer.layers, "the last prediction stays"
    viewer.layers.remove(made)
    loop[0].start(live, Steering())
    loop[0].stop()
    assert not any(PREDICTION in layer.metadata for layer in viewer.layers)


def test_a_prediction_that_was_removed_stays_away_until_the_next_run(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, live: LiveCase, qtbot: QtBot
):
    loop[0].show(preview(1, slice(3, 6)))
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)
    viewer.layers.remove(LIVE)
    loop[0].show(preview(1, slice(3, 7), 2))
    qtbot.wait(200)
    assert LIVE not in viewer.layers
    loop[0].start(live, Steering())
    loop[0].show(preview(1, slice(3, 6)))
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)


def test_showing_one_label_alone_does_not_touch_the_prediction(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, drawn: LabelsLayer, qtbot: QtBot
):
    loop[0].show(preview(1, slice(3, 6)))
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)
    drawn.show_selected_label = True
    assert not viewer.layers[LIVE].colormap.use_selection


def test_closing_the_layer_is_told_to_the_run(
    loop: tuple[LiveLoop, Steering], viewer: napari.Viewer, live: LiveCase, drawn: LabelsLayer
):
    viewer.layers.remove(drawn)
    assert live.is_closed
    assert loop[1].take().relabelled == {"scan"}


def test_predictions_are_shown_in_the_numbers_that_were_drawn():
    assert drawn_values(LabelRule.of_values([0, 3, 7])).tolist() == [0, 3, 7]
    assert drawn_values(LabelRule.of_values([0, 1])).tolist() == [0, 1]
    assert drawn_values(LabelRule.of_values([0, 1, 2]).sparse("scribbles")).tolist() == [0, 2]
