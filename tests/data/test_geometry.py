"""What is written lies exactly over what was read, whatever the axes of the file."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_prosma.data.readers import read_header, read_image, read_label
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.geometry import Geometry, SourceFrame

SHAPE = (4, 5, 6)
SPATIAL_FIELDS = (
    *("srow_x", "srow_y", "srow_z", "sform_code", "qform_code", "xyzt_units"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)
ORIENTATIONS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
OBLIQUE = np.array(
    [
        [1.9, -0.31, 0.22, 17.3],
        [0.35, 2.9, -0.41, -8.1],
        [-0.18, 0.55, 3.9, 101.7],
        [0, 0, 0, 1],
    ]
)


def oriented(axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    for stored, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[world, stored] = sign * (0.7, 1.1, 3.3)[stored]
    affine[:, 3] = (-12.34, 56.7, 8.9, 1)
    return affine


def volume(path: Path, affine: np.ndarray, codes: tuple[int, int] = (1, 1)) -> nibabel.Nifti1Image:
    voxels = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, codes[0])
    image.set_qform(affine, codes[1], strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return nibabel.load(path)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_labels_return_to_their_voxels_from_all_48_orientations(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    stored = volume(tmp_path / "image.nii", oriented(axes, signs))
    image = read_image(tmp_path / "image.nii")
    write_labels(tmp_path / "label.nii.gz", image.array[0], image.geometry)
    written = nibabel.load(tmp_path / "label.nii.gz")
    assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(stored.dataobj))
    for name in SPATIAL_FIELDS:
        assert written.header[name].tobytes() == stored.header[name].tobytes(), name
    assert written.affine.tobytes() == stored.affine.tobytes()


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_every_voxel_stands_at_head_back_left(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    stored = volume(tmp_path / "image.nii", oriented(axes, signs))
    image = read_image(tmp_path / "image.nii")
    geometry = image.geometry
    for index in itertools.product(*(range(n) for n in SHAPE)):
        right, front, head, _ = stored.affine @ (*index, 1)
        ours = np.round(
            (np.array([head, -front, -right]) - geometry.origin) / np.array(geometry.spacing)
        ).astype(int)
        assert image.array[0][tuple(ours)] == stored.dataobj[index]


def test_an_oblique_volume_keeps_its_affine_bit_for_bit(tmp_path: Path) -> None:
    stored = volume(tmp_path / "image.nii.gz", OBLIQUE)
    image = read_image(tmp_path / "image.nii.gz")
    write_labels(tmp_path / "label.nii.gz", image.array[0], image.geometry)
    written = nibabel.load(tmp_path / "label.nii.gz")
    for name in SPATIAL_FIELDS:
        assert written.header[name].tobytes() == stored.header[name].tobytes(), name
    assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(stored.dataobj))


@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (1, 3), (0, 0)])
def test_form_codes_and_units_are_kept(tmp_path: Path, codes: tuple[int, int]) -> None:
    stored = volume(tmp_path / "image.nii", oriented((1, 0, 2), (-1, 1, -1)), codes)
    image = read_image(tmp_path / "image.nii")
    write_labels(tmp_path / "label.nii", image.array[0], image.geometry)
    written = nibabel.load(tmp_path / "label.nii")
    for name in ("sform_code", "qform_code", "xyzt_units"):
        assert written.header[name] == stored.header[name]
    assert written.affine.tobytes() == stored.affine.tobytes()


def test_the_array_affine_agrees_with_the_stored_one(tmp_path: Path) -> None:
    volume(tmp_path / "image.nii", OBLIQUE)
    image = read_image(tmp_path / "image.nii")
    source = image.geometry.source
    assert source is not None
    ours = source.array_affine(image.array.shape[1:])
    for index in itertools.product(*(range(n) for n in image.array.shape[1:])):
        value = int(image.array[0][index])
        stored = np.unravel_index(value, SHAPE)
        assert np.allclose(ours @ (*index, 1), np.array(source.affine) @ (*stored, 1))


def test_probability_channels_become_the_fourth_axis(tmp_path: Path) -> None:
    stored = volume(tmp_path / "image.nii", oriented((2, 0, 1), (1, -1, 1)))
    image = read_image(tmp_path / "image.nii")
    maps = np.stack([image.array[0], 255 - image.array[0]]).astype(np.float32)
    write_map(tmp_path / "map.nii.gz", maps, image.geometry)
    written = np.asanyarray(nibabel.load(tmp_path / "map.nii.gz").dataobj)
    assert written.shape == (*SHAPE, 2)
    assert np.array_equal(written[..., 0], np.asanyarray(stored.dataobj))
    assert np.array_equal(read_image(tmp_path / "map.nii.gz").array, maps)


def test_a_big_endian_nifti2_file_is_read_and_written_as_such(tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=">i2").reshape(SHAPE)
    header = nibabel.Nifti2Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti2Image(voxels, OBLIQUE, header), tmp_path / "image.nii")
    image = read_image(tmp_path / "image.nii")
    assert image.array.dtype == np.dtype(np.int16)
    write_labels(tmp_path / "label.nii", image.array[0], image.geometry)
    written = nibabel.load(tmp_path / "label.nii")
    assert isinstance(written, nibabel.Nifti2Image)
    assert written.affine.tobytes() == OBLIQUE.tobytes()
    assert np.array_equal(np.asanyarray(written.dataobj), voxels)


def test_scaling_in_the_header_is_applied_and_not_inherited(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(SHAPE), np.eye(4))
    image.header.set_slope_inter(2.0, -1024)
    nibabel.save(image, tmp_path / "image.nii.gz")
    read = read_image(tmp_path / "image.nii.gz")
    assert read.array.min() == pytest.approx(nibabel.load(tmp_path / "image.nii.gz").get_fdata().min())
    labels = (read.array[0] > read.array.mean()).astype(np.uint8)
    write_labels(tmp_path / "label.nii.gz", labels, read.geometry)
    assert set(np.unique(nibabel.load(tmp_path / "label.nii.gz").get_fdata())) == {0, 1}


def test_the_header_alone_tells_shape_and_geometry(tmp_path: Path) -> None:
    volume(tmp_path / "image.nii.gz", oriented((2, 0, 1), (1, -1, 1)))
    image, header = read_image(tmp_path / "image.nii.gz"), read_header(tmp_path / "image.nii.gz")
    assert header.shape == image.array.shape[1:]
    assert header.geometry == image.geometry
    assert header.channels == 1


@pytest.mark.parametrize(("unit", "ours", "spacing"), [("micron", "um", 2.0), ("meter", "mm", 2000.0)])
def test_units_of_the_file_are_respected(tmp_path: Path, unit: str, ours: str, spacing: float) -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.diag((2.0, 2, 2, 1)))
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "image.nii")
    geometry = read_image(tmp_path / "image.nii").geometry
    assert geometry.unit == ours
    assert geometry.spacing == pytest.approx((spacing,) * 3)


def test_a_picture_becomes_a_nifti_that_reads_back_the_same(tmp_path: Path) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    write_labels(tmp_path / "label.nii", labels, Geometry((0.5, 0.25), (1.0, 2.0), "mm"))
    read, geometry = read_label(tmp_path / "label.nii")
    assert np.array_equal(read[0], labels)
    assert geometry.spacing == (1.0, 0.5, 0.25)
    assert geometry.origin == (0.0, 1.0, 2.0)


def test_a_singular_affine_has_no_frame() -> None:
    with pytest.raises(ValueError, match="singular"):
        SourceFrame.canonical(np.diag((1.0, 1.0, 0.0, 1.0)))
