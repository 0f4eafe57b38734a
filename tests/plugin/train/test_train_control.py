"""A run from the Train panel while it goes on: changed, finished, left, gone on with, and the queue."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import napari
import numpy as np
import pytest
from napari.settings import get_settings
from pytestqt.qtbot import QtBot
from qtpy.compat import isalive
from qtpy.QtCore import QTimer
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QAbstractButton, QApplication, QDialog, QMessageBox, QToolButton

from napari_prosma.errors import DataError
from napari_prosma.events import Baseline, EpochEnd, Event, Started
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.train.leaving import GO_ON, STOP
from napari_prosma.plugin.train.live_preview import LIVE
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.plugin.train.run_controls import PlannedRun
from napari_prosma.plugin.train.settings import UNLIMITED_EPOCHS
from napari_prosma.training.lines import UNLIMITED_EPOCHS as OF_LINES
from napari_prosma.training.run_claim import RUN
from napari_prosma.training.run_folder import read_run
from napari_prosma.training.steering import Steering

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON, LONG = 30_000, 60_000


@pytest.fixture
def panel(panel: TrainPanel, folder: Path) -> TrainPanel:
    panel.source.folder.set_path(folder)
    return panel


@pytest.fixture
def painted(viewer: napari.Viewer, lesion_image: np.ndarray) -> napari.layers.Labels:
    """An image with labels drawn on it."""
    viewer.add_image(lesion_image, name="breast 7")
    return viewer.add_labels((lesion_image < 40).astype(np.uint8), name="strokes")


def learning(panel: TrainPanel, qtbot: QtBot) -> None:
    """Wait until the first steps are done."""
    qtbot.waitUntil(
        lambda: panel._progress.startswith("epoch") and not panel.controls.isHidden(), timeout=LONG
    )


def long_run(panel: TrainPanel, qtbot: QtBot, press: Press) -> Path:
    """Start a run that does not end by itself; its folder."""
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    learning(panel, qtbot)
    return run_dir


def logged(panel: TrainPanel) -> str:
    return panel.outcome.log.toPlainText()


class ByTheUser(QCloseEvent):
    """What the window system sends when the user closes a window."""

    def spontaneous(self) -> bool:
        return True


class Answers:
    """Answers dialogs as they come up by the button of that name, and counts them."""

    def __init__(self, *buttons: str) -> None:
        self.left = list(buttons)
        self.texts: list[str] = []
        self._timer = QTimer()
        self._timer.timeout.connect(self._answer)
        self._timer.start(20)

    def _answer(self) -> None:
        for widget in QApplication.topLevelWidgets():
            if isinstance(widget, QDialog) and widget.isVisible() and widget.isModal():
                for button in widget.findChildren(QAbstractButton):
                    if self.left and button.text() == self.left[0]:
                        self.left.pop(0)
                        text = widget.informativeText() if isinstance(widget, QMessageBox) else "napari's"
                        self.texts.append(text)
                        button.click()
                        return


# ---- changing and ending a run ----------------------------------------------------------------------------


def test_rate_and_length_change_while_it_runs_and_the_form_is_left_alone(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish
):
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    assert panel.controls.isHidden()
    press(panel.start_button)
    learning(panel, qtbot)
    assert (panel.controls.rate.value(), panel.controls.epochs.value()) == (0, 500)  # by the steps
    panel.controls.rate.setValue(5e-4)
    panel.controls.epochs.setValue(2)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 2 epochs")
    assert "Changed while running: learning rate 0.0005" in logged(panel)
    assert "Changed while running: epochs 2" in logged(panel)
    kept = load_checkpoint(run_dir / "last.safetensors").config
    assert (kept["learning_rate"], kept["epochs"]) == (5e-4, 2)
    assert (panel.settings.fields["learning_rate"].value, panel.settings.limit.value()) == (None, 500)
    assert panel.controls.isHidden()


def test_a_number_that_is_being_typed_is_no_change_yet(panel: TrainPanel, qtbot: QtBot, press: Press):
    long_run(panel, qtbot, press)
    panel.controls.epochs.selectAll()
    qtbot.keyClicks(panel.controls.epochs, "1")
    assert "Changed" not in logged(panel)
    press(panel.stop_button)


def test_finish_now_validates_and_keeps_the_best_even_out_of_a_pause(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish
):
    long_run(panel, qtbot, press)
    press(panel.pause_button)
    qtbot.waitUntil(lambda: panel.pause_button.text() == "Continue", timeout=SOON)
    press(panel.finish_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch, best Dice")
    assert panel.outcome.epochs == 1


def test_a_stopped_run_goes_on_from_its_folder_with_its_history(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish
):
    panel.settings.limit.setValue(3)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    qtbot.waitUntil(lambda: panel.outcome.epochs == 1, timeout=LONG)
    press(panel.stop_button)
    finish(panel)
    assert "Resume… continues it" in panel.status.plain_text()
    panel.resume(run_dir)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 3 epochs")
    assert [epoch.epoch for epoch in panel.outcome.history] == [1, 2, 3]


def test_a_folder_that_is_no_run_is_told(panel: TrainPanel, finish: Finish, tmp_path: Path):
    panel.resume(tmp_path)
    finish(panel)
    assert panel.status.is_error
    assert f"'{tmp_path}' holds no run.json; give the folder of a run" in panel.status.plain_text()


# ---- layers -----------------------------------------------------------------------------------------------


def test_a_correction_is_learned_while_it_trains_and_the_run_goes_on_from_its_folder(
    panel: TrainPanel,
    viewer: napari.Viewer,
    painted: napari.layers.Labels,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
):
    press(panel.source.from_layers)
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    qtbot.waitUntil(lambda: LIVE in viewer.layers, timeout=LONG)
    assert "First preview after" in logged(panel)
    painted.fill((0, 0), 1)
    qtbot.waitUntil(
        lambda: "'breast 7' have changed and are learned from now on" in logged(panel), timeout=SOON
    )
    painted.data_setitem((np.array([1]), np.array([1])), 3)
    qtbot.waitUntil(lambda: "value 3 is new" in panel.trouble.plain_text(), timeout=SOON)
    painted.undo()
    qtbot.waitUntil(lambda: panel.trouble.plain_text() == "", timeout=SOON)
    press(panel.stop_button)
    finish(panel)

    panel.resume(run_dir)
    learning(panel, qtbot)
    painted.undo()
    qtbot.waitUntil(
        lambda: "'breast 7' have changed and are learned from now on" in logged(panel), timeout=SOON
    )
    press(panel.stop_button)
    finish(panel)

    viewer.layers.clear()
    panel.resume(run_dir)
    learning(panel, qtbot)
    press(panel.finish_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")


def test_a_layer_that_is_closed_leaves_a_run_that_goes_on_and_says_so(
    panel: TrainPanel,
    viewer: napari.Viewer,
    painted: napari.layers.Labels,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
):
    press(panel.source.from_layers)
    long_run(panel, qtbot, press)
    viewer.layers.remove(painted)
    qtbot.waitUntil(lambda: "was closed; the run continues" in panel.trouble.plain_text(), timeout=SOON)
    done = panel.progress_bar.value()
    qtbot.waitUntil(lambda: panel.progress_bar.value() > done, timeout=SOON)
    press(panel.finish_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        ("empty", "Nothing is drawn on 'strokes' yet"),
        ("nan", "The image 'breast 7' holds infinite values or nothing but NaN"),
        ("read-only", "; choose a folder that"),
    ],
)
def test_what_cannot_be_learned_from_is_told_and_can_be_put_right(
    spoil: str,
    told: str,
    panel: TrainPanel,
    viewer: napari.Viewer,
    painted: napari.layers.Labels,
    press: Press,
    finish: Finish,
    tmp_path: Path,
):
    image, labels = viewer.layers["breast 7"], painted.data
    press(panel.source.from_layers)
    good = panel.settings.run_field.path
    assert good is not None
    if spoil == "empty":
        painted.data = labels * 0
    elif spoil == "nan":
        gray, image.data = image.data, np.full(image.data.shape, np.nan, np.float32)
    else:
        (tmp_path / "file").write_text("in the way")
        panel.settings.run_field.show_path(tmp_path / "file" / "run")
    press(panel.start_button)
    finish(panel)
    assert panel.status.is_error
    assert told in panel.status.plain_text()
    if spoil == "empty":
        painted.data = labels
    elif spoil == "nan":
        image.data = gray
    else:
        panel.settings.run_field.show_path(good)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")


# ---- the queue --------------------------------------------------------------------------------------------


def test_a_second_run_waits_and_begins_when_the_first_is_stopped(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish
):
    panel.settings.limit.setValue(500)
    first = panel.settings.run_field.path
    press(panel.start_button)
    learning(panel, qtbot)
    panel.settings.limit.setValue(1)
    assert panel.settings.run_field.path == first  # of the run that goes on
    press(panel.start_button)
    (second,) = (run.run_dir for run in panel.waiting.runs)
    assert second != first
    assert panel.settings.run_field.path == first
    assert not panel.waiting.isHidden()
    panel.settings.limit.setValue(77)
    press(panel.start_button)
    assert [run.name.split(", ")[-1] for run in panel.waiting.runs] == ["1 epoch", "77 epochs"]
    press(panel.waiting.findChildren(QToolButton)[-1])
    assert len(panel.waiting.runs) == 1
    press(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.waiting.runs, timeout=SOON)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch")
    assert "500 epochs: Stopped" in logged(panel)
    assert load_checkpoint(second).config["epochs"] == 1


def test_after_an_error_the_next_run_begins_and_the_error_is_kept(
    panel: TrainPanel, press: Press, finish: Finish, home: Path, tmp_path: Path
):
    good = panel.settings.run_field.path
    (tmp_path / "file").write_text("in the way")
    panel.settings.run_field.show_path(tmp_path / "file" / "run")
    press(panel.start_button)
    assert good is not None
    panel.settings.run_field.show_path(good)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch")
    assert f"Cannot write to '{tmp_path / 'file' / 'run'}'" in logged(panel)


def test_two_runs_never_share_a_folder(panel: TrainPanel, qtbot: QtBot, press: Press, tmp_path: Path):
    panel.settings.limit.setValue(500)
    run_dir = tmp_path / "chosen"
    panel.settings.run_field.show_path(run_dir)
    press(panel.start_button)
    panel.settings.run_field.show_path(run_dir)
    press(panel.start_button)
    assert "is the folder of a run that is in progress or waiting" in panel.status.plain_text()
    panel.resume(run_dir)
    assert "is the folder of a run that is in progress or waiting" in panel.status.plain_text()
    assert not panel.waiting.runs


# ---- leaving ----------------------------------------------------------------------------------------------


def test_closing_the_panel_asks_once_and_going_on_keeps_panel_and_run(
    panel: TrainPanel, qtbot: QtBot, press: Press
):
    run_dir = long_run(panel, qtbot, press)
    dock = panel.parentWidget()
    asked = Answers(GO_ON)
    press(dock.titleBarWidget().close_button)
    assert len(asked.texts) == 1
    assert str(run_dir) in asked.texts[0]
    assert panel.job.is_running
    assert panel.parentWidget() is dock
    asked = Answers(STOP)
    press(dock.titleBarWidget().close_button)
    assert len(asked.texts) == 1
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=SOON)
    assert load_checkpoint(run_dir / "last.safetensors").place["step"] > 0


def test_a_run_that_is_asked_for_before_the_panel_has_closed_keeps_it_open(
    panel: TrainPanel, qtbot: QtBot, press: Press
):
    run_dir = long_run(panel, qtbot, press)
    dock = panel.parentWidget()
    ended: list[object] = []
    asked = Answers(STOP)
    panel.job.ended.connect(ended.append)
    panel.job.ended.connect(lambda: panel.resume(run_dir))  # at the very last moment
    press(dock.titleBarWidget().close_button)
    assert asked.texts
    qtbot.waitUntil(lambda: len(ended) == 1, timeout=LONG)
    learning(panel, qtbot)
    assert panel.parentWidget() is dock


@pytest.mark.parametrize("how", ["the window's button", "the menu"])
def test_closing_napari_asks_once_instead_of_napari(
    how: str,
    make_napari_viewer: Callable[..., napari.Viewer],
    qtbot: QtBot,
    press: Press,
    folder: Path,
):
    viewer = make_napari_viewer(show=True)
    get_settings().application.confirm_close_window = True
    viewer.add_image(np.zeros((8, 8)))
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
    panel.settings.fields["widths"].value = "quick"
    panel.settings.limit.setValue(500)
    panel.source.from_folder.setChecked(True)  # an open image is what it would learn from
    panel.source.folder.set_path(folder)
    run_dir = panel.settings.run_field.path
    window = viewer.window._qt_window

    def close() -> None:
        if how == "the menu":
            window.close(quit_app=False, confirm_need=True)
        else:
            QApplication.sendEvent(window, ByTheUser())

    press(panel.start_button)
    learning(panel, qtbot)
    asked = Answers(GO_ON)
    close()
    qtbot.wait(300)
    assert len(asked.texts) == 1
    assert panel.job.is_running
    assert window.isVisible()
    asked = Answers(STOP)
    close()
    qtbot.waitUntil(lambda: not isalive(window) or not window.isVisible(), timeout=SOON)
    assert len(asked.texts) == 1
    assert not panel.job.is_running
    assert load_checkpoint(run_dir / "last.safetensors").place["step"] > 0


def test_leaving_a_run_that_has_not_begun_promises_nothing(panel: TrainPanel, press: Press):
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    assert "no model is kept" in panel.what_leaving_means()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / RUN).touch()
    assert "Resume… continues it" in panel.what_leaving_means()


def test_a_run_that_is_stopped_in_its_first_epoch_keeps_its_place(
    panel: TrainPanel, press: Press, qtbot: QtBot, finish: Finish
):
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    qtbot.waitUntil((run_dir / RUN).is_file, timeout=LONG)
    press(panel.stop_button)
    finish(panel)
    assert "Resume… continues it" in panel.status.plain_text()
    assert load_checkpoint(run_dir / "last.safetensors").epoch == 0


def test_closing_answers_at_once_while_a_step_takes_long(panel: TrainPanel, qtbot: QtBot):
    closed: list[float] = []

    def slow(steering: Steering) -> Iterator[Event]:
        yield Started(1, "a long step")
        time.sleep(2)
        yield Started(1, "another one")

    panel._start(PlannedRun("slow", panel.settings.run_field.path, slow))
    qtbot.waitUntil(lambda: panel.progress_bar.maximum() == 1, timeout=SOON)
    began = time.monotonic()
    panel.stop_then(lambda: closed.append(time.monotonic()))
    assert time.monotonic() - began < 1
    assert "then this closes" in panel.status.plain_text()
    assert not closed
    qtbot.waitUntil(lambda: bool(closed), timeout=SOON)
    assert not panel.job.is_running


def test_what_cannot_be_kept_does_not_close(panel: TrainPanel, qtbot: QtBot):
    closed: list[bool] = []

    def unkept(steering: Steering) -> Iterator[Event]:
        try:
            for _ in range(10**4):
                yield Started(1, "a step")
                time.sleep(0.01)
        finally:
            raise DataError("the disk is full")

    panel._start(PlannedRun("unkept", panel.settings.run_field.path, unkept))
    qtbot.waitUntil(lambda: panel.progress_bar.maximum() == 1, timeout=SOON)
    panel.stop_then(lambda: closed.append(True))
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=SOON)
    qtbot.wait(100)
    assert not closed
    assert panel.status.plain_text() == "The disk is full"


def test_two_windows_never_suggest_one_folder(panel: TrainPanel, folder: Path):
    panel.source.folder.set_path(folder)
    suggested = {panel._new_folder() for _ in range(50)}
    assert len(suggested) == 50
    assert all(path.name.startswith("breast-") for path in suggested)


def test_a_folder_that_is_no_run_is_refused_before_it_starts(panel: TrainPanel, press: Press, tmp_path: Path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "metrics.csv").write_text("mine")
    panel.settings.run_field.show_path(tmp_path / "thesis")
    press(panel.start_button)
    assert "holds 'metrics.csv' and is no run folder" in panel.status.plain_text()
    assert not panel.job.is_running


def test_a_run_finds_its_data_again_where_they_were_moved(
    panel: TrainPanel, press: Press, qtbot: QtBot, finish: Finish, folder: Path, tmp_path: Path
):
    shutil.copytree(folder, tmp_path / "before")
    panel.source.folder.set_path(tmp_path / "before")
    panel.settings.limit.setValue(500)
    run_dir = panel.settings.run_field.path
    press(panel.start_button)
    learning(panel, qtbot)
    press(panel.stop_button)
    finish(panel)
    (tmp_path / "before").rename(tmp_path / "after")
    panel.resume(run_dir)
    finish(panel)
    assert "are no longer in" in panel.status.plain_text()
    assert not panel.moved_row.isHidden()
    panel.moved.set_path(tmp_path / "after")
    learning(panel, qtbot)
    press(panel.finish_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
    assert read_run(run_dir).config.data == tmp_path / "after"


def test_resuming_a_finished_run_is_no_error(panel: TrainPanel, finish: Finish, run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    panel.resume(tmp_path / "run")
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch")


# ---- what is told -----------------------------------------------------------------------------------------


def test_figures_from_before_a_fine_tuning_stand_beside_those_of_now(panel: TrainPanel):
    panel.happened(Baseline({"dice/liver": 0.8, "iou/liver": 0.7}))
    figures = {"dice/liver": 0.9, "iou/liver": 0.85, "dice/cyst": 0.5, "iou/cyst": 0.4}
    panel.happened(EpochEnd(1, 2, 0.4, 1e-3, 2.0, figures))
    table = panel.outcome.table
    shown = [[table.item(row, column).text() for column in range(5)] for row in range(2)]
    assert shown == [["liver", "0.900", "0.800", "0.850", "0.700"], ["cyst", "0.500", "-", "0.400", "-"]]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".csv"])
def test_the_curves_are_saved(panel: TrainPanel, tmp_path: Path, suffix: str):
    panel.happened(EpochEnd(1, 2, 0.4, 1e-3, 2.0, {"dice": 0.5, "dice/lesion": 0.5, "iou/lesion": 0.4}))
    panel.outcome.save_curves(tmp_path / f"curves{suffix}")
    assert (tmp_path / f"curves{suffix}").stat().st_size > 100
    assert "Curves saved" in panel.outcome.figures.plain_text()


def test_a_run_by_minutes_is_written_as_the_shell_writes_it():
    assert UNLIMITED_EPOCHS == OF_LINES
