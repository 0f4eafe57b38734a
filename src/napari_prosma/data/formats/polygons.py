"""Annotations that are no pictures: the files of YOLO, COCO, LabelMe, CVAT, VIA, ImageJ and the like.

A file holds the shapes of one image or of many; :func:`read_label` draws those of one as class numbers. An
element is inside a polygon where its centre is.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import stat
import struct
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_prosma.data.texts import parse_json, read_yaml
from napari_prosma.errors import DataError, in_brackets

SUFFIXES = (".txt", ".json", ".geojson", ".xml", ".roi", ".zip")
_MOST_BYTES = 256 * 2**20
"""A larger file is not opened to see whether it holds annotations."""
_BOX = 4
"""Numbers of a bounding box behind its class."""
_BOXES = "'{}' holds bounding boxes, which tell no outline of what is in them; export polygons or masks"
_RECTANGLE, _OVAL, _AREAS = 1, 2, (0, 7, 8)
"""Kinds of ImageJ's ROIs; areas are polygons, freehand and traced ones."""
_OVAL_IN_BOX, _OUTLINES = "2", ("0", "1")
"""Types of ImageScope's regions: ellipses, and freehand areas and rectangles."""
_SUBPIXEL, _WITH_SUBPIXEL = 128, 222
"""Option, and the version from which on, ImageJ's points are real numbers."""
_VIA_RECTANGLE, _VIA_CIRCLE, _VIA_ELLIPSE, _VIA_POLYGONS = 2, 3, 4, (6, 7)
"""Kinds of shapes of VIA 3; a polyline goes for a polygon, as in VIA 2."""
_LABEL_STUDIO_SHAPES = ("polygonlabels", "ellipselabels", "brushlabels", "rectanglelabels")
_COMBINED = 36
"""Where ImageJ stores the length of a selection of several parts or with holes; 0 of a plain one."""
_LONGEST_RUN = 60
"""Bits of a number in COCO's compressed runs."""
_PNG = b"\x89PNG"
_IMPORTED = re.compile(r"[0-9a-f]{8}-.")
UNREADABLE = "holds no annotations that can be read"
"""Said of any other text as well."""
_MASK_BOX = ("left", "top", "width", "height")
_CHORDS, _POINTS = ("X1", "Y1", "X2", "Y2"), ("X", "Y")
"""Columns of EchoNet's tracings, which count from the centre of the first pixel."""
_VENTRICLE = "left ventricle"
_LEAST = 6
"""Numbers of the smallest polygon, a triangle."""

Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Runs:
    """Lengths of runs in a box of (height, width) at (x, y), down its columns (``F``) or along its rows."""

    counts: tuple[int, ...]
    size: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    order: Literal["F", "C"] = "F"


@dataclass(frozen=True)
class Shape:
    """An area of one class."""

    name: str  # of the class
    # polygons of (x, y): outer edges; in pixels, or in shares of the width and height where ``relative``.
    rings: tuple[Ring, ...] = ()
    holes: tuple[Ring, ...] = ()  # polygons of (x, y)
    relative: bool = False
    runs: Runs | None = None  # instead of rings: a mask as lengths of runs of 0 and 1 in turn
    # bytes of a PNG, and the place of its first element as (x, y): instead of rings: a mask that may cover a
    # part of the image, on where neither transparent nor black.
    drawn: tuple[bytes, tuple[int, int]] | None = None


@dataclass(frozen=True)
class Annotations:
    """The shapes of a file by image name, "" for the only image of a file; and (height, width) where told.

    ``said`` is what was decided on the user's behalf, if anything. Of a clip ``frames`` are those that its
    shapes lie on, one each; others are not annotated.
    """

    program: str
    shapes: dict[str, tuple[Shape, ...]]
    names: tuple[str, ...]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    said: str = ""
    frames: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def key_of(self, image: str | Path) -> str | None:
        """What the file calls an image: by all folders that it names, else by the name where it has one."""
        path = Path(image).as_posix()
        named = self._of_name.get(_base(path), ())
        whole = [name for name in named if f"/{path}".endswith(f"/{name}")]
        if whole:
            return max(whole, key=len)
        return named[0] if len(named) == 1 else "" if "" in self.shapes else None

    def is_whole(self, image: str | Path) -> bool:
        """Whether all folders that the file names are those of the image."""
        return f"/{Path(image).as_posix()}".endswith(f"/{self.key_of(image)}")

    @cached_property
    def _of_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.shapes:
            found.setdefault(_base(name), []).append(name)
        return found


