"""``CleaningBox``: a result is cleaned class by class, and its labels layer follows the hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QGroupBox, QLineEdit, QWidget
from superqt import QLabeledDoubleSlider
from superqt.utils import signals_blocked

from napari_prosma.events import Event, Finished
from napari_prosma.plugin.segment.results import Cleaned, Result, shown_unit
from napari_prosma.plugin.shared.fields import in_a_row, number
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob

EVERY = "every class"
LEAST_THRESHOLD, MIDDLE = 0.01, 0.5
LARGEST = 1e6
"""Of a size or a radius that can be typed."""


class CleaningBox(QGroupBox):
    """What is done to the labels of a result after the network."""

    def __init__(self) -> None:
        super().__init__("Clean the result")
        self.setCheckable(True)
        self.setChecked(False)
        self.setToolTip("Untick for the labels as the model left them; what you painted stays in both cases")
        self._result: Result | None = None
        self._stale: list[Result] = []
        form = QFormLayout(self)
        form.setContentsMargins(6, 4, 6, 6)
        self.classes = QComboBox()
        self.classes.setToolTip("The class that the settings below apply to")
        self.by_threshold = QCheckBox("Threshold")
        self.by_threshold.setToolTip(
            "Accept everything that reaches this probability; unticked: as the model decides"
        )
        self.threshold = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.threshold.setRange(LEAST_THRESHOLD, 1)
        self.threshold.setDecimals(2)
        self.threshold.setValue(MIDDLE)
        self.threshold.setToolTip(
            "Least probability of the class: a lower value finds more, a higher one less"
        )
        for field in self.threshold.findChildren(QLineEdit):
            field.setToolTip(self.threshold.toolTip())
        self.smoothing = number(
            0, LARGEST, 0, 2, 0.5, "Bumps and notches smaller than this radius are smoothed away", least="off"
        )
        self.minimum_size = number(0, LARGEST, 0, 3, 1, "Smaller regions are removed", least="off")
        self.largest_only = QCheckBox("largest region only")
        self.largest_only.setToolTip("Removes all regions of the class except the largest")
        self.fill_holes = QCheckBox("fill holes")
        self.fill_holes.setToolTip("Background that the class encloses on all sides becomes the class")
        self.message = Message()
        self.job = NewestJob(self, finished=self._show_cleaned, failed=self.message.tell_error)
        boxes = QWidget()
        in_a_row(self.largest_only, self.fill_holes, owner=boxes)
        form.addRow("Class", self.classes)
        form.addRow(self.by_threshold, self.threshold)
        form.addRow("Smoothing", self.smoothing)
        form.addRow("Smallest region", self.minimum_size)
        form.addRow(boxes)
        form.addRow(self.message)
        self._form = form
        self.classes.currentIndexChanged.connect(self._show_class)
        self.toggled.connect(self._switched)
        self.by_threshold.toggled.connect(self._threshold_set)
        self.threshold.valueChanged.connect(self._threshold_set)
        self.smoothing.valueChanged.connect(partial(self._set, "smoothing"))
        self.minimum_size.valueChanged.connect(partial(self._set, "minimum_size"))
        self.largest_only.toggled.connect(partial(self._set, "largest_only"))
        self.fill_holes.toggled.connect(partial(self._set, "fill_holes"))
        self.show_result(None)

    def show_result(self, result: Result | None) -> None:
        """Offer the cleaning of this result, as it was left; of the same one again: with the class chosen."""
        chosen = self.classes.currentIndex() if result is self._result else 0
        self._result = result
        self.setEnabled(result is not None)
        self.message.tell("")
        with signals_blocked(self):
            self.setChecked(result is not None and result.is_cleaned)
        self._enable()
        if result is None:
            return
        from napari_prosma.segmentation.regions import element_size  # with scipy, as a result has loaded

        names = result.found.class_names[1:]
        with signals_blocked(self.classes):
            self.classes.clear()
            if len(names) > 1:
                self.classes.addItem(EVERY, range(1, len(names) + 1))
            for k, name in enumerate(names, 1):
                self.classes.addItem(name, (k,))
            self.classes.setCurrentIndex(max(0, chosen))
        self._form.setRowVisible(self.classes, len(names) > 1)
        geometry = result.found.geometry
        unit = {"pixel": "pixels"}.get(geometry.unit, geometry.unit)
        self.smoothing.setSuffix(f" {unit}")
        element, size_unit = element_size(geometry)
        self.minimum_size.setSuffix(f" {shown_unit(size_unit)}")
        self.minimum_size.setSingleStep(float(f"{10 * element:.1g}"))
        self._show_class()
        self._tell()

    def _chosen(self) -> tuple[int, ...]:
        return tuple(self.classes.currentData() or ())

    def _show_class(self) -> None:
        """The settings of the class that is chosen; of every class: those of the first."""
        if self._result is None or not self._chosen():
            return
        cleaning = self._result.cleaning(self._chosen()[0])
        fields = (
            *(self.by_threshold, self.threshold, self.smoothing, self.minimum_size),
            *(self.largest_only, self.fill_holes),
        )
        with ExitStack() as blocked:
            for field in fields:
                blocked.enter_context(signals_blocked(field))
            self.by_threshold.setChecked(cleaning.threshold is not None)
            self.threshold.setValue(cleaning.threshold if cleaning.threshold is not None else MIDDLE)
            self.smoothing.setValue(cleaning.smoothing)
            self.minimum_size.setValue(cleaning.minimum_size)
            self.largest_only.setChecked(cleaning.largest_only)
            self.fill_holes.setChecked(cleaning.fill_holes)
        self._enable()

    def _enable(self) -> None:
        has_probabilities = self._result is not None and self._result.probabilities is not None
        self.by_threshold.setEnabled(self.isChecked() and has_probabilities)
        self.threshold.setEnabled(self.isChecked() and has_probabilities and self.by_threshold.isChecked())

    def _threshold_set(self) -> None:
        self._enable()
        self._set("threshold", self.threshold.value() if self.by_threshold.isChecked() else None)

    def _set(self, setting: str, value: float | bool | None) -> None:
        if self._result is None:
            return
        for k in self._chosen():
            before = self._result.cleaning(k)
            self._result.cleanings[k] = replace(before, **{setting: value})  # type: ignore[arg-type]
        self._tell()
        self._clean(self._result)

    def _switched(self, on: bool) -> None:
        assert self._result is not None
        self._result.is_cleaned = on
        self._enable()
        self._tell()
        self._clean(self._result)

    def _tell(self) -> None:
        """The same for a shell, to be copied."""
        if self._result is None or not self.isChecked():
            self.message.tell("")
            return
        names = self._result.found.class_names
        asked = [self._result.cleaning(k) for k in range(1, len(names))]
        # With scipy and torch, which a result has loaded.
        from napari_prosma.segmentation.cleaning import EVERY_CLASS, cleaning_as_text
        from napari_prosma.training.lines import quoted

        texts = list(map(cleaning_as_text, names[1:], asked))
        if len(texts) > 1 and len(set(asked)) == 1:
            texts = [cleaning_as_text(EVERY_CLASS, asked[0])]

        options = quoted([word for text in texts if text for word in ("--clean", text)])
        self.message.tell(f"In a shell: prosma segment … {options}" if options else "")

    def _clean(self, result: Result) -> None:
        """One result after the other; of each the newest settings are read when its turn comes."""
        if result not in self._stale:
            self._stale.append(result)
        self.job.ask(self._begin, interrupt=False)

    def _begin(self) -> None:
        self.job.start("ProSMA: cleaning", partial(_cleaning, self._stale.pop(0)))
        if self._stale:
            self.job.ask(self._begin, interrupt=False)

    def _show_cleaned(self, done: tuple[Result, Cleaned]) -> None:
        result, made = done
        if not result.show(made):
            self._clean(result)


def _cleaning(result: Result) -> Iterator[Event]:
    from napari_prosma.segmentation.cleaning import Cleaning

    chosen = result.cleanings.copy() if result.is_cleaned else {}
    made = result.clean({k: cleaning for k, cleaning in chosen.items() if cleaning != Cleaning()})
    yield Finished((result, made))
