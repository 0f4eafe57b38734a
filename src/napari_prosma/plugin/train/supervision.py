"""What the labels are like: all there and right, few, or doubtful; and what learning does about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import napari
from napari.layers import Image as ImageLayer
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.data.labels import BINARY
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.events import Event, Finished, Started
from napari_prosma.plugin.shared.choices import ALIGNMENTS, DIVERGENCES, OBJECTIVES
from napari_prosma.plugin.shared.choosers import PathField
from napari_prosma.plugin.shared.fields import SizesField, combo, folded_form, group, number, whole
from napari_prosma.plugin.shared.job import Ending
from napari_prosma.plugin.shared.layer_ticks import LayerTicks
from napari_prosma.plugin.shared.layers import spatial_shape
from napari_prosma.plugin.shared.newest import NewestJob
from napari_prosma.plugin.shared.panel import Message

FEW, DOUBTFUL = "dim", "dale"
MOST = 1_000_000
_RADIUS, _RELATIVE_RADIUS = 0.05, 0.5
"""What ``rho`` usually is, of SAM and of ASAM, where it is relative to the weights."""


class Supervision(QWidget):
    """One choice, and below it only what the choice asks for.

    Signals
    -------
    changed()
        Something was set.
    look_first()
        The list of doubted labels of an earlier run shall be opened.
    """

    changed = Signal()
    look_first = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self._image: ImageLayer | None = None
        self._labelled: DataSet | None = None
        self._found: DataSet | None = None
        self._from_layers = False
        self.scan = NewestJob(self)
        self.scan.happened.connect(self._scanned)
        self.scan.ended.connect(self._scan_ended)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        box, self._form = group("Labels")
        layout.addWidget(box)
        self.objective = combo(
            OBJECTIVES, "supervised", "How much the labels tell, and whether all are right"
        )
        self.sentence = Message()
        self.folder = PathField("Choose the folder of images without labels", "images without labels")
        self.folder.line.setToolTip(
            "A folder of further images of the same kind, such as all that nobody has labelled, or those of "
            "another scanner that the model shall work on. Labels in it are not read"
        )
        self.layers = LayerTicks(viewer, self._is_alike)
        self.layers.list.setToolTip("Tick the images to learn from without labels")
        self.found = Message()
        self.look_button = QPushButton("Labels that a run doubted…")
        self.look_button.setToolTip("The list of suspicious labels of an earlier run: choose its folder")
        self.look_button.clicked.connect(self.look_first)
        self._form.addRow(self.objective)
        self._form.addRow(self.sentence)
        self._form.addRow("Unlabelled", self.folder)
        self._form.addRow("Unlabelled layers", self.layers)
        self._form.addRow(self.found)
        self.dim = _dim_fields()
        self.dim_fold = _folded(self.dim, _DIM_LABELS)
        self.dale = _dale_fields()
        self.dale_fold = _folded(self.dale, _DALE_LABELS)
        for row in (self.dim_fold, self.dale_fold, self.look_button):
            self._form.addRow(row)
        self._show()
        self.objective.currentIndexChanged.connect(self._show)
        self.folder.chosen.connect(self._look_at)
        self.folder.line.textChanged.connect(self._folder_typed)
        self.layers.changed.connect(self._tell_found)
        self._tell_changes()

    def values(self) -> dict[str, Any]:
        """What is chosen, as settings of ``TrainConfig``; ticked layers are told by :meth:`ticked`.

        Raises
        ------
        ConfigError
            Scales that are not understood.
        """
        objective = self.objective.currentData()
        settings: dict[str, Any] = {"objective": objective}
        if objective == FEW:
            settings["dim"] = {name: _value(field) for name, field in self.dim.items()}
            if not self._from_layers and self.folder.path is not None:
                settings["unlabelled"] = self.folder.path.resolve()
        elif objective == DOUBTFUL:
            settings["dale"] = {name: _value(field) for name, field in self.dale.items()}
        return settings

    def ticked(self) -> tuple[ImageLayer, ...]:
        """Image layers to learn from without labels."""
        few = self.objective.currentData() == FEW and self._from_layers
        return tuple(self.layers.ticked()) if few else ()

    def learn_from(self, from_layers: bool, image: ImageLayer | None, labelled: DataSet | None) -> None:
        """What is labelled: this image layer, or this data set where it is known."""
        was, self._from_layers = self._from_layers, from_layers
        self._image, self._labelled = image, labelled
        self.layers.leave_out(image)
        if was != from_layers:
            self._show()
        else:
            self._tell_found()

    def close_down(self) -> None:
        """Stop what runs, and let go of the viewer."""
        self.scan.close()
        self.layers.let_go()

    def _is_alike(self, layer: ImageLayer) -> bool:
        return self._image is None or len(spatial_shape(layer)) == len(spatial_shape(self._image))

    def _show(self) -> None:
        """Only the rows that the choice asks for."""
        objective = self.objective.currentData()
        self.sentence.tell("" if objective == "supervised" else OBJECTIVES[objective].meaning)
        self._form.setRowVisible(self.folder, objective == FEW and not self._from_layers)
        self._form.setRowVisible(self.layers, objective == FEW and self._from_layers)
        self._form.setRowVisible(self.look_button, objective == DOUBTFUL)
        self._form.setRowVisible(self.dim_fold, objective == FEW)
        self._form.setRowVisible(self.dale_fold, objective == DOUBTFUL)
        self._tell_found()

    def _tell_found(self) -> None:
        """How many unlabelled images there are, and whether the network can take them."""
        if self.objective.currentData() != FEW:
            self.found.tell("")
        elif self._from_layers:
            self.found.tell(_counted(len(self.layers.ticked())))
        elif self.folder.path is None:
            self.found.tell(_counted(0))
        elif self._found is not None:
            wrong = _misfit(self._found, self._labelled)
            if wrong:
                self.found.tell_error(wrong)
            else:
                self.found.tell(_counted(len(self._found.cases)))

    def _folder_typed(self) -> None:
        self._found = None
        self._tell_found()

    def _look_at(self, folder: Path) -> None:
        self._found = None
        looking = partial(_looking, folder)
        self.scan.ask(partial(self.scan.start, "ProSMA: looking at unlabelled images", looking))

    def _scanned(self, event: Event) -> None:
        if isinstance(event, Started):
            self.found.tell(event.message)
        elif isinstance(event, Finished) and event.result.folder == self.folder.path:
            self._found = event.result
            self._tell_found()

    def _scan_ended(self, ending: Ending) -> None:
        if ending.error is not None:
            self.found.tell_error(str(ending.error))

    def _tell_changes(self) -> None:
        def tell(*_: object) -> None:
            self.changed.emit()

        for field in (self.objective, *self.dim.values(), *self.dale.values()):
            if isinstance(field, QComboBox):
                field.currentIndexChanged.connect(tell)
            elif isinstance(field, QCheckBox):
                field.toggled.connect(tell)
            elif isinstance(field, SizesField):
                field.textChanged.connect(tell)
            else:
                assert isinstance(field, (QSpinBox, QDoubleSpinBox))
                field.valueChanged.connect(tell)
        self.folder.line.textChanged.connect(tell)
        self.layers.changed.connect(tell)


# ---- advanced: the fields by their name in ``DimOptions`` and ``DaleOptions`` ---------------------------


_DIM_LABELS = {
    "divergence": "Divergence",
    "beta": "Its weight beta",
    "rho": "Radius rho",
    "eta": "ASAM's eta",
    "tau": "Teacher is sure from",
    "mu_max": "Teacher's weight",
    "ramp": "reached after",
    "ema": "Teacher's decay",
    "temperature": "Temperature",
}
_DALE_LABELS = {
    "warm_up_epochs": "Warm-up",
    "every": "Length of a phase",
    "k": "Soft threshold k",
    "gamma": "Temperature",
    "floor": "Least confidence",
    "align": "Alignment",
    "beta": "Its weight beta",
    "scales": "Scales",
    "band": "Band",
    "decay": "Averaging of losses",
    "stats_decay": "Averaging of features",
    "least_clear": "Least share clear",
    "least_cases": "Least cases",
    "least_pixels": "Least pixels",
}


def _dim_fields() -> dict[str, QWidget]:
    adaptive = _box(
        "adaptive (ASAM)",
        "Measure the radius relative to the weights; the usual one is then ten times as large, 0.5",
    )
    gates = _box("move the gates' thresholds, too", "Whether looking uphill moves theta of the gates as well")
    eta = number(0, 100, 0.01, 4, 0.01, "Added to the size of every weight by ASAM")
    eta.setEnabled(False)
    adaptive.toggled.connect(eta.setEnabled)
    rho = number(
        0,
        10,
        _RADIUS,
        3,
        0.01,
        "How far each step looks uphill before it goes down (SAM): flat minima hold on other scanners, "
        "too; 0 = plain steps",
    )

    def measure(relative: bool) -> None:
        usual, other = (_RADIUS, _RELATIVE_RADIUS) if relative else (_RELATIVE_RADIUS, _RADIUS)
        if rho.value() == usual:
            rho.setValue(other)

    adaptive.toggled.connect(measure)
    return {
        "divergence": combo(
            DIVERGENCES,
            "js",
            "How the difference between the features of labelled and of unlabelled images is measured, which "
            "is made small",
            named=True,
        ),
        "beta": number(0, 1000, 0.1, 3, 0.05, "How much that difference counts; 0 = not at all"),
        "rho": rho,
        "adaptive": adaptive,
        "eta": eta,
        "tau": number(
            0.5, 1, 0.95, 3, 0.01, "Only pixels where the teacher is at least so sure are learned from"
        ),
        "mu_max": number(
            0, 1000, 1, 2, 0.1, "How much what the teacher finds counts beside the labels; 0 = no teacher"
        ),
        "ramp": number(0, MOST, 10, 1, 1, "Epochs until the teacher has its full weight"),
        "ema": number(
            0,
            0.9999,
            0.99,
            4,
            0.001,
            "The teacher is a moving average of the network: its decay per step",
        ),
        "temperature": number(0.001, 1000, 1, 3, 0.1, "Of the softmax over the features' channels"),
        "perturb_gates": gates,
    }


def _dale_fields() -> dict[str, QWidget]:
    pixel = _box(
        "confidence of every pixel near the outline",
        "Doubt pixels around the labels' outlines, not whole labels",
    )
    scales = SizesField("scales", int, "Features are compared on grids so many times coarser, such as 1, 2")
    scales.setText("1")
    scales.setPlaceholderText("1")
    align = combo(ALIGNMENTS, "w2", "How the features of doubted cases are brought to those of clear ones")
    weight = number(0, 1000, 0.01, 4, 0.01, "How much this counts; 0 = not at all")
    align.currentIndexChanged.connect(lambda: weight.setEnabled(align.currentData() != "none"))
    return {
        "warm_up_epochs": _epochs(10, "Epochs before any label is doubted"),
        "every": _epochs(
            5,
            "So long it learns from the clear cases alone, then from all, in turns; all labels are "
            "looked at anew before each phase",
        ),
        "k": number(
            0,
            100,
            0.5,
            2,
            0.1,
            "A label is doubted from so many standard deviations of its error above the mean of all",
        ),
        "gamma": number(
            0.001,
            1000,
            2,
            3,
            0.1,
            "The confidence is exp(-e / this): the smaller, the less a doubted label counts",
        ),
        "floor": number(0, 1, 0.05, 3, 0.01, "No label counts less than this"),
        "align": align,
        "beta": weight,
        "scales": scales,
        "pixel": pixel,
        "band": whole(1, 1000, 5, "Half the width of the band around an outline", suffix=" px"),
        "decay": number(0, 0.9999, 0.9, 4, 0.01, "Decay of the moving average of each case's loss"),
        "stats_decay": number(
            0, 0.9999, 0.99, 4, 0.01, "Decay of the moving average of the clear cases' features"
        ),
        "least_clear": number(0.01, 1, 0.5, 2, 0.05, "At least this share of the cases is taken as clear"),
        "least_cases": whole(
            2, MOST, 20, "With fewer training cases pixels near outlines are doubted, and no whole label"
        ),
        "least_pixels": whole(2, MOST, 16, "A class with fewer pixels in a batch is not aligned"),
    }


def _folded(fields: Mapping[str, QWidget], labels: Mapping[str, str]) -> QWidget:
    folded, form = folded_form("Advanced")
    for name, field in fields.items():
        if name in labels:
            form.addRow(labels[name], field)
        else:
            form.addRow(field)
    return folded


def _box(text: str, tip: str) -> QCheckBox:
    box = QCheckBox(text)
    box.setToolTip(tip)
    return box


def _epochs(value: int, tip: str) -> QSpinBox:
    return whole(1, MOST, value, tip, suffix=" epochs")


def _value(field: QWidget) -> Any:
    """What a field says.

    Raises
    ------
    ConfigError
        Sizes that are not understood.
    """
    if isinstance(field, QComboBox):
        return field.currentData()
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, SizesField):
        return field.sizes() or (1,)
    assert isinstance(field, (QSpinBox, QDoubleSpinBox))
    return field.value()


# ---- the unlabelled images --------------------------------------------------------------------------------


def _looking(folder: Path) -> Iterator[Event]:
    yield Started(0, f"Looking at '{folder.name}'")
    yield Finished(find_cases(folder, require_labels=False, labels=BINARY))  # labels are not read


def _counted(number: int) -> str:
    if not number:
        return "No images without labels chosen yet: only the labelled ones are learned from"
    return f"{number} image{'s' * (number != 1)} to learn from without labels"


def _misfit(found: DataSet, labelled: DataSet | None) -> str:
    """Why the network of the labelled images cannot take these; empty = it can, as far as is known."""
    if labelled is None or (found.dims, found.channels) == (labelled.dims, labelled.channels):
        return ""
    of_found, of_labelled = (
        f"{data.dims}D with {data.channels} channel{'s' * (data.channels != 1)}" for data in (found, labelled)
    )
    return (
        f"the images in '{found.folder}' are {of_found}, but the labelled ones {of_labelled}; choose "
        f"images like those"
    )
