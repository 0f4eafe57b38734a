"""What a training run tells: its curves and figures, its log, and what to do with the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import napari
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QPlainTextEdit, QPushButton, QWidget

from napari_prosma.data.metrics import in_percent
from napari_prosma.errors import ProsmaError
from napari_prosma.events import UNLIMITED_EPOCHS, Baseline, EpochEnd, Verdict
from napari_prosma.plugin.shared.fields import fold, stack
from napari_prosma.plugin.shared.figure_table import FigureTable
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.train.curves import Curves

SAVED_AS = "PNG (*.png);;SVG (*.svg);;CSV (*.csv)"
GIB = 2**30
LOG_HEIGHT = 150
NEXT_HEIGHT = 40
GATE_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "z_zero_fraction": ("zeros in z", in_percent),
    "lambda_mean": ("mean λ", "{:.2f}".format),
}
"""Of each skip, in words and how it is written."""


class Outcome(QWidget):
    """Curves, figures of the last epoch, tables per class and per skip, and the log.

    What the gates do is folded away until it is wanted.

    ``next_buttons`` open other panels with the model; the panel puts them where they are always seen.

    Signals
    -------
    next_panel(str)
        Name of the panel that shall open with the model.
    look_first()
        The labels that the run doubts shall be listed.
    """

    next_panel = Signal(str)
    look_first = Signal()

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.history: list[EpochEnd] = []
        self._baseline: dict[str, float] = {}
        self._device = ""
        self.curves = Curves(viewer.theme)
        self.verdict = Message()
        self.verdict.setToolTip("What the model finds on the validation cases, and what to do next")
        self.figures = Message()
        self.table = FigureTable()
        self.table.setToolTip("Overlap with the labels of the validation cases: 0 = none, 1 = perfect")
        self.gates = FigureTable()
        self.gates.setToolTip(
            "zeros in z: share of the gate's inner signals that the threshold lambda sets to exactly zero. "
            "It does not mean that this share of the image is removed."
        )
        held = QWidget()
        stack(held, self.gates)
        self.gates_fold = fold("Gates", held)
        self.gates_fold.toggled.connect(self.curves.show_gates)
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setFixedHeight(LOG_HEIGHT)
        self.log.setMaximumBlockCount(500)
        self.log.setTabChangesFocus(True)
        self.log.setToolTip("Decisions and warnings of this run")
        self.save_button = QPushButton("Save curves…")
        self.save_button.setToolTip(
            "Save the curves of all epochs as a picture (PNG, SVG) or as numbers (CSV)"
        )
        self.save_button.clicked.connect(self._save_curves)
        self.next_buttons = QWidget()
        row = QHBoxLayout(self.next_buttons)
        row.setContentsMargins(0, 0, 0, 0)
        for text, panel, share in (
            ("Segment with it", "Segment", 2),
            ("Inspect its gates", "Inspect gates", 1),
        ):
            button = QPushButton(text)
            button.setToolTip(f"Open the {panel} panel with this model")
            button.setMinimumHeight(NEXT_HEIGHT)
            button.clicked.connect(partial(self._open_next, panel))
            row.addWidget(button, share)
        self.look_button = QPushButton("Suspicious labels…")
        self.look_button.setToolTip("List the suspicious labels of this run; click one to correct it")
        self.look_button.clicked.connect(self.look_first)
        parts: list[QWidget] = [self.verdict, self.figures, self.table, self.gates_fold, self.curves]
        parts += [self.save_button, self.look_button, self.log]
        stack(self, *parts)
        for part in (*parts, self.next_buttons):
            part.hide()

    @property
    def epochs(self) -> int:
        """Epochs that are over."""
        return self.history[-1].epoch if self.history else 0

    def start(self) -> None:
        """A run begins: nothing is known of it."""
        self.history, self._baseline = [], {}
        self.log.clear()
        self.log.show()
        for widget in (self.table, self.gates_fold, self.save_button, self.look_button, self.next_buttons):
            widget.hide()
        self.figures.tell("")
        self.verdict.tell("")
        self.curves.show_epochs(())

    def run_on(self, device: str) -> None:
        """What computes."""
        self._device = device

    def say(self, line: str) -> None:
        """A line in the log."""
        self.log.appendPlainText(line)
        bar = self.log.verticalScrollBar()
        assert bar is not None
        bar.setValue(bar.maximum())

    def judge(self, verdict: Verdict) -> None:
        """What the model finds, and what to do next: a line each."""
        self.verdict.tell("\n".join([verdict.summary, *(f"→ {line}" for line in verdict.advice)]))

    def compare_with(self, baseline: Baseline) -> None:
        """Figures from before the first step, to be shown beside."""
        self._baseline = baseline.figures
        self._show_classes(baseline.figures)

    def add(self, *epochs: EpochEnd) -> None:
        """One more epoch, or all those of a run that goes on."""
        self.history.extend(epochs)
        if not self.history:
            return
        self.curves.show_epochs(self.history)
        self.save_button.show()
        self.next_buttons.show()
        last = self.history[-1]
        self._show_figures(last)
        self._show_classes(last.validation)
        self._show_gates(last)

    def save_curves(self, path: Path) -> None:
        """Write the curves as .png or .svg, or their numbers as .csv.

        Raises ``ProsmaError``: the file cannot be written.
        """
        from napari_prosma.training.curves import save_curves

        save_curves(self.history, path)
        self.figures.tell(f"{self.figures.plain_text()}\nCurves saved as {path}")

    def _show_figures(self, epoch: EpochEnd) -> None:
        title = f"Epoch {epoch.epoch}"
        if epoch.epochs < UNLIMITED_EPOCHS:
            title += f" of {epoch.epochs}"
        parts = [
            f"{title}: loss {epoch.loss:.3f}",
            f"learning rate {epoch.learning_rate:.2g}",
            f"{epoch.seconds:.1f} s per epoch",
            f"device: {self._device}",
        ]
        if epoch.memory:
            parts.append(f"{epoch.memory / GIB:.1f} GB of its memory")
        self.figures.tell(", ".join(parts))

    def _show_classes(self, figures: dict[str, float]) -> None:
        """Dice and IoU of each class, beside those from before a fine-tuning."""
        names = [name.removeprefix("dice/") for name in figures if name.startswith("dice/")]
        before = self._baseline
        compared = ("Dice", "before", "IoU", "before") if before else ("Dice", "IoU")
        self.table.head(("Class", *compared))

        def cells(name: str, measure: str) -> list[str]:
            key = f"{measure}/{name}"
            was = [f"{before[key]:.3f}" if key in before else "-"] if before else []
            return [f"{figures[key]:.3f}", *was]

        self.table.show_rows([[name, *cells(name, "dice"), *cells(name, "iou")] for name in names])

    def _show_gates(self, epoch: EpochEnd) -> None:
        rows = []
        for measure, (words, form) in GATE_FIGURES.items():
            if any(measure in state for state in epoch.gates.values()):
                cells = (form(state[measure]) if measure in state else "" for state in epoch.gates.values())
                rows.append([words, *cells])
        self.gates.head(("skip", *map(str, epoch.gates)))
        if rows:
            self.gates.show_rows(rows)
            self.gates_fold.show()

    def _save_curves(self) -> None:
        start = str(Path.home() / "curves.png")
        chosen, _ = QFileDialog.getSaveFileName(self, "Save the curves", start, SAVED_AS)
        if chosen:
            try:
                self.save_curves(Path(chosen))
            except ProsmaError as error:
                self.figures.tell_error(str(error))

    def _open_next(self, panel: str) -> None:
        self.next_panel.emit(panel)
