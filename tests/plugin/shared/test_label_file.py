"""A corrected label goes back into the files it came from, and nothing else changes in them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_prosma.data.labels import LabelRule, rule_from_text
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ct_case
from napari_prosma.data.readers import label_names, read_label
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.plugin.shared.label_file import LabelFile, open_label

SIDE = 12


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(array).save(path)


def stored(path: Path) -> np.ndarray:
    return read_label(path)[0]


def square(value: int, low: int, high: int, kind: type = np.uint8) -> np.ndarray:
    array = np.zeros((SIDE, SIDE), kind)
    array[low:high, low:high] = value
    return array


def opened(folder: Path, masks: dict[str, np.ndarray], rule: LabelRule | None = None) -> LabelFile:
    """A case of one image ``a`` with these masks beside it."""
    save(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE), folder / "a.png")
    for name, mask in masks.items():
        save(mask, folder / name)
    return open_label(find_cases(folder, labels=rule), "a")


def test_a_mask_keeps_the_number_that_it_is_stored_with(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    assert set(np.unique(label.shown)) == {0, 1}
    corrected = label.shown.copy()
    corrected[8, 8], corrected[2, 2] = 1, 0
    again = label.save(corrected, tmp_path / "kept")
    there = stored(tmp_path / "d" / "a_mask.png")
    assert there[8, 8] == 255
    assert there[2, 2] == 0
    assert set(np.unique(there)) == {0, 255}
    np.testing.assert_array_equal(stored(tmp_path / "kept" / "a_mask.png"), square(255, 2, 6))
    np.testing.assert_array_equal(again.shown, find_cases(tmp_path / "d").cases[0].read_label())  # type: ignore[misc]


def test_every_version_that_is_written_over_is_kept(tmp_path: Path):
    """Also what an expert did elsewhere between two openings, whose name is the same."""
    masks, kept = tmp_path / "d", tmp_path / "kept"
    label = opened(masks, {"a_mask.png": square(255, 2, 6)})
    label.save(1 - label.shown, kept)
    save(square(255, 7, 9), masks / "a_mask.png")
    again = open_label(find_cases(masks), "a")
    again.save(np.zeros_like(again.shown), kept)
    assert not stored(masks / "a_mask.png").any()
    np.testing.assert_array_equal(stored(kept / "a_mask.png"), square(255, 2, 6))
    np.testing.assert_array_equal(stored(kept / "2-a_mask.png"), square(255, 7, 9))


def test_a_save_that_is_refused_for_one_file_leaves_all_as_they_are(tmp_path: Path):
    masks = {"a_mask.png": square(255, 0, 4), "a_mask_1.png": square(255, 6, 10)}
    label = opened(tmp_path / "d", masks)
    corrected = 1 - label.shown
    save(square(255, 6, 8), tmp_path / "d" / "a_mask_1.png")
    with pytest.raises(DataError, match=r"a_mask_1\.png' was changed by somebody else"):
        label.save(corrected, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), masks["a_mask.png"])
    save(masks["a_mask_1.png"], tmp_path / "d" / "a_mask_1.png")
    label.save(corrected, tmp_path / "kept")
    np.testing.assert_array_equal(find_cases(tmp_path / "d").cases[0].read_label(), corrected)  # type: ignore[misc]


def test_what_was_written_goes_back_where_a_later_file_cannot_be(tmp_path: Path):
    """The second is in one bit, and what gives way in it becomes 2, the background's number."""
    masks = {"a_mask.png": square(2, 0, 12) - square(1, 0, 4), "a_mask_1.png": square(1, 6, 10) > 0}
    rule = LabelRule("values", ("background", "vessel", "bone"), (2, 1, 0))
    label = opened(tmp_path / "d", masks, rule)
    before = {name: (tmp_path / "d" / name).read_bytes() for name in masks}
    with pytest.raises(DataError, match=r"a_mask_1\.png' cannot hold the value 2"):
        label.save(np.zeros_like(label.shown), tmp_path / "kept")
    assert {name: (tmp_path / "d" / name).read_bytes() for name in masks} == before


