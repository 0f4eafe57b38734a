"""What was painted and no file holds is kept aside, asked about, and brought back after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QAbstractButton, QApplication, QMessageBox

from napari_prosma.data.case import Image
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared import unsaved as unsaved_module
from napari_prosma.plugin.shared.layers import add_layer, geometry_of, image_layer
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.plugin.shared.unsaved import LEAVE, STAY, aside_folder, unsaved_of

SOON = 10_000


class ByTheUser(QCloseEvent):
    """What the window system sends when the user closes a window."""

    def spontaneous(self) -> bool:
        return True


def answered(button: str, close: Callable[[], object]) -> list[str]:
    """Texts of the questions that came up while closing, each answered by this button."""
    texts: list[str] = []

    def answer() -> None:
        for box in QApplication.topLevelWidgets():
            if isinstance(box, QMessageBox) and box.isVisible():
                texts.append(box.informativeText())
                next(b for b in box.findChildren(QAbstractButton) if b.text() == button).click()

    timer = QTimer()
    timer.timeout.connect(answer)
    timer.start(20)
    close()
    timer.stop()
    return texts


@pytest.fixture
def painted(viewer: napari.Viewer, open_panel: Callable[[str], Any], qtbot: QtBot) -> LabelsLayer:
    """A labels layer with a stroke of the brush, beside an open panel."""
    layer = viewer.add_labels(np.zeros((32, 32), np.uint8), name="strokes <b>")
    panel = open_panel("Segment")
    window = viewer.window._qt_window
    panel.unsaved.guard(window)
    layer.paint((8, 8), 3)
    return layer


def closed(viewer: napari.Viewer) -> Callable[[], object]:
    event = ByTheUser()
    return lambda: unsaved_of(viewer).eventFilter(viewer.window._qt_window, event)


def test_closing_napari_asks_for_what_was_painted(viewer: napari.Viewer, painted: LabelsLayer):
    texts = answered(STAY, closed(viewer))
    assert len(texts) == 1
    assert "strokes &lt;b&gt;" in texts[0]
    assert len(answered(LEAVE, closed(viewer))) == 1


def test_saved_labels_are_not_asked_for(viewer: napari.Viewer, painted: LabelsLayer, tmp_path: Path):
    painted.save(str(tmp_path / "strokes.tif"), plugin="napari-prosma")
    assert unsaved_of(viewer).layers() == []
    assert answered(STAY, closed(viewer)) == []
    painted.paint((20, 20), 2)
    assert unsaved_of(viewer).layers() == [painted]


def test_labels_that_are_undone_or_redone_after_they_were_saved_are_not_saved(
    viewer: napari.Viewer, painted: LabelsLayer, tmp_path: Path
):
    painted.paint((20, 20), 3)
    for number, change in enumerate((painted.undo, painted.redo)):
        painted.save(str(tmp_path / f"{number}.tif"), plugin="napari-prosma")
        painted.refresh()
        viewer.dims.set_point(0, number)
        painted.opacity = 0.5
        assert unsaved_of(viewer).layers() == []
        change()
        assert unsaved_of(viewer).layers() == [painted]
    painted.save(str(tmp_path / "2.tif"), plugin="napari-prosma")
    painted.data = np.zeros((32, 32), np.uint8)
    assert unsaved_of(viewer).layers() == []


def test_labels_that_only_a_program_wrote_are_not_asked_for(viewer: napari.Viewer, open_panel: Any):
    layer = viewer.add_labels(np.zeros((8, 8), np.uint8))
    open_panel("Segment")
    layer.data = np.ones((8, 8), np.uint8)
    assert unsaved_of(viewer).layers() == []


def test_what_a_script_closes_is_not_asked_for(viewer: napari.Viewer, painted: LabelsLayer):
    for child in viewer.window._qt_window.centralWidget().children():
        if hasattr(child, "hide"):
            child.hide()
    assert answered(STAY, lambda: unsaved_of(viewer).eventFilter(None, QCloseEvent())) == []


def left_by_another(*names: str) -> list[Path]:
    """Backups of a process that is gone, one of each name."""
    folder = aside_folder() / "gone"
    files = [(f"{name}.npz", np.ones((80, 80), np.uint8), {"name": name}) for name in names]
    list(unsaved_module._keeping(folder, files))
    return [folder / file for file, *_ in files]


def test_after_a_crash_what_was_painted_is_brought_back(
    viewer: napari.Viewer, open_panel: Callable[[str], Any], painted: LabelsLayer, qtbot: QtBot
):
    unsaved = unsaved_of(viewer)
    unsaved.keep()
    qtbot.waitUntil(lambda: bool(list(aside_folder().glob("*/*.npz"))), timeout=SOON)
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    (folder,) = aside_folder().iterdir()
    assert not open_panel("Evaluate").bring_back.left  # this napari lives
    drawn = painted.data.copy()
    crashed = folder.with_name("of another process")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    crashed.mkdir()
    for path in folder.iterdir():
        text = path.read_bytes()
        if path.suffix == ".lock":
            text = text.replace(f'"process": {os.getpid()}'.encode(), f'"process": {gone.pid}'.encode())
        (crashed / path.name).write_bytes(text)
    viewer.layers.clear()
    panel = open_panel("Inspect gates")
    assert not panel.bring_back.isHidden()
    panel.bring_back.back_button.click()
    (layer,) = viewer.layers
    assert layer.name == "strokes <b>"
    assert np.array_equal(layer.data, drawn)
    assert unsaved.layers() == [layer]
    qtbot.waitUntil(lambda: not crashed.exists(), timeout=SOON)
    assert panel.bring_back.isHidden()
    (written,) = aside_folder().glob("*/*.npz")
    assert np.array_equal(np.load(written)["data"], drawn)


@pytest.mark.parametrize("refused", ["savez_compressed", "claim"])
def test_a_backup_is_removed_once_what_came_back_of_it_is_backed_up_anew(
    refused: str,
    viewer: napari.Viewer,
    open_panel: Callable[[str], Any],
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
):
    (old,) = left_by_another("scan")
    bring_back = open_panel("Segment").bring_back
    unsaved = unsaved_of(viewer)

    def full(*args: object, **options: object) -> None:
        error = OSError(28, "No space left on device")
        raise error if refused == "savez_compressed" else DataError(str(error))

    with monkeypatch.context() as patch:
        patch.setattr(unsaved_module.np if refused == "savez_compressed" else unsaved_module, refused, full)
        bring_back.bring_back()
        qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    assert old.is_file()
    assert not bring_back.isHidden()
    assert bring_back.message.is_error
    assert "No space left on device" in bring_back.message.plain_text()
    assert "the old backup is kept" in bring_back.message.plain_text()
    bring_back.bring_back()
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    assert [layer.name for layer in viewer.layers] == ["scan"], "none is added twice"
    assert not old.parent.exists()
    assert kept_files() == ["scan.npz"]


def test_a_damaged_backup_keeps_no_other_from_coming_back(
    viewer: napari.Viewer, open_panel: Callable[[str], Any], qtbot: QtBot
):
    damaged, good = left_by_another("a", "b")
    damaged.write_bytes(damaged.read_bytes()[:-60])
    bring_back = open_panel("Segment").bring_back
    for _ in range(2):
        bring_back.bring_back()
        qtbot.waitUntil(lambda: not unsaved_of(viewer).keeping.is_running, timeout=SOON)
        assert [layer.name for layer in viewer.layers] == ["b"]
        assert "a.npz' is damaged" in bring_back.message.plain_text()
        assert damaged.is_file()
        assert not good.exists()
    bring_back.forget_button.click()
    assert kept_files() == ["b.npz"]


def test_what_is_brought_back_lies_in_the_frame_of_its_image(
    viewer: napari.Viewer, open_panel: Callable[[str], Any], tmp_path: Path
):
    geometry = Geometry((2.0, 0.5, 0.5), (1.0, 2.0, 3.0), "mm")
    image = Image(np.zeros((1, 4, 6, 8), np.float32), geometry)
    add_layer(viewer, image_layer(image, "scan"))
    said = {"name": "labels", "scale": [2.0, 0.5, 0.5], "translate": [1.0, 2.0, 3.0]}
    list(
        unsaved_module._keeping(aside_folder() / "gone", [("labels.npz", np.ones((4, 6, 8), np.uint8), said)])
    )
    open_panel("Segment").bring_back.bring_back()
    assert geometry_of(viewer.layers["labels"]) == geometry


def test_a_clean_end_leaves_nothing_aside(viewer: napari.Viewer, painted: LabelsLayer, qtbot: QtBot):
    unsaved = unsaved_of(viewer)
    unsaved.keep()
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    unsaved.discard()
    assert list(aside_folder().iterdir()) == []


def test_names_are_no_markup_in_tips():
    assert as_rich("scan <img src=x>\n'a'") == "<span>scan &lt;img src=x&gt;<br>&#x27;a&#x27;</span>"
    assert as_rich("plain\nlines") == "plain\nlines"


def kept_files() -> list[str]:
    return sorted(path.name for path in aside_folder().glob("*/*.npz"))


def test_what_was_saved_is_kept_aside_no_longer(
    viewer: napari.Viewer, painted: LabelsLayer, qtbot: QtBot, tmp_path: Path
):
    unsaved = unsaved_of(viewer)
    unsaved.keep()
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    assert len(kept_files()) == 1
    painted.save(str(tmp_path / "strokes.tif"), plugin="napari-prosma")
    unsaved.keep()
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    assert kept_files() == []


def test_layers_whose_names_are_alike_on_disk_have_two_files(
    viewer: napari.Viewer, open_panel: Callable[[str], Any], qtbot: QtBot
):
    layers = [viewer.add_labels(np.zeros((8, 8), np.uint8), name=name) for name in ("a/b", "a:b")]
    open_panel("Segment")
    unsaved = unsaved_of(viewer)
    for layer in layers:
        layer.paint((2, 2), 1)
    unsaved.keep()
    qtbot.waitUntil(lambda: not unsaved.keeping.is_running, timeout=SOON)
    assert len(kept_files()) == 2


def test_an_image_of_the_same_shape_elsewhere_is_not_the_one_that_was_painted_on(
    viewer: napari.Viewer, open_panel: Callable[[str], Any]
):
    image = Image(np.zeros((1, 6, 8), np.float32), Geometry((0.5, 0.5), (2.0, 3.0), "mm"))
    add_layer(viewer, image_layer(image, "scan"))
    said = {"name": "labels", "scale": [0.5, 0.5], "translate": [20.0, 3.0]}
    list(unsaved_module._keeping(aside_folder() / "gone", [("labels.npz", np.ones((6, 8), np.uint8), said)]))
    open_panel("Segment").bring_back.bring_back()
    assert tuple(viewer.layers["labels"].translate) == (20.0, 3.0)
