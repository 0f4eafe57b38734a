"""Evaluating from the panel, by clicks, on a real viewer."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import napari
import nibabel
import numpy as np
import PIL.Image
import pytest
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.data.labels import LabelRule
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.evaluate.panel import EvaluatePanel, pairs_of_layers, worst_place
from napari_prosma.plugin.shared.panel_text import as_rich
from napari_prosma.segmentation.pairs import Pairs

Press = Callable[[QAbstractButton], None]
Finish = Callable[[EvaluatePanel], None]
SOON = 30_000


@pytest.fixture
def panel(open_panel: Callable[[str], EvaluatePanel]) -> EvaluatePanel:
    return open_panel("Evaluate")


def volume(z: int, y: int, x: int) -> np.ndarray:
    """(20, 24, 28) with a ball of radius 4 around a place."""
    grid = np.indices((20, 24, 28)) - np.reshape((z, y, x), (3, 1, 1, 1))
    return (np.sum(grid**2, axis=0) <= 16).astype(np.uint8)


@pytest.fixture
def scans(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions, and a data set of CT with labels: 'good' is right, 'bad' has found something else."""
    affine = np.diag((2.0, 1.0, 3.0, 1.0))
    predicted, data = tmp_path / "labels", tmp_path / "data"
    for folder in (predicted, data / "images", data / "masks"):
        folder.mkdir(parents=True)
    for name, found in {"good": volume(10, 12, 14), "bad": volume(5, 12, 14)}.items():
        true = volume(10, 12, 14)
        ct = (true * 100.0 + np.random.default_rng(0).normal(size=true.shape)).astype(np.float32)
        files = {data / "masks" / name: true, data / "images" / name: ct, predicted / f"{name}_labels": found}
        for path, array in files.items():
            nibabel.Nifti1Image(array, affine).to_filename(f"{path}.nii.gz")
    return predicted, data


def evaluate(panel: EvaluatePanel, press: Press, finish: Finish, predicted: Path, truth: Path) -> None:
    panel.predicted.set_path(predicted)
    panel.truth.set_path(truth)
    press(panel.start_button)
    finish(panel)


def click(panel: EvaluatePanel, qtbot: QtBot, row: int) -> None:
    """Click a row of the table, and wait until its case is open."""
    item = panel.table.item(row, 0)
    viewport = panel.table.viewport()
    assert item is not None
    qtbot.mouseClick(viewport, Qt.MouseButton.LeftButton, pos=panel.table.visualItemRect(item).center())
    qtbot.waitUntil(lambda: not panel.opening.is_running, timeout=SOON)


def cells(panel: EvaluatePanel, row: int) -> list[str]:
    items = [panel.table.item(row, column) for column in range(panel.table.columnCount())]
    return [item.text() for item in items if item is not None]


def test_the_worst_case_comes_first_with_its_measures(
    panel: EvaluatePanel, press: Press, finish: Finish, scans: tuple[Path, Path]
):
    evaluate(panel, press, finish, *scans)
    worst, best = cells(panel, 0), cells(panel, 1)
    assert worst[:2] == ["bad", "foreground"]
    assert float(worst[2]) < 0.5
    assert best == ["good", "foreground", "1.000", "1.000", "1.000", "0.0"]
    assert "Lowest Dice: bad 0." in panel.status.plain_text()
    heading = panel.table.horizontalHeaderItem(5)
    assert heading is not None
    assert heading.text() == "HD95 mm"


def test_a_click_opens_the_case_at_its_worst_place(
    panel: EvaluatePanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
):
    evaluate(panel, press, finish, *scans)
    click(panel, qtbot, 0)
    assert [layer.name for layer in viewer.layers] == ["bad", "bad prediction", "bad reference"]
    truth, prediction = viewer.layers["bad reference"].data, viewer.layers["bad prediction"].data
    assert truth.sum() == prediction.sum() == volume(10, 12, 14).sum()
    np.testing.assert_allclose(viewer.layers["bad reference"].scale, viewer.layers["bad"].scale)
    # The place in the middle of the view is one that the prediction has wrong.
    layer = viewer.layers["bad reference"]
    point = np.array(viewer.dims.point)
    for axis in viewer.dims.displayed:
        point[axis] = viewer.camera.center[axis]
    index = tuple(np.round(layer.world_to_data(point)).astype(int))
    assert truth[index] != prediction[index]
    assert "bad, where foreground is worst" in panel.status.plain_text()


