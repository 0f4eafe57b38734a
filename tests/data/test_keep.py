"""What was annotated in layers is kept as files that give the same arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.data.formats import nifti
from napari_prosma.data.keep import TABLE, keep_case, keep_label, safe_name
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import read_image, read_label
from napari_prosma.data.writers import write_image
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

RULE = LabelRule("values", ("background", "liver"), (1, 2), unlabelled=0)
TILTED = np.array([[0.7, 0.01, 0, -3.3], [-0.02, 0.8, 0.1, 1 / 3], [0, 0.1, 2.5, 77], [0, 0, 0, 1]])


def in_frame(shape: tuple[int, ...]) -> Geometry:
    return Geometry.patient(SourceFrame.canonical(TILTED), shape)


IMAGES = {
    "gray picture": ((1, 9, 7), np.uint8, Geometry.pixels(2)),
    "colour picture": ((3, 9, 7), np.uint8, Geometry.pixels(2)),
    "real numbers": ((1, 9, 7), np.float32, Geometry((0.1, 0.3), (1 / 3, -2.0), "um")),
    "many channels": ((5, 9, 7), np.float64, Geometry((0.1, 0.3), (0.0, 0.0), "mm")),
    "three channels": ((3, 9, 7), np.uint16, Geometry.pixels(2)),
    "volume in a frame": ((1, 4, 9, 7), np.int16, in_frame((4, 9, 7))),
    "channels in a frame": ((2, 4, 9, 7), np.int16, in_frame((4, 9, 7))),
    "volume": ((1, 4, 9, 7), np.int16, Geometry((2.5, 0.1, 0.3), (1.0, 2.0, 1 / 3), "um")),
    "volume without unit": ((1, 4, 9, 7), np.uint16, Geometry((3.0, 1.0, 1.0), (0.0,) * 3)),
    "three slices wide": ((1, 4, 9, 3), np.uint8, Geometry.pixels(3)),
    "one slice": ((1, 1, 9, 7), np.uint8, Geometry.pixels(3)),
    "truth values": ((1, 9, 7), bool, Geometry.pixels(2)),
    "series": ((1, 2, 4, 9, 7), np.uint8, Geometry((1.0, 2.5, 0.1, 0.3), (0.0,) * 4, "um")),
}


def image(kind: str = "volume") -> Image:
    shape, dtype, geometry = IMAGES[kind]
    return Image((np.random.default_rng(0).normal(size=shape) * 200).astype(dtype), geometry)


def drawn(shape: tuple[int, ...], kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 3, shape).astype(kind)


def kept_case(folder: Path) -> Case:
    (case,) = find_cases(folder / TABLE, labels=RULE).cases
    return case


@pytest.mark.parametrize("kind", IMAGES)
def test_a_kept_case_is_found_with_the_arrays_of_its_layers(tmp_path: Path, kind: str) -> None:
    given, stored = image(kind), drawn(IMAGES[kind][0][1:])
    keep_case(tmp_path / "cases", "ct", given, stored)
    for place in (tmp_path / "cases", tmp_path / "cases" / TABLE):
        (case,) = find_cases(place, labels=RULE).cases
        found = case.read_image()
        assert case.name == "ct"
        assert found.geometry == given.geometry
        assert content_hash(found.array) == content_hash(given.array)
        assert case.read_label is not None
        assert np.array_equal(case.read_label(), RULE.apply(stored, "ct"))


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, bool])
@pytest.mark.parametrize("shape", [(9, 7), (4, 9, 7), (1, 9, 7), (9, 3), (4, 9, 3), (2, 4, 9, 7)])
def test_labels_keep_their_values_and_their_type(tmp_path: Path, kind: type, shape: tuple[int, ...]) -> None:
    stored = drawn(shape, kind)
    if kind is not bool:
        stored.flat[0] = np.iinfo(kind).max
        stored.flat[1] = np.iinfo(kind).min
    of_shape = Image(np.zeros((1, *shape)), Geometry.pixels(len(shape)))
    _, path = keep_case(tmp_path, "a", of_shape, stored)
    read, _ = read_label(path)
    assert np.array_equal(read, stored)
    assert read.dtype == (np.uint8 if kind is bool else kind)


def test_an_image_in_the_frame_of_its_nifti_file_keeps_the_header(tmp_path: Path) -> None:
    nifti.write_image(tmp_path / "ct.nii.gz", image("volume in a frame"))
    given = read_image(tmp_path / "ct.nii.gz")
    keep_case(tmp_path / "cases", "ct", given, drawn((4, 9, 7)))
    assert kept_case(tmp_path / "cases").read_image().geometry == given.geometry
    assert given.geometry.source is not None
    assert given.geometry.source.nifti_header


def test_corrected_labels_are_found_by_a_case_that_is_there_already(tmp_path: Path) -> None:
    first, corrected = drawn((4, 9, 7)), drawn((4, 9, 7), np.int64)[::-1]
    given = image()
    keep_case(tmp_path, "ct", given, first)
    case = kept_case(tmp_path)
    assert case.read_label is not None
    assert np.array_equal(case.read_label(), RULE.apply(first, ""))
    keep_label(tmp_path, "ct", corrected)
    assert np.array_equal(case.read_label(), RULE.apply(corrected, ""))
    assert content_hash(case.read_image().array) == content_hash(given.array)
    assert sorted(path.name for path in tmp_path.iterdir()) == [TABLE, "ct.ome.zarr", "ct_label.tif"]


def test_labels_are_not_kept_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    keep_case(tmp_path / "cases", "ct", image(), drawn((4, 9, 7)))
    (tmp_path / "cases").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="moved, renamed or deleted"):
        keep_label(tmp_path / "cases", "ct", drawn((4, 9, 7)))
    assert not (tmp_path / "cases").exists()
    assert kept_case(tmp_path / "moved").name == "ct"


def test_an_image_whose_file_stands_is_not_copied(tmp_path: Path) -> None:
    file = write_image(tmp_path / "big.ome.zarr", image())
    path, _ = keep_case(tmp_path / "cases", "ct", image(), drawn((4, 9, 7)), file)
    assert path == file
    assert sorted(p.name for p in (tmp_path / "cases").iterdir()) == [TABLE, "ct_label.tif"]
    # The run folder may be moved; the image stays where it is.
    (tmp_path / "cases").rename(tmp_path / "moved")
    assert np.array_equal(kept_case(tmp_path / "moved").read_image().array, image().array)


@pytest.mark.parametrize("how", ["value", "spacing", "type", "gone", "damaged"])
def test_an_image_that_is_no_longer_that_of_its_file_is_copied(tmp_path: Path, how: str) -> None:
    given, file = image(), write_image(tmp_path / "big.ome.zarr", image())
    match how:
        case "value":
            given.array[0, 3, 8, 6] += 1
        case "spacing":
            given = replace(given, geometry=replace(given.geometry, spacing=(2.5, 0.1, 0.31)))
        case "type":
            given = replace(given, array=given.array.astype(np.int32))
        case "gone":
            file.rename(tmp_path / "elsewhere")
        case "damaged":
            (file / ".zattrs").write_text("{")
    path, _ = keep_case(tmp_path / "cases", "ct", given, drawn((4, 9, 7)), file)
    assert path == tmp_path / "cases" / "ct.ome.zarr"
    found = kept_case(tmp_path / "cases").read_image()
    assert (found.geometry, found.array.dtype) == (given.geometry, given.array.dtype)
    assert np.array_equal(found.array, given.array)


def test_an_image_that_is_kept_already_is_not_written_again(tmp_path: Path) -> None:
    path, _ = keep_case(tmp_path, "ct", image(), drawn((4, 9, 7)))
    (path / "mark").touch()
    keep_case(tmp_path, "ct", image(), drawn((4, 9, 7)))
    assert (path / "mark").exists()
    keep_case(tmp_path, "ct", image("gray picture"), drawn((9, 7)))
    assert not (path / "mark").exists()
    assert kept_case(tmp_path).read_image().array.shape == (1, 9, 7)


def test_the_table_lists_the_cases_of_one_run(tmp_path: Path) -> None:
    stored = drawn((4, 9, 7))
    for number, name in enumerate(names := ["a, b", 'with "quotes"', "-c", "2"]):
        keep_case(tmp_path, name, image(), stored, beside=names[:number])
    assert len(find_cases(tmp_path, labels=RULE).cases) == 4
    keep_case(tmp_path, names[1], image(), stored[::-1], beside=names)
    found = {case.name: case for case in find_cases(tmp_path, labels=RULE).cases}
    assert found.keys() == {safe_name(name) for name in names}
    changed = found[safe_name(names[1])].read_label
    assert changed is not None
    assert np.array_equal(changed(), RULE.apply(stored[::-1], ""))
    keep_case(tmp_path, "2", image(), stored, beside=["-c"])
    assert [case.name for case in find_cases(tmp_path, labels=RULE).cases] == ["2", "-c"]
    keep_case(tmp_path, "other", image(), stored)
    assert [case.name for case in find_cases(tmp_path, labels=RULE).cases] == ["other"]
    assert (tmp_path / "-c_label.tif").exists()


def test_a_damaged_table_is_told_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / TABLE).write_bytes(b"name,image,label\n\xff\xff")
    with pytest.raises(DataError, match="damaged"):
        keep_case(tmp_path, "ct", image(), drawn((4, 9, 7)), beside=["a"])
    keep_case(tmp_path, "ct", image(), drawn((4, 9, 7)))
    assert kept_case(tmp_path).name == "ct"


def test_a_colour_volume_of_one_slice_is_refused_in_words(tmp_path: Path) -> None:
    odd = Image(np.zeros((3, 1, 9, 7), np.uint8), Geometry.pixels(3))
    with pytest.raises(DataError, match="single element"):
        keep_case(tmp_path, "odd", odd, drawn((1, 9, 7)))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("liver ct [1]", "liver ct [1]"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a/b\\c:d", "a_b_c_d"),
        ("  two\n lines ", "two lines"),
        ("", "case"),
        ("...", "case"),
        ("NUL.tif", "_NUL.tif"),
        ("x" * 300, "x" * 48),
        ("nul." + "x" * 44, "_nul." + "x" * 43),
        ("a" * 46 + ". b", "a" * 46),
        ("é 肝", "é 肝"),
    ],
)
def test_a_layer_name_becomes_a_file_name(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_the_longest_name_fits_into_a_folder(tmp_path: Path) -> None:
    keep_case(tmp_path, "🫀" * 300, image(), drawn((4, 9, 7)))
    assert kept_case(tmp_path).name == "🫀" * 48


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_safe_name_stays_as_it_is_and_in_its_folder(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert Path("folder", safe).parent == Path("folder")
    assert safe == safe.strip()


def test_write_image_keeps_all_of_an_image_and_refuses_other_formats(tmp_path: Path) -> None:
    given = image("channels in a frame")
    read = read_image(write_image(tmp_path / "a.ome.zarr", given))
    assert read.geometry == given.geometry
    assert read.array.dtype == given.array.dtype
    assert np.array_equal(read.array, given.array)
    with pytest.raises(DataError, match="OME-Zarr"):
        write_image(tmp_path / "a.png", given)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]
