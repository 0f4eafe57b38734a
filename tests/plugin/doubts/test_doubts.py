"""*Suspicious labels*: the labels that a run doubts, opened by a click, corrected and saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import PIL.Image
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QAbstractButton, QApplication, QMessageBox

from napari_prosma.data.layouts import find_cases
from napari_prosma.plugin.doubts.dock import DoubtedLabels
from napari_prosma.plugin.doubts.doubted_case import ORIGINALS, CaseRead
from napari_prosma.plugin.shared.layers import is_input
from napari_prosma.plugin.shared.live import LiveCase
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.training.doubt import DoubtedLabel, look_first, write_label_confidence

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000


@pytest.fixture
def cases(folder: Path, tmp_path: Path) -> Path:
    """A copy of the six images and masks, whose masks may be changed."""
    return Path(shutil.copytree(folder, tmp_path / "cases"))


def doubted_run(run: Path, cases: Path, made: Path) -> Path:
    """Folder of a run on ``cases`` with a list of two doubted labels."""
    import torch

    from napari_prosma.data.fingerprint import read_facts
    from napari_prosma.model.checkpoint import load_checkpoint
    from napari_prosma.training.config import TrainConfig
    from napari_prosma.training.run_folder import RunFolder

    made.mkdir()
    data, kept = find_cases(cases), load_checkpoint(run)
    config = TrainConfig(run_dir=made, data=cases, labels=data.labels, objective="dale", widths="quick")
    for _ in RunFolder(made).begin(
        config, kept.plan, tuple(read_facts(data.cases)), kept.split, torch.device("cpu"), False
    ):
        pass
    shutil.copy(run / "best.safetensors", made)
    rows = [
        DoubtedLabel(case, 1.0, 0.2, 0.5, confidence, "foreground", 0)
        for case, confidence in (("3", 0.4), ("1", 0.2), ("0", 1.0))
    ]
    write_label_confidence(made, rows)
    return made


@pytest.fixture
def doubted(run: Path, cases: Path, tmp_path: Path) -> Path:
    return doubted_run(run, cases, tmp_path / "doubted")


@pytest.fixture
def dock(viewer: napari.Viewer, doubted: Path, qtbot: QtBot) -> DoubtedLabels:
    made = DoubtedLabels(viewer)
    viewer.window.add_dock_widget(made, name="Suspicious labels", area="bottom")
    made.show_run(doubted)
    qtbot.waitUntil(lambda: made.table.rowCount() == 3 and not made.listing.is_running, timeout=SOON)
    return made


def click(dock: DoubtedLabels, row: int, qtbot: QtBot) -> None:
    item = dock.table.item(row, 0)
    assert item is not None
    place = dock.table.visualItemRect(item).center()
    qtbot.mouseClick(dock.table.viewport(), Qt.MouseButton.LeftButton, pos=place)
    qtbot.waitUntil(lambda: not dock.opening.is_running, timeout=SOON)


def answer(text: str, asked: list[str]) -> None:
    """Press a button of the question that comes."""

    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        asked.append(box.informativeText())
        next(button for button in box.buttons() if button.text() == text).click()

    QTimer.singleShot(300, press)


def mask(cases: Path, name: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(cases / "masks" / f"{name}.png"))


def test_the_most_doubtful_label_is_first(dock: DoubtedLabels):
    names = [dock.table.item(row, 0).text() for row in range(3)]  # type: ignore[union-attr]
    assert names == ["1", "3", "0"]
    assert dock.message.plain_text().startswith("doubted: 2 of 3 labels count less than the others")
    assert dock.table.isColumnHidden(3), "there is one class"
    assert dock.table.isColumnHidden(4), "there are no slices"


def test_a_click_opens_the_case_with_its_label_and_what_the_model_doubts(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, cases: Path
):
    click(dock, 0, qtbot)
    assert [layer.name for layer in viewer.layers] == ["1", "1 doubt", "1 labels"]
    drawn, labels = viewer.layers["1 doubt"], viewer.layers["1 labels"]
    np.testing.assert_array_equal(labels.data * np.uint8(255), mask(cases, "1"))
    assert labels.editable
    assert viewer.layers.selection.active is labels
    assert labels.selected_label == 1
    assert tuple(drawn.contrast_limits) == (0, 1)
    assert drawn.data.shape == labels.data.shape
    assert 0 < drawn.data.max() <= 1
    assert not is_input(drawn)
    assert dock.message.plain_text().startswith("'1': ")
    click(dock, 1, qtbot)
    assert [layer.name for layer in viewer.layers] == ["3", "3 doubt", "3 labels"]


def test_corrections_are_saved_over_their_files_after_one_question(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, press: Press, cases: Path, doubted: Path
):
    told: list[tuple[Path, str]] = []
    dock.corrected.connect(lambda *each: told.append(each))
    click(dock, 0, qtbot)
    before = mask(cases, "1").copy()
    viewer.layers["1 labels"].fill((0, 0), 1)
    asked: list[str] = []
    answer("Keep them", asked)
    press(dock.save_button)
    assert dock.message.plain_text() == "Nothing was saved"
    np.testing.assert_array_equal(mask(cases, "1"), before)

    answer("Overwrite", asked)
    press(dock.save_button)
    qtbot.waitUntil(lambda: not dock.saving.is_running, timeout=SOON)
    assert dock.message.plain_text().startswith("Saved the labels of '1'")
    assert mask(cases, "1").min() == 255
    assert told == [(doubted, "1")]
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(doubted / ORIGINALS / "1" / "1.png")), before)
    assert str(cases / "masks" / "1.png") in asked[1]

    viewer.layers["1 labels"].fill((0, 0), 0)
    press(dock.save_button)
    qtbot.waitUntil(lambda: not dock.saving.is_running, timeout=SOON)
    assert not mask(cases, "1").any()
    assert len(asked) == 2, "it asks once, if the answer is yes"
    press(dock.save_button)
    assert dock.message.plain_text().startswith("There are no corrections to save")


def test_corrections_that_are_not_saved_stay_open(dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot):
    click(dock, 0, qtbot)
    viewer.layers["1 labels"].data[0, 0] = 1
    click(dock, 1, qtbot)
    assert {"1", "1 labels", "3", "3 labels"} <= {layer.name for layer in viewer.layers}
    assert not viewer.layers["1 labels"].visible
    click(dock, 0, qtbot)
    assert viewer.layers["1 labels"].visible
    assert viewer.layers["1 labels"].data[0, 0] == 1
    assert [layer.name for layer in viewer.layers].count("1 labels") == 1


def test_a_correction_whose_image_was_closed_is_kept_and_saved(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, press: Press, cases: Path
):
    click(dock, 0, qtbot)
    labels = viewer.layers["1 labels"]
    labels.fill((0, 0), 1)
    viewer.layers.remove("1")
    click(dock, 1, qtbot)
    assert labels in viewer.layers
    click(dock, 0, qtbot)
    assert [layer.name for layer in viewer.layers] == ["1", "1 doubt", "1 labels"]
    assert viewer.layers["1 labels"] is labels
    viewer.layers.remove("1")
    answer("Overwrite", [])
    press(dock.save_button)
    qtbot.waitUntil(lambda: not dock.saving.is_running, timeout=SOON)
    assert mask(cases, "1").min() == 255


def test_another_list_knows_what_was_corrected(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, press: Press, cases: Path, doubted: Path
):
    click(dock, 0, qtbot)
    viewer.layers["1 labels"].fill((0, 0), 1)
    viewer.window.remove_dock_widget(dock)
    dock.deleteLater()
    other = DoubtedLabels(viewer)
    viewer.window.add_dock_widget(other, name="Suspicious labels", area="bottom")
    other.show_run(doubted)
    qtbot.waitUntil(lambda: other.table.rowCount() == 3 and not other.listing.is_running, timeout=SOON)
    click(other, 0, qtbot)
    assert [layer.name for layer in viewer.layers if is_input(layer)] == ["1", "1 labels"]
    answer("Overwrite", [])
    press(other.save_button)
    qtbot.waitUntil(lambda: not other.saving.is_running, timeout=SOON)
    assert mask(cases, "1").min() == 255


def test_one_label_that_cannot_be_saved_holds_no_other_back(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, press: Press, cases: Path
):
    for row, name in enumerate(("1", "3")):
        click(dock, row, qtbot)
        viewer.layers[f"{name} labels"].fill((0, 0), 1)
    PIL.Image.fromarray(np.zeros_like(mask(cases, "1"))).save(cases / "masks" / "1.png")
    answer("Overwrite", [])
    press(dock.save_button)
    qtbot.waitUntil(lambda: not dock.saving.is_running, timeout=SOON)
    assert mask(cases, "3").min() == 255
    assert not mask(cases, "1").any()
    assert dock.message.is_error
    assert dock.message.plain_text().startswith("'1' was not saved: ")
    assert [each.file.case.name for each in dock.corrections()] == ["1"]


def test_each_run_has_its_own_cases(
    dock: DoubtedLabels,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    cases: Path,
    doubted: Path,
    run: Path,
    folder: Path,
    tmp_path: Path,
):
    """Another run on other files with the same names."""
    others = Path(shutil.copytree(folder, tmp_path / "others"))
    other = doubted_run(run, others, tmp_path / "other")
    told: list[tuple[Path, str]] = []
    dock.corrected.connect(lambda *each: told.append(each))
    click(dock, 0, qtbot)
    first = viewer.layers["1 labels"]
    first.fill((0, 0), 1)
    dock.open(dock.rows[0])  # is read while the run changes
    dock.show_run(other)
    dock._opened(CaseRead(doubted, find_cases(cases)))  # was on its way
    qtbot.waitUntil(lambda: not dock.opening.is_running and not dock.listing.is_running, timeout=SOON)
    click(dock, 0, qtbot)
    assert first in viewer.layers
    second = viewer.layers.selection.active
    assert second is not first
    second.data[:] = 0
    second.data[0, 0] = 1
    asked: list[str] = []
    answer("Overwrite", asked)
    QTimer.singleShot(1200, lambda: answer("Overwrite", asked))
    press(dock.save_button)
    qtbot.waitUntil(lambda: not dock.saving.is_running, timeout=SOON)
    assert not dock.message.is_error, dock.message.plain_text()
    assert mask(cases, "1").min() == 255
    assert mask(others, "1").sum() == 255
    assert told == [(doubted, "1"), (other, "1")]
    assert (other / ORIGINALS / "1" / "1.png").is_file()
    assert str(doubted / ORIGINALS) in asked[0]
    assert str(other / ORIGINALS) in asked[1]


def test_a_list_with_a_class_that_is_gone_opens_its_case(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, doubted: Path
):
    write_label_confidence(doubted, [DoubtedLabel("1", 1.0, 0.2, 0.5, 0.2, "lesion once", 0)])
    dock.show_run(doubted)
    qtbot.waitUntil(lambda: dock.table.rowCount() == 1 and not dock.listing.is_running, timeout=SOON)
    click(dock, 0, qtbot)
    assert viewer.layers["1 labels"].selected_label == 1


def test_a_case_that_is_gone_and_a_folder_without_a_list_are_told(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, cases: Path, tmp_path: Path
):
    for kind in ("images", "masks"):
        (cases / kind / "1.png").unlink()
    click(dock, 0, qtbot)
    assert dock.message.is_error
    assert "no labelled case '1'" in dock.message.plain_text()
    assert not viewer.layers
    dock.show_run(tmp_path)
    qtbot.waitUntil(lambda: not dock.listing.is_running, timeout=SOON)
    assert "holds no label_confidence.csv" in dock.message.plain_text()
    assert dock.table.rowCount() == 0


@pytest.fixture
def learned(viewer: napari.Viewer, cases: Path, doubted: Path) -> LiveCase:
    """Two open layers that a run learns from."""
    image = viewer.add_image(np.asarray(PIL.Image.open(cases / "images" / "1.png")), name="1")
    labels = viewer.add_labels(mask(cases, "1") // 255, name="drawn")
    live = LiveCase(image, labels, None, doubted)
    live.open()
    return live


def test_layers_that_a_run_learns_from_are_gone_to_and_not_opened_twice(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, doubted: Path, learned: LiveCase
):
    dock.show_run(doubted, learned)
    click(dock, 0, qtbot)
    assert not dock.message.is_error, dock.message.plain_text()
    assert [layer.name for layer in viewer.layers] == ["1", "1 doubt", "drawn"]
    assert viewer.layers.selection.active is learned.labels
    assert dock.message.plain_text().endswith("Correct the layer: the run follows")
    assert dock.save_button.isHidden()


def test_once_the_layers_of_a_run_were_closed_a_click_opens_what_it_kept(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, doubted: Path, learned: LiveCase
):
    dock.show_run(doubted, learned)
    qtbot.waitUntil(lambda: not dock.listing.is_running, timeout=SOON)
    viewer.layers.clear()
    click(dock, 0, qtbot)
    assert not dock.message.is_error, dock.message.plain_text()
    assert [layer.name for layer in viewer.layers] == ["1", "1 doubt", "1 labels"]
    assert "then Save labels" in dock.message.plain_text()


def test_a_label_that_cannot_be_saved_can_be_looked_at(
    dock: DoubtedLabels, viewer: napari.Viewer, qtbot: QtBot, cases: Path
):
    PIL.Image.open(cases / "masks" / "1.png").convert("RGBA").save(cases / "masks" / "1.png")
    click(dock, 0, qtbot)
    assert not viewer.layers["1 labels"].editable
    assert "holds transparency or channels" in dock.message.plain_text()


def test_a_run_that_doubts_labels_opens_the_list_by_itself(
    open_panel: Callable[[str], TrainPanel], qtbot: QtBot, press: Press, finish: Finish, cases: Path
):
    panel = open_panel("Train")
    panel.settings.fields["widths"].value = "quick"
    panel.settings.fields["batch"].value = 2
    panel.settings.limit_unit.setCurrentText("epochs")
    panel.settings.limit.setValue(2)
    panel.source.folder.set_path(cases)
    panel.supervision.objective.setCurrentIndex(panel.supervision.objective.findData("dale"))
    panel.supervision.options["dale"]["warm_up_epochs"].value = 1
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 2 epochs")
    assert panel.suspicious.dock is not None
    dock = panel.suspicious.dock
    qtbot.waitUntil(lambda: not dock.listing.is_running, timeout=SOON)
    assert [row.case for row in dock.rows] == [row.case for row in look_first(run_dir)]
    assert not panel.outcome.look_button.isHidden()
    assert "confidence" in panel.outcome.history[-1].objective
    qtbot.waitUntil(lambda: dock.table.rowCount() > 0, timeout=SOON)
    click(dock, 0, qtbot)
    labels = panel.viewer.layers.selection.active
    labels.data[0, 0] = 1
    panel.viewer.window.remove_dock_widget(dock)
    assert dock.parent() is None
    press(panel.outcome.look_button)
    assert panel.suspicious.dock is dock, "it still knows what was corrected"
    assert dock.parent() is not None
    assert [each.labels for each in dock.corrections()] == [labels]
    panel.outcome.look_button.hide()
    dock.run_dir = cases  # as if it showed another run
    panel._follow_suspicious()
    assert dock.run_dir == cases, "a run that comes to doubt labels does not disturb who corrects"
    labels.data[0, 0] = 0
    panel.outcome.look_button.hide()
    panel._follow_suspicious()
    assert dock.run_dir == run_dir
