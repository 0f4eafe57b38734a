"""Which slice of a label is shown."""

import numpy as np

from napari_prosma.data.labels import IGNORE, fullest_slice

ALL = slice(None)


def test_the_slice_with_the_most_foreground_is_shown() -> None:
    label = np.zeros((5, 6, 7), np.uint8)
    label[1, :2], label[3, :4] = 2, 1
    label[4] = IGNORE
    assert fullest_slice(label) == (3, ALL, ALL)


def test_without_foreground_it_is_the_middle_one() -> None:
    assert fullest_slice(np.full((5, 6, 7), IGNORE, np.uint8)) == (2, ALL, ALL)


def test_a_picture_has_no_slices() -> None:
    assert fullest_slice(np.ones((6, 7), np.uint8)) == (ALL, ALL)
    assert fullest_slice(np.zeros((6, 7), np.uint8)) == (ALL, ALL)


def test_it_lies_in_the_plane_of_acquisition() -> None:
    label = np.zeros((5, 6, 7), np.uint8)
    label[:, :, 4] = 1
    label[2, :, :3] = 1
    assert fullest_slice(label, axis=2) == (ALL, ALL, 4)
    assert fullest_slice(label, axis=0) == (2, ALL, ALL)
