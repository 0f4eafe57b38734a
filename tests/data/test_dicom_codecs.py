"""Every way in which DICOM packs pixels gives the pixels that GDCM (by SimpleITK) finds in them."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK
from dicom_files import save_slice
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError

SIGNED = np.random.default_rng(0).integers(-500, 1500, (24, 20)).astype(np.int16)
UNSIGNED = np.random.default_rng(1).integers(0, 4000, (24, 20)).astype(np.uint16)


def jpeg_2000(pixels: np.ndarray) -> bytes:
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0)


def pack(path: Path, frames: list[bytes], syntax: str, pixels: np.ndarray, **fields: object) -> None:
    save_slice(path, (0, 0, 0), pixels, **fields)
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path)


@pytest.mark.parametrize(
    ("syntax", "pixels", "packed"),
    [
        (
            JPEG2000Lossless,
            UNSIGNED,
            jpeg_2000(UNSIGNED),
        ),
        (
            JPEG2000Lossless,
            SIGNED,
            jpeg_2000(SIGNED),
        ),
        (HTJ2KLossless, UNSIGNED, imagecodecs.htj2k_encode(UNSIGNED, reversible=True)),
        (JPEGLSLossless, UNSIGNED, imagecodecs.jpegls_encode(UNSIGNED)),
        (JPEGLSLossless, SIGNED, imagecodecs.jpegls_encode(SIGNED.view(np.uint16))),
        (JPEGLosslessSV1, UNSIGNED, imagecodecs.ljpeg_encode(UNSIGNED, bitspersample=16)),
    ],
)
def test_lossless_packing_gives_back_every_bit(
    tmp_path: Path, syntax: str, pixels: np.ndarray, packed: bytes
) -> None:
    pack(tmp_path / "a.dcm", [packed], syntax, pixels, RescaleSlope=1, RescaleIntercept=-24)
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], pixels.astype(int) - 24)


def test_run_lengths_give_back_every_bit(tmp_path: Path) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), SIGNED)
    data = dcmread(tmp_path / "a.dcm")
    data.compress(RLELossless)
    data.save_as(tmp_path / "a.dcm")
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], SIGNED)


@pytest.mark.parametrize(
    "name",
    [
        "JPGExtended.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEGLSNearLossless_16.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_rgb_jls_lossy_sample.dcm",
        "GDCMJ2K_TextGBR.dcm",
    ],
)
def test_other_programs_files_are_as_gdcm_has_them(name: str) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path, imageIO="GDCMImageIO")).squeeze()
    ours = read_image(path).array
    assert np.array_equal(ours[0] if len(ours) == 1 else np.moveaxis(ours, 0, -1), theirs)


def test_a_film_inside_dicom_is_refused_with_the_name_of_its_packing(tmp_path: Path) -> None:
    pack(tmp_path / "a.dcm", [b"\0" * 64], MPEG4HP41, UNSIGNED)
    with pytest.raises(DataError, match=r"a\.dcm.*MPEG-4.*uncompressed"):
        read_image(tmp_path / "a.dcm")


def test_twelve_bit_jpeg_keeps_its_twelve_bits(tmp_path: Path) -> None:
    smooth = (np.add.outer(np.arange(24), np.arange(20)) * 80).astype(np.uint16)
    packed = imagecodecs.jpeg8_encode(smooth, level=100, bitspersample=12)
    pack(tmp_path / "a.dcm", [packed], JPEGExtended12Bit, smooth, BitsStored=12, HighBit=11)
    assert np.abs(read_image(tmp_path / "a.dcm").array[0].astype(int) - smooth).max() <= 4
