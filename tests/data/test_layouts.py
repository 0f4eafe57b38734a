"""Folders are recognised by looking; labels come as class indices on the image's grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import tifffile
from dicom_files import save_slice
from pydicom import dcmread

from napari_prosma.data.formats import ome_zarr
from napari_prosma.data.labels import IGNORE, LabelRule, count_instances, present_values, united
from napari_prosma.data.layouts import case_from_files, check_foreground, find_cases, pair_files
from napari_prosma.data.marks import keep_marks
from napari_prosma.data.readers import read_label
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

Save = Callable[..., Path]


@pytest.fixture
def busi(save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path) -> Path:
    """Three groups in the modes of the real set: one-bit, RGB and RGBA, two masks, an image in colour."""
    for number in range(1, 4):
        save_picture(f"benign/benign ({number}).png", scan)
        save_picture(f"benign/benign ({number})_mask.png", lesion * 255, "1")
    save_picture("benign/benign (3)_mask_1.png", np.roll(lesion, 6, axis=1) * 255, "RGBA")
    colour = np.stack([scan, scan // 2, scan // 3], axis=-1)
    save_picture("malignant/malignant (1).png", colour)
    save_picture("malignant/malignant (1)_mask.png", lesion * 255)
    save_picture("normal/normal (1).png", scan, "RGB")
    save_picture("normal/normal (1)_mask.png", lesion * 0, "RGB")
    return tmp_path


@pytest.fixture
def decathlon(save_volume: Save, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    entries = []
    for name in ("one", "two"):
        save_volume(f"imagesTr/{name}.nii.gz", rng.normal(size=(4, 5, 6)).astype(np.float32))
        save_volume(f"labelsTr/{name}.nii.gz", rng.integers(0, 3, (4, 5, 6)).astype(np.uint8))
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    table = {"labels": {"0": "background", "1": "Anterior", "2": "Posterior"}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    return tmp_path


def pair(save: Save, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    save(f"images/{name}.png", image)
    save(f"masks/{name}.png", mask)


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    return {case.name: case.read_label() for case in find_cases(folder).cases if case.read_label}


def test_busi_is_recognised_and_described(busi: Path) -> None:
    data = find_cases(busi)
    assert data.layout == "BUSI"
    assert data.summary == "BUSI: 5 cases in 3 folders, 1 without a lesion, 1 with several masks"
    assert data.class_names == ("background", "lesion")
    assert (data.channels, data.dims) == (1, 2)
    assert [case.group for case in data.cases].count("benign") == 3


def test_several_masks_of_an_image_are_united(busi: Path, lesion: np.ndarray) -> None:
    labels = labels_of(busi)
    assert np.array_equal(labels["benign (3)"], lesion | np.roll(lesion, 6, axis=1))
    assert np.array_equal(labels["benign (1)"], lesion)
    assert not labels["normal (1)"].any()


def test_marks_beside_a_mask_change_nothing(
    busi: Path,
    tmp_path_factory: pytest.TempPathFactory,
    save_picture: Save,
    scan: np.ndarray,
    lesion: np.ndarray,
) -> None:
    """Which labels a person drew is kept beside them, and is neither an image nor a mask."""
    several = tmp_path_factory.mktemp("several")
    for number in range(5):
        save_picture(several / f"x{number}.png", scan)
        save_picture(several / f"x{number}_mask.png", lesion * 255)
    save_picture(several / "x3_mask_1.png", np.roll(lesion, 6, axis=1) * 255)
    for folder, mask in ((busi, busi / "benign" / "benign (1)_mask.png"), (several, several / "x1_mask.png")):
        before, labels = find_cases(folder), labels_of(folder)
        keep_marks(mask, lesion, {"accepted": lesion > 0})
        after = find_cases(folder)
        assert (after.layout, after.class_names) == (before.layout, before.class_names)
        assert [case.files for case in after.cases] == [case.files for case in before.cases]
        np.testing.assert_equal(labels_of(folder), labels)


def test_a_minority_of_colour_images_is_read_as_gray_and_said(busi: Path) -> None:
    data = find_cases(busi)
    assert {case.read_image().array.shape[0] for case in data.cases} == {1}
    assert data.notices == ("1 of 5 images are in colour; read as gray (ITU-R 601 luma)",)


def test_a_majority_of_colour_images_keeps_its_channels(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    colour = np.stack([scan, scan // 2, scan // 3], axis=-1)
    for name in "abc":
        pair(save_picture, name, colour, lesion)
    pair(save_picture, "d", scan, lesion)
    data = find_cases(tmp_path)
    assert data.channels == 3
    assert {case.read_image().array.shape[0] for case in data.cases} == {3}
    assert "1 gray image" in data.notices[0]


def test_decathlon_names_its_classes(decathlon: Path) -> None:
    data = find_cases(decathlon)
    assert (data.layout, data.dims) == ("Decathlon", 3)
    assert data.class_names == ("background", "Anterior", "Posterior")
    image, label = data.cases[0].read_image(), data.cases[0].read_label
    assert label is not None
    assert label().shape == image.array.shape[1:]
    assert label().dtype == np.uint8


def test_a_data_set_within_a_folder_of_its_own_is_found(decathlon: Path, tmp_path: Path) -> None:
    outer = tmp_path / "unpacked"
    (outer / "Task04").mkdir(parents=True)
    for name in ("dataset.json", "imagesTr", "labelsTr"):
        (decathlon / name).rename(outer / "Task04" / name)
    assert find_cases(outer).layout == "Decathlon"


@pytest.mark.parametrize(
    "names", [("images", "masks"), ("imagesTr", "labelsTr"), ("img", "label"), ("Image", "GT")]
)
@pytest.mark.parametrize("suffix", ["", "_mask", "-seg", "_label", "_gt", "_segmentation"])
def test_folders_of_images_and_masks_go_by_many_names(
    save_picture: Save,
    scan: np.ndarray,
    lesion: np.ndarray,
    tmp_path: Path,
    names: tuple[str, str],
    suffix: str,
) -> None:
    save_picture(f"{names[0]}/p1.jpg", scan)
    save_picture(f"{names[1]}/p1{suffix}.png", lesion)
    data = find_cases(tmp_path)
    assert data.layout == "folders"
    assert np.array_equal(labels_of(tmp_path)["p1"], lesion)


def test_splits_and_subfolders_become_groups(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        save_picture(f"{split}/images/a.png", scan)
        save_picture(f"{split}/masks/a.png", lesion)
    data = find_cases(tmp_path)
    assert [(case.name, case.group) for case in data.cases] == [("train_a", "train"), ("val_a", "val")]


def test_cases_are_in_the_order_of_their_numbers(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for number in (10, 9, 1):
        pair(save_picture, f"p{number}", scan, lesion)
    assert [case.name for case in find_cases(tmp_path).cases] == ["p1", "p9", "p10"]


@pytest.mark.parametrize("kind", ["bool", "0/255", "rgb", "jpeg", "0/128"])
def test_binary_masks_of_every_kind_become_0_and_1(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path, kind: str
) -> None:
    save_picture("images/a.png", scan)
    match kind:
        case "bool":
            save_picture("masks/a.png", lesion * 255, "1")
        case "rgb":
            save_picture("masks/a.png", lesion * 255, "RGB")
        case "jpeg":
            save_picture("masks/a.jpg", lesion * 255)
        case _:
            save_picture("masks/a.png", lesion * int(kind[2:]))
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "foreground")
    assert np.array_equal(labels_of(tmp_path)["a"], lesion)


def test_gaps_in_the_values_are_closed(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    both = lesion * 3
    both[0, 0] = 7
    pair(save_picture, "a", scan, lesion * 3)
    pair(save_picture, "b", scan, both)
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "label 3", "label 7")
    labels = labels_of(tmp_path)
    assert np.array_equal(labels["a"], lesion)
    assert labels["b"][0, 0] == 2


def test_values_can_be_named_by_the_user(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    pair(save_picture, "a", scan, lesion * 7)
    data = find_cases(tmp_path, labels={0: "nothing", 3: "liver", 7: "tumour"})
    assert data.class_names == ("background", "liver", "tumour")
    read = data.cases[0].read_label
    assert read is not None
    assert read().max() == 2


def test_a_value_without_a_class_is_named_when_it_is_read(decathlon: Path, save_volume: Save) -> None:
    save_volume("labelsTr/two.nii.gz", np.full((4, 5, 6), 9, np.uint8))
    one, two = find_cases(decathlon).cases
    assert one.read_label is not None
    assert one.read_label().any()  # the other case stays usable
    with pytest.raises(DataError, match=r"two\.nii\.gz.*value 9.*0 is background, 1 is Anterior"):
        two.read_label()  # type: ignore[misc]


def test_a_label_of_another_shape_names_both_files(decathlon: Path, save_volume: Save) -> None:
    save_volume("labelsTr/two.nii.gz", np.zeros((4, 5, 7), np.uint8))
    with pytest.raises(DataError, match=r"labelsTr/two.*shape \(7, 5, 4\).*imagesTr/two.*\(6, 5, 4\).*crop"):
        find_cases(decathlon).cases[1].read_label()  # type: ignore[misc]


def test_a_label_that_lies_elsewhere_names_both_files(decathlon: Path, save_volume: Save) -> None:
    moved = np.diag((2.0, 3, 4, 1))
    moved[0, 3] = 1
    save_volume("labelsTr/two.nii.gz", np.zeros((4, 5, 6), np.uint8), moved)
    with pytest.raises(DataError, match=r"labelsTr/two.*1 mm away.*imagesTr/two.*affines"):
        find_cases(decathlon).cases[1].read_label()  # type: ignore[misc]


def test_labels_in_an_ome_zarr_of_their_own_begin_where_their_image_does(tmp_path: Path) -> None:
    def placed(*origin: float) -> Geometry:
        return Geometry((1.0, 0.5, 0.5), origin, "um")

    ome_zarr.write(tmp_path / "images/a.ome.zarr", np.ones((3, 8, 8), np.uint16), placed(0, 2, 2))
    for y, fits in ((2, True), (4, False)):
        ome_zarr.write(tmp_path / "labels/a.ome.zarr", np.ones((3, 8, 8), np.uint8), placed(0, y, 2))
        (case,) = find_cases(tmp_path).cases
        assert case.read_label is not None
        if fits:
            assert case.read_label().all()
        else:
            with pytest.raises(DataError, match=r"begin 2 um away.*by their translation"):
                case.read_label()


def test_a_label_with_other_axes_in_the_same_place_fits(decathlon: Path, save_volume: Save) -> None:
    expected = find_cases(decathlon).cases[1].read_label()  # type: ignore[misc]
    stored = expected.T[::-1, ::-1]  # (x, y, z) to RAS
    swapped = np.zeros((4, 4))
    swapped[1, 0], swapped[0, 1], swapped[2, 2], swapped[3, 3] = 3, 2, 4, 1
    save_volume("labelsTr/two.nii.gz", np.swapaxes(stored, 0, 1).copy(), swapped)
    assert np.array_equal(find_cases(decathlon).cases[1].read_label(), expected)  # type: ignore[misc]


def test_damaged_images_leave_the_others_usable(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for name in "abc":
        pair(save_picture, name, scan, lesion)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    (tmp_path / "masks" / "b.png").write_bytes(b"no picture")
    data = find_cases(tmp_path)
    assert "1 images cannot be read" in data.notices[0]
    assert "a.png" in data.notices[0]
    readable = data.cases[2].read_label
    assert readable is not None
    assert np.array_equal(readable(), lesion)
    with pytest.raises(DataError, match=r"b\.png"):
        data.cases[1].read_label()  # type: ignore[misc]


def test_nothing_but_names_and_headers_is_read_to_find_cases(decathlon: Path) -> None:
    (decathlon / "imagesTr" / "two.nii.gz").write_bytes(b"damaged")
    data = find_cases(decathlon)
    data.cases[0].read_image()
    with pytest.raises(DataError, match="two"):
        data.cases[1].read_image()


def test_an_image_without_a_mask_is_named(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    pair(save_picture, "a", scan, lesion)
    save_picture("images/b.png", scan)
    with pytest.raises(DataError, match=r"1 of 2 images.*images/b\.png.*add a mask"):
        find_cases(tmp_path)
    data = find_cases(tmp_path, require_labels=False)
    assert [case.read_label is None for case in data.cases] == [False, True]


def test_a_mask_without_an_image_is_said(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    pair(save_picture, "a", scan, lesion)
    save_picture("masks/z.png", lesion)
    assert "z.png" in find_cases(tmp_path).notices[0]


def test_folders_that_hold_nothing_say_what_to_do(
    save_picture: Save, scan: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_cases(tmp_path / "gone")
    with pytest.raises(DataError, match=r"is empty; put images in"):
        find_cases(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"no image that can be read \(found: 1 \.txt\)"):
        find_cases(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        find_cases(tmp_path / "notes.txt")
    save_picture("a.png", scan)
    with pytest.raises(DataError, match="1 images but no masks"):
        find_cases(tmp_path)
    assert find_cases(tmp_path, require_labels=False).layout == "images"


def test_masks_without_any_foreground_are_refused(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    pair(save_picture, "a", scan, lesion * 0)
    data = find_cases(tmp_path)
    with pytest.raises(DataError, match="none of the 1 masks"):
        check_foreground(data)
    pair(save_picture, "b", scan, lesion)
    check_foreground(find_cases(tmp_path))


@pytest.mark.parametrize("table", ["{", "[]", '{"labels": {}}', '{"labels": ["a"], "training": []}'])
def test_a_damaged_table_is_named(tmp_path: Path, table: str) -> None:
    (tmp_path / "dataset.json").write_text(table)
    with pytest.raises(DataError, match=r"dataset\.json"):
        find_cases(tmp_path)


def test_a_table_that_points_outside_its_folder_is_refused(decathlon: Path) -> None:
    text = (decathlon / "dataset.json").read_text()
    (decathlon / "dataset.json").write_text(text.replace("./imagesTr/one", "../../etc/one"))
    with pytest.raises(DataError, match="outside its folder"):
        find_cases(decathlon)


def test_a_table_that_lists_missing_files_names_the_first(decathlon: Path) -> None:
    (decathlon / "labelsTr" / "two.nii.gz").unlink()
    with pytest.raises(DataError, match=r"1 files that do not exist.*two\.nii\.gz"):
        find_cases(decathlon)


def test_one_image_and_its_mask_make_a_case(save_picture: Save, scan: np.ndarray, lesion: np.ndarray) -> None:
    case = case_from_files(save_picture("a.png", scan), save_picture("m.png", lesion * 255))
    assert case.name == "a"
    assert case.read_label is not None
    assert np.array_equal(case.read_label(), lesion)
    with pytest.raises(DataError, match=r"gone\.png"):
        case_from_files("gone.png")


def test_files_are_paired_by_name() -> None:
    pairs = pair_files(["a.png", "b.png"], ["b_seg.nii.gz", "a_mask_1.png", "a_mask.png"])
    assert [[label.name for label in labels] for _, labels in pairs] == [
        ["a_mask.png", "a_mask_1.png"],
        ["b_seg.nii.gz"],
    ]


@pytest.mark.parametrize(
    ("found", "kind", "classes"),
    [
        ({0, 1}, "on", 2),
        ({0, 1, 255}, "on", 2),
        ({0, 0xFFFFFF}, "on", 2),
        ({0}, "on", 2),
        ({0, 5}, "values", 2),
        ({0, 1, 2}, "values", 3),
        ({1, 2}, "values", 3),
        (set(range(256)), "above", 2),
    ],
)
def test_the_rule_follows_the_values(found: set[int], kind: str, classes: int) -> None:
    rule = LabelRule.of_values(found)
    assert (rule.kind, len(rule.class_names)) == (kind, classes)


def test_many_classes_need_two_bytes() -> None:
    rule = LabelRule.of_names({n: str(n) for n in range(300)})
    indices = rule.apply(np.array([0, 299]), "a")
    assert indices.dtype == np.uint16
    assert indices.tolist() == [0, 299]


def test_a_value_that_is_neither_0_nor_on_is_refused() -> None:
    with pytest.raises(DataError, match=r"'m\.png' hold the value 2, but .* 0 is background, 1 or 255"):
        LabelRule.of_values({0, 255}).apply(np.array([[0, 2, 255]], dtype=np.uint8), "m.png")


@pytest.mark.parametrize("value", [-5, 4, 70000])
def test_values_beyond_the_table_are_refused(value: int) -> None:
    rule = LabelRule.of_names({0: "background", 3: "a"})
    assert rule.apply(np.array([3, 0], dtype=np.int32), "a").tolist() == [1, 0]
    with pytest.raises(DataError, match=str(value)):
        rule.apply(np.array([0, value, 3], dtype=np.int32), "a")


def test_colours_are_named_by_their_code() -> None:
    rule = LabelRule.of_values({0, 0xFF0000, 0x00FF00})
    assert rule.class_names == ("background", "#00ff00", "#ff0000")
    assert rule.apply(np.array([0xFF0000, 0], dtype=np.uint32), "a").tolist() == [2, 0]


def test_glas_instances_become_glands_and_can_be_counted(
    save_picture: Save, scan: np.ndarray, tmp_path: Path
) -> None:
    ids = np.zeros_like(scan)
    ids[2:5, 2:5], ids[8:12, 3:9], ids[8:12, 15:20] = 1, 2, 7
    for name in ("train_1", "train_2", "testA_1", "testB_1"):
        save_picture(f"{name}.bmp", np.stack([scan, scan // 2, scan // 3], axis=-1))
        path = save_picture(f"{name}_anno.bmp", ids)
    (tmp_path / "Grade.csv").write_text("name,patient ID,grade\n")
    data = find_cases(tmp_path)
    assert data.summary == "GlaS: 4 cases, 1 testA, 1 testB, 2 train"
    assert data.class_names == ("background", "gland")
    assert np.array_equal(labels_of(tmp_path)["train_1"], ids > 0)
    assert [case.group for case in data.cases] == ["testA", "testB", "train", "train"]
    assert [case.split for case in data.cases] == ["test", "test", "train", "train"]
    assert count_instances(np.asarray(PIL.Image.open(path))) == 3


def test_kvasir_is_known_by_its_boxes(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    save_picture("images/a.jpg", np.stack([scan, scan // 2, scan // 3], axis=-1))
    save_picture("masks/a.jpg", lesion * 255, "RGB")
    (tmp_path / "kavsir_bboxes.json").write_text("{}")
    data = find_cases(tmp_path)
    assert (data.layout, data.class_names[1], data.channels) == ("Kvasir-SEG", "polyp", 3)
    assert np.array_equal(labels_of(tmp_path)["a"], lesion)


def test_hidden_files_are_not_looked_at(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    pair(save_picture, "a", scan, lesion)
    for name in ("images/._a.png", "images/.cache/b.png", "__MACOSX/images/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    assert [case.name for case in find_cases(tmp_path).cases] == ["a"]


def test_a_value_that_only_one_of_many_masks_holds_is_found(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for number in range(70):
        pair(save_picture, f"p{number:02d}", scan, lesion * (5 if number == 37 else number % 2 * 2))
    assert find_cases(tmp_path).class_names == ("background", "label 2", "label 5")


def test_a_few_classes_are_no_numbered_objects(save_picture: Save, scan: np.ndarray, tmp_path: Path) -> None:
    for highest in range(4):
        mask = np.zeros_like(scan)
        mask[0, : highest + 1] = range(highest + 1)
        pair(save_picture, f"p{highest}", scan, mask)
    assert find_cases(tmp_path).class_names == ("background", "label 1", "label 2", "label 3")


def test_numbered_objects_are_told_from_classes(save_picture: Save, scan: np.ndarray, tmp_path: Path) -> None:
    for count in (2, 5, 7, 9):
        ids = np.zeros_like(scan)
        for n in range(count):
            ids[2 * n, 1:5] = n + 1
        pair(save_picture, f"cells{count}", scan, ids)
    data = find_cases(tmp_path)
    assert data.labels.kind == "any"
    assert "objects are numbered" in data.notices[0]
    named = find_cases(tmp_path, labels={n: f"c{n}" for n in range(10)})
    assert len(named.class_names) == 10


def nnunet(save_volume: Save, table: object, channels: int = 2) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        for channel in range(channels):
            voxels = np.full((4, 5, 6), channel, np.int16)
            folder = save_volume(f"imagesTr/{name}_{channel:04d}.nii.gz", voxels).parents[1]
        save_volume(f"labelsTr/{name}.nii.gz", rng.integers(0, 4, (4, 5, 6)).astype(np.uint8))
    if table is not None:
        (folder / "dataset.json").write_text(json.dumps(table))


def test_nnunet_joins_the_files_of_a_case_to_channels(save_volume: Save, tmp_path: Path) -> None:
    labels = {"background": 0, "edema": 1, "core": 2, "rim": 3}
    nnunet(save_volume, {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels})
    data = find_cases(tmp_path)
    assert data.summary == "nnU-Net: 2 cases, 2 channels, classes edema, core, rim"
    image = data.cases[0].read_image()
    assert image.array.shape == (2, 6, 5, 4)
    assert (image.array[0].max(), image.array[1].min()) == (0, 1)
    assert len(data.cases[0].files) == 3


def test_nnunet_regions_and_ignored_voxels(save_volume: Save, tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    nnunet(save_volume, {"labels": labels})
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "label 1", "label 2")
    assert "2 regions" in data.notices[0]
    read = data.cases[0].read_label
    assert read is not None
    assert set(np.unique(read())) == {0, 1, 2, IGNORE}


def test_nnunet_without_a_table_is_recognised_by_its_names(save_volume: Save, tmp_path: Path) -> None:
    nnunet(save_volume, None)
    assert find_cases(tmp_path).layout == "nnU-Net"


def test_a_missing_channel_file_is_named(save_volume: Save, tmp_path: Path) -> None:
    nnunet(save_volume, None)
    (tmp_path / "imagesTr" / "two_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"'two'.*1 channel files where others have 2"):
        find_cases(tmp_path)


def test_channels_that_do_not_fit_each_other_are_named(save_volume: Save, tmp_path: Path) -> None:
    nnunet(save_volume, None)
    save_volume("imagesTr/two_0001.nii.gz", np.zeros((4, 5, 7), np.int16))
    with pytest.raises(DataError, match=r"two_0001.*two_0000"):
        find_cases(tmp_path).cases[1].read_image()


@pytest.mark.parametrize("head", ["image,label,split,name", "Image;Mask;Group;Case", "img_x,image,mask"])
def test_a_table_of_pairs_is_read(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path, head: str
) -> None:
    save_picture("x/a.png", scan)
    save_picture("y/b.png", lesion)
    delimiter = ";" if ";" in head else ","
    row = ["x/a.png", "y/b.png", "val", "patient 1"] if "img_x" not in head else ["-", "x/a.png", "y/b.png"]
    (tmp_path / "pairs.csv").write_text(f"{head}\n{delimiter.join(row)}\n", encoding="utf-8-sig")
    for place in (tmp_path / "pairs.csv", tmp_path):
        data = find_cases(place)
        (case,) = data.cases
        assert data.layout == "CSV"
        assert (case.name, case.group) == (("a", "") if "img_x" in head else ("patient 1", "val"))
        assert case.read_label is not None
        assert np.array_equal(case.read_label(), lesion)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "no columns 'image' and 'label'"),
        ("image,label\nx.png,y.png\n", "2 files that do not exist"),
        ("image,label\n,y.png\n", "no image in line 2"),
        ("image,label\n", "lists no case"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(DataError, match=says):
        find_cases(tmp_path / "pairs.csv")


def test_a_table_found_in_a_folder_stays_inside_it(
    save_picture: Save, scan: np.ndarray, tmp_path: Path
) -> None:
    save_picture("outside.png", scan)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pairs.csv").write_text("image,label\n../outside.png,../outside.png\n")
    with pytest.raises(DataError, match="outside its folder"):
        find_cases(tmp_path / "data")


def test_a_folder_of_dicom_slices_is_one_image(save_volume: Save, tmp_path: Path) -> None:
    for case in ("p.1", "p.2"):
        for n in range(3):
            save_slice(tmp_path / "images" / case / f"{n}.dcm", (0, 0, n), np.full((6, 5), n, np.int16))
        affine = np.diag((-0.25, -0.5, 1, 1))
        save_volume(f"masks/{case}.nii.gz", np.ones((5, 6, 3), np.uint8), affine)
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["p.1", "p.2"]
    assert data.dims == 3
    assert data.cases[0].read_image().array.shape == (1, 3, 6, 5)
    assert data.cases[0].read_label is not None
    assert data.cases[0].read_label().all()


def test_masks_without_any_image_say_so(save_picture: Save, lesion: np.ndarray, tmp_path: Path) -> None:
    save_picture("a_mask.png", lesion)
    with pytest.raises(DataError, match=r"1 masks but no image.*a_mask\.png.*without '_mask'"):
        find_cases(tmp_path)


def test_scribbles_leave_the_rest_unlabelled() -> None:
    rule = LabelRule.of_names({1: "background", 2: "lesion"})
    rule = replace(rule, unlabelled=0)
    assert rule.apply(np.array([[0, 1, 2]], dtype=np.uint8), "a").tolist() == [[IGNORE, 0, 1]]
    assert "0 is unlabelled" in rule.in_words()


def test_slices_without_a_label_can_be_left_out() -> None:
    stored = np.zeros((3, 2, 2), dtype=np.uint8)
    stored[1, 0, 0] = 1
    rule = LabelRule("on", ("background", "lesion"), labelled_slices_only=True)
    label = rule.apply(stored, "a")
    assert (label[0] == IGNORE).all()
    assert label[1].tolist() == [[1, 0], [0, 0]]
    assert "without any label are unlabelled" in rule.in_words()


def test_united_sparse_labels_keep_what_either_says() -> None:
    first, second = np.array([IGNORE, IGNORE, 1, 2], np.uint8), np.array([IGNORE, 1, 2, IGNORE], np.uint8)
    assert united(first, second).tolist() == [IGNORE, 1, 2, 2]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[[3, -2], [3, 7]]], dtype=np.int16),
        np.array([255, 0, 255], dtype=np.uint8),
        np.array([[0, 2**40], [-5, 0]]),
        np.array([], dtype=np.uint8),
        np.full((2, 2, 2), 9, dtype=np.uint16),
    ],
)
def test_present_values_are_those_of_unique(array: np.ndarray) -> None:
    assert present_values(array).tolist() == np.unique(array).tolist()


def test_masks_of_one_group_are_not_those_of_another(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for patient in ("p1", "p2"):
        save_picture(f"images/{patient}/001.png", np.roll(scan, len(patient)))
    save_picture("masks/p1/001.png", lesion)
    data = find_cases(tmp_path, require_labels=False)
    assert [case.read_label is None for case in data.cases] == [False, True]


def test_blanks_around_the_names_of_columns_are_no_part_of_them(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    save_picture("a.png", scan)
    save_picture("b.png", lesion)
    (tmp_path / "pairs.csv").write_text("image, label\na.png, b.png\n")
    assert len(find_cases(tmp_path / "pairs.csv").cases) == 1


@pytest.mark.parametrize("text", ["image,label\n\xe4.png,b.png\n", "image,label\n" + "x" * 200_000])
def test_a_table_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"pairs\.csv' is no table"):
        find_cases(tmp_path / "pairs.csv")


def test_a_table_of_another_encoding_beside_images_is_not_used(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    save_picture("a.png", scan)
    save_picture("a_mask.png", lesion)
    (tmp_path / "diagnoses.csv").write_bytes("image,label\na.png,gutartig für uns\n".encode("latin-1"))
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["a"]
    assert "'diagnoses.csv' cannot be read as CSV and is not used" in data.notices


def test_a_mask_of_images_in_two_folders_is_told(
    save_picture: Save, scan: np.ndarray, lesion: np.ndarray, tmp_path: Path
) -> None:
    for patient in ("p1", "p2"):
        save_picture(f"images/{patient}/001.png", np.roll(scan, len(patient)))
    save_picture("masks/001.png", lesion)
    said = (
        "1 masks serve several images, such as '001.png' that of 'images/p1/001.png' and 'images/p2/001.png'"
    )
    assert said in find_cases(tmp_path).notices


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e12])
def test_labels_that_no_number_of_a_class_can_be_are_refused(value: float, tmp_path: Path) -> None:
    stored = np.zeros((4, 5), np.float32)
    stored[1, 1] = value
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(DataError, match="infinite or huge"):
        read_label(tmp_path / "a.npy")


@pytest.mark.parametrize("is_image", [False, True])
def test_one_slice_with_a_header_fits_a_picture_where_it_is_not_turned(
    tmp_path: Path, is_image: bool
) -> None:
    plane = np.zeros((8, 6), np.uint8)
    plane[1:3, 1:5] = 1
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    volumes, pictures = (tmp_path / name for name in (("images", "masks"), ("masks", "images"))[not is_image])
    for n, affine in enumerate((np.diag((-1.0, -1, 1, 1)), np.eye(4))):
        stored = plane if not is_image else plane * 90 + np.arange(6, dtype=np.uint8)
        nibabel.Nifti1Image(stored.T[..., None], affine).to_filename(volumes / f"{n}.nii.gz")
        shown = plane if is_image else plane * 90 + np.arange(6, dtype=np.uint8)
        PIL.Image.fromarray(shown).save(pictures / f"{n}.png")
    straight, turned = find_cases(tmp_path).cases
    assert straight.read_label is not None
    assert turned.read_label is not None
    assert np.array_equal(np.squeeze(straight.read_label()), plane)
    with pytest.raises(DataError, match="is one slice that its header turns against its rows and columns"):
        turned.read_label()


def test_a_volume_of_labels_beside_single_slices_is_refused_at_once(tmp_path: Path) -> None:
    for case in ("a", "b"):
        (tmp_path / case).mkdir()
        for n in range(3):
            plane = np.random.default_rng(n).integers(0, 255, (8, 6), np.uint8)
            PIL.Image.fromarray(plane).save(tmp_path / case / f"slice_{n}.png")
        volume = np.zeros((6, 8, 3), np.uint8)
        volume[1:3, 1:3, 1] = 1
        nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / case / "seg.nii.gz")
    with pytest.raises(
        DataError,
        match=r"are pictures of single slices, but the labels, such as '.*seg\.nii\.gz', are volumes of 3",
    ):
        find_cases(tmp_path)


def test_an_image_that_cannot_be_read_is_told_where_it_seems_to_lack_its_mask(tmp_path: Path) -> None:
    for n in range(4):
        plane = np.full((8, 6), n, np.int16)
        save_slice(tmp_path / "p0" / "dicom" / f"{n}.dcm", (0, 0, 2.0 * n), plane)
    data = dcmread(tmp_path / "p0" / "dicom" / "2.dcm")
    del data.PixelData
    data.save_as(tmp_path / "p0" / "dicom" / "2.dcm")
    volume = np.zeros((6, 8, 4), np.uint8)
    volume[1:3, 1:3, 1] = 1
    nibabel.Nifti1Image(volume, np.diag((-1.0, -1, 2, 1))).to_filename(tmp_path / "p0" / "mask.nii.gz")
    with pytest.raises(DataError, match=r"an image cannot be read: .*'2\.dcm' cannot be used in their place"):
        find_cases(tmp_path)


def test_a_turned_label_of_an_image_without_a_place_is_refused(tmp_path: Path) -> None:
    label = np.zeros((5, 8, 9), np.uint8)
    label[1:4, 2:5, 1:4] = 1
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0).integers(0, 255, label.shape, dtype=np.uint8)
    tifffile.imwrite(tmp_path / "images" / "a.tif", noise, photometric="minisblack")
    for axes, is_turned in ((np.eye(4), True), (np.diag((-1.0, -1.0, 1.0, 1.0)), False)):
        nibabel.Nifti1Image(label.T, axes).to_filename(tmp_path / "labels" / "a.nii.gz")
        (case,) = find_cases(tmp_path).cases
        assert case.read_label is not None
        if is_turned:
            with pytest.raises(
                DataError, match=r"a\.nii\.gz' turns them .* may be mirrored; save both in one"
            ):
                case.read_label()
        else:
            assert np.array_equal(case.read_label(), label)


@pytest.mark.parametrize("axes", [(1.0, 1.0), (-1.0, -1.0)])
def test_a_label_without_a_place_is_told_to_be_mirrored_where_it_may_be(
    axes: tuple[float, float], tmp_path: Path
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    volume = np.random.default_rng(0).normal(size=(9, 8, 5)).astype(np.float32)
    nibabel.Nifti1Image(volume, np.diag((*axes, 1.0, 1.0))).to_filename(tmp_path / "images" / "a.nii.gz")
    label = np.zeros((5, 8, 9), np.uint8)
    label[1:4, 2:5, 1:4] = 1
    tifffile.imwrite(tmp_path / "labels" / "a.tif", label, photometric="minisblack")
    (said,) = (said for said in find_cases(tmp_path).notices if "do not say where they lie" in said)
    assert ("would be mirrored" in said) == (axes[0] > 0)


@pytest.mark.parametrize(
    ("label", "remedy"),
    [
        (
            np.ones((2, 24, 30), np.uint8) * 9,
            "the 2 pages overlap or hold several values.*page of class numbers",
        ),
        (np.ones((30, 24), np.uint8), "one is turned"),
        (np.ones((25, 30), np.uint8), "crop or re-export one of them"),
    ],
)
def test_a_label_of_another_shape_says_what_may_be_wrong(
    label: np.ndarray, remedy: str, tmp_path: Path
) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (24, 30), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "images" / "a.tif", noise)
    tifffile.imwrite(tmp_path / "labels" / "a.tif", label, photometric="minisblack")
    (case,) = find_cases(tmp_path).cases
    assert case.read_label is not None
    with pytest.raises(DataError, match=remedy):
        case.read_label()