def test_of_several_masks_each_holds_what_is_left_of_it(tmp_path: Path):
    masks = {"a_mask.png": square(255, 0, 4), "a_mask_1.png": square(255, 6, 10)}
    label = opened(tmp_path / "d", masks)
    corrected = label.shown.copy()
    corrected[6, 6], corrected[11, 11] = 0, 1
    label.save(corrected, tmp_path / "kept")
    first, second = (stored(tmp_path / "d" / name) for name in masks)
    assert first[11, 11] == 255
    assert first.sum() == 255 * 17
    assert second[6, 6] == 0
    assert second.sum() == 255 * 15
    np.testing.assert_array_equal(find_cases(tmp_path / "d").cases[0].read_label(), corrected)  # type: ignore[misc]


def test_numbered_objects_keep_their_numbers(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(7, 2, 6)}, LabelRule.instances())
    corrected = label.shown.copy()
    corrected[9, 9] = 1
    label.save(corrected, tmp_path / "kept")
    there = stored(tmp_path / "d" / "a_mask.png")
    assert (there[3, 3], there[9, 9]) == (7, 8)


def test_scribbles_are_corrected_by_their_own_numbers(tmp_path: Path):
    drawn = square(1, 0, 3) + square(2, 6, 9)
    rule = LabelRule.of_values((1, 2)).sparse("scribbles")
    label = opened(tmp_path / "d", {"a_mask.png": drawn}, rule)
    np.testing.assert_array_equal(label.shown, drawn)
    corrected = drawn.copy()
    corrected[0, 0], corrected[11, 11] = 0, 1
    label.save(corrected, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), corrected)
    with pytest.raises(DataError, match="hold the value 9"):
        label.save(corrected + np.uint8(7) * (corrected == 2), tmp_path / "kept")


def test_a_volume_lies_where_it_lay(tmp_path: Path):
    case = ct_case(0, (6, 16, 16))
    assert case.read_label is not None
    image, classes = case.read_image(), case.read_label()
    write_map(tmp_path / "d" / "images" / "a.nii.gz", image.array, image.geometry)
    path = tmp_path / "d" / "masks" / "a.nii.gz"
    write_labels(path, classes, image.geometry)
    _, before = read_label(path)
    label = open_label(find_cases(tmp_path / "d"), "a")
    corrected = label.shown.copy()
    corrected[2, :3] = 1
    label.save(corrected, tmp_path / "kept")
    there, after = read_label(path)
    assert after == before
    np.testing.assert_array_equal(there, corrected)


def test_what_another_program_changed_is_not_written_over(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    save(square(255, 1, 3), tmp_path / "d" / "a_mask.png")
    with pytest.raises(DataError, match="changed by somebody else since it was opened"):
        label.save(1 - label.shown, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), square(255, 1, 3))


def test_a_value_without_a_class_is_refused(tmp_path: Path):
    label = opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    with pytest.raises(DataError, match=r"the value 3 .* no class; the classes are 0 = background, 1 = "):
        label.save(label.shown * 3, tmp_path / "kept")


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_mask_stays_the_picture_that_it_was(mode: str, tmp_path: Path):
    path = tmp_path / "d" / "a_mask.png"
    opened(tmp_path / "d", {"a_mask.png": square(255, 2, 6)})
    PIL.Image.open(path).convert(mode).save(path)
    label = open_label(find_cases(tmp_path / "d"), "a")
    again = label.save(1 - label.shown, tmp_path / "kept")
    there = PIL.Image.open(path)
    assert there.mode == mode
    white = 255 if mode != "RGB" else (255, 255, 255)
    assert (there.getpixel((0, 0)), there.getpixel((3, 3))) == (white, 0 if mode != "RGB" else (0, 0, 0))
    empty = again.save(np.zeros_like(label.shown), tmp_path / "kept")
    empty.save(label.shown, tmp_path / "kept")
    assert PIL.Image.open(path).getpixel((3, 3)) == white


def test_a_palette_is_kept(tmp_path: Path):
    opened(tmp_path / "d", {"a_mask.png": square(1, 2, 6)})
    path, palette = tmp_path / "d" / "a_mask.png", [0, 0, 0, 200, 10, 30]
    drawn = PIL.Image.open(path)
    drawn.putpalette(palette)
    drawn.save(path, transparency=0)
    rule = LabelRule.of_names({0: "background", 1: "vessel", 2: "bone"})
    label = open_label(find_cases(tmp_path / "d", labels=rule), "a")
    corrected = label.shown.copy()
    corrected[8:, 8:] = 2
    label.save(corrected, tmp_path / "kept")
    there = PIL.Image.open(path)
    assert there.mode == "P"
    assert (there.getpalette() or [])[:6] == palette
    assert there.info["transparency"] in (0, bytes([0]))
    np.testing.assert_array_equal(stored(path), corrected)


