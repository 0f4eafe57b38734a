"""Check data: what is wrong with a folder, as a table whose rows open their cases."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import PIL.Image
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.plugin.train.check_window import CheckWindow
from napari_prosma.plugin.train.panel import TrainPanel

Press = Callable[[QAbstractButton], None]
SOON = 30_000


@pytest.fixture
def flawed(folder: Path, tmp_path: Path) -> Path:
    """The six images; 1 is a copy of 0, 2 is black, 3 has an empty mask, the mask of 4 is torn."""
    top = tmp_path / "flawed"
    shutil.copytree(folder, top)
    shutil.copy(top / "images" / "0.png", top / "images" / "1.png")
    nothing = PIL.Image.fromarray(np.zeros((64, 64), np.uint8))
    nothing.save(top / "images" / "2.png")
    nothing.save(top / "masks" / "3.png")
    torn = top / "masks" / "4.png"
    torn.write_bytes(torn.read_bytes()[:60])
    return top


@pytest.fixture
def check(
    open_panel: Callable[[str], TrainPanel], qtbot: QtBot, press: Press
) -> Callable[[Path], CheckWindow]:
    """Presses Check data for a folder and waits until it has been looked at."""

    def check_(folder: Path) -> CheckWindow:
        panel = open_panel("Train")
        panel.source.folder.set_path(folder)
        press(panel.source.check_button)
        window = panel.source.check_window
        assert window is not None
        qtbot.waitUntil(lambda: not window.job.is_running, timeout=SOON)
        return window

    return check_


def rows(window: CheckWindow) -> list[list[str]]:
    table = window.table
    return [[table.item(row, n).text() for n in range(4)] for row in range(table.rowCount())]


def double_click(qtbot: QtBot, window: CheckWindow, case: str) -> None:
    (row,) = [n for n, found in enumerate(rows(window)) if found[0] == case]
    item = window.table.item(row, 2)
    window.table.scrollToItem(item)
    where = window.table.visualItemRect(item).center()
    qtbot.mouseClick(window.table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    qtbot.mouseDClick(window.table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    qtbot.waitUntil(lambda: not window.opening.is_running, timeout=SOON)


def test_a_sound_folder_is_said_to_be_so(check: Callable[[Path], CheckWindow], folder: Path):
    window = check(folder)
    assert window.message.plain_text() == "6 cases checked: no problems found"
    assert rows(window) == []
    assert not window.save_button.isEnabled()


def test_rows_tell_what_is_wrong_are_saved_and_open_their_cases(
    check: Callable[[Path], CheckWindow],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    flawed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    window = check(flawed)
    found = {row[0]: row for row in rows(window)}
    assert found["2"][1:3] == ["error", "the image is 0 everywhere"]
    assert found["3"][1:3] == ["note", "the label is empty"]
    assert found["4"][1] == "error"
    assert found["0"][1:] == ["warning", "the same image as 1", "keep one of them"]
    assert window.message.plain_text().startswith("6 cases checked: 2 errors, 1 warning, 1 note")

    table = tmp_path / "problems.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(table), ""))
    press(window.save_button)
    with table.open(newline="", encoding="utf-8") as file:
        saved = list(csv.reader(file))
    assert saved == [["case", "severity", "found", "remedy"], *rows(window)]
    table = tmp_path / "problems.csv" / "within a file.csv"
    press(window.save_button)
    assert window.message.is_error
    assert "Cannot write" in window.message.plain_text()

    double_click(qtbot, window, "0")
    assert [layer.name for layer in viewer.layers] == ["0", "0 label"]
    assert viewer.layers["0 label"].data.any()
    double_click(qtbot, window, "4")
    assert [layer.name for layer in viewer.layers] == ["0", "0 label", "4"]
    assert window.message.is_error
    assert "4.png" in window.message.plain_text()


def test_a_folder_that_cannot_be_read_is_told_in_red(check: Callable[[Path], CheckWindow], tmp_path: Path):
    (tmp_path / "none").mkdir()
    window = check(tmp_path / "none")
    assert window.message.is_error
    assert "is empty" in window.message.plain_text()


def test_without_a_folder_there_is_nothing_to_check(open_panel: Callable[[str], TrainPanel], press: Press):
    panel = open_panel("Train")
    press(panel.source.check_button)
    assert panel.source.summary.is_error
    assert panel.source.check_window is None
