"""Where the patient lies, CT windows, and the scale of a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import nibabel
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.plugin.annotate import view_box
from napari_prosma.plugin.annotate.view_box import CT_WINDOWS, RULER, letters_at
from napari_prosma.plugin.shared.layers import geometry_of
from napari_prosma.plugin.shared.panel import PANEL_WIDTH
from napari_prosma.segmentation.regions import element_size

Press = Callable[[QAbstractButton], None]


@pytest.fixture
def box(open_panel: Callable[[str], Any]) -> Any:
    return open_panel("Annotate").view_box


@pytest.fixture
def scan(viewer: napari.Viewer, tmp_path: Path) -> Any:
    """A CT of 5 slices of 8 x 6, 4 mm apart."""
    values = np.random.default_rng(0).integers(-1000, 900, (6, 8, 5)).astype(np.int16)
    nibabel.Nifti1Image(values, np.diag((0.7, 0.7, 4, 1))).to_filename(tmp_path / "ct.nii.gz")
    (layer,) = viewer.open(str(tmp_path / "ct.nii.gz"), plugin="napari-prosma")
    return layer


def test_letters_tell_where_the_patient_lies_in_each_plane(
    box: Any, viewer: napari.Viewer, scan: Any
) -> None:
    axial = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert letters_at(viewer, scan, geometry_of(scan)) == axial
    assert {edge: label.text() for edge, label in box._letters.labels.items()} == axial
    viewer.dims.order = (1, 0, 2)
    assert letters_at(viewer, scan, geometry_of(scan)) == {
        "left": "R",
        "right": "L",
        "top": "I",
        "bottom": "S",
    }
    scan.scale = scan.scale * (1, 1, -1)
    assert letters_at(viewer, scan, geometry_of(scan)) == {}, "moved, its file's space is no longer its own"
    scan.scale = scan.scale * (1, 1, -1)
    viewer.dims.ndisplay = 3
    assert box._letters.labels["left"].text() == ""


def test_an_image_that_was_open_before_the_panel_has_its_letters(
    viewer: napari.Viewer, scan: Any, open_panel: Callable[[str], Any], qtbot: QtBot
) -> None:
    box = open_panel("Annotate").view_box
    viewer.window._qt_window.show()
    qtbot.waitUntil(lambda: bool(box._letters.labels), timeout=5_000)
    assert box._letters.labels["left"].text() == "R"
    assert box.sizeHint().width() < PANEL_WIDTH, "nothing is cut"


def test_letters_follow_the_image_and_the_box(
    box: Any, viewer: napari.Viewer, scan: Any, press: Press
) -> None:
    press(box.directions)
    assert all(not label.text() for label in box._letters.labels.values())
    press(box.directions)
    assert box._letters.labels["left"].text() == "R"
    viewer.add_image(np.zeros((8, 8)), name="photo")
    assert box._letters.labels["left"].text() == "", "a picture has no patient frame"


def test_spacing_is_told(box: Any, viewer: napari.Viewer, scan: Any) -> None:
    assert box.spacing.plain_text() == "Pixels of 0.7 x 0.7 mm, slices 4 mm apart across z"
    viewer.add_image(np.zeros((8, 8)), name="photo")
    assert "is unknown" in box.spacing.plain_text()


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_a_window_is_set_by_its_name_beyond_what_the_image_holds(
    name: str, box: Any, viewer: napari.Viewer, scan: Any
) -> None:
    box.set_window(name)
    assert tuple(scan.contrast_limits) == CT_WINDOWS[name]
    assert box.windows.currentData() == name


def test_the_window_that_is_named_is_that_of_the_image(box: Any, viewer: napari.Viewer, scan: Any) -> None:
    assert box.windows.currentData() == "soft tissue", "as it was opened"
    box.set_window("bone")
    assert not box.message.plain_text()
    viewer.add_image(np.linspace(0, 900, 48).reshape(6, 8), name="MR")
    assert box.windows.currentIndex() == -1
    box.set_window("lung")
    assert "'MR' holds 0 to 900, which are hardly Hounsfield units" in box.message.plain_text()
    viewer.layers.selection.active = scan
    assert box.windows.currentData() == "bone"


def test_a_picture_in_colour_has_no_window(box: Any, viewer: napari.Viewer) -> None:
    viewer.add_image(np.zeros((8, 8, 3), np.uint8), rgb=True)
    box.set_window("bone")
    assert "no window" in box.message.plain_text()


def test_a_line_over_the_scale_bar_gives_the_picture_and_its_labels_mm(
    box: Any, viewer: napari.Viewer, press: Press
) -> None:
    image = viewer.add_image(np.zeros((50, 60)), name="photo")
    labels = viewer.add_labels(np.zeros((50, 60), np.uint8), name="lesion")
    other = viewer.add_image(np.zeros((20, 20)), name="other")
    viewer.layers.selection.active = image
    press(box.set_button)
    assert "First press 'Draw over the scale bar' and draw a line over it" in box.message.plain_text()
    press(box.draw_button)
    ruler = viewer.layers[RULER]
    assert ruler.mode == "add_line"
    viewer.layers.selection.active = image
    ruler.add_lines([[10, 5], [10, 45]])
    press(box.set_button)
    assert "the length of the line" in box.message.plain_text()
    box.length.setValue(20)
    press(box.set_button)
    assert RULER not in viewer.layers
    for layer in (image, labels):
        geometry = geometry_of(layer)
        assert geometry.spacing == (0.5, 0.5)
        assert element_size(geometry) == (0.25, "mm^2")
    assert geometry_of(other).unit == "pixel"
    assert box.spacing.plain_text() == "Pixels of 0.5 x 0.5 mm"
    assert box.length.value() == 0, "the next picture has a scale of its own"


@pytest.mark.parametrize("same", [True, False])
def test_other_pictures_of_the_size_get_the_scale_only_if_the_user_says_so(
    same: bool, box: Any, viewer: napari.Viewer, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = np.zeros((50, 60), np.uint8)
    for name in ("deep", "shallow", "shallow 2"):
        viewer.add_image(plane, name=name)
        viewer.add_labels(plane, name=f"{name} labels")
    viewer.add_image(plane, name="in mm", units="mm")
    viewer.layers.selection.active = viewer.layers["shallow"]
    press(box.draw_button)
    viewer.layers[RULER].add_lines([[10, 5], [10, 45]])
    viewer.layers.selection.active = viewer.layers["shallow"]
    box.length.setValue(20)
    asked: list[str] = []
    monkeypatch.setattr(view_box, "agrees", lambda *given, **more: asked.append(f"{given[1:3]}") or same)
    press(box.set_button)
    assert len(asked) == 1
    assert "2 more pictures of this size are open" in asked[0]
    assert "'deep', 'shallow 2'. " in asked[0]
    scaled = [layer.name for layer in viewer.layers if layer.scale[-1] == 0.5]
    expected = [layer.name for layer in viewer.layers if layer.name != "in mm"]
    assert scaled == (expected if same else ["shallow", "shallow labels"])
    told = box.message.plain_text()
    assert all(f"'{name}'" in told for name in scaled)
    assert same or told == "A pixel of 'shallow' and 'shallow labels' is 0.5 mm wide and high"


def test_a_line_without_length_is_told(box: Any, viewer: napari.Viewer, press: Press) -> None:
    viewer.add_image(np.zeros((50, 60)), name="photo")
    press(box.draw_button)
    viewer.layers[RULER].add_lines([[10, 5], [10, 5.2]])
    box.length.setValue(3)
    press(box.set_button)
    assert "shorter than a pixel" in box.message.plain_text()
