"""Names of classes, and splits, that stand in files beside the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.layouts import DataSet, find_cases

NOISE = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
TWO = np.zeros((24, 32), np.uint8)
TWO[4:14, 6:16], TWO[16:21, 20:25] = 1, 2


def pairs(folder: Path, mask: np.ndarray = TWO, palette: list[int] | None = None) -> DataSet:
    for n in range(4):
        for kind, array in (("images", np.roll(NOISE, n)), ("masks", mask)):
            picture = PIL.Image.fromarray(array)
            if kind == "masks" and palette is not None:
                picture.putpalette(palette)
            (folder / kind).mkdir(exist_ok=True)
            picture.save(folder / kind / f"p{n}.png")
    return find_cases(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names.txt", "__ignore__\n_background_\npolyp\ntool\n"),
        ("classes.txt", "polyp\ntool\n"),
        ("_classes.csv", "Pixel Value, Class\n0, background\n1, polyp\n2, tool\n"),
        ("labels.label", '0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "polyp"\n2 0 255 0 1 1 1 "tool"\n'),
        (
            "ColorTable.ctbl",
            "# table\n0 Background 0 0 0 0\n1 polyp 128 174 128 255\n2 tool 241 214 145 255\n",
        ),
        ("label_names.txt", "0: background\n1: polyp\n2: tool\n"),
        ("labels.json", '{"0": "background", "1": "polyp", "2": "tool"}'),
        ("label_map.json", '{"background": 0, "polyp": 1, "tool": 2}'),
        ("classes.json", '{"classes": [{"name": "polyp", "id": 1}, {"name": "tool", "id": 2}]}'),
    ],
)
def test_values_are_named_by_a_table_beside_the_masks(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    data = pairs(tmp_path)
    assert data.class_names == ("background", "polyp", "tool")
    assert f"names of the classes are those in '{name}'" in data.notices


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\npolyp:128,0,0::\ntool:0,128,0::\n",
        ),
        ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\npolyp,128,0,0\ntool,0,128,0\n"),
        ("label_colors.txt", "0 0 0 background\n128 0 0\tpolyp\n0 128 0 tool\n"),
        ("classes.json", '[{"name": "polyp", "color": "#800000"}, {"name": "tool", "color": [0, 128, 0]}]'),
    ],
)
@pytest.mark.parametrize("with_palette", [False, True])
def test_colours_are_named_in_masks_of_colour_and_of_a_palette(
    with_palette: bool, name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    colours = [(0, 0, 0), (0, 128, 0), (128, 0, 0)]
    if with_palette:
        data = pairs(tmp_path, TWO, [value for colour in colours for value in colour])
    else:
        data = pairs(tmp_path, np.array(colours, np.uint8)[TWO])
    assert data.class_names == ("background", "polyp", "tool")
    read = data.cases[0].read_label
    assert read is not None
    assert np.bincount(read().ravel()).tolist()[1:] == [25, 100]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class_names.txt", "cat\ndog\nhorse\nbird\n"),
        ("labels.csv", "id,diagnosis\nA1,melanoma\nA2,naevus\n"),
        ("labels.json", "[1, 2"),
        ("labels.csv", "file,label\na.png,1\nb.png,2\nc.png,1\n"),
        ("labels.txt", "9" * 400 + " polyp\n2 tool\n"),
        ("classes.json", '[{"name": "polyp"}, "tool"]'),
    ],
)
def test_a_table_of_something_else_names_nothing(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert pairs(tmp_path).class_names == ("background", "label 1", "label 2")


def test_a_class_called_void_is_not_labelled(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("background\npolyp\nvoid\n")
    assert pairs(tmp_path).labels.in_words() == "0 is background, 1 is polyp, 2 is unlabelled"


@pytest.mark.parametrize(("void", "person"), [(255, 15), ((224, 224, 192), (192, 128, 128))])
def test_the_border_of_pascal_voc_is_not_labelled(void: object, person: object, tmp_path: Path) -> None:
    mask = np.zeros((24, 32, 3) if isinstance(void, tuple) else (24, 32), np.uint8)
    mask[4:14, 6:16], mask[4, 6:16] = person, void
    read = pairs(tmp_path, mask).cases[0].read_label
    assert read is not None
    assert np.bincount(read().ravel())[[1, 255]].tolist() == [90, 10]


LISTS = {
    "names": {"train.txt": "p0\np1\n", "val.txt": "p2\n", "test.txt": "p3\n"},
    "voc": {
        f"ImageSets/Segmentation/{s}.txt": t for s, t in (("train", "p0\np1"), ("val", "p2"), ("test", "p3"))
    },
    "pairs": {
        "train.txt": "images/p0.png masks/p0.png\nimages/p1.png masks/p1.png\n",
        "valid.txt": "images/p2.png masks/p2.png",
        "test.txt": r"C:\data\images\p3.png",
    },
    "json": {"split.json": json.dumps({"train": ["p0", "p1.png"], "val": ["p2"], "test": ["p3"]})},
    "table": {"info.csv": "\ufeffId;Age;Split\np0;41;Train\np1;42;Train\np2;40;validation\np3;44;TEST\n"},
}


@pytest.mark.parametrize("kind", LISTS)
def test_splits_are_those_of_lists_beside_the_images(kind: str, tmp_path: Path) -> None:
    for name, text in LISTS[kind].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    data = pairs(tmp_path)
    assert [case.split for case in data.cases] == ["train", "train", "val", "test"]
    assert any(notice.endswith(": 2 train, 1 val, 1 test") for notice in data.notices)


def test_words_that_name_no_split_are_told(tmp_path: Path) -> None:
    (tmp_path / "info.csv").write_text("id,split\np0,train\np1,train\np2,holdout\np3,external\n")
    data = pairs(tmp_path)
    assert [case.split for case in data.cases] == ["train", "train", "test", ""]
    said = "'info.csv' has 'external' in the column 'split', which is none of train, val and test"
    assert f"{said}: these cases are split at random" in data.notices


def test_a_list_of_files_as_monai_has_it_tells_pairs_and_splits(tmp_path: Path) -> None:
    pairs(tmp_path)
    entries = [{"image": f"images/p{n}.png", "label": f"masks/p{n}.png", "fold": n % 2} for n in range(4)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries[:3], "validation": entries[3:]}))
    data = find_cases(tmp_path)
    assert [case.split for case in data.cases] == ["", "", "", "val"]
    (tmp_path / "dataset.json").rename(tmp_path / "split.json")
    assert [case.split for case in find_cases(tmp_path).cases] == ["train", "train", "train", "val"]


def test_lists_of_folds_are_named_and_not_used(tmp_path: Path) -> None:
    for fold in range(2):
        (tmp_path / f"fold{fold}").mkdir()
        for split, odd in (("train", 1 - fold), ("val", fold)):
            text = "".join(f"p{n}\n" for n in range(4) if n % 2 == odd)
            (tmp_path / f"fold{fold}" / f"{split}.txt").write_text(text)
    data = pairs(tmp_path)
    assert {case.split for case in data.cases} == {""}
    assert any("into several splits and are not used" in notice for notice in data.notices)


def test_lists_in_several_folders_complete_each_other(tmp_path: Path) -> None:
    for name, text in {"train/train.txt": "p0\np1\n", "test/test.txt": "p3\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert [case.split for case in pairs(tmp_path).cases] == ["train", "train", "", "test"]


def test_cases_that_are_test_beside_all_folds_stay_test(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("p3\n")
    for fold, (train, val) in enumerate((("p0\np1\n", "p2\n"), ("p1\np2\n", "p0\n"))):
        (tmp_path / f"fold{fold}").mkdir()
        (tmp_path / f"fold{fold}" / "train.txt").write_text(train)
        (tmp_path / f"fold{fold}" / "val.txt").write_text(val)
    data = pairs(tmp_path)
    assert [case.split for case in data.cases] == ["", "", "", "test"]
    assert any("not used but for the 1 cases that are test" in notice for notice in data.notices)


def test_links_that_lead_nowhere_are_passed_over(tmp_path: Path) -> None:
    for name in ("train.txt", "classes.json", "info.csv"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    assert len(pairs(tmp_path).cases) == 4


def test_patients_are_those_of_a_table_beside_the_images(tmp_path: Path) -> None:
    (tmp_path / "clinical.csv").write_text(
        "file,age,patient_id\np0.png,41,A\np1.png,42,A\np2.png,40,B\np3.png,44,C\n"
    )
    data = pairs(tmp_path)
    assert [case.patient for case in data.cases] == ["A", "A", "B", "C"]
    assert "patients are those of 'clinical.csv': 3 of 4 cases" in data.notices


def test_the_list_of_a_whole_set_or_of_other_names_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "trainval.txt").write_text("p0\np1\np2\np3\n")
    (tmp_path / "test.txt").write_text("q7\nq8\n")
    assert {case.split for case in pairs(tmp_path).cases} == {""}