def may_be(path: Path) -> bool:
    """Whether a file could hold annotations, by its name."""
    return path.name.lower().endswith(SUFFIXES)


def is_annotation(path: Path) -> bool:
    """Whether a file holds annotations."""
    try:
        return bool(read(path).program)
    except DataError:
        return False


def is_of_one_image(path: Path) -> bool:
    """Whether a file holds the annotations of a single image, which has its name."""
    return is_annotation(path) and "" in read(path).shapes


def read(path: Path) -> Annotations:
    """Annotations of a file.

    Raises ``DataError``: it holds none, or holds bounding boxes only.
    """
    with _ours(path):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        return _read(path, found.st_mtime_ns, found.st_size)


def read_label(path: Path, image: str | Path, shape: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """Class numbers (y, x) of an image: shapes of ``names[k]`` become k, later ones over earlier ones.

    Of a clip whose frames are annotated (t, y, x). Raises ``DataError``: as :func:`read`, a class is not
    among ``names``, a shape cannot be drawn, or the image is a volume.
    """
    found = read(path)
    key = found.key_of(image) or ""
    frames = found.frames.get(key, ())
    if frames and len(shape) == 3:
        return _on_frames(path, key, frames, tuple(shape), names)
    if len(shape) != 2:
        raise DataError(
            f"'{path}' holds polygons, but its image is a volume of shape {tuple(shape)}; export masks"
        )
    size = found.sizes.get(key)
    if size is not None and size != tuple(shape):
        raise DataError(
            f"'{path}' was drawn on an image of {size[0]} x {size[1]} pixels, but '{image}' has {shape[0]} x "
            f"{shape[1]}; take the image that was annotated, or export the annotations anew"
        )
    label = np.zeros(tuple(shape), np.uint16)
    for one in found.shapes.get(key, ()):
        if one.name not in names:
            raise DataError(
                f"'{path}' holds the class '{one.name}', which the other files do not; export them anew"
            )
        with _ours(path):
            label[_inside(one, label.shape)] = names.index(one.name)
    return label


def _on_frames(
    path: Path, image: str, frames: Sequence[int], shape: tuple[int, ...], names: Sequence[str]
) -> np.ndarray:
    if max(frames) >= shape[0]:
        raise DataError(
            f"'{path}' traces frame {max(frames)} of '{image}', which has {shape[0]} from 0 on; take the "
            "clip that was traced"
        )
    label = np.zeros(shape, np.uint16)
    for one, frame in zip(read(path).shapes[image], frames, strict=True):
        with _ours(path):
            label[frame][_inside(one, shape[1:])] = names.index(one.name)
    return label


@lru_cache(maxsize=4096)
def _read(path: Path, _: int, size: int) -> Annotations:
    if size > _MOST_BYTES:
        raise DataError(f"'{path}' is too large to be a file of annotations ({size >> 20} MB); leave it out")
    suffix = path.suffix.lower()
    if suffix in (".roi", ".zip"):
        return _imagej(path)
    text = path.read_text(encoding="utf-8-sig")
    if suffix == ".txt":
        return _yolo(path, text)
    if suffix == ".xml":
        return _xml(path, text)
    if suffix == ".csv":
        return _traced(text) or _via_table(path, text)
    return _json(path, parse_json(text, f"'{path}'"))


@contextmanager
def _ours(path: Path) -> Iterator[None]:
    """Whatever numbers and texts that nobody checked lead to, as an error that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"'{path}' {UNREADABLE}{in_brackets(error)}; export "
            "masks, or as polygons of COCO, LabelMe, CVAT, VIA or YOLO"
        ) from error


def _yolo(path: Path, text: str) -> Annotations:
    """A line per shape: number of the class, then x and y in shares of the image."""
    shapes = []
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names = _yolo_names(path)
    for words in lines:
        kind, numbers = int(words[0]), [float(word) for word in words[1:]]
        if len(numbers) in (_BOX, _BOX + 1):
            raise DataError(_BOXES.format(path))
        if len(numbers) < _LEAST or len(numbers) % 2 or not all(-0.5 <= n <= 1.5 for n in numbers):
            raise ValueError("its lines are not a class and points from 0 to 1")
        if kind < 0:
            raise ValueError("a class has a negative number")
        name = names.get(kind, f"class {kind}")
        shapes.append(Shape(name, (_ring(numbers),), relative=True))
    told = dict.fromkeys([*names.values(), *sorted({shape.name for shape in shapes})])
    return Annotations("YOLO", {"": tuple(shapes)}, tuple(told))


def _yolo_names(path: Path) -> dict[int, str]:
    """Class names by number in ``classes.txt`` or ``data.yaml`` beside the labels or above them."""
    for folder in (path.parent, *path.parents[1:4]):
        listed = folder / "classes.txt"
        if listed.is_file() and listed != path:
            lines = listed.read_text(encoding="utf-8-sig").splitlines()
            return {number: line.strip() for number, line in enumerate(lines) if line.strip()}
        table = next(
            (folder / name for name in ("data.yaml", "dataset.yaml") if (folder / name).is_file()), None
        )
        if table is not None:
            return _names_of_yaml(table)
    return {}


def _names_of_yaml(table: Path) -> dict[int, str]:
    told = read_yaml(table)
    if not isinstance(told, dict):
        raise DataError(f"'{table}' is damaged; it should name the classes of the polygons")
    names = told.get("names", [])
    numbered = names.items() if isinstance(names, dict) else enumerate(names)
    return {int(number): str(name) for number, name in sorted(numbered)}


def _json(path: Path, content: Any) -> Annotations:
    programs: tuple[Callable[[Path, Any], Annotations | None], ...]
    programs = (_coco, _labelme, _supervisely, _geojson, _label_studio, _label_studio_min, _via, _via_3)
    for program in programs:
        found = program(path, content)
        if found is not None:
            return found
    raise ValueError("nothing in it is a polygon")


def _coco(path: Path, content: Any) -> Annotations | None:
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    files = {image["id"]: _listed(image["file_name"]) for image in content["images"]}
    kinds = {kind["id"]: str(kind["name"]) for kind in content.get("categories", [])}
    _require_once(path, files.values())
    shapes: dict[str, list[Shape]] = {name: [] for name in files.values()}
    sizes = {
        _listed(image["file_name"]): (int(image["height"]), int(image["width"]))
        for image in content["images"]
        if image.get("height") and image.get("width")
    }
    boxes, crowds = False, 0
    annotations = content["annotations"]
    for one in annotations.values() if isinstance(annotations, dict) else annotations:
        name = kinds.get(one["category_id"], f"class {one['category_id']}")
        drawn = one.get("segmentation")
        if not drawn:
            box = one.get("bbox")
            boxes |= box is None or any(float(side) > 0 for side in box[2:])
            continue
        crowds += bool(one.get("iscrowd"))
        if isinstance(drawn, dict):
            runs = drawn["counts"]
            runs = _unpacked(runs) if isinstance(runs, str) else runs
            height, width = drawn["size"]
            shape = Shape(name, runs=Runs(tuple(int(n) for n in runs), (int(height), int(width))))
        else:
            shape = Shape(name, tuple(_ring(numbers) for numbers in drawn if len(numbers) >= _LEAST))
        shapes[files[one["image_id"]]].append(shape)
    if boxes:
        raise DataError(_BOXES.format(path))
    used = {shape.name for several in shapes.values() for shape in several}
    names = tuple(name for name in dict.fromkeys([*kinds.values(), *sorted(used)]) if name in used)
    said = f"areas marked iscrowd in '{path.name}' ({crowds}) count as their class" if crowds else ""
    return Annotations("COCO", _frozen(shapes), names, sizes, said)


def _labelme(path: Path, content: Any) -> Annotations | None:
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    shapes = []
    others = set()
    for one in content["shapes"]:
        points = tuple((float(x), float(y)) for x, y in one["points"])
        kind = one.get("shape_type") or "polygon"
        if kind == "rectangle" and len(points) == 2:
            (x0, y0), (x1, y1) = points
            points = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        elif kind == "circle" and len(points) == 2:
            points = _ellipse(points[0], (float(np.hypot(*np.subtract(points[1], points[0]))),) * 2)
        elif kind == "mask":
            drawn = base64.b64decode(one["mask"]), (int(points[0][0]), int(points[0][1]))
            shapes.append(Shape(str(one["label"]), drawn=drawn))
            continue
        elif kind != "polygon":
            others.add(kind)
            continue
        shapes.append(Shape(str(one["label"]), (points,)))
    _require_areas(path, shapes, others)
    size = content.get("imageHeight"), content.get("imageWidth")
    return _of_one("LabelMe", shapes, size)


def _supervisely(path: Path, content: Any) -> Annotations | None:
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        return None
    shapes = []
    for one in content["objects"]:
        if one.get("geometryType") == "bitmap":
            x, y = one["bitmap"]["origin"]
            packed = base64.b64decode(one["bitmap"]["data"])
            shapes.append(Shape(str(one["classTitle"]), drawn=(packed, (int(x), int(y)))))
            continue
        if one.get("geometryType", "polygon") != "polygon":
            raise DataError(
                f"'{path}' holds shapes that are no polygons ({one['geometryType']}); export masks"
            )
        points = one["points"]
        holes = tuple(_points(ring) for ring in points.get("interior", []))
        shapes.append(Shape(str(one["classTitle"]), (_points(points["exterior"]),), holes))
    size = content.get("size") or {}
    return _of_one("Supervisely", shapes, (size.get("height"), size.get("width")))


def _label_studio(path: Path, content: Any) -> Annotations | None:
    """A list of tasks, each an image with the shapes of the first person; points in percent."""
    if not isinstance(content, list) or not all(isinstance(t, dict) and "annotations" in t for t in content):
        return None
    shapes: dict[str, list[Shape]] = {}
    others: set[str] = set()
    for task in content:
        done = [one for one in task["annotations"] if not one.get("was_cancelled")]
        if not done:  # nobody looked at it, or whoever did skipped it
            continue
        image = _base(next(value for value in task["data"].values() if "." in str(value)))
        _require_once(path, [*shapes, image])
        of_image = shapes.setdefault(image, [])
        for one in done[0]["result"]:
            value = one.get("value", {})
            if one["type"] == "brushlabels":
                size = int(one["original_height"]), int(one["original_width"])
                of_image.append(Shape(str(value["brushlabels"][0]), runs=_brushed(value["rle"], size)))
                continue
            if one["type"] not in ("polygonlabels", "ellipselabels"):
                if "height" in value:  # a rectangle, which is an area too
                    others.add(one["type"])
                continue
            name = str(value[one["type"]][0])
            if one["type"] == "polygonlabels":
                ring = _points((x / 100, y / 100) for x, y in value["points"])
            else:
                width, height = one["original_width"], one["original_height"]
                sizes = value["radiusX"] * width, value["radiusY"] * height
                middle = value["x"] * width, value["y"] * height
                points = _ellipse(middle, sizes, value.get("rotation", 0))
                ring = _points((x / width / 100, y / height / 100) for x, y in points)
            of_image.append(Shape(name, (ring,), relative=True))
    if others:
        raise DataError(f"'{path}' holds {', '.join(sorted(others))}; export polygons, or masks as PNG")
    # An import puts eight digits before the names of files.
    bare = Counter(name[9:] for name in shapes if _IMPORTED.match(name))
    shapes |= {
        name[9:]: several
        for name, several in list(shapes.items())
        if bare[name[9:]] == 1 and _IMPORTED.match(name) and name[9:] not in shapes
    }
    return _of_many("Label Studio", shapes)


def _label_studio_min(path: Path, content: Any) -> Annotations | None:
    """The same as its short form has it: the shapes in the task itself, under the name that a person gave."""
    if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
        return None
    tasks = []
    for task in content:
        shapes = [
            one
            for several in task.values()
            if isinstance(several, list)
            for one in several
            if isinstance(one, dict) and any(key in one for key in _LABEL_STUDIO_SHAPES)
        ]
        names = [value for value in task.values() if isinstance(value, str) and "." in _base(value)]
        if not shapes or not names:
            continue
        result = [
            {**one, "type": next(key for key in _LABEL_STUDIO_SHAPES if key in one), "value": one}
            for one in shapes
        ]
        tasks.append({"data": {"image": names[0]}, "annotations": [{"result": result}]})
    return _label_studio(path, tasks) if tasks else None


def _brushed(packed: Sequence[int], size: tuple[int, int]) -> Runs:
    """A mask as Label Studio packs it: runs and single values of red, green, blue and opacity in turn."""
    bits = "".join(f"{byte:08b}" for byte in bytes(packed))
    position = 0

    def read(number: int) -> int:
        nonlocal position
        if position + number > len(bits):
            raise ValueError("a mask is cut short")
        position += number
        return int(bits[position - number : position], 2)

    count, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if count != size[0] * size[1] * 4:
        raise ValueError(f"a mask has {count // 4} pixels, but its image {size[0]} x {size[1]}")
    values = np.zeros(count, bool)
    at = 0
    while at < count:
        is_run = read(1)
        end = at + read(lengths[read(2)]) + 1
        if is_run:
            values[at:end] = read(word) > 0
        else:
            values[at:end] = [read(word) > 0 for _ in range(at, min(end, count))]
        at = end
    on = values[3::4]
    ends = np.flatnonzero(np.diff(on, prepend=False))
    return Runs(tuple(np.diff(ends, prepend=0, append=len(on)).tolist()), size, order="C")


def _geojson(path: Path, content: Any) -> Annotations | None:
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list) or not all(isinstance(f, dict) and "geometry" in f for f in features):
        return None
    shapes = []
    others = set()
    for feature in features:
        geometry, about = feature["geometry"], feature.get("properties") or {}
        named = about.get("classification") or {}
        name = str(
            named.get("name") if isinstance(named, dict) and named else about.get("name") or "foreground"
        )
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            others.add(geometry["type"])
            continue
        several = geometry["coordinates"]
        for rings in [several] if geometry["type"] == "Polygon" else several:
            shapes.append(Shape(name, (_points(rings[0]),), tuple(_points(ring) for ring in rings[1:])))
    _require_areas(path, shapes, others)
    return _of_one("GeoJSON", shapes)


def _via(path: Path, content: Any) -> Annotations | None:
    """VGG's annotator: an entry per image with ``regions``."""
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    if not entries or not all(
        isinstance(e, dict) and "filename" in e and "regions" in e for e in entries.values()
    ):
        return None
    _require_once(path, [_base(str(entry["filename"])) for entry in entries.values()])
    shapes: dict[str, list[Shape]] = {}
    for entry in entries.values():
        of_image = shapes.setdefault(_base(str(entry["filename"])), [])
        regions = entry["regions"]
        for region in regions.values() if isinstance(regions, dict) else regions:
            of_image.append(_via_shape(path, region["shape_attributes"], region.get("region_attributes")))
    return _of_many("VIA", shapes)


def _via_3(path: Path, content: Any) -> Annotations | None:
    """The same of version 3, which numbers its files, its kinds of shapes and the names of classes."""
    if not isinstance(content, dict) or not {"metadata", "file", "view", "attribute"} <= content.keys():
        return None
    files = {key: _base(str(file["fname"])) for key, file in content["file"].items()}
    _require_once(path, files.values())
    options = {key: one.get("options") or {} for key, one in content["attribute"].items()}
    shapes: dict[str, list[Shape]] = {}
    for one in content["metadata"].values():
        of_view = [files[str(file)] for file in content["view"][str(one["vid"])]["fid_list"]]
        kind, *numbers = one.get("xy") or [0]
        if not kind:  # of the whole file
            continue
        of_image = shapes.setdefault(of_view[0], [])
        told = [options.get(key, {}).get(value, value) for key, value in (one.get("av") or {}).items()]
        name = next((str(value) for value in told if value), "foreground")
        if kind == _VIA_CIRCLE:
            of_image.append(Shape(name, (_ellipse(numbers[:2], (numbers[2],) * 2),)))
        elif kind == _VIA_ELLIPSE:
            of_image.append(Shape(name, (_ellipse(numbers[:2], numbers[2:4]),)))
        elif kind in _VIA_POLYGONS:
            of_image.append(Shape(name, (_ring(numbers),)))
        elif kind == _VIA_RECTANGLE:
            raise DataError(_BOXES.format(path))
    return _of_many("VIA", shapes) if shapes else None


def _via_table(path: Path, text: str) -> Annotations:
    """The same as a table, a line per region."""
    shapes: dict[str, list[Shape]] = {}
    rows = list(csv.DictReader(text.splitlines()))
    names = [str(row.get("filename", row.get("#filename"))) for row in rows]
    told_apart = {(name, row.get("file_size")) for name, row in zip(names, rows, strict=True)}
    _require_once(path, [_base(name) for name, _ in told_apart])
    for name, row in zip(names, rows, strict=True):
        of_image = shapes.setdefault(_base(name), [])
        drawn = parse_json(row["region_shape_attributes"], f"'{path}'")
        if drawn:
            about = parse_json(row["region_attributes"], f"'{path}'")
            of_image.append(_via_shape(path, drawn, about))
    if not shapes:
        raise ValueError("it has no regions")
    return _of_many("VIA", shapes)


def _traced(text: str) -> Annotations | None:
    """Ventricles of EchoNet: a line per point of a frame, or per chord, the first one the long axis."""
    rows = csv.DictReader(text.splitlines())
    columns = next(
        (c for c in (_CHORDS, _POINTS) if {"FileName", "Frame", *c} <= {*(rows.fieldnames or ())}), ()
    )
    if not columns:
        return None
    lines: dict[str, dict[int, list[list[float]]]] = {}
    for row in rows:
        if row["Frame"].strip().isdigit():  # some frames of EchoNet-Pediatric have no number
            of_clip = lines.setdefault(_base(row["FileName"]), {})
            of_clip.setdefault(int(row["Frame"]), []).append([float(row[name]) + 0.5 for name in columns])
    shapes: dict[str, tuple[Shape, ...]] = {}
    for clip, frames in lines.items():
        outlines = [
            _around(several) if columns == _CHORDS else _points(several) for several in frames.values()
        ]
        shapes[clip] = tuple(Shape(_VENTRICLE, (outline,)) for outline in outlines)
    numbers = {clip: tuple(frames) for clip, frames in lines.items()}
    return Annotations("EchoNet", shapes, (_VENTRICLE,), frames=numbers)


def _around(chords: Sequence[Sequence[float]]) -> Ring:
    """The outline along one end of all chords and back along the other; the first is the long axis."""
    there, back = [chord[:2] for chord in chords[1:]], [chord[2:] for chord in chords[:0:-1]]
    return _points([*there, *back])


def _via_shape(path: Path, drawn: Any, about: Any) -> Shape:
    named = (str(value) for value in (about or {}).values() if isinstance(value, str) and value)
    name = next(named, "foreground")
    match drawn["name"]:
        case "polygon" | "polyline":
            return Shape(name, (_points(zip(drawn["all_points_x"], drawn["all_points_y"], strict=True)),))
        case "circle":
            return Shape(name, (_ellipse((drawn["cx"], drawn["cy"]), (drawn["r"], drawn["r"])),))
        case "ellipse":
            middle, turn = (drawn["cx"], drawn["cy"]), np.degrees(float(drawn.get("theta", 0)))
            return Shape(name, (_ellipse(middle, (drawn["rx"], drawn["ry"]), turn),))
        case "rect":
            raise DataError(_BOXES.format(path))
        case other:
            raise DataError(f"'{path}' holds shapes of the kind '{other}'; export polygons or masks")


def _imagej(path: Path) -> Annotations:
    """ROIs of ImageJ, one in a file or several in an archive: polygons, freehand areas, ovals, rectangles."""
    if path.suffix.lower() == ".roi":
        stored = [path.read_bytes()]
    else:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not entries or any(not e.filename.lower().endswith(".roi") for e in entries):
                raise ValueError("it is no archive of ROIs")
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise ValueError("its ROIs are too large")
            stored = [archive.read(entry) for entry in entries]
    return _of_one("ImageJ", [Shape("foreground", (_roi(path, data),)) for data in stored])


def _roi(path: Path, data: bytes) -> Ring:
    if data[:4] != b"Iout":
        raise ValueError("it does not begin as a ROI")
    version, kind = struct.unpack_from(">HB", data, 4)
    top, left, bottom, right, number = struct.unpack_from(">4hH", data, 8)
    (combined,), (options,) = struct.unpack_from(">i", data, _COMBINED), struct.unpack_from(">h", data, 50)
    if kind == _RECTANGLE and combined > 0:
        raise DataError(
            f"'{path}' holds a combined selection, of which only the box around it would be read; split it "
            "(Edit, Selection, Split) or save a mask (Edit, Selection, Create Mask)"
        )
    if kind == _RECTANGLE:
        return _points([(left, top), (right, top), (right, bottom), (left, bottom)])
    if kind == _OVAL:
        middle, sizes = ((left + right) / 2, (top + bottom) / 2), ((right - left) / 2, (bottom - top) / 2)
        return _ellipse(middle, sizes)
    if kind not in _AREAS or not number:
        raise DataError(
            f"'{path}' holds lines or points, which tell no area; draw polygons or freehand areas"
        )
    if options & _SUBPIXEL and version >= _WITH_SUBPIXEL:
        found = struct.unpack_from(f">{2 * number}f", data, 64 + 4 * number)
        return _points(zip(found[:number], found[number:], strict=True))
    found = struct.unpack_from(f">{2 * number}h", data, 64)
    return _points((left + x, top + y) for x, y in zip(found[:number], found[number:], strict=True))


def _xml(path: Path, text: str) -> Annotations:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which annotations do not need")
    root = ElementTree.fromstring(text)
    if root.find("Annotation/Regions") is not None:
        return _imagescope(path, root)
    if root.find("mark/svg") is not None:
        return _ddti(path, root)
    return _cvat(path, root)


def _imagescope(path: Path, root: ElementTree.Element) -> Annotations:
    """Regions of Aperio ImageScope, as in MoNuSeg: each annotation a class, negative regions holes in it."""
    shapes = []
    others: set[str] = set()
    layers = root.findall("Annotation")
    for layer in layers:
        usual = "foreground" if len(layers) == 1 else f"annotation {layer.get('Id')}"
        rings: tuple[list[Ring], list[Ring]] = [], []
        for region in layer.findall("Regions/Region"):
            corners = _points((v.attrib["X"], v.attrib["Y"]) for v in region.findall("Vertices/Vertex"))
            kind = region.get("Type", "0")
            if kind == _OVAL_IN_BOX and len(corners) == 2:
                (x0, y0), (x1, y1) = corners
                corners = _ellipse(((x0 + x1) / 2, (y0 + y1) / 2), (abs(x1 - x0) / 2, abs(y1 - y0) / 2))
            elif kind not in _OUTLINES or len(corners) < _LEAST // 2:
                others.add(f"regions of type {kind}")
                continue
            rings[region.get("NegativeROA") == "1"].append(corners)
        if rings[0]:
            shapes.append(Shape(layer.get("Name") or usual, tuple(rings[0]), tuple(rings[1])))
    _require_areas(path, shapes, others)
    return _of_one("ImageScope", shapes)


def _ddti(path: Path, root: ElementTree.Element) -> Annotations:
    """Nodules of DDTI: ``7.xml`` marks the images ``7_1.jpg``, ``7_2.jpg``, ..."""
    shapes: dict[str, list[Shape]] = {}
    for mark in root.findall("mark"):
        of_image = shapes.setdefault(f"{path.stem}_{(mark.findtext('image') or '').strip()}.jpg", [])
        for one in parse_json(mark.findtext("svg") or "[]", f"'{path}'"):
            of_image.append(Shape("nodule", (_points((p["x"], p["y"]) for p in one["points"]),)))
    return _of_many("DDTI", shapes)


def _cvat(path: Path, root: ElementTree.Element) -> Annotations:
    if root.find("track") is not None:
        raise DataError(f"'{path}' holds tracks of a video; export it as 'CVAT for images 1.1'")
    if root.tag != "annotations" or root.find("image") is None:
        if root.find("object/bndbox") is not None:
            raise DataError(_BOXES.format(path))
        raise ValueError("it holds no 'annotations' with images")
    _require_once(path, [_listed(image.attrib["name"]) for image in root.iter("image")])
    shapes: dict[str, list[Shape]] = {}
    for image in root.iter("image"):
        of_image = shapes.setdefault(_listed(image.attrib["name"]), [])
        for one in sorted(image, key=lambda element: int(element.get("z_order", 0))):
            if one.tag == "polygon":
                points = (point.split(",") for point in one.attrib["points"].split(";"))
                of_image.append(Shape(one.attrib["label"], (_points(points),)))
            elif one.tag == "ellipse":
                middle, radii = (
                    [float(one.attrib[k]) for k in pair] for pair in (("cx", "cy"), ("rx", "ry"))
                )
                ring = _ellipse(middle, radii, float(one.get("rotation", 0)))
                of_image.append(Shape(one.attrib["label"], (ring,)))
            elif one.tag == "mask":
                left, top, width, height = (int(float(one.attrib[k])) for k in _MASK_BOX)
                counts = tuple(int(n) for n in one.attrib["rle"].split(","))
                runs = Runs(counts, (height, width), (left, top), "C")
                of_image.append(Shape(one.attrib["label"], runs=runs))
            elif one.tag == "box":
                raise DataError(_BOXES.format(path))
    sizes = {
        _listed(image.attrib["name"]): (int(image.attrib["height"]), int(image.attrib["width"]))
        for image in root.iter("image")
        if "height" in image.attrib and "width" in image.attrib
    }
    return _of_many("CVAT", shapes, sizes)


def _inside(one: Shape, shape: tuple[int, ...]) -> np.ndarray:
    from skimage.draw import polygon2mask

    inside = np.zeros(shape, bool)
    if one.runs is not None or one.drawn is not None:
        values, (left, top) = _unpacked_runs(one.runs, shape) if one.runs else _unpacked_png(one, shape)
        there = inside[
            max(top, 0) : max(top + values.shape[0], 0), max(left, 0) : max(left + values.shape[1], 0)
        ]
        there |= values[max(-top, 0) :, max(-left, 0) :][: there.shape[0], : there.shape[1]]
        return inside
    scale = np.array(shape[::-1], float) if one.relative else np.ones(2)
    for rings, value in ((one.rings, True), (one.holes, False)):
        for ring in rings:
            # Programs measure from the outer edge of the first pixel, whose centre is at one half.
            yx = (np.array(ring) * scale - 0.5)[:, ::-1]
            if not np.isfinite(yx).all():
                raise ValueError("a point lies nowhere")
            inside[polygon2mask(shape, yx)] = value
    return inside


def _unpacked_runs(runs: Runs, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]]:
    _require_fitting(runs.size, shape, is_whole=runs.order == "F")
    if min(runs.counts) < 0 or sum(runs.counts) != runs.size[0] * runs.size[1]:
        raise ValueError("the runs of a mask do not add up to its size")
    values = np.repeat(np.arange(len(runs.counts)) % 2 == 1, runs.counts)
    return values.reshape(runs.size, order=runs.order), runs.place


