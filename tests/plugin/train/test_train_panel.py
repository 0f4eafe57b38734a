"""Training from the panel, by clicks, on a real viewer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.app.runs import cases_of
from napari_prosma.events import EpochEnd, Preview
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.shared.job import Job
from napari_prosma.plugin.train.live_preview import LIVE
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.plugin.train.preview import IMAGE, PREDICTION, TRUTH, PreviewLayers
from napari_prosma.training import tempo
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run_folder import read_run

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000


def enter(panel: TrainPanel, folder: Path) -> None:
    panel.source.folder.line.setText(str(folder))
    panel.source.folder.line.editingFinished.emit()


def stop_after_some_steps(panel: TrainPanel, qtbot: QtBot, press: Press) -> None:
    qtbot.waitUntil(lambda: "poch " in panel.status.plain_text(), timeout=60_000)
    press(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=SOON)


def test_a_folder_is_recognised_at_once(panel: TrainPanel, qtbot: QtBot, folder: Path, home: Path):
    enter(panel, folder)
    qtbot.waitUntil(lambda: panel.source.data_set is not None, timeout=SOON)
    assert panel.source.summary.plain_text().startswith("Images and masks in two folders: 6 cases; 2D, gray")
    assert not panel.source.summary.is_error
    assert panel.settings.run_field.path is not None
    assert panel.settings.run_field.path.parent == home / "prosma-runs"
    assert panel.settings.run_field.path.name.startswith("breast-")


def test_the_folder_of_a_run_is_dated_once(panel: TrainPanel, tmp_path: Path):
    dated = tmp_path / "breast-2026-01-02-3"
    dated.mkdir()
    enter(panel, dated)
    assert panel.settings.run_field.path is not None
    assert re.fullmatch(r"breast-\d{4}-\d\d-\d\d-[0-9a-f]+", panel.settings.run_field.path.name)


def test_a_bad_folder_is_told_in_red_and_nothing_is_written(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, tmp_path: Path, home: Path
):
    empty = tmp_path / "empty"
    empty.mkdir()
    enter(panel, empty)
    qtbot.waitUntil(lambda: panel.source.summary.is_error, timeout=SOON)
    assert f"'{empty}' is empty; put images in" in panel.source.summary.plain_text()
    press(panel.start_button)
    finish(panel)
    assert panel.status.is_error
    assert panel.status.plain_text() == panel.source.summary.plain_text()
    assert notification_manager.records[-1].message == panel.status.plain_text()
    assert not any((home / "prosma-runs").glob("*"))
    assert panel.start_button.isEnabled()


def test_the_newest_folder_wins(panel: TrainPanel, qtbot: QtBot, folder: Path, tmp_path: Path):
    enter(panel, tmp_path)
    enter(panel, folder)
    qtbot.waitUntil(lambda: panel.source.data_set is not None, timeout=SOON)
    assert panel.source.data_set is not None
    assert panel.source.data_set.folder == folder
    qtbot.waitUntil(lambda: not panel.source.scan.is_running, timeout=SOON)
    assert not panel.source.summary.is_error


def test_a_folder_that_is_being_annotated_is_learned_from_without_what_has_no_mask(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path, tmp_path: Path
):
    copied = tmp_path / "breast"
    shutil.copytree(folder, copied)
    for name in ("2", "4"):
        (copied / "masks" / f"{name}.png").unlink()
    source = panel.source
    enter(panel, copied)
    qtbot.waitUntil(lambda: source.summary.is_error, timeout=SOON)
    assert "2 of 6 images in" in source.summary.plain_text()
    assert not source.labelled_only.isHidden()
    press(source.labelled_only)
    qtbot.waitUntil(lambda: source.data_set is not None, timeout=SOON)
    assert "2 of 6 images have no mask and are left out" in source.summary.plain_text()
    run_dir = panel.settings.run_field.path
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    config = read_run(run_dir).config
    assert [case.name for case in cases_of(config).cases] == ["0", "1", "3", "5"], "as when it is resumed"
    enter(panel, folder)
    qtbot.waitUntil(lambda: source.data_set is not None, timeout=SOON)
    assert source.labelled_only.isHidden()
    assert not source.labelled_only.isChecked()


def test_start_without_a_folder_says_what_to_do(panel: TrainPanel, press: Press):
    press(panel.start_button)
    assert panel.status.is_error
    assert "Choose the folder" in panel.status.plain_text()
    assert not panel.job.is_running


def test_training_from_a_folder(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    viewer.add_labels(np.zeros((64, 64), int), name="my own")
    enter(panel, folder)
    panel.settings.limit.setValue(2)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    assert panel.start_button.text() == "Train next"
    assert panel.stop_button.isEnabled()
    finish(panel)

    assert panel.status.plain_text().startswith("Finished after 2 epochs, best Dice 0.")
    assert [epoch.epoch for epoch in panel.outcome.history] == [1, 2]
    assert panel.outcome.log.toPlainText().startswith("Plan: 2D, 1 channel, classes background, foreground")
    assert panel.outcome.figures.plain_text().startswith("Epoch 2 of 2: loss ")
    fold = panel.outcome.gates_fold
    assert not fold.isHidden()
    assert not fold.isExpanded(), "what the gates do is folded away"
    height = panel.outcome.curves.height()
    fold.expand(animate=False)
    assert panel.outcome.curves.height() > height, "their curves come with it"
    gates = panel.outcome.gates
    assert [gates.item(row, 0).text() for row in range(2)] == ["zeros in z", "mean λ"]
    assert gates.item(0, 1).text().endswith("%")
    cell = panel.outcome.table.item(0, 0)
    assert cell is not None
    assert cell.text() == "foreground"

    names = {"my own", IMAGE, TRUTH, PREDICTION}
    qtbot.waitUntil(lambda: {layer.name for layer in viewer.layers} == names, timeout=SOON)
    assert viewer.layers[PREDICTION].data.shape == viewer.layers[IMAGE].data.shape == (64, 64)
    assert viewer.layers.selection.active is viewer.layers["my own"]

    assert load_checkpoint(run_dir / "last.safetensors").epoch == 2
    config = load_checkpoint(run_dir).config
    assert (config["widths"], config["gate"], config["batch"]) == ("quick", "prosma", 2)
    assert config["threads"] >= 1
    assert panel.start_button.isEnabled()
    assert panel.settings.run_field.path != run_dir, "the next run does not go over this one"


def test_preview_layers_are_changed_in_place_and_may_be_removed(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    enter(panel, folder)
    panel.settings.limit.setValue(50)
    press(panel.start_button)
    qtbot.waitUntil(lambda: PREDICTION in viewer.layers, timeout=60_000)
    prediction = viewer.layers[PREDICTION]
    first = prediction.data
    viewer.layers.remove(IMAGE)
    qtbot.waitUntil(lambda: prediction.data is not first, timeout=SOON)
    assert viewer.layers[PREDICTION] is prediction
    assert IMAGE not in viewer.layers
    press(panel.stop_button)
    finish(panel)
    assert not panel.status.is_error

    press(panel.start_button)
    qtbot.waitUntil(lambda: IMAGE in viewer.layers, timeout=60_000)
    assert viewer.layers[PREDICTION] is prediction


def test_stop_in_the_middle_keeps_the_model_and_the_panel(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    enter(panel, folder)
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempo, "LEAST_STEPS", 1000)
        press(panel.start_button)
        stop_after_some_steps(panel, qtbot, press)
    assert not panel.outcome.history, "it does not wait for the end of the epoch"
    assert panel.status.plain_text().startswith("Stopped")
    assert str(run_dir) in panel.status.plain_text()
    load_checkpoint(run_dir / "last.safetensors").build()
    panel.settings.limit.setValue(1)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch,")


def test_pause_holds_training_and_goes_on(panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path):
    enter(panel, folder)
    panel.settings.limit.setValue(500)
    press(panel.start_button)
    qtbot.waitUntil(lambda: "poch " in panel.status.plain_text(), timeout=60_000)
    press(panel.pause_button)
    qtbot.waitUntil(lambda: panel.status.plain_text() == "Paused", timeout=SOON)
    done = panel.progress_bar.value()
    qtbot.wait(500)
    assert panel.progress_bar.value() == done
    press(panel.pause_button)
    qtbot.waitUntil(lambda: panel.progress_bar.value() > done, timeout=SOON)
    stop_after_some_steps(panel, qtbot, press)


def test_closing_the_panel_stops_training_and_keeps_the_model(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, folder: Path
):
    enter(panel, folder)
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    qtbot.waitUntil(lambda: "poch " in panel.status.plain_text(), timeout=60_000)
    viewer.window.remove_dock_widget(panel)
    assert not panel.job.is_running
    assert load_checkpoint(run_dir / "last.safetensors").epoch == 0


def test_closing_napari_stops_training_and_keeps_the_model(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, folder: Path
):
    enter(panel, folder)
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    qtbot.waitUntil(lambda: "poch " in panel.status.plain_text(), timeout=60_000)
    assert viewer.window._task_status_manager.get_status() == ["napari-worker: Executing ProSMA: training"]
    viewer.close()
    qtbot.waitUntil(lambda: (run_dir / "last.safetensors").is_file(), timeout=SOON)


def test_training_from_layers(
    panel: TrainPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    lesion_image: np.ndarray,
):
    press(panel.source.from_layers)
    press(panel.start_button)
    assert "First open an image, or learn from a folder" in panel.status.plain_text()
    viewer.add_image(lesion_image, name="breast 7", scale=(0.3, 0.3), units=("mm", "mm"))
    press(panel.start_button)
    assert "Draw labels on the image first" in panel.status.plain_text()
    labels = viewer.add_labels((lesion_image < 40).astype(int), name="strokes", scale=(0.3, 0.3))
    assert panel.settings.run_field.path is not None
    assert panel.settings.run_field.path.name.startswith("breast_7-")
    run_dir = panel.settings.run_field.path
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    assert "There are no validation cases" in panel.outcome.log.toPlainText()
    assert load_checkpoint(run_dir).split["training"] == ["breast 7"]
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=SOON)
    live = viewer.layers[LIVE]
    np.testing.assert_allclose(np.multiply(live.data.shape, live.scale), np.multiply(lesion_image.shape, 0.3))
    assert labels in viewer.layers
    assert PREDICTION not in viewer.layers, "the live one lies on the image itself"


def test_a_folder_with_a_model_is_not_trained_over(panel: TrainPanel, press: Press, folder: Path, run: Path):
    enter(panel, folder)
    panel.settings.run_field.line.setText(str(run))
    before = (run / "best.safetensors").read_bytes()
    press(panel.start_button)
    assert f"'{run}' already holds a trained model" in panel.status.plain_text()
    assert (run / "best.safetensors").read_bytes() == before


def test_an_error_in_the_thread_leaves_a_usable_panel(
    panel: TrainPanel, press: Press, finish: Finish, folder: Path, tmp_path: Path, home: Path
):
    enter(panel, folder)
    (tmp_path / "file").write_text("no folder")
    panel.settings.run_field.line.setText(str(tmp_path / "file" / "run"))
    press(panel.start_button)
    finish(panel)
    assert panel.status.is_error
    assert str(tmp_path / "file") in panel.status.plain_text()
    panel.settings.run_field.line.setText(str(home / "run"))
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")


def test_values_of_the_plan_are_taken(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    enter(panel, folder)
    qtbot.keyClicks(panel.settings.fields["spacing"].native, "1.5, 2")
    qtbot.keyClicks(panel.settings.fields["patch"].native, "32 x 48")
    panel.settings.fields["intensity"].native.setCurrentText("CT")
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    plan = load_checkpoint(run_dir).plan
    assert (plan.spacing, plan.patch, plan.intensity, plan.batch) == ((1.5, 2.0), (32, 48), "ct", 2)


@pytest.mark.parametrize(
    ("field", "typed", "told"),
    [
        ("spacing", "3, a", "The spacing '3, a' is not understood; give one positive number per axis"),
        ("spacing", "1, -1", "The spacing '1, -1' is not understood"),
        ("spacing", "1, inf", "The spacing '1, inf' is not understood"),
        ("spacing", "3, 1, 1", "The spacing has 3 numbers, but the images have 2 axes"),
        ("patch", "64.5", "The patch size '64.5' is not understood; give one positive whole number per axis"),
        ("patch", "64", "The patch size has 1 number, but the network sees 2 axes"),
    ],
)
def test_values_that_cannot_be_are_told_before_anything_runs(
    panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path, home: Path, field: str, typed: str, told: str
):
    enter(panel, folder)
    qtbot.waitUntil(lambda: panel.source.data_set is not None, timeout=SOON)
    qtbot.keyClicks(panel.settings.fields[field].native, typed)
    press(panel.start_button)
    assert panel.status.is_error
    assert panel.status.plain_text().startswith(told)
    assert not panel.job.is_running
    assert not (home / "prosma-runs").exists()


def test_by_minutes_the_clock_ends_the_run(panel: TrainPanel):
    panel.settings.limit_unit.setCurrentText("minutes")
    panel.settings.limit.setValue(7)
    settings = panel.settings.values()
    assert settings["minutes"] == 7
    assert settings["epochs"] > 10_000


def test_the_untouched_form_is_the_default_configuration(open_panel: Callable[[str], TrainPanel]):
    settings = open_panel("Train").settings.values()
    config, default = TrainConfig.of(**settings), TrainConfig(run_dir=settings["run_dir"], minutes=30)
    assert config.model_copy(update={"threads": None}) == default


def test_the_figures_name_each_class(panel: TrainPanel):
    figures = {
        "dice": 0.7,
        "iou": 0.5,
        "dice/liver": 0.9,
        "iou/liver": 0.8,
        "dice/cyst": 0.5,
        "iou/cyst": 0.2,
    }
    panel.happened(EpochEnd(3, 9, 0.4, 1e-3, 2.0, figures, memory=3 * 2**29))
    assert panel.outcome.figures.plain_text() == (
        "Epoch 3 of 9: loss 0.400, learning rate 0.001, 2.0 s per epoch, device: , 1.5 GB of its memory"
    )
    shown = [[panel.outcome.table.item(row, column).text() for column in range(3)] for row in range(2)]
    assert shown == [["liver", "0.900", "0.800"], ["cyst", "0.500", "0.200"]]


def test_the_preview_layers_of_a_closed_panel_are_changed_by_the_next(viewer: napari.Viewer, qtbot: QtBot):
    plane = np.zeros((8, 8), np.uint8)
    preview = Preview(1, "a", plane[None].astype(np.float32), plane, plane, Geometry.pixels(2))
    names = set()
    for _ in range(2):
        owner = QObject()
        layers = PreviewLayers(viewer, Job(owner))
        layers.start()
        layers.show(preview)
        qtbot.waitUntil(lambda: len(viewer.layers) == 3 and viewer.layers[-1].visible, timeout=SOON)
        qtbot.wait(100)
        names |= {layer.name for layer in viewer.layers}
        viewer.layers[IMAGE].visible = False
    assert names == {IMAGE, PREDICTION, TRUTH}
