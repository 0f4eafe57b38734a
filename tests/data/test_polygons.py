"""Polygons of annotation tools are drawn as labels; what tells no outline is refused."""

from __future__ import annotations

import base64
import csv
import io
import json
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from napari_prosma.data.formats import polygons
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
        case "LIVECell":
            content = coco(images(folder))
            content["annotations"] = {str(n): one for n, one in enumerate(content["annotations"])}  # type: ignore[arg-type, attr-defined, var-annotated]
            (folder / "train.json").write_text(json.dumps(content))
        case "Label Studio in short":
            corners = [[100 * x / SHAPE[1], 100 * y / SHAPE[0]] for x, y in BOX]
            shape = {"points": corners, "polygonlabels": ["cyst"], "original_width": 30}
            tasks = [
                {"image": f"/data/upload/1/1a2b3c4d-{n}", "id": 1, "outline": [shape]} for n in images(folder)
            ]
            (folder / "project.json").write_text(json.dumps(tasks))
        case "VIA 3":
            names = images(folder)
            numbers = [7, *(v for point in BOX for v in point)]
            content = {
                "attribute": {"1": {"aname": "kind", "options": {"0": "cyst"}}},
                "file": {str(n): {"fid": str(n), "fname": name} for n, name in enumerate(names)},
                "view": {str(n): {"fid_list": [n]} for n in range(len(names))},
                "metadata": {
                    f"{n}_a": {"vid": n, "xy": numbers, "av": {"1": "0"}} for n in range(len(names))
                },
            }
            (folder / "via.json").write_text(json.dumps(content))
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
        case "VIA as a table":
            drawn = {"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [4, 4, 14, 14]}
            with (folder / "via.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["filename", "region_shape_attributes", "region_attributes"])
                for name in images(folder):
                    rows.writerow([name, json.dumps(drawn), '{"kind": "cyst"}'])
        case "CVAT masks":
            inner = "".join(
                f'<image name="{name}" width="30" height="20"><mask label="cyst" rle="0, 100" '
                'left="5" top="4" width="10" height="10"/></image>'
                for name in images(folder / "images")
            )
            (folder / "annotations.xml").write_text(f"<annotations>{inner}</annotations>")
        case "Supervisely masks":
            names = images(folder / "ds" / "img")
            (folder / "ds" / "ann").mkdir()
            file = io.BytesIO()
            PIL.Image.fromarray(np.ones((10, 10), bool)).save(file, "PNG")
            stored = {"data": base64.b64encode(zlib.compress(file.getvalue())).decode(), "origin": [5, 4]}
            shape = {"classTitle": "cyst", "geometryType": "bitmap", "bitmap": stored}
            content = {"size": {"height": 20, "width": 30}, "objects": [shape]}
            for name in names:
                (folder / "ds" / "ann" / f"{name}.json").write_text(json.dumps(content))
        case "Label Studio":
            value = {"points": [[x / 0.3, y / 0.2] for x, y in BOX], "polygonlabels": ["cyst"]}
            tasks = [
                {
                    "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
                    "annotations": [{"result": [{"type": "polygonlabels", "value": value}]}],
                }
                for name in images(folder)
            ]
            (folder / "export.json").write_text(json.dumps(tasks))
        case _:
            for name in images(folder):
                feature = {
                    "geometry": {"type": "Polygon", "coordinates": [BOX]},
                    "properties": {"classification": {"name": "cyst"}},
                }
                content = {"type": "FeatureCollection", "features": [feature]}
                (folder / name).with_suffix(".geojson").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "kind",
    [
        *("YOLO", "COCO", "LabelMe", "CVAT", "VIA", "Supervisely", "GeoJSON"),
        *("VIA as a table", "CVAT masks", "Supervisely masks", "Label Studio"),
    ],
)
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


def test_an_image_that_a_file_names_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    path.write_text(json.dumps(coco(["train/0.png", "./train/0.png"])))
    with pytest.raises(DataError, match=r"more than once, such as 'train/0\.png'"):
        polygons.read(path)


def test_a_file_that_declares_entities_is_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE x [<!ENTITY a "b">]><annotations><image name="&a;"/></annotations>')
    assert not polygons.is_annotation(path)


def roi(kind: int, points: list[tuple[int, int]], subpixel: bool = False) -> bytes:
    """A ROI as ImageJ stores it, over the box from (5, 4) to (15, 14)."""
    head = b"Iout" + struct.pack(">HBB4hH", 227, kind, 0, 4, 5, 14, 15, len(points))
    head = head.ljust(50, b"\0") + struct.pack(">h", 128 if subpixel else 0)
    x, y = ([place[n] for place in points] for n in range(2))
    number = len(points)
    body = struct.pack(f">{2 * number}h", *x, *y)
    real = struct.pack(f">{2 * number}f", *(n + 5 for n in x), *(n + 4 for n in y)) if subpixel else b""
    return head.ljust(64, b"\0") + body + real


CORNERS = [(0, 0), (10, 0), (10, 10), (0, 10)]


@pytest.mark.parametrize(
    "stored", [roi(0, CORNERS), roi(7, CORNERS), roi(0, CORNERS, True), roi(1, [])], ids=str
)
@pytest.mark.parametrize("in_archive", [True, False])
def test_areas_of_imagej_become_labels(in_archive: bool, stored: bytes, tmp_path: Path) -> None:
    for name in images(tmp_path):
        path = (tmp_path / name).with_suffix(".zip" if in_archive else ".roi")
        if in_archive:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("0001-0002.roi", stored)
        else:
            path.write_bytes(stored)
    read = find_cases(tmp_path).cases[0].read_label
    assert read is not None
    assert np.array_equal(read(), INSIDE)


@pytest.mark.parametrize(
    ("drawn", "area"),
    [
        ({"name": "ellipse", "cx": 15, "cy": 10, "rx": 8, "ry": 4, "theta": 0}, 100),
        ({"name": "circle", "cx": 15, "cy": 10, "r": 5}, 78),
    ],
)
def test_ellipses_are_areas(drawn: dict[str, object], area: int, tmp_path: Path) -> None:
    region = {"shape_attributes": drawn, "region_attributes": {"kind": "cyst"}}
    entries = {name: {"filename": name, "regions": [region]} for name in images(tmp_path)}
    (tmp_path / "via.json").write_text(json.dumps(entries))
    read = find_cases(tmp_path).cases[0].read_label
    assert read is not None
    assert int(read().sum()) == pytest.approx(area, abs=4)


def test_lines_of_imagej_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.roi"
    path.write_bytes(roi(3, CORNERS))
    with pytest.raises(DataError, match="holds lines or points, which tell no area"):
        polygons.read(path)


def test_a_combined_selection_of_imagej_is_not_taken_for_the_box_around_it(tmp_path: Path) -> None:
    path = tmp_path / "a.roi"
    stored = bytearray(roi(1, []))
    stored[36:40] = struct.pack(">i", 12)
    path.write_bytes(stored)
    with pytest.raises(DataError, match="combined selection"):
        polygons.read(path)


def test_masks_of_labelme_are_drawn_where_they_lie(tmp_path: Path) -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(np.ones((10, 10), np.uint8)).save(file, "PNG")
    one = {"label": "cyst", "shape_type": "mask", "points": [[5, 4], [14, 13]]}
    one["mask"] = base64.b64encode(file.getvalue()).decode()
    (tmp_path / "0.json").write_text(json.dumps({"shapes": [one]}))
    label = polygons.read_label(tmp_path / "0.json", "0.png", SHAPE, ("background", "cyst"))
    assert np.array_equal(label, INSIDE)


def test_an_image_of_points_alone_is_not_taken_for_empty(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    path.write_text(json.dumps({"shapes": [{"label": "cyst", "shape_type": "point", "points": [[1, 1]]}]}))
    with pytest.raises(DataError, match=r"holds no area \(point\)"):
        polygons.read(path)


def test_boxes_among_the_polygons_of_coco_are_not_lost(tmp_path: Path) -> None:
    content = coco(["0.png", "1.png"])
    content["annotations"][1]["segmentation"] = []  # type: ignore[index]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="bounding boxes"):
        polygons.read(tmp_path / "a.json")


def test_what_coco_marks_as_a_crowd_is_told_and_empty_entries_are_nothing(tmp_path: Path) -> None:
    content = coco(images(tmp_path))
    first, second, *_ = content["annotations"]  # type: ignore[misc]
    first["iscrowd"] = 1
    content["annotations"].append({**second, "segmentation": [], "bbox": [0, 0, 0, 0], "area": 0})  # type: ignore[attr-defined]
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = find_cases(tmp_path)
    assert "areas marked iscrowd in 'a.json' (1) count as their class" in data.notices
    assert all(case.read_label is not None and case.read_label().any() for case in data.cases)


def test_one_file_of_boxes_beside_images_is_named(tmp_path: Path) -> None:
    content = coco(images(tmp_path))
    for one in content["annotations"]:  # type: ignore[attr-defined]
        one |= {"segmentation": [], "bbox": [1, 1, 5, 5]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no masks.*a\.json' holds bounding boxes"):
        find_cases(tmp_path)


def label_studio(*tasks: tuple[str, list[dict[str, object]]]) -> str:
    return json.dumps([{"data": {"image": name}, "annotations": done} for name, done in tasks])


def test_tasks_that_nobody_annotated_are_not_taken_for_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done: list[dict[str, object]] = [{"result": []}]
    skipped: list[dict[str, object]] = [{"result": [], "was_cancelled": True}]
    path.write_text(label_studio(("0.png", done), ("1.png", []), ("2.png", skipped)))
    assert polygons.read(path).shapes.keys() == {"0.png"}


@pytest.mark.parametrize(
    "result",
    [
        {"type": "keypointlabels", "value": {"x": 1, "y": 1, "height": 1}},
        {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5, "height": 5}},
    ],
)
def test_areas_beside_polygons_are_not_lost(result: dict[str, object], tmp_path: Path) -> None:
    value = {"points": [[0, 0], [9, 0], [9, 9]], "polygonlabels": ["cyst"]}
    done: list[dict[str, object]] = [{"result": [{"type": "polygonlabels", "value": value}, result]}]
    path = tmp_path / "a.json"
    path.write_text(label_studio(("0.png", done)))
    with pytest.raises(DataError, match=str(result["type"])):
        polygons.read(path)


def test_two_images_of_one_name_in_a_via_project_are_refused(tmp_path: Path) -> None:
    entry = {"filename": "0.png", "regions": []}
    path = tmp_path / "via.json"
    path.write_text(json.dumps({"0.png1": entry, "0.png2": entry}))
    with pytest.raises(DataError, match="more than once"):
        polygons.read(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "filename\n" + "x" * 200_000),
        ("a.json", '[{"data": {"image": "none"}, "annotations": [{"result": []}]}]'),
        ("a.txt", "-1 0 0 1 0 1 1"),
        (
            "a.xml",
            '<annotations><image name="a"><mask label="b" rle="0" left="inf" top="0"/></image></annotations>',
        ),
    ],
)
def test_what_no_parser_expects_is_no_annotation(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert not polygons.is_annotation(path)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[float("nan"), 1.0, 5.0, 1.0, 5.0, 5.0]],
        {"size": list(SHAPE), "counts": [-1, 601]},
        {"size": [10**6, 10**6], "counts": [0, 10**12]},
    ],
)
def test_shapes_that_cannot_be_drawn_name_their_file(segmentation: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(coco(["0.png"], segmentation)))
    with pytest.raises(DataError, match=r"a\.json"):
        polygons.read_label(path, "0.png", SHAPE, ("background", "cyst"))