def _unpacked_png(one: Shape, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]]:
    import PIL.Image

    assert one.drawn is not None
    data, place = one.drawn
    if not data.startswith(_PNG):  # Supervisely packs it once more
        data = zlib.decompressobj().decompress(data, _MOST_BYTES)
    with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        _require_fitting(picture.size[::-1], shape)
        bands = picture.getbands()
        return np.asarray(picture.getchannel("A") if "A" in bands else picture.convert("L")) > 0, place


def _require_fitting(size: tuple[int, int], shape: tuple[int, ...], is_whole: bool = False) -> None:
    if size != shape if is_whole else size[0] > shape[0] or size[1] > shape[1]:
        raise ValueError(f"a mask has {size[0]} x {size[1]} pixels, but its image {shape[0]} x {shape[1]}")


def _unpacked(text: str) -> list[int]:
    """COCO's compressed runs: five bits a character and whether more follow; then differences."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[position]) - 48
            if shift > _LONGEST_RUN:
                raise ValueError("a run is too long")
            value |= (code & 0x1F) << shift
            more, shift, position = bool(code & 0x20), shift + 5, position + 1
            if not more and code & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _ellipse(centre: Sequence[float], radii: Sequence[float], degrees: float = 0.0) -> Ring:
    angles, turn = np.linspace(0, 2 * np.pi, 64, endpoint=False), np.radians(degrees)
    x, y = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    return _points(
        zip(
            centre[0] + x * np.cos(turn) - y * np.sin(turn),
            centre[1] + x * np.sin(turn) + y * np.cos(turn),
            strict=True,
        )
    )


def _ring(numbers: Sequence[float]) -> Ring:
    return tuple(zip(map(float, numbers[::2]), map(float, numbers[1::2]), strict=True))


def _points(pairs: Iterable[Sequence[Any]]) -> Ring:
    return tuple((float(x), float(y)) for x, y in pairs)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _listed(name: Any) -> str:
    """A name with its folders, as every system writes it."""
    return "/".join(part for part in str(name).replace("\\", "/").split("/") if part not in ("", "."))


def _frozen(shapes: dict[str, list[Shape]]) -> dict[str, tuple[Shape, ...]]:
    return {name: tuple(several) for name, several in shapes.items()}


def _of_one(program: str, shapes: Sequence[Shape], size: tuple[Any, Any] = (None, None)) -> Annotations:
    height, width = size
    sizes = {"": (int(height), int(width))} if height and width else {}
    return Annotations(program, {"": tuple(shapes)}, tuple(sorted({shape.name for shape in shapes})), sizes)


def _of_many(
    program: str, shapes: dict[str, list[Shape]], sizes: dict[str, tuple[int, int]] | None = None
) -> Annotations:
    names = sorted({shape.name for several in shapes.values() for shape in several})
    return Annotations(program, _frozen(shapes), tuple(names), sizes or {})


def _require_once(path: Path, names: Iterable[str]) -> None:
    """Images in several folders may have one name, and nothing would tell their shapes apart."""
    counts = Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise DataError(
            f"'{path}' annotates {len(twice)} image names more than once, such as '{twice[0]}'; export every "
            "folder of images to a file of its own"
        )


def _require_areas(path: Path, shapes: Sequence[Shape], others: Iterable[str]) -> None:
    """Lines and points beside areas are passed over; an image of nothing else is not taken for empty."""
    if others and not shapes:
        raise DataError(
            f"'{path}' holds no area ({', '.join(sorted(map(str, others)))}); export polygons or masks"
        )
