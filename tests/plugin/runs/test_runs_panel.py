"""The list of runs in napari, what its buttons open, and what is remembered from one session to the next."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractButton, QApplication, QInputDialog, QMessageBox, QPushButton

from napari_prosma.app.remembered import remembered
from napari_prosma.plugin.runs.panel import RunsPanel
from napari_prosma.plugin.shared.form_memory import recall_form, remember_form
from napari_prosma.plugin.shared.panel import Panel

SOON = 30_000
Press = Callable[[QAbstractButton], None]


@pytest.fixture
def runs(home: Path, run: Path) -> Path:
    for name in ("first", "second"):
        shutil.copytree(run, home / "prosma-runs" / name)
    return home / "prosma-runs"


@pytest.fixture
def listed(open_panel: Callable[[str], Panel], runs: Path, qtbot: QtBot) -> Any:
    made: Any = open_panel("Runs")
    qtbot.waitUntil(lambda: bool(made.runs) and not made.reading.is_running, timeout=SOON)
    return made


def rows(panel: Any) -> dict[str, Any]:
    items = (panel.tree.topLevelItem(n) for n in range(panel.tree.topLevelItemCount()))
    return {item.text(0): item for item in items}


def choose(panel: Any, *names: str) -> None:
    panel.tree.clearSelection()
    for name in names:
        rows(panel)[name].setSelected(True)


@pytest.fixture
def answer() -> Iterator[Callable[..., None]]:
    """``answer("Delete", ...)``: a question that comes is answered by one of these, else left by Escape."""
    timer, texts = QTimer(), set[str]()

    def press() -> None:
        box = QApplication.activeModalWidget()
        if isinstance(box, QMessageBox):
            fitting = [button for button in box.buttons() if button.text().replace("&", "") in texts]
            fitting[0].click() if fitting else box.reject()

    timer.timeout.connect(press)
    timer.start(100)
    yield lambda *given: texts.update(given)
    timer.stop()


def test_runs_are_listed_with_how_they_stand(listed: Any) -> None:
    assert sorted(rows(listed)) == ["first", "second"]
    assert rows(listed)["first"].text(1) == "finished"
    choose(listed, "first")
    assert "finished, 1 of 1 epochs, learned from open layers" in listed.message.plain_text()
    assert listed.buttons["Segment"].isEnabled()
    assert not listed.buttons["Resume"].isEnabled()


def test_a_run_opens_in_the_other_panels(
    listed: Any, viewer: napari.Viewer, press: Press, qtbot: QtBot, runs: Path
) -> None:
    for name, panel in (("Segment", "Segment"), ("Inspect", "Inspect gates")):
        choose(listed, "first")
        press(listed.buttons[name])
        _, opened = viewer.window.add_plugin_dock_widget("napari-prosma", panel)
        assert opened.model.path == runs / "first"
        qtbot.waitUntil(lambda opened=opened: not opened.model.is_reading, timeout=SOON)


def test_the_curves_of_several_runs_stand_in_one_plot(listed: Any, press: Press, qtbot: QtBot) -> None:
    choose(listed, "first", "second")
    press(listed.buttons["Curves"])
    qtbot.waitUntil(lambda: bool(listed.curves.figure.axes), timeout=SOON)
    legend = listed.curves.figure.axes[0].get_legend()
    assert sorted(text.get_text() for text in legend.get_texts()) == ["first", "second"]


def test_a_run_is_renamed(
    listed: Any, press: Press, qtbot: QtBot, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("third", True))
    choose(listed, "first")
    press(listed.buttons["Rename…"])
    qtbot.waitUntil(lambda: "third" in rows(listed), timeout=SOON)
    assert (runs / "third" / "best.safetensors").is_file()
    monkeypatch.setattr(QInputDialog, "getText", lambda *_, **__: ("second", True))
    choose(listed, "third")
    press(listed.buttons["Rename…"])
    assert "is there already" in listed.message.plain_text()


def test_a_run_is_deleted_only_after_a_question(
    listed: Any, press: Press, qtbot: QtBot, runs: Path, answer: Callable[..., None]
) -> None:
    choose(listed, "first")
    press(listed.buttons["Delete…"])  # and Escape
    assert (runs / "first").is_dir()
    choose(listed, "first")
    answer("Move to trash", "Delete for good")  # the second where there is no trash
    press(listed.buttons["Delete…"])
    qtbot.waitUntil(lambda: list(rows(listed)) == ["second"], timeout=SOON)
    assert not (runs / "first").exists()


def test_a_run_elsewhere_is_added_and_a_folder_that_is_none_is_not(
    listed: Any, qtbot: QtBot, attention_run: Path, tmp_path: Path
) -> None:
    listed.add(tmp_path)
    assert "is not the folder of a run" in listed.message.plain_text()
    listed.add(attention_run)
    qtbot.waitUntil(lambda: "attention" in rows(listed), timeout=SOON)


def test_resume_opens_the_list(panel: Any, viewer: napari.Viewer, press: Press) -> None:
    press(panel.resume_button)
    assert any(isinstance(held, RunsPanel) for held in viewer.window.dock_widgets.values())


def test_words_search_the_runs(listed: Any) -> None:
    listed.search.setText("finished sec")
    assert [name for name, row in rows(listed).items() if not row.isHidden()] == ["second"]


def test_runs_that_wait_are_listed(listed: Any, qtbot: QtBot, home: Path) -> None:
    listed.under_way.set_waiting([home / "prosma-runs" / "tomorrow"])
    qtbot.waitUntil(lambda: "tomorrow" in rows(listed), timeout=SOON)
    assert rows(listed)["tomorrow"].text(1) == "waiting"
    choose(listed, "tomorrow")
    assert not listed.buttons["Delete…"].isEnabled()


def test_after_training_the_next_steps_are_in_view_and_the_run_is_listed(
    panel: Any, listed: Any, press: Press, finish: Callable[[Panel], None], folder: Path, qtbot: QtBot
) -> None:
    (large,) = (
        b for b in panel.outcome.next_buttons.findChildren(QPushButton) if b.text() == "Segment with it"
    )
    assert not panel.scroll_area.isAncestorOf(large), "it would scroll out of view"
    panel.source.folder.set_path(folder)
    press(panel.start_button)
    finish(panel)
    assert not panel.outcome.next_buttons.isHidden()
    qtbot.waitUntil(lambda: len(rows(listed)) == 3 and not listed.reading.is_running, timeout=SOON)


def test_a_form_comes_back_in_the_next_session_until_it_is_forgotten(
    open_panel: Callable[[str], Panel], press: Press, listed: Any, answer: Callable[..., None]
) -> None:
    form: Any = open_panel("Segment")
    form.mirror.setChecked(True)
    remember_form("segment", form)
    form.mirror.setChecked(False)
    recall_form("segment", form)
    assert form.mirror.isChecked()
    answer("Forget")
    press(listed.buttons["Forget…"])
    assert remembered("form segment") is None


def test_numbers_and_choices_of_the_training_come_back(open_panel: Callable[[str], Panel]) -> None:
    form: Any = open_panel("Train")
    settings = form.settings
    settings.limit_unit.setCurrentText("epochs")
    settings.limit.setValue(7)
    settings.fields["average"].value = 0.5
    remember_form("training", settings)
    settings.limit_unit.setCurrentText("minutes")
    settings.fields["average"].value = 0
    recall_form("training", settings)
    assert (settings.limit_unit.currentText(), settings.limit.value()) == ("epochs", 7)
    assert settings.fields["average"].value == 0.5
