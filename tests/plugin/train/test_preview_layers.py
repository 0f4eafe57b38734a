"""Layers that follow a training run come one by one, and leave the brush in the hand."""

from __future__ import annotations

import napari
import numpy as np
import pytest
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject, QTimer

from napari_prosma.events import Preview
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.train.preview import IMAGE, PREDICTION, TRUTH, PreviewLayers

SOON = 10_000


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer()


def preview(seed: int = 0) -> Preview:
    classes = np.eye(16, dtype=np.uint8)
    image = np.random.default_rng(seed).random((1, 16, 16), np.float32)
    return Preview(1, "a case", image, classes, classes, Geometry((1.0, 1.0), (0.0, 0.0), "pixel"))


def made(viewer: napari.Viewer) -> tuple[PreviewLayers, Job]:
    job = Job(QObject(viewer.window._qt_window))
    layers = PreviewLayers(viewer, job)
    layers.start()
    return layers, job


def show_first(viewer: napari.Viewer, qtbot: QtBot) -> None:
    layers, _ = made(viewer)
    layers.show(preview())
    qtbot.waitUntil(lambda: TRUTH in viewer.layers and viewer.layers[TRUTH].visible, timeout=SOON)


def test_all_are_visible_and_the_image_is_selected_in_an_empty_viewer(viewer: napari.Viewer, qtbot: QtBot):
    show_first(viewer, qtbot)
    assert [layer.name for layer in viewer.layers] == [IMAGE, PREDICTION, TRUTH]
    assert all(layer.visible for layer in viewer.layers)
    qtbot.waitUntil(lambda: viewer.layers.selection.active is viewer.layers[IMAGE], timeout=SOON)


def test_a_preview_that_comes_before_the_last_is_drawn_hides_nothing(viewer: napari.Viewer, qtbot: QtBot):
    layers, job = made(viewer)
    job.happened.connect(layers.show)
    with qtbot.waitSignal(job.ended, timeout=SOON):
        job.start("previews", lambda: (preview(seed) for seed in range(2)))
    assert [layer.name for layer in viewer.layers if layer.visible] == [IMAGE, PREDICTION, TRUTH]
    assert viewer.layers.selection.active is viewer.layers[IMAGE]
    np.testing.assert_array_equal(viewer.layers[IMAGE].data, preview(1).image[0])


def test_a_panel_that_closes_leaves_no_layer_hidden(viewer: napari.Viewer, qtbot: QtBot):
    layers, job = made(viewer)
    viewer.layers.events.inserted.connect(lambda event: QTimer.singleShot(0, job.close))
    layers.show(preview())
    qtbot.waitUntil(lambda: IMAGE in viewer.layers and viewer.layers[IMAGE].visible, timeout=SOON)
    assert [layer.name for layer in viewer.layers if layer.visible] == [IMAGE, PREDICTION, TRUTH]


def test_what_is_painted_on_stays_selected_and_nothing_else_ever_is(viewer: napari.Viewer, qtbot: QtBot):
    strokes = viewer.add_labels(np.zeros((16, 16), np.uint8))
    chosen = []
    viewer.layers.selection.events.active.connect(lambda event: chosen.append(event.value))
    show_first(viewer, qtbot)
    assert viewer.layers.selection.active is strokes
    assert not chosen


def test_nothing_to_paint_with_is_made_for_labels_that_nobody_paints_on(viewer: napari.Viewer, qtbot: QtBot):
    show_first(viewer, qtbot)
    labels = [layer for layer in viewer.layers if isinstance(layer, LabelsLayer)]
    assert len(labels) == 2
    for layer in labels:
        assert not layer.editable
        assert not any(tool.visible for tool in layer._overlays.values())
