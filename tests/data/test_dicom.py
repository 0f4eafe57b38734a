"""A folder of DICOM becomes its series: sorted by place, told apart, rescaled, gaps reported."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from clinic_files import save_ultrasound
from dicom_files import AXIAL, save_slice
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space

from napari_prosma.data.formats.dicom import find_series
from napari_prosma.data.readers import can_read, read_header, read_image
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import DataError

ROWS, COLUMNS = 6, 5
OBLIQUE = (0.96592582628907, 0.0, -0.25881904510252, 0.0871557427476582, 0.941669, 0.325)


def planes(count: int = 4) -> np.ndarray:
    return np.arange(count * ROWS * COLUMNS, dtype=np.int16).reshape(count, ROWS, COLUMNS)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Four slices whose names run against their places, in a nested folder."""
    for n, plane in enumerate(planes()):
        save_slice(
            tmp_path / "study" / "series" / f"{9 - n}.dcm", (10, 20, 30 + 2 * n), plane, InstanceNumber=n
        )
    return tmp_path


def test_slices_are_sorted_by_place_not_by_name(series: Path) -> None:
    image = read_image(series)
    assert np.array_equal(image.array[0], planes())
    assert image.geometry.spacing == (2.0, 0.5, 0.25)
    assert image.geometry.origin == (30.0, 20.0, 10.0)
    assert image.notices == ()
    assert read_header(series).shape == (4, ROWS, COLUMNS)
    assert can_read(series / "study" / "series")


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 0, -1)])
def test_every_voxel_lies_where_simpleitk_has_it(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    column -= row * (row @ column)
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    exact = (*row, *column)
    normal = np.cross(exact[:3], exact[3:])
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", np.array([3, -4, 5]) + 2 * n * normal, plane, "1.2.3", exact)
    image = read_image(tmp_path)
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    theirs = SimpleITK.ReadImage(files)
    source = image.geometry.source
    assert source is not None
    affine = source.array_affine(image.array.shape[1:])
    for index in itertools.product(*(range(n) for n in image.array.shape[1:])):
        point = (affine @ (*index, 1))[:3] * (-1, -1, 1)
        assert image.array[0][index] == theirs.GetPixel(theirs.TransformPhysicalPointToIndex(point.tolist()))
    write_labels(tmp_path / "label.nii.gz", image.array[0].astype(np.uint16), image.geometry)
    label = SimpleITK.ReadImage(str(tmp_path / "label.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(label), SimpleITK.GetArrayFromImage(theirs))
    for name in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(label, name)() == pytest.approx(getattr(theirs, name)(), abs=1e-5)


def test_gantry_tilt_is_kept_in_the_affine(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", (0, 0.7 * n, 2 * n), plane)
    source = read_image(tmp_path).geometry.source
    assert source is not None
    assert np.array(source.affine)[:3, 2].tolist() == pytest.approx([0, -0.7, 2])


def test_a_nifti_of_a_tilted_gantry_has_no_qform_that_misplaces_it(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / "series" / f"{n}.dcm", (0, 0.7 * n, 2 * n), plane)
    image = read_image(tmp_path / "series")
    assert image.geometry.source is not None
    write_labels(tmp_path / "label.nii.gz", image.array[0], image.geometry)
    header = nibabel.load(tmp_path / "label.nii.gz").header
    assert header.get_qform(coded=True) == (None, 0)
    assert header.get_sform() == pytest.approx(np.array(image.geometry.source.affine), abs=1e-5)
    assert header.get_zooms() == pytest.approx(np.linalg.norm(header.get_sform()[:3, :3], axis=0))
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(tmp_path / "label.nii.gz"))


def test_rescaling_gives_hounsfield_units(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", (0, 0, n), plane, RescaleSlope=1, RescaleIntercept=-1024)
    image = read_image(tmp_path)
    assert image.array.dtype == np.int16
    assert np.array_equal(image.array[0], planes() - 1024)


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", (0, 0, n), plane, RescaleSlope=1 + n / 2, RescaleIntercept=n)
    expected = planes() * (1 + np.arange(4) / 2)[:, None, None] + np.arange(4)[:, None, None]
    assert np.allclose(read_image(tmp_path).array[0], expected)


def test_series_that_share_a_folder_are_told_apart(series: Path) -> None:
    for n, plane in enumerate(planes(3)):
        save_slice(series / "study" / f"other{n}.dcm", (0, 0, n), plane, "9.9", SeriesDescription="scout")
    with pytest.raises(
        DataError, match=r"2 series: .*thorax \(4 slices.*scout \(3 slices|2 series: .*scout.*thorax"
    ):
        read_image(series)
    images = {one.description: one.read() for one in find_series(series)}
    assert np.array_equal(images["thorax"].array[0], planes())
    assert np.array_equal(images["scout"].array[0], planes(3))


def test_views_of_one_scout_are_told_apart_by_their_orientation(tmp_path: Path) -> None:
    for n, plane in enumerate(planes(2)):
        save_slice(tmp_path / f"a{n}.dcm", (0, 0, n), plane)
        save_slice(tmp_path / f"b{n}.dcm", (0, n, 0), plane, orientation=(1, 0, 0, 0, 0, -1))
    assert [len(series.frames) for series in find_series(tmp_path)] == [2, 2]


def test_missing_slices_are_filled_and_reported(series: Path) -> None:
    (series / "study" / "series" / "7.dcm").unlink()
    image = read_image(series)
    assert image.array.shape[1] == 4
    assert np.array_equal(image.array[0][3], planes()[3])
    assert np.all(image.array[0][2] == 0)
    assert image.notices == ("1 of 4 slices are missing; they are filled with the lowest value",)


def test_missing_slices_of_a_ct_are_air(tmp_path: Path) -> None:
    for n in (0, 1, 3, 4):
        save_slice(tmp_path / f"{n}.dcm", (0, 0, n), planes(5)[n], RescaleSlope=1, RescaleIntercept=-1024)
    array = read_image(tmp_path).array[0]
    assert np.all(array[2] == -1024)
    assert np.array_equal(array[3], planes(5)[3] - 1024)


def test_slices_that_nearly_coincide_do_not_make_a_thousand_missing_ones(tmp_path: Path) -> None:
    for place, plane in zip((0, 1, 1.01, 2), planes(), strict=True):
        save_slice(tmp_path / f"{place}.dcm", (0, 0, place), plane)
    image = read_image(tmp_path)
    assert image.array.shape[1] == 4
    assert "mm apart" in image.notices[0]


def test_values_beyond_16_bits_are_kept(tmp_path: Path) -> None:
    bright = np.full((ROWS, COLUMNS), 60000, np.uint16)
    save_slice(tmp_path / "0.dcm", (0, 0, 0), bright // 60000, RescaleSlope=1, RescaleIntercept=-1024)
    save_slice(tmp_path / "1.dcm", (0, 0, 1), bright, RescaleSlope=1, RescaleIntercept=-1024)
    array = read_image(tmp_path).array[0]
    assert (array[0, 0, 0], array[1, 0, 0]) == (-1023, 58976)


def test_a_slice_stored_twice_is_left_out_and_reported(series: Path) -> None:
    save_slice(series / "again.dcm", (10, 20, 32), planes()[1], InstanceNumber=99)
    image = read_image(series)
    assert np.array_equal(image.array[0], planes())
    assert image.notices == ("1 slices repeat a place and were left out",)


def test_places_that_all_repeat_are_series_of_their_own(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"a{n}.dcm", (0, 0, n), plane, InstanceNumber=n)
        save_slice(tmp_path / f"b{n}.dcm", (0, 0, n), plane + 1000, InstanceNumber=10 + n)
    images = {one.description: one.read() for one in find_series(tmp_path)}
    assert np.array_equal(images["thorax (1 of 2)"].array[0], planes())
    assert np.array_equal(images["thorax (2 of 2)"].array[0], planes() + 1000)


def test_uneven_slices_are_reported(tmp_path: Path) -> None:
    for place, plane in zip((0, 1, 2, 4.5), planes(), strict=True):
        save_slice(tmp_path / f"{place}.dcm", (0, 0, place), plane)
    assert "1 to 2.5 mm apart" in read_image(tmp_path).notices[0]


def test_damaged_and_foreign_files_leave_the_rest_usable(series: Path) -> None:
    (series / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"garbage" * 10)
    (series / "notes.txt").write_text("hello")
    image = read_image(series)
    assert np.array_equal(image.array[0], planes())
    assert "broken.dcm" in image.notices[0]


def test_pixels_cut_short_are_named(series: Path) -> None:
    path = series / "study" / "series" / "8.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"8\.dcm"):
        read_image(series)


def test_dark_and_bright_are_as_meant(tmp_path: Path) -> None:
    save_slice(
        tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], PhotometricInterpretation="MONOCHROME1", Modality="CR"
    )
    array = read_image(tmp_path / "a.dcm").array
    assert array.shape == (1, ROWS, COLUMNS)
    assert array[0, 0, 0] == array.max()


@pytest.mark.parametrize("spacing", [[0, 1], [-1, 1]])
def test_spacing_that_is_not_positive_is_named(tmp_path: Path, spacing: list[float]) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], PixelSpacing=spacing)
    with pytest.raises(DataError, match=r"a\.dcm.*pixel spacing"):
        read_image(tmp_path / "a.dcm")


def test_an_ultrasound_clip_runs_over_time_with_its_pixel_size(tmp_path: Path) -> None:
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.01, 0.02
    clip = planes(7).astype(np.uint8)
    save_slice(
        tmp_path / "a.dcm",
        (0, 0, 0),
        clip,
        NumberOfFrames=7,
        FrameTime=40,
        Modality="US",
        PixelSpacing=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        SequenceOfUltrasoundRegions=[region],
    )
    image = read_image(tmp_path / "a.dcm")
    assert np.array_equal(image.array[0], clip)
    assert image.geometry.axes == ("t", "y", "x")
    assert image.geometry.spacing == pytest.approx((1.0, 0.2, 0.1))
    assert "40 ms" in image.notices[0]


def test_an_enhanced_multi_frame_file_is_a_volume(tmp_path: Path) -> None:
    groups = []
    for n in (2, 0, 3, 1):
        group, place, orientation, measures, values = (Dataset() for _ in range(5))
        place.ImagePositionPatient, orientation.ImageOrientationPatient = [1, 2, 3 * n], list(AXIAL)
        measures.PixelSpacing = [0.5, 0.25]
        values.RescaleSlope, values.RescaleIntercept = 2, -5
        group.PlanePositionSequence, group.PlaneOrientationSequence = [place], [orientation]
        group.PixelMeasuresSequence, group.PixelValueTransformationSequence = [measures], [values]
        groups.append(group)
    save_slice(
        tmp_path / "a.dcm",
        (0, 0, 0),
        planes()[[2, 0, 3, 1]],
        NumberOfFrames=4,
        PerFrameFunctionalGroupsSequence=groups,
    )
    image = read_image(tmp_path / "a.dcm")
    assert np.array_equal(image.array[0], planes() * 2 - 5)
    assert image.geometry.spacing == (3.0, 0.5, 0.25)


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_bigendian.dcm",
    ],
)
def test_compressed_files_hold_the_same_pixels(name: str) -> None:
    plain, packed = get_testdata_file("MR_small.dcm"), get_testdata_file(name)
    assert isinstance(plain, str)
    assert isinstance(packed, str)
    image = read_image(packed)
    assert np.array_equal(image.array, read_image(plain).array)
    assert image.array.dtype == np.int16


