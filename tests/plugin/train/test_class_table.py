"""Which value of the masks is which class: shown, and changed in the Train panel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QLineEdit

from napari_prosma.data.labels import LabelRule
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.train.class_table import ClassTable, rows_of, rule_of
from napari_prosma.plugin.train.panel import TrainPanel

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    """Three pictures whose masks hold 0, 3 and 7."""
    top = tmp_path / "organs"
    for n in range(3):
        mask = np.zeros((48, 48), np.uint8)
        mask[4:20, 4:40], mask[30:40, 10:30] = 3, 7
        image = np.random.default_rng(n).integers(0, 60, mask.shape).astype(np.uint8) + 20 * mask
        for kind, array in (("images", image), ("masks", mask)):
            (top / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(top / kind / f"{n}.png")
    return top


def look_at(panel: TrainPanel, qtbot: QtBot, folder: Path) -> str:
    panel.source.folder.set_path(folder)
    return looked(panel, qtbot)


def looked(panel: TrainPanel, qtbot: QtBot) -> str:
    qtbot.waitUntil(lambda: not panel.source.scan.is_running, timeout=SOON)
    return panel.source.summary.plain_text()


def shown(panel: TrainPanel) -> list[tuple[str, str]]:
    table = panel.source.class_table.table
    return [(table.item(row, 0).text(), table.item(row, 1).text()) for row in range(table.rowCount())]


def write(panel: TrainPanel, qtbot: QtBot, row: int, column: int, text: str) -> None:
    """Double-click a cell, type, press Enter."""
    panel.source.classes.expand(animate=False)
    table = panel.source.class_table.table
    item = table.item(row, column)
    where = table.visualItemRect(item).center()
    qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    editor = table.viewport().findChild(QLineEdit)
    assert editor is not None
    editor.selectAll()
    qtbot.keyClicks(editor, text) if text else qtbot.keyClick(editor, Qt.Key.Key_Delete)
    qtbot.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: table.viewport().findChild(QLineEdit) is None, timeout=SOON)


def test_the_finding_says_what_is_what(panel: TrainPanel, qtbot: QtBot, folder: Path):
    assert not panel.source.classes.isVisibleTo(panel)
    assert "Labels: 0 is background, 1 or 255 is foreground" in look_at(panel, qtbot, folder)
    assert panel.source.classes.isVisibleTo(panel)
    assert shown(panel) == [("0", "background"), ("1 or 255", "foreground")]


def test_objects_numbered_within_their_class_are_taken_apart_by_one_click(
    panel: TrainPanel, qtbot: QtBot, press: Press, organs: Path
):
    for n, path in enumerate(sorted((organs / "masks").iterdir())):
        mask = np.zeros((48, 48), np.uint16)
        for k in range(n + 1):
            mask[4:20, 12 * k : 12 * k + 8] = 1001 + k
        PIL.Image.fromarray(mask).save(path)
    assert "1001 and 1002 are read as objects of one class" in look_at(panel, qtbot, organs)
    several = [("0", "background"), ("1001", "label 1"), ("1002", "label 1"), ("1003", "label 1")]
    assert shown(panel) == several
    panel.source.classes.expand(animate=False)
    press(panel.source.class_table.apart_button)
    looked(panel, qtbot)
    assert shown(panel) == [(value, f"label {value}" if value != "0" else name) for value, name in several]
    assert not panel.source.class_table.apart_button.isVisibleTo(panel)


def test_values_taken_apart_leave_the_background_and_all_else_as_it_was(qtbot: QtBot):
    table = ClassTable()
    qtbot.addWidget(table)
    rule = LabelRule.of_pairs([(255, "background"), (0, "lesion"), (1, "lesion"), (254, "background")])
    table.show_rule(replace(rule, filled=True, overlap="last", unlabelled=9))
    with qtbot.waitSignal(table.changed) as changed:
        table.apart_button.click()
    (apart,) = changed.args
    assert apart.stored == {255: "background", 0: "label 0", 1: "label 1", 254: "background"}
    assert (apart.filled, apart.overlap, apart.unlabelled) == (True, "last", 9)
    table.show_rule(apart)
    assert not table.apart_button.isVisibleTo(table)


def test_a_class_is_renamed_and_learned_under_its_name(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    look_at(panel, qtbot, folder)
    write(panel, qtbot, 1, 1, "lesion")
    assert "1 or 255 is lesion" in looked(panel, qtbot)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert load_checkpoint(run_dir).plan.class_names == ("background", "lesion")


def test_values_are_named_kept_with_scribbles_and_found_again(
    panel: TrainPanel, qtbot: QtBot, press: Press, organs: Path
):
    told = look_at(panel, qtbot, organs)
    assert told.count("0 is background, 3 is label 3, 7 is label 7") == 1
    write(panel, qtbot, 2, 1, "spleen")
    assert "7 is spleen" in looked(panel, qtbot)
    panel.source.labelled.setCurrentIndex(2)
    assert "3 is background, 7 is spleen, 0 is unlabelled" in looked(panel, qtbot)
    assert shown(panel) == [("0", "not labelled"), ("3", "background"), ("7", "spleen")]
    write(panel, qtbot, 2, 1, "liver")
    assert "3 is background, 7 is liver, 0 is unlabelled" in looked(panel, qtbot)
    panel.source.labelled.setCurrentIndex(0)
    looked(panel, qtbot)
    press(panel.source.class_table.reset_button)
    assert "3 is label 3, 7 is label 7" in looked(panel, qtbot)


def test_a_value_is_added_and_taken_out(panel: TrainPanel, qtbot: QtBot, press: Press, organs: Path):
    look_at(panel, qtbot, organs)
    panel.source.classes.expand(animate=False)
    press(panel.source.class_table.add_button)
    write(panel, qtbot, 3, 0, "9")
    assert "9" not in looked(panel, qtbot).partition("Labels:")[2]
    write(panel, qtbot, 3, 1, "cyst")
    assert "7 is label 7, 9 is cyst" in looked(panel, qtbot)
    assert panel.source.data_set is not None
    assert panel.source.data_set.class_names == ("background", "label 3", "label 7", "cyst")
    write(panel, qtbot, 3, 0, "")
    assert looked(panel, qtbot).endswith("7 is label 7")


@pytest.mark.parametrize(
    ("row", "column", "text", "told"),
    [
        (1, 0, "three", "'three' is not a mask value"),
        (1, 0, "7", "The value 7 appears twice"),
    ],
)
def test_what_cannot_be_is_told_under_the_table(
    panel: TrainPanel, qtbot: QtBot, organs: Path, row: int, column: int, text: str, told: str
):
    look_at(panel, qtbot, organs)
    before = panel.source.data_set
    write(panel, qtbot, row, column, text)
    assert told in panel.source.class_table.message.plain_text()
    assert panel.source.class_table.message.is_error
    assert panel.source.data_set is before


def test_two_values_of_one_name_are_one_class(panel: TrainPanel, qtbot: QtBot, organs: Path):
    look_at(panel, qtbot, organs)
    write(panel, qtbot, 1, 1, "organ")
    write(panel, qtbot, 2, 1, "organ")
    assert "3 is organ, 7 is organ" in looked(panel, qtbot)
    assert panel.source.data_set is not None
    assert panel.source.data_set.class_names == ("background", "organ")
    write(panel, qtbot, 2, 1, "background")
    assert shown(panel) == [("0", "background"), ("3", "organ"), ("7", "background")]
    looked(panel, qtbot)  # which fills the table anew, under the hands of whoever types
    write(panel, qtbot, 2, 1, "spleen")
    assert "3 is organ, 7 is spleen" in looked(panel, qtbot)


@pytest.mark.parametrize("key", [Qt.Key.Key_Return, Qt.Key.Key_Escape])
def test_a_result_does_not_take_the_cell_from_whoever_types(
    panel: TrainPanel, qtbot: QtBot, organs: Path, key: Qt.Key
):
    look_at(panel, qtbot, organs)
    panel.source.classes.expand(animate=False)
    classes = panel.source.class_table
    where = classes.table.visualItemRect(classes.table.item(1, 1)).center()
    qtbot.mouseClick(classes.table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    qtbot.mouseDClick(classes.table.viewport(), Qt.MouseButton.LeftButton, pos=where)
    editor = classes.table.viewport().findChild(QLineEdit)
    editor.selectAll()
    qtbot.keyClicks(editor, "liver")
    classes.show_rule(LabelRule.of_pairs([(0, "background"), (3, "organ"), (7, "bone")]))
    assert editor.text() == "liver"
    qtbot.keyClick(editor, key)
    qtbot.waitUntil(lambda: classes.table.viewport().findChild(QLineEdit) is None, timeout=SOON)
    second = "liver" if key == Qt.Key.Key_Return else "organ"
    looked(panel, qtbot)
    assert shown(panel)[1] == ("3", second)
    assert (shown(panel)[2] == ("7", "bone")) == (key == Qt.Key.Key_Escape)


def test_one_click_makes_all_values_one_structure(
    open_panel: Callable[[str], TrainPanel], qtbot: QtBot, press: Press, organs: Path
) -> None:
    panel = open_panel("Train")
    look_at(panel, qtbot, organs)
    press(panel.source.class_table.one_button)
    assert "every value but 0 is foreground" in looked(panel, qtbot)
    press(panel.source.class_table.reset_button)
    assert "3 is label 3" in looked(panel, qtbot)


def test_outlines_are_told_and_filled_by_one_click(
    open_panel: Callable[[str], TrainPanel], qtbot: QtBot, press: Press, organs: Path
) -> None:
    for path in (organs / "masks").iterdir():
        mask = np.zeros((48, 48), np.uint8)
        mask[6:40, 8:42], mask[7:39, 9:41] = 255, 0
        PIL.Image.fromarray(mask).save(path)
    panel = open_panel("Train")
    assert "outlines one element thin" in look_at(panel, qtbot, organs)
    press(panel.source.class_table.filled)
    assert "outlines are filled" in looked(panel, qtbot)
    data = panel.source.data_set
    assert data is not None
    assert int(data.cases[0].read_label().sum()) == 34 * 34  # type: ignore[misc]


def test_a_value_that_is_not_labelled_stays_so_when_a_class_is_renamed() -> None:
    rule = LabelRule("values", ("background", "label 1"), (0, 1), unlabelled=255)
    rows = rows_of(rule)
    assert rows[0] == ("255", "not labelled")
    renamed = rule_of(rule, [*rows[:2], ("1", "lesion")])
    assert renamed == LabelRule("values", ("background", "lesion"), (0, 1), unlabelled=255)


def test_files_can_be_told_by_patterns(
    open_panel: Callable[[str], TrainPanel], qtbot: QtBot, organs: Path
) -> None:
    for path in (organs / "masks").iterdir():
        (organs / "second").mkdir(exist_ok=True)
        PIL.Image.fromarray(np.asarray(PIL.Image.open(path)) // 3).save(organs / "second" / path.name)
    panel = open_panel("Train")
    look_at(panel, qtbot, organs)
    for line, pattern in (
        (panel.source.images_pattern, "images/*"),
        (panel.source.masks_pattern, "second/*"),
    ):
        line.setText(pattern)
        line.editingFinished.emit()
    assert "3 pairs: 'images/*' as images, 'second/*' as labels" in looked(panel, qtbot)
