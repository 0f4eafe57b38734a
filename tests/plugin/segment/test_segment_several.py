"""Several layers in one go: what is wrong with one, stopping, and the maps beside the labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import napari
import numpy as np
import psutil
import pytest
import torch
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton
from safetensors.torch import save_file

from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint
from napari_prosma.plugin.segment.panel import SegmentPanel

Press = Callable[[QAbstractButton], None]
Finish = Callable[[SegmentPanel], None]
SOON = 30_000


@pytest.fixture
def panel(open_panel: Callable[[str], SegmentPanel], run: Path) -> SegmentPanel:
    made = open_panel("Segment")
    made.model.set_path(run)
    return made


def test_what_is_wrong_with_one_image_ends_no_other(
    panel: SegmentPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    viewer.add_image(lesion_image, name="first")
    viewer.add_image(np.full((40, 40), np.nan), name="broken", contrast_limits=(0, 1))
    viewer.add_image(lesion_image[::-1], name="second")
    viewer.add_image(lesion_image, name="unticked")
    panel.images.tick([viewer.layers[name] for name in ("first", "broken", "second")])
    press(panel.start_button)
    finish(panel)
    made = [layer.name for layer in viewer.layers if layer.name.endswith("segmentation")]
    assert made == ["first segmentation", "second segmentation"]
    assert panel.status.is_error
    assert panel.status.plain_text().startswith(
        "'broken' cannot be segmented: the image holds nothing but NaN"
    )
    assert panel.summary.plain_text().startswith("2 of 3 images are segmented\nFound in first, in pixels")
    assert not panel.batch_bar.isVisible()
    assert panel.result is not None
    assert panel.result.labels.name == "first segmentation"
    assert [viewer.layers[f"{name} segmentation"].visible for name in ("first", "second")] == [True, False]
    viewer.layers.selection.active = viewer.layers["second segmentation"]
    assert panel.result.labels.name == "second segmentation"
    shown = {layer.name for layer in viewer.layers if layer.visible}
    assert shown == {"second", "broken", "unticked", "second segmentation"}


def test_the_image_in_view_is_ticked_until_the_user_ticks(
    panel: SegmentPanel, viewer: napari.Viewer, lesion_image: np.ndarray
) -> None:
    one, two = (viewer.add_image(lesion_image, name=name) for name in ("one", "two"))
    assert panel.images.ticked() == [two]
    viewer.layers.selection.active = one
    assert panel.images.ticked() == [one]
    panel.images.tick([two])
    viewer.layers.selection.active = one
    viewer.add_image(lesion_image, name="three")
    assert panel.images.ticked() == [two]


def test_stopping_leaves_what_was_finished(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    lesion_image: np.ndarray,
):
    viewer.add_image(lesion_image, name="short")
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (1000, 64, 64), np.uint8), name="long")
    press(panel.images.all_box)
    press(panel.start_button)
    qtbot.waitUntil(
        lambda: panel.progress_bar.maximum() == 1000 and panel.progress_bar.value() > 0, timeout=SOON
    )
    assert "image 2 of 2" in panel.status.plain_text()
    assert (panel.batch_bar.value(), panel.batch_bar.maximum()) == (1, 2)
    press(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=SOON)
    assert panel.status.plain_text().startswith("Stopped after 1 of 2 images\nFound in short")
    assert [layer.name for layer in viewer.layers] == ["short", "long", "short segmentation"]
    assert panel.save_button.isEnabled()


def test_an_image_that_is_closed_meanwhile_gets_no_result(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish
):
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (1000, 64, 64), np.uint8), name="long")
    press(panel.start_button)
    qtbot.waitUntil(lambda: panel.progress_bar.value() > 0, timeout=SOON)
    viewer.layers.clear()
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=2_000)
    assert panel.status.plain_text() == "'long' was closed before it was segmented, so it has no result"
    assert not viewer.layers
    assert panel.start_button.isEnabled()


def test_pages_that_a_model_reads_as_channels_get_a_result_of_the_other_axes(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
):
    model = tmp_path / "stains.safetensors"
    save_checkpoint(model, make_checkpoint(channels=3))
    panel.model.set_path(model)
    pages = np.random.default_rng(0).random((3, 32, 40)).astype(np.float32)
    viewer.add_image(pages, name="stains", scale=(7, 0.5, 0.25), translate=(1, 2, 3))
    viewer.add_image(np.moveaxis(pages, 0, -1), name="last", rgb=False)
    press(panel.images.all_box)
    press(panel.probabilities)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("'last' has its 3 channels as the last axis")
    labels = viewer.layers["stains segmentation"]
    for layer in (labels, viewer.layers["stains probability of lesion"]):
        assert layer.data.shape == (32, 40)
        np.testing.assert_allclose(layer.scale, (0.5, 0.25))
        np.testing.assert_allclose(layer.translate, (2, 3))
    panel.training_set.folder.set_path(tmp_path / "set")
    press(panel.training_set.add_button)
    qtbot.waitUntil(lambda: not panel.training_set.job.is_running, timeout=30_000)
    assert "'stains' was added" in panel.training_set.message.plain_text()


def test_images_that_do_not_fit_are_told_one_by_one_and_nothing_is_added(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    press: Press,
    finish: Finish,
    lesion_image: np.ndarray,
    run: Path,
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
):
    deep = tmp_path / "deep.safetensors"
    save_checkpoint(deep, make_checkpoint(dims=3, channels=2))
    panel.model.set_path(deep)
    viewer.add_image(lesion_image, name="flat")
    two_channels = {"metadata": {"channels_first": True}, "contrast_limits": (0, 1)}
    viewer.add_image(np.zeros((2, 8, 8)), name="thin", **two_channels)
    viewer.add_image(np.zeros((2, 8, 8, 8)), name="constant", **two_channels)
    viewer.add_image(np.zeros((2, 0, 8, 8)), name="empty", **two_channels)
    before = list(viewer.layers)
    press(panel.images.all_box)
    press(panel.start_button)
    finish(panel)
    flat, thin, constant, empty = panel.status.plain_text().split("\n")
    assert flat.startswith("'flat': found an image with 1 channels where 2 are expected")
    assert "'thin' cannot be segmented: the model is 3D but the image has 2 axes" in thin
    assert "'constant' cannot be segmented: the image holds the single value 0" in constant
    assert "'empty' cannot be segmented: the image is empty" in empty
    assert list(viewer.layers) == before
    save_file({"weight": torch.zeros(1)}, deep)
    press(panel.start_button)
    finish(panel)
    assert str(deep) in panel.status.plain_text()
    assert list(viewer.layers) == before
    panel.images.tick([viewer.layers["flat"]])
    panel.model.set_path(run)
    press(panel.start_button)
    finish(panel)
    assert "flat segmentation" in viewer.layers


def test_where_memory_is_short_probabilities_are_not_kept_and_the_rest_can_be_cleaned(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    lesion_image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
):
    viewer.add_image(lesion_image, name="breast")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=6 * lesion_image.size))
    press(panel.start_button)
    finish(panel)
    assert panel.result is not None
    assert panel.result.probabilities is None
    box = panel.cleaning
    box.setChecked(True)
    assert not box.by_threshold.isEnabled()
    box.minimum_size.setValue(lesion_image.size)
    qtbot.waitUntil(lambda: not box.job.is_running, timeout=SOON)
    assert panel.result.found.labels.any()
    assert not panel.result.labels.data.any()


def test_maps_run_from_0_to_1_and_are_no_images_to_segment(
    panel: SegmentPanel, viewer: napari.Viewer, press: Press, finish: Finish, lesion_image: np.ndarray
):
    viewer.add_image(lesion_image, name="breast", scale=(0.2, 0.3))
    for box in (panel.probabilities, panel.uncertainty, panel.disagreement):
        press(box)
    press(panel.start_button)
    finish(panel)
    maps = {layer.name: layer for layer in viewer.layers if "meaning" in layer.metadata}
    assert list(maps) == ["breast probability of lesion", "breast uncertainty", "breast disagreement"]
    for layer in maps.values():
        assert tuple(layer.contrast_limits) == (0, 1)
        assert layer.colormap.name == "viridis"
        np.testing.assert_allclose(layer.scale, (0.2, 0.3))
    probability, uncertainty, disagreement = (layer.data for layer in maps.values())
    np.testing.assert_array_equal(np.argmin(uncertainty), np.argmax(np.abs(probability - 0.5)))
    assert disagreement.max() > 0
    assert [layer.visible for layer in maps.values()] == [False, False, True]
    assert [layer.name for layer in panel.images.layers()] == ["breast"]
    assert "also segmented mirrored" in panel.status.plain_text()
