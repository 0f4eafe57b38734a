"""Segmenting from the panel, by clicks, on a real viewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import nibabel
import numpy as np
import PIL.Image
import pytest
from napari.layers import Labels
from napari.utils.notifications import notification_manager
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractButton, QFileDialog

from napari_prosma.plugin.segment.panel import FOR_ITK_SNAP, SegmentPanel
from napari_prosma.plugin.shared.layers import show_some

Press = Callable[[QAbstractButton], None]
Finish = Callable[[SegmentPanel], None]
SOON = 30_000


@pytest.fixture
def panel(open_panel: Callable[[str], SegmentPanel]) -> SegmentPanel:
    return open_panel("Segment")


def choose(panel: SegmentPanel, qtbot: QtBot, path: Path) -> None:
    panel.model.set_path(path)
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)


def test_a_model_is_described(panel: SegmentPanel, qtbot: QtBot, run: Path):
    choose(panel, qtbot, run)
    told = panel.model.text.plain_text()
    assert "Finds lesion in 2 of 2 cases" in told
    assert "2D, gray; prosma-unet" in told
    assert "gate: prosma; trained for 1 epoch" in told
    assert "Measured on only 2 cases, which says little." in told


def test_what_is_no_model_is_told_in_red(panel: SegmentPanel, qtbot: QtBot, run: Path, tmp_path: Path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((run / "best.safetensors").read_bytes()[:5000])
    choose(panel, qtbot, cut)
    assert panel.model.text.is_error
    assert str(cut) in panel.model.text.plain_text()
    choose(panel, qtbot, run)
    assert not panel.model.text.is_error


def test_the_newest_run_is_offered(open_panel: Callable[[str], SegmentPanel], home: Path, run: Path):
    folder = home / "prosma-runs" / "today"
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    assert open_panel("Segment").model.path == folder


def test_closing_napari_while_a_model_is_read(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, run: Path
):
    panel.model.set_path(run)
    assert panel.model.is_reading
    viewer.close()
    qtbot.wait(300)


def test_a_picture_is_segmented_at_its_place(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    image = viewer.add_image(
        lesion_image, name="breast", scale=(0.2, 0.3), translate=(4, 5), units=("mm",) * 2
    )
    press(panel.probabilities)
    press(panel.start_button)
    finish(panel)
    labels, sure = viewer.layers["breast segmentation"], viewer.layers["breast probability of lesion"]
    for layer in (labels, sure):
        assert layer.data.shape == lesion_image.shape
        np.testing.assert_allclose(layer.scale, image.scale)
        np.testing.assert_allclose(layer.translate, image.translate)
        assert layer.units == image.units
    np.testing.assert_array_equal(labels.data == 1, sure.data > 0.5)
    assert tuple(sure.contrast_limits) == (0, 1)
    assert labels.metadata["class_names"] == ("background", "lesion")
    assert "Found in breast, in mm²: lesion" in panel.status.plain_text()


def test_a_stack_in_colour_is_segmented_slice_by_slice(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    stack = np.stack([np.stack([lesion_image] * 3, axis=-1)] * 3)
    viewer.add_image(stack, rgb=True, name="clip", scale=(5, 0.2, 0.2))
    press(panel.start_button)
    finish(panel)
    result = viewer.layers["clip segmentation"]
    assert result.data.shape == stack.shape[:3]
    np.testing.assert_allclose(result.scale, (5, 0.2, 0.2))
    np.testing.assert_array_equal(result.data[0], result.data[2])


def test_the_result_is_saved_with_corrections_over_its_source(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    affine = np.array([[0, -1.5, 0, 3], [2, 0, 0, -4], [0, 0, 3, 9], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).integers(0, 255, (20, 32, 3)).astype(np.int16)
    nibabel.Nifti1Image(voxels, affine).to_filename(tmp_path / "scan.nii.gz")
    viewer.open(str(tmp_path / "scan.nii.gz"), plugin="napari-prosma")
    choose(panel, qtbot, run)
    press(panel.start_button)
    finish(panel)
    result = viewer.layers["scan segmentation"]
    result.data[:] = 0
    result.data[0, 0, :5] = 1
    chosen = tmp_path / "out.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(chosen), ""))
    press(panel.save_button)
    finish(panel)
    stored = nibabel.load(chosen)
    assert stored.shape == voxels.shape
    assert np.array_equal(stored.affine, affine)
    assert np.asarray(stored.dataobj).sum() == 5
    assert panel.status.plain_text() == f"Saved as {chosen}"
    assert panel.save_button.isEnabled()


def test_label_descriptions_replace_no_file_unasked(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    tmp_path: Path,
    lesion_image: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    press(panel.start_button)
    finish(panel)
    asked: list[str] = []

    def refuses(_: object, question: str, *__: object, **___: object) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr("napari_prosma.plugin.segment.panel.agrees", refuses)
    (tmp_path / "scan.txt").write_text("notes")
    chosen = str(tmp_path / "scan.nii.gz")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (chosen, FOR_ITK_SNAP))
    press(panel.save_button)
    finish(panel)
    assert not asked
    assert (tmp_path / "scan.txt").read_text() == "notes"
    assert "lesion" in (tmp_path / "scan_labels.txt").read_text()
    (tmp_path / "scan_labels.txt").write_text("colours of mine")
    chosen = str(tmp_path / "scan_labels.nii.gz")  # as the shell calls it
    press(panel.save_button)
    assert asked == ["Replace 'scan_labels.txt'?"]
    assert (tmp_path / "scan_labels.txt").read_text() == "colours of mine"
    assert not Path(chosen).exists()


def test_saving_where_it_cannot_be_leaves_everything(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    tmp_path: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    press(panel.start_button)
    finish(panel)
    panel.save(tmp_path / "labels.jpg")
    finish(panel)
    assert panel.status.is_error
    assert not list(tmp_path.glob("*.jpg"))
    assert panel.save_button.isEnabled()
    assert "breast segmentation" in viewer.layers


def test_an_image_that_does_not_fit_leaves_the_layers_as_they_were(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish, run: Path
):
    choose(panel, qtbot, run)
    viewer.add_image(np.full((40, 40), np.nan), name="broken", contrast_limits=(0, 1))
    press(panel.start_button)
    finish(panel)
    assert [layer.name for layer in viewer.layers] == ["broken"]
    assert "'broken' cannot be segmented: the image holds" in panel.status.plain_text()
    assert notification_manager.records[-1].message == panel.status.plain_text()
    assert panel.start_button.isEnabled()
    assert not panel.save_button.isEnabled()


def test_start_says_what_is_missing(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, run: Path
):
    for model in (None, run):  # a model of the package is offered before one is chosen
        if model is not None:
            choose(panel, qtbot, model)
        press(panel.start_button)
        assert "First open an image" in panel.status.plain_text()


def test_stop_ends_a_long_segmentation(
    panel: SegmentPanel, viewer: napari.Viewer, qtbot: QtBot, press: Press, finish: Finish, run: Path
):
    choose(panel, qtbot, run)
    viewer.add_image(np.random.default_rng(0).integers(0, 255, (1000, 64, 64), np.uint8), name="long")
    press(panel.start_button)
    qtbot.waitUntil(lambda: panel.progress_bar.value() > 0, timeout=SOON)
    press(panel.stop_button)
    qtbot.waitUntil(lambda: not panel.job.is_running, timeout=2_000)
    assert panel.status.plain_text() == "Stopped"
    assert [layer.name for layer in viewer.layers] == ["long"]


def names(panel: SegmentPanel) -> list[str]:
    return [panel.images.list.item(n).text() for n in range(panel.images.list.count())]


def test_layers_that_come_and_go_are_followed(panel: SegmentPanel, viewer: napari.Viewer):
    first = viewer.add_image(np.zeros((8, 8)), name="first")
    viewer.add_labels(np.zeros((8, 8), int))
    viewer.add_image(np.zeros((8, 8)), name="preview", metadata={"preview": True})
    assert panel.images.ticked() == [first]
    second = viewer.add_image(np.zeros((8, 8)), name="second")
    assert panel.images.ticked() == [second]
    assert names(panel) == ["first", "second"]
    first.name = "renamed"
    assert names(panel) == ["renamed", "second"]
    viewer.layers.remove(second)
    assert panel.images.ticked() == [first]


def test_what_is_painted_while_the_result_is_written_is_not_taken_for_saved(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    tmp_path: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    press(panel.start_button)
    finish(panel)
    labels = viewer.layers["breast segmentation"]
    labels.selected_label, labels.brush_size = 1, 3
    labels.paint((5, 5), 1 - int(labels.data[5, 5]))
    panel.save(tmp_path / "first.png")
    finish(panel)
    assert panel.unsaved.layers() == []
    panel.save(tmp_path / "second.png")
    labels.paint((20, 20), 1 - int(labels.data[20, 20]))
    finish(panel)
    assert panel.unsaved.layers() == [labels]


def test_a_picture_is_offered_as_a_picture_beside_its_image(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    choose(panel, qtbot, run)
    viewer.open(str(folder / "images" / "0.png"))
    press(panel.start_button)
    finish(panel)
    asked: list[tuple[str, str]] = []

    def choose_white(_: object, title: str, start: str, kinds: str) -> tuple[str, str]:
        asked.append((start, kinds))
        return str(tmp_path / "out.png"), kinds.split(";;")[0]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose_white)
    press(panel.save_button)
    finish(panel)
    ((start, kinds),) = asked
    assert start == str(folder / "images" / "0_segmentation.png")
    assert kinds.startswith("PNG, 255 for the structure (*.png);;PNG in colours")
    assert np.unique(np.asarray(PIL.Image.open(tmp_path / "out.png"))).tolist() in ([0], [0, 255], [255])


def test_a_result_that_is_removed_while_it_comes_in_leaves_the_earlier_one(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    press(panel.start_button)
    finish(panel)
    earlier = panel.result
    assert earlier is not None
    panel.uncertainty.setChecked(True)
    viewer.layers.events.inserted.connect(
        lambda event: QTimer.singleShot(
            0, lambda: viewer.layers.remove(event.value) if isinstance(event.value, Labels) else None
        )
    )
    press(panel.start_button)
    finish(panel)
    assert [layer.name for layer in viewer.layers] == ["breast", "breast segmentation"]
    assert panel.result is earlier
    assert "its result was removed" in panel.status.plain_text()


def test_a_result_is_in_the_hand_with_its_tools(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append((event.value.visible, event.value.name)))
    press(panel.start_button)
    finish(panel)
    labels = viewer.layers["breast segmentation"]
    assert seen == [(False, labels.name)], "what it takes to draw it comes in a later turn"
    assert labels.visible
    assert viewer.layers.selection.active is labels
    new = napari.layers.Labels(np.zeros((2, 2), int))
    assert {k for k, tool in labels._overlays.items() if tool.visible} == {
        k for k, tool in new._overlays.items() if tool.visible
    }


def test_segmenting_again_replaces_what_no_hand_has_changed(
    panel: SegmentPanel,
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    lesion_image: np.ndarray,
):
    choose(panel, qtbot, run)
    viewer.add_image(lesion_image, name="breast")
    press(panel.uncertainty)
    for _ in range(2):
        press(panel.start_button)
        finish(panel)
    names = ["breast", "breast uncertainty", "breast segmentation"]
    assert [layer.name for layer in viewer.layers] == names
    viewer.layers["breast segmentation"].paint((3, 3), 1)
    press(panel.start_button)
    finish(panel)
    assert len(viewer.layers) == 5, "what was painted stays"


def test_the_first_view_of_a_volume_shows_what_was_found(viewer: napari.Viewer):
    data = np.zeros((9, 8, 8), np.uint8)
    data[6, 2:6, 2:6] = data[7, 3, 3] = 1
    layer = viewer.add_labels(data, scale=(4, 1, 1), translate=(10, 0, 0))
    viewer.dims.set_current_step(0, 1)
    show_some(viewer, layer)
    assert viewer.dims.current_step[0] == 6
    viewer.dims.set_current_step(0, 7)
    show_some(viewer, layer)
    assert viewer.dims.current_step[0] == 7, "a slice that shows something stays"
