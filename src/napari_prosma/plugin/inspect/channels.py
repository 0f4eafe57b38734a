"""``ChannelsPart``: c and lambda of every channel of a skip as bars; a click opens the channel's maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from qtpy.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QComboBox, QFormLayout, QSizePolicy, QToolTip, QWidget
from superqt.utils import signals_blocked

from napari_prosma.data.metrics import in_percent
from napari_prosma.events import Event
from napari_prosma.inspection.record import SkipRecord
from napari_prosma.plugin.inspect.looking import InspectionResult
from napari_prosma.plugin.shared.job import leaving_a_core
from napari_prosma.plugin.shared.message import Message

USUAL, DEAD, OPEN, SPREAD = "#3b8ec5", "#c1121f", "#e09f3e", "#c8d6e5"
HEIGHT = 90


@dataclass(frozen=True)
class Bar:
    """One channel in a plot."""

    channel: int
    value: float
    spread: float = 0.0
    colour: str = USUAL
    tip: str = ""


class BarPlot(QWidget):
    """Bars side by side, lowest first, as wide as the panel.

    Signals
    -------
    clicked(int)
        The channel of the bar.
    """

    clicked = Signal(int)

    def __init__(self, tip: str) -> None:
        super().__init__()
        self._bars: tuple[Bar, ...] = ()
        self._top = 1.0
        self.setFixedHeight(HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setToolTip(tip)
        self.setCursor(Qt.CursorShape.PointingHandCursor)

    def show_bars(self, bars: Sequence[Bar], top: float) -> None:
        """Draw these, sorted; ``top`` is the value at the upper edge."""
        self._bars = tuple(sorted(bars, key=lambda bar: bar.value))
        self._top = top
        self.setVisible(bool(bars))
        self.update()

    @property
    def bars(self) -> tuple[Bar, ...]:
        """As they stand, from left to right."""
        return self._bars

    def place(self, number: int) -> QPointF:
        """Middle of the column of a bar, counted from the left."""
        return QPointF((number + 0.5) * self.width() / len(self._bars), self.height() / 2)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Qt's hook."""
        painter = QPainter(self)
        painter.setFont(self.font())
        text = self.palette().color(QPalette.ColorRole.WindowText)
        width = self.width() / max(1, len(self._bars))
        for number, bar in enumerate(self._bars):
            high = min(1.0, bar.value / self._top) * self.height()
            gap = min(1.0, width / 5)
            painter.fillRect(
                QRectF(number * width + gap / 2, self.height() - high, width - gap, high), QColor(bar.colour)
            )
            if bar.spread > 0:
                painter.setPen(QPen(QColor(SPREAD), 1))
                reach = bar.spread / self._top * self.height()
                middle = (number + 0.5) * width
                painter.drawLine(
                    QPointF(middle, self.height() - high - reach),
                    QPointF(middle, self.height() - high + reach),
                )
        faint = QColor(text)
        faint.setAlpha(110)
        painter.setPen(QPen(faint, 1, Qt.PenStyle.DotLine))
        painter.drawLine(0, self.height() // 2, self.width(), self.height() // 2)
        painter.setPen(text)
        painter.drawText(2, 12, f"{self._top:.2g}")
        painter.drawText(2, self.height() // 2 - 2, f"{self._top / 2:.2g}")

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Qt's hook."""
        bar = None if event is None else self._bar_at(event.position().x())
        if bar is not None:
            self.clicked.emit(bar.channel)

    def event(self, event: QEvent | None) -> bool:
        """Qt's hook: the tip is that of the bar under the mouse."""
        if isinstance(event, QHelpEvent):
            bar = self._bar_at(event.pos().x())
            if bar is not None:
                QToolTip.showText(event.globalPos(), bar.tip, self)
                return True
        return super().event(event)

    def _bar_at(self, x: float) -> Bar | None:
        number = int(x / self.width() * len(self._bars))
        return self._bars[number] if 0 <= number < len(self._bars) else None


class ChannelsPart(QWidget):
    """The channels of one skip.

    Signals
    -------
    channel_chosen(int, int)
        Skip and feature channel (of c).
    latent_chosen(int, int)
        Skip and inner channel (of lambda).
    """

    channel_chosen = Signal(int, int)
    latent_chosen = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        self._inspected: InspectionResult | None = None
        self.skip_box = QComboBox()
        self.skip_box.setToolTip("The skip whose channels are shown")
        self.skip_box.currentIndexChanged.connect(self._show)
        self.weights = BarPlot(
            "Weight c of every feature channel; click a bar to see the channel before and after the gate"
        )
        self.weights.clicked.connect(self._choose_channel)
        self.thresholds = BarPlot(
            "Threshold lambda of every inner channel, in units of its signal's spread; click one to see its z"
        )
        self.thresholds.clicked.connect(self._choose_latent)
        self.weights_told, self.thresholds_told = Message(), Message()
        form = QFormLayout(self)
        form.setContentsMargins(6, 0, 0, 0)
        form.addRow("Skip", self.skip_box)
        for widget in (self.weights_told, self.weights, self.thresholds_told, self.thresholds):
            form.addRow(widget)

    @property
    def level(self) -> int:
        """Of the skip that is shown."""
        return int(self.skip_box.currentData())

    def show_inspected(self, inspected: InspectionResult) -> None:
        """Show the channels of the finest skip."""
        self._inspected = inspected
        with signals_blocked(self.skip_box):
            self.skip_box.clear()
            for level in sorted(inspected.record.skips):
                self.skip_box.addItem(str(level), level)
        self._show()

    def _choose_channel(self, channel: int) -> None:
        self.channel_chosen.emit(self.level, channel)

    def _choose_latent(self, channel: int) -> None:
        self.latent_chosen.emit(self.level, channel)

    def _show(self) -> None:
        if self._inspected is None or self.skip_box.currentIndex() < 0:
            return
        skip = self._inspected.record.skips[self.level]
        weights, thresholds = weight_bars(skip), threshold_bars(skip)
        self.weights.show_bars(weights, 1.0)
        self.weights_told.tell(
            "c, the weight of each channel, from 0 to 1; lines: spread over windows"
            if weights
            else "This gate has no channel weights."
        )
        highest = max((bar.value for bar in thresholds), default=1.0)
        self.thresholds.show_bars(thresholds, 1.05 * highest or 1.0)
        dead = sum(bar.colour == DEAD for bar in thresholds)
        always_open = sum(bar.colour == OPEN for bar in thresholds)
        self.thresholds_told.tell(
            f"lambda / spread of u, per inner channel; in this image {dead} of {len(thresholds)} are dead "
            f"(red: zero everywhere) and {always_open} always open (orange: zero nowhere)"
            if thresholds
            else "This gate has no thresholds."
        )


def weight_bars(skip: SkipRecord) -> list[Bar]:
    """c of every feature channel, with its spread over the windows."""
    if skip.channel is None:
        return []
    spread = np.zeros_like(skip.channel) if skip.channel_spread is None else skip.channel_spread
    return [
        Bar(k, float(c), float(s), tip=f"channel {k}: c {c:.3f}")
        for k, (c, s) in enumerate(zip(skip.channel, spread, strict=True))
    ]


def threshold_bars(skip: SkipRecord) -> list[Bar]:
    """lambda / std(u) of every inner channel; raw lambda cannot be compared (gauge freedom, section 1.5)."""
    if skip.threshold is None or skip.field_spread is None or skip.channel_zeros is None:
        return []
    bars = []
    for k, (threshold, spread, zeros) in enumerate(
        zip(skip.threshold, skip.field_spread, skip.channel_zeros, strict=True)
    ):
        colour = DEAD if zeros == 1 else OPEN if zeros == 0 else USUAL
        state = {DEAD: ", dead in this image", OPEN: ", always open in this image"}.get(colour, "")
        relative = float(threshold / spread) if spread > 0 else 0.0
        lambda_ = f"lambda {threshold:.3f} = {relative:.2f} x spread"
        tip = f"inner channel {k}: {lambda_}, zero at {in_percent(zeros)}{state}"
        bars.append(Bar(k, relative, colour=colour, tip=tip))
    return bars


def reading_channel(inspected: InspectionResult, level: int, channel: int) -> Iterator[Event]:
    """Events that end in ``Finished`` with the ``ChannelMaps`` of a feature channel over the whole image."""
    from napari_prosma.inspection.trace import skip_channel

    with leaving_a_core():
        yield from skip_channel(
            inspected.checkpoint, inspected.image, level, channel, name=inspected.record.name
        )
