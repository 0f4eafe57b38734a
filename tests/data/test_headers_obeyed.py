"""What headers say of voxels, sizes and labels is applied or refused, in every format but DICOM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel
import nrrd
import numpy as np
import PIL.Image
import pytest
import tifffile
import zarr

from napari_prosma.data.case import Image
from napari_prosma.data.formats import nifti
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import label_names, read_header, read_image, read_label
from napari_prosma.data.units import common, length, seconds
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

VOXELS = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # (z, y, x)


def saved(path: Path, array: np.ndarray = VOXELS, **how: object) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **how})
    return path


# Units


@pytest.mark.parametrize(
    ("names", "unit", "factor"),
    [
        (("micron", "microns", "Micrometer", "micrometres", "µm", "μm", "um", "\\u00B5m"), "um", 1.0),
        (("nm", "nanometer"), "um", 1e-3),
        (("mm", "MM", "millimeters", "Millimetre"), "mm", 1.0),
        (("cm", "centimeter"), "mm", 10.0),
        (("m", "meter"), "mm", 1000.0),
        (("inch", "inches", "in"), "mm", 25.4),
        (("Å", "angstrom"), "um", 1e-4),
        (("", "pixel", "pixels", "voxels"), "pixel", 1.0),
    ],
)
def test_a_length_has_one_meaning_however_it_is_written(
    names: tuple[str, ...], unit: str, factor: float
) -> None:
    for name in names:
        assert length(name) == (unit, pytest.approx(factor)), name


def test_lengths_that_are_not_known_are_not_guessed() -> None:
    assert length("furlong") is None
    assert length("Mm") is None
    assert common({"x": "um", "y": "furlong"}) is None
    assert common({"x": "um", "y": "pixel"}) is None
    assert (seconds("msec"), seconds("min"), seconds("fortnight")) == (1e-3, 60.0, None)


# TIFF


def test_every_axis_of_an_ome_tiff_has_its_own_unit(tmp_path: Path) -> None:
    sizes = {
        "PhysicalSizeX": 200.0,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.02,
        "PhysicalSizeYUnit": "cm",
    }
    depth = {"PhysicalSizeZ": 1.0, "PhysicalSizeZUnit": "mm"}
    path = saved(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", **sizes, **depth})
    geometry = read_image(path).geometry
    assert (geometry.spacing, geometry.unit) == (pytest.approx((1000, 200, 200)), "um")


def test_axes_of_an_imagej_stack_may_differ_in_unit(tmp_path: Path) -> None:
    how = {"axes": "ZYX", "spacing": 1.5, "unit": "microns", "zunit": "mm"}
    geometry = read_image(saved(tmp_path / "a.tif", imagej=True, resolution=(5, 4), metadata=how)).geometry
    assert (geometry.spacing, geometry.unit) == (pytest.approx((1500, 0.25, 0.2)), "um")


def test_a_pixel_size_in_an_unknown_unit_is_said(tmp_path: Path) -> None:
    how = {"axes": "ZYX", "unit": "furlong"}
    image = read_image(saved(tmp_path / "a.tif", imagej=True, resolution=(5, 4), metadata=how))
    assert image.geometry.unit == "pixel"
    assert "'furlong', which is not understood" in image.notices[0]


@pytest.mark.parametrize(("resolution", "unit", "size"), [(3, "mm", 2.0), (2, "mm", 5.08), (1, "pixel", 1.0)])
def test_imagej_takes_its_unit_from_the_resolution_where_it_names_none(
    tmp_path: Path, resolution: int, unit: str, size: float
) -> None:
    path = saved(tmp_path / "a.tif", VOXELS[0], imagej=True, resolution=(5, 5), resolutionunit=resolution)
    geometry = read_image(path).geometry
    assert (geometry.unit, geometry.spacing[-1]) == (unit, pytest.approx(size))


def test_white_stored_as_zero_is_turned_but_not_for_imagej(tmp_path: Path) -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    plain = saved(tmp_path / "a.tif", picture, photometric="miniswhite")
    assert np.array_equal(read_image(plain).array[0], 255 - picture)
    mask = saved(tmp_path / "m.tif", picture > 5, photometric="miniswhite", software="a scanner")
    assert np.array_equal(read_label(mask)[0], picture <= 5)
    imagej = saved(tmp_path / "i.tif", picture, photometric="miniswhite", imagej=True)
    assert np.array_equal(read_image(imagej).array[0], picture)


def test_a_palette_is_colour_in_an_image_and_numbers_in_a_label(tmp_path: Path) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colours = np.zeros((3, 256), np.uint16)
    colours[0] = np.arange(256) * 257
    path = saved(tmp_path / "a.tif", indices, photometric="palette", colormap=colours)
    assert np.array_equal(read_image(path).array, [indices, 0 * indices, 0 * indices])
    assert read_header(path).channels == 3
    assert np.array_equal(read_label(path)[0], indices)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stands_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.arange(12, dtype=np.uint8).reshape(3, 4)
    stored = upright.T if orientation > 4 else upright
    turned = PIL.Image.fromarray(np.ascontiguousarray(upright))
    turned.getexif()[274] = orientation
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    if undo is not None:
        stored = np.asarray(PIL.Image.fromarray(upright).transpose(PIL.Image.Transpose(undo)))
    path = saved(tmp_path / "a.tif", stored, extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read_image(path).array[0], upright)
    assert read_header(path).shape == upright.shape


def test_transparency_of_a_tiff_is_dropped_from_images_and_holds_masks(tmp_path: Path) -> None:
    mask = np.zeros((3, 4), np.uint8)
    mask[1, 1:3] = 255
    samples = np.dstack([np.zeros((3, 4, 3), np.uint8), mask])
    path = saved(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(path).array.shape == (3, 3, 4)
    assert read_header(path).channels == 3
    assert np.array_equal(read_label(path)[0], mask)


def test_colours_of_a_tiff_mask_are_numbers(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[0, 0], colours[1, 1] = (255, 0, 0), (0, 16, 1)
    label, _ = read_label(saved(tmp_path / "a.tif", colours, photometric="rgb"))
    assert (label[0, 0], label[1, 1], label[2, 2]) == (0xFF0000, 0x001001, 0)


@pytest.mark.parametrize("function", [0, 3])
def test_imagejs_calibration_is_applied_or_refused(tmp_path: Path, function: int) -> None:
    said = {"axes": "ZYX", "cf": function, "c0": -32768, "c1": 1}
    path = saved(
        tmp_path / "a.tif", (VOXELS.astype(int) + 32768).astype(np.uint16), imagej=True, metadata=said
    )
    if function:
        with pytest.raises(DataError, match=r"calibration.*function 3"):
            read_image(path)
    else:
        assert np.array_equal(read_image(path).array[0], VOXELS)
        assert read_image(path).array.dtype == np.int16


def test_separations_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint8), photometric="separated")
    with pytest.raises(DataError, match="SEPARATED; save it as gray or RGB"):
        read_image(path)


def test_axes_that_are_neither_space_nor_time_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", np.zeros((2, 3, 3, 4), np.uint8), metadata={"axes": "HZYX"})
    with pytest.raises(DataError, match="axes HZYX"):
        read_image(path)


def test_further_images_of_a_tiff_are_said(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.zeros((3, 4), np.uint8))
        file.write(np.zeros((5, 6), np.uint16))
    assert read_image(tmp_path / "a.tif").notices == ("'a.tif' holds 2 images; the first is read",)


def test_packed_pixels_without_their_library_name_the_line_that_installs_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", VOXELS[0], compression="lzw")
    assert np.array_equal(read_image(path).array[0], VOXELS[0])
    script = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        f"from napari_prosma.data.readers import read_image; read_image({str(path)!r})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stderr
    assert (
        "a.tif' is packed in a way that needs imagecodecs; install it with: pip install imagecodecs" in said
    )


# Pictures


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_drawn_on_a_transparent_layer_is_what_was_drawn(tmp_path: Path, mode: str) -> None:
    drawn = np.zeros((6, 8), np.uint8)
    drawn[2:4, 3:6] = 255
    soft = drawn.copy()
    soft[1, 3:6] = 60
    for name, colour in (("black", 0), ("white", 255)):
        flat = np.full((6, 8, 3 if mode == "RGBA" else 1), colour, np.uint8)
        PIL.Image.fromarray(np.dstack([flat, soft])).save(tmp_path / f"{name}.png")
        assert np.array_equal(read_label(tmp_path / f"{name}.png")[0] > 0, drawn > 0), name


def test_corners_that_turning_left_transparent_hold_no_label(tmp_path: Path) -> None:
    gray = np.zeros((6, 8), np.uint8)
    gray[2:4, 3:6] = 255
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[0, 0] = 0
    gray[0, 0] = 255
    PIL.Image.fromarray(np.dstack([gray, alpha])).save(tmp_path / "a.png")
    gray[0, 0] = 0
    assert np.array_equal(read_label(tmp_path / "a.png")[0], gray)


def test_an_animated_picture_says_so(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(np.full((4, 4), n, np.uint8)) for n in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "first of its 2 pictures" in read_image(tmp_path / "a.png").notices[0]


# MetaImage


def meta(path: Path, voxels: bytes | str, **fields: object) -> Path:
    told = {"ObjectType": "Image", "NDims": 3, "DimSize": "4 3 2", "ElementType": "MET_SHORT", **fields}
    told.setdefault("ElementSpacing", "1 1 1")
    lines = "".join(f"{key} = {value}\n" for key, value in told.items()) + "ElementDataFile = LOCAL\n"
    path.write_bytes(lines.encode() + (voxels.encode() if isinstance(voxels, str) else voxels))
    return path


WORDS = " ".join(str(n) for n in range(24))


@pytest.mark.parametrize("false", ["False", "false", "0"])
def test_metaimage_in_words_is_read_as_numbers(tmp_path: Path, false: str) -> None:
    assert np.array_equal(read_image(meta(tmp_path / "a.mha", WORDS, BinaryData=false)).array[0], VOXELS)
    path = meta(tmp_path / "b.mha", WORDS, BinaryData=false, ElementType="MET_FLOAT")
    assert read_image(path).array.dtype == np.float32


@pytest.mark.parametrize(
    ("words", "told"), [("1 2 3", "3 numbers instead of 24"), (WORDS + "x", "no numbers")]
)
def test_damaged_words_are_refused(tmp_path: Path, words: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_image(meta(tmp_path / "a.mha", words, BinaryData="False"))


@pytest.mark.parametrize("true", ["True", "true", "1", "T"])
def test_metaimage_is_true_by_its_first_letter(tmp_path: Path, true: str) -> None:
    path = meta(tmp_path / "a.mha", VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB=true)
    assert np.array_equal(read_image(path).array[0], VOXELS)


def test_a_function_of_intensity_is_applied(tmp_path: Path) -> None:
    function = {"ElementToIntensityFunctionSlope": 2, "ElementToIntensityFunctionOffset": -1024}
    path = meta(tmp_path / "a.mha", VOXELS.tobytes(), **function)
    assert np.array_equal(read_image(path).array[0], 2 * VOXELS - 1024)


def test_units_of_distance_are_applied(tmp_path: Path) -> None:
    path = meta(tmp_path / "a.mha", VOXELS.tobytes(), DistanceUnits="cm", Offset="1 2 3")
    geometry = read_image(path).geometry
    assert (geometry.spacing, geometry.origin) == ((10.0, 10.0, 10.0), (30.0, 20.0, 10.0))
    write_labels(tmp_path / "b.mha", VOXELS.astype(np.uint8), geometry)
    assert read_header(tmp_path / "b.mha").geometry.spacing == (10.0, 10.0, 10.0)


def test_letters_turn_a_metaimage_that_has_no_matrix(tmp_path: Path) -> None:
    path = meta(tmp_path / "a.mha", VOXELS.tobytes(), AnatomicalOrientation="LPI")
    assert np.array_equal(read_image(path).array[0], VOXELS[:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"HeaderSizePerSlice": 8}, "HeaderSizePerSlice"),
        ({"DistanceUnits": "furlong"}, "furlong"),
        ({"NDims": 4, "DimSize": "4 3 2 1", "ElementSpacing": "1 1 1 1"}, "4 axes.*nii.gz"),
    ],
)
def test_what_metaimage_cannot_say_is_refused(tmp_path: Path, fields: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_image(meta(tmp_path / "a.mha", VOXELS.tobytes(), **fields))


# NRRD


FRAME = {
    "space": "left-posterior-superior",
    "space directions": np.diag([1.0, 1.0, 2.0]),
    "space origin": np.array([-10.0, -9, -5]),
}


def segment(number: int, name: str, value: int, layer: int = 0) -> dict[str, str]:
    told = {"ID": f"S{number}", "Name": name, "LabelValue": str(value), "Layer": str(layer)}
    return {f"Segment{number}_{key}": text for key, text in told.items()}


def test_names_of_segments_are_names_of_classes(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 100, (20, 18, 10)).astype(np.int16)
    label = np.zeros(volume.shape, np.uint8)
    label[5:12, 6:13, 3:7], label[8:10, 8:10, 4:6] = 1, 2
    nrrd.write(str(tmp_path / "CT.nrrd"), volume, FRAME)
    names = {**segment(0, "liver", 1), **segment(1, "tumor", 2)}
    nrrd.write(str(tmp_path / "CT.seg.nrrd"), label, {**FRAME, **names})
    assert find_cases(tmp_path).class_names == ("background", "liver", "tumor")


def test_names_that_change_their_values_are_refused(tmp_path: Path) -> None:
    label = np.zeros((6, 5, 4), np.uint8)
    label[1:3, 1:3, 1], label[4, 3, 2] = 1, 2
    for name, order in (("a", ("liver", "tumor")), ("b", ("tumor", "liver"))):
        nrrd.write(str(tmp_path / f"{name}.nrrd"), label.astype(np.int16), FRAME)
        told = {key: text for n, own in enumerate(order) for key, text in segment(n, own, n + 1).items()}
        nrrd.write(str(tmp_path / f"{name}.seg.nrrd"), label, {**FRAME, **told})
    with pytest.raises(DataError, match=r"'tumor' is 2 in labels '.*a\.seg\.nrrd' but 1 in '.*b\.seg\.nrrd'"):
        find_cases(tmp_path)


def test_overlapping_segments_of_several_layers_are_one_label(tmp_path: Path) -> None:
    layers = np.zeros((2, 6, 5, 4), np.uint8)
    layers[0, 1:5, 1:4, 1:3], layers[1, 2:4, 2:3, 1:3], layers[1, 5] = 1, 1, 2
    frame = {**FRAME, "space directions": np.vstack([[np.nan] * 3, FRAME["space directions"]])}
    told = {**segment(0, "liver", 1), **segment(1, "tumor", 1, 1), **segment(2, "rib", 2, 1)}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers, {**frame, "kinds": ["list", *["domain"] * 3], **told})
    label, _ = read_label(tmp_path / "a.seg.nrrd")
    expected = np.where(layers[1] == 2, 3, np.where(layers[1] == 1, 2, layers[0]))
    assert np.array_equal(label.T, expected)
    assert label_names(tmp_path / "a.seg.nrrd") == {1: "liver", 2: "tumor", 3: "rib"}


@pytest.mark.parametrize(
    "cut", [(slice(5, 12), slice(6, 13), slice(3, 7)), (slice(0, 20), slice(6, 18), slice(3, 9))]
)
def test_a_cropped_segmentation_lies_where_its_origin_says(tmp_path: Path, cut: tuple[slice, ...]) -> None:
    volume = np.random.default_rng(0).integers(0, 100, (20, 18, 10)).astype(np.int16)
    full = np.zeros(volume.shape, np.uint8)
    full[5:12, 6:13, 3:7] = 1
    nrrd.write(str(tmp_path / "CT.nrrd"), volume, FRAME)
    origin = FRAME["space origin"] + [s.start * d for s, d in zip(cut, (1, 1, 2), strict=True)]
    nrrd.write(str(tmp_path / "CT.seg.nrrd"), full[cut], {**FRAME, "space origin": origin})
    (case,) = find_cases(tmp_path).cases
    assert case.read_label is not None
    assert np.array_equal(case.read_label().T, full)


@pytest.mark.parametrize("shift", [0.5, 40.0])
def test_a_cropped_segmentation_off_the_grid_is_refused(tmp_path: Path, shift: float) -> None:
    label = np.ones((4, 4, 4), np.uint8)
    nrrd.write(str(tmp_path / "CT.nrrd"), np.arange(4000, dtype=np.int16).reshape(20, 20, 10), FRAME)
    nrrd.write(str(tmp_path / "CT.seg.nrrd"), label, {**FRAME, "space origin": FRAME["space origin"] + shift})
    (case,) = find_cases(tmp_path).cases
    assert case.read_label is not None
    with pytest.raises(DataError, match=r"shape \(4, 4, 4\)"):
        case.read_label()


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        ({"space units": ["um", "um", "um"], **FRAME}, (2e-3, 1e-3, 1e-3)),
        ({"spacings": [1.0, 2.0, 3.0], "units": ["cm", "cm", "cm"]}, (30.0, 20.0, 10.0)),
        ({"axis mins": [0.0, 0, 0], "axis maxs": [8.0, 3, 3]}, (1.5, 1.0, 2.0)),
        ({"axis mins": [0.0, 0, 0], "axis maxs": [3.0, 4, 5], "centerings": ["node"] * 3}, (5.0, 2.0, 1.0)),
    ],
)
def test_nrrd_sizes_are_as_told(
    tmp_path: Path, fields: dict[str, object], spacing: tuple[float, ...]
) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS.T, fields)
    assert read_header(tmp_path / "a.nrrd").geometry.spacing == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("space", "said"), [("scanner-xyz", "does not say"), ("3D-right-handed", "does not say")]
)
def test_a_space_without_a_patient_is_said(tmp_path: Path, space: str, said: str) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS.T, {**FRAME, "space": space})
    assert said in read_image(tmp_path / "a.nrrd").notices[0]


def test_samples_may_lie_at_the_ends_of_an_axis_by_its_older_name(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nendian: little\nencoding: raw\n"
    ends = "centers: node node node\naxis mins: 0 0 0\naxis maxs: 3 4 5\n\n"
    (tmp_path / "a.nrrd").write_bytes((head + ends).encode() + VOXELS.tobytes())
    assert read_header(tmp_path / "a.nrrd").geometry.spacing == (5.0, 2.0, 1.0)


def test_an_axis_of_time_in_nrrd_is_time(tmp_path: Path) -> None:
    series = np.arange(120, dtype=np.int16).reshape(4, 3, 2, 5)
    directions = np.vstack([FRAME["space directions"], [np.nan] * 3])
    told = {
        "kinds": [*["domain"] * 3, "time"],
        "spacings": [np.nan] * 3 + [40.0],
        "units": ["", "", "", "ms"],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), series, {**FRAME, "space directions": directions, **told})
    image = read_image(tmp_path / "a.nrrd")
    assert image.geometry.axes == ("t", "z", "y", "x")
    assert image.geometry.frame_seconds == pytest.approx(0.04)
    assert np.array_equal(image.array[0], series.transpose(3, 2, 1, 0))


@pytest.mark.parametrize(
    ("kind", "channels"), [("RGB-color", 3), ("RGBA-color", 3), ("list", 4), ("complex", 0)]
)
def test_kinds_of_nrrd_channels(tmp_path: Path, kind: str, channels: int) -> None:
    number = {"RGB-color": 3, "complex": 2}.get(kind, 4)
    stored = np.arange(number * 24, dtype=np.int16).reshape(number, 4, 3, 2)
    directions = np.vstack([[np.nan] * 3, FRAME["space directions"]])
    told = {**FRAME, "space directions": directions, "kinds": [kind, *["domain"] * 3]}
    nrrd.write(str(tmp_path / "a.nrrd"), stored, told)
    if channels:
        assert read_header(tmp_path / "a.nrrd").channels == channels
        assert np.array_equal(read_image(tmp_path / "a.nrrd").array, stored.transpose(0, 3, 2, 1)[:channels])
    else:
        with pytest.raises(DataError, match="complex"):
            read_image(tmp_path / "a.nrrd")


# OME-Zarr


def save_zarr(path: Path, array: np.ndarray, axes: list[object], scale: list[float], **more: object) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=array)
    steps = [{"type": "scale", "scale": scale}, *more.pop("transforms", [])]  # type: ignore[misc]
    dataset = {"path": "0", "coordinateTransformations": steps}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [dataset]}]
    group.attrs.update(more)
    return path


def axis(name: str, unit: str = "") -> dict[str, str]:
    return {"name": name, "type": "space", **({"unit": unit} if unit else {})}


def test_every_axis_of_an_ome_zarr_has_its_own_unit(tmp_path: Path) -> None:
    axes = [axis("z", "millimeter"), axis("y", "micrometer"), axis("x", "micrometer")]
    geometry = read_image(save_zarr(tmp_path / "a.zarr", VOXELS, axes, [1.0, 200.0, 200.0])).geometry
    assert (geometry.spacing, geometry.unit) == ((1000.0, 200.0, 200.0), "um")


def test_time_of_an_ome_zarr_is_in_seconds(tmp_path: Path) -> None:
    axes = [
        {"name": "t", "type": "time", "unit": "millisecond"},
        axis("y", "micrometer"),
        axis("x", "micrometer"),
    ]
    geometry = read_image(save_zarr(tmp_path / "a.zarr", VOXELS, axes, [40.0, 2.0, 2.0])).geometry
    assert geometry.frame_seconds == pytest.approx(0.04)
    assert geometry.spacing == (1.0, 2.0, 2.0)


def test_a_transformation_or_axis_that_is_not_known_is_refused(tmp_path: Path) -> None:
    axes = [axis("z"), axis("y"), axis("x")]
    turned = [{"type": "rotation", "rotation": [0, 1, 1, 0]}]
    with pytest.raises(DataError, match="rotation"):
        read_image(save_zarr(tmp_path / "a.zarr", VOXELS, axes, [1.0, 1, 1], transforms=turned))
    with pytest.raises(DataError, match="axis 'lifetime'"):
        read_image(save_zarr(tmp_path / "b.zarr", VOXELS, [axis("lifetime"), *axes[1:]], [1.0, 1, 1]))


def test_the_only_image_of_a_collection_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    axes = [axis("z"), axis("y"), axis("x")]
    save_zarr(tmp_path / "a.zarr" / "0", VOXELS, list(axes), [1.0, 1, 1])
    assert np.array_equal(read_image(tmp_path / "a.zarr").array[0], VOXELS)
    save_zarr(tmp_path / "a.zarr" / "1", VOXELS, list(axes), [1.0, 1, 1])
    with pytest.raises(DataError, match="collection of images"):
        read_image(tmp_path / "a.zarr")


# NIfTI


def test_a_file_without_codes_says_that_sides_are_unknown(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS.T, np.diag([-1.0, -1, 2, 1]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    assert "left and right" in read_image(tmp_path / "a.nii").notices[0]


def four_axes(path: Path, unit: str, step: float, number: int = 4) -> Path:
    image = nibabel.Nifti1Image(np.zeros((4, 3, 2, number), np.int16), np.diag([-1.0, -1, 2, 1]))
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    image.to_filename(path)
    return path


@pytest.mark.parametrize(
    ("unit", "step", "number", "seconds"),
    [
        ("sec", 0.5, 4, 0.5),
        ("msec", 30, 4, 0.03),
        ("sec", 1, 30, 1.0),
        ("sec", 1, 4, None),
        ("unknown", 2, 4, None),
    ],
)
def test_a_fourth_axis_is_time_where_the_header_says_so(
    tmp_path: Path, unit: str, step: float, number: int, seconds: float | None
) -> None:
    image = read_image(four_axes(tmp_path / "a.nii.gz", unit, step, number))
    if seconds is None:
        assert image.array.shape == (number, 2, 3, 4)
    else:
        assert image.array.shape == (1, number, 2, 3, 4)
        assert image.geometry.frame_seconds == pytest.approx(seconds)
        assert image.notices[0].startswith(f"a clip of {number} volumes")
    assert read_header(tmp_path / "a.nii.gz").shape == image.array.shape[1:]


def test_the_intent_of_a_time_series_makes_it_one(tmp_path: Path) -> None:
    path = four_axes(tmp_path / "a.nii", "unknown", 0)
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    image.header["intent_code"] = 2001
    nibabel.Nifti1Image(np.zeros((4, 3, 2, 4), np.int16), None, image.header).to_filename(tmp_path / "b.nii")
    assert read_image(tmp_path / "b.nii").array.shape == (1, 4, 2, 3, 4)


@pytest.mark.parametrize("with_table", [True, False])
def test_volumes_with_one_label_are_channels_whatever_the_header_says_of_time(
    with_table: bool, tmp_path: Path
) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        four_axes(tmp_path / "imagesTr" / f"p{n}.nii.gz", "sec", 3.6)
        label = np.zeros((4, 3, 2), np.uint8)
        label[1, 1] = 1
        nibabel.Nifti1Image(label, np.diag([-1.0, -1, 2, 1])).to_filename(
            tmp_path / "labelsTr" / f"p{n}.nii.gz"
        )
    if with_table:
        training = [{"image": f"imagesTr/p{n}.nii.gz", "label": f"labelsTr/p{n}.nii.gz"} for n in range(3)]
        table = {"labels": {"0": "background", "1": "prostate"}, "training": training}
        (tmp_path / "dataset.json").write_text(json.dumps(table))
    data = find_cases(tmp_path)
    assert (data.channels, data.dims) == (4, 3)
    assert "the 4 volumes of an image are read as channels, since the labels are volumes" in " ".join(
        data.notices
    )
    for case in data.cases:
        image, read = case.read_image(), case.read_label
        assert read is not None
        assert image.array.shape[1:] == read().shape == (2, 3, 4)
        assert (image.geometry.spacing, image.geometry.axes) == ((2.0, 1.0, 1.0), ("z", "y", "x"))
        assert read().sum() == 2


def test_a_header_with_its_voxels_in_another_file_is_read(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
    nibabel.Nifti1Pair(voxels, np.diag([-1.0, -1, 2, 1])).to_filename(tmp_path / "a.hdr")
    image = read_image(tmp_path / "a.hdr")
    assert image.geometry.spacing == (2.0, 1.0, 1.0)
    np.testing.assert_array_equal(image.array[0], voxels.T)


def test_a_spectrum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ppm, a spectrum"):
        read_image(four_axes(tmp_path / "a.nii", "ppm", 1))


def test_labels_of_a_time_series_go_over_it_bit_for_bit(tmp_path: Path) -> None:
    affine = np.array([[0, 2.0, 0, 5], [-3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    stored = np.arange(3 * 4 * 5 * 6, dtype=np.int16).reshape(3, 4, 5, 6)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 30
    image.to_filename(tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz")
    write_labels(tmp_path / "b.nii.gz", (read.array[0] % 7).astype(np.uint8), read.geometry)
    written = nibabel.load(tmp_path / "b.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), stored % 7)
    assert np.array_equal(written.affine, affine)
    assert written.header.get_zooms()[3] == 30
    assert written.header.get_xyzt_units() == ("mm", "msec")
    assert read_label(tmp_path / "b.nii.gz")[1].axes == ("t", "z", "y", "x")


@pytest.mark.parametrize("unit", ["mm", "pixel"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".tif", ".ome.tif", ".ome.zarr"])
def test_a_clip_stays_a_clip_wherever_its_labels_are_kept(tmp_path: Path, suffix: str, unit: str) -> None:
    size = 0.25 if unit == "mm" else 1.0
    geometry = Geometry((1.0, size, size), (0.0,) * 3, unit, ("t", "y", "x"), frame_seconds=0.04)
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    write_labels(tmp_path / f"a{suffix}", labels, geometry, ["background", "one", "two"])
    found, told = read_label(tmp_path / f"a{suffix}")
    assert np.array_equal(found, labels)
    assert (told.axes, told.unit, told.spacing) == (("t", "y", "x"), unit, (1.0, size, size))
    assert told.frame_seconds == pytest.approx(0.04)
    assert label_names(tmp_path / f"a{suffix}") == {0: "background", 1: "one", 2: "two"}


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_formats_without_time_refuse_a_clip(tmp_path: Path, suffix: str) -> None:
    geometry = Geometry((1.0,) * 3, (0.0,) * 3, "mm", ("t", "y", "x"))
    told = rf"'a\{suffix}': .* has no axis of time; save the series as \.nii\.gz"
    with pytest.raises(DataError, match=told):
        write_labels(tmp_path / f"a{suffix}", np.zeros((2, 3, 4), np.uint8), geometry)


def test_a_time_series_is_written_and_read_alike(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.int16).reshape(1, 5, 2, 3, 4)
    geometry = Geometry((1.0, 3.0, 2.0, 1.0), (0.0,) * 4, "mm", frame_seconds=0.5)
    nifti.write_image(tmp_path / "a.nii.gz", Image(array, geometry))
    image = read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(image.array, array)
    assert image.geometry.spacing == (1.0, 3.0, 2.0, 1.0)


def test_a_table_of_labels_in_a_nifti_file_names_classes(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VOXELS.T.astype(np.uint8), np.eye(4))
    entries = '<Label Key="1" Red="1">spleen</Label><Label Key="2">liver</Label>'
    table = f"<CaretExtension><LabelTable>{entries}</LabelTable></CaretExtension>"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    image.to_filename(tmp_path / "a.nii.gz")
    assert label_names(tmp_path / "a.nii.gz") == {1: "spleen", 2: "liver"}


def test_suffixes_in_capitals_are_read_and_written(tmp_path: Path) -> None:
    nibabel.Nifti1Image(VOXELS.T, np.diag([-1.0, -1, 2, 1])).to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    image = read_image(tmp_path / "A.NII.GZ")
    assert np.array_equal(image.array[0], VOXELS)
    write_labels(tmp_path / "B.NII.GZ", VOXELS.astype(np.uint8), image.geometry)
    assert np.array_equal(read_label(tmp_path / "B.NII.GZ")[0], VOXELS)


# NaN


def test_nan_outside_a_patient_is_the_lowest_value_of_a_case(tmp_path: Path) -> None:
    volume = VOXELS.T.astype(np.float32)
    volume[0] = np.nan
    nibabel.Nifti1Image(volume, np.diag([-1.0, -1, 2, 1])).to_filename(tmp_path / "a.nii.gz")
    (case,) = find_cases(tmp_path, require_labels=False).cases
    image = case.read_image()
    assert np.array_equal(image.array[0, ..., 1:], VOXELS[..., 1:])
    assert np.all(image.array[0, ..., 0] == 1)
    assert image.notices[-1] == "25.00 % of the image is NaN; replaced by its lowest value"


@pytest.mark.parametrize("side", [8, 64])
def test_a_tiff_of_a_bit_for_each_pixel_is_read(tmp_path: Path, side: int) -> None:
    mask = np.arange(side * side).reshape(side, side) % 3 == 0
    path = saved(tmp_path / "a.tif", mask)
    assert np.array_equal(read_label(path)[0], mask)
    assert np.array_equal(read_image(path).array[0] != 0, mask)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 3, 2), np.complex64), "complex numbers"),
        (np.zeros((4, 3, 2, 2, 3), np.int16), "2 x 3 values for each voxel"),
    ],
)
def test_nifti_voxels_that_are_no_numbers_are_refused(tmp_path: Path, array: np.ndarray, told: str) -> None:
    nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=rf"a\.nii\.gz' holds {told}"):
            read(tmp_path / "a.nii.gz")


def test_metres_of_nifti_are_millimetres_in_every_format(tmp_path: Path) -> None:
    stored = nibabel.Nifti1Image(VOXELS.T, np.diag([-5e-4, -5e-4, 2e-3, 1]))
    stored.header.set_xyzt_units("meter")
    stored.to_filename(tmp_path / "scan.nii")
    geometry = read_image(tmp_path / "scan.nii").geometry
    label = np.ones(VOXELS.shape, np.uint8)
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        again = read_label(write_labels(tmp_path / name, label, geometry))[1]
        np.testing.assert_allclose(again.spacing, (2, 0.5, 0.5), rtol=1e-5)
        np.testing.assert_allclose(again.origin, geometry.origin, rtol=1e-5, atol=1e-5)


def test_labels_may_tell_their_place_in_another_unit(tmp_path: Path) -> None:
    for name, scale, unit in (("images", 1000.0, "micron"), ("labels", 1.0, "mm"), ("moved", 1.0, "mm")):
        (tmp_path / name).mkdir()
        affine = np.diag([-0.5 * scale, -0.5 * scale, 2 * scale, 1])
        affine[2, 3] = 4 * (name == "moved")
        array = VOXELS if name == "images" else np.ones_like(VOXELS)
        stored = nibabel.Nifti1Image(array.T.astype(np.int16), affine)
        stored.header.set_xyzt_units(unit)
        stored.to_filename(tmp_path / name / "a.nii")
    (case,) = find_cases(tmp_path, images="images/*", masks="labels/*").cases
    assert case.read_label is not None
    assert case.read_label().all()
    (case,) = find_cases(tmp_path, images="images/*", masks="moved/*").cases
    assert case.read_label is not None
    with pytest.raises(DataError, match="lie 4 mm away"):
        case.read_label()


def test_voxels_within_the_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nibabel.Nifti1Image(VOXELS.T, np.eye(4)).to_filename(path)
    content = bytearray(path.read_bytes())
    content[108:112] = bytes(4)  # vox_offset
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"scan\.nii' says that its voxels begin within its header, at byte 0"
    ):
        read_image(path)


def test_sizes_that_no_header_tells_are_said_to_be_assumed(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    nibabel.Nifti1Image(VOXELS.T, np.eye(4)).to_filename(path)
    content = bytearray(path.read_bytes())
    content[80:92], content[252:256] = bytes(12), bytes(4)  # pixdim, qform_code and sform_code
    path.write_bytes(content)
    nrrd.write(str(tmp_path / "scan.nrrd"), VOXELS.T)
    nrrd.write(str(tmp_path / "half.nrrd"), VOXELS.T, {"spacings": [0.5, 0.5, np.nan]})
    nrrd.write(str(tmp_path / "told.nrrd"), VOXELS.T, {"spacings": [1, 1, 1]})
    said = {
        name: " ".join(read_image(tmp_path / name).notices) for name in sorted(map(str, tmp_path.iterdir()))
    }
    assert {Path(name).name for name, told in said.items() if "1 mm is assumed" in told} == {
        *("scan.nii", "scan.nrrd", "half.nrrd"),
    }


def test_voxels_beside_a_header_are_found_as_windows_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "a.mhd").write_text(
        "ObjectType = Image\r\nNDims = 3\r\nBinaryData = True\r\nDimSize = 4 3 2\r\n"
        "ElementType = MET_SHORT\r\nElementDataFile = .\\a.raw\r\n"
    )
    assert np.array_equal(read_image(tmp_path / "a.mhd").array[0], VOXELS)


def test_sixteen_bits_of_a_colour_are_kept_and_numbers_in_them_as_well(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colours))
    image = read_image(tmp_path / "a.png").array
    assert image.dtype == np.uint16
    assert np.array_equal(image, np.moveaxis(colours, -1, 0))
    on = np.zeros((6, 5, 3), np.uint16)
    on[2:4, 1:3, 0] = 0xFFFF
    (tmp_path / "mask.png").write_bytes(imagecodecs.png_encode(on))
    assert set(np.unique(read_label(tmp_path / "mask.png")[0])) == {0, 0xFF0000}


# Decimal commas


def _meta_image(path: Path, comma: str) -> None:
    fields = {"NDims": 3, "DimSize": "5 4 3", "ElementType": "MET_UCHAR", "ElementSpacing": f"{comma} 1 2"}
    lines = "".join(f"{name} = {value}\n" for name, value in fields.items())
    path.write_bytes(f"{lines}ElementDataFile = LOCAL\n".encode() + bytes(60))


def _nrrd_spacings(path: Path, comma: str) -> None:
    fields = {
        "type": "uchar",
        "dimension": 3,
        "sizes": "5 4 3",
        "spacings": f"{comma} 1 2",
        "encoding": "raw",
    }
    lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
    path.write_bytes(f"NRRD0004\n{lines}\n".encode() + bytes(60))


def _imagej(path: Path, comma: str) -> None:
    stack = np.zeros((3, 4, 5), np.uint8)
    tifffile.imwrite(path, stack, imagej=True, metadata={"spacing": comma, "unit": "mm", "axes": "ZYX"})


def _ome(path: Path, comma: str) -> None:
    pixels = 'DimensionOrder="XYZCT" Type="uint8" SizeX="5" SizeY="4" SizeZ="1" SizeC="1" SizeT="1" ' + (
        f'PhysicalSizeX="{comma}" PhysicalSizeY="{comma}"'
    )
    text = f'<Image ID="Image:0"><Pixels ID="Pixels:0" {pixels}><TiffData/></Pixels></Image>'
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    tifffile.imwrite(path, np.zeros((4, 5), np.uint8), description=f'<OME xmlns="{space}">{text}</OME>')


@pytest.mark.parametrize(
    ("name", "save"),
    [("a.mha", _meta_image), ("a.nrrd", _nrrd_spacings), ("a.tif", _imagej), ("a.ome.tif", _ome)],
)
def test_a_decimal_comma_is_called_that(tmp_path: Path, name: str, save: Callable[[Path, str], None]) -> None:
    save(tmp_path / name, "0.5")
    assert 0.5 in {round(size, 6) for size in read_image(tmp_path / name).geometry.spacing}
    save(tmp_path / name, "0,5")
    with pytest.raises(DataError, match=r"has commas in the numbers of its header \('0,5'\); write decimal"):
        read_image(tmp_path / name)


def test_decimal_commas_in_vectors_of_nrrd_are_refused(tmp_path: Path) -> None:
    for origin in ("(0.5,2,3)", "(0,5,2,3)"):
        fields = {
            "type": "uchar",
            "dimension": 3,
            "space": "left-posterior-superior",
            "sizes": "5 4 3",
            "space directions": "(1,0,0) (0,1,0) (0,0,1)",
            "space origin": origin,
            "encoding": "raw",
        }
        lines = "".join(f"{name}: {value}\n" for name, value in fields.items())
        (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\n{lines}\n".encode() + bytes(60))
        if origin.startswith("(0.5"):
            assert read_image(tmp_path / "a.nrrd").array.shape == (1, 3, 4, 5)
    with pytest.raises(DataError, match="has vectors of 4 numbers in a space of 3"):
        read_image(tmp_path / "a.nrrd")


def test_a_picture_of_nrrd_that_names_no_space_lies_in_its_plane(tmp_path: Path) -> None:
    def saved(told: str) -> Path:
        lines = f"type: uchar\ndimension: 2\nsizes: 5 4\nencoding: raw\n{told}"
        (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\n{lines}\n\n".encode() + bytes(20))
        return tmp_path / "a.nrrd"

    assert read_image(saved("space origin: (0,0)")).array.shape == (1, 4, 5)
    turned = read_image(saved("space directions: (0.5,0) (0,2)\nspace origin: (3,1)"))
    assert turned.geometry.spacing == (2, 0.5)
    with pytest.raises(DataError, match="has vectors of 2 numbers in a space of 3"):
        read_image(saved("space directions: (0.5,0) (0,2)\nspace origin: (3,1,0)"))
    with pytest.raises(DataError, match="has vectors of 4 numbers in a space of 3"):
        read_image(saved("space directions: (0,5,0,0) (0,0,2,0)"))


def test_soft_edges_multiplied_by_their_transparency_are_no_classes(tmp_path: Path) -> None:
    drawn = np.zeros((8, 12, 4), np.uint8)
    drawn[2:6, 1:5], drawn[2:6, 6:10] = (200, 30, 0, 255), (0, 0, 90, 255)
    drawn[6, 1:5], drawn[6, 6:10] = (157, 24, 0, 200), (0, 0, 64, 180)  # multiplied
    drawn[7, 1:5], drawn[7, 6:10] = (79, 12, 0, 100), (0, 0, 32, 90)  # more transparent than not
    PIL.Image.fromarray(drawn).save(tmp_path / "a.png")
    label, _ = read_label(tmp_path / "a.png")
    assert set(np.unique(label)) == {0, 0xC81E00, 0x00005A}
    assert (label[6, 1], label[6, 6], label[7, 1]) == (0xC81E00, 0x00005A, 0)
    drawn[6, 1:5] = (60, 60, 60, 200)  # a colour of its own
    PIL.Image.fromarray(drawn).save(tmp_path / "b.png")
    assert 0x3C3C3C in read_label(tmp_path / "b.png")[0]


def test_an_area_half_transparent_is_not_the_opaque_one_elsewhere(tmp_path: Path) -> None:
    drawn = np.zeros((12, 20, 4), np.uint8)
    drawn[2:6, 1:5], drawn[2:6, 10:16] = (255, 0, 0, 255), (128, 0, 0, 128)
    drawn[6, 1:5] = (153, 0, 0, 153)  # the soft edge of the opaque one
    PIL.Image.fromarray(drawn).save(tmp_path / "a.png")
    label, _ = read_label(tmp_path / "a.png")
    assert set(np.unique(label[:, :8])) == {0, 0xFF0000}
    assert set(np.unique(label[:, 8:])) == {0, 0x800000}


def test_boolean_arrays_of_tifffile_are_what_they_were(tmp_path: Path) -> None:
    """It says that white is 0 of any of them, unless it is told otherwise."""
    mask = np.arange(64).reshape(8, 8) % 3 == 0
    tifffile.imwrite(tmp_path / "a.tif", mask)
    assert np.array_equal(read_label(tmp_path / "a.tif")[0], mask)
    tifffile.imwrite(tmp_path / "b.tif", mask, software="a scanner")
    assert np.array_equal(read_label(tmp_path / "b.tif")[0], ~mask)


def test_four_axes_of_nrrd_without_their_kinds_are_called_that(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 3, 2, 5), np.uint8))
    with pytest.raises(
        DataError, match="has 4 axes, and its header does not say what the fourth is; name it"
    ):
        read_image(tmp_path / "a.nrrd")
