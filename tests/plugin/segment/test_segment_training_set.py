"""Corrected results become cases to learn from, and the Train panel opens with nothing left to type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.data.case import Image
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import ConfigError
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation
from napari_prosma.plugin.segment.panel import SegmentPanel
from napari_prosma.plugin.segment.results import Result, UsedModel
from napari_prosma.plugin.segment.training_set import add_case, class_names_of, training_set_of
from napari_prosma.plugin.train.panel import TrainPanel
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

Press = Callable[[QAbstractButton], None]
Finish = Callable[[SegmentPanel], None]
SOON = 30_000
NAMES = {0: "background", 1: "lesion"}


def image(seed: int) -> Image:
    values = np.random.default_rng(seed).integers(0, 255, (1, 12, 16)).astype(np.uint8)
    return Image(values, Geometry((0.5, 0.5), (0.0, 0.0), "mm"))


def test_what_was_added_is_found_again_and_replaced_only_by_itself(tmp_path: Path):
    folder = tmp_path / "new" / "set"
    first, other = np.zeros((12, 16), np.uint8), np.ones((12, 16), np.uint8)
    first[2:5, 3:6] = 1
    assert add_case(folder, "breast", image(1), first, NAMES) == ("breast", False)
    assert add_case(folder, "breast", image(2), other, NAMES) == ("breast-2", False)
    first[7, 7] = 2
    assert add_case(folder, "breast", image(1), first, NAMES) == ("breast", True)
    names = class_names_of(folder)
    assert names == {**NAMES, 2: "label 2"}
    data = find_cases(folder, labels=LabelRule.of_names(names))
    assert [case.name for case in data.cases] == ["breast", "breast-2"]
    assert data.class_names == ("background", "lesion", "label 2")
    for case, shown, labels in zip(data.cases, (image(1), image(2)), (first, other), strict=True):
        np.testing.assert_array_equal(case.read_image().array, shown.array)
        assert case.read_image().geometry.spacing == (0.5, 0.5)
        np.testing.assert_array_equal(case.read_label(), labels)


def test_names_that_are_one_file_on_some_systems_replace_nothing(tmp_path: Path):
    first, other = np.ones((12, 16), np.uint8), np.zeros((12, 16), np.uint8)
    add_case(tmp_path, "Scan", image(1), first, NAMES)
    assert add_case(tmp_path, "scan", image(2), other, NAMES) == ("scan-2", False)
    assert add_case(tmp_path, "scan", image(1), first, NAMES) == ("Scan", True)
    assert [case.name for case in find_cases(tmp_path).cases] == ["Scan", "scan-2"]


def test_a_class_that_was_given_a_name_keeps_it(tmp_path: Path):
    drawn = np.zeros((12, 16), np.uint8)
    drawn[:3], drawn[5] = 1, 2
    add_case(tmp_path, "one", image(1), drawn, {**NAMES, 2: "vessel"})
    add_case(tmp_path, "two", image(2), drawn, NAMES)
    assert class_names_of(tmp_path) == {**NAMES, 2: "vessel"}
    add_case(tmp_path, "three", image(3), drawn, {**NAMES, 2: "label 2", 3: "label 3"})
    assert class_names_of(tmp_path) == {**NAMES, 2: "vessel", 3: "label 3"}
    add_case(tmp_path, "four", image(4), drawn, {**NAMES, 3: "cyst"})
    assert class_names_of(tmp_path) == {**NAMES, 2: "vessel", 3: "cyst"}


def test_what_the_desktop_leaves_in_a_folder_does_not_make_it_full(tmp_path: Path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / name).write_bytes(b"seen")
    assert add_case(tmp_path, "one", image(1), np.ones((12, 16), np.uint8), NAMES) == ("one", False)


def test_an_image_with_missing_values_is_known_again(tmp_path: Path):
    holed = Image(image(1).array.astype(np.float32), image(1).geometry)
    holed.array[0, 3, 3] = np.nan
    drawn = np.ones((12, 16), np.uint8)
    assert [add_case(tmp_path, "one", holed, drawn, NAMES) for _ in range(2)] == [
        ("one", False),
        ("one", True),
    ]


def test_classes_of_another_model_and_folders_of_others_are_refused(tmp_path: Path):
    add_case(tmp_path / "set", "breast", image(1), np.ones((12, 16), np.uint8), NAMES)
    with pytest.raises(ConfigError, match="the value 1 is lesion, but here it is kidney"):
        add_case(
            tmp_path / "set", "ct", image(2), np.ones((12, 16), np.uint8), {0: "background", 1: "kidney"}
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        add_case(tmp_path / "mine", "breast", image(1), np.ones((12, 16), np.uint8), NAMES)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_model_that_learned_from_a_training_set_adds_to_it(tmp_path: Path):
    made, other = tmp_path / "set", tmp_path / "other"
    other.mkdir()
    add_case(made, "breast", image(1), np.ones((12, 16), np.uint8), NAMES)
    assert training_set_of(tmp_path / "run" / "best.safetensors", made) == made
    assert training_set_of(tmp_path / "run" / "best.safetensors", other).name == "run"


def test_corrections_go_to_the_set_of_the_model_that_made_the_result(
    open_panel: Callable[[str], SegmentPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    run: Path,
    attention_run: Path,
    home: Path,
):
    def result(model: Path) -> Result:
        labels = np.zeros((8, 8), np.uint8)
        found = Segmentation(
            model.name, labels, np.zeros((0, 8, 8)), Geometry.pixels(2), ("background", "lesion"), ()
        )
        layer = viewer.add_labels(labels.copy(), name=model.name)
        return Result(viewer.layers["breast"], layer, found, UsedModel(model, dims=2, channels=1))

    viewer.add_image(np.zeros((8, 8)), name="breast")
    panel, sets = open_panel("Segment"), home / "prosma-training-sets"
    first, second = result(run), result(attention_run)
    panel.results.add(first)
    panel.results.add(second)
    assert panel.training_set.folder.path == sets / attention_run.name
    panel.results.choose(first.labels)
    assert panel.training_set.folder.path == sets / run.name
    panel.model.set_path(attention_run)
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)
    assert panel.training_set.folder.path == sets / run.name
    panel.training_set.folder.set_path(home / "mine")
    panel.results.choose(second.labels)
    assert panel.training_set.folder.path == home / "mine"


def test_a_corrected_result_is_learned_from_with_nothing_typed(
    open_panel: Callable[[str], SegmentPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    home: Path,
    lesion_image: np.ndarray,
):
    panel = open_panel("Segment")
    panel.model.set_path(run)
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
    box = panel.training_set
    assert not box.add_button.isEnabled()
    press(box.fine_tune_button)
    assert "The training set is empty" in box.message.plain_text()
    viewer.add_image(np.stack([lesion_image] * 3, axis=-1), rgb=True, name="breast")
    press(panel.start_button)
    finish(panel)
    labels = viewer.layers["breast segmentation"]
    labels.data[:] = 0
    labels.data[20:40, 20:40] = 1
    press(box.add_button)
    qtbot.waitUntil(lambda: not box.job.is_running, timeout=SOON)
    assert box.message.plain_text() == "'breast' was added; the training set has 1 case"
    folder = home / "prosma-training-sets" / run.name
    assert box.folder.path == folder
    press(box.fine_tune_button)
    trainer = next(dock for dock in viewer.window.dock_widgets.values() if isinstance(dock, TrainPanel))
    qtbot.waitUntil(lambda: not trainer.settings.start_from.is_reading, timeout=SOON)
    qtbot.waitUntil(lambda: trainer.source.data_set is not None, timeout=SOON)
    settings, data = trainer.planned_data()
    assert (settings["start_from"], settings["dims"]) == (run, 2)
    opened = data.begin()
    assert opened.settings["data"] == folder
    assert opened.class_names == ("background", "lesion")
    np.testing.assert_array_equal(opened.cases[0].read_label(), labels.data)
    config = TrainConfig.of(**settings | {"epochs": 1, "steps_per_epoch": 1, "batch": 1})
    *_, last = train(config.model_copy(update=opened.settings), opened.cases, opened.class_names)
    assert last.result.epochs == 1


def test_a_folder_of_own_images_is_fine_tuned_on_with_two_clicks(
    open_panel: Callable[[str], SegmentPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    panel = open_panel("Segment")
    panel.model.set_path(run)
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(folder))
    press(panel.training_set.own_button)
    trainer = next(dock for dock in viewer.window.dock_widgets.values() if isinstance(dock, TrainPanel))
    qtbot.waitUntil(lambda: trainer.source.data_set is not None, timeout=SOON)
    qtbot.waitUntil(lambda: not trainer.settings.start_from.is_reading, timeout=SOON)
    settings, _ = trainer.planned_data()
    assert (settings["start_from"], trainer.source.folder.path) == (run, folder)
    trainer.settings.limit_unit.setCurrentText("epochs")
    trainer.settings.limit.setValue(1)
    press(trainer.start_button)
    finish(trainer)
    assert "Finished after 1 epoch" in trainer.status.plain_text()
    assert trainer.outcome._baseline