def test_a_volume_keeps_its_header_and_the_names_in_it(tmp_path: Path):
    case = ct_case(0, (6, 16, 16))
    assert case.read_label is not None
    image, classes = case.read_image(), case.read_label()
    write_map(tmp_path / "d" / "images" / "a.nii.gz", image.array, image.geometry)
    path = tmp_path / "d" / "masks" / "a.nii.gz"
    write_labels(path, classes, image.geometry, ("background", "liver", "tumour"))
    before = nibabel.load(path).header
    label = open_label(find_cases(tmp_path / "d"), "a")
    corrected = label.shown.copy()
    corrected[2, :3] = 1
    label.save(corrected, tmp_path / "kept")
    after = nibabel.load(path).header
    assert b"tumour" in after.extensions[0].get_content()
    assert after.binaryblock == before.binaryblock
    np.testing.assert_array_equal(stored(path), corrected)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.mha"])
def test_a_file_keeps_the_names_in_it(name: str, tmp_path: Path):
    drawn, plane = square(1, 0, 4) + square(2, 6, 9), Geometry.pixels(2)
    path, names = tmp_path / "d" / "masks" / name, ("background", "Läsion", "core")
    save(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE), tmp_path / "d" / "images" / "a.png")
    write_labels(path, drawn, plane, names)
    label = open_label(find_cases(tmp_path / "d", labels=rule_from_text("0=background,1=one,2=two")), "a")
    corrected = label.shown.copy()
    corrected[11, :3] = 1
    label.save(corrected, tmp_path / "kept")
    assert label_names(path) == dict(enumerate(names))
    np.testing.assert_array_equal(stored(path), corrected)


@pytest.mark.parametrize("encoding", ["gzip", "raw"])
def test_segments_of_slicer_keep_their_names_colours_and_terms(encoding: str, tmp_path: Path):
    geometry = {"space": "left-posterior-superior", "space directions": np.diag([1, 1, 2.0])}
    geometry["space origin"] = np.array([3.0, -4, 5])
    segments = {
        "Segment0_ID": "Segment_7",
        "Segment0_Name": "XX",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Color": "0.1 0.2 0.3",
        "Segment0_Extent": "0 3 0 3 0 1",
        "Segment0_Tags": "TerminologyEntry:Segmentation~SCT^1^Tissue|",
        "Segment1_ID": "Segment_5",
        "Segment1_Name": "tumour",
        "Segment1_LabelValue": "3",
        "Segment1_Layer": "0",
    }
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "masks").mkdir()
    image, path = tmp_path / "d" / "images" / "a.nrrd", tmp_path / "d" / "masks" / "a.seg.nrrd"
    nrrd.write(str(image), np.arange(6 * 7 * 4, dtype=np.int16).reshape(6, 7, 4), dict(geometry))
    voxels = np.zeros((6, 7, 4), ">i2")
    voxels[1:3, 1:4, 1], voxels[4, 5, 2] = 1, 3
    nrrd.write(str(path), voxels, {**geometry, **segments, "encoding": encoding})
    path.write_bytes(path.read_bytes().replace(b"XX", "Läsion".encode()))
    rule = LabelRule.of_names({0: "background", 1: "liver", 3: "tumour", 5: "vein"})
    label = open_label(find_cases(tmp_path / "d", labels=rule), "a")
    assert not label.fixed
    corrected = label.shown.copy()
    corrected[0, 5:, :2], corrected[3, 0, 0] = 1, 3
    label.save(corrected, tmp_path / "kept")
    np.testing.assert_array_equal(find_cases(tmp_path / "d", labels=rule).cases[0].read_label(), corrected)  # type: ignore[misc]
    after = nrrd.read_header(line.decode() for line in path.read_bytes().partition(b"\n\n")[0].split(b"\n"))
    whole = {f"Segment{number}_Extent": "0 5 0 6 0 3" for number in range(3)}
    expected = segments | whole | {"Segment0_Name": "Läsion"}
    assert {key: after[key] for key in expected} == expected
    added = {"ID": "Segment_6", "Name": "vein", "LabelValue": "5", "Layer": "0"}
    assert {key: after[f"Segment2_{key}"] for key in added} == added
    assert (after["type"], after["space"]) == ("int16", "left-posterior-superior")
    there = read_label(path)[1]
    assert there == read_label(tmp_path / "kept" / "a.seg.nrrd")[1]


