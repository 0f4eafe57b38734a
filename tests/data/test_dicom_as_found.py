"""DICOM as scanners, archives and CDs leave it: what headers say is applied or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import AXIAL, save_slice
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import SegmentationStorage

from napari_prosma.data.formats.dicom import find_series
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import can_read, read_header, read_image, read_label, stem
from napari_prosma.errors import DataError

ROWS, COLUMNS = 6, 5


def planes(count: int = 4, kind: type = np.int16) -> np.ndarray:
    return np.arange(count * ROWS * COLUMNS).astype(kind).reshape(count, ROWS, COLUMNS)


def item(**fields: object) -> Dataset:
    found = Dataset()
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def save_stack(folder: Path, stack: np.ndarray, step: float = 2.0, **fields: object) -> None:
    for n, plane in enumerate(stack):
        save_slice(folder / f"{n:03d}.dcm", (0, 0, step * n), plane, InstanceNumber=n + 1, **fields)


# Values


def test_white_as_zero_is_turned_for_the_series_as_a_whole(tmp_path: Path) -> None:
    stack = planes(kind=np.uint16)
    stack[:, 0, 0], stack[:, 3, 3] = (200, 400, 800, 1600), 77
    save_stack(
        tmp_path, stack, PhotometricInterpretation="MONOCHROME1", Modality="NM", BitsStored=12, HighBit=11
    )
    array = read_image(tmp_path).array[0]
    assert np.array_equal(array, 4095 - stack)
    assert array.dtype == np.uint16


def test_white_as_zero_keeps_equal_quantities_equal_where_slopes_differ(tmp_path: Path) -> None:
    for n, slope in enumerate((1, 2)):
        plane = np.full((ROWS, COLUMNS), 100 // slope, np.uint16)
        fields = {"PhotometricInterpretation": "MONOCHROME1", "Modality": "NM", "RescaleIntercept": 0}
        save_slice(tmp_path / f"{n}.dcm", (0, 0, n), plane, RescaleSlope=slope, **fields)
    assert np.unique(read_image(tmp_path).array).size == 1


@pytest.mark.parametrize("modality", ["CT", "PT"])
def test_quantities_are_never_turned(tmp_path: Path, modality: str) -> None:
    save_stack(tmp_path, planes(), PhotometricInterpretation="MONOCHROME1", Modality=modality)
    assert np.array_equal(read_image(tmp_path).array[0], planes())


def test_a_table_of_values_is_applied(tmp_path: Path) -> None:
    values = np.arange(0, 600, 3, np.uint16).tobytes()
    table = item(LUTDescriptor=[200, 0, 16], LUTData=values, ModalityLUTType="US")
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1, np.uint16)[0], ModalityLUTSequence=[table])
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], 3 * planes(1)[0])


def test_real_world_values_are_applied_where_nothing_else_rescales(tmp_path: Path) -> None:
    mapping = item(RealWorldValueSlope=0.5, RealWorldValueIntercept=-3.0)
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], RealWorldValueMappingSequence=[mapping])
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], planes(1)[0] / 2 - 3)


def test_a_slope_of_zero_wipes_nothing_out(tmp_path: Path) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], RescaleSlope=0, RescaleIntercept=0)
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], planes(1)[0])


def test_padding_is_as_dark_as_the_darkest_voxel(tmp_path: Path) -> None:
    stack = planes()
    stack[:, 0, :] = -2000
    save_stack(tmp_path, stack, PixelPaddingValue=-2000, RescaleSlope=1, RescaleIntercept=-1024)
    array = read_image(tmp_path).array[0]
    assert np.all(array[:, 0, :] == array[0, 1, 0])
    assert np.array_equal(array[:, 1:], planes()[:, 1:] - 1024)


def test_a_range_of_padding_is_padding(tmp_path: Path) -> None:
    plane = planes(1, np.uint16)[0]
    save_slice(tmp_path / "a.dcm", (0, 0, 0), plane, PixelPaddingValue=25, PixelPaddingRangeLimit=29)
    assert read_image(tmp_path / "a.dcm").array[0].tolist()[-1] == [0] * COLUMNS


def test_values_in_the_upper_bits_are_taken_down(tmp_path: Path) -> None:
    plane = planes(1, np.uint16)[0]
    save_slice(tmp_path / "a.dcm", (0, 0, 0), plane << 4, BitsStored=12, HighBit=15)
    assert np.array_equal(read_image(tmp_path / "a.dcm").array[0], plane)


# Places


def test_directions_that_differ_by_rounding_are_one_series(tmp_path: Path) -> None:
    for n, plane in enumerate(planes(8)):
        tilt = 0.1745 + (1e-6 if n % 2 else -1e-6)
        orientation = (1, 0, 0, 0, round(float(np.sqrt(1 - tilt**2)), 6), round(tilt, 7))
        save_slice(tmp_path / f"{n}.dcm", (0, 0, 2 * n), plane, orientation=orientation)
    assert read_image(tmp_path).array.shape == (1, 8, ROWS, COLUMNS)


def test_spacings_that_differ_by_rounding_are_one_series(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(
            tmp_path / f"{n}.dcm", (0, 0, 2 * n), plane, PixelSpacing=[0.48828 + 1e-5 * (n % 2), 0.488281]
        )
    assert read_image(tmp_path).array.shape[1] == 4


@pytest.mark.parametrize("missing", [range(15, 19), range(8, 32)])
def test_rounded_places_with_a_hole_lie_on_the_grid_they_came_from(tmp_path: Path, missing: range) -> None:
    for n in range(40):
        if n not in missing:
            save_slice(
                tmp_path / f"{n:02d}.dcm", (0, 0, round(0.625 * n, 1)), np.full((ROWS, COLUMNS), n, np.int16)
            )
    image = read_image(tmp_path)
    assert image.geometry.spacing[0] == pytest.approx(0.625, abs=1e-3)
    assert image.array[0, :, 0, 0].tolist() == [0 if n in missing else n for n in range(40)]
    assert image.notices == (
        f"{len(missing)} of 40 slices are missing; they are filled with the lowest value",
    )


def test_a_multi_frame_volume_of_nuclear_medicine_is_no_clip(tmp_path: Path) -> None:
    detector = item(ImagePositionPatient=[1, 2, 30], ImageOrientationPatient=list(AXIAL))
    fields = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "Modality": "NM"}
    save_slice(
        *(tmp_path / "a.dcm", (0, 0, 0), planes()),
        NumberOfFrames=4,
        SliceVector=[1, 2, 3, 4],
        SpacingBetweenSlices=-4,
        DetectorInformationSequence=[detector],
        **fields,
    )
    image = read_image(tmp_path / "a.dcm")
    assert image.geometry.axes == ("z", "y", "x")
    assert image.geometry.spacing == (4.0, 0.5, 0.25)
    assert np.array_equal(image.array[0], planes()[::-1])


def test_echoes_of_one_place_are_told_apart_though_one_lacks_a_slice(tmp_path: Path) -> None:
    for echo, count in ((5, 4), (9, 3)):
        for n, plane in enumerate(planes(count)):
            number = 2 * n + (echo == 9)
            save_slice(
                tmp_path / f"{echo}{n}.dcm", (0, 0, n), plane + echo, InstanceNumber=number, EchoTime=echo
            )
    found = find_series(tmp_path)
    assert [len(series.frames) for series in found] == [4, 3]
    assert np.array_equal(found[1].read().array[0], planes(3) + 9)


def test_frames_of_one_place_are_a_clip_in_the_order_of_their_times(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", (0, 0, 5), plane, InstanceNumber=9 - n, TriggerTime=40 * n)
    image = read_image(tmp_path)
    assert image.geometry.axes == ("t", "y", "x")
    assert image.geometry.frame_seconds == pytest.approx(0.04)
    assert np.array_equal(image.array[0], planes())


def test_echoes_of_one_slice_are_no_clip(tmp_path: Path) -> None:
    for echo in (5, 9):
        save_slice(tmp_path / f"{echo}.dcm", (0, 0, 5), planes(1)[0] + echo, EchoTime=echo)
    assert [series.shape for series in find_series(tmp_path)] == [(1, ROWS, COLUMNS)] * 2


def test_clips_of_one_series_stay_two(tmp_path: Path) -> None:
    for number in (1, 2):
        save_slice(
            *(tmp_path / f"{number}.dcm", (0, 0, 0), planes(3) + number),
            NumberOfFrames=3,
            InstanceNumber=number,
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
        )
    assert [series.shape for series in find_series(tmp_path)] == [(3, ROWS, COLUMNS)] * 2


def test_rows_and_columns_that_are_skewed_are_refused(tmp_path: Path) -> None:
    for n, plane in enumerate(planes()):
        save_slice(tmp_path / f"{n}.dcm", (0, 0, n), plane, orientation=(1, 0, 0, 0.6, 0.8, 0))
    with pytest.raises(DataError, match="right angles"):
        read_image(tmp_path)


# Sizes of pixels


def test_the_size_on_a_detector_is_corrected_or_said(tmp_path: Path) -> None:
    fields = {"PixelSpacing": None, "ImagerPixelSpacing": [0.3, 0.2], "Modality": "DX"}
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], **fields)
    assert "detector" in read_image(tmp_path / "a.dcm").notices[0]
    save_slice(
        tmp_path / "b.dcm", (0, 0, 0), planes(1)[0], EstimatedRadiographicMagnificationFactor=2, **fields
    )
    assert read_image(tmp_path / "b.dcm").geometry.spacing == (0.15, 0.1)
    assert read_image(tmp_path / "b.dcm").notices == ()


def test_a_ratio_alone_shapes_pixels(tmp_path: Path) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], PixelSpacing=None, PixelAspectRatio=[3, 2])
    geometry = read_image(tmp_path / "a.dcm").geometry
    assert (geometry.spacing, geometry.unit) == ((1.5, 1.0), "pixel")


@pytest.mark.parametrize(("second", "unit"), [(0.02, "mm"), (0.03, "pixel")])
def test_ultrasound_regions_must_agree_on_a_size(tmp_path: Path, second: float, unit: str) -> None:
    common = {"PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.01}
    regions = [item(PhysicalDeltaY=delta, **common) for delta in (0.02, second)]
    save_slice(
        tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], PixelSpacing=None, SequenceOfUltrasoundRegions=regions
    )
    image = read_image(tmp_path / "a.dcm")
    assert image.geometry.unit == unit
    assert bool(image.notices) == (unit == "pixel")


# Folders


def test_copies_of_files_are_one_series(tmp_path: Path) -> None:
    save_stack(tmp_path, planes())
    for path in sorted(tmp_path.iterdir()):
        (tmp_path / f"{path.stem} (1).dcm").write_bytes(path.read_bytes())
    image = read_image(tmp_path)
    assert np.array_equal(image.array[0], planes())
    assert image.notices == ("left out as copy of another file: '000.dcm' and 3 more",)


def test_slices_that_an_anonymiser_gave_one_uid_are_no_copies(tmp_path: Path) -> None:
    save_stack(tmp_path, planes(), SOPInstanceUID="1.2.3.4")
    assert np.array_equal(read_image(tmp_path).array[0], planes())


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_files_without_a_preamble_are_read(tmp_path: Path, implicit: bool, suffix: str) -> None:
    save_stack(tmp_path / "whole", planes())
    (tmp_path / "bare").mkdir()
    for path in (tmp_path / "whole").iterdir():
        data = Dataset()
        data.update(dcmread(path))
        dcmwrite(tmp_path / "bare" / f"{path.stem}{suffix}", data, implicit_vr=implicit, little_endian=True)
    assert can_read(tmp_path / "bare")
    assert np.array_equal(read_image(tmp_path / "bare").array[0], planes())


def test_a_cd_is_read_by_its_folder_or_its_table_of_contents(tmp_path: Path) -> None:
    save_stack(tmp_path / "made", planes())
    files = FileSet()
    for path in sorted((tmp_path / "made").iterdir()):
        data = dcmread(path)
        data.PatientID = data.PatientName = data.StudyID = data.StudyTime = "1"
        data.StudyInstanceUID, data.StudyDate, data.SeriesNumber = "1.2", "20200101", 1
        files.add(data)
    files.write(tmp_path / "cd")
    for given in (tmp_path / "cd", tmp_path / "cd" / "DICOMDIR"):
        image = read_image(given)
        assert np.array_equal(image.array[0], planes())
        assert image.notices == ()


def test_a_localizer_is_left_out_by_name(tmp_path: Path) -> None:
    save_stack(tmp_path, planes())
    save_slice(
        *(tmp_path / "scout.dcm", (0, 0, 0), np.zeros((9, 9), np.int16), "1.2.3", (1, 0, 0, 0, 0, -1)),
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    image = read_image(tmp_path)
    assert np.array_equal(image.array[0], planes())
    assert image.notices == ("left out beside the series: 'scout.dcm'",)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"Modality": "SEG", "SOPClassUID": SegmentationStorage},
            r"\(SEG\); it labels a series: give a folder",
        ),
        ({"Modality": "RTDOSE"}, r"dose distribution.*3D Slicer"),
        ({"TotalPixelMatrixRows": 999}, "whole-slide.*OME-TIFF"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic.*dcm2niix"),
        ({"SamplesPerPixel": 4}, "4 samples per pixel"),
    ],
)
def test_what_is_no_slice_is_called_by_its_name(tmp_path: Path, fields: dict[str, object], told: str) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], **fields)
    with pytest.raises(DataError, match=rf"a\.dcm.*{told}"):
        read_label(tmp_path / "a.dcm")
    save_stack(tmp_path / "series", planes())
    image = read_image(tmp_path)
    assert np.array_equal(image.array[0], planes())
    # An object with labels is no image, but in its place among the images.
    assert bool(image.notices) == (fields.get("Modality") != "SEG")
    assert all("left out as " in notice for notice in image.notices)


def test_other_files_before_the_images_do_not_hide_them(tmp_path: Path) -> None:
    for name in ("AUTORUN.INF", "INDEX.HTM", "LICENSE", "README", "VERSION"):
        (tmp_path / name).write_text("hello")
    save_stack(tmp_path / "z", planes())
    assert can_read(tmp_path)
    assert read_header(tmp_path).shape == (4, ROWS, COLUMNS)


def test_more_frames_than_bytes_are_refused_at_once(tmp_path: Path) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), planes(1)[0], NumberOfFrames=300_000_000)
    with pytest.raises(DataError, match="promises 18,000,000,000 bytes of voxels"):
        read_header(tmp_path / "a.dcm")


def test_files_named_by_numbers_keep_their_whole_names() -> None:
    assert stem("1.2.840.113619.100") == "1.2.840.113619.100"
    assert stem("IM.0001") == "IM.0001"
    assert stem("a/CT.NII.GZ") == "CT"


@pytest.mark.parametrize("modality", ["MG", "US", "DX"])
def test_views_of_one_series_are_images_of_their_own(tmp_path: Path, modality: str) -> None:
    save_stack(tmp_path / "p1", planes(3), Modality=modality)
    for path in tmp_path.rglob("*.dcm"):
        data = dcmread(path)
        del data.ImagePositionPatient, data.ImageOrientationPatient
        dcmwrite(path, data)
    assert [one.shape for one in find_series(tmp_path)] == [(ROWS, COLUMNS)] * 3
    found = find_cases(tmp_path, require_labels=False)
    assert [case.read_image().array[0, 0, 0] for case in found.cases] == [0, 30, 60]


def test_decimal_commas_in_dicom_are_called_that(tmp_path: Path) -> None:
    save_slice(tmp_path / "a.dcm", (0, 0, 0), np.zeros((4, 5), np.int16), PixelSpacing=["0.50", "0.50"])
    stored = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(stored.replace(b"0.50\\0.50", b"0,50\\0,50"))
    with pytest.raises(DataError, match=r"a file with decimal commas; write the numbers of its header with"):
        read_image(tmp_path / "a.dcm")
