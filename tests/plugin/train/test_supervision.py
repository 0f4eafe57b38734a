"""Few labels and doubtful labels in the Train panel: what the choice asks for, and what the run then gets."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import PIL.Image
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton

from napari_prosma.data.layouts import find_cases
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.plugin.train.data import LayerData
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.settings import Entry, entries_of
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objectives import OBJECTIVES
from napari_prosma.training.objectives.dim import DimOptions

Press = Callable[[QAbstractButton], None]
Finish = Callable[[TrainPanel], None]
SOON = 30_000


@pytest.fixture
def bare(folder: Path, tmp_path: Path) -> Path:
    """Three images without labels, one of which is among the labelled ones."""
    made = tmp_path / "bare"
    made.mkdir()
    for n in (0, 1):
        image = np.roll(_picture(folder / "images" / f"{n}.png"), 7, axis=1)
        _save(image, made / f"further-{n}.png")
    shutil.copy(folder / "images" / "2.png", made / "2.png")
    return made


def _picture(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path))


def _save(image: np.ndarray, path: Path) -> None:
    PIL.Image.fromarray(image).save(path)


def choose(panel: TrainPanel, objective: str) -> None:
    panel.supervision.objective.setCurrentIndex(panel.supervision.objective.findData(objective))


def test_every_objective_can_be_chosen_with_its_options(panel: TrainPanel, tmp_path: Path):
    form = panel.supervision
    for name, kind in OBJECTIVES.items():
        choose(panel, name)
        assert set(form.options[name]) == set(kind.options.model_fields)
        config = TrainConfig.of(run_dir=tmp_path, **form.values())
        assert (config.objective, config.objective_options) == (name, kind.options())


@pytest.mark.parametrize(
    "entry",
    [e for kind in OBJECTIVES.values() for e in entries_of(kind.options).values() if e.choices],
    ids=lambda entry: entry.name,
)
def test_every_choice_of_an_option_has_words(entry: Entry):
    assert tuple(entry.choices) == entry.literals


def test_who_chooses_nothing_sees_one_row(panel: TrainPanel):
    form = panel.supervision
    below = (
        form.sentence,
        form.folder,
        form.layers,
        form.found,
        form.look_button,
    )
    assert all(part.isHidden() for part in below)
    assert not form.folds
    assert form.values() == {"objective": "supervised"}
    choose(panel, "dim")
    assert form.sentence.plain_text() == OBJECTIVES["dim"].choice.meaning
    assert [part.isHidden() for part in below] == [False, False, True, False, True]
    assert not form.folds["dim"].isHidden()
    choose(panel, "dale")
    assert [part.isHidden() for part in below] == [False, True, True, True, False]
    assert (form.folds["dim"].isHidden(), form.folds["dale"].isHidden()) == (True, False)


def test_options_are_asked_for_where_they_stand_and_have_names(panel: TrainPanel):
    choose(panel, "dim")
    form = panel.supervision
    natives = [field.native for field in form.options["dim"].values()]
    wanted = [form.objective, form.folds["dim"].toggleButton(), *natives, panel.settings.limit]
    chain = [form.objective]
    while chain[-1] is not panel.settings.limit:
        chain.append(chain[-1].nextInFocusChain())
    assert [part for part in chain if part in wanted] == wanted
    assert all(native.accessibleName() or native.text() for native in natives)


def test_training_with_few_labels(
    panel: TrainPanel, qtbot: QtBot, press: Press, finish: Finish, folder: Path, bare: Path
):
    panel.source.folder.set_path(folder)
    choose(panel, "dim")
    form = panel.supervision
    assert form.found.plain_text().startswith("No unlabelled images chosen yet")
    form.folder.set_path(bare)
    qtbot.waitUntil(lambda: form.found.plain_text() == "3 unlabelled images to learn from", timeout=SOON)
    form.options["dim"]["rho"].value = 0
    panel.repeat.fold.expand(animate=False)
    qtbot.waitUntil(lambda: bool(panel.repeat.shell.toPlainText()), timeout=SOON)
    words = shlex.split(panel.repeat.shell.toPlainText())
    assert words[words.index("--objective") + 1] == "dim"
    assert words[words.index("--unlabelled") + 1] == str(bare)
    assert words[words.index("--objective-option") + 1] == "rho=0.0"
    run_dir = panel.settings.run_field.path
    assert run_dir is not None
    press(panel.start_button)
    finish(panel)
    assert panel.status.plain_text().startswith("Finished after 1 epoch")
    assert "1 of the 3 unlabelled images (2) are among the labelled cases" in panel.outcome.log.toPlainText()
    assert "divergence" in panel.outcome.history[0].objective
    config = load_checkpoint(run_dir).config
    assert (config["objective"], config["unlabelled"], config["objective_options"]["rho"]) == (
        "dim",
        str(bare),
        0,
    )


def test_the_radius_is_ten_times_as_large_where_it_is_relative_unless_it_was_chosen(panel: TrainPanel):
    choose(panel, "dim")
    fields = panel.supervision.options["dim"]
    rho, adaptive = fields["rho"], fields["adaptive"]
    assert not fields["eta"].native.isEnabled()
    adaptive.native.setChecked(True)
    assert fields["eta"].native.isEnabled()
    assert rho.value == 0.5
    adaptive.native.setChecked(False)
    assert rho.value == DimOptions().rho
    rho.value = 0.2
    adaptive.native.setChecked(True)
    assert rho.value == 0.2


def test_nothing_counts_of_an_alignment_that_is_off(panel: TrainPanel):
    choose(panel, "dale")
    fields = panel.supervision.options["dale"]
    fields["align"].value = "none"
    assert not fields["beta"].native.isEnabled()
    fields["align"].value = "mmd"
    assert fields["beta"].native.isEnabled()
    fields["scales"].native.setText("1, 2")
    assert fields["scales"].value == (1, 2)
    fields["scales"].native.setText("")
    assert fields["scales"].value == (1,)


def test_masks_beside_unlabelled_images_are_not_read(
    panel: TrainPanel, qtbot: QtBot, folder: Path, tmp_path: Path
):
    choose(panel, "dim")
    further = Path(shutil.copytree(folder, tmp_path / "further"))
    for path in (further / "masks").iterdir():
        _save(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 5, path)
    panel.supervision.folder.set_path(further)
    found = panel.supervision.found
    qtbot.waitUntil(lambda: found.is_error or "images to learn from" in found.plain_text(), timeout=SOON)
    assert found.plain_text() == "6 unlabelled images to learn from"
    data = panel.supervision._found
    assert data is not None
    assert data.class_names == ("background", "foreground"), "nobody looked at their values"


def test_unlabelled_images_of_another_kind_are_told_at_once(
    panel: TrainPanel, qtbot: QtBot, folder: Path, tmp_path: Path
):
    panel.source.folder.set_path(folder)
    choose(panel, "dim")
    coloured = tmp_path / "coloured"
    coloured.mkdir()
    _save(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), coloured / "a.png")
    panel.supervision.folder.set_path(coloured)
    qtbot.waitUntil(lambda: panel.supervision.found.is_error, timeout=SOON)
    assert (
        "are 2D with 3 channels, but the labelled ones 2D with 1 channel"
        in panel.supervision.found.plain_text()
    )


def test_open_images_without_labels_are_learned_from_and_kept(
    panel: TrainPanel, viewer: napari.Viewer, press: Press
):
    rng = np.random.default_rng(0)
    scan, other, volume = (
        viewer.add_image(rng.integers(0, 255, shape, np.uint8), name=name)
        for name, shape in (("scan", (16, 16)), ("other/one", (16, 16)), ("volume", (3, 16, 16)))
    )
    drawn = np.zeros((16, 16), np.uint8)
    drawn[4:8, 4:8] = 1
    viewer.add_labels(drawn, name="drawn")
    press(panel.source.from_layers)
    panel.source.image_layer.choose(scan)
    choose(panel, "dim")
    form = panel.supervision
    assert form.layers.layers() == [other, volume]
    assert form.ticked() == (other,), "what is alike, and not what has labels"
    assert form.found.plain_text() == "1 unlabelled image to learn from"
    settings, data = panel.planned_data()
    assert "unlabelled" not in settings
    assert isinstance(data, LayerData)
    opened = data.begin()
    (case,) = opened.unlabelled
    (kept,) = find_cases(opened.settings["unlabelled"], require_labels=False).cases
    assert case.name == "1-other_one"
    assert kept.name.startswith(case.name)
    assert kept.read_label is None
    np.testing.assert_array_equal(kept.read_image().array, other.data[None])
    np.testing.assert_array_equal(case.read_image().array, other.data[None])

    form.layers.tick([])
    viewer.add_image(drawn, name="later")
    assert form.ticked() == (), "what was unticked stays so"
