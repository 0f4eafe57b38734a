"""*Annotate next*: the list, what a click opens, and what *Done, next* saves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
import PIL.Image
import pytest
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtWidgets import QAbstractButton, QApplication, QFileDialog, QMessageBox

from napari_prosma.data.case import Image
from napari_prosma.data.layouts import find_cases
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.annotate.accept_box import AcceptBox
from napari_prosma.plugin.annotate.desks import FolderDesk, VolumeDesk
from napari_prosma.plugin.annotate.next_box import IMAGES
from napari_prosma.plugin.annotate.next_jobs import Predicted
from napari_prosma.plugin.shared.class_name import name_of
from napari_prosma.plugin.shared.guesses import guesses_of
from napari_prosma.plugin.shared.layers import add_layer, image_layer, labels_layer
from napari_prosma.plugin.shared.prediction import prediction_in
from napari_prosma.plugin.shared.unsaved import unsaved_of

LONGEST = 60_000
Press = Callable[[QAbstractButton], None]


@pytest.fixture
def box(open_panel: Callable[[str], Any], run: Path) -> Any:
    made = open_panel("Annotate").next_box
    made.model.show_path(run)
    return made


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Path:
    """Three of six images have no mask."""
    copied = tmp_path / "breast"
    shutil.copytree(folder, copied)
    for seed in range(3):
        (copied / "masks" / f"{seed}.png").unlink()
    return copied


def rank(box: Any, qtbot: QtBot) -> None:
    box.rank()
    qtbot.waitUntil(lambda: not box.ranking.is_running, timeout=LONGEST)


def rank_folder(box: Any, data: Path, qtbot: QtBot) -> None:
    box.source.setCurrentText(IMAGES)
    box.folder.line.setText(str(data))
    rank(box, qtbot)


def click(box: Any, row: int, qtbot: QtBot) -> None:
    rect = box.table.visualItemRect(box.table.item(row, 0))
    qtbot.mouseClick(box.table.viewport(), Qt.MouseButton.LeftButton, pos=rect.topLeft() + QPoint(4, 4))
    if isinstance(box.desk, FolderDesk):
        qtbot.waitUntil(lambda: not box.desk.opening.is_running, timeout=LONGEST)


def answer(button: str) -> None:
    """Press this in the question that comes up."""

    def press() -> None:
        asked = QApplication.activeModalWidget()
        assert isinstance(asked, QMessageBox)
        next(b for b in asked.buttons() if b.text() == button).click()

    QTimer.singleShot(0, press)


def done(box: Any, press: Press, qtbot: QtBot) -> None:
    press(box.done_button)
    qtbot.waitUntil(lambda: not box.desk.saving.is_running, timeout=LONGEST)
    if isinstance(box.desk, FolderDesk):
        qtbot.waitUntil(lambda: not box.desk.opening.is_running, timeout=LONGEST)


def test_only_a_volume_is_offered_for_its_slices(box: Any, viewer: napari.Viewer) -> None:
    viewer.add_image(np.zeros((32, 32), np.uint8))
    assert box.image.layer is None
    box.rank()
    assert "Open a volume first" in box.message.plain_text()
    volume = viewer.add_image(np.zeros((4, 32, 32), np.uint8))
    viewer.add_image(np.zeros((4, 32, 32), np.uint8), metadata={"channels_first": True})
    assert box.image.layers() == [volume]


def test_images_are_listed_opened_corrected_and_saved_where_they_belong(
    box: Any, data: Path, viewer: napari.Viewer, press: Press, qtbot: QtBot
) -> None:
    rank_folder(box, data, qtbot)
    names = [row.name for row in box.rows]
    assert sorted(names) == ["0", "1", "2"]
    assert box.table.rowCount() == 3
    assert "3 ranked" in box.message.plain_text()
    assert "The order is a suggestion" in box.message.plain_text()

    click(box, 0, qtbot)
    labels = viewer.layers[f"{names[0]} labels"]
    assert viewer.layers.selection.active is labels
    shown = prediction_in(viewer)
    assert shown is not None
    assert shown.drawn is labels
    panel = box.parentWidget()
    while not hasattr(panel, "accept_box"):
        panel = panel.parentWidget()
    panel.accept_box.accept_slice()
    by_hand = tuple(np.argwhere(labels.data == 0)[0])
    labels.data_setitem(tuple(np.array([n]) for n in by_hand), 1)
    expected = labels.data.copy()
    answer("Not now")
    done(box, press, qtbot)
    assert not (data / "masks" / f"{names[0]}.png").exists()
    assert labels in unsaved_of(viewer).layers()
    answer("Save")
    done(box, press, qtbot)
    written = np.asarray(PIL.Image.open(data / "masks" / f"{names[0]}.png"))
    np.testing.assert_array_equal(written, expected * 255)
    assert next(c for c in find_cases(data, False).cases if c.name == names[0]).read_label is not None
    assert labels not in viewer.layers, "what is saved makes way"
    assert f"{names[1]} labels" in viewer.layers
    assert box.table.item(0, 0).text() == f"✓ {names[0]}"

    click(box, 0, qtbot)
    again = viewer.layers[f"{names[0]} labels"]
    np.testing.assert_array_equal(again.data, expected)
    accepted = guesses_of(again).where("accepted")
    assert accepted.any()
    assert not accepted[by_hand], "what was drawn is told from what was accepted"
    more = tuple(np.argwhere(again.data == 0)[-1])
    again.data_setitem(tuple(np.array([n]) for n in more), 1)
    done(box, press, qtbot)
    assert np.asarray(PIL.Image.open(data / "masks" / f"{names[0]}.png"))[more] == 255


def test_what_is_not_saved_stays_and_what_is_empty_is_asked_about(
    box: Any, data: Path, viewer: napari.Viewer, press: Press, qtbot: QtBot
) -> None:
    rank_folder(box, data, qtbot)
    first, second = (row.name for row in box.rows[:2])
    click(box, 0, qtbot)
    labels = viewer.layers[f"{first} labels"]
    labels.data_setitem((np.array([3]), np.array([5])), 1)
    click(box, 1, qtbot)
    assert labels in viewer.layers
    assert not labels.visible
    labels.name = "renamed"
    click(box, 0, qtbot)
    assert labels.visible
    assert viewer.layers.selection.active is labels
    assert labels.data[3, 5] == 1

    click(box, 1, qtbot)
    press(box.done_button)
    assert f"Nothing is drawn or accepted on '{second}'" in box.message.plain_text()
    answer("Save")
    done(box, press, qtbot)
    assert not np.asarray(PIL.Image.open(data / "masks" / f"{second}.png")).any()

    click(box, 0, qtbot)
    viewer.layers.remove(labels)
    press(box.done_button)
    assert f"The labels of '{first}' are not open; click its row" in box.message.plain_text()
    (data / "masks" / f"{first}.png").write_bytes(b"of somebody else")
    click(box, 0, qtbot)
    viewer.layers[f"{first} labels"].data_setitem((np.array([3]), np.array([5])), 1)
    done(box, press, qtbot)
    assert "is there already" in box.message.plain_text()
    assert (data / "masks" / f"{first}.png").read_bytes() == b"of somebody else"


def test_what_was_closed_of_an_image_is_opened_again_once(
    box: Any, data: Path, viewer: napari.Viewer, qtbot: QtBot
) -> None:
    rank_folder(box, data, qtbot)
    name = box.rows[0].name
    every = [name, f"{name} labels", f"{name} prediction"]
    click(box, 0, qtbot)
    assert [layer.name for layer in viewer.layers] == every
    viewer.layers[f"{name} labels"].data_setitem((np.array([3]), np.array([5])), 1)
    for closed in every:
        drawn = viewer.layers[f"{name} labels"]
        viewer.layers.remove(closed)
        click(box, 0, qtbot)
        assert [layer.name for layer in viewer.layers] == every, f"after closing {closed}"
        assert prediction_in(viewer).drawn is viewer.layers[f"{name} labels"]
        if closed != drawn.name:
            assert viewer.layers[f"{name} labels"] is drawn, "what is drawn stays"


@pytest.mark.parametrize("between", ["nothing", "other panel"])
def test_ranking_again_goes_on_with_the_labels_that_are_open(
    between: str,
    box: Any,
    data: Path,
    run: Path,
    viewer: napari.Viewer,
    open_panel: Callable[[str], Any],
    press: Press,
    qtbot: QtBot,
) -> None:
    rank_folder(box, data, qtbot)
    name = box.rows[0].name
    click(box, 0, qtbot)
    drawn = viewer.layers[f"{name} labels"]
    every = [layer.name for layer in viewer.layers]
    drawn.data_setitem((np.arange(5), np.arange(5)), 1)
    if between == "other panel":
        viewer.window.remove_dock_widget("all")
        box = open_panel("Annotate").next_box
        box.model.show_path(run)
    rank_folder(box, data, qtbot)
    row = next(n for n, each in enumerate(box.rows) if each.name == name)
    click(box, row, qtbot)
    assert [layer.name for layer in viewer.layers] == every
    assert viewer.layers[f"{name} labels"] is drawn
    assert prediction_in(viewer).drawn is drawn
    answer("Save")
    done(box, press, qtbot)
    assert (np.asarray(PIL.Image.open(data / "masks" / f"{name}.png")) > 0).sum() == 5


def test_labels_that_are_numbered_by_another_model_are_not_taken_for_those_of_this_one(
    box: Any, data: Path, viewer: napari.Viewer, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank_folder(box, data, qtbot)
    name = box.rows[0].name
    click(box, 0, qtbot)
    drawn = viewer.layers[f"{name} labels"]
    drawn.data_setitem((np.arange(5), np.arange(5)), 1)
    origin = drawn.metadata.pop("image of a folder")
    other = replace(origin, class_names=("background", "cyst"))
    drawn.metadata["image of a folder"] = other
    rank_folder(box, data, qtbot)
    row = next(n for n, each in enumerate(box.rows) if each.name == name)
    click(box, row, qtbot)
    told = f"'{name} labels' was drawn with the classes cyst, but those of this model are lesion"
    assert told in box.message.plain_text()
    box.done()
    assert told in box.message.plain_text()
    assert not (data / "masks" / f"{name}.png").exists()
    unsaved_of(viewer).saved(drawn)
    click(box, row, qtbot)
    assert drawn not in viewer.layers
    assert not viewer.layers[f"{name} labels"].data.any()


def test_slices_of_a_volume_are_gone_to_and_saved_with_all_of_it(
    box: Any,
    viewer: napari.Viewer,
    press: Press,
    qtbot: QtBot,
    lesion_image: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = np.stack([np.roll(lesion_image, 3 * n, 0) for n in range(5)], axis=1)
    viewer.add_image(volume, name="scan", scale=(1, 4, 1), units="mm")
    drawn = viewer.add_labels(np.zeros(volume.shape, np.uint8), name="mine", scale=(1, 4, 1), units="mm")
    drawn.data[10:14, 2, 8:12] = 1
    box.image.choose(viewer.layers["scan"])
    rank(box, qtbot)
    slices = [row.candidate.slice for row in box.rows]
    assert sorted(slices) == [0, 1, 3, 4]
    shown = prediction_in(viewer)
    assert shown is not None
    assert shown.drawn is drawn
    click(box, 1, qtbot)
    assert viewer.dims.current_step[1] == slices[1]
    drawn.data_setitem((np.array([5]), np.array([slices[1]]), np.array([5])), 1)
    path = tmp_path / "labels.nii.gz"
    asked = []
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *given: (asked.append(given), (str(path), ""))[1]
    )
    done(box, press, qtbot)
    assert path.is_file()
    assert viewer.dims.current_step[1] == slices[2]
    done(box, press, qtbot)
    assert len(asked) == 1, "the place is asked once"
    assert drawn not in unsaved_of(viewer).layers()
    for closed in (drawn, "scan prediction"):
        viewer.layers.remove(closed)
        click(box, 0, qtbot)
        assert prediction_in(viewer).drawn is viewer.layers["scan labels"]
        assert sum("prediction" in layer.name for layer in viewer.layers) == 1
    drawn = viewer.layers["scan labels"]
    viewer.layers.remove("scan")
    click(box, 0, qtbot)
    assert "'scan' was closed; open it again" in box.message.plain_text()
    viewer.layers.remove(drawn)
    press(box.done_button)
    assert "labels drawn on 'scan' were closed" in box.message.plain_text()


@pytest.mark.parametrize(
    ("names", "drawn", "stored", "then"),
    [
        (("background", "tumour", "liver"), 0, {2: "liver", 1: "tumour"}, "mine"),
        (("background", "Liver"), 0, {1: "Liver", 2: "tumour"}, "mine"),  # gets the class that it lacks
        (("background", "label 1", "label 2"), 0, {1: "label 1", 2: "label 2"}, "mine"),
        ((), 2, {1: "", 2: ""}, "mine"),
        (("background", "Liver"), 2, {1: "liver", 2: "tumour"}, "ct labels"),  # what is 2?
        (("background", "kidney", "liver"), 0, {1: "liver", 2: "tumour"}, "ct labels"),
    ],
)
def test_a_prediction_is_accepted_into_the_values_that_mean_its_classes(
    names: tuple[str, ...],
    drawn: int,
    stored: dict[int, str],
    then: str,
    box: Any,
    viewer: napari.Viewer,
    qtbot: QtBot,
) -> None:
    geometry = Geometry((2.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm")
    image = add_layer(viewer, image_layer(Image(np.zeros((1, 4, 16, 16), np.float32), geometry), "ct"))
    before = np.zeros((4, 16, 16), np.uint8)
    before[0, 0, 0] = drawn
    mine = add_layer(viewer, labels_layer(before.copy(), geometry, "mine", names))
    desk = VolumeDesk(viewer, box, image, mine)
    desk.names = ("background", "liver", "tumour")
    classes = np.zeros((4, 16, 16), np.uint8)
    classes[2, 2:6, 2:6], classes[2, 9, 9] = 1, 2
    desk.show(Predicted("ct", classes, np.full(classes.shape, 255, np.uint8)))
    with qtbot.waitSignal(desk.message) as told:
        desk.go_to(2)
    assert ("'mine' has other classes than the model (liver, tumour)" in told.args[0]) == (then != "mine")
    accept = AcceptBox(viewer)
    accept.accept_slice()
    labels = viewer.layers[then]
    assert desk.labels is labels
    assert len([layer for layer in viewer.layers if isinstance(layer, LabelsLayer)]) == 2 + (then != "mine")
    for value, (of_class, name) in zip((1, 2), stored.items(), strict=True):
        assert (labels.data[2][classes[2] == value] == of_class).all()
        assert name_of(labels, of_class) == name
    assert (mine.data[2] == 0).all() == (then != "mine")
    desk.show(Predicted("ct", classes, np.full(classes.shape, 255, np.uint8)))
    assert desk.labels is labels
    desk.deleteLater()


def test_what_is_missing_is_said_and_a_stop_lists_what_was_looked_at(
    box: Any, data: Path, viewer: napari.Viewer, qtbot: QtBot
) -> None:
    rank(box, qtbot)
    assert "Open a volume first" in box.message.plain_text()
    box.source.setCurrentText(IMAGES)
    rank(box, qtbot)
    assert "Choose the folder" in box.message.plain_text()
    box.folder.line.setText(str(data))
    box.rank()
    qtbot.waitUntil(lambda: bool(box._seen), timeout=LONGEST)
    box.stop_button.click()
    qtbot.waitUntil(lambda: not box.ranking.is_running, timeout=LONGEST)
    assert 1 <= len(box.rows) <= 3
    box.model.show_path(None)
    rank(box, qtbot)
    assert "Choose a trained model" in box.message.plain_text()