def looked_at_only(folder: Path, rule: LabelRule | None, why: str) -> None:
    label = open_label(find_cases(folder, labels=rule), "a")
    assert why in label.fixed
    files = {path: path.read_bytes() for path in label.paths}
    with pytest.raises(DataError, match=re.escape(why)):
        label.save(np.zeros_like(label.shown), folder.parent / "kept")
    assert {path: path.read_bytes() for path in label.paths} == files


def test_what_cannot_be_saved_is_told_before_anybody_corrects_it(tmp_path: Path):
    opened(tmp_path / "jpeg", {"a_mask.jpg": square(255, 0, 8)})
    looked_at_only(tmp_path / "jpeg", None, r"not written as .jpg")
    opened(tmp_path / "clear", {"a_mask.png": np.dstack([square(255, 0, 8)] * 4)})
    looked_at_only(tmp_path / "clear", None, "holds transparency or channels")
    rule = LabelRule.of_values((1, 2)).sparse("scribbles")
    opened(tmp_path / "two", {"a_mask.png": square(1, 0, 4), "a_mask_1.png": square(2, 6, 9)}, rule)
    looked_at_only(tmp_path / "two", rule, "lie in 2 files")
    shown = open_label(find_cases(tmp_path / "two", labels=rule), "a").shown
    np.testing.assert_array_equal(shown, square(1, 0, 4) + square(2, 6, 9))


def test_masks_of_one_structure_each_are_not_given_the_numbers_of_others(tmp_path: Path):
    for name in ("a", "b"):
        for file, low in (("ct", 0), ("liver", 2), ("spleen", 8)):
            array = np.arange(2 * SIDE * SIDE) % 97 if file == "ct" else [square(1, low, low + 3)] * 2
            volume = np.reshape(array, (2, SIDE, SIDE)).astype(np.uint8)
            write_labels(
                tmp_path / "d" / name / f"{file}.nii.gz", volume, Geometry((2.0, 1.0, 1.0), (0.0,) * 3, "mm")
            )
    data = find_cases(tmp_path / "d")
    assert data.class_names == ("background", "liver", "spleen")
    looked_at_only(tmp_path / "d", None, "each structure of 'a' has a file of its own")


def test_channels_and_parts_of_an_image_are_not_written_over(tmp_path: Path):
    for name in "ab":
        save(
            np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE),
            tmp_path / "d" / "images" / f"{name}.png",
        )
        pages = np.stack([square(1, 0, 3), square(1, 6, 9)])
        path = tmp_path / "d" / "masks" / f"{name}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, pages, photometric="minisblack")
    looked_at_only(tmp_path / "d", None, "a.tif' has shape (2, 12, 12) but its image has (12, 12)")
    shown = open_label(find_cases(tmp_path / "d"), "a").shown
    np.testing.assert_array_equal(shown, square(1, 0, 3) + square(2, 6, 9))


def test_outlines_and_pairs_of_files_can_only_be_looked_at(tmp_path: Path):
    outline = square(255, 2, 9)
    outline[3:8, 3:8] = 0
    opened(tmp_path / "outline", {"a_mask.png": outline})
    rule = replace(LabelRule.of_values((0, 255)), filled=True)
    looked_at_only(tmp_path / "outline", rule, "outlines, which are filled when read")
    geometry, pair = Geometry((2.0, 1.0, 1.0), (0.0,) * 3, "mm"), tmp_path / "pair" / "masks" / "a.hdr"
    volume = np.stack([square(1, 2, 6)] * 3)
    write_labels(tmp_path / "pair" / "images" / "a.nii.gz", volume * 9, geometry)
    write_labels(tmp_path / "a.nii", volume, geometry)
    pair.parent.mkdir()
    written = nibabel.load(tmp_path / "a.nii")
    nibabel.Nifti1Pair(written.dataobj, written.affine).to_filename(pair)
    looked_at_only(tmp_path / "pair", None, "labels are not written as .hdr; save it as .png")


def test_files_that_would_be_read_otherwise_stay_as_they_were(tmp_path: Path):
    mask = square(255, 2, 6)
    label = opened(tmp_path / "d", {"a_mask.png": mask})
    other = replace(label, case=replace(label.case, read_label=lambda: np.zeros_like(label.shown)))
    with pytest.raises(DataError, match="label files of 'a' would be read as another label"):
        other.save(1 - label.shown, tmp_path / "kept")
    np.testing.assert_array_equal(stored(tmp_path / "d" / "a_mask.png"), mask)
