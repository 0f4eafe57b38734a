"""Several stacks under one series UID are told apart or refused, and slices that cannot be used are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import save_slice
from pydicom import dcmread

from napari_prosma.data.formats import dicom_stacks
from napari_prosma.data.formats.dicom import find_series
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError

ROWS, COLUMNS = 6, 5


def save_stack(folder: Path, name: str, value: int, places: list[float], **fields: object) -> None:
    """Slices of values from ``value`` on, numbered alike in every stack."""
    for n, place in enumerate(places):
        plane = np.full((ROWS, COLUMNS), value + n, np.int16)
        save_slice(folder / f"{name}{n}.dcm", (0, 0, place), plane, **{"InstanceNumber": n + 1, **fields})


def values(folder: Path) -> dict[str, list[int]]:
    """What every series is called, and the value of each of its slices."""
    return {one.description: one.read().array[0, :, 0, 0].tolist() for one in find_series(folder)}


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_thick_slices_among_thin_ones_are_a_stack_of_their_own(tmp_path: Path, shift: float) -> None:
    save_stack(tmp_path, "a", 100, [0, 1, 2, 3, 4, 5, 6, 7, 8], SliceThickness="1.000")
    save_stack(tmp_path, "b", 200, [shift, 4 + shift, 8 + shift], SliceThickness="4.0")
    assert values(tmp_path) == {
        "thorax (1 of 2, slice thickness 1)": list(range(100, 109)),
        "thorax (2 of 2, slice thickness 4)": [200, 201, 202],
    }
    with pytest.raises(DataError, match=r"holds 2 series: thorax \(1 of 2, slice thickness 1\)"):
        read_image(tmp_path)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_two_kernels_never_make_one_volume(tmp_path: Path, shift: float) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6], ConvolutionKernel="B30f")
    save_stack(tmp_path, "b", 200, [shift, 2 + shift, 4 + shift], ConvolutionKernel="B70f")
    assert values(tmp_path) == {
        "thorax (1 of 2, kernel B30f)": [100, 101, 102, 103],
        "thorax (2 of 2, kernel B70f)": [200, 201, 202],
    }


def test_two_echoes_of_three_phases_are_six_stacks_though_one_lacks_a_slice(tmp_path: Path) -> None:
    for echo, phase in np.ndindex(2, 3):
        fields = {"EchoTime": (2.1, 4.6)[echo], "TemporalPositionIdentifier": phase + 1, "InstanceNumber": 1}
        places = [0.0, 2, 4][: 2 if (echo, phase) == (1, 2) else 3]
        save_stack(tmp_path, f"{phase}{echo}", 100 * echo + 10 * phase, places, **fields)
    assert sorted(values(tmp_path).values()) == [
        *([0, 1, 2], [10, 11, 12], [20, 21, 22], [100, 101, 102], [110, 111, 112], [120, 121]),
    ]


def test_kinds_that_tell_the_same_stacks_apart_are_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        fields = {"EchoTime": n + 1, "EchoNumbers": n + 1, "FlipAngle": n + 1, "AcquisitionNumber": n + 1}
        save_stack(tmp_path, f"{n}_", 100 * n, [0, 2, 4], **fields)
    tried: list[int] = []
    apart = dicom_stacks._apart
    monkeypatch.setattr(dicom_stacks, "_apart", lambda frames: tried.append(len(frames)) or apart(frames))
    assert len(find_series(tmp_path)) == 3
    assert tried == [9, 3, 3, 3]


def test_stacks_of_two_slice_distances_are_two_where_the_thickness_tells(tmp_path: Path) -> None:
    save_stack(tmp_path, "base", 100, [0, 2, 4, 6], SliceThickness=2)
    save_stack(tmp_path, "top", 200, [8, 12, 16, 20], SliceThickness=4)
    assert list(values(tmp_path).values()) == [[100, 101, 102, 103], [200, 201, 202, 203]]


def test_one_volume_may_be_of_several_acquisitions_and_thicknesses(tmp_path: Path) -> None:
    save_stack(tmp_path, "odd", 100, [0, 4, 8], AcquisitionNumber=1)
    save_stack(tmp_path, "even", 200, [2, 6, 10], AcquisitionNumber=2)
    save_stack(tmp_path, "top", 300, [12, 14], SliceThickness=3)
    assert read_image(tmp_path).array[0, :, 0, 0].tolist() == [100, 200, 101, 201, 102, 202, 300, 301]


def test_what_no_field_tells_apart_is_refused(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6], InstanceNumber=1)
    save_stack(tmp_path, "b", 200, [0, 2, 4, 6], InstanceNumber=1)
    with pytest.raises(DataError, match=r"slices of 'thorax' repeat 4 places, and their headers do not say"):
        read_image(tmp_path)


def test_two_shifted_stacks_are_no_volume_with_missing_slices(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6, 8])
    save_stack(tmp_path, "b", 200, [0.7, 2.7, 4.7, 6.7, 8.7])
    with pytest.raises(DataError, match=r"lie 0\.7 to 1\.3 mm apart, as those of several stacks do"):
        read_image(tmp_path)


def test_slices_beside_the_others_are_no_volume(tmp_path: Path) -> None:
    for n in range(8):
        plane = np.zeros((ROWS, COLUMNS), np.int16)
        save_slice(tmp_path / f"{n}.dcm", (0 if n < 4 else 30, 0, 2 * n), plane)
    with pytest.raises(DataError, match=r"mm beside each other, '4\.dcm' among them"):
        read_image(tmp_path)


def test_stations_a_little_beside_each_other_are_one_volume_with_a_notice(tmp_path: Path) -> None:
    for n in range(40):
        plane = np.zeros((ROWS, COLUMNS), np.int16)
        save_slice(tmp_path / f"{n}.dcm", (0 if n < 20 else 3, 0, n), plane, PixelSpacing=[1, 1])
    image = read_image(tmp_path)
    assert image.array.shape[1] == 40
    (said,) = image.notices
    assert said == "slices lie up to 1.46 mm beside each other; they are shown in a straight line"


def test_slices_of_two_distances_in_a_row_are_to_be_resampled(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [5 * n for n in range(10)] + [45 + 10 * n for n in range(1, 9)])
    with pytest.raises(
        DataError, match=r"lie 5 to 10 mm apart; resample them to one slice distance, or give"
    ):
        read_image(tmp_path)


@pytest.mark.parametrize(
    "places", [[10 * n + k for n in range(6) for k in (0, 1)], [0, 1, 2, 3, 40.4, 41.4, 42.4, 43.4]]
)
def test_slabs_of_which_gaps_fit_no_grid_are_not_stretched(tmp_path: Path, places: list[float]) -> None:
    save_stack(tmp_path, "a", 100, places)
    with pytest.raises(DataError, match=r"lie 1 to [0-9.]+ mm apart, in slabs with gaps between them; give"):
        read_image(tmp_path)


def test_slabs_on_one_grid_are_a_volume_with_its_gaps_told(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [40 * slab + 5 * k for slab in range(5) for k in range(4)])
    image = read_image(tmp_path)
    assert (image.array.shape[1], image.geometry.spacing[0]) == (36, 5)
    assert image.notices == ("16 of 36 slices are missing; they are filled with the lowest value",)


@pytest.mark.parametrize("field", ["PatientID", "StudyInstanceUID"])
def test_one_uid_of_two_patients_or_studies_is_two_series(tmp_path: Path, field: str) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4], **{field: "1.1"})
    save_stack(tmp_path, "b", 200, [1, 3, 5], **{field: "1.2"})
    assert sorted(one.read().array[0, 0, 0, 0] for one in find_series(tmp_path)) == [100, 200]


def test_series_without_a_uid_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4], SeriesInstanceUID="", SeriesNumber=1)
    save_stack(tmp_path, "b", 200, [1, 3, 5], SeriesInstanceUID="", SeriesNumber=2)
    assert len(find_series(tmp_path)) == 2


def test_slices_that_lost_their_positions_are_no_clip(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 0, 0])
    for n in range(3):
        data = dcmread(tmp_path / f"a{n}.dcm")
        data.SliceLocation = 2.0 * n
        data.save_as(tmp_path / f"a{n}.dcm")
    image = read_image(tmp_path)
    assert image.geometry.axes == ("z", "y", "x")
    assert image.notices == ("the slices do not say where they lie; they are in the order of their numbers",)


def without_pixels(path: Path) -> None:
    data = dcmread(path)
    del data.PixelData
    data.save_as(path)


def with_empty_pixels(path: Path) -> None:
    data = dcmread(path)
    data.PixelData = b""
    data.save_as(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_pixels, "without pixels"),
        (with_empty_pixels, "without pixels"),
        (cut, "that is cut short"),
    ],
)
def test_a_slice_without_its_pixels_is_left_out_where_another_lies_in_its_place(
    tmp_path: Path, spoil: object, told: str
) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6, 8])
    save_stack(tmp_path, "b", 100, [4])
    assert callable(spoil)
    spoil(tmp_path / "b0.dcm")
    image = read_image(tmp_path)
    assert image.array[0, :, 0, 0].tolist() == [100, 101, 102, 103, 104]
    assert image.notices == (f"left out as file {told}: 'b0.dcm'",)
    spoil(tmp_path / "a2.dcm")
    with pytest.raises(DataError, match=r"are missing \(1 of 5\), and 'a2\.dcm' and 1 more cannot be used"):
        read_image(tmp_path)


@pytest.mark.parametrize("spoil", [without_pixels, with_empty_pixels, cut])
@pytest.mark.parametrize("unread", [[0], [2, 3, 4], [0, 1, 2, 3]])
def test_a_series_of_which_an_end_cannot_be_read_is_refused(
    tmp_path: Path, spoil: object, unread: list[int]
) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6, 8])
    assert callable(spoil)
    for n in unread:
        spoil(tmp_path / f"a{n}.dcm")
    with pytest.raises(DataError, match=rf"continue in 'a{unread[0]}\.dcm'.* cannot be read; download or"):
        read_image(tmp_path)


def test_files_of_a_system_beside_slices_are_no_slices(tmp_path: Path) -> None:
    """macOS puts a hidden file beside each on a disk of another system."""
    save_stack(tmp_path, "a", 100, [0, 2, 6])
    (tmp_path / "._a1.dcm").write_bytes(b"\0\5\x16\7" + bytes(100))
    image = read_image(tmp_path)
    assert image.notices == ("1 of 4 slices are missing; they are filled with the lowest value",)


def test_slices_without_pixels_that_do_not_continue_the_grid_are_left_out(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6])
    save_stack(tmp_path, "b", 100, [301])
    without_pixels(tmp_path / "b0.dcm")
    assert read_image(tmp_path).array.shape[1] == 4


def test_a_hole_and_a_slice_without_a_place_are_not_filled(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6])
    data = dcmread(tmp_path / "a2.dcm")
    del data.ImagePositionPatient
    data.save_as(tmp_path / "a2.dcm")
    with pytest.raises(DataError, match=r"'a2\.dcm' cannot be used in their place"):
        read_image(tmp_path)


@pytest.mark.parametrize("field", ["AcquisitionNumber", "ContentTime"])
@pytest.mark.parametrize(
    ("rotations", "slices"),
    [
        ([[0, 2, 4, 6], [8, 10, 12], [16, 18, 20, 22]], 12),  # one slice is missing
        ([[0, 2, 4, 6], [8.7, 10.7, 12.7, 14.7], [17.4, 19.4, 21.4, 23.4]], 12),  # a gap per rotation
        ([[n, n + 2] for n in (0, 4.5, 9, 13.5, 18, 22.5)], 12),
        ([[0, 4, 8, 12], [6, 10, 14]], 8),  # odd and even slices
    ],
)
def test_one_volume_may_be_of_a_rotation_per_few_slices(
    tmp_path: Path, field: str, rotations: list[list[float]], slices: int
) -> None:
    for n, places in enumerate(rotations):
        save_stack(tmp_path, f"{n}_", 100, places, **{field: f"12000{n}"})
    image = read_image(tmp_path)
    assert image.array.shape[1] == slices
    assert len(image.notices) == 1


def test_acquisitions_far_from_each_other_are_stacks_of_their_own(tmp_path: Path) -> None:
    save_stack(tmp_path, "a", 100, [0, 2, 4, 6], AcquisitionNumber=1)
    save_stack(tmp_path, "b", 200, [200, 202, 204, 206], AcquisitionNumber=2)
    assert list(values(tmp_path).values()) == [[100, 101, 102, 103], [200, 201, 202, 203]]
