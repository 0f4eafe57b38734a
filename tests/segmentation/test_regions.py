"""Regions and their measures, against values worked out by hand on small arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.segmentation.regions import element_size, longest_diameter, region_rows, regions

NAMES = ("background", "liver", "lesion")
MM2 = Geometry((0.5, 0.5), (0.0, 0.0), "mm")
MM3 = Geometry((5.0, 1.0, 2.0), (0.0, 0.0, 0.0), "mm")


def test_each_piece_of_each_class_is_a_row_classes_in_order_largest_first() -> None:
    labels = np.array(
        [
            [2, 0, 1, 1, 0],
            [0, 0, 1, 1, 0],
            [1, 0, 0, 0, 0],
            [0, 0, 0, 2, 2],
        ]
    )
    found = regions(labels, MM2, NAMES)
    assert [(r.label, r.class_name, r.elements) for r in found] == [
        (1, "liver", 4),
        (1, "liver", 1),
        (2, "lesion", 2),
        (2, "lesion", 1),
    ]
    assert [r.size for r in found] == [1.0, 0.25, 0.5, 0.25]
    assert found[0].centroid == (0.5, 2.5)
    assert found[0].box == (slice(0, 2), slice(2, 4))
    assert found[2].box == (slice(3, 4), slice(3, 5))


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    assert [r.elements for r in regions(np.eye(3, dtype=np.uint8), MM2, NAMES)] == [3]


def test_a_class_that_runs_through_another_ones_box_is_not_cut() -> None:
    labels = np.array([[1, 2, 1], [1, 2, 1], [1, 1, 1]])
    assert [(r.label, r.elements) for r in regions(labels, MM2, NAMES)] == [(1, 7), (2, 2)]


def test_a_volume_is_in_ml_and_its_diameter_in_mm() -> None:
    labels = np.zeros((3, 6, 6), np.uint8)
    labels[1, 1:5, 1:3] = 1
    (found,) = regions(labels, MM3, NAMES)
    assert (found.size, found.size_unit) == (pytest.approx(8 * 10 / 1000), "ml")
    # From the lower face of one corner to the upper face of the opposite one: the slice is 5 mm thick, its
    # outer rows are 3 mm apart and its columns 2 mm.
    assert (found.diameter, found.diameter_unit) == (pytest.approx(math.hypot(5, 3, 2)), "mm")


@pytest.mark.parametrize(
    ("geometry", "size", "unit"),
    [
        (MM2, 0.25, "mm^2"),
        (MM3, 0.01, "ml"),
        (Geometry((2.0, 3.0), (0.0, 0.0), "um"), 6.0, "um^2"),
        (Geometry((2.0, 3.0, 1.0), (0.0, 0.0, 0.0), "um"), 6.0, "um^3"),
        (Geometry.pixels(2), 1.0, "pixels"),
        (Geometry.pixels(3), 1.0, "voxels"),
        (Geometry((0.1, 0.5, 0.5), (0.0,) * 3, "mm", ("t", "y", "x")), 0.25, "mm^2"),
    ],
)
def test_the_size_of_an_element_has_the_unit_that_the_axes_give(
    geometry: Geometry, size: float, unit: str
) -> None:
    assert element_size(geometry) == (pytest.approx(size), unit)


def test_a_row_of_elements_is_as_long_as_they_are_and_a_single_one_is_one_long() -> None:
    assert longest_diameter(np.ones((1, 7), bool), (1.0, 2.0)) == pytest.approx(14)
    assert longest_diameter(np.ones((1, 1), bool), (1.0, 1.0)) == pytest.approx(1)
    assert longest_diameter(np.ones((1, 1, 1), bool), (4.0, 1.0, 1.0)) == pytest.approx(4)


def test_a_disk_and_a_ball_are_as_wide_as_they_are() -> None:
    for dims, radius in ((2, 20), (3, 9)):
        grid = np.indices((2 * radius + 1,) * dims) - radius
        ball = (grid**2).sum(axis=0) <= radius**2
        assert longest_diameter(ball, (0.5,) * dims) == pytest.approx(0.5 * (2 * radius + 1), abs=1e-6)


def test_the_diameter_of_any_shape_is_exact() -> None:
    """Against every pair of face centres of every element."""
    rng = np.random.default_rng(4)
    for shape, share in (((14, 17), 0.4), ((5, 6, 4), 0.15), ((9, 3), 0.1)):
        spacing = np.array((1.0, 0.7, 2.5)[: len(shape)])
        for _ in range(5):
            mask = rng.random(shape) < share
            faces = [(at + side) * spacing for at in np.argwhere(mask) for side in sides(len(shape))]
            farthest = max(math.dist(one, other) for one in faces for other in faces)
            assert longest_diameter(mask, spacing) == pytest.approx(farthest)


def sides(dims: int) -> np.ndarray:
    return np.concatenate([0.5 * np.eye(dims), -0.5 * np.eye(dims)])


def test_intensity_is_the_mean_of_each_channel_and_confidence_of_the_probability_of_the_class() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 2]])
    image = np.stack([np.arange(6).reshape(2, 3), np.full((2, 3), 7)])
    probabilities = np.zeros((3, 2, 3), np.float32)
    probabilities[1, 0, :2] = 1, 0.5
    probabilities[0, 0, 1] = 0.5
    probabilities[:, 1, 2] = 1 / 3
    first, second = regions(labels, Geometry.pixels(2), NAMES, image, probabilities)
    assert first.intensity == (0.5, 7)
    assert second.intensity == (5, 7)
    assert first.confidence == pytest.approx(0.75)
    assert second.confidence == pytest.approx(1 / 3)
    probabilities[:, 1, 2] = 0.9, 0.1, 0  # painted where the model is sure of something else
    assert regions(labels, Geometry.pixels(2), NAMES, image, probabilities)[1].confidence == 0
    assert regions(labels, MM2, NAMES)[0].confidence is None


def test_a_piece_within_the_box_of_another_is_measured_without_it() -> None:
    labels = np.array([[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    image = np.where(labels, 10.0, 0.0)[None]
    image[0, 1, 2] = 50
    probabilities = np.stack([1 - labels, labels]).astype(np.float32)
    probabilities[:, 1, 2] = 0.5
    outer, inner = regions(labels, MM2, NAMES[:2], image, probabilities)
    assert (outer.elements, outer.intensity, outer.confidence) == (7, (10,), 1)
    assert (inner.elements, inner.intensity, inner.confidence) == (1, (50,), 0.5)


def test_the_place_to_go_to_lies_on_the_region_though_its_centroid_does_not() -> None:
    bent = np.zeros((6, 9), np.uint8)
    bent[1:5, 1:9] = 1
    bent[2:5, 2:8] = 0
    (found,) = regions(bent, MM2, NAMES)
    assert found.centroid == (pytest.approx(26 / 14), 4.5)
    assert found.at == (1, 4)
    assert bent[found.at] == 1


def test_in_a_time_series_nothing_is_connected_through_time() -> None:
    clip = np.zeros((3, 4, 4), np.uint8)
    clip[:2, 1:3, 1:3] = 1
    geometry = Geometry((1.0, 2.0, 2.0), (0.0,) * 3, "mm", ("t", "y", "x"))
    found = regions(clip, geometry, NAMES)
    assert [(r.elements, r.size, r.size_unit, r.at[0]) for r in found] == [
        (4, 16.0, "mm^2", 0),
        (4, 16.0, "mm^2", 1),
    ]
    assert found[0].diameter == pytest.approx(math.hypot(2, 4))
    rows = region_rows(found, geometry, "clip")
    assert [row["frame"] for row in rows] == [0, 1]
    assert not any(name.endswith(" t") for name in rows[0])


def test_what_nobody_labelled_is_no_region() -> None:
    labels = np.array([[255, 1], [255, 0]], np.uint8)
    assert [r.label for r in regions(labels, MM2, NAMES)] == [1]


def test_no_foreground_gives_no_rows() -> None:
    assert regions(np.zeros((3, 3), np.uint8), MM2, NAMES) == []


def test_another_grid_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(3, 3\) but the image \(4, 3\)"):
        regions(np.zeros((3, 3), np.uint8), MM2, NAMES, np.zeros((1, 4, 3)))


def test_rows_name_their_units_and_where_the_region_lies() -> None:
    labels = np.zeros((2, 3), np.uint8)
    labels[1, 1:] = 1
    found = regions(labels, MM2, NAMES, np.full((1, 2, 3), 9.0))
    assert region_rows(found, MM2, "scan") == [
        {
            "case": "scan",
            "class": "liver",
            "area (mm^2)": 0.5,
            "longest diameter (mm)": pytest.approx(1.0),
            "mean intensity": 9.0,
            "elements": 2,
            "centre y": 1.0,
            "first y": 1,
            "last y": 1,
            "centre x": 1.5,
            "first x": 1,
            "last x": 2,
        }
    ]
    (row,) = region_rows(regions(labels[None], MM3, NAMES), MM3, "scan")
    assert "volume (ml)" in row
