"""Qt reads the thumbnails of layers from memory that is still there."""

from __future__ import annotations

import numpy as np
from napari._qt.containers.qt_layer_model import ThumbnailRole
from superqt.utils import qimage_to_array

from napari_prosma.plugin.shared.thumbnails import keep_thumbnails


def test_a_thumbnail_stays_what_it_is_when_memory_is_used_again(make_napari_viewer):
    viewer = make_napari_viewer()
    keep_thumbnails()
    layer = viewer.add_image(np.random.default_rng(0).random((32, 32)))
    picture = viewer.window._qt_viewer.layers.model().index(0, 0).data(ThumbnailRole)
    as_large = [b"\xa5" * layer.thumbnail.nbytes for _ in range(64)]
    np.testing.assert_array_equal(qimage_to_array(picture), layer.thumbnail)
    del as_large
