"""Labels that do not cover everything, chosen in the Train panel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import nibabel
import numpy as np
import PIL.Image
import pytest
from napari.layers import Labels as LabelsLayer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QComboBox

from napari_prosma.data.labels import IGNORE
from napari_prosma.errors import DataError
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.shared.layers import class_indices, label_rule
from napari_prosma.plugin.train.panel import TrainPanel

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000
SLICES, SIDE = 20, 32


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Two volumes of 20 slices with labels in 3 and in 1 of them."""
    top = tmp_path / "liver"
    noise = np.random.default_rng(0)
    for name, slices in (("a", [4, 5, 12]), ("b", [9])):
        image = noise.normal(size=(SIDE, SIDE, SLICES)).astype(np.float32)
        label = np.zeros((SIDE, SIDE, SLICES), np.uint8)
        label[8:20, 8:20, slices] = 1
        image[label == 1] += 3
        for kind, array in (("images", image), ("labels", label)):
            (top / kind).mkdir(parents=True, exist_ok=True)
            nibabel.Nifti1Image(array, np.diag((1, 1, 2, 1))).to_filename(top / kind / f"{name}.nii.gz")
    return top


@pytest.fixture
def scribbles(tmp_path: Path) -> Path:
    """Two pictures with strokes: 1 in the background, 2 in the structure."""
    top = tmp_path / "strokes"
    for n in range(2):
        image = np.random.default_rng(n).integers(0, 99, (64, 64)).astype(np.uint8)
        label = np.zeros((64, 64), np.uint8)
        label[4:8], label[30:34, 20:40] = 1, 2
        for kind, array in (("images", image), ("masks", label)):
            (top / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(top / kind / f"{n}.png")
    return top


def choose(qtbot: QtBot, box: QComboBox, words: str) -> None:
    """As by the keyboard, entry by entry."""
    box.setFocus()
    while box.currentText() != words:
        before = box.currentIndex()
        qtbot.keyClick(box, Qt.Key.Key_Down)
        assert box.currentIndex() == before + 1


def looked(panel: TrainPanel, qtbot: QtBot) -> str:
    qtbot.waitUntil(lambda: not panel.source.scan.is_running, timeout=SOON)
    return panel.source.summary.plain_text()


def test_a_folder_tells_how_many_slices_are_labelled(panel: TrainPanel, qtbot: QtBot, volumes: Path):
    panel.source.folder.set_path(volumes)
    assert "slices are labelled" not in looked(panel, qtbot)
    choose(qtbot, panel.source.labelled, "only in some slices")
    assert "4 of 40 slices are labelled; nothing is learned from the rest" in looked(panel, qtbot)
    assert panel.source.data_set is not None
    read = panel.source.data_set.cases[0].read_label
    assert read is not None
    assert [z for z, plane in enumerate(read()) if (plane != IGNORE).any()] == [4, 5, 12]
    panel.source.labelled.setCurrentIndex(0)
    assert "slices are labelled" not in looked(panel, qtbot)
    read = panel.source.data_set.cases[0].read_label
    assert read is not None
    assert IGNORE not in read()


def test_training_on_scribbles_of_a_folder(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, scribbles: Path
):
    choose(qtbot, panel.source.labelled, "scribbles")
    panel.source.folder.set_path(scribbles)
    told = looked(panel, qtbot)
    assert "1 is background, 2 is label 2, 0 is unlabelled" in told
    assert "8.20 % of all pixels are labelled" in told
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    assert load_checkpoint(run_dir).plan.class_names == ("background", "label 2")


def test_scribbles_of_one_kind_are_told_in_red(panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path):
    panel.source.folder.set_path(folder)
    looked(panel, qtbot)
    choose(qtbot, panel.source.labelled, "scribbles")
    assert "Scribbles need at least two label values" in looked(panel, qtbot)
    assert panel.source.summary.is_error


def test_pictures_have_no_slices_to_leave_out(panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path):
    panel.source.folder.set_path(folder)
    choose(qtbot, panel.source.labelled, "only in some slices")
    told = looked(panel, qtbot)
    assert f"The images in '{folder}' are pictures without slices" in told
    assert panel.source.summary.is_error


def test_a_labels_layer_tells_what_is_labelled_while_it_is_drawn(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish
):
    noise = np.random.default_rng(0).normal(size=(12, 32, 32))
    viewer.add_image(noise, name="scan")
    drawn = viewer.add_labels(np.zeros(noise.shape, np.uint8), name="strokes")
    press(panel.source.from_layers)
    choose(qtbot, panel.source.labelled, "only in some slices")
    qtbot.waitUntil(lambda: "0 of 12 slices" in panel.source.summary.plain_text(), timeout=SOON)
    for z in (3, 4, 10):
        drawn.data_setitem((np.full(9, z), np.arange(9) + 20, np.arange(9) + 20), 1)
    qtbot.waitUntil(lambda: "3 of 12 slices are labelled" in panel.source.summary.plain_text(), timeout=SOON)
    choose(qtbot, panel.source.labelled, "scribbles")
    qtbot.waitUntil(lambda: panel.source.summary.is_error, timeout=SOON)
    assert "draw some background too" in panel.source.summary.plain_text()
    drawn.data_setitem((np.full(9, 3), np.arange(9), np.arange(9)), 2)
    told = panel.source.summary.plain_text
    qtbot.waitUntil(lambda: "0.29 % of all pixels are labelled" in told(), timeout=SOON)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    press(panel.source.from_folder)
    assert panel.source.summary.plain_text() == ""


def test_painted_slices_beside_empty_ones_are_taken_as_some_slices_which_is_told_and_can_be_changed(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    viewer.add_image(np.zeros((12, 32, 32)), name="scan")
    drawn = viewer.add_labels(np.zeros((12, 32, 32), np.uint8), name="organ")
    press(panel.source.from_layers)
    told = panel.source.summary.plain_text
    qtbot.waitUntil(lambda: told().startswith("You can keep drawing"), timeout=SOON)
    drawn.data_setitem((np.arange(3), np.arange(3), np.arange(3)), 1)
    qtbot.waitUntil(lambda: told().startswith("3 of 12 slices are labelled"), timeout=SOON)
    assert panel.source.labelled.currentText() == "only in some slices"
    assert "set 'Labels are' to 'complete'" in told()
    panel.source.labelled.setFocus()
    qtbot.keyClick(panel.source.labelled, Qt.Key.Key_Up)
    qtbot.waitUntil(lambda: told().startswith("Only 3 of 12 slices have labels"), timeout=SOON)
    drawn.data_setitem((np.arange(6), np.arange(6), np.arange(6)), 1)
    qtbot.waitUntil(lambda: told().startswith("You can keep drawing"), timeout=SOON)
    assert panel.source.labelled.currentText() == "complete", "what the user says stays"


def test_what_was_taken_for_granted_of_layers_is_not_taken_of_a_folder(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press
):
    viewer.add_image(np.zeros((12, 32, 32)), name="scan")
    drawn = np.zeros((12, 32, 32), np.uint8)
    drawn[3, 3:9, 3:9] = 1
    viewer.add_labels(drawn, name="organ")
    press(panel.source.from_layers)
    source = panel.source
    qtbot.waitUntil(lambda: source.labelled.currentData() == "slices", timeout=SOON)
    press(source.from_folder)
    assert source.labelled.currentData() is None
    press(source.from_layers)
    qtbot.waitUntil(lambda: source.labelled.currentData() == "slices", timeout=SOON)
    viewer.add_labels(np.zeros((32, 32), np.uint8), name="flat")
    source.labels_layer.choose(viewer.layers["flat"])
    qtbot.waitUntil(lambda: source.labelled.currentData() is None, timeout=SOON)


def test_one_open_image_is_learned_from_and_a_button_makes_its_labels(
    viewer: napari.Viewer, open_panel: Callable[[str], TrainPanel], press: Press
):
    image = viewer.add_image(np.zeros((4, 20, 30)), name="scan", scale=(3, 0.5, 0.5), translate=(9, 1, 2))
    source = open_panel("Train").source
    assert source.from_layers.isChecked()
    press(source.new_labels)
    made = viewer.layers["scan labels"]
    assert source.labels_layer.layer is made
    assert viewer.layers.selection.active is made
    assert made.mode == "paint"
    assert made.data.shape == image.data.shape
    np.testing.assert_allclose(made.extent.world, image.extent.world)


def test_an_image_that_is_opened_later_is_learned_from_unless_a_folder_is_wanted(
    panel: TrainPanel, viewer: napari.Viewer, press: Press
):
    source = panel.source
    assert source.from_folder.isChecked()
    assert not source.new_labels.isEnabled()
    viewer.add_image(np.zeros((20, 30)), name="scan")
    assert source.from_layers.isChecked()
    assert source.new_labels.isEnabled()
    press(source.from_folder)
    viewer.layers.clear()
    viewer.add_image(np.zeros((20, 30)), name="other")
    assert source.from_folder.isChecked(), "what the user says stays"


def test_what_was_painted_a_moment_before_the_start_is_taken_for_slices_as_well(
    panel: TrainPanel, viewer: napari.Viewer, tmp_path: Path
):
    viewer.add_image(np.zeros((12, 32, 32)), name="scan")
    drawn = viewer.add_labels(np.zeros((12, 32, 32), np.uint8), name="organ")
    source = panel.source
    drawn.data[3, 3:9, 3:9] = 1
    assert source.data(tmp_path).live.labelled == "slices"
    assert source.labelled.currentData() == "slices"
    source.labelled.setCurrentIndex(source.labelled.findData(None))
    source.labelled.activated.emit(0)
    assert source.data(tmp_path).live.labelled is None, "what the user says stays"


def test_channels_are_joined_where_there_are_several_images(panel: TrainPanel, viewer: napari.Viewer):
    viewer.add_image(np.zeros((20, 30)), name="T1")
    assert panel.source.join_button.isHidden()
    viewer.add_image(np.zeros((20, 30)), name="T2")
    assert not panel.source.join_button.isHidden()
    viewer.layers.remove("T1")
    assert panel.source.join_button.isHidden()


def test_classes_are_named_where_one_draws(panel: TrainPanel, viewer: napari.Viewer, press: Press):
    viewer.add_image(np.zeros((32, 32)), name="scan")
    drawn = viewer.add_labels(np.zeros((32, 32), np.uint8), name="organ")
    press(panel.source.from_layers)
    name = panel.source.class_name
    for value, said in ((1, "liver"), (7, "tumour")):
        drawn.selected_label = value
        assert name.number.text() == f"Class {value} is"
        name.line.setText(said)
        name.line.editingFinished.emit()
        drawn.data[value] = value
    drawn.selected_label = 1
    assert name.line.text() == "liver"
    drawn.data[20] = 3
    rule = label_rule(drawn.data, drawn)
    assert rule.class_names == ("background", "liver", "class 3", "tumour")
    assert rule.values == (0, 1, 3, 7)
    assert drawn.features["class"].tolist() == ["background", "liver", "tumour"]


def test_layers_leave_out_what_nobody_labelled():
    drawn = np.zeros((3, 4, 4), np.uint8)
    drawn[1, 0], drawn[1, 1] = 1, 2
    label, names = class_indices(drawn, LabelsLayer(drawn), "slices")
    assert names == ("background", "label 1", "label 2")
    assert (label[[0, 2]] == IGNORE).all()
    assert label[1].tolist() == [[1] * 4, [2] * 4, [0] * 4, [0] * 4]
    label, names = class_indices(drawn, LabelsLayer(drawn), "scribbles")
    assert names == ("background", "label 2")
    assert label[1].tolist() == [[0] * 4, [1] * 4, [IGNORE] * 4, [IGNORE] * 4]
    named = LabelsLayer(drawn, metadata={"class_names": ("background", "liver", "spleen")})
    assert class_indices(drawn, named, "slices")[1] == ("background", "liver", "spleen")
    with pytest.raises(DataError, match="the labels 'mask' are pictures without slices"):
        class_indices(drawn[1], LabelsLayer(drawn[1], name="mask"), "slices")
