"""The table of regions: what it says, where a click goes, and that it follows corrections."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation
from napari_prosma.plugin.segment.panel import SegmentPanel
from napari_prosma.plugin.segment.regions_dock import MARK, RegionsTable
from napari_prosma.plugin.segment.results import Result, UsedModel, labels_to_paint
from napari_prosma.plugin.shared.layers import add_layer

Press = Callable[[QAbstractButton], None]
SOON = 10_000
GEOMETRY = Geometry((5.0, 2.0, 2.0), (10.0, 0.0, 0.0), "mm")


@pytest.fixture
def made(viewer: napari.Viewer) -> Result:
    """Two blocks of one class and one of another, in a volume of 8 x 20 x 20 voxels."""
    labels = np.zeros((8, 20, 20), np.uint8)
    labels[1:3, 2:6, 2:6] = 1
    labels[5:8, 10:18, 10:18] = 1
    labels[4, 2:4, 15:17] = 2
    probabilities = np.stack([labels == k for k in range(3)]).astype(np.float32)
    found = Segmentation("scan", labels, probabilities, GEOMETRY, ("background", "liver", "lesion"))
    scan = labels * 100.0
    image = viewer.add_image(
        scan, name="scan", scale=GEOMETRY.spacing, translate=GEOMETRY.origin, units=("mm",) * 3
    )
    layer = add_layer(viewer, labels_to_paint(found, image))
    return Result(image, layer, found, UsedModel(Path("model"), dims=3, channels=1))


@pytest.fixture
def table(
    open_panel: Callable[[str], SegmentPanel], made: Result, press: Press, qtbot: QtBot
) -> RegionsTable:
    panel = open_panel("Segment")
    panel.results.add(made)
    press(panel.regions_button)
    assert panel.regions is not None
    qtbot.waitUntil(lambda: bool(panel.regions.found), timeout=SOON)
    return panel.regions


def rows(table: RegionsTable) -> list[list[str]]:
    columns = range(table.table.columnCount())
    return [[table.table.item(n, m).text() for m in columns] for n in range(table.table.rowCount())]


def click(table: RegionsTable, row: int, qtbot: QtBot) -> None:
    place = table.table.visualItemRect(table.table.item(row, 0)).center()
    qtbot.mouseClick(table.table.viewport(), Qt.MouseButton.LeftButton, pos=place)


def test_a_class_that_was_painted_beyond_those_of_the_model_has_regions_of_its_name(
    table: RegionsTable, made: Result, qtbot: QtBot
):
    made.labels.metadata["drawn_names"] = {4: "cyst"}
    made.labels.data[0, :2, :2], made.labels.data[0, 8:10, :4] = 3, 4
    table.measure()
    qtbot.waitUntil(lambda: len(table.found) == 5, timeout=SOON)
    found = {region.class_name: (region.elements, region.confidence) for region in table.found}
    assert found == {"liver": (32, 1), "lesion": (4, 1), "label 3": (4, None), "cyst": (8, None)}
    click(table, 4, qtbot)
    assert made.labels.selected_label == 4


def test_regions_are_listed_with_units_and_a_click_goes_there(
    table: RegionsTable, made: Result, viewer: napari.Viewer, qtbot: QtBot
):
    titles = [table.table.horizontalHeaderItem(n).text() for n in range(5)]
    assert titles == ["class", "volume (ml)", "longest diameter (mm)", "mean intensity", "confidence"]
    assert [row[:2] + row[3:] for row in rows(table)] == [
        ["liver", "3.84", "100", "1"],
        ["liver", "0.64", "100", "1"],
        ["lesion", "0.08", "200", "1"],
    ]
    viewer.dims.set_point(0, 10)
    click(table, 2, qtbot)
    assert viewer.dims.point[0] == 10 + 5 * 4
    np.testing.assert_allclose(getattr(viewer, "scene", viewer).camera.center[-2:], (2 * 2, 15 * 2), atol=2)
    assert made.labels.selected_label == 2
    assert viewer.layers.selection.active is made.labels
    (box,) = viewer.layers[MARK].data
    np.testing.assert_array_equal(box.min(axis=0), (4, 1.5, 14.5))
    np.testing.assert_array_equal(box.max(axis=0), (4, 3.5, 16.5))
    click(table, 0, qtbot)
    assert viewer.dims.point[0] == 10 + 5 * 6
    assert len(viewer.layers[MARK].data) == 1


def test_the_table_follows_corrections(
    table: RegionsTable, made: Result, viewer: napari.Viewer, qtbot: QtBot
):
    click(table, 1, qtbot)
    assert viewer.dims.point[0] in (10 + 5, 10 + 10)
    at = tuple(np.argwhere(made.found.labels == 2)[0])
    made.labels.fill(at, 0)
    qtbot.waitUntil(lambda: len(table.found) == 2, timeout=SOON)
    assert [row[0] for row in rows(table)] == ["liver", "liver"]
    assert not viewer.layers[MARK].visible
    viewer.layers.remove(made.labels)
    assert not table.found
    assert MARK not in viewer.layers


def test_the_table_is_saved_with_places(
    table: RegionsTable, press: Press, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = tmp_path / "regions.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(chosen), ""))
    table.table.sortByColumn(1, Qt.SortOrder.AscendingOrder)
    assert [row[1] for row in rows(table)] == ["0.08", "0.64", "3.84"]
    press(table.save_button)
    assert table.message.plain_text() == f"Saved as {chosen}"
    with open(chosen, newline="", encoding="utf-8") as file:
        stored = list(csv.DictReader(file))
    assert [float(row["volume (ml)"]) for row in stored] == [3.84, 0.64, 0.08]
    assert stored[2]["first z"] == stored[2]["last z"] == "4"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(chosen / "x.csv"), ""))
    press(table.save_button)
    assert table.message.is_error


def test_a_closed_table_can_be_opened_again(
    table: RegionsTable, made: Result, viewer: napari.Viewer, qtbot: QtBot, open_panel: Callable
):
    panel = next(dock for dock in viewer.window.dock_widgets.values() if isinstance(dock, SegmentPanel))
    viewer.window.remove_dock_widget(table)
    assert panel.regions is None
    made.labels.data = np.zeros_like(made.labels.data)
    panel.regions_button.click()
    assert panel.regions is not None
    qtbot.waitUntil(lambda: panel.regions.message.plain_text().startswith("0 regions"), timeout=SOON)
