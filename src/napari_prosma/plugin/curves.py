"""The live curve of a training run: loss, and Dice of every class, over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from napari.utils.theme import get_theme

from napari_prosma.events import EpochEnd

HEIGHT = 190
_LOSS, _DICE = "#e09f3e", "#4ea8de"


class TrainingCurve(FigureCanvasQTAgg):
    """Loss on the left axis, mean Dice of the validation cases on the right one, from 0 to 1."""

    def __init__(self, theme: str) -> None:
        colours = get_theme(theme)
        back, text = colours.background.as_hex(), colours.text.as_hex()
        figure = Figure(figsize=(3.4, 1.9), dpi=100, facecolor=back)
        figure.subplots_adjust(left=0.14, right=0.86, bottom=0.21, top=0.95)
        super().__init__(figure)
        self.setMinimumSize(200, HEIGHT)
        self.setMaximumHeight(HEIGHT)
        self._loss_axes = figure.add_subplot(facecolor=back)
        self._dice_axes = self._loss_axes.twinx()
        for axes, name, colour in ((self._loss_axes, "loss", _LOSS), (self._dice_axes, "Dice", _DICE)):
            axes.set_ylabel(name, color=colour, fontsize=8)
            axes.tick_params(colors=text, labelsize=7)
            for spine in axes.spines.values():
                spine.set_color(text)
        self._loss_axes.set_xlabel("epoch", color=text, fontsize=8)
        self._dice_axes.set_ylim(0, 1)
        (self._loss,) = self._loss_axes.plot([], [], ".-", color=_LOSS, linewidth=1.2, markersize=3)
        (self._dice,) = self._dice_axes.plot([], [], ".-", color=_DICE, linewidth=1.2, markersize=3)

    def show_epochs(self, history: Sequence[EpochEnd]) -> None:
        """Draw these epochs."""
        at = [epoch.epoch for epoch in history]
        losses = [epoch.loss for epoch in history]
        self._loss.set_data(at, losses)
        self._dice.set_data(at, [epoch.validation.get("dice", float("nan")) for epoch in history])
        if history:
            self._loss_axes.set_xlim(0.5, max(at[-1], 5) + 0.5)
            self._loss_axes.set_ylim(0, max(losses) * 1.08 or 1)
        self.draw_idle()
