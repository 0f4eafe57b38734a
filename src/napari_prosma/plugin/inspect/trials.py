"""``TrialsPart``: the faithfulness tests, a button each, with a plot and a sentence as outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QImage, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QDialog,
    QLabel,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.texts import write_rows
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Started, result_of
from napari_prosma.plugin.inspect.looking import InspectionResult
from napari_prosma.plugin.shared.asking import save_as
from napari_prosma.plugin.shared.fields import combo, in_a_row, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.message import Message
from napari_prosma.settings import Choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
WINDOW = QSize(1060, 760)
SCROLL_BAR = 48
SAVED_AS = "Table (*.csv);;Picture (*.png);;Vector picture (*.svg)"
TRIALS = {
    "leave_one_out": (
        "Leave one out",
        "What is the selection worth? Set psi, c, both or the whole skip to its mean, which selects nothing, "
        "and measure the Dice lost. The mean of c is one value for all channels: constants per channel are "
        "lost with it, too",
    ),
    "deletion_curve": (
        "Deletion curve",
        "Is psi faithful? Replace positions in the order of psi, lowest first, and in the order of controls: "
        "psi must do better than the best of them",
    ),
    "threshold_sweep": (
        "Threshold sweep",
        "Do the thresholds matter? Multiply all of them by 0 to 4 and measure zeros in z and Dice",
    ),
    "sanity_check": (
        "Sanity check",
        "Does psi depend on what was learned? Randomise the decoder's weights and compare the masks, also "
        "with those of another training",
    ),
    "noise_test": (
        "Noise test",
        "Is the model robust? Add rising noise and measure masks, zeros in z and Dice, also for models side "
        "by side",
    ),
}
"""Test (a key of ``faithfulness.TESTS``): what its button says, and what it does."""
NOISE = {
    "auto": Choice(
        "by modality", "The noise that fits the model: speckle, Rician, Hounsfield units or Gaussian"
    ),
    "speckle": Choice(
        "speckle", "For ultrasound: grows with the values of the image and is as coarse as its grain"
    ),
    "rician": Choice("Rician", "For MR: as in magnitude images"),
    "hu": Choice("Hounsfield units", "For CT: added to its values"),
    "gaussian": Choice("Gaussian", "For other images: the same everywhere, as from a detector"),
}
"""Kind of ``faithfulness.noise_test``: its name, and what it is."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A test's outcome, drawn in the thread that made it."""

    test: str
    title: str
    picture: np.ndarray  # (height, width, 4) uint8
    figure: Figure  # for saving
    rows: tuple[Mapping[str, str | float], ...]
    finding: str = ""  # what it says, in plain words

    @property
    def short_title(self) -> str:
        """For a tab."""
        return TRIALS[self.test][0] if self.test in TRIALS else self.title


class TrialsPart(QWidget):
    """A button per test.

    Signals
    -------
    wanted(str)
        A key of ``TRIALS``.
    """

    wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.buttons: dict[str, QPushButton] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 0, 0, 0)
        for test, (words, tip) in TRIALS.items():
            button = QPushButton(words)
            button.setToolTip(tip)
            button.clicked.connect(partial(self.wanted.emit, test))
            self.buttons[test] = button
            if test != "noise_test":
                layout.addWidget(button)
        self.noise_box = combo(NOISE, "auto", "Kind of noise")
        row = in_a_row(self.buttons["noise_test"], self.noise_box, wide=self.buttons["noise_test"])
        layout.addLayout(row)

    @property
    def noise(self) -> str:
        """Kind of noise, as ``noise_test`` knows it."""
        return str(self.noise_box.currentData())


