"""Images find their labels by what names share, whatever people call their files and folders."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import SimpleITK
from dicom_files import save_slice

from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.layouts.pairing import split_in
from napari_prosma.errors import DataError, MissingMasksError

AFFINE = np.diag((-1.0, -1, 2, 1))


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


MASK = square(4, 6, 10)
INNER = square(7, 9, 3)
ELSEWHERE = square(16, 20, 5)
FIELD = square(1, 1, 22)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 32), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nibabel.Nifti1Image(array, AFFINE).to_filename(path)
    else:
        PIL.Image.fromarray(array).save(path)


def volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, (8, 8, 6)).astype(np.int16)


def organ(first: int = 2) -> np.ndarray:
    label = np.zeros((8, 8, 6), np.uint8)
    label[first : first + 2, 2:5, 1:4] = 1
    return label


def written(folder: Path, *, image: str, mask: str, count: int = 4) -> Path:
    for n in range(count):
        save(folder / image.format(n), volume(n) if ".nii" in image else noise(n))
        save(folder / mask.format(n), organ() if ".nii" in mask else MASK)
    return folder


def foreground(data: DataSet) -> set[int]:
    """How many elements of each label are foreground; every image is read as well."""
    counts = set()
    for case in data.cases:
        assert case.read_label is not None
        assert case.read_image().array.shape[1:] == case.read_label().shape
        counts.add(int((case.read_label() > 0).sum()))
    return counts


@pytest.mark.parametrize(
    ("image", "mask", "first"),
    [
        ("case_{:03}/imaging.nii.gz", "case_{:03}/segmentation.nii.gz", "case_000"),
        ("Challenge_Training_Input/I_{}.jpg", "Challenge_Training_GroundTruth/I_{}_segmentation.png", "I_0"),
        ("Images/bus_{:04}-l.png", "Masks/mask_{:04}-l.png", "bus_0000-l"),
        ("volume-{}.nii", "segmentation-{}.nii", "volume-0"),
        ("Bilder/Patient{}.png", "Masken/Patient{}_Maske.png", "Patient0"),
        ("cas{}.png", "cas{}_masque.png", "cas0"),
        ("imagen_{}.png", "mascara_{}.png", "imagen_0"),
        ("P {}/CT Thorax.nii.gz", "P {}/Lesion.nii.gz", "P 0"),
        ("IMD{0}/IMD{0}_Dermoscopic_Image/IMD{0}.bmp", "IMD{0}/IMD{0}_lesion/IMD{0}_lesion.bmp", "IMD0"),
        ("CT/{}/image.nii.gz", "CT/{}/Ground.nii.gz", "0"),
        ("stare-images/im{:04}.png", "labels-ah/im{:04}.ah.png", "im0000"),
        ("Bild{}.PNG", "BILD{}_MASK.png", "Bild0"),
    ],
)
def test_pairs_are_found_under_any_names(tmp_path: Path, image: str, mask: str, first: str) -> None:
    data = find_cases(written(tmp_path, image=image, mask=mask))
    assert data.cases[0].name == first
    assert len(data.cases) == 4
    assert data.notices[0].startswith("4 pairs: ")
    assert foreground(data) == {int((organ() if ".nii" in mask else MASK > 0).sum())}


def test_the_pairs_are_told_in_words(tmp_path: Path) -> None:
    data = find_cases(written(tmp_path, image="Bilder/{}.png", mask="Masken/{}_m.png"))
    assert data.notices == ("4 pairs: 'Bilder/*' as images, 'Masken/*_m' as labels",)


def test_files_of_one_case_become_channels(tmp_path: Path) -> None:
    for n in range(3):
        for k, kind in enumerate(("flair", "t1", "t1ce", "t2")):
            save(tmp_path / f"B{n}/B{n}_{kind}.nii", volume(n) * 0 + volume(k))
        save(tmp_path / f"B{n}/B{n}_seg.nii", organ())
    data = find_cases(tmp_path)
    assert "3 cases in 3 folders, 4 channels" in data.summary
    assert "'*/*_flair', '*/*_t1', '*/*_t1ce', '*/*_t2' as channels" in data.notices[0]
    image = data.cases[0].read_image().array
    assert np.array_equal(image[1], np.flip(volume(1).T, axis=()) if image[1].shape == (6, 8, 8) else 0)


def test_a_case_that_lacks_a_channel_is_named(tmp_path: Path) -> None:
    for n in range(3):
        for kind in ("a1", "b2"):
            if (n, kind) != (1, "b2"):
                save(tmp_path / f"B{n}/B{n}_{kind}.nii", volume(n))
        save(tmp_path / f"B{n}/B{n}_seg.nii", organ())
    with pytest.raises(DataError, match=r"B1_a1\.nii' has no '.*_b2' beside it.*add it"):
        find_cases(tmp_path)


@pytest.mark.parametrize("place", ["s{}/segmentations/{}.nii.gz", "s{}/{}.nii.gz"])
def test_a_mask_per_class_gives_classes(tmp_path: Path, place: str) -> None:
    for n in range(3):
        save(tmp_path / f"s{n}/ct.nii.gz", volume(n))
        save(tmp_path / place.format(n, "liver"), organ(1))
        save(tmp_path / place.format(n, "spleen"), organ(5))
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "liver", "spleen")
    label = data.cases[0].read_label()  # type: ignore[misc]
    assert np.bincount(label.ravel())[1:].tolist() == [organ(1).sum(), organ(5).sum()]


def test_of_nested_masks_the_inner_one_is_drawn_over_the_outer(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"Images/g{n}.png", noise(n))
        save(tmp_path / f"Masks/g{n}_cup.png", INNER)
        save(tmp_path / f"Masks/g{n}_disc.png", MASK)
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "disc", "cup")
    label = data.cases[0].read_label()  # type: ignore[misc]
    assert (label == 2).sum() == (INNER > 0).sum()
    assert (label > 0).sum() == (MASK > 0).sum()


def test_a_mask_per_object_is_one_label(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"{n}af/images/{n}af.png", noise(n))
        for k in range(2 + n):
            save(tmp_path / f"{n}af/masks/{7 * n + k:x}e1.png", square(2, 2 + 6 * k, 4))
    data = find_cases(tmp_path)
    assert len(data.class_names) == 2
    assert [int(case.read_label().sum()) for case in data.cases] == [32, 48, 64]  # type: ignore[misc]


def test_a_field_of_view_is_no_label(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"images/2{n}_training.png", noise(n))
        save(tmp_path / f"1st_manual/2{n}_manual1.png", MASK)
        save(tmp_path / f"mask/2{n}_training_mask.png", FIELD)
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert any("mask/*_training_mask" in notice and "field of view" in notice for notice in data.notices)


def test_a_field_of_view_is_no_label_of_a_split_without_labels_either(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"training/images/2{n}_training.png", noise(n))
        save(tmp_path / f"training/1st_manual/2{n}_manual1.png", MASK)
        save(tmp_path / f"training/mask/2{n}_training_mask.png", FIELD)
        save(tmp_path / f"test/images/0{n}_test.png", noise(n + 9))
        save(tmp_path / f"test/mask/0{n}_test_mask.png", FIELD)
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert [case.split for case in data.cases] == ["train"] * 3
    assert any("3 files belong to no pair" in notice for notice in data.notices)


def test_of_two_observers_the_first_is_taken_and_the_other_named(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"Image_0{n}L.png", noise(n))
        save(tmp_path / f"Image_0{n}L_1stHO.png", MASK)
        save(tmp_path / f"Image_0{n}L_2ndHO.png", np.roll(MASK, 1, axis=0))
    data = find_cases(tmp_path)
    assert np.array_equal(data.cases[0].read_label() > 0, MASK > 0)  # type: ignore[misc]
    assert any("2ndho" in notice and "list the pairs in a table" in notice for notice in data.notices)


def test_classes_are_taken_rather_than_numbered_objects(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"JPEGImages/a{n}.jpg", noise(n))
        save(tmp_path / f"SegmentationObject/a{n}.png", np.where(ELSEWHERE, 2, MASK // 255).astype(np.uint8))
        save(tmp_path / f"SegmentationClass/a{n}.png", np.where(ELSEWHERE | MASK, 1, 0).astype(np.uint8))
    data = find_cases(tmp_path)
    assert data.cases[0].files[1].parent.name == "SegmentationClass"
    assert any("'SegmentationObject/*'" in notice for notice in data.notices)


def test_an_image_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    for n in range(3):
        for frame in ("01", "12"):
            save(tmp_path / f"p{n}/p{n}_frame{frame}.nii.gz", volume(n))
            save(tmp_path / f"p{n}/p{n}_frame{frame}_gt.nii.gz", organ())
        save(tmp_path / f"p{n}/p{n}_4d.nii.gz", np.stack([volume(n)] * 3, axis=-1))
    data = find_cases(tmp_path)
    assert len(data.cases) == 6
    assert any("3 files belong to no pair" in notice and "_4d" in notice for notice in data.notices)


def test_what_another_program_wrote_beside_its_masks_is_passed_over(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"c{n}.tif", noise(n))
        save(tmp_path / f"c{n}_cp_masks.tif", MASK // 255)
        save(tmp_path / f"c{n}_flows.tif", np.stack([noise(n + k) for k in range(3)], axis=-1))
        np.save(tmp_path / f"c{n}_seg.npy", np.array({"masks": 1}, dtype=object), allow_pickle=True)
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert data.channels == 1
    assert any("*_flows" in notice for notice in data.notices)
    assert any("*_seg" in notice and "cannot be read" in notice for notice in data.notices)


def test_splits_with_names_of_their_own_are_read_one_by_one(tmp_path: Path) -> None:
    for n, split in enumerate(("Training", "Validation", "Test")):
        written(
            tmp_path,
            image=f"C_Task1-2_{split}_Input/I_{n}0{{}}.jpg",
            mask=f"C_Task1_{split}_Truth/I_{n}0{{}}_s.png",
            count=2,
        )
    data = find_cases(tmp_path)
    assert sorted({case.split for case in data.cases}) == ["test", "train", "val"]
    assert len(data.cases) == 6


def test_images_of_two_splits_are_never_channels_of_one_case(tmp_path: Path) -> None:
    for split in ("train", "test"):
        written(tmp_path, image=f"{split}/{{}}.png", mask=f"{split}annot/{{}}.png", count=3)
    data = find_cases(tmp_path)
    assert (len(data.cases), data.channels) == (6, 1)
    assert {case.split for case in data.cases} == {"train", "test"}


@pytest.mark.parametrize(("one", "other"), [("test", "holdout"), ("test1", "test2"), ("test_A", "test_B")])
def test_images_of_two_test_sets_are_never_channels_of_one_case(one: str, other: str, tmp_path: Path) -> None:
    for split in ("train", one, other):
        written(tmp_path, image=f"images_{split}/{{}}.png", mask=f"masks_{split}/{{}}.png", count=3)
    data = find_cases(tmp_path)
    assert (len(data.cases), data.channels) == (9, 1)
    assert sorted(case.split for case in data.cases) == ["test"] * 6 + ["train"] * 3


@pytest.mark.parametrize(
    "folders",
    [
        ("train_x", "train_y"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("trainA", "trainB"),
        ("train_A", "train_B", "val_A", "val_B"),
        ("evaluation_images", "eval_masks"),
        ("images_test_1", "test_labels_1"),
        ("train_1_img", "train_2_gt"),
    ],
)
def test_letters_and_numbers_of_images_and_masks_are_no_sets(
    folders: tuple[str, ...], tmp_path: Path
) -> None:
    for image, mask in zip(folders[::2], folders[1::2], strict=True):
        written(tmp_path, image=f"{image}/{{}}.png", mask=f"{mask}/{{}}.png", count=3)
    data = find_cases(tmp_path)
    assert (len(data.cases), data.channels) == (3 * len(folders) // 2, 1)


@pytest.mark.parametrize("name", ["{split}_{n:02}", "{n:02}_{split}", "{split}{n}"])
def test_splits_that_names_tell_are_honoured_and_told(name: str, tmp_path: Path) -> None:
    for n, split in enumerate(("train", "train", "train", "val", "test")):
        save(tmp_path / "images" / f"{name.format(split=split, n=n)}.png", noise(n))
        save(tmp_path / "masks" / f"{name.format(split=split, n=n)}.png", MASK)
    data = find_cases(tmp_path)
    assert sorted(case.split for case in data.cases) == ["test", "train", "train", "train", "val"]
    assert any("of the names, such as" in said and "3 train, 1 val, 1 test" in said for said in data.notices)
    save(tmp_path / "images" / "another.png", noise(9))
    save(tmp_path / "masks" / "another.png", MASK)
    assert {case.split for case in find_cases(tmp_path).cases} == {""}


def test_splits_of_names_without_one_to_train_on_are_told_and_not_used(tmp_path: Path) -> None:
    for name in ("dev_1", "dev_2", "test_1"):
        save(tmp_path / "images" / f"{name}.png", noise(ord(name[0]) + int(name[-1])))
        save(tmp_path / "masks" / f"{name}.png", MASK)
    data = find_cases(tmp_path)
    assert {case.split for case in data.cases} == {""}
    assert any("2 val, 1 test, but none to train on" in said for said in data.notices)


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Training_Input", "train"),
        ("imagesTs", "test"),
        ("labelsVa", "val"),
        ("testing-set", "test"),
        ("valid", "val"),
        ("train2017", "train"),
        ("test_B", "test"),
        ("testA", "test"),
        ("evaluation", "test"),
        ("holdout", "test"),
        ("valve", ""),
        ("testis", ""),
        ("contrast", ""),
        ("trainer", ""),
    ],
)
def test_a_split_is_told_by_whole_words(folder: str, split: str) -> None:
    assert split_in(folder) == split


def test_numbered_images_of_one_label_are_refused(tmp_path: Path) -> None:
    for n in range(3):
        for k in range(1, 4):
            save(tmp_path / f"s{n}/{k}.png", noise(10 * n + k))
        save(tmp_path / f"s{n}/mask.png", MASK)
    with pytest.raises(DataError, match=r"3 or more numbered images.*list the pairs in a table"):
        find_cases(tmp_path)


def test_two_kinds_of_labels_with_several_values_are_refused(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"{n}/scan.png", noise(n))
        several = square(2, 2, 5) // 255 + square(2, 10, 5) // 255 * 2 + square(2, 20, 5) // 255 * 3
        save(tmp_path / f"{n}/organs.png", several.astype(np.uint8))
        save(tmp_path / f"{n}/vessels.png", np.roll(several, 10, axis=0).astype(np.uint8))
    with pytest.raises(DataError, match=r"2 kinds of labels of several values.*organs.*vessels.*table"):
        find_cases(tmp_path)


def test_images_alone_are_not_paired_with_each_other(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"left/{n}.png", noise(n))
        save(tmp_path / f"right/{n}.png", noise(n + 9))
    with pytest.raises(DataError, match="6 images but no masks"):
        find_cases(tmp_path)


def test_one_image_and_one_mask_in_a_folder_are_a_pair(tmp_path: Path) -> None:
    save(tmp_path / "scan.png", noise(0))
    save(tmp_path / "drawn.png", MASK)
    (case,) = find_cases(tmp_path).cases
    assert [path.name for path in case.files] == ["scan.png", "drawn.png"]


def test_a_folder_that_is_not_used_is_named(tmp_path: Path) -> None:
    written(tmp_path, image="images/{}.png", mask="masks/{}.png", count=3)
    for n in range(3):
        save(tmp_path / f"overlays/{n}.png", np.stack([noise(n + k) for k in range(3)], axis=-1))
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert data.notices == ("the folder 'overlays' is not used",)


def test_a_foreign_table_does_not_end_the_search(tmp_path: Path) -> None:
    written(tmp_path, image="images/{}.png", mask="masks/{}.png", count=3)
    (tmp_path / "dataset.json").write_text('{"name": "mine", "licence": "CC"}')
    data = find_cases(tmp_path)
    assert (data.layout, len(data.cases)) == ("folders", 3)
    assert data.notices == ("'dataset.json' is no Decathlon table and is not used",)


def test_a_table_of_diagnoses_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, image="{}.png", mask="{}_mask.png", count=3)
    (tmp_path / "labels.csv").write_text("image,label\n0.png,benign\n1.png,malignant\n2.png,benign\n")
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert data.notices == ("'labels.csv' lists no files of masks and is not used",)


def test_a_table_written_on_windows_is_read_everywhere(tmp_path: Path) -> None:
    written(tmp_path, image="x/{}.png", mask="x/{}y.png", count=2)
    (tmp_path / "pairs.csv").write_text("image,label\nx\\0.png,x\\0y.png\nx\\1.png,x\\1y.png\n")
    assert foreground(find_cases(tmp_path)) == {100}


def test_names_are_equal_however_their_accents_are_stored(tmp_path: Path) -> None:
    for n in range(2):
        save(tmp_path / f"M\u00fcller{n}.png", noise(n))
        save(tmp_path / f"Mu\u0308ller{n}_mask.png", MASK)
    assert foreground(find_cases(tmp_path)) == {100}


def test_a_picture_in_two_formats_is_one_case(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"images/{n}.png", noise(n))
        save(tmp_path / f"images/{n}.jpg", noise(n))
        save(tmp_path / f"masks/{n}.png", MASK)
    data = find_cases(tmp_path)
    assert [case.files[0].suffix for case in data.cases] == [".png"] * 3
    assert "3 images lie there twice" in data.notices[0]


def test_two_images_without_a_mask_are_two_cases(save_picture: Callable[..., Path], tmp_path: Path) -> None:
    save_picture("a.png", noise(0))
    save_picture("a.jpg", noise(0))
    assert len(find_cases(tmp_path, require_labels=False).cases) == 2


def test_the_user_can_say_which_files_are_what(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / f"images/{n}.png", noise(n))
        save(tmp_path / f"rater1/{n}.png", MASK)
        save(tmp_path / f"rater2/{n}.png", INNER)
    data = find_cases(tmp_path, images="images/*", masks="rater2/*")
    assert foreground(data) == {9}
    assert data.notices[0] == "3 pairs: 'images/*' as images, 'rater2/*' as labels"


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        ("images/*", "none/*", r"no file in .* fits 'none/\*'"),
        ("images/*", "*", r"fits both"),
        ("images/*", None, r"belong together; give both, or neither"),
        ("images/a*", "rater/*", r"share no names; list the pairs"),
    ],
)
def test_patterns_that_do_not_work_say_why(tmp_path: Path, images: str, masks: str | None, said: str) -> None:
    for n in range(3):
        save(tmp_path / f"images/a{n}.png", noise(n))
        save(tmp_path / f"rater/{'xyz'[n]}.png", MASK)
    with pytest.raises(DataError, match=said):
        find_cases(tmp_path, images=images, masks=masks)


@pytest.mark.parametrize("head", ["image,label,split", "image,label,subset"])
def test_a_column_of_splits_is_kept(tmp_path: Path, head: str) -> None:
    written(tmp_path, image="x/{}.png", mask="x/{}y.png", count=3)
    rows = (f"x/{n}.png,x/{n}y.png,{split}" for n, split in enumerate(("Train", "validation", "test")))
    (tmp_path / "pairs.csv").write_text("\n".join([head, *rows]))
    assert [case.split for case in find_cases(tmp_path).cases] == ["train", "val", "test"]


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    written(tmp_path, image="x/{}.png", mask="x/{}y.png", count=1)
    (tmp_path / "pairs.csv").write_text("image,label,split\nx/0.png,x/0y.png,later\n")
    with pytest.raises(DataError, match="line 2 into the split 'later'; write train, val or test"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "patients"),
    [
        ("group", "abcd", ["a", "b", "c", "d"]),
        ("group", "aabb", ["", "", "", ""]),
        ("patient", "aabb", ["a", "a", "b", "b"]),
        ("Subject", "aabb", ["a", "a", "b", "b"]),
    ],
)
def test_a_column_of_patients_is_kept(tmp_path: Path, column: str, values: str, patients: list[str]) -> None:
    written(tmp_path, image="x/{}.png", mask="x/{}y.png")
    rows = (f"x/{n}.png,x/{n}y.png,{value}" for n, value in enumerate(values))
    (tmp_path / "pairs.csv").write_text("\n".join([f"image,label,{column}", *rows]))
    data = find_cases(tmp_path)
    assert [case.patient for case in data.cases] == patients
    assert any("taken for classes" in notice for notice in data.notices) == (not patients[0])


def test_images_in_parts_of_a_set_are_no_channels(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"subset{n % 2}" / f"1.3.6.{n}.nii", volume(n))
        save(tmp_path / "seg-lungs" / f"1.3.6.{n}.nii", organ())
    data = find_cases(tmp_path)
    assert (len(data.cases), data.channels) == (4, 1)
    assert foreground(data) == {18}


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (
            "rawdata/sub-{0}/anat/sub-{0}_FLAIR.nii.gz",
            "derivatives/manual/sub-{0}/anat/sub-{0}_lesion.nii.gz",
        ),
        ("sub-{0}/ses-1/dwi/sub-{0}_dwi.nii.gz", "derivatives/sub-{0}/ses-1/sub-{0}_msk.nii.gz"),
    ],
)
def test_folders_of_patients_are_found_at_any_depth(image: str, mask: str, tmp_path: Path) -> None:
    data = find_cases(written(tmp_path, image=image, mask=mask))
    assert len(data.cases) == 4
    assert foreground(data) == {18}


def test_a_preview_beside_the_masks_is_no_image_of_them(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / f"rawdata/v{n}/v{n}_ct.nii.gz", volume(n))
        save(tmp_path / f"derivatives/v{n}/v{n}_msk.nii.gz", organ())
        save(tmp_path / f"derivatives/v{n}/v{n}_snp.png", noise(n))
        (tmp_path / f"derivatives/v{n}/v{n}_ctd.json").write_text("[]")
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == [f"v{n}_ct" for n in range(4)]
    assert foreground(data) == {18}


def test_files_that_go_on_otherwise_than_labelled_ones_are_named_and_not_used(tmp_path: Path) -> None:
    for n in range(3):
        for phase in ("ed", "es"):
            save(tmp_path / f"p{n}" / f"p{n}_{phase}.nii", volume(n))
            save(tmp_path / f"p{n}" / f"p{n}_{phase}_gt.nii", organ())
        save(tmp_path / f"p{n}" / f"p{n}_sequence.nii", volume(n + 9))
    data = find_cases(tmp_path)
    assert len(data.cases) == 6
    assert "3 files '*_sequence' lie beside labelled images, without masks, and are not used" in data.notices
    save(tmp_path / "p0" / "p7_ed.nii", volume(3))
    with pytest.raises(DataError, match=r"p7_ed.nii"):
        find_cases(tmp_path)


def test_many_numbered_files_without_masks_are_named_in_one_notice(tmp_path: Path) -> None:
    for n in range(1, 12):
        save(tmp_path / f"benign ({n}).png", noise(n))
        if n < 3:
            save(tmp_path / f"benign ({n})_mask.png", MASK)
    data = find_cases(tmp_path)
    assert len(data.cases) == 2
    (said,) = (notice for notice in data.notices if "lie beside" in notice)
    assert re.match(r"9 files, such as 'benign \(\d+\).png', lie beside labelled images, without masks", said)


def test_images_without_masks_are_left_out_where_that_is_asked(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / "images" / f"{n}.png", noise(n))
        if n:
            save(tmp_path / "masks" / f"{n}.png", MASK)
    with pytest.raises(MissingMasksError, match=r"1 of 4 images .*0.png.*leave out all without a mask"):
        find_cases(tmp_path)
    data = find_cases(tmp_path, "some")
    assert [case.name for case in data.cases] == ["1", "2", "3"]
    assert "1 of 4 images have no mask and are left out" in data.notices
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(DataError, match="4 images but no masks"):
        find_cases(tmp_path, "some")


def test_a_test_set_without_masks_is_named_and_not_used(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "training_set" / f"{n}_HC.png", noise(n))
        save(tmp_path / "training_set" / f"{n}_HC_Annotation.png", MASK)
        save(tmp_path / "test_set" / f"{n}_HC.png", noise(n + 9))
    data = find_cases(tmp_path)
    assert len(data.cases) == 3
    assert "3 test images have no masks and are not used" in data.notices
    assert len(find_cases(tmp_path, require_labels=False).cases) == 6


def test_classes_of_pascal_voc_are_taken_and_its_objects_named(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "JPEGImages" / f"{n}.png", noise(n))
        save(tmp_path / "SegmentationClass" / f"{n}.png", MASK // 255 * 15)
        save(tmp_path / "SegmentationAObject" / f"{n}.png", MASK // 255)
    assert "15 is foreground" in find_cases(tmp_path).labels.in_words()


def test_test_sets_below_a_folder_of_their_own_are_not_missed(tmp_path: Path) -> None:
    for n, place in enumerate(("TrainDataset", "TestDataset/CVC-300", "TestDataset/ETIS")):
        for k in range(2):
            save(tmp_path / place / "images" / f"{k}.png", noise(2 * n + k))
            save(tmp_path / place / "masks" / f"{k}.png", MASK)
    data = find_cases(tmp_path)
    assert sorted(case.split for case in data.cases) == ["test"] * 4 + ["train"] * 2
    assert len({case.name for case in data.cases}) == 6


def test_a_folder_that_the_names_of_its_files_repeat_is_no_role(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / "Training" / "Images" / f"eye_{n:03}.png", noise(n))
        for name, mask in (("disc", MASK), ("cup", INNER)):
            save(tmp_path / "Training" / "GT" / f"eye_{n:03}" / "Map" / f"eye_{n:03}_{name}.png", mask)
    assert find_cases(tmp_path).class_names == ("background", "disc", "cup")


def test_image_and_mask_of_one_name_in_two_formats_are_a_pair(tmp_path: Path) -> None:
    written(tmp_path, image="p{}.jpg", mask="p{}.png")
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["p0", "p1", "p2", "p3"]
    assert all(case.files[0].suffix == ".jpg" for case in data.cases)
    assert find_cases(tmp_path, images="*.jpg", masks="*.png").cases[0].name == "p0"


def test_masks_as_run_lengths_are_told(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "train" / f"p{n}.jpg", noise(n))
    (tmp_path / "train.csv").write_text("ImageId,EncodedPixels\np0.jpg,3 4 9 2\n")
    with pytest.raises(DataError, match=r"written as run lengths, as in 'train\.csv', are not read: save"):
        find_cases(tmp_path)


def test_names_of_two_sets_do_not_tell_where_the_folder_lies(tmp_path: Path) -> None:
    for part in ("trainval", "test"):
        written(tmp_path / "data", image=f"{part}-image/{{}}.png", mask=f"{part}-mask/{{}}.png", count=2)
    names = {case.name for case in find_cases(tmp_path / "data").cases}
    assert names == {f"{part}-image_{n}.png" for part in ("trainval", "test") for n in range(2)}


def test_images_that_lie_there_in_two_formats_are_no_pairs(tmp_path: Path) -> None:
    for n in range(3):
        for name in (f"p{n}.jpg", f"p{n}.png"):
            save(tmp_path / name, noise(n))
    with pytest.raises(DataError, match="no masks"):
        find_cases(tmp_path)


def series_with_masks(image: Path, masks: Path) -> None:
    for n in range(5):
        save_slice(image / f"{n}.dcm", (0, 0, 2 * n), noise(n).astype(np.int16), uid=f"1.{image.parent.name}")
        save(masks / f"{n}.png", square(4, 6 + n, 10))


@pytest.mark.parametrize(("images", "masks"), [("{}/DICOM", "{}/Ground"), ("images/{}", "masks/{}")])
@pytest.mark.parametrize("beginning", ["", "organ_GT_"])
def test_a_mask_per_slice_of_a_series_is_its_label(
    images: str, masks: str, beginning: str, tmp_path: Path
) -> None:
    for patient in ("7", "8"):
        series_with_masks(tmp_path / images.format(patient), tmp_path / masks.format(patient))
        for mask in (tmp_path / masks.format(patient)).iterdir():
            mask.rename(mask.with_name(beginning + mask.name))
    data = find_cases(tmp_path)
    assert [(case.name, len(case.files)) for case in data.cases] == [("7", 6), ("8", 6)]
    told = "in the order of their names" if beginning else "by their names"
    assert any(f"2 series with a mask per slice, {told}" in notice for notice in data.notices)
    for case in data.cases:
        assert case.read_label is not None
        label = case.read_label()
        assert label.shape == case.read_image().array.shape[1:]
        for n in range(5):
            assert np.array_equal(label[n], square(4, 6 + n, 10) > 0)


def test_slices_as_pictures_beside_their_masks_are_no_masks(tmp_path: Path) -> None:
    series_with_masks(tmp_path / "7" / "DICOM", tmp_path / "7" / "Ground")
    for n in range(5):
        save(tmp_path / "7" / "JPEG" / f"{n}.png", noise(n))
    (case,) = find_cases(tmp_path).cases
    assert case.files[0].name == "DICOM"
    assert {path.parent.name for path in case.files[1:]} == {"Ground"}


def test_images_in_another_format_are_no_channels(tmp_path: Path) -> None:
    for n in range(4):
        for folder, image in (("jpg", noise(n)), ("png", noise(n)), ("red", noise(n + 9)), ("mask", MASK)):
            save(tmp_path / folder / f"{n}.{'jpg' if folder == 'jpg' else 'png'}", image)
    data = find_cases(tmp_path)
    assert [path.parent.name for path in data.cases[0].files] == ["png", "red", "mask"]
    assert any("'jpg/*' (the first is '0.jpg') show the same as 'png/*'" in said for said in data.notices)


def test_slices_without_place_that_are_series_of_their_own_are_images(tmp_path: Path) -> None:
    for n in range(4):
        path = tmp_path / "dicom" / f"{n}.dcm"
        save_slice(path, (), noise(n).astype(np.int16), f"1.{n}", (), InstanceNumber=1)
        save(tmp_path / "jpeg" / f"{n}.jpg", noise(n) // 2)
        save(tmp_path / "masks" / f"{n}.png", MASK)
    data = find_cases(tmp_path)
    assert [[path.parent.name for path in case.files] for case in data.cases] == [["dicom", "masks"]] * 4


@pytest.mark.parametrize("name", ["label.nii.gz", "Segmentation.nrrd", "7_seg.mha"])
def test_a_label_in_the_folder_of_its_series_is_found(name: str, tmp_path: Path) -> None:
    for patient in ("7", "8"):
        for n in range(5):
            plane = noise(n).astype(np.int16)
            save_slice(
                tmp_path / patient / f"{n}.dcm", (0, 0, 2 * n), plane, f"1.{patient}", PixelSpacing=[1, 1]
            )
        label = SimpleITK.GetImageFromArray(np.stack([square(4, 6 + n, 10) for n in range(5)]))
        label.SetSpacing((1, 1, 2))
        SimpleITK.WriteImage(label, str(tmp_path / patient / name.replace("7", patient)))
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["7", "8"]
    (alone,) = find_cases(tmp_path / "8").cases
    for case in (*data.cases, alone):
        assert case.read_label is not None
        assert np.array_equal(case.read_label()[2], square(4, 8, 10) > 0)


def test_masks_that_may_be_those_of_other_slices_are_refused(tmp_path: Path) -> None:
    image, masks = tmp_path / "DICOM", tmp_path / "Ground"
    series_with_masks(image, masks)
    (masks / "3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 5 slices .* have no mask .* '3\.dcm'.*add one"):
        find_cases(tmp_path)
    (masks / "4.png").rename(masks / "last.png")
    with pytest.raises(DataError, match=r"has 5 slices but .* 4 pictures.*named as it is"):
        find_cases(tmp_path)
    save(masks / "another.png", square(4, 9, 10))
    (image / "0.dcm").rename(image / "9.dcm")
    with pytest.raises(DataError, match="lie in another order than their names tell"):
        find_cases(tmp_path)


def test_a_mask_of_another_size_than_its_slice_is_refused(tmp_path: Path) -> None:
    series_with_masks(tmp_path / "DICOM", tmp_path / "Ground")
    save(tmp_path / "Ground" / "2.png", square(4, 8, 10)[:-2])
    (case,) = find_cases(tmp_path).cases
    assert case.read_label is not None
    with pytest.raises(DataError, match=r"2\.png.*export it in the size of its slice"):
        case.read_label()


def test_pictures_that_fit_no_image_are_named(tmp_path: Path) -> None:
    series_with_masks(tmp_path / "images" / "7", tmp_path / "masks" / "a")
    save(tmp_path / "masks" / "b" / "0.png", square(4, 6, 10))
    notices = find_cases(tmp_path).notices
    assert "1 pictures belong to no series and are not used, the first is 'masks/b/0.png'" in notices
    (tmp_path / "masks" / "a" / "1.png").unlink()
    with pytest.raises(DataError, match=r"no masks.*5 more that fit none of them, such as 'masks/a/0\.png'"):
        find_cases(tmp_path)


def test_labels_that_do_not_say_where_they_lie_are_doubted(tmp_path: Path) -> None:
    import tifffile

    said = "do not say where they lie"
    for n in range(2):
        save(tmp_path / "images" / f"{n}.nii.gz", volume(n))
        save(tmp_path / "masks" / f"{n}.nii.gz", organ())
    assert not any(said in notice for notice in find_cases(tmp_path).notices)
    for n in range(2):
        (tmp_path / "masks" / f"{n}.nii.gz").unlink()
        tifffile.imwrite(tmp_path / "masks" / f"{n}.tif", organ().T)
    assert any(said in notice for notice in find_cases(tmp_path).notices)


def test_kinds_of_labels_are_chosen_by_the_patterns_that_the_message_names(tmp_path: Path) -> None:
    for n in range(3):
        place = tmp_path / f"{n:03d}"
        for name in ("t2", "adc"):
            save(place / f"{name}.nii.gz", volume(n))
        organs = np.zeros((8, 8, 6), np.uint8)
        organs[1:3, 2:5], organs[1:3, 5:7] = 1, 2
        save(place / "t2_anatomy_reader1.nii.gz", organs)
        for name in ("t2_tumor_reader1", "adc_tumor_reader1"):
            save(place / f"{name}.nii.gz", np.roll(organs, 4, axis=0))
    with pytest.raises(DataError, match="2 kinds of labels of several values") as refused:
        find_cases(tmp_path)
    said = re.search(r"--images '(.+)' --masks '(.+)', in the panel", str(refused.value))
    assert said is not None
    data = find_cases(tmp_path, images=said[1], masks=said[2])
    assert {path.name for case in data.cases for path in case.files} == {
        "t2.nii.gz",
        "t2_anatomy_reader1.nii.gz",
    }


def test_a_clip_beside_its_labelled_frames_does_not_count_twice(tmp_path: Path) -> None:
    for n in range(3):
        for place, (name, depth) in enumerate((("ED", 1), ("ES", 1), ("half_sequence", 5))):
            image = tmp_path / f"p{n}" / f"p{n}_{name}.nii.gz"
            save(image, volume(3 * n + place)[..., :depth])
            save(image.with_name(f"p{n}_{name}_gt.nii.gz"), np.repeat(organ()[..., 3:4], depth, axis=-1))
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == [f"p{n}_{name}" for n in range(3) for name in ("ED", "ES")]
    assert any("3 files '*_sequence' hold several slices" in notice for notice in data.notices)


def test_slices_and_volumes_of_other_patients_are_all_used(tmp_path: Path) -> None:
    for name, depth in (("scan_a", 1), ("scan_b", 5)):
        save(tmp_path / "images" / f"{name}.nii.gz", volume(depth)[..., :depth])
        save(tmp_path / "masks" / f"{name}.nii.gz", np.repeat(organ()[..., 3:4], depth, axis=-1))
    assert len(find_cases(tmp_path).cases) == 2


def test_a_copied_case_counts_once(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "images" / f"{n}.png", noise(n))
        save(tmp_path / "masks" / f"{n}.png", square(4, 6, 10))
    for place in ("images", "masks"):
        for name in ("0 (copy)", "Kopie von 0", "0 (2)", "another"):
            shutil.copy(tmp_path / place / "0.png", tmp_path / place / f"{name}.png")
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "1 again.png")
    save(tmp_path / "masks" / "1 again.png", square(4, 7, 10))
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["0", "1", "1 again", "2", "another"]
    assert any(n.startswith("3 cases are copies") and n.endswith("each is used once") for n in data.notices)


def test_names_with_blanks_are_told_in_lists(tmp_path: Path) -> None:
    for n in range(4):
        save(tmp_path / "images" / f"case {n} left.png", noise(n))
        save(tmp_path / "masks" / f"case {n} left.png", square(4, 6, 10))
    (tmp_path / "train.txt").write_text("case 0 left\ncase 1 left.png 1\n")
    (tmp_path / "val.txt").write_text('"case 2 left.png"\n')
    (tmp_path / "test.txt").write_text("images/case 3 left.png\tmasks/case 3 left.png\n")
    assert [case.split for case in find_cases(tmp_path).cases] == ["train", "train", "val", "test"]


def test_raters_in_numbered_files_are_not_paired_with_the_number_in_t1(tmp_path: Path) -> None:
    for n in range(3):
        place = tmp_path / f"Center_{n:02d}" / "Patient_01"
        for number, name in enumerate(("FLAIR", "T1", "T2")):
            save(place / "Preprocessed" / f"{name}_preprocessed.nii.gz", volume(3 * n + number))
        for name in ("Consensus", "ManualSegmentation_1", "ManualSegmentation_2"):
            save(place / "Masks" / f"{name}.nii.gz", organ())
    data = find_cases(tmp_path)
    assert (len(data.cases), data.channels) == (3, 3)
    assert {case.files[-1].name for case in data.cases} == {"Consensus.nii.gz"}


def test_the_1_of_t1_is_not_the_folder_1(tmp_path: Path) -> None:
    for n in range(3):
        for number, name in enumerate(("pre/FLAIR", "pre/T1")):
            save(tmp_path / "Utrecht" / f"{n}" / f"{name}.nii.gz", volume(2 * n + number))
        save(tmp_path / "Utrecht" / f"{n}" / "wmh.nii.gz", organ())
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["0", "1", "2"]
    assert data.channels == 2


def test_labels_of_derivatives_are_found_beside_side_files(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "lesions"}')
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    for n in range(1, 4):
        place = f"sub-{n:02d}/ses-01/anat/sub-{n:02d}_ses-01"
        save(tmp_path / f"{place}_FLAIR.nii.gz", volume(n))
        (tmp_path / f"{place}_FLAIR.json").write_text('{"RepetitionTime": 2}')
        save(tmp_path / "derivatives" / "lesions" / f"{place}_label-lesion_mask.nii.gz", organ())
    assert [len(case.files) for case in find_cases(tmp_path).cases] == [2, 2, 2]


def test_trainval_and_test_are_two_sets_though_their_names_are_alike(tmp_path: Path) -> None:
    for number, part in enumerate(("trainval", "test")):
        for n in range(3):
            save(tmp_path / f"{part}-image" / f"{n:04d}.png", noise(n + 3 * number))
            save(tmp_path / f"{part}-mask" / f"{n:04d}.png", square(4, 6 + n, 10))
    data = find_cases(tmp_path)
    assert sorted(case.split for case in data.cases) == ["", "", "", "test", "test", "test"]
    assert data.channels == 1


def test_images_with_something_drawn_on_them_are_no_labels(tmp_path: Path) -> None:
    for n in range(3):
        image = np.stack([noise(n), noise(n + 5), noise(n + 9)], axis=-1)
        save(tmp_path / "pictures" / f"{n}.png", image)
        drawn = image.copy()
        drawn[4:9, 3] = drawn[4:9, 9] = 255, 0, 0
        save(tmp_path / "annotated" / f"{n}.png", drawn)
    with pytest.raises(
        DataError, match=r"annotated.* is the image '0\.png', perhaps with something drawn on it.*export"
    ):
        find_cases(tmp_path)


def test_labels_shown_over_images_are_no_second_image(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "JPEGImages" / f"{n}.png", noise(n))
        save(tmp_path / "SegmentationClassPNG" / f"{n}.png", square(4, 6 + n, 10))
        save(tmp_path / "SegmentationClassVisualization" / f"{n}.png", noise(n + 5))
    data = find_cases(tmp_path)
    assert {path.parent.name for case in data.cases for path in case.files} == {
        "JPEGImages",
        "SegmentationClassPNG",
    }
    assert any("show labels over images" in notice for notice in data.notices)


def test_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "masks.tar.gz").touch()
    with pytest.raises(DataError, match=r"archives, such as 'masks\.tar\.gz'.*unpack"):
        find_cases(tmp_path)


def test_the_1_behind_every_mask_is_not_the_case_1(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "training" / "images" / f"{n}.png", noise(n))
        save(tmp_path / "training" / "1st_manual" / f"{n}_manual1.png", square(4, 6 + n, 10))
    names = [[path.name for path in case.files] for case in find_cases(tmp_path).cases]
    assert names == [[f"{n}.png", f"{n}_manual1.png"] for n in range(3)]


def test_folders_that_a_storage_made_are_not_looked_into(tmp_path: Path) -> None:
    for n in range(2):
        save(tmp_path / "images" / f"{n}.png", noise(n))
        save(tmp_path / "masks" / f"{n}.png", square(4, 6 + n, 10))
        save(tmp_path / "images" / "@eaDir" / f"{n}.png" / "THUMB_M.png", noise(n + 5))
    data = find_cases(tmp_path)
    assert (len(data.cases), data.notices) == (2, ())


def test_a_table_saved_as_unicode_text_is_read(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "a" / f"{n}.png", noise(n))
        save(tmp_path / "b" / f"{n}.png", square(4, 6 + n, 10))
    table = "image\tlabel\r\na/0.png\tb/0.png\r\na/2.png\tb/2.png\r\n"
    (tmp_path / "pairs.csv").write_bytes(table.encode("utf-16"))
    assert [case.name for case in find_cases(tmp_path).cases] == ["0", "2"]


def test_a_number_in_a_folder_that_its_names_repeat_is_no_role(tmp_path: Path) -> None:
    for slide in (1, 2, 3):
        for n in range(slide + 1):
            save(tmp_path / f"Slide_{slide:02}/{slide:02}_{n}.png", noise(10 * slide + n))
            save(tmp_path / f"GT_{slide:02}/{slide:02}_{n}.png", MASK)
    data = find_cases(tmp_path)
    assert len(data.cases) == 9
    assert foreground(data) == {100}


def test_a_further_mask_of_one_case_does_not_replace_those_of_all(tmp_path: Path) -> None:
    for n in range(6):
        save(tmp_path / f"case{n:03}.png", noise(n))
        save(tmp_path / f"case{n:03}_tumor.png", MASK)
    save(tmp_path / "case001_other1.png", MASK)
    data = find_cases(tmp_path)
    assert foreground(data) == {100}
    assert len(data.cases) == 6
