"""Thumbnails in napari's list of layers that Qt may read as long as it likes."""

from __future__ import annotations

from functools import cache
from typing import Any

from qtpy.QtCore import QModelIndex, Qt


@cache
def keep_thumbnails() -> None:
    """From now on, in this process.

    napari 0.9.2 makes a picture of bytes that nobody keeps, and Qt reads them after they were freed. Where
    the memory went back to the system meanwhile, as happens while a run trains, the process ends.
    """
    try:
        from napari._qt.containers.qt_layer_model import QtLayerListModel, ThumbnailRole
    except ImportError:  # a later napari, whose list is made otherwise
        return
    of_napari = QtLayerListModel.data

    def data(
        self: QtLayerListModel, index: QModelIndex, role: Qt.ItemDataRole = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        found = of_napari(self, index, role)
        return found.copy() if role == ThumbnailRole and found is not None else found

    QtLayerListModel.data = data
