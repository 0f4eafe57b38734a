"""OME-Zarr 0.4 and 0.5: pyramids that are read where they are looked at; results as 0.4 with their levels.

An array of Zarr that lies there alone is one level, its axes by their names or, where it has none, as usual.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_prosma.data.case import Header, Image, Pyramid
from napari_prosma.data.limits import (
    MOST_CHUNKS,
    MOST_OF_A_CHUNK,
    require_count,
    require_inside,
    require_room,
)
from napari_prosma.data.texts import read_json
from napari_prosma.data.units import common
from napari_prosma.data.units import seconds as seconds_of
from napari_prosma.errors import DataError, in_brackets
from napari_prosma.geometry import Geometry, SourceFrame

if TYPE_CHECKING:
    from napari_prosma.data.formats.zarr_store import CheckedStore, Packing

SUFFIXES = (".zarr",)
_UNIT_NAMES = {"um": "micrometer", "mm": "millimeter"}
_PACKERS = {"blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2"}
_CODECS = _PACKERS | {
    *("bytes", "transpose", "sharding_indexed", "bitround", "quantize", "packbits", "crc32", "adler32"),
    *("shuffle", "delta", "fixedscaleoffset", "crc32c"),
}
"""Codecs of Zarr 2 and 3 that turn bytes into numbers and nothing else."""
_INDEX_CODECS, _INDEX_ENTRY, _CRC = {"bytes", "crc32c"}, 16, 4
"""Of shards: codecs that keep the size of an index, bytes for every chunk in it and for its checksum."""
_AXES = {
    **dict.fromkeys(("time", "frame"), "t"),
    **dict.fromkeys(("channel", "channels", "ch"), "c"),
    **dict.fromkeys(("depth", "plane", "slice"), "z"),
    **dict.fromkeys(("height", "row"), "y"),
    **dict.fromkeys(("width", "col", "column"), "x"),
}
"""What else axes are called in arrays that are no OME-Zarr."""
_COLOURS = (3, 4)
_SAID = "said"
_FRAME = "patient_frame"
_VERSION = "0.4"
_CHUNK = 128
_COARSEST = 256


def is_ome_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((folder / name).is_file() for name in (".zgroup", ".zarray", "zarr.json", ".zattrs"))


def _is_array(folder: Path) -> bool:
    """Whether a folder is an array of Zarr, no group."""
    if (folder / ".zarray").is_file():
        return True
    described = read_json(folder / "zarr.json") if (folder / "zarr.json").is_file() else {}
    return isinstance(described, dict) and described.get("node_type") == "array"


def fields(folder: Path) -> list[Path]:
    """Images in the wells of a plate; none of any other group."""
    try:
        described = _described(folder)
        listed = described.get("plate", {}).get("wells", ())
        wells = [require_inside(folder, folder, str(well["path"])) for well in listed]
        return [
            require_inside(folder, well, str(image["path"]))
            for well in wells
            for image in _described(well)["well"]["images"]
        ]
    except (DataError, KeyError, TypeError, AttributeError):  # said when it is read
        return []


def _described(folder: Path) -> dict[str, Any]:
    """What a group says of itself, by its text alone."""
    for name in (".zattrs", "zarr.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            content = content.get("attributes", {}) if name == "zarr.json" else content
            return dict(content.get("ome", content))
    return {}


def read_header(path: Path) -> Header:
    """Header of the finest level."""
    pyramid = read_pyramid(path)
    channels, *shape = pyramid.levels[0].shape
    return Header(channels, tuple(shape), pyramid.geometry)


def read(path: Path) -> Image:
    """The finest level, whole, as (C, [t,] [z,] y, x).

    Raises ``DataError``: when it does not fit into memory.
    """
    pyramid = read_pyramid(path)
    require_room(path, pyramid.levels[0].nbytes)
    try:
        return Image(pyramid.levels[0].compute(), pyramid.geometry, pyramid.notices)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"'{path}' has a damaged chunk ({error}); copy it again") from error


def read_pyramid(path: Path) -> Pyramid:
    """All levels as dask arrays; no chunk is read.

    Raises ``DataError``: when the folder is no OME-Zarr image.
    """
    import dask.array
    import zarr

    attributes, store, folder = _opened(path)
    if "plate" in attributes or "well" in attributes:
        shown = next(iter(fields(path)), path / "A" / "1" / "0")
        raise DataError(
            f"'{path}' is a plate or a well of several images; give one of them, such as '{shown}'"
        )
    if "multiscales" not in attributes and (inside := [p for p in sorted(path.glob("*/")) if _is_array(p)]):
        raise DataError(f"'{path}' is no OME-Zarr image; give one of the arrays in it, such as '{inside[0]}'")
    try:
        multiscale = attributes["multiscales"][0]
        datasets = multiscale["datasets"]
        for dataset in datasets:
            packing = _require_harmless(folder, str(dataset["path"]))
            if packing is not None:
                store.expect(str(dataset["path"]), packing)
        arrays: list[Any] = []
        for name in (str(dataset["path"]) for dataset in datasets):
            version: Literal[2, 3] = 2 if (folder / name / ".zarray").is_file() else 3
            arrays.append(zarr.open_array(store, mode="r", path=name, zarr_format=version))
        told = multiscale.get("axes") or list("tczyx"[-arrays[0].ndim :])  # versions 0.1 and 0.2 tell none
        axes = [str(axis if isinstance(axis, str) else axis["name"]).lower() for axis in told]
        units = ["" if isinstance(axis, str) else axis.get("unit") or "" for axis in told]
        scales = [_transform(multiscale, dataset, "scale", len(axes), 1.0) for dataset in datasets]
        shifts = [_transform(multiscale, dataset, "translation", len(axes), 0.0) for dataset in datasets]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(
            f"'{path}' is no OME-Zarr image{in_brackets(error)}; give the folder with 'multiscales'"
        ) from error
    unknown = [name for n, name in enumerate(axes) if name not in tuple("tczyx") and arrays[0].shape[n] > 1]
    if unknown:
        raise DataError(f"'{path}' has the axis '{unknown[0]}', which is not understood; save it as tczyx")
    kept = [n for n, name in enumerate(axes) if name in "zyx" or (name == "t" and arrays[0].shape[n] > 1)]
    kept.sort(key=lambda n: "tzyx".index(axes[n]))
    if len(kept) > 2 and arrays[0].shape[kept[0]] == 1 and axes[kept[0]] == "z" and len(axes) > 3:
        kept = kept[1:]
    order = [n for n, name in enumerate(axes) if name == "c"] + kept
    levels = []
    for array in arrays:
        lazy = dask.array.from_zarr(array)
        lazy = lazy[tuple(slice(None) if n in order else 0 for n in range(len(axes)))]
        remaining = sorted(order)
        lazy = lazy.transpose([remaining.index(n) for n in order])
        levels.append(lazy if "c" in axes else lazy[None])
    spacing = [scales[0][n] for n in kept]
    if min(spacing) <= 0:
        raise DataError(f"'{path}' has scale {spacing}; correct its coordinateTransformations")
    unit, factors, notices = _units({axes[n]: units[n] for n in kept if axes[n] != "t"}, path)
    notices += tuple(multiscale.get(_SAID, ()))
    spatial_factor = [factors.get(axes[n], 1.0) for n in kept]
    time = next((n for n in kept if axes[n] == "t"), None)
    seconds = 0.0 if time is None else scales[0][time] * (seconds_of(units[time]) or 0.0)
    if time is not None:
        spacing[kept.index(time)] = 1.0
        shifts[0][time] = 0.0
    shape = levels[0].shape[1:]
    geometry = Geometry(
        tuple(s * f for s, f in zip(spacing, spatial_factor, strict=True)),
        tuple(shifts[0][n] * f for n, f in zip(kept, spatial_factor, strict=True)),
        unit,
        tuple(axes[n] for n in kept),
        frame_seconds=seconds,
    )
    frame = attributes.get(_FRAME)
    if frame is not None:
        geometry = replace(Geometry.patient(_frame(path, frame), shape, unit), frame_seconds=seconds)
    if len(attributes["multiscales"]) > 1:
        notices += (f"'{path.name}' holds {len(attributes['multiscales'])} images; the first is read",)
    steps = tuple(tuple(scale[n] / scales[0][n] for n in kept) for scale in scales)
    return Pyramid(tuple(levels), steps, geometry, notices)


def label_names(path: Path) -> dict[int, str]:
    """Names of the classes of an ``image-label``."""
    attributes, *_ = _opened(path)
    properties = attributes.get("image-label", {}).get("properties", ())
    return {int(one["label-value"]): str(one["name"]) for one in properties if "name" in one}


def _units(units: Mapping[str, str], path: Path) -> tuple[str, dict[str, float], tuple[str, ...]]:
    """One unit for all axes of space, the factor of each, and what is to be said of it."""
    named = {axis: unit for axis, unit in units.items() if unit}
    found = common(named)
    if found is None:
        told = ", ".join(dict.fromkeys(f"'{unit}'" for unit in named.values()))
        return "pixel", {}, (f"'{path.name}' has sizes in {told}, which is not understood; given in pixels",)
    unit, factors = found
    bare = [axis for axis in units if axis not in named]
    if not named or not bare:
        return unit, factors, ()
    said = f"'{path.name}' names no unit of {', '.join(bare)}; taken as that of the other axes"
    return unit, factors | dict.fromkeys(bare, next(iter(factors.values()))), (said,)


def write(path: Path, array: np.ndarray, geometry: Geometry, class_names: Sequence[str] = ()) -> None:
    """Array (*spatial) or (C, *spatial) with coarser levels by picking elements, and the patient frame."""
    import zarr

    has_channels = array.ndim > geometry.ndim
    axes = [
        *([{"name": "c", "type": "channel"}] if has_channels else []),
        *({"name": axis, **_axis(axis, geometry)} for axis in geometry.axes),
    ]
    group = zarr.open_group(path, mode="w", zarr_format=2)
    attributes: dict[str, Any] = {}
    datasets: list[dict[str, Any]] = []
    for level, step in enumerate(_steps(array.shape[-2:])):
        every = (slice(None),) * (array.ndim - 2) + (slice(None, None, step),) * 2
        coarse = np.ascontiguousarray(array[every])
        stored = group.create_array(
            str(level),
            shape=coarse.shape,
            dtype=coarse.dtype,
            chunks=tuple(min(size, _CHUNK) for size in coarse.shape),
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        stored[...] = coarse
        steps = [1.0] * (array.ndim - 2) + [float(step)] * 2
        spacing = [1.0] * has_channels + [
            geometry.frame_seconds or size if axis == "t" else size
            for axis, size in zip(geometry.axes, geometry.spacing, strict=True)
        ]
        shift = [0.0] * has_channels + list(geometry.origin)
        transforms = [
            {"type": "scale", "scale": [a * b for a, b in zip(spacing, steps, strict=True)]},
            {"type": "translation", "translation": shift},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    attributes["multiscales"] = [
        {"version": _VERSION, "name": path.stem, "axes": axes, "datasets": datasets, "type": "nearest"}
    ]
    if class_names:
        properties = [{"label-value": n, "name": name} for n, name in enumerate(class_names)]
        attributes["image-label"] = {"version": _VERSION, "properties": properties}
    if geometry.source is not None:
        source = geometry.source
        attributes[_FRAME] = {
            "affine_ras": source.affine,
            "order": source.order,
            "flipped": source.flipped,
            "nifti_header": source.nifti_header.hex(),
            "metaimage": source.metaimage,
        }
    group.attrs.update(attributes)


def _array_alone(path: Path) -> dict[str, Any]:
    """An array that lies in no OME-Zarr, described as if it did.

    Raises ``DataError``: its axes have no names, and there are several ways to take them.
    """
    stored = read_json(path / (".zarray" if (path / ".zarray").is_file() else "zarr.json"))
    beside = read_json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
    shape, names = stored.get("shape", ()), stored.get("dimension_names") or beside.get("_ARRAY_DIMENSIONS")
    said = f"'{path.name}' is an array without sizes of its elements; given in pixels"
    if names and all(names):
        axes = [_AXES.get(str(name).lower(), str(name)) for name in names]
    elif len(shape) == 3 and shape[-1] in _COLOURS:
        axes, said = list("yxc"), f"{said}, and its axes taken as y, x and colour"
    elif len(shape) in (2, 3):
        axes = list("zyx"[-len(shape) :])
        said = f"{said}, and its axes taken as {', '.join(axes)}"
    else:
        raise DataError(
            f"'{path}' has {len(shape)} axes without names; save it as OME-Zarr, or name them "
            "(dimension_names in Zarr 3, _ARRAY_DIMENSIONS in Zarr 2)"
        )
    return {"multiscales": [{"axes": axes, "datasets": [{"path": path.name}], _SAID: [said]}]}


def _opened(path: Path) -> tuple[Mapping[str, Any], CheckedStore, Path]:
    """What an image says of itself, its store, and the folder that these are of."""
    import zarr
    from zarr.errors import BaseZarrError

    from napari_prosma.data.formats.zarr_store import CheckedStore

    if _is_array(path):
        path = path.resolve()
        return _array_alone(path), CheckedStore(path.parent), path.parent
    try:
        store = CheckedStore(path)
        # Not what was consolidated: what is opened then may be another array than the one that was looked at.
        group = zarr.open_group(store, mode="r", use_consolidated=False)
    except (BaseZarrError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"'{path}' is no OME-Zarr group ({error}); give the folder with 'multiscales'"
        ) from error
    attributes: dict[str, Any] = dict(group.attrs)
    described: dict[str, Any] = attributes.get("ome", attributes)
    if "bioformats2raw.layout" not in described or "multiscales" in described:
        return described, store, path
    if (path / "1").is_dir():
        raise DataError(f"'{path}' is a collection of images; give one of them, such as '{path / '0'}'")
    return _opened(path / "0")


def _require_harmless(path: Path, name: str) -> Packing | None:
    """Refuse an array, by its own metadata and before any library sees it, that is no plain numbers.

    Codecs of objects run code while they decode, so those that are not known here are refused, whichever
    numcodecs is installed. Gives how chunks are packed, if they are.
    """
    from napari_prosma.data.formats.zarr_store import Packing

    folder = require_inside(path, path, name)
    old, new = folder / ".zarray", folder / "zarr.json"
    try:
        stored = read_json(old if old.is_file() else new)
        kind = str(stored["dtype"] if old.is_file() else stored["data_type"])
        filters = [*(stored.get("filters") or ()), stored.get("compressor")] if old.is_file() else []
        codecs = (
            [codec["id"] for codec in filters if codec] if old.is_file() else [*_codecs(stored["codecs"])]
        )
        shape = [int(size) for size in stored["shape"]]
        grid = stored["chunks"] if old.is_file() else stored["chunk_grid"]["configuration"]["chunk_shape"]
        chunks = [int(size) for size in grid]
        itemsize = np.dtype(kind).itemsize
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"'{folder}' is no array that can be read ({error}); export it again") from error
    unknown = [codec for codec in codecs if str(codec).removeprefix("numcodecs.") not in _CODECS]
    if unknown or np.dtype(kind).kind not in "biuf":
        what = f"is packed by '{unknown[0]}'" if unknown else f"holds '{kind}'"
        raise DataError(
            f"'{folder}' {what}, which is not opened because it may run code; save it as numbers, packed by "
            f"blosc, zstd, gzip or not at all"
        )
    if len(shape) != len(chunks) or min(chunks, default=0) < 1 or min(shape, default=0) < 0:
        raise DataError(f"'{folder}' has chunks {chunks} of a shape {shape}; export it again")
    require_count(
        folder, "chunks", math.prod(-(-n // size) for n, size in zip(shape, chunks, strict=True)), MOST_CHUNKS
    )
    chunk = itemsize * math.prod(min(n, size) for n, size in zip(shape, chunks, strict=True))
    require_count(folder, "bytes in a chunk", chunk, MOST_OF_A_CHUNK)
    packers = [str(codec).removeprefix("numcodecs.") for codec in codecs]
    packers = [codec for codec in packers if codec in _PACKERS]
    shards = (
        [] if old.is_file() else [one for one in stored["codecs"] if "sharding_indexed" in _codecs([one])]
    )
    if len(packers) > 1 or (shards and len(stored["codecs"]) > 1):
        raise DataError(f"'{folder}' is packed more than once ({', '.join(codecs)}); save it again")
    if not packers:
        return None
    packing = Packing(packers[0], itemsize * math.prod(chunks))
    return _in_shards(folder, packing, shards[0]["configuration"], chunks, itemsize) if shards else packing


def _in_shards(
    folder: Path, packing: Packing, shard: Mapping[str, Any], chunks: Sequence[int], itemsize: int
) -> Packing:
    """How the chunks within the shards of an array are packed."""
    try:
        inner = [int(size) for size in shard["chunk_shape"]]
        index = [*_codecs(shard["index_codecs"])]
        is_even = all(size > 0 and outer % size == 0 for outer, size in zip(chunks, inner, strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{folder}' has shards that cannot be read ({error}); export it again") from error
    if not is_even or not set(index) <= _INDEX_CODECS:
        raise DataError(
            f"'{folder}' has shards {chunks} of chunks {inner} with an index by {index}; export it again"
        )
    count = math.prod(chunks) // math.prod(inner)
    return replace(
        packing,
        unpacked=itemsize * math.prod(inner),
        in_shard=count,
        index_bytes=_INDEX_ENTRY * count + _CRC * index.count("crc32c"),
        index_first=shard.get("index_location") == "start",
    )


def _codecs(listed: Any) -> Iterator[str]:
    """Names of codecs of Zarr 3, those within shards too."""
    for codec in listed:
        name = codec if isinstance(codec, str) else codec["name"]
        yield name
        if name == "sharding_indexed":
            parts = codec["configuration"]
            within = [*_codecs(parts["codecs"]), *_codecs(parts["index_codecs"])]
            yield from ["shards within shards"] if name in within else within


def _transform(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], kind: str, length: int, neutral: float
) -> list[float]:
    """Scale or translation of a level; that of the whole image is applied after it."""
    found = [neutral] * length
    for place in (dataset, multiscale):
        for transform in place.get("coordinateTransformations", ()):
            if transform["type"] == "scale":
                scale = [float(value) for value in transform["scale"]]
                found = [a * b for a, b in zip(found, scale, strict=True)] if place is multiscale else found
                found = scale if kind == "scale" and place is dataset else found
            elif transform["type"] not in ("identity", "translation"):
                raise ValueError(f"a transformation of type {transform['type']}, which is not understood")
            elif transform["type"] == "translation" and kind == "translation":
                found = [a + float(b) for a, b in zip(found, transform["translation"], strict=True)]
    return found


def _frame(path: Path, frame: Mapping[str, Any]) -> SourceFrame:
    try:
        return SourceFrame(
            tuple(tuple(float(value) for value in row) for row in frame["affine_ras"]),
            tuple(int(n) for n in frame["order"]),
            tuple(bool(flip) for flip in frame["flipped"]),
            bytes.fromhex(frame.get("nifti_header", "")),
            tuple(float(value) for value in frame.get("metaimage", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"'{path}' has a damaged patient frame ({error}); write it again") from error


def _axis(axis: str, geometry: Geometry) -> dict[str, str]:
    if axis == "t":
        return {"type": "time", **({"unit": "second"} if geometry.frame_seconds else {})}
    unit = _UNIT_NAMES.get(geometry.unit)
    return {"type": "space", **({"unit": unit} if unit else {})}


def _steps(plane: tuple[int, ...]) -> list[int]:
    steps = [1]
    while max(plane) // steps[-1] > _COARSEST:
        steps.append(steps[-1] * 2)
    return steps
