"""Thumbnails in napari's list of layers that Qt may read as long as it likes."""

from __future__ import annotations

from typing import Any

from napari._qt.containers.qt_layer_model import QtLayerListModel, ThumbnailRole
from qtpy.QtCore import QModelIndex, Qt

_of_napari = QtLayerListModel.data


def _data(
    self: QtLayerListModel, index: QModelIndex, role: Qt.ItemDataRole = Qt.ItemDataRole.DisplayRole
) -> Any:
    found = _of_napari(self, index, role)
    return found.copy() if role == ThumbnailRole and found is not None else found


def keep_thumbnails() -> None:
    """From now on, in this process.

    napari 0.9.2 makes a picture of bytes that nobody keeps, and Qt reads them after they were freed. Where
    the memory went back to the system meanwhile, as happens while a run trains, the process ends.
    """
    QtLayerListModel.data = _data
