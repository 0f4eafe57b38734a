"""Results are written whole, in the smallest safe type, and read back the same."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.formats import pictures
from napari_prosma.data.readers import read_image, read_label
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

PLANE, SOLID = Geometry.pixels(2), Geometry((2.0, 0.5, 0.5), (1.0, 2.0, 3.0), "mm")
ALL = [("a.png", PLANE), ("a.tif", PLANE), ("a.tif", SOLID), ("a.ome.tif", SOLID), ("a.nii.gz", SOLID)]


def indices(geometry: Geometry, highest: int = 3) -> np.ndarray:
    shape = (3, 4, 5)[-geometry.ndim :]
    return np.random.default_rng(0).integers(0, highest + 1, shape)


@pytest.mark.parametrize(("name", "geometry"), ALL)
def test_labels_read_back_the_same(tmp_path: Path, name: str, geometry: Geometry) -> None:
    labels = indices(geometry)
    read, _ = read_label(write_labels(tmp_path / name, labels, geometry, ("background", "a", "b", "ü")))
    assert np.array_equal(read, labels)
    assert read.dtype == np.uint8


@pytest.mark.parametrize(("name", "geometry"), [pair for pair in ALL if pair[0] != "a.png"])
def test_maps_read_back_the_same(tmp_path: Path, name: str, geometry: Geometry) -> None:
    maps = np.random.default_rng(0).normal(size=(2, *indices(geometry).shape)).astype(np.float32)
    assert np.array_equal(read_image(write_map(tmp_path / name, maps, geometry)).array, maps)
    assert np.array_equal(read_image(write_map(tmp_path / name, maps[0], geometry)).array[0], maps[0])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", ["a.nrrd", "a.seg.nrrd", "a.mha", "a.nii.gz", "a.tif", "a.ome.zarr"])
def test_micrometres_are_no_millimetres(tmp_path: Path, name: str, ndim: int) -> None:
    geometry = Geometry((2.0, 0.5, 0.25)[-ndim:], (10.0, 4.0, 6.0)[-ndim:], "um")
    _, found = read_label(write_labels(tmp_path / name, indices(geometry), geometry, ("background", "cell")))
    in_um = {"um": 1.0, "mm": 1000.0}[found.unit]
    assert [size * in_um for size in found.spacing[-ndim:]] == pytest.approx(geometry.spacing)


def test_a_patient_frame_in_micrometres_is_written_in_millimetres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 3), np.uint8), np.diag((20.0, 30.0, 50.0, 1.0)))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "image.nii")
    _, geometry = read_label(tmp_path / "image.nii")
    for name in ("a.nrrd", "a.mha", "a.nii"):
        labels = np.zeros((3, 5, 4), np.uint8)
        _, found = read_label(write_labels(tmp_path / name, labels, geometry))
        assert np.allclose(found.in_mm(labels.shape), geometry.in_mm(labels.shape))
    assert nibabel.load(tmp_path / "a.nii").header.get_xyzt_units()[0] == "micron"


@pytest.mark.parametrize(("highest", "kind"), [(255, np.uint8), (256, np.uint16), (65536, np.uint32)])
@pytest.mark.parametrize("name", ["a.nii", "a.tif"])
def test_the_type_is_the_smallest_that_holds_the_labels(
    tmp_path: Path, name: str, highest: int, kind: type
) -> None:
    labels = np.array([[[0, highest]], [[1, 0]]], dtype=np.int64)
    read, _ = read_label(write_labels(tmp_path / name, labels, SOLID))
    assert read.dtype == kind
    assert np.array_equal(read, labels)


def test_a_png_map_holds_0_to_1_in_16_bits(tmp_path: Path) -> None:
    array = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    read = read_image(write_map(tmp_path / "a.png", array[None], PLANE)).array[0]
    assert np.allclose(read / 65535, array, atol=1e-5)
    with pytest.raises(DataError, match="from 0 to 1"):
        write_map(tmp_path / "b.png", array * 2, PLANE)


def test_class_names_are_kept_where_the_format_can(tmp_path: Path) -> None:
    names = ("background", "left lobe")
    write_labels(tmp_path / "a.nii.gz", indices(SOLID, 1), SOLID, names)
    assert b"left lobe" in nibabel.load(tmp_path / "a.nii.gz").header.extensions[0].get_content()
    write_labels(tmp_path / "a.png", indices(PLANE, 1), PLANE, names)
    assert "left lobe" in PIL.Image.open(tmp_path / "a.png").text["class_names"]


def test_a_png_is_white_or_coloured_where_that_is_asked(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    plane = Geometry.pixels(2)
    path = write_labels(tmp_path / "a.png", labels, plane, shown="white")
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), labels * 255)
    many = np.array([[0, 1], [14, 0]], np.uint8)
    with pytest.raises(DataError, match="255 stands for one structure, but the labels run up to 14"):
        write_labels(path, many, plane, shown="white")
    write_labels(path, many, plane, shown="colours")
    np.testing.assert_array_equal(read_label(path)[0], many)
    seen = np.asarray(PIL.Image.open(path).convert("RGB"))
    assert [seen[0, 0].max(), seen[0, 1].max(), seen[1, 0].max()] == [0, 255, 255]
    with pytest.raises(DataError, match="a palette has 256 colours"):
        write_labels(path, many.astype(np.uint16) * 100, plane, shown="colours")
    np.testing.assert_array_equal(read_label(path)[0], many)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_labels(tmp_path / "a.png", indices(PLANE), PLANE)
    before = path.read_bytes()

    def break_off(target: Path, labels: np.ndarray, names: tuple[str, ...], shown: str) -> None:
        target.write_bytes(b"half a fi")
        raise OSError("no space left on device")

    monkeypatch.setattr(pictures, "write_labels", break_off)
    with pytest.raises(DataError, match=r"a\.png.*no space left"):
        write_labels(path, indices(PLANE), PLANE)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "labels", "geometry", "says"),
    [
        ("a.png", np.zeros((2, 3, 4), int), SOLID, r"^'a\.png': .*one plane"),
        ("a.jpg", np.zeros((3, 4), int), PLANE, r"^'a\.jpg': .*loses values"),
        ("a.hdr", np.zeros((2, 3, 4), int), SOLID, r"^'a\.hdr': .*one file; use \.nii\.gz"),
        ("a.xyz", np.zeros((3, 4), int), PLANE, "choose one of"),
        ("a.nii", np.full((2, 3, 4), -1), SOLID, "start at 0"),
        ("a.nii", np.zeros((2, 3, 4)), SOLID, "not whole numbers"),
        ("a.nii", np.zeros((3, 4), int), SOLID, "3 axes"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_written(
    tmp_path: Path, name: str, labels: np.ndarray, geometry: Geometry, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        write_labels(tmp_path / name, labels, geometry)
    assert not list(tmp_path.iterdir())


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_labels(tmp_path / "a.nii.gz", indices(SOLID), SOLID).read_bytes()
    assert write_labels(tmp_path / "a.nii.gz", indices(SOLID), SOLID).read_bytes() == first