def test_another_case_takes_the_place_of_the_one_that_was_open(
    panel: EvaluatePanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
):
    viewer.add_image(np.zeros((8, 8)), name="mine")
    evaluate(panel, press, finish, *scans)
    click(panel, qtbot, 0)
    shown = list(viewer.layers)[1:]
    click(panel, qtbot, 0)
    assert list(viewer.layers)[1:] == shown
    click(panel, qtbot, 1)
    assert [layer.name for layer in viewer.layers] == ["mine", "good", "good prediction", "good reference"]
    assert panel.status.plain_text() == "good: prediction and reference are the same"


def test_a_case_without_an_image_opens_its_labels(
    panel: EvaluatePanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
):
    predicted, data = scans
    evaluate(panel, press, finish, predicted, data / "masks")
    click(panel, qtbot, 0)
    assert [layer.name for layer in viewer.layers] == ["bad prediction", "bad reference"]


def test_a_pair_that_cannot_be_measured_is_a_row_that_says_why(
    panel: EvaluatePanel, qtbot: QtBot, press: Press, finish: Finish, scans: tuple[Path, Path]
):
    predicted, _ = scans
    nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)).to_filename(
        predicted / "good_labels.nii.gz"
    )
    evaluate(panel, press, finish, *scans)
    assert cells(panel, 1)[:3] == ["good", "", "failed"]
    assert panel.status.is_error
    assert "Not measured: good" in panel.status.plain_text()
    assert "good is left out" in panel.notices.plain_text()
    click(panel, qtbot, 1)
    assert "have different shapes" in panel.status.plain_text()


def test_what_the_shell_would_say_is_said(
    panel: EvaluatePanel, press: Press, finish: Finish, scans: tuple[Path, Path], tmp_path: Path
):
    press(panel.start_button)
    assert "Choose the folder of the predictions" in panel.status.plain_text()
    evaluate(panel, press, finish, tmp_path / "nowhere", scans[1])
    assert "nowhere' does not exist; give a folder of label files" in panel.status.plain_text()
    panel.classes.setText("liver")
    evaluate(panel, press, finish, *scans)
    assert "The classes 'liver' are not understood" in panel.status.plain_text()
    assert panel.evaluation is None
    assert panel.outcome.isHidden()


def test_after_a_failed_evaluation_no_earlier_one_can_be_saved(
    panel: EvaluatePanel,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    evaluate(panel, press, finish, *scans)
    (tmp_path / "file").touch()
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "file"))
    press(panel.save_button)
    finish(panel)
    assert panel.status.is_error
    assert not panel.outcome.isHidden()
    evaluate(panel, press, finish, tmp_path / "nowhere", scans[1])
    assert panel.outcome.isHidden()


