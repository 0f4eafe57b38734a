"""Whatever the bytes: an image, or an error that names the file, and no blow-up of memory."""

from __future__ import annotations

import gzip
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile
from dicom_files import save_slice

from napari_prosma.data.readers import read_header, read_image, read_label, read_pyramid
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

VOXELS = np.random.default_rng(0).integers(0, 4, (6, 7, 8)).astype(np.uint8)
READERS: tuple[Callable[[Path], object], ...] = (
    read_header,
    read_image,
    read_label,
    read_pyramid,
)


def save(path: Path) -> None:
    match path.name.split(".", 1):
        case ["zip", "tif"]:
            tifffile.imwrite(path, VOXELS, compression="zlib")
        case [_, "tif"]:
            tifffile.imwrite(path, VOXELS)
        case [_, "ome.tif" | "ome.zarr"]:
            write_labels(path, VOXELS, Geometry((1.0, 2.0, 3.0), (0.0,) * 3, "mm"))
        case [_, "npy"]:
            np.save(path, VOXELS)
        case [_, "npz"]:
            np.savez_compressed(path, VOXELS)
        case [_, "dcm"]:
            save_slice(path, (0, 0, 0), VOXELS[0].astype(np.int16))
        case [_, "png" | "jpg" | "bmp"]:
            PIL.Image.fromarray(VOXELS[0] * 60).convert("P").convert("RGB").save(path)
        case [packing, _]:
            image = SimpleITK.GetImageFromArray(VOXELS)
            SimpleITK.WriteImage(image, str(path), useCompression=packing == "zip")


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, most often in the header; at times the end cut off."""
    data = bytearray(whole)
    reach = len(data) if rng.random() < 0.3 else min(len(data), 400)
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(reach)] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    return bytes(data[: rng.integers(len(data))] if rng.random() < 0.2 else data)


def assert_read_or_named(path: Path) -> None:
    for read in READERS:
        said = ""
        try:
            read(path)
        except DataError as error:
            said = str(error)
        assert not said or path.name in said


@pytest.mark.parametrize(
    "name",
    [
        *(
            "raw.nii",
            "zip.nii.gz",
            "raw.mha",
            "zip.mha",
            "raw.nrrd",
            "zip.nrrd",
            "raw.tif",
            "zip.tif",
            "a.ome.tif",
        ),
        *("a.npy", "a.npz", "a.dcm", "a.png", "a.jpg", "a.bmp"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_end_in_an_image_or_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(40):
        (tmp_path / name).write_bytes(damaged(whole, rng))
        assert_read_or_named(tmp_path / name)


def test_damaged_zarr_metadata_end_in_an_error_that_names_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "a.ome.zarr")
    rng = np.random.default_rng(2)
    for file in (tmp_path / "a.ome.zarr").rglob(".z*"):
        whole = file.read_bytes()
        for _ in range(25):
            file.write_bytes(damaged(whole, rng))
            assert_read_or_named(tmp_path / "a.ome.zarr")
        file.write_bytes(whole)


def test_a_picture_of_a_hundred_thousand_pixels_square_is_refused(tmp_path: Path) -> None:
    PIL.Image.new("1", (16, 16)).save(tmp_path / "bomb.png")
    picture = bytearray((tmp_path / "bomb.png").read_bytes())
    picture[16:24] = struct.pack(">II", 100_000, 100_000)
    picture[29:33] = struct.pack(">I", zlib.crc32(picture[12:29]))
    (tmp_path / "bomb.png").write_bytes(picture)
    with pytest.raises(DataError, match=r"bomb\.png.*larger than any real picture"):
        read_image(tmp_path / "bomb.png")


def test_a_tiff_that_claims_gigapixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, VOXELS[0], compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[name].overwrite(50_000)
    with pytest.raises(DataError, match=r"bomb\.tif.*promises"):
        read_image(path)


def peak_of(read: Callable[[], object]) -> int:
    """Most bytes that Python and NumPy held at once during a call."""
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_gzip_that_inflates_to_more_than_its_header_says_is_read_no_further(tmp_path: Path) -> None:
    save(tmp_path / "raw.nii")
    whole = (tmp_path / "raw.nii").read_bytes()
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as file:
        file.write(whole)
        for _ in range(100):
            file.write(bytes(1 << 20))
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array, read_image(tmp_path / "raw.nii").array)
    assert peak_of(lambda: read_image(tmp_path / "a.nii.gz")) < 3_000_000


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.nrrd"])
def test_a_deflated_volume_is_never_held_twice(tmp_path: Path, name: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, (40, 512, 512)).astype(np.int16)
    write_labels(tmp_path / name, voxels, Geometry((1.0,) * 3, (0.0,) * 3, "mm"))
    held = read_image(tmp_path / name).array.nbytes
    assert peak_of(lambda: read_image(tmp_path / name)) < held + 4_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="permissions work otherwise")
def test_a_file_that_may_not_be_opened_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "raw.mha")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"raw\.mha.*Permission denied"):
        read_image(tmp_path / "raw.mha")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.nii.gz", "a.nii", "a.mha", "a.nrrd", "a.npy"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; download or export it again"),
        (b"\n<!DOCTYPE html>\n<title>Sign in</title>", "is a web page, as after a download that failed"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a pointer of Git LFS, .* 'git lfs pull'",
        ),
        (b"/annex/objects/MD5E-s3--0.nii.gz\n", "is a pointer of git-annex, .* 'git annex get'"),
    ],
)
def test_what_lies_in_the_place_of_an_image_is_called_that(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in READERS:
        with pytest.raises(DataError, match=f"{name}' {said}"):
            read(path)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VOXELS.astype(np.complex64))
    with pytest.raises(DataError, match="holds complex numbers; save their magnitude"):
        read_image(tmp_path / "a.tif")