class OutcomeWindow(QDialog):
    """The outcomes so far, a tab each; the newest is in front."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Faithfulness tests")
        self.tabs = QTabWidget()
        self.tabs.setTabsClosable(True)
        self.tabs.tabCloseRequested.connect(self._close_tab)
        stack(self, self.tabs, margins=None)
        screen = self.screen()
        assert screen is not None
        self.resize(WINDOW.boundedTo(0.9 * screen.availableSize()))

    def numbers(self, inspected: InspectionResult) -> list[dict[str, Any]]:
        """Of the open outcomes on an inspection: image, test, what it says, and the rows that it rests on.

        Those on another model, image or label stay open, but are none of its.
        """
        tabs = [self.tabs.widget(n) for n in range(self.tabs.count())]
        views = [view for view in tabs if isinstance(view, OutcomeView)]
        return [view.numbers() for view in views if view.of == inspected.of]

    def _close_tab(self, index: int) -> None:
        view = self.tabs.widget(index)
        self.tabs.removeTab(index)
        if view is not None:  # Qt keeps it
            view.deleteLater()

    def add(self, drawn: Drawn, inspected: InspectionResult) -> None:
        """Show an outcome on an inspection."""
        record = inspected.record
        path = record.checkpoint.path
        model = "" if path is None else f", {path.parent.name}/{path.name}"
        index = self.tabs.addTab(OutcomeView(drawn, inspected), drawn.short_title)
        self.tabs.setTabToolTip(index, f"{drawn.title}: {record.name}{model}")
        self.tabs.setCurrentIndex(index)
        self.show()
        self.raise_()


class OutcomeView(QWidget):
    """A plot with its sentence and its table, to read and to save."""

    def __init__(self, drawn: Drawn, inspected: InspectionResult) -> None:
        super().__init__()
        self._drawn, self._name, self.of = drawn, inspected.record.name, inspected.of
        height, width, _ = drawn.picture.shape
        image = QImage(drawn.picture.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
        self._pixmap = QPixmap.fromImage(image)
        self.picture = QLabel()
        self._scroll = QScrollArea()
        self._scroll.setWidget(self.picture)
        self.finding = Message()
        self.finding.tell(drawn.finding)
        columns = list(dict.fromkeys(name for row in drawn.rows for name in row))
        self.table = FigureTable(rows_shown=6)
        self.table.head(columns)
        self.table.show_rows([[_cell(row.get(name, "")) for name in columns] for row in drawn.rows])
        self.table.fit()
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip(
            "Save the table as CSV, or the plot as PNG or SVG: the ending of the file name decides"
        )
        self.save_button.clicked.connect(self._save)
        self.message = Message()
        below = (self.finding, self.table, self.save_button, self.message)
        stack(self, self._scroll, *below, wide=self._scroll, margins=None)

    def numbers(self) -> dict[str, Any]:
        """Of which image and test, its sentence, and its rows."""
        drawn = self._drawn
        return {"image": self._name, "test": drawn.test, "says": drawn.finding, "rows": drawn.rows}

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Qt's hook: the plot is as wide as the window, but no larger than it was drawn."""
        super().resizeEvent(event)
        width = min(self._pixmap.width(), self.width() - SCROLL_BAR)
        smooth = Qt.TransformationMode.SmoothTransformation
        self.picture.setPixmap(self._pixmap.scaledToWidth(max(1, width), smooth))
        self.picture.adjustSize()

    def save(self, path: Path) -> None:
        """CSV of the rows, or the plot as what the name ends in.

        Raises ``DataError``: the name ends otherwise, or the file cannot be written.
        """
        if path.suffix.lower() not in (".csv", ".png", ".svg"):
            raise DataError(f"'{path.name}' does not end in .csv, .png or .svg; choose another name")
        if path.suffix.lower() == ".csv":
            write_rows(path, self._drawn.rows)
            return
        with written_whole(path) as temporary:
            self._drawn.figure.savefig(temporary, dpi=2 * DPI, format=path.suffix[1:].lower())

    def _save(self) -> None:
        start = Path.home() / f"{self._drawn.test}.csv"
        save_as(self, "Save the outcome", start, SAVED_AS, self.save, self.message)


def trying(test: str, inspected: InspectionResult, beside: Mapping[str, Path], noise: str) -> Iterator[Event]:
    """Events of a test; the last one is ``Finished`` with a ``Drawn``."""
    yield Started(0, TRIALS[test][0])
    from napari_prosma.inspection.faithfulness import Table, run_test
    from napari_prosma.inspection.faithfulness_plots import table_figure
    from napari_prosma.inspection.trial_findings import TESTED

    how: dict[str, Any] = {
        "name": inspected.record.name,
        "label": inspected.label,
        "region": inspected.region,
    }
    if test == "noise_test":
        how["kind"] = noise
    if test == "leave_one_out":  # as in the answer and in What if
        how["means"] = {level: skip.means for level, skip in inspected.record.skips.items()}
    with leaving_a_core():
        table: Table = yield from result_of(run_test(test, inspected.models(beside), inspected.image, **how))
        figure = table_figure(test, table.rows)
        finding = TESTED[test](table.rows, None)
        yield Finished(Drawn(test, table.title, pixels_of(figure), figure, table.rows, finding))


def pixels_of(figure: Figure) -> np.ndarray:
    """A figure as (height, width, 4) uint8, in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())


def _cell(value: str | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
