"""Polygons of annotation tools are drawn as labels; what tells no outline is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data import polygons
from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import DataError

SHAPE = (20, 30)
BOX = [[5, 4], [15, 4], [15, 14], [5, 14]]
INSIDE = np.zeros(SHAPE, np.uint8)
INSIDE[4:14, 5:15] = 1


def images(folder: Path, count: int = 2) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        noise = np.random.default_rng(n).integers(0, 256, SHAPE, dtype=np.uint8)
        PIL.Image.fromarray(noise).save(folder / f"{n}.png")
    return [f"{n}.png" for n in range(count)]


def coco(names: list[str], segmentation: object = None) -> dict[str, object]:
    flat = [[float(v) for point in BOX for v in point]]
    return {
        "images": [
            {"id": n, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 3, "segmentation": segmentation or flat}
            for n in range(len(names))
        ],
        "categories": [{"id": 1, "name": "unused"}, {"id": 3, "name": "cyst"}],
    }


def write(folder: Path, kind: str) -> None:
    match kind:
        case "YOLO":
            names = images(folder / "train" / "images")
            (folder / "train" / "labels").mkdir()
            line = "0 " + " ".join(f"{x / SHAPE[1]} {y / SHAPE[0]}" for x, y in BOX)
            for name in names:
                (folder / "train" / "labels" / name).with_suffix(".txt").write_text(line + "\n")
            (folder / "data.yaml").write_text("names: [cyst]\n")
        case "COCO":
            names = images(folder / "images")
            (folder / "annotations").mkdir()
            (folder / "annotations" / "instances.json").write_text(json.dumps(coco(names)))
        case "LabelMe":
            for name in images(folder):
                content = {"shapes": [{"label": "cyst", "points": BOX}], "imageHeight": 20, "imageWidth": 30}
                (folder / name).with_suffix(".json").write_text(json.dumps(content))
        case "CVAT":
            points = ";".join(f"{x},{y}" for x, y in BOX)
            inner = "".join(
                f'<image name="{n}" width="30" height="20"><polygon label="cyst" points="{points}"/></image>'
                for n in images(folder / "images")
            )
            (folder / "annotations.xml").write_text(f"<annotations>{inner}</annotations>")
        case "VIA":
            region = {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [x for x, _ in BOX],
                    "all_points_y": [y for _, y in BOX],
                },
                "region_attributes": {"kind": "cyst"},
            }
            entries = {name: {"filename": name, "regions": [region]} for name in images(folder)}
            (folder / "via.json").write_text(json.dumps(entries))
        case "Supervisely":
            names = images(folder / "ds" / "img")
            (folder / "ds" / "ann").mkdir()
            shape = {"classTitle": "cyst", "points": {"exterior": BOX, "interior": []}}
            content = {"size": {"height": 20, "width": 30}, "objects": [shape]}
            for name in names:
                (folder / "ds" / "ann" / f"{name}.json").write_text(json.dumps(content))
        case _:
            for name in images(folder):
                feature = {
                    "geometry": {"type": "Polygon", "coordinates": [BOX]},
                    "properties": {"classification": {"name": "cyst"}},
                }
                content = {"type": "FeatureCollection", "features": [feature]}
                (folder / name).with_suffix(".geojson").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["YOLO", "COCO", "LabelMe", "CVAT", "VIA", "Supervisely", "GeoJSON"])
def test_polygons_of_every_tool_become_labels(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    data = find_cases(tmp_path)
    assert len(data.cases) == 2
    assert data.class_names == ("background", "cyst")
    for case in data.cases:
        assert case.read_label is not None
        assert np.array_equal(case.read_label(), INSIDE)


@pytest.mark.parametrize("packed", [False, True])
def test_coco_masks_as_runs_are_unpacked(tmp_path: Path, packed: bool) -> None:
    counts = [int(n) for n in np.diff(np.flatnonzero(np.diff(np.pad(INSIDE.T.ravel(), 1, mode="edge"))))]
    column = INSIDE.ravel(order="F")
    edges = np.flatnonzero(np.diff(column)) + 1
    counts = np.diff([0, *edges, column.size]).tolist()
    runs: object = packed_runs(counts) if packed else counts
    images(tmp_path, 1)
    (tmp_path / "a.json").write_text(json.dumps(coco(["0.png"], {"size": list(SHAPE), "counts": runs})))
    label = find_cases(tmp_path).cases[0].read_label
    assert label is not None
    assert np.array_equal(label(), INSIDE)


def packed_runs(counts: list[int]) -> str:
    """As the COCO tools write them."""
    text = ""
    for n, count in enumerate(counts):
        value = count - counts[n - 2] if n > 2 else count
        more = True
        while more:
            bits, value = value & 0x1F, value >> 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr(48 + (bits | 0x20 if more else bits))
    return text


def test_holes_are_cut_out(tmp_path: Path) -> None:
    images(tmp_path, 1)
    hole = [[8, 7], [12, 7], [12, 11], [8, 11]]
    feature = {"geometry": {"type": "Polygon", "coordinates": [BOX, hole]}, "properties": {"name": "ring"}}
    (tmp_path / "0.geojson").write_text(json.dumps({"features": [feature]}))
    label = polygons.read_label(tmp_path / "0.geojson", "0.png", SHAPE, ("background", "ring"))
    assert int(label.sum()) == 100 - 16


def test_polygons_of_another_image_size_are_refused(tmp_path: Path) -> None:
    images(tmp_path)
    for name in ("0", "1"):
        content = {"shapes": [{"label": "cyst", "points": BOX}], "imageHeight": 40, "imageWidth": 60}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"0\.json' was drawn on an image of 40 x 60.*has 20 x 30"):
        find_cases(tmp_path).cases[0].read_label()  # type: ignore[misc]


def test_bounding_boxes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    for name in ("0", "1"):
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"no masks.*2 \.txt.*bounding boxes.*export polygons or masks"):
        find_cases(tmp_path)


def test_an_image_name_in_two_folders_of_one_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps(coco(["train/0.png", "val/0.png"])))
    with pytest.raises(DataError, match=r"more than once, such as '0\.png'"):
        polygons.read(path)


def test_a_file_that_declares_entities_is_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotations><image name="&a;"/></annotations>')
    assert not polygons.is_annotation(path)
