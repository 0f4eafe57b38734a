"""Pictures and TIFF of every mode, and what is said of files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_prosma.data.case import Image
from napari_prosma.data.readers import as_channels, can_read, read_header, read_image, read_label, stem
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

Save = Callable[..., Path]


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)]
)
def test_the_mode_of_a_picture_decides_its_channels(
    save_picture: Save, scan: np.ndarray, mode: str, channels: int
) -> None:
    path = save_picture("image.png", scan, mode)
    image = read_image(path)
    assert image.array.shape == (channels, 20, 24)
    assert read_header(path).channels == channels
    assert read_header(path).shape == (20, 24)


def test_palette_images_show_their_colours_and_palette_masks_their_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    picture = PIL.Image.fromarray(indices, mode="P")
    picture.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    picture.save(tmp_path / "mask.png")
    assert read_image(tmp_path / "mask.png").array[:, 0, 1].tolist() == [200, 10, 10]
    assert read_label(tmp_path / "mask.png")[0].tolist() == indices.tolist()


def test_sixteen_bits_are_kept(save_picture: Save) -> None:
    array = np.array([[0, 300], [40000, 65535]], dtype=np.uint16)
    image = read_image(save_picture("image.png", array))
    assert image.array.dtype == np.uint16
    assert np.array_equal(image.array[0], array)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".jpeg"])
def test_every_picture_format_is_read(save_picture: Save, lesion: np.ndarray, suffix: str) -> None:
    label, _ = read_label(save_picture(f"mask{suffix}", lesion * 255))
    assert np.array_equal(label > 127, lesion == 1)


def test_one_bit_masks_are_0_and_1(save_picture: Save, lesion: np.ndarray) -> None:
    label, _ = read_label(save_picture("mask.png", lesion * 255, "1"))
    assert label.dtype == np.uint8
    assert np.array_equal(label, lesion)


def test_coloured_masks_become_one_number_per_colour(save_picture: Save) -> None:
    colours = np.zeros((2, 2, 3), dtype=np.uint8)
    colours[0, 1] = (255, 0, 0)
    colours[1, 0] = (0, 0, 7)
    label, _ = read_label(save_picture("mask.png", colours))
    assert label.tolist() == [[0, 0xFF0000], [7, 0]]


def test_a_jpeg_mask_in_colour_mode_is_its_brightness(save_picture: Save, lesion: np.ndarray) -> None:
    label, _ = read_label(save_picture("mask.jpg", lesion * 255, "RGB"))
    assert label.max() <= 255
    assert np.array_equal(label > 127, lesion == 1)


def test_a_photo_is_turned_as_its_camera_was_held(tmp_path: Path, scan: np.ndarray) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(scan).save(tmp_path / "photo.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "photo.png").array[0], np.rot90(scan, -1))
    assert read_header(tmp_path / "photo.png").shape == (24, 20)


@pytest.mark.parametrize(
    ("axes", "shape", "ours"),
    [
        ("YX", (5, 6), (1, 5, 6)),
        ("ZYX", (4, 5, 6), (1, 4, 5, 6)),
        ("CYX", (2, 5, 6), (2, 5, 6)),
        ("ZCYX", (4, 2, 5, 6), (2, 4, 5, 6)),
        ("TZYX", (3, 4, 5, 6), (1, 3, 4, 5, 6)),
    ],
)
def test_tiff_axes_go_where_they_belong(
    tmp_path: Path, axes: str, shape: tuple[int, ...], ours: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata={"axes": axes}, photometric="minisblack")
    image = read_image(tmp_path / "a.ome.tif")
    assert image.array.shape == ours
    assert image.geometry.axes == tuple(axis.lower() for axis in axes if axis != "C")
    assert read_header(tmp_path / "a.ome.tif").shape == ours[1:]
    expected = np.moveaxis(array, axes.index("C"), 0) if "C" in axes else array[None]
    assert np.array_equal(image.array, expected)


def test_an_rgb_tiff_has_three_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    assert np.array_equal(read_image(tmp_path / "a.tif").array, np.moveaxis(array, -1, 0))


def test_a_fourth_nifti_axis_becomes_the_channels(save_volume: Save) -> None:
    voxels = np.arange(4 * 5 * 6 * 2, dtype=np.int16).reshape(4, 5, 6, 2)
    image = read_image(save_volume("a.nii", voxels, np.diag((-1.0, -1, 1, 1))))
    assert image.array.shape == (2, 6, 5, 4)
    assert np.array_equal(image.array[1], voxels[..., 1].T)


def test_gray_of_equal_channels_is_the_channel() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image(np.stack([gray] * 3), Geometry.pixels(2))
    assert np.array_equal(as_channels(image, 1).array[0], gray)


def test_gray_of_colour_is_that_of_pillow(scan: np.ndarray) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image(np.moveaxis(colour, -1, 0), Geometry.pixels(2))
    expected = np.asarray(PIL.Image.fromarray(colour).convert("L"))
    assert np.array_equal(as_channels(image, 1).array[0], expected)


def test_channels_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(DataError, match="2 channels where 1"):
        as_channels(Image(np.zeros((2, 4, 4)), Geometry.pixels(2)), 1)


def test_one_hot_labels_become_class_numbers(save_volume: Save) -> None:
    classes = np.random.default_rng(0).integers(0, 3, (4, 5, 6))
    one_hot = np.stack([classes == 1, classes == 2], axis=-1).astype(np.uint8)
    label, geometry = read_label(save_volume("a.nii", one_hot))
    assert geometry.source is not None
    assert np.array_equal(geometry.source.to_stored(label), classes)


def test_masks_of_real_numbers_are_cut_or_rounded(save_volume: Save) -> None:
    affine = np.diag((-1.0, -1, 1, 1))
    soft = np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6)
    assert np.array_equal(read_label(save_volume("a.nii", soft, affine))[0], (soft > 0.5).T)
    whole = np.full((4, 5, 6), 2.0)
    assert read_label(save_volume("b.nii", whole, affine))[0].dtype.kind == "i"
    with pytest.raises(DataError, match=r"c\.nii.*1\.5"):
        read_label(save_volume("c.nii", whole - 0.5, affine))


def test_names_tell_what_can_be_read() -> None:
    assert all(map(can_read, ("a.PNG", "b.nii.gz", "c.d.tiff", "e.jpeg", "f.nii")))
    assert not any(map(can_read, ("a.txt", "b.gz", "c", "d.docx")))
    assert (stem("x/ct.1.nii.gz"), stem("a (1).png")) == ("ct.1", "a (1)")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"this is no image at all, whatever its name says" * 20])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.nii", "a.nii.gz"])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    path = tmp_path / name
    if "nii" in name:
        nibabel.save(nibabel.Nifti1Image(array[..., None], np.eye(4)), path)
    elif "tif" in name:
        tifffile.imwrite(path, array)
    else:
        PIL.Image.fromarray(array).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=name):
        read_image(path)


def test_missing_and_unknown_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png' does not exist"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt.*use one of"):
        read_image(tmp_path / "notes.txt")


def test_a_header_that_promises_more_than_a_file_can_hold_is_refused(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 1000))
    header.set_data_dtype(np.uint8)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    path = tmp_path / "bomb.nii"
    path.write_bytes(header.binaryblock + b"\0" * 400)
    with pytest.raises(DataError, match=r"bomb\.nii.*promises"):
        read_image(path)


def test_an_empty_volume_is_told(save_volume: Save) -> None:
    with pytest.raises(DataError, match=r"none\.nii' is empty: its shape is \(4, 0, 6\)"):
        read_image(save_volume("none.nii", np.zeros((4, 0, 6), np.uint8)))


def test_a_singular_affine_is_named(save_volume: Save, tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header["sform_code"] = 1  # every row zero
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None, header)
    nibabel.save(image, tmp_path / "flat.nii")
    with pytest.raises(DataError, match=r"flat\.nii.*singular"):
        read_image(tmp_path / "flat.nii")
