"""DICOM SEG: written over the very slices of a series, judged by dciodvfy and read by highdicom."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from clinic_files import KINDS, NAME, SHAPE, judged, pixels, save_kind, save_stack

from napari_prosma.data.formats.dicom import Series, series_of
from napari_prosma.data.formats.dicom_seg import coded, terms
from napari_prosma.data.readers import read_image
from napari_prosma.data.writers import write_dicom
from napari_prosma.errors import ConfigError, DataError

hd = pytest.importorskip("highdicom")

NAMES = ("background", "Läsion", "cyst")


def series_at(path: Path) -> tuple[Series, np.ndarray]:
    """A series, and labels that differ in every place, on the grid of its image."""
    image = read_image(path)
    assert image.series is not None
    labels = np.random.default_rng(1).integers(0, 3, image.array.shape[1:]).astype(np.uint8)
    return image.series, labels


def by_instance(path: Path) -> dict[tuple[str, int], np.ndarray]:
    """Labels of a SEG by the instance and the frame that each says it lies on, as highdicom unpacks them."""
    data = hd.seg.segread(path)
    found: dict[tuple[str, int], np.ndarray] = {}
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    shared = data.SharedFunctionalGroupsSequence[0]
    for frame, mask in zip(data.PerFrameFunctionalGroupsSequence, frames, strict=True):
        segment = (
            frame if "SegmentIdentificationSequence" in frame else shared
        ).SegmentIdentificationSequence
        image = frame.DerivationImageSequence[0].SourceImageSequence[0]
        key = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 1)))
        labels = found.setdefault(key, np.zeros(mask.shape, np.uint8))
        labels[mask > 0] = segment[0].ReferencedSegmentNumber
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_pixel_lies_on_the_frame_that_it_was_found_in(tmp_path: Path, kind: str) -> None:
    where = save_kind(tmp_path / "series", kind)
    series, labels = series_at(where)
    written = write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES)
    found = by_instance(written)
    # The label of a pixel is known by the image's own value there, whatever the order of the axes.
    image = read_image(where)
    planes = {}
    for path in series.files:
        data = pydicom.dcmread(path)
        stack = data.pixel_array.reshape(-1, data.Rows, data.Columns)
        planes |= {(str(data.SOPInstanceUID), n): plane for n, plane in enumerate(stack, 1)}
    assert found.keys() == planes.keys()
    ours = sorted(zip(image.array.ravel().tolist(), labels.ravel().tolist(), strict=True))
    theirs = sorted(
        (value, label)
        for key, plane in planes.items()
        for value, label in zip(plane.ravel().tolist(), found[key].ravel().tolist(), strict=True)
    )
    assert ours == theirs
    assert judged(written) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS[:7] if kind != "gantry-tilted"])
def test_highdicom_sees_the_volume_where_the_series_lies(tmp_path: Path, kind: str) -> None:
    series, labels = series_at(save_kind(tmp_path / "series", kind))
    written = write_dicom(tmp_path / "a.seg.dcm", labels, series, NAMES)
    volume = hd.seg.segread(written).get_volume(combine_segments=True)
    source = series.geometry.source
    assert source is not None
    to_lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ source.array_affine(labels.shape)
    theirs = np.indices(volume.spatial_shape).reshape(3, -1)
    world = volume.affine @ np.vstack([theirs, np.ones(theirs.shape[1])])
    ours = (np.linalg.inv(to_lps) @ world)[:3]
    assert np.abs(ours - ours.round()).max() < 1e-3
    assert np.array_equal(labels[tuple(ours.round().astype(int))], volume.array.reshape(-1))


def test_it_belongs_to_the_study_and_says_what_made_it(tmp_path: Path) -> None:
    series, labels = series_at(save_stack(tmp_path / "series", pixels()))
    written = write_dicom(tmp_path / "a.dcm", labels, series, NAMES, {"cyst": "Cyst"}, by_hand=True)
    data = pydicom.dcmread(written)
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == ("1.2.840.1", "1.2.840.2")
    assert str(data.PatientName) == NAME
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"
    assert len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SHAPE[0]
    first, second = data.SegmentSequence
    assert (first.SegmentLabel, second.SegmentLabel) == NAMES[1:]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "SCT"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Cyst"
    assert first.SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "ProSMA-UNet"
    assert hd.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb() == (
        0,
        194,
        255,
    )


@pytest.mark.parametrize("kind", ["oblique", "ultrasound clip"])
def test_probabilities_become_fractions(tmp_path: Path, kind: str) -> None:
    series, labels = series_at(save_kind(tmp_path / "series", kind))
    probabilities = np.random.default_rng(2).dirichlet((1, 1, 1), labels.shape).astype(np.float32)
    probabilities = np.moveaxis(probabilities, -1, 0)
    written = write_dicom(tmp_path / "a.dcm", probabilities, series, NAMES)
    data = pydicom.dcmread(written)
    assert data.SegmentationType == "FRACTIONAL"
    assert judged(written) == []
    assert data.pixel_array.mean() / 255 == pytest.approx(probabilities[1:].mean(), abs=2e-3)


def test_a_missing_slice_is_not_said_to_be_derived_from_anything(tmp_path: Path) -> None:
    save_stack(tmp_path / "series", pixels())
    next((tmp_path / "series").glob("*-2.dcm")).unlink()
    series, labels = series_at(tmp_path / "series")
    written = write_dicom(tmp_path / "a.dcm", labels, series, NAMES)
    frames = pydicom.dcmread(written).PerFrameFunctionalGroupsSequence
    bare = [frame for frame in frames if not frame.DerivationImageSequence]
    assert {tuple(frame.PlanePositionSequence[0].ImagePositionPatient) for frame in bare} == {
        (-20.5, 31.25, 106.0)
    }
    assert judged(written) == []


def test_nothing_found_keeps_the_names_of_the_classes(tmp_path: Path) -> None:
    series, labels = series_at(save_stack(tmp_path / "series", pixels()))
    written = write_dicom(tmp_path / "a.dcm", labels * 0, series, NAMES)
    assert [segment.SegmentLabel for segment in pydicom.dcmread(written).SegmentSequence] == list(NAMES[1:])
    assert judged(written) == []


def test_probabilities_that_are_rounded_to_nothing_are_an_empty_frame(tmp_path: Path) -> None:
    series, labels = series_at(save_stack(tmp_path / "series", pixels()))
    for probability in (0.0, 1e-4, 1.9e-3):
        probabilities = np.full((3, *labels.shape), probability, np.float32)
        written = write_dicom(tmp_path / "a.dcm", probabilities, series, NAMES)
        data = pydicom.dcmread(written)
        assert not data.pixel_array.any()
        assert [segment.SegmentLabel for segment in data.SegmentSequence] == list(NAMES[1:])
    assert judged(written) == []


def test_what_an_anonymiser_took_is_made_up_the_same_each_time(tmp_path: Path) -> None:
    gone = ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "StudyDate")
    save_stack(tmp_path / "series", pixels(), **dict.fromkeys(gone))
    for path in (tmp_path / "series").iterdir():
        data = pydicom.dcmread(path)
        for name in gone:
            delattr(data, name)
        data.save_as(path)
    series, labels = series_at(tmp_path / "series")
    one, other = (
        pydicom.dcmread(write_dicom(tmp_path / name, labels, series, NAMES)) for name in ("a.dcm", "b.dcm")
    )
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert judged(tmp_path / "a.dcm") == []


def test_terms_that_are_offered_are_understood_and_have_their_category(tmp_path: Path) -> None:
    offered = terms()
    assert {"Liver", "Mass", "Portal vein", "Fat"} & {*offered} == {"Liver", "Mass", "Portal vein"}
    assert len({coded(term).value for term in offered[::20]}) == len(offered[::20])
    series, labels = series_at(save_stack(tmp_path / "series", pixels()))
    meanings = {"Läsion": "Mass", "cyst": "Liver"}
    written = write_dicom(tmp_path / "a.dcm", labels, series, NAMES, meanings)
    categories = [
        segment.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning
        for segment in pydicom.dcmread(written).SegmentSequence
    ]
    assert categories == ["Morphologically Abnormal Structure", "Anatomical Structure"]
    assert judged(written) == []


def test_bad_requests_are_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series, labels = series_at(save_stack(tmp_path / "series", pixels()))
    with pytest.raises(DataError, match="read from DICOM"):
        write_dicom(tmp_path / "a.dcm", labels, None, NAMES)
    with pytest.raises(DataError, match="shape"):
        write_dicom(tmp_path / "a.dcm", labels[1:], series, NAMES)
    with pytest.raises(ConfigError, match=r"similar: .*Liver"):
        write_dicom(tmp_path / "a.dcm", labels, series, NAMES, {"cyst": "Livr"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "highdicom", None)
        with pytest.raises(ConfigError, match=r'pip install "napari-prosma\[dicom\]"'):
            write_dicom(tmp_path / "a.dcm", labels, series, NAMES)
    for path in series.files:
        path.unlink()
    with pytest.raises(DataError, match="put the series back, or save as NIfTI"):
        write_dicom(tmp_path / "a.dcm", labels, series, NAMES)
    assert not (tmp_path / "a.dcm").exists()


def test_the_one_series_of_a_folder_is_what_an_image_remembers(tmp_path: Path) -> None:
    folder = save_stack(tmp_path / "series", pixels())
    assert read_image(folder).series == series_of(folder)
