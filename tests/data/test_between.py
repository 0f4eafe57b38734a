"""Filling between drawn slices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_prosma.data.between import Filling, drawn_slices, fill_between, fill_to
from napari_prosma.errors import DataError

EVEN = (1.0, 1.0, 1.0)


def disc(radius: float, centre: tuple[float, float] = (20, 20), side: int = 41) -> np.ndarray:
    y, x = np.ogrid[:side, :side]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def written(labels: np.ndarray, filling: Filling) -> np.ndarray:
    result = labels.copy()
    result[filling.indices] = filling.values
    return result


def filled(labels: np.ndarray, spacing: tuple[float, ...] = EVEN, across: int = 0) -> np.ndarray:
    return written(labels, fill_between(labels, spacing, across))


def test_a_cone_between_two_discs_has_the_radii_between() -> None:
    labels = np.zeros((9, 41, 41), np.uint8)
    labels[0], labels[8] = disc(4), disc(16)
    result = filled(labels)
    for n in range(1, 8):
        assert abs(np.sqrt(result[n].sum() / np.pi) - (4 + 12 * n / 8)) < 0.6


@pytest.mark.parametrize("across", [0, 1, 2])
def test_slices_lie_across_any_axis(across: int) -> None:
    stack = np.zeros((5, 41, 41), np.uint8)
    stack[0], stack[4] = disc(5), disc(9)
    np.testing.assert_array_equal(
        filled(np.moveaxis(stack, 0, across), across=across), np.moveaxis(filled(stack), 0, across)
    )


def test_an_island_that_moves_is_carried_along() -> None:
    labels = np.zeros((5, 41, 41), np.uint8)
    labels[0], labels[4] = disc(5, (12, 20)), disc(5, (28, 20))  # they do not overlap
    middle = filled(labels)[2]
    assert abs(middle.sum() - disc(5).sum()) <= 8
    assert np.allclose(np.argwhere(middle).mean(axis=0), (20, 20), atol=0.6)


def test_islands_are_matched_each_with_its_own() -> None:
    labels = np.zeros((3, 41, 41), np.uint8)
    labels[0] = disc(4, (10, 10)) | disc(4, (30, 30))
    labels[2] = disc(4, (10, 14)) | disc(4, (30, 34))
    expected = disc(4, (10, 12)) | disc(4, (30, 32))
    assert np.count_nonzero(filled(labels)[1].astype(bool) ^ expected) <= 8


def test_far_islands_are_not_taken_for_one_and_fade_out() -> None:
    labels = np.zeros((5, 41, 41), np.uint8)
    labels[0], labels[4] = disc(3, (6, 6)), disc(3, (34, 34))
    result = filled(labels)
    assert not result[:, 12:29, 12:29].any(), "nothing crosses the space between them"
    first = [int(result[n, :20, :20].sum()) for n in range(5)]
    assert first == sorted(first, reverse=True)
    assert first[1] > 0 == first[4]


def test_an_island_that_parts_into_two_becomes_both() -> None:
    labels = np.zeros((5, 41, 41), np.uint8)
    labels[0] = disc(12)
    labels[4] = disc(4, (14, 20)) | disc(4, (26, 20))
    result = filled(labels)
    assert result[3, 14, 20]
    assert result[3, 26, 20]


def test_a_hole_stays_a_hole() -> None:
    labels = np.zeros((3, 41, 41), np.uint8)
    labels[0] = labels[2] = disc(12) & ~disc(5)
    np.testing.assert_array_equal(filled(labels)[1], labels[0])


def test_spacing_in_the_plane_counts() -> None:
    """A pixel that is four times as tall as wide: what is deeper in mm wins where two classes meet."""
    labels = np.zeros((3, 9, 41), np.uint8)
    labels[0, :, :20], labels[2, :, :20] = 1, 1
    labels[0, 3:6, 10:30] = labels[2, 3:6, 10:30] = 2
    even, tall = (filled(labels, spacing)[1] for spacing in (EVEN, (1.0, 4.0, 1.0)))
    np.testing.assert_array_equal(even, tall)  # the same on both slices: nothing to decide
    labels[2] = 0
    labels[2, 2:7, 16:30] = 2
    labels[2, :, :12] = 1
    even, tall = (filled(labels, spacing)[1] for spacing in (EVEN, (1.0, 4.0, 1.0)))
    assert not np.array_equal(even, tall)


def test_classes_share_a_slice_without_covering_each_other() -> None:
    labels = np.zeros((5, 41, 41), np.uint32)
    labels[0], labels[4] = disc(8) * 70_000, disc(8) * 70_000
    labels[2, :, :20] = 3  # drawn between, for another class
    result = filled(labels)
    assert result.dtype == np.uint32
    assert (result[2, :, :20] == 3).all()
    assert (result[2, 20, 20:28] == 70_000).all()
    assert set(np.unique(result).tolist()) == {0, 3, 70_000}


def test_only_the_classes_that_are_wanted() -> None:
    labels = np.zeros((3, 41, 41), np.uint8)
    for n in (0, 2):
        labels[n, 5:9, 5:9], labels[n, 20:30, 20:30] = 1, 2
    result = written(labels, fill_between(labels, EVEN, 0, classes=[2]))
    assert set(np.unique(result[1]).tolist()) == {0, 2}


@settings(max_examples=30, deadline=None)
@given(arrays(np.int16, (5, 6, 7), elements=st.sampled_from([0, 0, 0, 1, 2, -1])), st.sampled_from([0, 1, 2]))
def test_nothing_that_is_drawn_changes(labels: np.ndarray, across: int) -> None:
    try:
        filling = fill_between(labels, (1.0, 2.0, 3.0), across)
    except DataError:
        return
    assert (labels[filling.indices] == 0).all()
    assert (filling.values > 0).all()
    assert len(set(zip(*filling.indices, strict=True))) == len(filling.values)


def test_a_shape_continues_to_a_slice() -> None:
    labels = np.zeros((8, 41, 41), np.uint8)
    labels[2] = disc(5)
    result = written(labels, fill_to(labels, 0, 5))
    for n in range(3, 6):
        np.testing.assert_array_equal(result[n], labels[2])
    assert not result[6:].any()
    assert not result[:2].any()
    backwards = written(labels, fill_to(labels, 0, 0))
    np.testing.assert_array_equal(backwards[0], labels[2])


def test_only_what_the_nearest_slice_holds_continues() -> None:
    labels = np.zeros((8, 41, 41), np.uint8)
    labels[0], labels[4] = disc(5), 2 * np.roll(disc(5), 4, 1)
    result = written(labels, fill_to(labels, 0, 6))
    np.testing.assert_array_equal(result[6], labels[4])
    assert not result[1:4].any()
    between = written(labels, fill_to(labels, 0, 2))
    assert np.unique(between[2]).tolist() == [0, 1, 2], "both are equally near"
    np.testing.assert_array_equal(written(labels, fill_to(labels, 0, 6, [1]))[6], labels[0])
    onto = written(labels, fill_to(labels, 0, 4))
    assert np.unique(onto[4]).tolist() == [0, 1, 2], "the other class is drawn there already"
    assert (onto[labels > 0] == labels[labels > 0]).all()


@pytest.mark.parametrize(
    ("slices", "said"),
    [((), "nothing is drawn yet"), ((2,), "class 1 is drawn on slice 2 alone"), ((2, 3), "no slice is left")],
)
def test_nothing_to_fill_between_is_told(slices: tuple[int, ...], said: str) -> None:
    labels = np.zeros((8, 41, 41), np.uint8)
    for n in slices:
        labels[n] = disc(5)
    with pytest.raises(DataError, match=said):
        fill_between(labels, EVEN, 0)
    assert drawn_slices(labels, 0) == len(slices)


def test_a_slice_that_is_drawn_already_is_told() -> None:
    labels = np.zeros((8, 41, 41), np.uint8)
    labels[2] = disc(5)
    with pytest.raises(DataError, match="slice 2 is drawn already"):
        fill_to(labels, 0, 2)
