"""DICOM in the panels: what is offered for a series, and what is said of the patient's identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pydicom
import pytest
from clinic_files import pixels, save_stack
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QAbstractButton, QApplication, QFileDialog, QMessageBox

from napari_prosma.data.readers import read_label
from napari_prosma.plugin.contributions.reader import read_layers
from napari_prosma.plugin.contributions.writer import write_labels_layer
from napari_prosma.plugin.segment.panel import AS_DICOM, AS_NIFTI, SegmentPanel
from napari_prosma.plugin.shared.layers import add_layer

pytest.importorskip("highdicom")
Press = Callable[[QAbstractButton], None]
Finish = Callable[[SegmentPanel], None]
SOON = 30_000


@pytest.fixture
def segmented(
    open_panel: Callable[[str], SegmentPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Finish,
    run: Path,
    tmp_path: Path,
) -> SegmentPanel:
    """A coronal series was opened and segmented."""
    panel = open_panel("Segment")
    (layer,) = read_layers(str(save_stack(tmp_path / "scan", pixels((3, 32, 32)), "coronal")))
    add_layer(viewer, layer)
    panel.model.set_path(run)
    qtbot.waitUntil(lambda: not panel.model.is_reading, timeout=SOON)
    press(panel.start_button)
    finish(panel)
    return panel


def answer(button: str) -> list[str]:
    """Press a button of the question that comes; its text."""
    asked: list[str] = []

    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        asked.append(box.text())
        next(one for one in box.buttons() if one.text() == button).click()

    QTimer.singleShot(200, press)
    return asked


def choose_file(monkeypatch: pytest.MonkeyPatch, path: Path, kind: str) -> list[str]:
    offered: list[str] = []

    def chosen(*asked: object) -> tuple[str, str]:
        offered.append(str(asked[3]))
        return str(path), kind

    monkeypatch.setattr(QFileDialog, "getSaveFileName", chosen)
    return offered


def test_a_corrected_result_is_saved_as_dicom_after_the_identity_was_told(
    segmented: SegmentPanel, press: Press, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert segmented.result is not None
    labels = segmented.result.labels
    labels.data_setitem(np.nonzero(np.ones_like(labels.data)), 1)
    offered = choose_file(monkeypatch, tmp_path / "a", "DICOM SEG (*.seg.dcm)")
    asked = answer(AS_DICOM)
    press(segmented.save_button)
    finish(segmented)
    assert "DICOM SEG" in offered[0]
    assert "identity of the patient" in asked[0]
    data = pydicom.dcmread(tmp_path / "a.seg.dcm")
    assert data.pixel_array.all()
    assert data.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_nifti_is_offered_instead(
    segmented: SegmentPanel, press: Press, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    choose_file(monkeypatch, tmp_path / "a.seg.dcm", "")
    answer(AS_NIFTI)
    press(segmented.save_button)
    finish(segmented)
    assert segmented.result is not None
    assert np.array_equal(read_label(tmp_path / "a.nii.gz")[0], segmented.result.labels.data)
    choose_file(monkeypatch, tmp_path / "b.seg.dcm", "")
    answer("Cancel")
    press(segmented.save_button)
    assert {path.name for path in tmp_path.glob("[ab].*")} == {"a.nii.gz"}


def test_napari_saves_a_result_of_a_series_as_dicom(segmented: SegmentPanel, tmp_path: Path):
    assert segmented.result is not None
    data, meta, _ = segmented.result.labels.as_layer_data_tuple()
    (written,) = write_labels_layer(str(tmp_path / "a.seg.dcm"), data, meta)
    assert pydicom.dcmread(written).SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_dicom_is_not_offered_for_what_is_none(
    segmented: SegmentPanel,
    viewer: napari.Viewer,
    press: Press,
    finish: Finish,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    viewer.layers.clear()
    viewer.add_image(pixels((32, 32)).astype(np.float32), name="a")
    press(segmented.start_button)
    finish(segmented)
    offered = choose_file(monkeypatch, tmp_path / "a.png", "")
    press(segmented.save_button)
    finish(segmented)
    assert "DICOM" not in offered[0]
