"""DICOM SEG and RTSTRUCT as labels: matched by reference, laid on the slices, classes by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinic_files import (
    KINDS,
    identity,
    judged,
    pixels,
    save_kind,
    save_patients,
    save_stack,
    save_ultrasound,
)
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sr.codedict import codes
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from napari_prosma.data.case import Image
from napari_prosma.data.check import check_each
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.formats.dicom_labels import describe, read_label
from napari_prosma.data.labels import LabelRule, rule_from_text, rule_to_text
from napari_prosma.data.layouts import case_from_files, find_cases
from napari_prosma.data.readers import read_image
from napari_prosma.data.writers import write_dicom
from napari_prosma.errors import DataError

hd = pytest.importorskip("highdicom")
NAMES = ("background", "liver", "tumour")
VALUES = {"liver": 1, "tumour": 2}
SUFFIXES = (".seg.dcm", ".rtstruct.dcm")


def image_at(path: Path) -> tuple[Image, Series]:
    image = read_image(path)
    assert image.series is not None
    return image, image.series


def drawn(series: Series, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, series.shape).astype(np.uint8)


def change(path: Path, edit: object) -> Path:
    data = pydicom.dcmread(path)
    edit(data)  # type: ignore[operator]
    data.save_as(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_seg_comes_back_voxel_for_voxel(tmp_path: Path, kind: str) -> None:
    _, series = image_at(save_kind(tmp_path / "series", kind))
    labels = drawn(series)
    one = describe(write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES))
    assert one.is_of(series)
    assert [(s.name, s.colour) for s in one.structures] == [
        ("liver", (0, 194, 255)),
        ("tumour", (255, 183, 3)),
    ]
    found, notices = read_label([one], series, VALUES)
    assert np.array_equal(found, labels)
    assert notices == ()


def test_a_seg_on_another_grid_is_resampled_by_its_nearest_element(tmp_path: Path) -> None:
    """A SEG of one direction of the body, over a series of another, in one frame of reference."""
    _, axial = image_at(save_stack(tmp_path / "axial", np.zeros((6, 8, 10), np.uint16), uid="1.2.30"))
    block = np.zeros(axial.shape, np.uint8)
    block[2:4, 3:6, 4:8] = 1
    one = describe(write_dicom(tmp_path / "a.seg.dcm", block, axial, NAMES))
    centre = axial.geometry.source
    assert centre is not None
    orientation = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    from dicom_files import save_slice

    for n in range(8):
        place = (-20.5, 31.25 + 0.5 * n, 115.0)
        save_slice(
            tmp_path / "coronal" / f"{n}.dcm",
            place,
            np.zeros((12, 10), np.uint16),
            "1.2.31",
            orientation,
            **{**identity(), "PixelSpacing": [1.5, 0.25]},
        )
    _, coronal = image_at(tmp_path / "coronal")
    found, notices = read_label([one], coronal, VALUES)
    assert "another grid" in notices[0]
    to_ras = coronal.geometry.source.array_affine(coronal.shape)  # type: ignore[union-attr]
    back = np.linalg.inv(centre.array_affine(axial.shape))
    index = np.indices(coronal.shape).reshape(3, -1)
    there = (back @ to_ras @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    nearest = np.floor(there + 0.5 - 1e-6).astype(int)
    inside = np.all((there > -0.5) & (there < np.array(axial.shape)[:, None] - 0.5), axis=0)
    expected = np.zeros(index.shape[1], np.uint8)
    expected[inside] = block[tuple(nearest[:, inside].clip(0))]
    differs = (expected.reshape(coronal.shape) != found).mean()
    assert found.any()
    assert differs < 0.04  # of planes exactly half-way


def test_frames_in_any_order_left_out_and_packed_are_laid_where_they_belong(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", pixels()))
    labels = drawn(series)
    labels[1] = labels[3] = 0
    path = write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES)

    def shuffle(data: Dataset) -> None:
        order = np.random.default_rng(0).permutation(data.NumberOfFrames)
        frames = data.pixel_array[order]
        groups = data.PerFrameFunctionalGroupsSequence
        data.PerFrameFunctionalGroupsSequence = [groups[int(n)] for n in order]
        data.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()

    found, _ = read_label([describe(change(path, shuffle))], series, VALUES)
    assert np.array_equal(found, labels)

    def pack(data: Dataset) -> None:
        data.SegmentationType, data.SegmentationFractionalType = "FRACTIONAL", "PROBABILITY"
        data.MaximumFractionalValue = 200
        frames = data.pixel_array * np.uint8(200)
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.PixelData = frames.tobytes()
        data.compress(RLELossless)

    found, _ = read_label([describe(change(path, pack))], series, VALUES)
    assert np.array_equal(found, labels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("kind", ["LABELMAP", "FRACTIONAL"])
def test_objects_of_other_programs_are_read_packed_as_well(tmp_path: Path, kind: str, syntax: str) -> None:
    _, series = image_at(save_stack(tmp_path / "series", pixels(), "oblique"))
    labels = drawn(series)
    images = [pydicom.dcmread(path) for path in series.files]
    by_instance = {image.SOPInstanceUID: image for image in images}
    tissue = codes.SCT.Tissue
    hd.seg.Segmentation(
        [by_instance[frame.instance] for frame in series.frames if frame],
        series.planes_of(labels),
        kind,
        [hd.seg.SegmentDescription(k, NAMES[k], tissue, tissue, "MANUAL") for k in (1, 2)],
        *(generate_uid(), 1, generate_uid(), 1, "maker", "model", "1", "1"),
        transfer_syntax_uid=syntax,
    ).save_as(tmp_path / "a.dcm")
    one = describe(tmp_path / "a.dcm")
    assert pydicom.dcmread(one.path).file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read_label([one], series, VALUES)[0], labels)


def test_a_binary_object_is_read_deflated(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", pixels()))
    labels = drawn(series)
    path = write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES)

    def deflate(data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    assert np.array_equal(read_label([describe(change(path, deflate))], series, VALUES)[0], labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cd_with_labels_is_a_data_set(tmp_path: Path, suffix: str) -> None:
    save_patients(tmp_path / "pacs", suffix, 2)
    files = FileSet()
    for path in sorted((tmp_path / "pacs").rglob("*.dcm")):
        data = pydicom.dcmread(path)
        data.SeriesNumber = 1
        files.add(data)
    files.write(tmp_path / "cd")
    data_set = find_cases(tmp_path / "cd")
    assert data_set.layout == "DICOM"
    assert data_set.class_names == ("background", "Liver", "Tumour")
    assert [(case.read_label() == 2).sum() for case in data_set.cases] == [15, 15]  # type: ignore[misc]


def test_a_label_map_of_300_segments_and_probabilities_are_read(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", pixels((5, 12, 10))))
    names = ("background", *(f"s{n}" for n in range(1, 301)))
    labels = np.arange(600).reshape(series.shape) % 301
    one = describe(write_dicom(tmp_path / "a.seg.dcm", labels, series, names))
    found, _ = read_label([one], series, {f"s{n}": n for n in range(1, 301)})
    assert np.array_equal(found, labels)
    sure = np.stack([labels % 3 == k for k in range(3)]).astype(np.float32)
    one = describe(write_dicom(tmp_path / "b.seg.dcm", sure, series, NAMES))
    found, _ = read_label([one], series, VALUES)
    assert np.array_equal(found, labels % 3)


def test_without_pixel_measures_the_frames_it_refers_to_tell_the_place(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", pixels()))
    labels = drawn(series)
    path = write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES)

    def lose(data: Dataset) -> None:
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence

    found, _ = read_label([describe(change(path, lose))], series, VALUES)
    assert np.array_equal(found, labels)


def save_contours(path: Path, series: Series, rois: dict[str, list[tuple[str, np.ndarray]]]) -> Path:
    """An RTSTRUCT with contours as they are given, in mm."""
    write_dicom(path, np.zeros(series.shape, np.uint8), series, ("background", *rois))

    def draw(data: Dataset) -> None:
        for region, contours in zip(data.ROIContourSequence, rois.values(), strict=True):
            sequence = []
            for kind, points in contours:
                contour = Dataset()
                contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
                contour.ContourData = [f"{value:.4f}" for value in points.ravel()]
                sequence.append(contour)
            if sequence:
                region.ContourSequence = sequence

    return change(path, draw)


def square(z: float, low: float = 0.0, high: float = 1.5) -> np.ndarray:
    corners = np.array([(low, low), (high, low), (high, high), (low, high)])
    return np.column_stack([-20.5 + corners[:, 0], 31.25 + corners[:, 1], np.full(4, 100.0 + z)])


def test_contours_that_are_none_are_told_and_the_rest_is_used(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", np.zeros((5, 12, 10), np.uint16)))
    path = save_contours(
        tmp_path / "a.rtstruct.dcm",
        series,
        {
            "liver": [
                ("CLOSED_PLANAR", square(3)),
                ("OPEN_PLANAR", square(6)),
                ("CLOSED_PLANAR", square(0) + np.outer(range(4), (0, 0, 2.0))),
                ("CLOSED_PLANAR", square(40)),
            ],
            "marker": [("POINT", square(3)[:1])],
            "tumour": [],
        },
    )
    one = describe(path)
    found, notices = read_label([one], series, {"liver": 1, "marker": 2, "tumour": 3})
    assert found.any(axis=(1, 2)).tolist() == [False, True, False, False, False]
    said = " | ".join(notices)
    problems = [problem for case in check_each(find_cases(tmp_path)) for problem in case.problems]
    assert set(notices) <= {problem.found for problem in problems}
    assert "1 open or damaged contours of 'liver'" in said
    assert "1 contours across slices of 'liver'" in said
    assert "1 contours beyond the series of 'liver'" in said
    assert "1 points of 'marker'" in said
    assert "'tumour' in 'a.rtstruct.dcm' has no contours" in said
    with pytest.raises(DataError, match="no closed contour on a slice of its series"):
        read_label([one], series, {"marker": 1})


def test_contours_of_nobody_and_beside_the_images_are_told(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", np.zeros((5, 12, 10), np.uint16)))
    far = square(3) + np.array((500, 0, 0))
    broken = square(3) * ((1e300, 1, 1), *((1, 1, 1),) * 3)
    closed = [("CLOSED_PLANAR", one) for one in (square(3), far, broken)]
    path = save_contours(tmp_path / "a.rtstruct.dcm", series, {"liver": closed, "spleen": closed[:1]})
    change(path, lambda data: data.ROIContourSequence[1].pop("ReferencedROINumber"))
    found, notices = read_label([describe(path)], series, {"liver": 1, "spleen": 2})
    assert set(np.unique(found)) == {0, 1}
    said = " | ".join(notices)
    assert "1 contours beside the images of 'liver'" in said
    assert "1 open or damaged contours of 'liver'" in said
    assert "do not say whose they are" in said


def test_a_seg_over_one_view_of_a_series_is_that_of_this_view(tmp_path: Path) -> None:
    for n in range(3):
        save_ultrasound(tmp_path / f"{n}.dcm", pixels()[n], SeriesInstanceUID="1.2.55", InstanceNumber=n)
    image, series = image_at(tmp_path / "1.dcm")
    write_dicom(tmp_path / "a.seg.dcm", np.ones(image.array.shape[1:], np.uint8), series, ("background", "x"))
    data = find_cases(tmp_path)
    assert [str(case.files[0].name) for case in data.cases] == ["1.dcm"]
    assert not any("refers to 3" in notice for notice in data.notices)


def test_contours_between_slices_stand_for_the_slices_beside_them(tmp_path: Path) -> None:
    """Slices lie at 0, 3, 6, 9 and 12; the first row of a square tells how wide its slice has become."""
    _, series = image_at(save_stack(tmp_path / "series", np.zeros((5, 12, 10), np.uint16)))

    def widths(*contours: np.ndarray) -> list[int]:
        drawn = {"liver": [("CLOSED_PLANAR", one) for one in contours]}
        one = describe(save_contours(tmp_path / "a.rtstruct.dcm", series, drawn))
        found, notices = read_label([one], series, {"liver": 1})
        assert bool(notices) == any((one[0, 2] - 100) % 3 for one in contours)
        return found.any(axis=1).sum(axis=1).tolist()

    low, high = (0.1, 1.1), (0.1, 2.1)
    on, wide = widths(square(3, *low))[1], widths(square(3, *high))[1]
    assert wide >= on + 2
    # Half-way between two squares lies one half-way between their sizes; at the ends the nearest continues.
    assert widths(square(4.5, *low), square(7.5, *high)) == [0, on, (on + wide) // 2, 0, 0]
    assert widths(square(1.5, *low), square(4.5, *low), square(7.5, *low)) == [on, on, on, 0, 0]
    assert widths(square(7.4, *low)) == [0, 0, on, 0, 0]
    # What lies on a slice stays, and what was left empty between two of these, too.
    assert widths(square(3, *low), square(4.6, *high)) == [0, on, wide, 0, 0]
    assert widths(square(0, *low), square(6, *low), square(10.5, *low)) == [on, 0, on, on, on]
    # Two parts of a structure stay apart.
    assert widths(square(1, *low), square(2, *low), square(3, *low), square(11, *low)) == [on, on, 0, 0, on]


def test_holes_are_holes_whether_by_keyhole_or_by_a_contour_inside(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", np.zeros((5, 12, 10), np.uint16)))
    rings = [("CLOSED_PLANAR", square(3, 0.6, 1.1)), ("CLOSED_PLANAR", square(3, 0.1, 1.9))]
    one = describe(save_contours(tmp_path / "a.rtstruct.dcm", series, {"liver": rings}))
    found, _ = read_label([one], series, {"liver": 1})
    whole = describe(save_contours(tmp_path / "b.rtstruct.dcm", series, {"liver": rings[1:]}))
    hole = describe(save_contours(tmp_path / "c.rtstruct.dcm", series, {"liver": rings[:1]}))
    outer, inner = (read_label([o], series, {"liver": 1})[0] for o in (whole, hole))
    assert inner.any()
    assert np.array_equal(found, outer - inner)


def test_overlaps_are_refused_with_the_words_that_decide(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    _, series = image_at(save_stack(folder / "ct", np.zeros((5, 12, 10), np.uint16)))
    path = save_contours(
        folder / "rs" / "a.rtstruct.dcm",
        series,
        {"PTV": [("CLOSED_PLANAR", square(3, 0, 2))], "GTV": [("CLOSED_PLANAR", square(3, 0.5, 1.1))]},
    )
    data = find_cases(folder)
    assert data.class_names == ("background", "GTV", "PTV")
    with pytest.raises(DataError, match=r"overlap in .*overlap=last") as refused:
        data.cases[0].read_label()  # type: ignore[misc]
    assert str(path) in str(refused.value)
    sizes = {}
    for text in (
        "0=background,2=PTV,1=GTV,overlap=last",
        "0=background,2=PTV,1=GTV,overlap=first",
        "0=background,1=GTV",
    ):
        rule = rule_from_text(text)
        assert rule_to_text(rule) == text
        label = find_cases(folder, labels=rule).cases[0].read_label()  # type: ignore[misc]
        sizes[text] = [int((label == k).sum()) for k in (1, 2)]
    (ptv, gtv), (all_ptv, none), (only, _) = sizes.values()
    assert gtv == only > 0
    assert none == 0
    assert ptv + gtv == all_ptv


def test_two_names_of_one_class_are_merged_and_may_overlap(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    _, series = image_at(save_stack(folder / "ct", np.zeros((5, 12, 10), np.uint16)))
    save_contours(
        folder / "a.rtstruct.dcm",
        series,
        {
            "Leber": [("CLOSED_PLANAR", square(3, 0, 1.2))],
            "Liver": [("CLOSED_PLANAR", square(3, 0.5, 2))],
            "couch": [("CLOSED_PLANAR", square(3, 0, 2))],
        },
    )
    assert find_cases(folder).class_names == ("background", "couch", "Leber", "Liver")
    sizes = []
    for text in ("0=background,2=liver", "0=background,3=liver", "0=background,2=liver,3=liver,1=background"):
        data = find_cases(folder, labels=rule_from_text(text))
        assert data.class_names == ("background", "liver")
        sizes.append(int((data.cases[0].read_label() == 1).sum()))  # type: ignore[misc]
    one, other, both = sizes
    assert max(one, other) < both < one + other


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_classes_go_by_name_over_patients_and_cases_by_reference(tmp_path: Path, suffix: str) -> None:
    save_patients(tmp_path / "pacs", suffix)
    data = find_cases(tmp_path / "pacs")
    assert data.layout == "DICOM"
    assert data.class_names == ("background", "Liver", "Tumour")
    assert [case.name for case in data.cases] == ["p0_ct", "p1_ct", "p2_ct"]
    assert {case.patient for case in data.cases} == {"patient 1", "patient 2", "patient 3"}
    assert any("3 series that no label refers to" in notice for notice in data.notices)
    assert any("1 is Liver, 2 is Tumour" in notice for notice in data.notices)
    for case in data.cases:
        assert case.read_label is not None
        label = case.read_label()
        assert label.shape == case.read_image().array.shape[1:]
        assert (label == 1).sum() == 9
        assert (label == 2).sum() == 15
        assert (label[1] == 1).sum() == 9


def test_everything_in_one_folder_is_told_apart(tmp_path: Path) -> None:
    save_patients(tmp_path / "pacs", ".seg.dcm", 2)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "pacs").rglob("*.dcm"))):
        path.rename(flat / f"IM{number:04}")
    data = find_cases(flat)
    assert len(data.cases) == 2
    for case in data.cases:
        assert case.read_label is not None
        assert (case.read_label() == 2).sum() == 15
        assert case.series is not None
    assert find_cases(flat, labels=LabelRule.of_names({0: "background", 2: "T"})).num_classes == 2


def test_objects_that_cannot_be_used_are_told_and_the_rest_is(tmp_path: Path) -> None:
    folder = tmp_path / "pacs"
    save_patients(folder, ".seg.dcm", 4)
    for path in (folder / "p3").rglob("*.dcm"):
        path.unlink()

    def elsewhere(data: Dataset) -> None:
        data.FrameOfReferenceUID = generate_uid()

    change(folder / "labels" / "2.seg.dcm", elsewhere)
    (folder / "labels" / "broken.dcm").write_bytes((folder / "labels" / "0.seg.dcm").read_bytes()[:900])
    data = find_cases(folder)
    assert len(data.cases) == 2
    said = " | ".join(data.notices)
    assert "3.seg.dcm' refers to a series that is not there" in said
    assert "2.seg.dcm' lies in another frame of reference" in said


def test_several_objects_of_one_series_are_one_label(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    _, series = image_at(save_stack(folder / "ct", np.zeros((5, 12, 10), np.uint16)))
    label = np.zeros(series.shape, np.uint8)
    label[1, 2:5, 2:5] = 1
    write_dicom(folder / "a.seg.dcm", label, series, ("background", "liver"))
    write_dicom(folder / "b.rtstruct.dcm", np.roll(label, 4, axis=2), series, ("background", "tumour"))
    (case,) = find_cases(folder).cases
    assert case.read_label is not None
    assert np.array_equal(case.read_label(), label + 2 * np.roll(label, 4, axis=2))
    assert len(case.files) == 3


def test_an_object_of_two_series_labels_the_one_it_names_most_images_of_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    _, series = image_at(save_stack(folder / "ct", pixels()))
    _, other = image_at(save_stack(folder / "pet", pixels(), uid="1.2.4"))
    assert other.frames[0] is not None
    label = np.zeros(series.shape, np.uint8)
    label[1, 2:5, 2:5] = 1
    write_dicom(folder / "a.seg.dcm", label, series, ("background", "liver"))

    def refer_to_both(data: Dataset) -> None:
        image, second = Dataset(), Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = "1.2", other.frames[0].instance  # type: ignore[union-attr]
        second.SeriesInstanceUID, second.ReferencedInstanceSequence = other.uid, [image]
        data.ReferencedSeriesSequence.insert(0, second)

    change(folder / "a.seg.dcm", refer_to_both)
    data = find_cases(folder)
    (case,) = data.cases
    assert case.series is not None
    assert case.series.uid == series.uid
    assert "'a.seg.dcm' refers to 2 series" in " ".join(data.notices)


def test_what_was_drawn_by_hand_is_judged_well(tmp_path: Path) -> None:
    _, series = image_at(save_stack(tmp_path / "series", np.zeros((5, 12, 10), np.uint16)))
    assert (
        judged(save_contours(tmp_path / "a.rtstruct.dcm", series, {"liver": [("CLOSED_PLANAR", square(3))]}))
        == []
    )


def test_an_object_given_beside_an_image_is_its_label(tmp_path: Path) -> None:
    save_patients(tmp_path, ".seg.dcm", 2)
    case = case_from_files(tmp_path / "p1" / "ct", tmp_path / "labels" / "1.seg.dcm")
    assert case.read_label is not None
    assert (case.read_label() == 1).sum() == 15  # its first segment is the tumour
    files = (tmp_path / "p1" / "ct", tmp_path / "labels" / "1.seg.dcm")
    case = case_from_files(*files, class_names=("background", "liver", "tumour"))
    assert case.read_label is not None
    assert [(case.read_label() == k).sum() for k in (1, 2)] == [9, 15]
    with pytest.raises(DataError, match="a series that is not there"):
        case_from_files(tmp_path / "p0" / "ct", tmp_path / "labels" / "1.seg.dcm")
    with pytest.raises(DataError, match="give a folder that holds both"):
        read_image(tmp_path / "labels" / "1.seg.dcm")
