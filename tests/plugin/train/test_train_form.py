"""What the Train panel asks: settings, a model to start from, examples, and the lines that repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton, QApplication, QPushButton
from typer.testing import CliRunner

from napari_prosma.cli.app import app
from napari_prosma.data.class_colours import CLASS_COLOURS
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.events import Event, Started
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.network_kinds import NETWORKS, WIDTHS
from napari_prosma.nn.spec import AUTO
from napari_prosma.plugin.train.examples import COUNT, picture
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.plugin.train.run_controls import PlannedRun
from napari_prosma.settings import Entry
from napari_prosma.training.config import SETTINGS, TrainConfig
from napari_prosma.training.objectives import OBJECTIVES

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000


@pytest.mark.parametrize("entry", [e for e in SETTINGS.values() if e.choices], ids=lambda e: e.name)
def test_every_choice_of_a_configuration_has_words(entry: Entry):
    named = {"gate": GATES, "network": NETWORKS, "objective": OBJECTIVES, "widths": (AUTO, *WIDTHS)}
    wanted = tuple(named.get(entry.name, entry.literals))
    assert tuple(entry.choices) == ((None,) if entry.is_optional else ()) + wanted


def test_the_form_begins_with_the_defaults(open_panel: Callable[[str], TrainPanel]):
    fields = open_panel("Train").settings.fields
    assert {name: field.value for name, field in fields.items()} == {n: SETTINGS[n].default for n in fields}
    assert len(fields) > 20


def test_advanced_settings_reach_the_configuration(panel: TrainPanel):
    form, fields = panel.settings, panel.settings.fields
    fields["modality"].native.setCurrentText("MR")
    fields["class_weights"].native.setCurrentText("rare classes more")
    fields["precision"].native.setCurrentText("32 bit")
    fields["foreground_share"].native.setValue(80)
    fields["average"].native.setValue(0.99)
    fields["patience"].native.setValue(7)
    fields["gradient_clip"].native.setValue(0)
    fields["compile"].native.setChecked(True)
    fields["tensorboard"].native.setChecked(True)
    config = TrainConfig.of(**form.values())
    assert (config.modality, config.class_weights, config.precision) == ("mr", "balanced", "32-true")
    assert (config.foreground_share, config.average, config.patience) == (0.8, 0.99, 7)
    assert config.gradient_clip is None
    assert config.compile
    assert config.tensorboard


def test_the_network_is_as_large_as_the_time_allows_unless_the_user_chose(
    open_panel: Callable[[str], TrainPanel], press: Press
):
    panel = open_panel("Train")
    values = panel.settings.values()
    assert (values["widths"], values["learning_rate"], values["side"]) == ("auto", None, None)
    panel.settings.fields["widths"].value = "base"
    press(panel.source.from_layers)
    assert panel.settings.values()["widths"] == "base"


def test_layers_train_for_fewer_minutes_than_folders_unless_the_user_chose(
    open_panel: Callable[[str], TrainPanel], press: Press
):
    panel = open_panel("Train")

    def length() -> tuple[int, str]:
        return panel.settings.limit.value(), panel.settings.limit_unit.currentText()

    assert length() == (30, "minutes")
    press(panel.source.from_layers)
    assert length() == (10, "minutes")
    press(panel.source.from_folder)
    assert length() == (30, "minutes")
    panel.settings.limit_unit.setCurrentText("epochs")
    panel.settings.limit.setValue(50)
    press(panel.source.from_layers)
    assert length() == (50, "epochs")


def test_a_panel_that_opens_beside_drawn_labels_learns_from_them(
    viewer: napari.Viewer, open_panel: Callable[[str], TrainPanel]
):
    viewer.add_image(np.zeros((8, 8)))
    viewer.add_labels(np.zeros((8, 8), int), name="drawn")
    panel = open_panel("Train")
    assert panel.source.from_layers.isChecked()
    assert panel.source.labels_layer.currentText() == "drawn"


# ---- starting from a model --------------------------------------------------------------------------------


def test_without_the_model_the_form_is_as_it_was_and_what_the_user_chose_stays(
    panel: TrainPanel, qtbot: QtBot, attention_run: Path
):
    form, fields = panel.settings, panel.settings.fields
    fields["modality"].value = "mr"
    fields["widths"].value = "base"
    form.start_from.set_path(attention_run)
    qtbot.waitUntil(fields["trains"].native.isEnabled, timeout=SOON)
    assert (fields["widths"].value, fields["gate"].value) == ("quick", "attention")
    assert fields["modality"].value == "mr"
    form.start_from.set_path(None)
    assert (fields["widths"].value, fields["gate"].value) == ("base", "prosma")
    assert fields["widths"].native.isEnabled()
    assert fields["modality"].value == "mr"


def test_a_model_brings_its_size_and_gate_and_is_fine_tuned(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path
):
    form, fields = panel.settings, panel.settings.fields
    fields["gate"].value = "attention"
    fields["modality"].value = "ultrasound"
    panel.source.folder.set_path(folder)
    model = form.run_field.path
    press(panel.start_button)
    finish(panel)
    fields["gate"].value = "prosma"
    fields["modality"].value = "auto"
    assert not fields["trains"].native.isEnabled()
    fields["widths"].value = "base"
    form.fine_tuning.expand(animate=False)
    assert model is not None
    form.start_from.set_path(model)
    qtbot.waitUntil(fields["trains"].native.isEnabled, timeout=SOON)
    assert (fields["widths"].value, fields["gate"].value) == ("quick", "attention")
    assert not fields["widths"].native.isEnabled(), "the model says how large it is"
    assert fields["modality"].value == "ultrasound", "what the images are comes with the model"
    fields["trains"].native.setCurrentText("the decoder")
    fields["taken_rate"].native.setValue(0.5)
    run_dir = form.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch")
    assert "tensors taken over; head:" in panel.outcome.log.toPlainText()
    headers = [panel.outcome.table.horizontalHeaderItem(column).text() for column in range(5)]
    assert headers == ["Class", "Dice", "before", "IoU", "before"]
    config = load_checkpoint(run_dir).config
    assert (config["trains"], config["taken_rate"]) == ("decoder", 0.5)
    assert config["start_from"] == str(model)


def test_without_a_model_everything_learns(panel: TrainPanel):
    panel.settings.fields["trains"].native.setCurrentText("gates and last layer")
    assert panel.settings.values()["trains"] == "all"


# ---- examples ---------------------------------------------------------------------------------------------


def test_examples_are_drawn_from_the_folder_and_anew_each_time(
    panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path, home: Path
):
    panel.settings.examples_button.click()
    assert panel.examples is not None
    assert "Choose the folder" in panel.examples.message.plain_text()
    panel.source.folder.set_path(folder)
    panel.settings.fields["modality"].native.setCurrentText("ultrasound")
    panel.settings.examples_button.click()
    window = panel.examples
    qtbot.waitUntil(lambda: window.pictures.count() == 2 * COUNT, timeout=SOON)
    assert "depth has a direction" in window.message.plain_text()
    first = window.pictures.itemAt(0).widget().pixmap().toImage()
    qtbot.waitUntil(lambda: not window.job.is_running, timeout=SOON)
    press(window.again_button)
    qtbot.waitUntil(lambda: not window.job.is_running, timeout=SOON)
    assert window.pictures.itemAt(0).widget().pixmap().toImage() != first
    assert not (home / "prosma-runs").exists()


def test_a_click_while_examples_are_drawn_counts(
    panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path, tmp_path: Path
):
    panel.source.folder.set_path(folder)
    panel.settings.examples_button.click()
    window = panel.examples
    assert window is not None
    panel.source.folder.set_path(tmp_path / "elsewhere")
    press(window.again_button)
    qtbot.waitUntil(lambda: "elsewhere" in window.message.plain_text(), timeout=SOON)
    assert window.pictures.count() == 0


def test_a_picture_has_the_outline_of_its_label_in_the_colour_of_its_class():
    image, label = np.zeros((1, 3, 9, 9), np.float32), np.zeros((3, 9, 9), np.uint8)
    label[1, 2:7, 2:7] = 1
    drawn = picture(image, label, np.array([0.0, 1.0]))
    coloured = (drawn != 0).any(axis=-1)
    assert coloured.sum() == 16
    assert not coloured[3:6, 3:6].any()
    assert "#" + bytes(drawn[2, 2].tolist()).hex() == CLASS_COLOURS[0]


# ---- repeating it -----------------------------------------------------------------------------------------


def lines(panel: TrainPanel, qtbot: QtBot, with_words: str) -> str:
    qtbot.waitUntil(lambda: with_words in panel.repeat.shell.toPlainText(), timeout=SOON)
    return panel.repeat.shell.toPlainText()


def test_the_lines_follow_the_form_and_are_copied(
    panel: TrainPanel, qtbot: QtBot, press: Press, folder: Path
):
    panel.repeat.fold.expand(animate=False)
    qtbot.waitUntil(lambda: panel.repeat.message.is_error, timeout=SOON)
    assert "Choose the folder" in panel.repeat.message.plain_text()
    panel.source.folder.set_path(folder)
    line = lines(panel, qtbot, "--epochs 1 ")
    assert line.startswith(f"prosma train {folder} --out ")
    panel.settings.limit.setValue(23)
    line = lines(panel, qtbot, "--epochs 23 ")
    for button in panel.repeat.findChildren(QPushButton):
        if button.toolTip() == "Copy the line for a shell":
            button.click()
    assert QApplication.clipboard().text() == line
    assert "epochs=23," in panel.repeat.python.toPlainText()
    panel.run_on.field.setEditText("tcp://desk:8786")
    assert lines(panel, qtbot, "--scheduler tcp://desk:8786").startswith("prosma train")
    assert "in train_elsewhere('tcp://desk:8786', config," in panel.repeat.python.toPlainText()


def test_the_shell_line_does_what_the_panel_does(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path, tmp_path: Path
):
    panel.source.folder.set_path(folder)
    panel.repeat.fold.expand(animate=False)
    words = shlex.split(lines(panel, qtbot, "--epochs 1 "))
    named = panel.settings.run_field.path
    assert named is not None
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    run_dir = tmp_path / "of the panel"
    panel.settings.run_field.show_path(run_dir)
    press(panel.start_button)
    finish(panel)
    ours, theirs = load_checkpoint(run_dir), load_checkpoint(named)
    assert ours.metrics == theirs.metrics
    changed = {"run_dir"}
    assert {k: v for k, v in ours.config.items() if k not in changed} == {
        k: v for k, v in theirs.config.items() if k not in changed
    }
    panel.settings.limit.setValue(23)
    words = shlex.split(lines(panel, qtbot, "--epochs 23 "))
    assert not Path(words[words.index("--out") + 1]).exists(), "the form still names the folder of its run"


def test_lines_for_layers_run_once_start_has_kept_them(
    panel: TrainPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish
):
    panel.settings.fields["device"].value = "cpu"
    case = ultrasound_case(3, (32, 32))
    assert case.read_label is not None
    viewer.add_image(case.read_image().array[0], name="scan")
    viewer.add_labels(case.read_label() * 5)
    press(panel.source.from_layers)
    panel.repeat.fold.expand(animate=False)
    qtbot.waitUntil(lambda: panel.repeat.message.is_error, timeout=SOON)
    assert "press Start, which writes them" in panel.repeat.message.plain_text()
    assert panel.repeat.shell.toPlainText() == ""
    first = panel.settings.run_field.path
    assert first is not None
    assert not first.exists()
    press(panel.start_button)
    finish(panel)
    following = panel.settings.run_field.path
    assert following is not None
    line = lines(panel, qtbot, str(following))
    assert line.startswith(f"prosma train {first / 'cases' / 'cases.csv'} --out {following} ")
    assert "--classes 0=background,5=foreground" in line
    done = CliRunner().invoke(app, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output
    assert load_checkpoint(following).metrics == load_checkpoint(first).metrics


# ---- errors of others -------------------------------------------------------------------------------------


def test_an_error_of_the_graphics_card_leaves_a_usable_panel(
    panel: TrainPanel, press: Press, finish: Finish, folder: Path, tmp_path: Path
):
    def failing(_: object) -> Iterator[Event]:
        yield Started(10, "Training")
        raise RuntimeError("CUDA error: device-side assert triggered")

    panel._submit(PlannedRun("failing", tmp_path / "run", failing))
    finish(panel)
    assert panel.status.is_error
    assert "CUDA error" in panel.status.plain_text()
    panel.source.folder.set_path(folder)
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished")
