"""When the first live preview of a run comes, told until it is there."""

from __future__ import annotations

import time

from qtpy.QtCore import QObject, QTimer

USUAL_WAIT = 6.0
"""Seconds, until one was measured."""
LATE = 10.0
"""Seconds after that wait when it is said that it takes longer."""


class FirstPreview(QTimer):
    """Counts down to it; times out every second until it came."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.setInterval(1000)
        self._began, self._usual = 0.0, USUAL_WAIT

    def wait(self) -> None:
        """Start was pressed."""
        self._began = time.monotonic()
        self.start()

    def came(self) -> str:
        """How long the first one took, in words; nothing of those that follow."""
        if not self.isActive():
            return ""
        self.stop()
        self._usual = time.monotonic() - self._began
        return f"First preview after {self._usual:.0f} s"

    def in_words(self) -> str:
        """When it comes, while it is waited for."""
        if not self.isActive():
            return ""
        left = self._usual - (time.monotonic() - self._began)
        if left > 1:
            return f"first preview in about {left:.0f} s"
        return "first preview at any moment" if left > -LATE else "the first preview takes longer than usual"
