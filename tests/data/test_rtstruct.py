"""RTSTRUCT: contours in the acquired plane, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from clinic_files import KINDS, judged, save_kind
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from skimage.draw import polygon

from napari_prosma.data.formats.contours import outlines_of
from napari_prosma.data.formats.dicom_labels import describe, read_label
from napari_prosma.data.readers import read_image
from napari_prosma.data.writers import write_dicom
from napari_prosma.errors import DataError

NAMES = ("background", "Läsion", "cyst")


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Two classes with holes, islands in them, and single voxels at the edges."""
    noise = np.random.default_rng(3).normal(size=shape)
    return (noise > 0).astype(np.uint8) + (noise > 1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "ultrasound" not in kind])
def test_a_mask_comes_back_voxel_for_voxel(tmp_path: Path, kind: str) -> None:
    series = read_image(save_kind(tmp_path / "series", kind)).series
    assert series is not None
    labels = blobs(series.shape)
    written = write_dicom(tmp_path / "a.rtstruct.dcm", labels, series, NAMES)
    one = describe(written)
    assert one.is_of(series)
    assert [structure.name for structure in one.structures] == list(NAMES[1:])
    assert one.structures[0].colour == (0, 194, 255)
    found, notices = read_label([one], series, {"läsion": 1, "cyst": 2})
    assert np.array_equal(found, labels)
    assert notices == ()
    assert judged(written) == []


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (9, 8)))
def test_a_keyhole_outline_holds_the_centres_of_the_mask_and_no_others(mask: np.ndarray) -> None:
    drawn = np.zeros(mask.shape, int)
    for outline in outlines_of(mask):
        inside = np.zeros(mask.shape, int)
        inside[polygon(outline[:, 0], outline[:, 1], mask.shape)] = 1
        drawn += inside
    assert np.array_equal(drawn, mask.astype(int))


def test_an_outline_with_holes_is_one_contour_and_an_island_another() -> None:
    mask = np.zeros((15, 15), bool)
    mask[1:14, 1:14] = True
    mask[3:12, 3:12] = False
    mask[5:10, 5:10] = True
    mask[7, 7] = False
    assert len(outlines_of(mask)) == 2


@pytest.mark.parametrize("kind", ["single ultrasound", "ultrasound clip"])
def test_what_does_not_say_where_it_lies_gets_no_contours(tmp_path: Path, kind: str) -> None:
    series = read_image(save_kind(tmp_path / "series", kind)).series
    assert series is not None
    with pytest.raises(DataError, match="write a DICOM SEG"):
        write_dicom(tmp_path / "a.rtstruct.dcm", np.ones(series.shape, np.uint8), series, NAMES)
