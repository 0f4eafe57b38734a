"""Files as they are segmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from clinic_files import save_kind

from napari_prosma.data.case import Image
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError
from napari_prosma.events import Event, Finished, Notice
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.segmentation.files import Wanted, class_sizes, outputs, read_fitting, segment_file

NAMES = ("background", "liver", "left: kidney")


def finding_nothing(checkpoint: Checkpoint, image: Image, name: str, **_: object) -> Iterator[Event]:
    """In place of ``segment``: every element is background."""
    shape = image.array.shape[1:]
    probabilities = np.zeros((2, *shape), np.float32)
    probabilities[0] = 1
    labels = np.zeros(shape, np.uint8)
    yield Finished(Segmentation(name, labels, probabilities, image.geometry, NAMES[:2]))


def test_an_image_with_other_channels_is_named(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "two.ome.tif", np.zeros((2, 16, 16), np.uint8), metadata={"axes": "CYX"})
    with pytest.raises(DataError, match=r"'two\.ome\.tif' cannot be segmented: .* where 3 are expected"):
        read_fitting(tmp_path / "two.ome.tif", make_checkpoint(channels=3))


def test_the_size_in_a_time_series_is_told_per_frame() -> None:
    clip = np.zeros((4, 3, 3), np.uint8)
    clip[0, 0], clip[1] = 1, 1
    geometry = Geometry((1.0, 2.0, 2.0), (0.0,) * 3, "mm", ("t", "y", "x"))
    row = class_sizes("a.mp4", clip, geometry, NAMES[:2])
    assert row == {"image": "a.mp4", "liver (mm^2 per frame)": 12.0, "frames with liver": 2.0}


def test_nan_of_an_image_to_segment_is_its_lowest_value(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    image = np.full((16, 16), 3, np.float32)
    image[0] = np.nan
    image[1] = -2
    tifffile.imwrite(tmp_path / "a.tif", image)
    found = read_fitting(tmp_path / "a.tif", make_checkpoint(channels=1))
    assert np.all(found.array[0, 0] == -2)
    assert "NaN" in found.notices[0]


@pytest.mark.parametrize(
    ("shear", "kind", "header", "is_told"),
    [
        (0.7, "auto", b"", True),
        (0.7, "nrrd", b"", False),
        (0, "auto", b"", False),
        (0.7, "auto", nibabel.Nifti1Image(np.zeros((4, 4, 3), np.int16), None).header.binaryblock, False),
    ],
)
def test_a_nifti_that_itk_cannot_open_is_told(
    make_checkpoint: Callable[..., Checkpoint],
    tmp_path: Path,
    shear: float,
    kind: str,
    header: bytes,
    is_told: bool,
) -> None:
    affine = np.array([[-0.5, 0, 0, 0], [0, -0.5, shear, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    array = np.zeros((1, 3, 4, 4), np.int16)
    image = Image(array, Geometry.patient(SourceFrame.canonical(affine, header), array.shape[1:]))
    wanted = Wanted(format=kind)
    files = outputs(Path("ct"), image.geometry, tmp_path, wanted)
    events = segment_file(make_checkpoint(), Path("ct"), image, files, wanted, finding_nothing)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("right angles" in notice for notice in notices) == is_told


@pytest.mark.parametrize("kind", ["auto", "tiff", "seg", "nifti", "nrrd"])
def test_one_slice_is_not_written_where_it_does_not_lie(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, kind: str
) -> None:
    if kind == "seg":
        pytest.importorskip("highdicom")
    for image_kind, is_placed in (("one CT slice", True), ("single ultrasound", False)):
        path = save_kind(tmp_path / image_kind, image_kind)
        image, wanted = read_image(path), Wanted(format=kind)
        files = outputs(path, image.geometry, tmp_path / "out", wanted)
        events = segment_file(make_checkpoint(), path, image, files, wanted, finding_nothing)
        if is_placed and kind in ("nifti", "nrrd"):
            with pytest.raises(DataError, match=r"'.*a\.dcm' is a single slice, .* choose --format seg"):
                list(events)
            assert not files[0].exists()
        else:
            list(events)
            assert files[0].exists()
            files[0].unlink()
