"""DICOM in the panels: what is offered for a series, and what is said of the patient's identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pydicom
import pytest
from clinic_files import SECRET, judged, pixels, save_patients, save_stack
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QAbstractButton, QApplication, QDialogButtonBox, QFileDialog, QLabel

from napari_prosma.data.formats.dicom_labels import describe
from napari_prosma.data.formats.dicom_labels import read_label as read_objects
from napari_prosma.data.readers import read_label
from napari_prosma.data.writers import write_labels
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.contributions.reader import read_layers
from napari_prosma.plugin.contributions.series_chooser import SeriesChooser
from napari_prosma.plugin.contributions.writer import write_labels_layer
from napari_prosma.plugin.segment.dicom_box import AS_DICOM, AS_NIFTI, DicomBox
from napari_prosma.plugin.segment.panel import IN_DICOM, SegmentPanel, of_kind
from napari_prosma.plugin.shared.layers import SERIES, add_layer
from napari_prosma.plugin.train.panel import TrainPanel

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


def answer(button: str, *meanings: str) -> list[str]:
    """Give the class these meanings one by one, each with a press of the button; what the box says."""
    asked: list[str] = []

    def press() -> None:
        box = QApplication.activeModalWidget()
        assert isinstance(box, DicomBox)
        asked.append(" ".join(label.text() for label in box.findChildren(QLabel)))
        for text in meanings or [""]:
            for field in box.fields.values():
                field.setCurrentText(text)
            next(one for one in box.buttons.buttons() if one.text() == button).click()
            asked.append(box.message.plain_text())

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


def test_a_file_that_the_dialog_did_not_ask_about_is_replaced_only_if_the_user_agrees(
    segmented: SegmentPanel, press: Press, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    answers = iter((False, True, False))

    def agrees(_: object, question: str, *__: object, **___: object) -> bool:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("napari_prosma.plugin.segment.panel.agrees", agrees)
    (tmp_path / "a.nii.gz").write_text("corrected by hand")
    choose_file(monkeypatch, tmp_path / "a.seg.dcm", "")
    answer(AS_NIFTI)
    press(segmented.save_button)
    assert (tmp_path / "a.nii.gz").read_text() == "corrected by hand"
    answer(AS_NIFTI)
    press(segmented.save_button)
    finish(segmented)
    assert segmented.result is not None
    assert np.array_equal(read_label(tmp_path / "a.nii.gz")[0], segmented.result.labels.data)
    # The name that is suggested, and DICOM chosen as the kind.
    (tmp_path / "a.seg.dcm").write_text("another object")
    choose_file(monkeypatch, tmp_path / "a.nii.gz", "DICOM SEG (*.seg.dcm)")
    answer(AS_DICOM)
    press(segmented.save_button)
    assert (tmp_path / "a.seg.dcm").read_text() == "another object"
    answer(AS_NIFTI)  # about which the dialog did ask
    press(segmented.save_button)
    finish(segmented)
    assert asked == ["Replace 'a.nii.gz'?", "Replace 'a.nii.gz'?", "Replace 'a.seg.dcm'?"]
    assert {path.name for path in tmp_path.glob("a.*")} == {"a.nii.gz", "a.seg.dcm"}


@pytest.mark.parametrize(
    ("chosen", "as_seg", "as_contours"),
    [
        ("CT.nii.gz", "CT.seg.dcm", "CT.rtstruct.dcm"),
        ("Dr. No 1.5 mm", "Dr. No 1.5 mm.seg.dcm", "Dr. No 1.5 mm.rtstruct.dcm"),
        ("a.dcm", "a.dcm", "a.rtstruct.dcm"),
        ("a.rtstruct.dcm", "a.seg.dcm", "a.rtstruct.dcm"),
    ],
)
def test_the_chosen_kind_of_dicom_ends_the_name(chosen: str, as_seg: str, as_contours: str):
    named = [of_kind(Path("there") / chosen, kind) for kind in IN_DICOM]
    assert named == [Path("there") / as_seg, Path("there") / as_contours]


def test_what_a_class_means_is_chosen_from_a_list_and_kept_for_the_next_one(
    segmented: SegmentPanel, press: Press, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    choose_file(monkeypatch, tmp_path / "a.seg.dcm", "")
    asked = answer(AS_DICOM, "Livr", "liver")
    press(segmented.save_button)
    finish(segmented)
    assert "similar: Liver" in asked[1]
    (segment,) = pydicom.dcmread(tmp_path / "a.seg.dcm").SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert segmented.result is not None
    box = DicomBox(segmented, segmented.result.found.class_names[1:], segmented._meanings)
    assert set(box.meanings.values()) == {"liver"}
    assert DicomBox(segmented, ["portal_vein", "thing"], {}).meanings == {"portal_vein": "Portal vein"}
    field = box.fields[segmented.result.found.class_names[1]]
    field.completer().setCompletionPrefix("kidn")
    assert field.completer().completionCount() > 1
    assert not DicomBox(segmented, (), {}).fields


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


def test_a_study_opens_with_its_labels_by_name_and_colour(viewer: napari.Viewer, tmp_path: Path):
    save_patients(tmp_path / "pacs", ".rtstruct.dcm", 1)
    layers = [add_layer(viewer, layer) for layer in read_layers(str(tmp_path / "pacs"))]
    kinds = [type(layer).__name__ for layer in layers]
    assert sorted(kinds) == ["Image", "Image", "Labels"]
    labels = layers[kinds.index("Labels")]
    assert labels.metadata["class_names"] == ("background", "Liver", "Tumour")
    assert np.allclose(labels.colormap.map(1), [0, 194 / 255, 1, 1], atol=0.01)
    assert (labels.data == 2).sum() == 15
    alone = read_layers(str(tmp_path / "pacs" / "labels" / "0.rtstruct.dcm"))
    assert [kind for *_, kind in alone] == ["image", "labels"]


def test_segments_of_slicer_open_as_labels(viewer: napari.Viewer, tmp_path: Path):
    geometry = Geometry((3.0, 2.0, 1.0), (0.0,) * 3, "mm")
    write_labels(tmp_path / "a.seg.nrrd", np.eye(4, dtype=int)[None] * 2, geometry, ("background", "a", "b"))
    (layer,) = read_layers(str(tmp_path / "a.seg.nrrd"))
    labels = add_layer(viewer, layer)
    assert labels.metadata["class_names"] == ("background", "a", "b")
    assert (labels.data == 2).sum() == 4


def test_of_many_series_those_that_are_ticked_are_opened(viewer: napari.Viewer, tmp_path: Path, qtbot: QtBot):
    save_patients(tmp_path / "pacs", ".seg.dcm", 2)
    seen: list[list[str]] = []

    def answer_table() -> None:
        chooser = QApplication.activeModalWidget()
        assert isinstance(chooser, SeriesChooser)
        rows, columns = chooser.table.rowCount(), chooser.table.columnCount()
        seen.extend([chooser.table.item(r, c).text() for c in range(columns)] for r in range(rows))
        assert len(chooser.ticked()) == 2  # those with labels
        chooser.table.item(chooser.ticked()[0], 0).setCheckState(Qt.CheckState.Unchecked)
        chooser.buttons.button(QDialogButtonBox.StandardButton.Open).click()

    QTimer.singleShot(300, answer_table)
    layers = read_layers(str(tmp_path / "pacs"))
    assert [kind for *_, kind in layers] == ["image", "labels"]
    assert len(seen) == 4
    assert any("DICOM SEG: " in row[-1] for row in seen)
    assert not any(SECRET in cell for row in seen for cell in row)


def test_contours_are_learned_from_in_the_panel_and_go_back_as_an_object(
    panel: TrainPanel,
    open_panel: Callable[[str], SegmentPanel],
    viewer: napari.Viewer,
    qtbot: QtBot,
    press: Press,
    finish: Callable[..., None],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    save_patients(tmp_path / "pacs", ".rtstruct.dcm", 6, (4, 32, 32))
    panel.source.folder.line.setText(str(tmp_path / "pacs"))
    panel.source.folder.line.editingFinished.emit()
    qtbot.waitUntil(lambda: panel.source.data_set is not None, timeout=SOON)
    data = panel.source.data_set
    assert data is not None
    assert data.class_names == ("background", "Liver", "Tumour")
    table = panel.source.class_table
    assert [table.table.item(row, 1).text() for row in range(3)] == ["background", "Liver", "Tumour"]
    assert not table.overlap.isHidden()
    press(panel.start_button)
    finish(panel)
    (model,) = home.rglob("best.safetensors")

    (layer,) = read_layers(str(tmp_path / "pacs" / "p3" / "ct"))
    image = add_layer(viewer, layer)
    segment = open_panel("Segment")
    segment.model.set_path(model)
    qtbot.waitUntil(lambda: not segment.model.is_reading, timeout=SOON)
    press(segment.start_button)
    finish(segment)
    assert segment.result is not None
    labels = segment.result.labels
    labels.data_setitem(np.nonzero(np.ones_like(labels.data)), 0)
    labels.data_setitem((np.full(9, 1), *np.nonzero(np.ones((3, 3)))), 2)
    choose_file(monkeypatch, tmp_path / "back.seg.dcm", "")
    answer(AS_DICOM)
    press(segment.save_button)
    finish(segment)
    assert judged(tmp_path / "back.seg.dcm") == []
    one, series = describe(tmp_path / "back.seg.dcm"), image.metadata[SERIES]
    back, _ = read_objects([one], series, {"liver": 1, "tumour": 2})
    assert np.array_equal(back, labels.data)
