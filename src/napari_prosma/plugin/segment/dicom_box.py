"""What is asked before a result becomes a DICOM object: may it name the patient, and what do classes mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import QStringListModel, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QCompleter,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QLabel,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.data.formats import dicom_seg
from napari_prosma.data.formats.dicom_results import IDENTITY
from napari_prosma.errors import ConfigError
from napari_prosma.plugin.shared.message import Message

AS_DICOM, AS_NIFTI = "Save as DICOM", "Save as NIfTI instead"
_TIP = (
    "What the class is in SNOMED CT, so that other programs know it: type a part of the term, or any code as "
    "CODE^SCHEME^TEXT; empty = tissue"
)
_TALLEST = 240
"""Pixels: the fields of more classes are scrolled."""


class DicomBox(QDialog):
    """Asked before an object is saved; with ``segments`` each gets a field for its meaning.

    Parameters
    ----------
    segments : names of classes without the background
        Of a SEG; empty for contours, which have no meanings.
    known : class name -> meaning
        What was chosen before; a class that is called like a term means that.
    """

    def __init__(self, parent: QWidget, segments: Sequence[str], known: Mapping[str, str]) -> None:
        super().__init__(parent)
        self.setWindowTitle("Save result")
        self.as_nifti = False
        self.fields: dict[str, QComboBox] = {}
        self.message = Message()
        text = QLabel(f"{IDENTITY}.")
        text.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addWidget(text)
        if segments:
            layout.addWidget(self._meanings(segments, known))
        layout.addWidget(self.message)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.dicom_button = self.buttons.addButton(AS_DICOM, QDialogButtonBox.ButtonRole.AcceptRole)
        self.nifti_button = self.buttons.addButton(AS_NIFTI, QDialogButtonBox.ButtonRole.ActionRole)
        assert self.dicom_button is not None
        assert self.nifti_button is not None
        self.dicom_button.setDefault(True)
        self.nifti_button.clicked.connect(self._choose_nifti)
        self.buttons.accepted.connect(self._accept_dicom)
        self.buttons.rejected.connect(self.reject)
        layout.addWidget(self.buttons)

    @property
    def meanings(self) -> dict[str, str]:
        """Class name -> term, of those that have one."""
        texts = {name: field.currentText().strip() for name, field in self.fields.items()}
        return {name: text for name, text in texts.items() if text}

    def _meanings(self, segments: Sequence[str], known: Mapping[str, str]) -> QScrollArea:
        terms = dicom_seg.terms()
        model = QStringListModel(["", *terms], self)
        called = {term.casefold(): term for term in terms}
        inner = QWidget()
        form = QFormLayout(inner)
        for name in segments:
            field = QComboBox()
            field.setEditable(True)
            field.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
            field.setModel(model)
            field.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            field.setMinimumContentsLength(24)
            completer = QCompleter(model, field)
            completer.setFilterMode(Qt.MatchFlag.MatchContains)
            completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
            field.setCompleter(completer)
            field.setToolTip(_TIP)
            field.setAccessibleName(f"meaning of {name}")
            field.setCurrentText(known.get(name, called.get(name.replace("_", " ").casefold(), "")))
            self.fields[name] = field
            form.addRow(f"Meaning of {name}", field)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QScrollArea.Shape.NoFrame)
        area.setWidget(inner)
        area.setMinimumHeight(min(inner.sizeHint().height(), _TALLEST))
        return area

    def _choose_nifti(self) -> None:
        self.as_nifti = True
        self.accept()

    def _accept_dicom(self) -> None:
        try:
            for meaning in self.meanings.values():
                dicom_seg.coded(meaning)
        except ConfigError as error:
            self.message.tell_error(str(error))
        else:
            self.accept()
