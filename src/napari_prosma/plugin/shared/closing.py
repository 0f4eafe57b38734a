"""What runs or follows a viewer does so until its panel is closed, which tells all of its parts at once."""

from __future__ import annotations

from napari.utils.events import EventEmitter
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QWidget


def let_go_of(root: QObject) -> None:
    """Stop the jobs and timers below a panel, close its windows, and let go of the viewer.

    Whatever part of it has a method ``let_go`` is called.
    """
    for part in root.findChildren(QObject):
        if isinstance(part, QTimer):
            part.stop()
        elif isinstance(part, QWidget) and part.isWindow() and part.isVisible():
            part.close()
        if hasattr(part, "let_go"):
            part.let_go()


class FollowsLayers:
    """For a widget whose ``refresh`` is called by the emitters that it follows."""

    _followed: tuple[EventEmitter, ...] = ()

    def follow(self, *emitters: EventEmitter) -> None:
        """From now on."""
        self._followed = emitters
        for emitter in emitters:
            emitter.connect(self.refresh)

    def refresh(self) -> None:
        """Look at the viewer again."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Follow the viewer no longer."""
        for emitter in self._followed:
            emitter.disconnect(self.refresh)
