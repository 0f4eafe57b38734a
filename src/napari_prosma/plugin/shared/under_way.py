"""``UnderWay``: the runs of a viewer that wait for their turn, for the panels that list runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import napari
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QApplication

_OF: weakref.WeakKeyDictionary[napari.Viewer, UnderWay] = weakref.WeakKeyDictionary()


def under_way_of(viewer: napari.Viewer) -> UnderWay:
    """The one of a viewer, made when it is first asked for."""
    viewer = getattr(viewer, "__wrapped__", viewer)  # plugins see proxies
    if viewer not in _OF:
        _OF[viewer] = UnderWay()
    return _OF[viewer]


class UnderWay(QObject):
    """Told by the panel that trains.

    Signals
    -------
    changed()
        A run began, ended, or waits.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__(QApplication.instance())
        self.waiting: tuple[Path, ...] = ()

    def set_waiting(self, folders: Sequence[Path]) -> None:
        """The runs that wait, in order; told also when one begins or ends."""
        self.waiting = tuple(folders)
        self.changed.emit()
