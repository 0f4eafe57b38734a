"""Folders as public sets have them, rebuilt small: which file labels which image, and what is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import PIL.Image
import pytest
import SimpleITK
import tifffile
import zarr

from napari_prosma.app.batch import image_files
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.layouts.recognise import recognise
from napari_prosma.data.readers import read_image
from napari_prosma.errors import DataError

PLANE, VOLUME = (16, 18), (8, 7, 3)
"""Rows and columns; voxels as NIfTI and NRRD store them."""


def picture(seed: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 250, (*PLANE, *channels), dtype=np.uint8)


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 99, VOLUME).astype(np.int16)


def mask(seed: int, *values: int) -> np.ndarray:
    drawn = np.zeros(PLANE, np.uint8)
    for number, value in enumerate(values or (255,)):
        drawn[2 + seed % 3 : 12, 1 + 5 * number : 5 + 5 * number] = value
    return drawn


def organs(*values: int) -> np.ndarray:
    drawn = np.zeros(VOLUME, np.uint16)
    for number, value in enumerate(values or (1,)):
        drawn[1:5, 2 * number : 2 * number + 2, 1] = value
    return drawn


def save(path: Path, array: np.ndarray, **fields: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if ".nii" in path.name:
        nibabel.Nifti1Image(array, np.diag((-1.0, -1, 3, 1))).to_filename(path)
    elif path.suffix == ".nrrd":
        axes = {"space": "LPS", "space directions": np.diag((1, 1, 3.0)), "space origin": [0, 0, 0]}
        nrrd.write(str(path), array, {**axes, **fields})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array)
    else:
        PIL.Image.fromarray(array).save(path)


def pairs(folder: Path) -> dict[str, list[str]]:
    """Label files by image file."""
    cases = recognise(folder).found
    return {case.image.name: [path.name for path in case.labels] for case in cases if case.labels}


def seen(data: DataSet) -> set[int]:
    """Classes that all labels hold; every label has the size of its image."""
    found: set[int] = set()
    for case in data.cases:
        assert case.read_label is not None
        label = case.read_label()
        image = case.read_image().array
        assert label.shape == image.shape[1:]
        assert len(image) == data.channels
        found |= set(np.unique(label).tolist())
    return found


@pytest.mark.parametrize(
    ("image", "label", "values", "test"),
    [
        ("Part1/Case_{:05}_0000.nii.gz", "Mask/Case_{:05}.nii.gz", (1, 2), ""),
        (
            "images/F22_Tr_{:04}_0000.nii.gz", "labels/F22_Tr_{:04}.nii.gz",
            (1, 2), "Unlabelled/U_{:04}_0000.nii.gz",
        ),
        (
            "Raw/Training/img/img{:04}.nii.gz", "Raw/Training/label/label{:04}.nii.gz",
            (1, 2), "Raw/Testing/img/img9{}.nii.gz",
        ),
        (
            "ct_train/ct_train_{}_image.nii.gz", "ct_train/ct_train_{}_label.nii.gz",
            (205, 420), "ct_test/ct_test_{}_image.nii.gz",
        ),
        ("Batch 1/volume-{}.nii", "Batch 1/segmentation-{}.nii", (1, 2), ""),
        (
            "train/Patient_{:02}/Patient_{:02}.nii.gz", "train/Patient_{:02}/GT.nii.gz",
            (1, 2), "test/Patient_4{}.nii.gz",
        ),
        ("imagesTr/amos_{:04}.nii.gz", "labelsTr/amos_{:04}.nii.gz", (1, 2), "imagesTs/amos_9{}.nii.gz"),
        (
            "sub-{:02}/anat/sub-{:02}_T1w.nii.gz",
            "derivatives/labels/sub-{:02}/anat/sub-{:02}_T1w_seg.nii.gz",
            (1,), "",
        ),
        (
            "raw/sub-v{:03}/sub-v{:03}_ct.nii.gz", "derivatives/sub-v{:03}/sub-v{:03}_seg-vert_msk.nii.gz",
            (20, 21), "",
        ),
        ("P{}/baseline/T1.nii.gz", "P{}/baseline/lesion.nii.gz", (1,), ""),
        ("images/1.2.840.{}.nii.gz", "labels/1.2.840.{}.nii.gz", (1,), ""),
        ("Original/{}.tif", "Ground Truth/{}.tif", (255,), ""),
        ("ETIS-LaribPolypDB/{}.tif", "Ground Truth/p{}.tif", (255,), ""),
        ("trainval-image/{:04}.png", "trainval-mask/{:04}.png", (255,), ""),
        ("train/a_{:03}.png", "trainannot/a_{:03}.png", (1, 2), "test/t_{}.png"),
        ("Training400/G/g{:04}.png", "Annotation-Training400/Disc_Cup_Masks/G/g{:04}.bmp", (128, 255), ""),
        ("images/img_{}.png", "masks/mask_{:03}.png", (255,), ""),
        ("Images/Case {}.png", "Masks/case_{}.png", (255,), ""),
        ("images/pat-{}-slice-7.png", "masks/pat_{}_slice_7.png", (255,), ""),
        ("v1.2.scan.{}.png", "v1.2.scan.{}_mask.png", (255,), ""),
        ("Bilder/Größe {}.png", "Masken/Größe {}_Maske.png", (255,), ""),
        ("画像/症例{}.png", "マスク/症例{}.png", (255,), ""),
        ("{}/image.png", "{}/label/label.png", (255,), ""),
        ("scans/patient_{:03}/ct.nii.gz", "labels/label_{:03}.nii.gz", (1,), ""),
        ("CT/P_{:04}/11-24-2015-P{:04}/series-6.nii.gz", "labels-02-05-2017/label{:04}.nii.gz", (1,), ""),
    ],
)  # fmt: skip
def test_pairs_of_public_sets_are_found(
    tmp_path: Path, image: str, label: str, values: tuple[int, ...], test: str
) -> None:
    expected = {}
    for n in (1, 2, 3, 10):
        one, other = (tmp_path / name.format(n, n) for name in (image, label))
        save(one, scan(n) if ".nii" in image else picture(n))
        save(other, organs(*values) if ".nii" in label else mask(n, *values))
        expected[one] = (other,)
        if test:
            save(tmp_path / test.format(n), scan(n + 20) if ".nii" in test else picture(n + 20))
    found = recognise(tmp_path).found
    labelled = [(case.image, case.labels) for case in found if case.labels]
    assert len(labelled) == 4
    assert dict(labelled) == expected
    data = find_cases(tmp_path)
    assert len(data.cases) == 4
    assert seen(data) == set(range(len(values) + 1))


def test_masks_of_two_structures_in_folders_are_classes(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "CXR_png" / f"M_{n}_0.png", picture(n))
        save(tmp_path / "ManualMask" / "leftMask" / f"M_{n}_0.png", mask(n) > 0)
        save(tmp_path / "ManualMask" / "rightMask" / f"M_{n}_0.png", np.roll(mask(n), 8, 1)[:, ::1] > 0)
    data = find_cases(tmp_path)
    assert set(data.class_names) == {"background", "leftMask", "rightMask"}
    assert seen(data) == {0, 1, 2}


def test_classes_have_the_names_that_slicer_gave_their_segments(tmp_path: Path) -> None:
    for n in range(3):
        case = tmp_path / f"case_{n:02}"
        save(case / f"case_{n:02}_IMG_CT.nrrd", scan(n))
        for k, organ in enumerate(("Brainstem", "Parotid_L")):
            told = {"Segment0_Name": organ, "Segment0_LabelValue": "1", "Segment0_ID": "S_1"}
            save(case / f"case_{n:02}_OAR_{organ}.seg.nrrd", np.roll(organs(), 3 * k, 1), **told)
    assert set(find_cases(tmp_path).class_names) == {"background", "Brainstem", "Parotid_L"}


def test_names_of_classes_hold_no_signs_of_patterns(tmp_path: Path) -> None:
    for n in range(3):
        here = tmp_path / f"IMD{n:03}"
        save(here / f"IMD{n:03}_Image" / f"IMD{n:03}.bmp", picture(n, 3))
        save(here / f"IMD{n:03}_lesion" / f"IMD{n:03}_lesion.bmp", mask(n) > 0)
        save(here / f"IMD{n:03}_roi" / f"IMD{n:03}_R1.bmp", np.roll(mask(n), 9, 1) > 0)
    names = find_cases(tmp_path).class_names
    assert len(names) == 3
    assert not any("*" in name for name in names)


def test_a_folder_of_slicer_with_its_screenshot_is_one_case(tmp_path: Path) -> None:
    save(tmp_path / "2 CT.nrrd", scan(1))
    told = {"Segment0_Name": "liver", "Segment0_LabelValue": "1", "Segment0_ID": "S_1"}
    save(tmp_path / "Segmentation.seg.nrrd", organs(), **told)
    save(tmp_path / "Master Scene View.png", picture(1, 3))
    data = find_cases(tmp_path)
    assert pairs(tmp_path) == {"2 CT.nrrd": ["Segmentation.seg.nrrd"]}
    assert data.class_names == ("background", "liver")
    assert any("'Master Scene View.png'" in notice for notice in data.notices)


def cells(*kinds: str) -> dict[str, np.ndarray]:
    """Masks of a frame of the Cell Tracking Challenge: whole cells, or a marker in each."""
    whole = np.zeros(PLANE, np.uint16)
    whole[1:6, 1:6], whole[8:14, 2:9], whole[3:9, 11:17] = 1, 2, 7
    marker = np.zeros(PLANE, np.uint16)
    marker[3, 3], marker[10, 5], marker[5, 13] = 1, 2, 3
    return {kind: marker if "TRA" in kind else whole for kind in kinds}


@pytest.mark.parametrize("gold", [True, False])
def test_cells_of_the_tracking_challenge_are_learned_from_its_masks(tmp_path: Path, gold: bool) -> None:
    folders = ["01_GT/TRA", *(["01_GT/SEG"] if gold else []), "01_ST/SEG"]
    for n in range(4):
        save(tmp_path / "01" / f"t{n:03}.tif", picture(n))
        for kind, drawn in cells(*folders).items():
            if kind != "01_GT/SEG" or n % 2 == 0:
                save(tmp_path / kind / f"man_{kind[-3:].lower()}{n:03}.tif", drawn)
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == [f"t{n:03}" for n in ((0, 2) if gold else range(4))]
    assert data.class_names == ("background", "cell")
    assert all("_GT/SEG" in str(case.files[1]) or not gold for case in data.cases)
    assert any("2 frames without a mask" in notice for notice in data.notices) == gold
    assert seen(data) == {0, 1}
    if gold:
        assert any("'01_ST/SEG'" in notice for notice in data.notices)


def test_a_table_of_images_names_no_classes(tmp_path: Path) -> None:
    for n in range(3):
        name = hashlib.sha256(bytes([n])).hexdigest()
        save(tmp_path / "stage1_train" / name / "images" / f"{name}.png", picture(n, 4))
        for k in range(2):
            drawn = np.roll(mask(n), 8 * k, 1)
            other = hashlib.sha256(bytes([n, k])).hexdigest()
            save(tmp_path / "stage1_train" / name / "masks" / f"{other}.png", drawn)
    (tmp_path / "stage1_train_labels.csv").write_text("ImageId,EncodedPixels\nabc,1 2\n")
    assert find_cases(tmp_path).class_names == ("background", "foreground")


def test_channels_in_files_of_their_own_may_be_pictures(tmp_path: Path) -> None:
    for n in range(2):
        for c in range(2):
            save(tmp_path / "imagesTr" / f"X_{n}_{c:04}.png", picture(n + 5 * c))
        save(tmp_path / "labelsTr" / f"X_{n}.png", mask(n, 1))
    table = {"channel_names": {"0": "a", "1": "b"}, "labels": {"background": 0, "polyp": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    data = find_cases(tmp_path)
    assert data.channels == 2
    assert seen(data) == {0, 1}


def write_table(folder: Path, lines: Sequence[str]) -> None:
    for n in range(2):
        save(folder / f"im, {n}.png", picture(n))
        save(folder / f"m, {n}.png", mask(n))
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_table_says_its_separator_as_excel_does(tmp_path: Path) -> None:
    write_table(tmp_path, ["\ufeffsep=;", "image;label", *(f'"im, {n}.png";"m, {n}.png"' for n in range(2))])
    for given in (tmp_path, tmp_path / "pairs.csv"):
        data = find_cases(given)
        assert data.layout == "CSV"
        assert len(data.cases) == 2


def test_names_in_a_table_steer_no_terminal(tmp_path: Path) -> None:
    rows = [f'"im, {n}.png","m, {n}.png",\x1b[31mred {n}' for n in range(2)]
    write_table(tmp_path, ["image,label,name", *rows])
    assert [case.name for case in find_cases(tmp_path).cases] == [r"\x1b[31mred 0", r"\x1b[31mred 1"]


def test_archives_are_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "scene.mrb").write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(DataError, match=r"archives, such as 'scene\.mrb'.*unpack"):
        find_cases(tmp_path)
    save(tmp_path / "a.png", picture(1))
    with pytest.raises(DataError, match=r"unpack archives such as 'scene\.mrb' if the masks are in them"):
        find_cases(tmp_path)


def save_zarr(path: Path, array: np.ndarray, within: Sequence[str] = ()) -> None:
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}]
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=array)
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    if within:
        group.create_group("labels").attrs["labels"] = list(within)
    for number, name in enumerate(within):
        save_zarr(path / "labels" / name, organs(1, 2).T * (number == 0))


def test_labels_within_an_ome_zarr_are_those_of_its_image(tmp_path: Path) -> None:
    for n in range(3):
        save_zarr(tmp_path / f"{n}.ome.zarr", scan(n).T, ["cells", "nuclei"] if n == 0 else ["cells"])
    data = find_cases(tmp_path)
    assert len(data.cases) == 3
    assert data.class_names == ("background", "label 1", "label 2")
    assert seen(data) == {0, 1, 2}
    assert any("call 'cells'" in notice for notice in data.notices)
    assert "labels 'nuclei' are not used" in data.notices
    for n in (1, 2):
        save_zarr(tmp_path / f"{n}.ome.zarr", scan(n).T, ["cells", "nuclei"])
    with pytest.raises(DataError, match=r"several labels \(cells, nuclei\)"):
        find_cases(tmp_path)


def test_one_file_of_all_organs_beside_a_file_of_each_is_not_read_twice(tmp_path: Path) -> None:
    for seed in range(3):
        first, second = organs(1), np.roll(organs(1), 3, axis=1)
        save(tmp_path / f"B{seed}" / "ct.nii.gz", scan(seed))
        save(tmp_path / f"B{seed}" / "combined_labels.nii.gz", first + 2 * second)
        save(tmp_path / f"B{seed}" / "segmentations" / "liver.nii.gz", first)
        save(tmp_path / f"B{seed}" / "segmentations" / "kidney_left.nii.gz", second)
    data = find_cases(tmp_path)
    assert {*data.class_names} == {"background", "liver", "kidney_left"}
    assert "combined_labels.nii.gz') hold what others hold in parts" in " ".join(data.notices)
    assert seen(data) == {0, 1, 2}


def test_masks_of_single_objects_are_no_classes_beside_the_label(tmp_path: Path) -> None:
    for seed in range(3):
        folder = tmp_path / f"case_{seed}"
        label = organs(1, 2)
        save(folder / "imaging.nii.gz", scan(seed))
        save(folder / "segmentation.nii.gz", label)
        for name, value in (("kidney", 1), ("tumor", 2)):
            for person in (1, 2):
                save(
                    folder / "instances" / f"{name}_instance-1_annotation-{person}.nii.gz",
                    (label == value).astype(np.uint8),
                )
    data = find_cases(tmp_path)
    assert pairs(tmp_path) == {"imaging.nii.gz": ["segmentation.nii.gz"]}
    assert data.num_classes == 3
    assert "mark objects of" in " ".join(data.notices)


@pytest.mark.parametrize("content", ["{broken", "[1, 2]", '{"dataset": {"name": "mine"}}'])
def test_a_table_of_another_program_does_not_end_the_search(tmp_path: Path, content: str) -> None:
    for seed in range(3):
        save(tmp_path / "images" / f"{seed}.png", picture(seed))
        save(tmp_path / "masks" / f"{seed}.png", mask(seed))
    (tmp_path / "dataset.json").write_text(content)
    data = find_cases(tmp_path)
    assert len(data.cases) == 3
    assert "dataset.json" in " ".join(data.notices)


def test_a_list_of_cases_may_give_channels_and_names_as_nnunet_does(tmp_path: Path) -> None:
    for seed in range(3):
        for name in ("t1", "t2"):
            save(tmp_path / f"{seed}_{name}.nii.gz", scan(seed))
        save(tmp_path / f"{seed}_seg.nii.gz", organs(1))
    listed = [{"image": [f"{n}_t1.nii.gz", f"{n}_t2.nii.gz"], "label": f"{n}_seg.nii.gz"} for n in range(3)]
    content = {"labels": {"background": 0, "cyst": 1}, "training": listed}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    data = find_cases(tmp_path)
    assert (data.layout, data.channels, data.class_names) == ("Decathlon", 2, ("background", "cyst"))
    assert seen(data) == {0, 1}


def test_single_slices_of_tracked_volumes_are_refused_in_words(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "01" / f"t00{number}.tif", np.stack([picture(number)] * 5))
        save(tmp_path / "01_GT" / "SEG" / f"man_seg_00{number}_002.tif", mask(0, 1).astype(np.uint16))
    with pytest.raises(DataError, match=r"man_seg_000_002\.tif' mark one slice of a volume each"):
        find_cases(tmp_path)


@pytest.mark.parametrize("channels", [2, 5])
def test_channels_may_be_the_last_axis(tmp_path: Path, channels: int) -> None:
    for seed in range(3):
        save(tmp_path / "images" / f"{seed}.tif", picture(seed, channels))
        save(tmp_path / "masks" / f"{seed}.png", mask(seed))
    data = find_cases(tmp_path)
    assert (data.channels, data.dims) == (channels, 2)
    assert np.array_equal(data.cases[1].read_image().array, np.moveaxis(picture(1, channels), -1, 0))
    assert seen(data) == {0, 1}
    assert f"the {channels} elements of the last axis" in " ".join(data.notices)


def test_images_given_as_labels_are_called_that(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path / "images" / f"{seed}.nii.gz", scan(seed))
        save(tmp_path / "labels" / f"{seed}.nii.gz", scan(seed + 9))
    with pytest.raises(DataError, match=r"values below 0 .* as images do and no labels"):
        find_cases(tmp_path)


def test_mitk_names_its_labels(tmp_path: Path) -> None:
    told = '[{"labels": [{"name": "Tumour", "value": 1}, {"name": "Cyst", "value": 2}]}]'
    for seed in range(3):
        save(tmp_path / f"{seed}" / "image.nrrd", scan(seed))
        field = {"org.mitk.multilabel.segmentation.labelgroups": told}
        save(tmp_path / f"{seed}" / "label.nrrd", organs(1, 2), **field)
    assert find_cases(tmp_path).class_names == ("background", "Tumour", "Cyst")


def plate_of_two_fields(folder: Path) -> None:
    plate = zarr.open_group(folder, mode="w", zarr_format=2)
    plate.attrs["plate"] = {"version": "0.4", "wells": [{"path": "A/1"}]}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
    scales = [{"version": "0.4", "axes": ["y", "x"], "datasets": [{"path": "0"}]}]
    for seed in range(2):
        image = well.create_group(str(seed))
        image.create_array("0", shape=PLANE, dtype="u1")[...] = picture(seed)
        labels = image.create_group("labels").create_group("nuclei")
        labels.create_array("0", shape=PLANE, dtype="i4")[...] = mask(seed, 1)
        for group in (image, labels):
            group.attrs["multiscales"] = scales


def test_the_fields_of_a_plate_are_images(tmp_path: Path) -> None:
    plate_of_two_fields(tmp_path / "plate.zarr")
    data = find_cases(tmp_path)
    assert len(data.cases) == 2
    assert seen(data) == {0, 1}
    with pytest.raises(DataError, match=r"is a plate or a well .* such as '.*A/1/0'"):
        read_image(tmp_path / "plate.zarr")
    assert image_files([tmp_path]) == [tmp_path / "plate.zarr" / "A" / "1" / n for n in "01"]


def test_an_image_and_its_label_in_one_archive_are_a_pair(tmp_path: Path) -> None:
    for seed in range(3):
        label = (mask(seed) > 0).astype(np.float32)
        np.savez(tmp_path / f"case1_slice00{seed}.npz", image=picture(seed) / np.float32(255), label=label)
    data = find_cases(tmp_path)
    assert seen(data) == {0, 1}
    assert "3 archives hold an image and its label each" in data.notices
    assert np.allclose(data.cases[1].read_image().array[0], picture(1) / 255)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_name_may_say_packed_of_what_is_not(tmp_path: Path, name: str, kind: type) -> None:
    right = name.removesuffix(".gz") if name.endswith(".gz") else f"{name}.gz"
    kind(scan(1), np.diag((-1.0, -1, 3, 1))).to_filename(tmp_path / right)
    (tmp_path / right).rename(tmp_path / name)
    image = read_image(tmp_path / name)
    assert np.array_equal(image.array[0], scan(1).T)
    assert image.geometry.spacing == (3, 1, 1)


def test_a_mask_beside_an_image_that_a_camera_turned_is_told(tmp_path: Path) -> None:
    for seed in range(3):
        turned = PIL.Image.fromarray(picture(seed, 3))
        exif = turned.getexif()
        exif[0x0112] = 6
        (tmp_path / "images").mkdir(exist_ok=True)
        turned.save(tmp_path / "images" / f"{seed}.jpg", exif=exif)
        save(tmp_path / "masks" / f"{seed}.png", mask(seed))
    with pytest.raises(DataError, match="one is turned, as by the orientation that a camera notes"):
        seen(find_cases(tmp_path))


def test_colours_that_blend_at_edges_are_doubted(tmp_path: Path) -> None:
    for seed in range(3):
        drawn = np.zeros((*PLANE, 3), np.uint8)
        drawn[2:7, 2:9, 0], drawn[9:14, 4:12, 1] = 255, 255
        save(tmp_path / "images" / f"{seed}.png", np.repeat(np.repeat(picture(seed), 2, 0), 2, 1))
        smooth = PIL.Image.fromarray(drawn).resize((36, 32), PIL.Image.Resampling.BILINEAR)
        save(tmp_path / "masks" / f"{seed}.png", np.asarray(smooth))
    assert "lie only at edges, as after resizing" in " ".join(find_cases(tmp_path).notices)


def test_colours_kept_as_three_slices_are_channels_where_labels_are_planes(tmp_path: Path) -> None:
    for n in range(3):
        save_meta_image(tmp_path / f"image_mha/{n}.mha", picture(n, 3).transpose(2, 0, 1))
        save_meta_image(tmp_path / f"label_mha/{n}.mha", mask(n, 1, 2))
    data = find_cases(tmp_path)
    assert (data.dims, data.channels, data.class_names) == (2, 3, ("background", "label 1", "label 2"))
    image = data.cases[1].read_image()
    assert np.array_equal(image.array, picture(1, 3).transpose(2, 0, 1))
    assert image.geometry.source is None
    label = data.cases[1].read_label
    assert label is not None
    assert np.array_equal(label(), mask(1, 1, 2))


def test_slices_of_a_patient_are_no_colours(tmp_path: Path) -> None:
    for n in range(3):
        save_meta_image(tmp_path / f"image_mha/{n}.mha", picture(n, 3).transpose(2, 0, 1), (0.5, 0.5, 3.0))
        save_meta_image(tmp_path / f"label_mha/{n}.mha", mask(n, 1, 2))
    with pytest.raises(DataError, match="is a volume, but its masks are pictures"):
        find_cases(tmp_path)


def save_meta_image(path: Path, array: np.ndarray, spacing: tuple[float, ...] = ()) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing or (1.0,) * array.ndim)
    SimpleITK.WriteImage(image, str(path))


def test_vague_areas_are_not_labelled(tmp_path: Path) -> None:
    """NuInsSeg: masks under several names, and areas where nobody could tell."""
    for n in range(3):
        place = tmp_path / "mouse liver"
        save(place / f"tissue images/liver_{n}.png", picture(n, 3))
        save(place / f"mask binary/liver_{n}.png", mask(n, 255))
        save(place / f"vague areas/mask binary/liver_{n}.png", mask(n, 0, 255))
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "mask binary")
    assert data.labels.unlabelled == 2
    assert seen(data) == {0, 1, 255}


def test_pictures_in_two_formats_are_one_case_each(tmp_path: Path) -> None:
    """CVC-ClinicDB: a case and its copy would fall on two sides of a split."""
    for n in range(3):
        for kind, suffix in (("PNG", "png"), ("TIF", "tif")):
            save(tmp_path / kind / f"Original/{n}.{suffix}", picture(n, 3))
            save(tmp_path / kind / f"Ground Truth/{n}.{suffix}", mask(n))
    data = find_cases(tmp_path)
    assert [case.files[0].name for case in data.cases] == ["0.png", "1.png", "2.png"]
    said = "3 cases are others in another format, such as 'TIF/Original/0.tif' of 'PNG/Original/0.png'"
    assert f"{said}; each is used once" in data.notices
    save(tmp_path / "TIF/Ground Truth/1.tif", mask(0))
    assert len(find_cases(tmp_path).cases) == 6
    save(tmp_path / "TIF/Ground Truth/1.tif", mask(1))
    save(tmp_path / "TIF/Original/1.tif", picture(9, 3))
    assert len(find_cases(tmp_path).cases) == 6


def test_dark_pictures_of_the_same_names_are_cases_of_their_own(tmp_path: Path) -> None:
    """Fluorescence of two sites: spots on black, which differ in few of their pixels."""
    for n in range(3):
        for site, suffix in enumerate(("png", "tif")):
            spots = np.zeros((40, 40), np.uint8)
            spots[5 + 20 * site : 8 + 20 * site, 5 + n : 8 + n] = 250
            save(tmp_path / f"images/site{site}/{n}.{suffix}", spots)
            save(tmp_path / f"masks/site{site}/{n}.{suffix}", np.full((40, 40), 255, np.uint8))
    assert len(find_cases(tmp_path).cases) == 6


def test_a_refusal_of_several_images_names_their_folders(tmp_path: Path) -> None:
    """EndoVis: two cameras, and a mask folder per instrument, in every video."""
    for video in ("video_1", "video_2", "video_3"):
        for n in range(2):
            for camera in ("left_frames", "right_frames"):
                save(tmp_path / video / camera / f"frame{n}.png", picture(n + len(camera), 3))
            for number, tool in enumerate(("Left_Forceps_labels", "Scissors_labels")):
                drawn = mask(n, *(0,) * number, 10)
                save(tmp_path / video / "ground_truth" / tool / f"frame{n}.png", drawn)
    with pytest.raises(DataError, match=r"--images '\*/left_frames/\*' --masks '\*/ground_truth/\*/\*'"):
        find_cases(tmp_path)
    data = find_cases(tmp_path, images="*/left_frames/*", masks="*/ground_truth/*/*")
    assert len(data.cases) == 6
    assert data.class_names == ("background", "Left_Forceps_labels", "Scissors_labels")