def test_classes_of_yolo_have_the_numbers_that_their_table_gives(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names:\n  1: cyst\n  3: duct\n")
    (tmp_path / "0.txt").write_text("1 0 0 1 0 1 1\n3 0 0 1 0 1 1\n")
    assert [shape.name for shape in polygons.read(tmp_path / "0.txt").shapes[""]] == ["cyst", "duct"]


def brushed(on: np.ndarray, literal: bool) -> list[int]:
    """A mask as Label Studio packs it, in runs or value by value."""
    values = np.repeat(on.ravel().astype(np.uint8) * 255, 4)
    bits = f"{values.size:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    ends = [0, *(np.flatnonzero(np.diff(values.astype(int))) + 1).tolist(), values.size]
    for start, end in pairwise(ends):
        if literal:
            for at in range(start, end, 8):
                several = values[at : min(at + 8, end)]
                bits += f"000{len(several) - 1:03b}" + "".join(f"{value:08b}" for value in several)
        else:
            bits += f"111{end - start - 1:016b}{values[start]:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


@pytest.mark.parametrize("literal", [False, True])
def test_what_was_brushed_in_label_studio_is_a_label(tmp_path: Path, literal: bool) -> None:
    size = {"original_height": SHAPE[0], "original_width": SHAPE[1]}
    value = {"format": "rle", "rle": brushed(INSIDE, literal), "brushlabels": ["cyst"]}
    images(tmp_path)
    done: list[dict[str, object]] = [{"result": [{"type": "brushlabels", "value": value, **size}]}]
    path = tmp_path / "a.json"
    path.write_text(label_studio(("/upload/1a2b3c4d-0.png", done), ("/upload/1a2b3c4d-1.png", done)))
    for case in find_cases(tmp_path).cases:
        assert case.read_label is not None
        assert np.array_equal(case.read_label(), INSIDE)
    value["rle"] = brushed(INSIDE, literal)[:-9]
    path.write_text(label_studio(("0.png", done)))
    with pytest.raises(DataError, match="cut short"):
        polygons.read(path)


def region(points: list[list[int]], **about: str) -> str:
    told = " ".join(f'{key}="{value}"' for key, value in about.items())
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f"<Region {told}><Vertices>{corners}</Vertices></Region>"


def test_regions_of_imagescope_become_labels(tmp_path: Path) -> None:
    images(tmp_path / "Tissue Images", 1)
    (tmp_path / "Annotations").mkdir()
    path = tmp_path / "Annotations" / "0.xml"
    hole = [[8, 7], [12, 7], [12, 11], [8, 11]]
    drawn = region(BOX, Type="0") + region(hole, Type="0", NegativeROA="1") + region(BOX[:2], Type="4")
    path.write_text(f'<Annotations><Annotation Id="1"><Regions>{drawn}</Regions></Annotation></Annotations>')
    data = find_cases(tmp_path)
    assert data.class_names == ("background", "foreground")
    assert int(data.cases[0].read_label().sum()) == 100 - 16  # type: ignore[misc]
    path.write_text(path.read_text().replace('<Annotation Id="1">', '<Annotation Id="1" Name="nucleus">'))
    assert polygons.read(path).names == ("nucleus",)
    only = region(BOX[:2], Type="4")
    path.write_text(f"<Annotations><Annotation><Regions>{only}</Regions></Annotation></Annotations>")
    with pytest.raises(DataError, match="no area"):
        polygons.read(path)


def test_nodules_of_a_case_with_several_images_go_to_their_own(tmp_path: Path) -> None:
    names = images(tmp_path, 2)
    for n, name in enumerate(names, 1):
        PIL.Image.open(tmp_path / name).save(tmp_path / f"7_{n}.jpg")
        (tmp_path / name).unlink()
    drawn = json.dumps([{"points": [{"x": x, "y": y} for x, y in BOX], "regionType": "freehand"}])
    (tmp_path / "7.xml").write_text(
        f"<case><mark><image>1</image><svg>{drawn}</svg></mark><mark><image>2</image><svg></svg></mark></case>"
    )
    found = find_cases(tmp_path)
    assert found.class_names == ("background", "nodule")
    assert [int(case.read_label().sum()) for case in found.cases] == [100, 0]  # type: ignore[misc]


def test_tracks_of_a_video_are_refused_with_what_to_do(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "a.xml").write_text(
        "<annotations><track><polygon frame='0' points='1,1;2,2;3,1'/></track></annotations>"
    )
    with pytest.raises(DataError, match=r"tracks of a video, export it as 'CVAT for images 1\.1'"):
        find_cases(tmp_path)


@pytest.mark.parametrize("kind", ["COCO", "CVAT"])
def test_images_of_one_name_are_told_apart_by_the_folders_that_a_file_names(
    tmp_path: Path, kind: str
) -> None:
    for folder in ("a", "b"):
        images(tmp_path / "images" / folder, 1)
    shifted = [[x + 3, y] for x, y in BOX]
    if kind == "COCO":
        content = coco(["a/0.png", "b\\0.png"])
        content["annotations"][1]["segmentation"] = [[v for point in shifted for v in point]]  # type: ignore[index]
        (tmp_path / "all.json").write_text(json.dumps(content))
    else:
        inner = "".join(
            f'<image name="{name}/0.png"><polygon label="cyst" points="{points}"/></image>'
            for name, box in (("a", BOX), ("b", shifted))
            for points in [";".join(f"{x},{y}" for x, y in box)]
        )
        (tmp_path / "all.xml").write_text(f"<annotations>{inner}</annotations>")
    data = find_cases(tmp_path)
    labels = [case.read_label() for case in data.cases if case.read_label is not None]
    assert np.array_equal(labels[0], INSIDE)
    assert np.array_equal(labels[1], np.roll(INSIDE, 3, axis=1))


def test_annotations_of_one_folder_are_not_those_of_a_namesake_in_another(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        images(tmp_path / folder, 1)
    (tmp_path / "all.json").write_text(json.dumps(coco(["a/0.png"])))
    data = find_cases(tmp_path, require_labels=False)
    assert [case.read_label is not None for case in data.cases] == [True, False]
    (tmp_path / "all.json").write_text(json.dumps(coco(["0.png"])))
    with pytest.raises(DataError, match=r"annotates '0\.png', and several images have that name"):
        find_cases(tmp_path)
