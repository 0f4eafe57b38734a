"""``Message``: what a panel tells, and what went wrong."""

from __future__ import annotations

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import QLabel, QScrollArea, QSizePolicy

from napari_prosma.errors import as_sentence

ERROR_ON_DARK, ERROR_ON_LIGHT = "#ff6b6b", "#b3261e"


class Message(QLabel):
    """Text that wraps, can be copied, and turns red when it is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.is_error = False
        self.hide()

    def tell(self, text: str) -> None:
        self._show(text, False)

    def tell_error(self, text: str) -> None:
        self._show(as_sentence(text), True)

    def bring_into_view(self) -> None:
        """Scroll to it once the layout has made room."""
        QTimer.singleShot(0, self._scroll_to_it)

    def changeEvent(self, event: QEvent | None) -> None:
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.StyleChange:
            self._colour()  # the theme may be another one

    def _show(self, text: str, is_error: bool) -> None:
        self.is_error = is_error
        self._colour()
        # Paths have no spaces to wrap at: allow a break after each separator.
        self.setText(text.replace("/", "/\u200b").replace("\\", "\\\u200b"))
        self.setVisible(bool(text))

    def _scroll_to_it(self) -> None:
        parent = self.parentWidget()
        while parent is not None and not isinstance(parent, QScrollArea):
            parent = parent.parentWidget()
        if parent is not None:
            parent.ensureWidgetVisible(self)

    def _colour(self) -> None:
        parent = self.parentWidget()  # which has napari's colours
        palette = self.palette() if parent is None else parent.palette()
        colour = ERROR_ON_DARK if palette.window().color().lightness() < 128 else ERROR_ON_LIGHT
        style = f"color: {colour};" if self.is_error else ""
        if style != self.styleSheet():
            self.setStyleSheet(style)

    def plain_text(self) -> str:
        """The text without the places where it may wrap."""
        return self.text().replace("\u200b", "")
