"""Run on: another computer is tested, trains from layers, and goes on when napari leaves it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton, QApplication, QMessageBox

from napari_prosma.app.elsewhere.note import note_of
from napari_prosma.data import cluster
from napari_prosma.plugin.shared.closing import let_go_of
from napari_prosma.plugin.shared.run_on import HERE, RunOn
from napari_prosma.plugin.train.leaving import LEAVE
from napari_prosma.training.run_folder import read_run

Press = Callable[[QAbstractButton], None]
LONG = 60_000


@pytest.fixture
def address(home: object, local_scheduler: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A scheduler with one worker, in this process."""
    with local_scheduler() as address:
        yield address


def test_an_address_is_tested_and_remembered(address: str, qtbot: QtBot, press: Press) -> None:
    run_on = RunOn("train")
    qtbot.addWidget(run_on)
    assert run_on.scheduler is None
    assert not run_on.test_button.isEnabled()
    run_on.field.setEditText("tcp://127.0.0.1:9")
    press(run_on.test_button)
    qtbot.waitUntil(lambda: run_on.message.is_error, timeout=LONG)
    assert "start one there with dask scheduler" in run_on.message.plain_text()
    run_on.field.setEditText(address)
    press(run_on.test_button)
    qtbot.waitUntil(
        lambda: "1 worker on 127.0.0.1, none with a GPU" in run_on.message.plain_text(), timeout=LONG
    )
    again = RunOn("train"), RunOn("segment")
    for field in again:
        qtbot.addWidget(field)
    assert again[0].scheduler == address
    assert again[1].scheduler is None
    assert [again[1].field.itemText(n) for n in range(2)] == [HERE, address]


def test_a_silent_port_is_told_and_the_panel_closes_meanwhile(
    home: object, qtbot: QtBot, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ANSWERS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for waits in (True, False):
            run_on = RunOn("train")
            qtbot.addWidget(run_on)
            run_on.field.setEditText(f"tcp://127.0.0.1:{silent.getsockname()[1]}")
            press(run_on.test_button)
            if waits:
                qtbot.waitUntil(lambda seen=run_on.message: seen.is_error, timeout=LONG)
                assert "does not speak as Dask does" in run_on.message.plain_text()
            began = time.monotonic()
            let_go_of(run_on)
            assert time.monotonic() - began < 2


def while_training(panel: Any, qtbot: QtBot, holds: Callable[[], bool]) -> None:
    """Wait until something holds; where the run ends first, fail with what the panel says."""

    def told() -> str:
        return f"{panel.status.plain_text()}\n{panel.outcome.log.toPlainText()}"

    def look() -> bool:
        if not holds() and (panel.status.is_error or not panel.job.is_running):
            pytest.fail(f"the run has ended: {told()}")
        return holds()

    try:
        qtbot.waitUntil(look, timeout=LONG)
    except TimeoutError:
        pytest.fail(f"it still does not hold: {told()}")


def test_a_run_from_layers_goes_on_there_without_napari_and_is_come_back_to(
    address: str,
    panel: Any,
    viewer: napari.Viewer,
    lesion_image: np.ndarray,
    qtbot: QtBot,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(lesion_image, name="breast 7")
    labels = viewer.add_labels((lesion_image < 40).astype(np.uint8), name="strokes")
    panel.source.from_layers.setChecked(True)
    panel.settings.limit.setValue(500)
    panel.run_on.field.setEditText(address)
    run_dir = panel.settings.run_field.path
    press(panel.start_button)
    while_training(panel, qtbot, lambda: panel.outcome.epochs > 0)
    while_training(panel, qtbot, lambda: "First preview" in panel.outcome.log.toPlainText())
    labels.data[:8] = 1
    labels.events.paint(value=[])
    while_training(
        panel, qtbot, lambda: "have changed and are learned from now on" in panel.outcome.log.toPlainText()
    )

    def leave(box: QMessageBox) -> None:
        box.show()
        next(button for button in box.buttons() if button.text() == LEAVE).click()

    monkeypatch.setattr(QMessageBox, "exec", leave)
    press(panel.parentWidget().titleBarWidget().close_button)
    qtbot.waitUntil(lambda: "Train (napari-prosma)" not in viewer.window.dock_widgets, timeout=LONG)
    assert note_of(run_dir) is not None
    _, again = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
    again.resume(run_dir)
    while_training(again, qtbot, lambda: again.outcome.epochs > 1)
    press(again.finish_button)
    qtbot.waitUntil(lambda: not again.job.is_running, timeout=LONG)
    assert again.status.plain_text().startswith("Finished after")
    assert note_of(run_dir) is None
    assert read_run(run_dir).ended is not None
    QApplication.processEvents()