def test_tables_and_box_plots_are_saved_and_shown(
    panel: EvaluatePanel,
    viewer: napari.Viewer,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    offered: list[str] = []

    def chosen(_parent: object, _title: str, offer: str) -> str:
        offered.append(offer)
        return str(tmp_path / "figures")

    evaluate(panel, press, finish, *scans)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", chosen)
    press(panel.save_button)
    finish(panel)
    assert panel.status.plain_text() == f"Saved 3 files in {tmp_path / 'figures'}"
    with open(tmp_path / "figures" / "measures.csv", newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["bad", "good"]
    press(panel.save_button)
    finish(panel)
    assert panel.status.is_error
    assert "there already" in panel.status.plain_text()
    assert offered[1] == str(tmp_path / "figures"), "the folder of the last time"
    assert PIL.Image.open(tmp_path / "figures" / "boxes.png").size[0] > 300
    for _ in range(2):
        press(panel.plots_button)
        docks = viewer.window._qt_window.findChildren(FigureCanvasQTAgg)
        assert [canvas.parent().isVisibleTo(viewer.window._qt_window) for canvas in docks] == [True]
        assert "Evaluation" in viewer.window.dock_widgets


def test_layers_that_lie_in_files_are_not_read_in_the_windows_thread(
    viewer: napari.Viewer, open_panel: Callable[[str], EvaluatePanel]
):
    read: list[int] = []

    def plane(z: int) -> np.ndarray:
        read.append(z)
        return np.full((8, 8), z % 2, np.uint8)

    stored = [da.from_delayed(dask.delayed(plane)(z), (8, 8), np.uint8) for z in range(4)]
    viewer.add_labels(da.stack(stored), name="truth")
    viewer.add_labels(np.zeros((4, 8, 8), np.uint8), name="prediction")
    panel = open_panel("Evaluate")
    read.clear()
    _, make_events = panel.begin()
    assert not read
    *_, last = make_events()
    assert last.result.cases[0].dice == 0
    assert sorted(set(read)) == [0, 1, 2, 3]


def test_two_layers_are_compared_and_the_view_goes_where_they_differ(
    viewer: napari.Viewer,
    open_panel: Callable[[str], EvaluatePanel],
    qtbot: QtBot,
    press: Press,
    finish: Finish,
):
    true, found = np.zeros((2, 20, 24, 28), np.uint8)
    true[10, 8:16, 8:16] = found[5, 8:16, 8:16] = 1
    place = {"scale": (3, 1, 2), "units": ("mm",) * 3}
    truth = viewer.add_labels(true, name="truth", **place)
    predicted = viewer.add_labels(found * 255, name="mine", **place)
    panel = open_panel("Evaluate")
    assert panel.from_layers.isChecked()
    assert (panel.predicted_layer.layer, panel.truth_layer.layer) == (predicted, truth)
    press(panel.start_button)
    finish(panel)
    assert cells(panel, 0) == ["mine", "foreground", "0.000", "0.000", "0.000", "15.0"]  # 5 slices of 3 mm
    click(panel, qtbot, 0)
    assert len(viewer.layers) == 2
    assert viewer.dims.current_step[0] in (5, 10)


def test_one_layer_is_not_compared_with_itself(panel: EvaluatePanel, viewer: napari.Viewer, press: Press):
    press(panel.from_layers)
    press(panel.start_button)
    assert "First open the predicted labels and the reference" in panel.status.plain_text()
    viewer.add_labels(np.zeros((8, 8), int), name="only")
    press(panel.start_button)
    assert "'only' is chosen twice" in panel.status.plain_text()


def test_stop_ends_an_evaluation_and_keeps_the_last_one(
    panel: EvaluatePanel, qtbot: QtBot, press: Press, finish: Finish, scans: tuple[Path, Path], tmp_path: Path
):
    evaluate(panel, press, finish, *scans)
    first = panel.evaluation
    many = tmp_path / "many"
    many.mkdir()
    for number in range(200):
        nibabel.Nifti1Image(volume(10, 12, 14), np.eye(4)).to_filename(many / f"{number}.nii.gz")
    panel.predicted.set_path(many)
    panel.truth.set_path(many)
    press(panel.start_button)
    qtbot.waitUntil(lambda: panel.progress_bar.value() > 0, timeout=SOON)
    press(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=2_000)
    assert panel.status.plain_text() == "Stopped"
    assert panel.evaluation is first


def test_layers_take_their_classes_from_either_of_them_or_from_their_values(viewer: napari.Viewer):
    names = ("background", "liver", "tumour")
    truth = viewer.add_labels(np.array([[0, 1, 1]]))
    predicted = viewer.add_labels(np.array([[0, 1, 2]]), metadata={"class_names": names})
    assert pairs_of_layers(predicted, truth).class_names == names
    predicted.metadata.clear()
    assert pairs_of_layers(predicted, truth).class_names == ("background", "label 1", "label 2")
    truth.metadata["drawn_names"] = {1: "liver", 2: "tumour"}
    assert pairs_of_layers(predicted, truth).class_names == names, "given by hand"
    truth.metadata.clear()
    predicted.metadata["drawn_names"] = {1: "liver", 2: "tumour"}
    assert pairs_of_layers(predicted, truth).class_names == names


def read(of: Pairs) -> list[list[int]]:
    """Both labels of a single pair, prediction first."""
    (pair,) = of.pairs
    assert pair.predicted.read_label is not None
    assert pair.truth.read_label is not None
    return [pair.predicted.read_label().ravel().tolist(), pair.truth.read_label().ravel().tolist()]


def test_objects_that_a_reference_layer_numbers_can_be_made_one_class(
    panel: EvaluatePanel, viewer: napari.Viewer, press: Press, finish: Finish
):
    names = ("background", "gland")
    viewer.add_labels(np.array([[0, 0, 1, 2, 3, 4]]), name="drawn")
    viewer.add_labels(np.array([[0, 1, 1, 1, 1, 1]]), name="found", metadata={"class_names": names})
    panel.from_layers.setChecked(True)
    panel.truth_layer.choose(viewer.layers["drawn"])
    panel.predicted_layer.choose(viewer.layers["found"])
    press(panel.start_button)
    finish(panel)
    assert "the reference is read as 4" in panel.notices.plain_text()
    assert "Classes any=NAME" in panel.notices.plain_text()
    assert not panel.classes.isHidden()
    panel.classes.setText("any=gland")
    press(panel.start_button)
    finish(panel)
    assert panel.evaluation is not None
    assert "number objects" not in panel.notices.plain_text()
    assert panel.evaluation.class_names == ("gland",)
    assert panel.evaluation.cases[0].dice == pytest.approx(8 / 9)


def test_a_reference_layer_may_store_the_classes_of_a_prediction_by_other_values(viewer: napari.Viewer):
    names = ("background", "liver", "tumour")
    truth = viewer.add_labels(np.array([[0, 128, 255]]))
    predicted = viewer.add_labels(np.array([[0, 1, 1]]), metadata={"class_names": names})
    pairs = pairs_of_layers(predicted, truth)
    assert pairs.class_names == names
    assert read(pairs) == [[0, 1, 1], [0, 1, 2]]
    assert pairs.notices == ("labels: 0 is background, 128 is liver, 255 is tumour",)
    # What the prediction is called counts, whatever its values would be in the reference.
    truth.data, predicted.data = np.array([[0, 2, 5]]), np.array([[0, 2, 2]])
    assert read(pairs_of_layers(predicted, truth)) == [[0, 2, 2], [0, 1, 2]]
    other = LabelRule.of_names({0: "background", 2: "tumour", 5: "liver"})
    assert read(pairs_of_layers(predicted, truth, other)) == [[0, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize(
    ("true", "found", "names", "read_as"),
    [
        ([0, 2, 1001, 1002], [0, 2, 1001, 77], (0, 2, 77, 1001, 1002), [[0, 1, 3, 2], [0, 1, 3, 4]]),
        ([0, 1, 255], [0, 1, 2], (0, 1, 2), [[0, 1, 2], [0, 1, 255]]),
        ([0, 2, 0], [0, 1, 0], (0, "foreground"), [[0, 1, 0], [0, 1, 0]]),  # as files
    ],
)
def test_a_class_that_only_the_prediction_has_is_measured(
    true: list[int], found: list[int], names: tuple, read_as: list, viewer: napari.Viewer
):
    pairs = pairs_of_layers(viewer.add_labels(np.array([found])), viewer.add_labels(np.array([true])))
    said = tuple(f"label {name}" if isinstance(name, int) else name for name in names[1:])
    assert pairs.class_names == ("background", *said)
    assert read(pairs) == read_as
    assert not any("number objects" in told for told in pairs.notices)


def test_the_values_of_two_layers_are_not_mixed(viewer: napari.Viewer):
    truth = viewer.add_labels(np.array([[0, 255, 255]]), name="drawn")
    predicted = viewer.add_labels(np.array([[0, 2, 0]]), name="found")
    with pytest.raises(DataError, match="labels 'found' hold the value 2"):
        pairs_of_layers(predicted, truth)
    nuclei = np.zeros((10, 10), int)
    nuclei[::2, ::2] = np.arange(1, 26).reshape(5, 5)
    truth = viewer.add_labels(nuclei)
    predicted = viewer.add_labels(np.where(nuclei > 0, 255, 0))
    for pair in ((predicted, truth), (truth, predicted)):
        pairs = pairs_of_layers(*pair)
        assert read(pairs) == [(nuclei > 0).astype(int).ravel().tolist()] * 2
        assert pairs.notices == ("labels: every value but 0 is foreground (objects are numbered)",)


def test_what_nobody_decided_in_either_layer_is_no_class(viewer: napari.Viewer):
    truth = viewer.add_labels(np.array([[0, 1, 2, 255]]))
    predicted = viewer.add_labels(np.array([[0, 1, 255, 2]]))
    assert read(pairs_of_layers(predicted, truth)) == [[0, 1, 255, 2], [0, 1, 2, 255]]


def test_layers_whose_classes_stand_in_another_order_are_compared_by_name(viewer: napari.Viewer):
    drawn = np.array([[0, 1, 2]])
    truth = viewer.add_labels(drawn, metadata={"class_names": ("background", "liver", "tumour")})
    predicted = viewer.add_labels(
        np.array([[0, 2, 1]]), metadata={"class_names": ("background", "tumour", "liver")}
    )
    (pair,) = pairs_of_layers(predicted, truth).pairs
    assert pair.predicted.read_label is not None
    np.testing.assert_array_equal(pair.predicted.read_label(), drawn)
    predicted.metadata["class_names"] = ("background", "Leber", "cyst")
    (notice,) = pairs_of_layers(predicted, truth).notices
    assert "'Leber' is taken for 'liver', 'cyst' is taken for 'tumour'" in notice


def test_the_worst_place_is_the_middle_of_the_thickest_error_of_the_class() -> None:
    predicted, truth = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    predicted[2:4, 2:20] = 1  # long and thin
    truth[9:14, 20:25] = 1
    truth[15:20, 0:9] = 2
    geometry = Geometry.pixels(2)
    assert worst_place(predicted, truth, 1, geometry) == (11, 22)
    assert worst_place(predicted, predicted, 1, geometry) is None
    truth[9:14, 20:25] = 255
    assert worst_place(predicted, truth, 1, geometry) in {(2, x) for x in range(2, 20)}


def test_nothing_of_an_earlier_evaluation_stays_beside_the_next(
    panel: EvaluatePanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
):
    evaluate(panel, press, finish, *scans)
    click(panel, qtbot, 0)
    press(panel.plots_button)
    assert len(viewer.layers) == 3
    press(panel.start_button)
    assert len(viewer.layers) == 0
    assert "Evaluation" not in viewer.window.dock_widgets
    finish(panel)
    assert not panel.outcome.isHidden()


def test_evaluating_again_in_a_window_that_is_seen(
    make_napari_viewer: Callable[..., napari.Viewer],
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    scans: tuple[Path, Path],
):
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Evaluate")
    evaluate(panel, press, finish, *scans)
    press(panel.plots_button)
    click(panel, qtbot, 0)
    qtbot.wait(300)
    panel.start_button.click()
    finish(panel)
    assert len(viewer.layers) == 0, "once the process ended while plots and layers went"


def test_a_dot_in_the_name_of_a_case_is_no_suffix(
    panel: EvaluatePanel, press: Press, finish: Finish, scans: tuple[Path, Path]
):
    for path in list(scans[1].rglob("good*")):
        path.rename(path.with_name(path.name.replace("good", "good.left")))
    evaluate(panel, press, finish, *scans)
    assert [cells(panel, row)[0] for row in range(3)] == ["bad", "good.left", "good_labels"]


def test_what_has_no_partner_is_listed_and_saved(
    panel: EvaluatePanel, press: Press, finish: Finish, scans: tuple[Path, Path], tmp_path: Path
):
    (scans[0] / "good_labels.nii.gz").rename(scans[0] / "other_labels.nii.gz")
    evaluate(panel, press, finish, *scans)
    assert [cells(panel, row)[0] for row in range(3)] == ["bad", "good", "other_labels"]
    assert [cells(panel, row)[2] for row in (1, 2)] == ["no prediction", "no reference"]
    assert panel.table.columnSpan(1, 2) == 4, "a long word takes no room from the names"
    assert panel.table.item(2, 0).toolTip() == as_rich("other_labels.nii.gz: no reference")
    panel.open_row(1)
    assert panel.status.plain_text() == "good: no prediction"
    panel.save(tmp_path / "saved")
    finish(panel)
    with open(tmp_path / "saved" / "measures.csv", newline="", encoding="utf-8") as file:
        assert [(row["case"], row["error"]) for row in csv.DictReader(file)] == [
            ("bad", ""),
            ("good", "no prediction"),
            ("other_labels.nii.gz", "no reference"),
        ]
