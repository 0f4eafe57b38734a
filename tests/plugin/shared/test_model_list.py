"""Choosing a model from the list; what does not fit, what is gone, and what is dropped on napari."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.errors import MultipleReaderError
from napari.settings import get_settings
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QAbstractButton, QApplication, QTreeWidgetItem

from napari_prosma.app.remembered import MODELS, recent_paths, remember_path
from napari_prosma.plugin.contributions.reader import get_reader
from napari_prosma.plugin.shared.panel import Panel
from napari_prosma.plugin.shared.run_folders import open_run_unasked, open_runs_unasked

SOON = 30_000
Press = Callable[[QAbstractButton], None]


@pytest.fixture
def runs(home: Path, run: Path) -> Path:
    """The usual folder of runs, with a sound one and a broken one."""
    runs = home / "prosma-runs"
    shutil.copytree(run, runs / "sound")
    (runs / "broken").mkdir()
    (runs / "broken" / "best.safetensors").write_bytes(b"nothing")
    return runs


@pytest.fixture
def panel(open_panel: Callable[[str], Panel], runs: Path) -> Any:
    return open_panel("Segment")


def dragged(data: QMimeData) -> tuple[Any, ...]:
    return Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


def sections(panel: Any) -> dict[str, list[QTreeWidgetItem]]:
    tree = panel.model.list.tree
    tops = (tree.topLevelItem(n) for n in range(tree.topLevelItemCount()))
    return {top.text(0): [top.child(n) for n in range(top.childCount())] for top in tops}


def open_list(panel: Any, press: Press, qtbot: QtBot) -> dict[str, list[QTreeWidgetItem]]:
    press(panel.model.button)
    qtbot.waitUntil(lambda: bool(panel.model.list.models) and not panel.model.list.reading.is_running)
    return sections(panel)


def test_a_run_is_chosen_from_the_list(panel: Any, press: Press, qtbot: QtBot, runs: Path) -> None:
    panel.model.set_path(None)
    listed = open_list(panel, press, qtbot)
    (row,) = (row for row in listed["Models"] if row.text(0) == "sound")
    assert (row.text(1), row.text(2)) == ("lesion", "2D, gray")
    panel.model.list.tree.itemClicked.emit(row, 0)
    assert panel.model.path == runs / "sound"
    assert panel.model.button.text().startswith("sound")
    assert panel.model.list.isHidden()
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    assert recent_paths(MODELS) == [runs / "sound"]


def test_those_that_fit_the_image_come_first_and_the_others_say_why(
    panel: Any, viewer: napari.Viewer, press: Press, qtbot: QtBot, runs: Path
) -> None:
    viewer.add_image(np.zeros((64, 64), np.uint8))
    listed = open_list(panel, press, qtbot)
    assert "sound" in [row.text(0) for row in listed["Fit"]]
    why = {row.text(0): row.text(5) for row in listed["Cannot be used"]}
    assert why.keys() == {"broken", "hippocampus-mr"}  # the second one comes with the program, for volumes
    assert why["broken"].startswith("'best.safetensors' is no checkpoint or is cut short")
    assert why["hippocampus-mr"] == "it needs volumes, but the image is 2D"
    panel.model.list.hide()
    viewer.layers.clear()
    viewer.add_image(np.zeros((4, 64, 64), np.uint8), metadata={"channels_first": True})
    qtbot.waitUntil(lambda: panel.model.list.isHidden())
    listed = open_list(panel, press, qtbot)
    (row,) = (row for row in listed["Cannot be used"] if row.text(0) == "sound")
    assert row.text(5) == "it needs 1 channel, but the image has 4"


def test_words_search_the_list(panel: Any, press: Press, qtbot: QtBot, runs: Path) -> None:
    shutil.copytree(runs / "sound", runs / "other")
    listed = open_list(panel, press, qtbot)
    panel.model.list.search.setText("lesion oth")
    shown = [row.text(0) for row in listed["Models"] if not row.isHidden()]
    assert shown == ["other"]
    qtbot.keyClick(panel.model.list.search, Qt.Key.Key_Return)
    assert panel.model.path == runs / "other"


def test_a_path_can_be_entered(panel: Any, press: Press, qtbot: QtBot, attention_run: Path) -> None:
    open_list(panel, press, qtbot)
    panel.model.list.search.setText(f'"{attention_run}"')
    qtbot.keyClick(panel.model.list.search, Qt.Key.Key_Return)
    assert panel.model.path == attention_run


def test_a_remembered_model_that_was_deleted_is_told_and_forgotten(
    panel: Any, press: Press, qtbot: QtBot, tmp_path: Path
) -> None:
    remember_path(MODELS, tmp_path / "gone")
    listed = open_list(panel, press, qtbot)
    (row,) = (row for row in listed["Cannot be used"] if row.text(0) == "gone")
    assert "does not exist" in row.text(5)
    panel.model.list.tree.itemClicked.emit(row, 0)
    qtbot.waitUntil(lambda: panel.model.text.is_error, timeout=SOON)
    assert tmp_path / "gone" not in recent_paths(MODELS)


def test_another_modality_is_told_before_anything_runs(
    panel: Any, viewer: napari.Viewer, qtbot: QtBot, runs: Path
) -> None:
    from napari_prosma.model.checkpoint import load_checkpoint, save_checkpoint

    made = load_checkpoint(runs / "sound")
    made.config["modality"] = "ultrasound"
    save_checkpoint(runs / "us.safetensors", made)
    layer = viewer.add_image(np.full((8, 64, 64), -1000, np.int16), name="ct")
    panel.model.set_path(runs / "us.safetensors")
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    assert "it was trained on ultrasound, but the image values look like CT" in panel.model.doubt.plain_text()
    viewer.layers.remove(layer)
    viewer.add_image(np.zeros((64, 64), np.uint8), name="us")
    qtbot.waitUntil(lambda: panel.model.doubt.plain_text() == "", timeout=SOON)


def test_the_card_of_the_model_opens(panel: Any, press: Press, qtbot: QtBot) -> None:
    panel.model.read()
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    press(panel.model.card_button)
    shown = panel.model._cards.page.toPlainText()
    assert panel.model.facts.card.verdict in shown
    assert "What it must not be used for" in shown


@pytest.mark.parametrize("name", ["sound", "sound/best.safetensors"])
def test_a_model_that_is_dropped_on_napari_opens_in_segment(
    panel: Any, viewer: napari.Viewer, qtbot: QtBot, runs: Path, name: str
) -> None:
    panel.model.set_path(None)
    read = get_reader(str(runs / name))
    assert read is not None
    viewer.open(str(runs / name), plugin="napari-prosma")
    assert panel.model.path == runs / name
    assert len(viewer.layers) == 0
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)


def test_the_folder_of_a_run_opens_without_a_question_unless_the_user_wants_one(
    panel: Any, viewer: napari.Viewer, qtbot: QtBot, runs: Path
) -> None:
    panel.model.set_path(None)
    plugins = get_settings().plugins
    open_runs_unasked()
    viewer.open(str(runs / "sound"), plugin=None)  # as when it is dropped
    assert panel.model.path == runs / "sound"
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
    plugins.extension2reader = {}
    open_runs_unasked()
    assert plugins.extension2reader == {}, "what the user removed stays away"
    with pytest.raises(MultipleReaderError):
        viewer.open(str(runs / "sound"), plugin=None)


def test_a_run_kept_elsewhere_opens_without_a_question(
    panel: Any, viewer: napari.Viewer, qtbot: QtBot, runs: Path, run: Path
) -> None:
    panel.model.set_path(None)
    entered = get_settings().plugins.extension2reader
    open_run_unasked(runs / "sound")
    assert get_settings().plugins.extension2reader == entered, "those in the usual folder share an entry"
    open_run_unasked(run)
    viewer.open(str(run), plugin=None)
    assert panel.model.path == run
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)


def test_any_model_that_is_dropped_on_the_canvas_opens_in_segment(
    panel: Any, viewer: napari.Viewer, qtbot: QtBot, run: Path
) -> None:
    panel.grab()  # painted, as on a screen
    canvas = viewer.window._qt_viewer
    for path in (run, run / "best.safetensors"):
        panel.model.set_path(None)
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(f"{path}/" if path.is_dir() else str(path))])
        QApplication.sendEvent(canvas, QDragEnterEvent(QPoint(5, 5), *dragged(data)))
        QApplication.sendEvent(canvas, QDropEvent(QPointF(5, 5), *dragged(data)))
        assert panel.model.path == path
        qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
    assert len(viewer.layers) == 0


def test_a_model_that_is_dropped_on_the_button_is_chosen(panel: Any, qtbot: QtBot, runs: Path) -> None:
    panel.model.set_path(None)
    for path, expected in ((runs, None), (runs / "sound", runs / "sound")):
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        panel.model.dropEvent(QDropEvent(QPointF(5, 5), *dragged(data)))
        assert panel.model.path == expected
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