def test_a_picture_in_colour_has_three_channels() -> None:
    path = get_testdata_file("SC_rgb_rle.dcm")
    assert isinstance(path, str)
    assert read_image(path).array.shape == (3, 100, 100)


@pytest.mark.parametrize("frames", [1, 40])
def test_a_clip_whose_pixels_share_their_colours_is_read(tmp_path: Path, frames: int) -> None:
    """Uncompressed, as Doppler is often stored: two bytes for each pixel, though the header says three."""
    colours = np.random.default_rng(0).integers(40, 200, (frames, 8, 5, 3), dtype=np.uint8)
    rgb = colours.repeat(2, axis=2)
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    stored = np.stack([ybr[:, :, ::2, 0], ybr[:, :, 1::2, 0], ybr[:, :, ::2, 1], ybr[:, :, ::2, 2]], axis=-1)
    path = save_ultrasound(tmp_path / "a.dcm", np.zeros((frames, 8, 10), np.uint16))
    data = dcmread(path)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "YBR_FULL_422", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelData = 7, stored.tobytes()
    data.save_as(path)
    found = read_image(path).array.reshape(3, frames, 8, 10)
    assert np.abs(found.astype(int) - np.moveaxis(rgb, -1, 0)).max() <= 2


def test_a_folder_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no DICOM image"):
        find_series(tmp_path)
