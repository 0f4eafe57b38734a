"""Cleaning a result in the panel: the labels layer follows, comes back, and keeps what was painted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation
from napari_prosma.plugin.segment.cleaning_box import CleaningBox
from napari_prosma.plugin.segment.panel import SegmentPanel
from napari_prosma.plugin.segment.results import Result, UsedModel, labels_to_paint
from napari_prosma.plugin.shared.layers import add_layer
from napari_prosma.segmentation.cleaning import Cleaning, cleaned, cleaning_as_text, cleanings_from_text

Press = Callable[[QAbstractButton], None]
SOON = 10_000
GEOMETRY = Geometry((0.5, 0.5), (0.0, 0.0), "mm")


def result(viewer: napari.Viewer, classes: tuple[str, ...] = ("background", "lesion")) -> Result:
    """A square with a hole, a faint rim around it, and a speck; further classes are nowhere."""
    probability = np.full((20, 20), 0.1, np.float32)
    probability[4:14, 4:14] = 0.4
    probability[5:13, 5:13] = 0.9
    probability[8, 8] = 0.2
    probability[17, 17] = 0.9
    nothing = [np.zeros_like(probability)] * (len(classes) - 2)
    found = Segmentation(
        name="breast",
        labels=(probability > 0.5).astype(np.uint8),
        probabilities=np.stack([1 - probability, probability, *nothing]),
        geometry=GEOMETRY,
        class_names=classes,
    )
    image = viewer.add_image(np.zeros((20, 20)), name="breast", scale=GEOMETRY.spacing, units=("mm", "mm"))
    labels = add_layer(viewer, labels_to_paint(found, image))
    return Result(image, labels, found, UsedModel(Path("model"), dims=2, channels=1))


@pytest.fixture
def panel(open_panel: Callable[[str], SegmentPanel]) -> SegmentPanel:
    return open_panel("Segment")


def rest(box: CleaningBox, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not box.job.is_running, timeout=SOON)


def test_the_labels_follow_the_settings_and_come_back(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    made, box = result(viewer), panel.cleaning
    panel.results.add(made)
    assert not box.isChecked()
    box.setChecked(True)
    press(box.by_threshold)
    for threshold in (0.3, 0.6, 0.3):
        box.threshold.setValue(threshold)
    press(box.fill_holes)
    press(box.largest_only)
    rest(box, qtbot)
    asked = Cleaning(threshold=0.3, fill_holes=True, largest_only=True)
    assert made.cleanings == {1: asked}
    expected = cleaned(made.found.probabilities, GEOMETRY, {1: asked})
    np.testing.assert_array_equal(made.labels.data, expected)
    assert expected.sum() == 100
    assert box.message.plain_text().endswith("--clean 'lesion:threshold=0.3 largest holes'")
    assert box.smoothing.suffix() == " mm"
    assert box.minimum_size.suffix() == " mm²"
    box.setChecked(False)
    rest(box, qtbot)
    np.testing.assert_array_equal(made.labels.data, made.found.labels)


def test_what_was_painted_stays_as_painted(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    made, box = result(viewer), panel.cleaning
    panel.results.add(made)
    made.labels.paint((1, 1), 1)
    box.setChecked(True)
    press(box.largest_only)
    rest(box, qtbot)
    assert made.labels.data[17, 17] == 0
    assert made.labels.data[1, 1] == 1
    made.labels.selected_label = 0
    made.labels.paint((6, 6), 0)
    press(box.fill_holes)
    rest(box, qtbot)
    assert made.labels.data[8, 8] == 1
    assert made.labels.data[6, 6] == 0
    box.setChecked(False)
    rest(box, qtbot)
    assert made.labels.data[17, 17] == 1
    assert made.labels.data[8, 8] == 0
    assert made.labels.data[1, 1] == 1
    assert made.labels.data[6, 6] == 0


def test_what_is_painted_while_it_is_cleaned_stays(viewer: napari.Viewer):
    made = result(viewer)
    late = made.clean({1: Cleaning(largest_only=True)})
    made.labels.data[17, 17] = 0
    made.labels.data[0, 0] = 1
    assert not made.show(late)
    assert made.labels.data[0, 0] == 1
    assert made.show(made.clean({}))
    assert made.labels.data[17, 17] == 0
    assert made.labels.data[0, 0] == 1


def test_every_class_and_every_result_has_settings_of_its_own(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    first = result(viewer, ("background", "lesion", "vessel"))
    box = panel.cleaning
    panel.results.add(first)
    assert [box.classes.itemText(n) for n in range(3)] == ["every class", "lesion", "vessel"]
    box.setChecked(True)
    box.smoothing.setValue(1.5)
    assert box.message.plain_text().endswith("--clean '*:smooth=1.5'")
    box.classes.setCurrentIndex(2)
    press(box.fill_holes)
    rest(box, qtbot)
    assert first.cleanings == {1: Cleaning(smoothing=1.5), 2: Cleaning(smoothing=1.5, fill_holes=True)}
    box.classes.setCurrentIndex(1)
    assert not box.fill_holes.isChecked()
    panel.results.add(result(viewer))
    assert not box.isChecked()
    assert box.smoothing.value() == 0
    panel.results.choose(first.labels)
    assert box.isChecked()
    assert box.smoothing.value() == 1.5


def test_the_class_stays_chosen_when_the_result_is_saved(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, tmp_path: Path
):
    made, box = result(viewer, ("background", "lesion", "vessel")), panel.cleaning
    panel.results.add(made)
    box.setChecked(True)
    box.classes.setCurrentIndex(2)
    rest(box, qtbot)
    panel.save(tmp_path / "kept.tif")
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=SOON)
    assert box.classes.currentText() == "vessel"
    box.minimum_size.setValue(3)
    rest(box, qtbot)
    assert made.cleanings == {2: Cleaning(minimum_size=3)}


def test_the_line_for_a_shell_says_the_same():
    asked = {1: Cleaning(0.4, 1.5, 0.25, True, True), 2: Cleaning(minimum_size=123456.789)}
    names = ("background", "left lobe", "vessel")
    texts = [cleaning_as_text(names[k], cleaning) for k, cleaning in asked.items()]
    assert cleanings_from_text(texts, names) == asked
    assert cleaning_as_text("vessel", Cleaning()) == ""
