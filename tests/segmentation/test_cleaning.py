"""Cleaning a segmentation class by class, against small arrays worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_prosma.errors import ConfigError
from napari_prosma.geometry import Geometry
from napari_prosma.model.windows import labels_of
from napari_prosma.segmentation.cleaning import Cleaning, cleaned, cleanings_from_text

PIXELS = Geometry.pixels(2)


def grid(text: str) -> np.ndarray:
    """Labels drawn in lines of digits, dots for the background."""
    return np.array([[int(c) for c in line.replace(".", "0")] for line in text.split()], np.uint8)


def disk(radius: float, size: int, dims: int = 2) -> np.ndarray:
    at = np.indices((size,) * dims) - (size - 1) / 2
    return (np.sqrt((at**2).sum(axis=0)) < radius).astype(np.uint8)


def some_probabilities(classes: int = 3, seed: int = 0) -> np.ndarray:
    raw = np.random.default_rng(seed).gamma(0.5, size=(classes, 20, 24)).astype(np.float32)
    return raw / raw.sum(axis=0)


def test_nothing_asked_for_is_the_most_probable_class() -> None:
    probabilities = some_probabilities()
    found = cleaned(probabilities, PIXELS, {})
    assert np.array_equal(found, labels_of(probabilities))
    assert np.array_equal(found, cleaned(probabilities, PIXELS, {1: Cleaning(), 2: Cleaning()}))
    assert found.dtype == np.uint8


def test_labels_come_back_as_they_are_and_as_a_copy() -> None:
    labels = grid("1.2 .12")
    found = cleaned(labels, PIXELS, {1: Cleaning()})
    assert np.array_equal(found, labels)
    assert not np.shares_memory(found, labels)


def test_a_threshold_below_one_half_finds_more_and_above_less() -> None:
    foreground = np.array([[0.1, 0.3, 0.5, 0.6, 0.9]], np.float32)
    probabilities = np.stack([1 - foreground, foreground])

    def found(threshold: float | None) -> list[int]:
        return cleaned(probabilities, PIXELS, {1: Cleaning(threshold)})[0].tolist()

    assert found(None) == [0, 0, 0, 1, 1]
    assert found(0.3) == [0, 1, 1, 1, 1]
    assert found(0.9) == [0, 0, 0, 0, 1]


def test_where_the_first_class_misses_its_threshold_the_next_that_qualifies_takes_the_element() -> None:
    probabilities = np.array([0.1, 0.5, 0.4], np.float32).reshape(3, 1, 1)
    assert cleaned(probabilities, PIXELS, {})[0, 0] == 1
    assert cleaned(probabilities, PIXELS, {1: Cleaning(0.6)})[0, 0] == 2
    assert cleaned(probabilities, PIXELS, {1: Cleaning(0.6), 2: Cleaning(0.6)})[0, 0] == 0


def test_only_the_largest_piece_stays_of_the_class_that_asks_for_it() -> None:
    labels = grid("11..2 11... ....1 2...1")
    assert np.array_equal(
        cleaned(labels, PIXELS, {1: Cleaning(largest_only=True)}), grid("11..2 11... ..... 2....")
    )


def test_small_pieces_go_by_their_physical_size() -> None:
    labels = grid("11... .1..1 ....1 1....")
    millimetres = Geometry((0.5, 2.0), (0.0, 0.0), "mm")  # 1 mm^2 per pixel
    for least, there in ((1.0, 6), (1.001, 5), (2.0, 5), (2.5, 3), (3.0, 3), (3.5, 0)):
        found = cleaned(labels, millimetres, {1: Cleaning(minimum_size=least)})
        assert np.count_nonzero(found) == there, least
    voxels = Geometry((2.0, 5.0, 10.0), (0.0,) * 3, "mm")  # 0.1 ml per voxel
    volume = cleaned(labels[None], voxels, {1: Cleaning(minimum_size=0.3)})
    assert np.count_nonzero(volume) == 3


def test_a_hole_is_filled_where_it_is_background_and_enclosed() -> None:
    labels = grid("11111. 1...1. 1.2.1. 11111. .1.1..")
    assert np.array_equal(
        cleaned(labels, PIXELS, {1: Cleaning(fill_holes=True)}), grid("11111. 11111. 11211. 11111. .1.1..")
    )
    assert np.array_equal(cleaned(labels, PIXELS, {2: Cleaning(fill_holes=True)}), labels)


def test_a_hole_of_a_volume_must_be_closed_on_all_sides() -> None:
    shell = np.ones((3, 3, 3), np.uint8)
    shell[1, 1, 1] = 0
    assert cleaned(shell, Geometry.pixels(3), {1: Cleaning(fill_holes=True)}).all()
    shell[0, 1, 1] = 0
    assert np.array_equal(cleaned(shell, Geometry.pixels(3), {1: Cleaning(fill_holes=True)}), shell)


def test_pieces_go_before_holes_are_filled() -> None:
    """The dot inside the ring is a piece of its own; first removed, then filled over."""
    labels = grid("11111 1...1 1.1.1 1...1 11111")
    found = cleaned(labels, PIXELS, {1: Cleaning(largest_only=True, fill_holes=True)})
    assert np.array_equal(found, np.ones((5, 5)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("given_labels", [True, False])
def test_smoothing_removes_what_is_smaller_than_its_radius_and_keeps_what_is_larger(
    dims: int, given_labels: bool
) -> None:
    spacing = 0.5
    geometry = Geometry((spacing,) * dims, (0.0,) * dims, "mm")
    for radius, stays in ((3.0, False), (4.0, True)):
        mask = disk(radius / spacing, 33, dims)
        found = mask if given_labels else np.stack([1 - mask, mask]).astype(np.float32)
        assert cleaned(found, geometry, {1: Cleaning(smoothing=3.5)}).any() == stays


def test_smoothing_follows_the_spacing_of_each_axis() -> None:
    """A strip stays where half of it is more than 0.674 spreads: 1.75 mm here. Half is 1.5 mm or 3 mm."""
    geometry = Geometry((1.0, 2.0), (0.0, 0.0), "mm")
    across_rows, across_columns = np.zeros((21, 21), np.uint8), np.zeros((21, 21), np.uint8)
    across_rows[9:12] = 1
    across_columns[:, 9:12] = 1
    smoothing = {1: Cleaning(smoothing=2.6 * math.sqrt(2 * math.log(2)))}
    assert not cleaned(across_rows, geometry, smoothing).any()
    assert cleaned(across_columns, geometry, smoothing)[10].sum() == 3


def test_smoothing_rounds_a_notch_in_its_own_class_and_leaves_the_other() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[5:25, 5:15] = 1
    labels[14, 5:10] = 0  # a notch, one pixel wide
    labels[14, 20:28] = 2  # a line of the other class, as thin
    found = cleaned(labels, PIXELS, {1: Cleaning(smoothing=3)})
    assert (found[14, 6:15] == 1).all()
    assert np.array_equal(found == 2, labels == 2)


def test_a_class_that_is_not_asked_for_and_unlabelled_elements_stay() -> None:
    labels = grid("2.2 ... 2.1")
    labels[1, 1] = 255
    everything = Cleaning(0.5, 1.0, 5, True, True)
    found = cleaned(labels, PIXELS, {1: everything, 7: everything})
    assert np.array_equal(found == 2, labels == 2)
    assert found[1, 1] == 255


def test_each_moment_of_a_time_series_is_cleaned_by_itself() -> None:
    clip = np.stack([grid("11.1 11.."), grid("1.11 ..11")])
    geometry = Geometry((1.0,) * 3, (0.0,) * 3, "pixel", ("t", "y", "x"))
    only = {1: Cleaning(largest_only=True)}
    wanted = np.stack([grid("11.. 11.."), grid("..11 ..11")])
    assert np.array_equal(cleaned(clip, geometry, only), wanted)
    assert np.array_equal(cleaned(np.stack([1.0 - clip, clip]), geometry, only), wanted)
    later = Geometry((1.0,) * 3, (0.0,) * 3, "pixel", ("y", "t", "x"))
    found = cleaned(np.moveaxis(clip, 0, 1), later, only)
    assert np.array_equal(found, np.moveaxis(wanted, 0, 1))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 50),
    st.dictionaries(
        st.integers(1, 3),
        st.builds(
            Cleaning,
            threshold=st.one_of(st.none(), st.floats(0.05, 1)),
            smoothing=st.sampled_from((0.0, 0.8, 3.0)),
            minimum_size=st.sampled_from((0.0, 2.0, 30.0)),
            largest_only=st.booleans(),
            fill_holes=st.booleans(),
        ),
    ),
)
def test_what_stays_obeys_every_rule_at_once(seed: int, cleanings: dict[int, Cleaning]) -> None:
    from napari_prosma.segmentation.regions import regions

    found = cleaned(some_probabilities(4, seed), PIXELS, cleanings)
    for k, cleaning in cleanings.items():
        pieces = [r for r in regions(found, PIXELS, ("background", "a", "b", "c")) if r.label == k]
        assert len(pieces) <= 1 or not cleaning.largest_only
        assert all(piece.size >= cleaning.minimum_size for piece in pieces)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"threshold": 0.0}, "above 0 and at most at 1, found 0"),
        ({"threshold": 1.5}, "found 1.5"),
        ({"smoothing": -1.0}, "smoothing must be 0 or more, found -1"),
        ({"minimum_size": float("nan")}, "minimum size must be 0 or more, found nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cleaning(**wrong)


NAMES = ("background", "liver", "left: kidney")


def test_every_class_or_one_of_them_is_cleaned_as_the_words_say() -> None:
    found = cleanings_from_text(["largest, min=0.5", "left: kidney:holes,smooth=2,threshold=0.4"], NAMES)
    assert found[1] == Cleaning(minimum_size=0.5, largest_only=True)
    assert found[2] == Cleaning(0.4, 2.0, 0.5, largest_only=True, fill_holes=True)
    assert cleanings_from_text([], NAMES) == {}


@pytest.mark.parametrize(
    "text", ["spleen:largest", "background:largest", "liver:min=", "liver:largest=1", "x"]
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        cleanings_from_text([text], NAMES)
