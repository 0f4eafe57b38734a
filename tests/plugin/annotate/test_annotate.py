"""The Annotate panel: filling between slices, accepting and rejecting what is predicted, and their undo."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import napari
import numpy as np
import pytest
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.data.marks import marks_path, read_marks
from napari_prosma.errors import DataError
from napari_prosma.plugin.annotate.fill_box import PREVIEW
from napari_prosma.plugin.contributions.reader import read_layers
from napari_prosma.plugin.contributions.writer import write_labels_layer
from napari_prosma.plugin.shared.guesses import guesses_of
from napari_prosma.plugin.shared.keys import KEYS
from napari_prosma.plugin.shared.layers import is_input
from napari_prosma.plugin.shared.prediction import Prediction, prediction_in

SHAPE = (9, 30, 24)
SCALE = (3.0, 1.0, 1.0)
SOON = 5_000
Press = Callable[[QAbstractButton], None]


@pytest.fixture
def panel(open_panel: Callable[[str], Any], viewer: napari.Viewer) -> Any:
    viewer.add_image(np.zeros(SHAPE, np.float32), name="scan", scale=SCALE, units="mm")
    viewer.add_labels(np.zeros(SHAPE, np.uint8), name="strokes", scale=SCALE, units="mm")
    return open_panel("Annotate")


@pytest.fixture
def drawn(panel: Any, viewer: napari.Viewer) -> LabelsLayer:
    """Squares of two classes on slices 0, 4 and 8."""
    layer = viewer.layers["strokes"]
    for n, side in ((0, 4), (4, 8), (8, 6)):
        layer.data[n, 4 : 4 + side, 4 : 4 + side] = 1
        layer.data[n, 18 : 18 + side, 12 : 12 + side] = 3
    layer.refresh()
    return layer


def wait(panel: Any, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not panel.fill_box.filling.is_running, timeout=SOON)


def fill(panel: Any, press: Press, qtbot: QtBot) -> str:
    press(panel.fill_box.fill_button)
    wait(panel, qtbot)
    return str(panel.fill_box.message.plain_text())


# ---- filling ----------------------------------------------------------------------------------------------


def test_filling_is_one_undo_step_and_leaves_what_is_drawn(
    panel: Any, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    before = drawn.data.copy()
    said = fill(panel, press, qtbot)
    assert said.startswith("6 slices filled across z")
    assert (drawn.data[before > 0] == before[before > 0]).all()
    assert all((drawn.data[n] == value).any() for n in range(9) for value in (1, 3))
    after = drawn.data.copy()
    np.testing.assert_array_equal(guesses_of(drawn).where("filled"), (after > 0) & (before == 0))
    drawn.undo()
    np.testing.assert_array_equal(drawn.data, before)
    assert not guesses_of(drawn).where("filled").any()
    drawn.redo()
    np.testing.assert_array_equal(drawn.data, after)
    assert guesses_of(drawn).where("filled").any()


def test_a_class_on_one_slice_only_is_told(
    panel: Any, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    drawn.data[2, 20:24, 2:6] = 7
    said = fill(panel, press, qtbot)
    assert said.endswith("Ctrl+Z undoes it. On one slice only, so not filled: class 7")
    assert (drawn.data == 7).sum() == 16


def test_only_the_selected_class_is_filled_where_that_is_asked(
    panel: Any, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    drawn.selected_label = 3
    press(panel.fill_box.only_selected)
    fill(panel, press, qtbot)
    assert np.unique(drawn.data[2]).tolist() == [0, 3]


def test_the_nearest_slice_continues_to_the_one_on_screen(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    before = drawn.data.copy()
    viewer.dims.set_current_step(0, 6)
    press(panel.fill_box.here_button)
    wait(panel, qtbot)
    np.testing.assert_array_equal(drawn.data[5], before[4])
    np.testing.assert_array_equal(drawn.data[6], before[4])
    assert not drawn.data[7].any()
    drawn.undo()
    np.testing.assert_array_equal(drawn.data, before)


def test_the_preview_follows_the_hand_and_is_no_input(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    press(panel.fill_box.preview)
    qtbot.waitUntil(lambda: PREVIEW in viewer.layers, timeout=SOON)
    outline = viewer.layers[PREVIEW]
    assert not is_input(outline)
    assert outline.contour == 1
    assert viewer.layers.selection.active is drawn
    qtbot.waitUntil(lambda: outline.data.any(), timeout=SOON)
    first = np.count_nonzero(outline.data)
    drawn.brush_size = 9
    drawn.paint((8, 15, 5), 1)
    qtbot.waitUntil(lambda: np.count_nonzero(outline.data) > first, timeout=SOON)
    press(panel.fill_box.preview)
    assert PREVIEW not in viewer.layers


def test_filling_works_on_what_is_seen_in_3d_and_with_large_numbers(
    panel: Any, viewer: napari.Viewer, press: Press, qtbot: QtBot
) -> None:
    layer = viewer.add_labels(np.zeros(SHAPE, np.uint32), name="many", scale=SCALE, units="mm")
    layer.data[0, 5:15, 5:15] = layer.data[4, 5:15, 5:15] = 70_000
    viewer.dims.ndisplay = 3
    assert panel.labels.layer is layer, "it follows the layer that is selected"
    assert "3 slices filled" in fill(panel, press, qtbot)
    assert (layer.data[2, 5:15, 5:15] == 70_000).all()
    layer.undo()
    assert layer.data.sum() == 2 * 100 * 70_000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda viewer: viewer.layers.remove("strokes"), "Add a labels layer"),
        (lambda viewer: viewer.add_labels(np.zeros((8, 8), np.uint8), name="flat"), "'flat' have 2 axes"),
        (lambda viewer: viewer.add_labels(np.zeros((2, 3, 8, 8), np.uint8), name="beats"), "4 axes.*split"),
        (lambda viewer: None, "Nothing is drawn yet"),
    ],
)
def test_what_cannot_be_filled_is_told(
    make: Callable[[napari.Viewer], object],
    said: str,
    panel: Any,
    viewer: napari.Viewer,
    press: Press,
    qtbot: QtBot,
) -> None:
    make(viewer)
    told = fill(panel, press, qtbot)
    assert re.search(said, told)
    assert panel.fill_box.message.is_error


def test_filling_to_here_needs_a_slice_on_screen(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, press: Press
) -> None:
    viewer.dims.ndisplay = 3
    press(panel.fill_box.here_button)
    assert "No slice across z of 'strokes' is on screen" in panel.fill_box.message.plain_text()
    viewer.dims.ndisplay = 2
    viewer.dims.order = (1, 0, 2)
    press(panel.fill_box.here_button)
    assert "No slice across z" in panel.fill_box.message.plain_text()


def test_a_layer_that_is_closed_or_renamed_meanwhile_is_no_trouble(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, press: Press, qtbot: QtBot
) -> None:
    drawn.name = "renamed"
    press(panel.fill_box.fill_button)
    viewer.layers.remove(drawn)
    wait(panel, qtbot)
    assert "'renamed' were closed" in panel.fill_box.message.plain_text()


# ---- accepting and rejecting ------------------------------------------------------------------------------


@pytest.fixture
def shown(viewer: napari.Viewer, drawn: LabelsLayer) -> Prediction:
    """Class 3 in two regions of slice 2, one of which the model is less sure of; class 1 on slice 3."""
    made = Prediction(viewer, viewer.layers["scan"], drawn, np.array([0, 1, 3]), "prediction")
    classes = np.zeros(SHAPE, np.uint8)
    classes[2, 2:8, 2:8], classes[2, 20:26, 4:10] = 2, 2
    classes[3, 5:9, 5:9] = 1
    sureness = np.where(classes == 2, 250, 200).astype(np.uint8)
    sureness[2, 20:26] = 150
    made.show((None, None, None), classes, sureness)
    viewer.dims.set_current_step(0, 2)
    return made


def test_a_prediction_is_an_outline_thin_at_every_size(viewer: napari.Viewer) -> None:
    for shape, scale, fine in (
        ((30, 24), (0.5, 0.2), 8),
        ((600, 500), (1, 1), 1),
        ((5, 64, 70), (4, 1, 1), 4),
    ):
        viewer.layers.clear()
        image = viewer.add_image(np.zeros(shape), scale=scale, translate=(7,) * len(shape), units="mm")
        drawn = viewer.add_labels(
            np.ones(shape, np.uint8), scale=scale, translate=(7,) * len(shape), units="mm"
        )
        shown = Prediction(viewer, image, drawn, np.array([0, 1]), "guessed")
        shown.show((None,) * len(shape), np.ones(shape, np.uint8), np.full(shape, 255, np.uint8))
        layer = viewer.layers["guessed"]
        assert (layer.contour, layer.opacity) == (1, 1)
        assert layer.data.shape[-2:] == tuple(fine * n for n in shape[-2:])
        assert layer.data.all()
        edges = [of.extent.world + np.outer((-0.5, 0.5), of.scale) for of in (layer, image)]
        np.testing.assert_allclose(*edges)
        assert viewer.dims.nsteps[:-2] == shape[:-2], "the slider steps as before"


def test_in_3d_what_is_guessed_is_seen_through(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, shown: Prediction
) -> None:
    layer = shown.outline.layer
    viewer.dims.ndisplay = 3
    assert (layer.contour, layer.opacity) == (0, 0.3)
    viewer.dims.ndisplay = 2
    assert (layer.contour, layer.opacity) == (1, 1)


def test_labels_are_made_and_classes_named_where_one_draws(
    panel: Any, viewer: napari.Viewer, press: Press
) -> None:
    viewer.layers.remove("strokes")
    viewer.dims.ndisplay = 3
    press(panel.new_labels)
    made = viewer.layers["scan labels"]
    assert panel.labels.layer is made
    assert made.mode == "paint"
    assert viewer.dims.ndisplay == 2
    panel.class_name.line.setText("spleen")
    panel.class_name.line.editingFinished.emit()
    made.name = "renamed"
    assert made.features["class"].tolist() == ["background", "spleen"]
    viewer.layers.clear()
    assert not panel.new_labels.isEnabled()


def test_a_picture_has_no_slices_to_fill_between(panel: Any, viewer: napari.Viewer) -> None:
    assert not panel._filling.isHidden()
    panel.accept_box.message.tell("Accepted 3 voxels")
    viewer.add_labels(np.zeros((8, 8), np.uint8), name="flat")
    assert panel._filling.isHidden()
    assert not panel.accept_box.message.plain_text(), "it was said of other labels"


def test_a_slice_is_accepted_as_one_step_and_remembered_as_accepted(
    panel: Any, drawn: LabelsLayer, shown: Prediction, press: Press
) -> None:
    drawn.data[2, 0:4, 0:4] = 1  # drawn, where something else is predicted
    before = drawn.data.copy()
    press(panel.accept_box.slice_button)
    assert panel.accept_box.message.plain_text() == "Accepted 68 voxels; Ctrl+Z undoes it"
    assert (drawn.data[before > 0] == before[before > 0]).all()
    assert (drawn.data[2] == 3).sum() == 36 + 36 - 4
    np.testing.assert_array_equal(drawn.data[3:], before[3:])
    np.testing.assert_array_equal(guesses_of(drawn).where("accepted"), drawn.data != before)
    drawn.brush_size = 1
    drawn.paint((2, 21, 5), 1)
    assert not guesses_of(drawn).where("accepted")[2, 21, 5], "what is painted over is the hand's"
    drawn.undo()
    drawn.undo()
    np.testing.assert_array_equal(drawn.data, before)
    assert not guesses_of(drawn).where("accepted").any()


def test_what_was_accepted_is_known_again_after_saving_and_opening(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, shown: Prediction, press: Press, tmp_path: Path
) -> None:
    press(panel.accept_box.slice_button)
    accepted = guesses_of(drawn).where("accepted")
    path = tmp_path / "organ.nii.gz"
    write_labels_layer(str(path), drawn.data, {"name": "strokes", "scale": SCALE, "metadata": {}})
    (data, attributes, _) = read_layers(str(path))[0]
    opened = viewer.add_labels(data.astype(np.uint8), metadata=attributes["metadata"])
    np.testing.assert_array_equal(guesses_of(opened).where("accepted"), accepted)
    opened.brush_size = 1
    opened.paint(tuple(np.argwhere(accepted)[0]), 1)
    assert guesses_of(opened).where("accepted").sum() == accepted.sum() - 1
    write_labels_layer(str(path), opened.data, {"name": "again", "metadata": {}})
    assert read_marks(path, opened.data)["accepted"].sum() == accepted.sum() - 1
    assert read_marks(path, np.ones_like(opened.data)) == {}, "other labels by now"
    marks_path(path).write_bytes(b"PK")
    with pytest.raises(DataError, match="which says what was accepted, is damaged"):
        read_marks(path, opened.data)
    assert len(read_layers(str(path))) == 1
    opened.data = np.zeros_like(opened.data)
    write_labels_layer(str(path), opened.data, {"name": "nothing", "metadata": {}})
    assert not marks_path(path).exists()


def test_what_is_surer_is_accepted_and_the_rest_waits(
    panel: Any, drawn: LabelsLayer, shown: Prediction, press: Press
) -> None:
    before = drawn.data.copy()
    panel.accept_box.sure.setValue(90)
    press(panel.accept_box.sure_button)
    assert (drawn.data[2] == 3).sum() == 36
    panel.accept_box.sure.setValue(70)
    press(panel.accept_box.sure_button)
    assert (drawn.data[3] == 1).sum() == 16
    drawn.undo()
    drawn.undo()
    np.testing.assert_array_equal(drawn.data, before)


def at(viewer: napari.Viewer, layer: LabelsLayer, *index: int) -> None:
    viewer.cursor.position = tuple(layer.data_to_world(index))


def key(viewer: napari.Viewer, name: str) -> None:
    """As if a key of the viewer were pressed."""
    from napari.utils.key_bindings import coerce_keybinding

    viewer.keymap[coerce_keybinding(KEYS[name].bound)](viewer)


def test_keys_accept_and_reject_the_region_under_the_cursor(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, shown: Prediction
) -> None:
    before = drawn.data.copy()
    at(viewer, drawn, 2, 22, 6)
    key(viewer, "accept region")
    assert (drawn.data[2, 20:26, 4:10] == 3).all()
    assert (drawn.data[2] == 3).sum() == 36
    key(viewer, "reject region")
    np.testing.assert_array_equal(drawn.data, before)
    assert not shown.outline.layer.data[2, 20 * 8 : 26 * 8].any(), "it is hidden"
    assert shown.outline.layer.data[2].any(), "the other region is not"
    key(viewer, "accept slice")
    assert not drawn.data[2, 20:26].any(), "what was rejected is not accepted with the slice"
    drawn.undo()
    drawn.undo()
    assert (drawn.data[2, 20:26, 4:10] == 3).all(), "the rejection is undone"
    assert shown.outline.layer.data[2, 20 * 8 : 26 * 8].any()
    drawn.undo()
    np.testing.assert_array_equal(drawn.data, before)


def test_a_rejection_that_changes_no_label_is_undone_as_well(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, shown: Prediction
) -> None:
    before, outlined = drawn.data.copy(), shown.outline.layer.data.copy()
    at(viewer, drawn, 2, 3, 3)
    key(viewer, "reject region")
    assert "Rejected 36 voxels" in panel.accept_box.message.plain_text()
    np.testing.assert_array_equal(drawn.data, before)
    assert not np.array_equal(shown.outline.layer.data, outlined)
    drawn.undo()
    np.testing.assert_array_equal(shown.outline.layer.data, outlined)
    drawn.redo()
    assert not np.array_equal(shown.outline.layer.data, outlined)


def test_a_click_accepts_while_its_button_is_down_and_painting_comes_back(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, shown: Prediction, press: Press
) -> None:
    drawn.mode = "paint"
    press(panel.accept_box.region_button)
    assert drawn.mode == "pan_zoom"

    class Click:
        type, position = "mouse_press", tuple(drawn.data_to_world((2, 5, 5)))

    *before, clicked = viewer.mouse_drag_callbacks
    running = clicked(viewer, Click)
    next(running)
    Click.type = "mouse_release"
    list(running)
    assert (drawn.data[2] == 3).sum() == 36
    press(panel.accept_box.reject_button)
    assert not panel.accept_box.region_button.isChecked()
    press(panel.accept_box.reject_button)
    assert viewer.mouse_drag_callbacks == before
    assert drawn.mode == "paint"


def test_without_a_prediction_or_in_3d_it_is_said_what_to_do(
    panel: Any, viewer: napari.Viewer, drawn: LabelsLayer, press: Press
) -> None:
    press(panel.accept_box.slice_button)
    assert "No prediction is on screen" in panel.accept_box.message.plain_text()
    made = Prediction(viewer, viewer.layers["scan"], drawn, np.array([0, 1]), "prediction")
    made.show((None,) * 3, np.ones(SHAPE, np.uint8), np.full(SHAPE, 255, np.uint8))
    viewer.dims.ndisplay = 3
    press(panel.accept_box.slice_button)
    assert "switch from 3D to 2D" in panel.accept_box.message.plain_text()
    viewer.dims.ndisplay = 2
    drawn.data = np.ones(SHAPE, np.uint8)
    press(panel.accept_box.slice_button)
    assert panel.accept_box.message.plain_text() == "There is nothing left to accept on this slice"
    made.outline.layer.visible = False
    assert prediction_in(viewer) is None


def test_labels_that_cannot_be_undone_are_not_accepted_into(panel: Any, viewer: napari.Viewer) -> None:
    image = viewer.add_image(np.zeros((4, 10, 12)), name="scan")
    lazy = viewer.add_labels(dask.array.zeros((4, 10, 12), dtype=np.uint8), name="lazy")
    made = Prediction(viewer, image, lazy, np.array([0, 1]), "prediction")
    made.show((None,) * 3, np.ones((4, 10, 12), np.uint8), np.full((4, 10, 12), 255, np.uint8))
    panel.accept_box.accept_slice()
    assert (
        "cannot be undone step by step; draw on a new labels layer" in panel.accept_box.message.plain_text()
    )
    panel.fill_box.fill()
    assert "cannot be undone step by step" in panel.fill_box.message.plain_text()


def test_labels_that_cover_several_images_take_what_lies_on_them(panel: Any, viewer: napari.Viewer) -> None:
    image = viewer.add_image(np.zeros((10, 12)), translate=(5, 0))
    wide = viewer.add_labels(np.zeros((20, 12), np.uint8), name="wide")
    made = Prediction(viewer, image, wide, np.array([0, 7]), "prediction")
    classes = np.zeros((10, 12), np.uint8)
    classes[2, 3] = 1
    made.show((None, None), classes, classes * 255)
    panel.accept_box.accept_slice()
    assert np.argwhere(wide.data).tolist() == [[7, 3]]
    assert wide.data[7, 3] == 7


# ---- undo -------------------------------------------------------------------------------------------------


def fill_here(panel: Any) -> None:
    panel.viewer.dims.set_current_step(0, 6)
    panel.fill_box.fill_to_here()


def fill_one(panel: Any) -> None:
    panel.fill_box.only_selected.setChecked(True)
    panel.fill_box.fill()


def pointing(name: str) -> Callable[[Any], None]:
    def act(panel: Any) -> None:
        at(panel.viewer, panel.viewer.layers["strokes"], 2, 22, 6)
        key(panel.viewer, name)

    return act


ACTIONS: dict[str, Callable[[Any], None]] = {
    "fill": lambda panel: panel.fill_box.fill(),
    "fill one class": fill_one,
    "fill to here": fill_here,
    "accept slice": lambda panel: panel.accept_box.accept_slice(),
    "accept surer": lambda panel: panel.accept_box.accept_surer(),
    "accept region": pointing("accept region"),
    "reject region": pointing("reject region"),
}


def state(layer: LabelsLayer, shown: Prediction) -> list[np.ndarray]:
    """All that an action may change."""
    marks = [guesses_of(layer).where(kind) for kind in ("filled", "accepted", "rejected")]
    return [layer.data.copy(), shown.outline.layer.data.copy(), *marks]


@pytest.mark.parametrize("earlier", [None, "accept slice", "reject region"])
@pytest.mark.parametrize("action", ACTIONS)
def test_undo_brings_back_exactly_what_was_there_before_each_action_and_redo_what_came_after(
    panel: Any, drawn: LabelsLayer, shown: Prediction, qtbot: QtBot, action: str, earlier: str | None
) -> None:
    panel.accept_box.sure.setValue(55)
    drawn.brush_size = 3
    states = [(0, state(drawn, shown))]
    for name in (earlier, action):
        if name is None:
            continue
        ACTIONS[name](panel)
        wait(panel, qtbot)
        states.append((len(drawn._undo_history), state(drawn, shown)))
        drawn.paint((1, 15, 3 + len(states)), 3)
        states.append((len(drawn._undo_history), state(drawn, shown)))
    if earlier is None:
        assert states[1][0] == 1, "one step"
        assert any((a != b).any() for a, b in zip(states[0][1], states[1][1], strict=True))
    for turn, order in ((drawn.undo, states[::-1]), (drawn.redo, states)):
        for steps, expected in order:
            while len(drawn._undo_history) != steps:
                turn()
            for now, then in zip(state(drawn, shown), expected, strict=True):
                np.testing.assert_array_equal(now, then)


def test_keys_are_let_go_with_the_panel(panel: Any, viewer: napari.Viewer) -> None:
    from napari.utils.key_bindings import coerce_keybinding

    assert coerce_keybinding(KEYS["fill"].bound) in viewer.keymap
    viewer.window.remove_dock_widget(panel)
    assert coerce_keybinding(KEYS["fill"].bound) not in viewer.keymap
