"""``CurvesWindow``: the Dice of several runs, epoch by epoch, in one plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QWidget

from napari_prosma.data.names import in_plot
from napari_prosma.errors import ProsmaError
from napari_prosma.events import EpochEnd, Event, Finished, Notice
from napari_prosma.plugin.shared.fields import stack
from napari_prosma.plugin.shared.message import Message
from napari_prosma.plugin.shared.newest import NewestJob

SIZE = (640, 420)


class CurvesWindow(QWidget):
    """A window of its own."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Window)
        self.setWindowTitle("Dice of runs")
        self.figure = Figure(layout="constrained")
        self.canvas = FigureCanvasQTAgg(self.figure)
        self.message = Message()
        self._theme = "dark"
        self.job = NewestJob(
            self, happened=self._tell_notice, finished=self._draw, failed=self.message.tell_error
        )
        stack(self, self.canvas, self.message, wide=self.canvas, margins=None)
        self.resize(*SIZE)

    def show_runs(self, folders: Sequence[Path], theme: str) -> None:
        """Read and draw them."""
        self._theme = theme
        self.message.tell("")
        self.job.ask_for("ProSMA: reading curves", partial(_reading, folders))
        self.show()
        self.raise_()

    def closeEvent(self, event: object) -> None:
        """Qt's hook."""
        self.job.close()
        super().closeEvent(event)  # type: ignore[arg-type]

    def _tell_notice(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.message.tell_error(event.message)

    def _draw(self, histories: dict[str, tuple[EpochEnd, ...]]) -> None:
        draw_dice(self.figure, histories, "white" if self._theme != "light" else "black")
        self.canvas.draw_idle()


def draw_dice(figure: Figure, histories: dict[str, tuple[EpochEnd, ...]], ink: str) -> None:
    """A line per run."""
    figure.clear()
    figure.set_facecolor("none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    for name, history in histories.items():
        epochs = [end.epoch for end in history]
        dice = [end.validation.get("dice", float("nan")) for end in history]
        axes.plot(epochs, dice, marker="o" if len(epochs) < 20 else "", markersize=3, label=in_plot(name))
    axes.set_xlabel("epoch", color=ink)
    axes.set_ylabel("validation Dice", color=ink)
    axes.set_ylim(0, 1)
    axes.tick_params(colors=ink)
    for spine in axes.spines.values():
        spine.set_color(ink)
    if histories:
        axes.legend(frameon=False, labelcolor=ink)


def _reading(folders: Sequence[Path]) -> Iterator[Event]:
    from napari_prosma.training.run_folder import read_metrics

    found: dict[str, tuple[EpochEnd, ...]] = {}
    for folder in folders:
        try:
            history = read_metrics(folder)
        except ProsmaError as error:
            yield Notice(str(error))
            continue
        if history:
            found[folder.name] = history
        else:
            yield Notice(f"'{folder}' has no curves: it ended no epoch yet, or is a cross-validation")
    yield Finished(found)
