"""NRRD, MetaImage, OME-Zarr, TIFF with pixel sizes, NumPy and clips; SimpleITK is the second opinion."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from dicom_files import save_slice

from napari_prosma.data import readers
from napari_prosma.data.readers import can_read, read_header, read_image, read_label, read_pyramid, stem
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry, SourceFrame

SHAPE = (4, 5, 6)  # stored i, j, k
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
ROTATED = np.array(
    [[0.966, -0.191, 0.174], [0.211, 0.972, -0.100], [-0.150, 0.134, 0.980]]
)  # near orthonormal, no digit is round


def direction_of(axes: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    direction = np.zeros((3, 3))
    for stored, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        direction[world, stored] = sign
    return direction


def orthonormal() -> np.ndarray:
    left, _, right = np.linalg.svd(ROTATED)
    return left @ right


def itk_volume(direction: np.ndarray, kind: type = np.int16) -> SimpleITK.Image:
    """Voxels (k, j, i) counted up, spacing and origin with no round digit."""
    image = SimpleITK.GetImageFromArray(np.arange(np.prod(SHAPE)).reshape(SHAPE[::-1]).astype(kind))
    image.SetSpacing((0.7031250123, 1.1, 3.3000001))
    image.SetOrigin((-12.34567890123, 56.7, 8.9))
    image.SetDirection(direction.ravel().tolist())
    return image


def assert_same_place(ours: Path, theirs: SimpleITK.Image, tolerance: float = 0.0) -> None:
    """What we wrote, read by ITK, has the voxels of ``theirs`` at the same physical points."""
    written = SimpleITK.ReadImage(str(ours))
    assert written.GetSize() == theirs.GetSize()
    expected = SimpleITK.GetArrayFromImage(theirs).astype(np.int64)
    assert np.array_equal(SimpleITK.GetArrayFromImage(written).astype(np.int64), expected)
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        difference = np.abs(np.array(getattr(written, name)()) - np.array(getattr(theirs, name)()))
        assert difference.max() <= tolerance, name


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_all_48_orientations_lie_where_itk_has_them(
    tmp_path: Path, suffix: str, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    theirs = itk_volume(direction_of(axes, signs))
    SimpleITK.WriteImage(theirs, str(tmp_path / f"image{suffix}"))
    image = read_image(tmp_path / f"image{suffix}")
    for index in itertools.product(*(range(n) for n in SHAPE)):
        left, back, head = theirs.TransformIndexToPhysicalPoint(index)
        ours = (np.array([head, back, left]) - image.geometry.origin) / np.array(image.geometry.spacing)
        assert image.array[0][tuple(np.round(ours).astype(int))] == theirs.GetPixel(index)
    write_labels(tmp_path / f"label{suffix}", image.array[0], image.geometry)
    assert_same_place(tmp_path / f"label{suffix}", theirs)


@pytest.mark.parametrize(
    "space",
    ["left-posterior-superior", "right-anterior-superior", "left-anterior-superior", "RAS", "LPS", "LAS"],
)
def test_every_patient_space_of_nrrd_is_understood(tmp_path: Path, space: str) -> None:
    text = (
        f"NRRD0005\ntype: uint8\ndimension: 3\nspace: {space}\nsizes: 4 5 6\nencoding: raw\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + bytes(range(120)))
    theirs = SimpleITK.ReadImage(str(tmp_path / "a.nrrd"))
    image = read_image(tmp_path / "a.nrrd")
    for index in itertools.product(*(range(n) for n in SHAPE)):
        left, back, head = theirs.TransformIndexToPhysicalPoint(index)
        ours = (np.array([head, back, left]) - image.geometry.origin) / np.array(image.geometry.spacing)
        assert image.array[0][tuple(np.round(ours).astype(int))] == theirs.GetPixel(index)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64, np.int32, np.uint16])
def test_every_type_compressed_or_not_is_read_as_itk_reads_it(
    tmp_path: Path, suffix: str, compressed: bool, kind: type
) -> None:
    theirs = itk_volume(np.eye(3), kind)
    path = tmp_path / f"image{suffix}"
    SimpleITK.WriteImage(theirs, str(path), useCompression=compressed)
    image = read_image(path)
    assert image.array.dtype == kind
    assert np.array_equal(image.array[0], SimpleITK.GetArrayFromImage(theirs))
    assert read_header(path).shape == image.array.shape[1:]


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=">i2").reshape(SHAPE[::-1])
    text = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "DimSize = 4 5 6\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (tmp_path / "a.mha").write_bytes(text.encode() + voxels.tobytes())
    tifffile.imwrite(tmp_path / "a.tif", voxels, byteorder=">", photometric="minisblack")
    np.save(tmp_path / "a.npy", voxels)
    for name in ("a.mha", "a.tif", "a.npy"):
        image = read_image(tmp_path / name)
        assert np.array_equal(image.array[0], voxels)
        assert image.array.dtype.isnative


def test_an_oblique_metaimage_keeps_every_digit(tmp_path: Path) -> None:
    theirs = itk_volume(orthonormal())
    SimpleITK.WriteImage(theirs, str(tmp_path / "image.mha"))
    stored = SimpleITK.ReadImage(str(tmp_path / "image.mha"))
    image = read_image(tmp_path / "image.mha")
    assert image.geometry.tilt > 5
    write_labels(tmp_path / "label.mha", image.array[0], image.geometry, ("background", "a"))
    assert_same_place(tmp_path / "label.mha", stored)


def test_an_oblique_nrrd_keeps_every_digit_of_its_header(tmp_path: Path) -> None:
    import nrrd

    SimpleITK.WriteImage(itk_volume(orthonormal()), str(tmp_path / "image.nrrd"))
    before = nrrd.read_header(str(tmp_path / "image.nrrd"))
    image = read_image(tmp_path / "image.nrrd")
    write_labels(tmp_path / "label.nrrd", image.array[0], image.geometry)
    after = nrrd.read_header(str(tmp_path / "label.nrrd"))
    assert after["space"] == before["space"]
    assert after["space directions"].tobytes() == before["space directions"].tobytes()
    assert after["space origin"].tobytes() == before["space origin"].tobytes()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("source", [".nii", ".nrrd", ".mha"])
def test_a_result_lies_over_its_image_in_whatever_format(tmp_path: Path, source: str, suffix: str) -> None:
    theirs = itk_volume(orthonormal())
    SimpleITK.WriteImage(theirs, str(tmp_path / f"image{source}"))
    image = read_image(tmp_path / f"image{source}")
    write_labels(tmp_path / f"label{suffix}", image.array[0], image.geometry)
    assert_same_place(tmp_path / f"label{suffix}", theirs, tolerance=2e-6)
    write_map(tmp_path / f"map{suffix}", image.array.astype(np.float32), image.geometry)
    assert_same_place(tmp_path / f"map{suffix}", theirs, tolerance=2e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".zarr", ".tif", ".ome.tif"])
def test_two_channels_of_a_map_come_back(tmp_path: Path, suffix: str) -> None:
    source = SourceFrame.canonical(np.diag((2.0, -0.5, 0.25, 1)))
    geometry = Geometry.patient(source, (3, 4, 5))
    maps = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    assert np.array_equal(read_image(write_map(tmp_path / f"a{suffix}", maps, geometry)).array, maps)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".zarr"])
def test_a_plane_keeps_its_pixel_size(tmp_path: Path, suffix: str) -> None:
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    path = write_labels(tmp_path / f"a{suffix}", labels, Geometry((0.5, 0.25), (0.0, 0.0), "mm"))
    read, geometry = read_label(path)
    assert np.array_equal(read, labels)
    assert geometry.spacing == (0.5, 0.25)


def test_class_names_are_slicer_segments_in_nrrd(tmp_path: Path) -> None:
    import nrrd

    geometry = Geometry((1.0,) * 3, (0.0,) * 3, "mm")
    write_labels(tmp_path / "a.nrrd", np.ones((2, 3, 4), int), geometry, ("background", "left lobe"))
    fields = nrrd.read_header(str(tmp_path / "a.nrrd"))
    assert fields["Segment0_Name"] == "left lobe"
    assert fields["Segment0_LabelValue"] == "1"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_files_are_let_go_of_unless_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows would not replace a mapped file; one that is cut short would end the process."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 99, (6, 300, 40)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / "a.mha"), useCompression=False)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / "raw.nhdr"))
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    np.save(tmp_path / "a.npy", voxels)
    mappable = ["a.mha", "raw.nhdr", "a.nii", "a.tif", "a.npy"]
    np.savez(tmp_path / "a.npz", voxels)
    for name in ("b.nii.gz", "b.nrrd", "b.ome.tif", "b.ome.zarr"):
        write_labels(tmp_path / name, voxels, Geometry((1.0,) * 3, (0.0,) * 3, "mm"))
    write_labels(tmp_path / "b.png", voxels[0].astype(np.uint8), Geometry.pixels(2))
    save_slice(tmp_path / "c.dcm", (0, 0, 0), voxels[0])
    readable = [path for path in sorted(tmp_path.iterdir()) if path.suffix != ".raw"]
    assert len(readable) == 12

    def mapped() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted({line.rpartition("/")[2] for line in lines if str(tmp_path) in line})

    held = [read(path) for path in readable for read in (read_header, read_image, read_pyramid)]
    labels = [read_label(path) for path in readable if path.suffix != ".dcm"]
    assert not mapped()
    assert len(held) + len(labels) == 12 * 3 + 11
    monkeypatch.setattr(readers, "MOST_COPIED", voxels.nbytes - 1)
    large = [read_image(tmp_path / name) for name in mappable]
    assert mapped() == ["a.mha", "a.nii", "a.npy", "a.tif", "raw.raw"]
    assert all(image.array.sum() == voxels.sum() for image in large)
    del large
    gc.collect()
    assert not mapped()


def test_a_zarr_pyramid_is_lazy_and_keeps_frame_units_and_levels(tmp_path: Path) -> None:
    source = SourceFrame.canonical(
        np.array([[0, 0.3, 2, 5], [0.5, 0, 0, 6.1], [0, 2, -0.1, 7], [0, 0, 0, 1]])
    )
    labels = np.random.default_rng(0).integers(0, 3, (3, 600, 300))
    geometry = Geometry.patient(source, labels.shape)
    path = write_labels(tmp_path / "a.ome.zarr", labels, geometry, ("background", "a", "b"))
    pyramid = read_pyramid(path)
    assert [level.shape for level in pyramid.levels] == [(1, 3, 600, 300), (1, 3, 300, 150), (1, 3, 150, 75)]
    assert pyramid.factors[2] == (1, 4, 4)
    assert type(pyramid.levels[0]).__module__.startswith("dask")
    assert pyramid.geometry == geometry
    assert read_header(path).geometry == geometry
    assert np.array_equal(read_label(path)[0], labels)
    assert np.array_equal(pyramid.levels[1][0].compute(), labels[:, ::2, ::2])
    write_labels(path, labels * 0, geometry)
    assert not read_label(path)[0].any()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


@pytest.mark.parametrize("ome_version", ["0.4", "0.5"])
def test_foreign_zarr_images_bring_axes_scale_and_units(tmp_path: Path, ome_version: str) -> None:
    import zarr

    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if ome_version == "0.4" else 3)
    array = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(1, 2, 3, 4, 5)
    group.create_array("s0", data=array)
    axes = [
        {"name": "t", "type": "time"},
        {"name": "c", "type": "channel"},
        *({"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"),
    ]
    transforms = [{"type": "scale", "scale": [1, 1, 2000, 500, 250]}]
    content = [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": transforms}]}]
    group.attrs.update(
        {"multiscales": content} if ome_version == "0.4" else {"ome": {"multiscales": content}}
    )
    image = read_image(tmp_path / "a.zarr")
    assert np.array_equal(image.array, array[0])
    assert image.geometry.spacing == pytest.approx((2.0, 0.5, 0.25))
    assert (image.geometry.unit, image.geometry.axes) == ("um", ("z", "y", "x"))


@pytest.mark.parametrize(("unit", "ours", "factor"), [("nm", "um", 1e-3), ("µm", "um", 1), ("cm", "mm", 10)])
def test_ome_tiff_tells_its_pixel_size(tmp_path: Path, unit: str, ours: str, factor: float) -> None:
    metadata = {"axes": "ZYX"}
    for axis, size in zip("ZYX", (3.0, 0.5, 0.25), strict=True):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 5, 6), np.uint8), metadata=metadata)
    geometry = read_image(tmp_path / "a.ome.tif").geometry
    assert geometry.spacing == pytest.approx((3 * factor, 0.5 * factor, 0.25 * factor))
    assert geometry.unit == ours


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("unit", ["mm", "um"])
def test_written_tiff_tells_its_pixel_size(tmp_path: Path, name: str, unit: str) -> None:
    geometry = Geometry((3.0, 0.5, 0.25), (0.0,) * 3, unit)
    write_labels(tmp_path / name, np.zeros((4, 5, 6), np.uint8), geometry)
    read = read_image(tmp_path / name).geometry
    assert read.spacing == pytest.approx(geometry.spacing, rel=1e-6)
    assert read.unit == unit


def test_dots_per_inch_are_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6), np.uint8), resolution=(72, 72), resolutionunit=2)
    assert read_image(tmp_path / "a.tif").geometry.unit == "pixel"


@pytest.mark.parametrize(
    ("shape", "kind", "ours"),
    [
        ((5, 6), float, (1, 5, 6)),
        ((4, 5, 6), float, (1, 4, 5, 6)),
        ((5, 6, 3), np.uint8, (3, 5, 6)),
        ((2, 4, 5, 6), float, (2, 4, 5, 6)),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_numpy_files_are_taken_as_they_are(
    tmp_path: Path, suffix: str, shape: tuple[int, ...], kind: type, ours: tuple[int, ...]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", array)
    assert read_image(tmp_path / f"a{suffix}").array.shape == ours


def test_pickled_numpy_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"a\.npy"):
        read_image(tmp_path / "a.npy")


def film(path: Path, frames: np.ndarray, codec: str = "ffv1") -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p" if codec == "mpeg4" else "bgr0"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "ffv1"), ("a.mp4", "mpeg4")])
def test_a_gray_clip_is_one_channel_over_time(tmp_path: Path, name: str, codec: str) -> None:
    ramp = np.linspace(0, 200, 32, dtype=np.uint8)
    frames = np.stack([np.broadcast_to(ramp + 5 * n, (16, 32)) for n in range(7)])
    path = film(tmp_path / name, np.stack([frames] * 3, axis=-1), codec)
    image = read_image(path)
    assert image.array.shape == (1, 7, 16, 32)
    assert image.geometry.axes == ("t", "y", "x")
    assert np.abs(image.array[0].astype(int) - frames).mean() < 3
    assert "7 frames, 20 a second" in image.notices[0]
    assert read_header(path).shape == (7, 16, 32)


def test_a_clip_in_colour_keeps_its_colours(tmp_path: Path) -> None:
    frames = np.zeros((3, 16, 32, 3), dtype=np.uint8)
    frames[..., 0] = 200
    image = read_image(film(tmp_path / "a.avi", frames))
    assert image.array.shape == (3, 3, 16, 32)
    assert image.array[0].min() == 200


def test_names_of_all_formats_are_known() -> None:
    for name in ("a.mha", "a.seg.nrrd", "a.ome.zarr", "a.npy", "a.MP4", "a.dcm", "a.avi", "a.mhd", "a.nhdr"):
        assert can_read(name), name
    assert stem("a.ome.zarr") == "a.ome"


def gzipped(path: Path, voxels: np.ndarray) -> bytes:
    """An NRRD header before gzipped voxels; gives the header."""
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 40 30 20\nencoding: gzip\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + gzip.compress(voxels.tobytes()))
    return header.encode()


def test_a_gzip_of_several_streams_is_read_to_its_end(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (20, 30, 40), dtype=np.uint8)
    header = gzipped(tmp_path / "a.nrrd", voxels)
    parts = [
        gzip.compress(part)
        for part in (voxels.tobytes()[:7], voxels.tobytes()[7:9000], voxels.tobytes()[9000:])
    ]
    (tmp_path / "b.nrrd").write_bytes(header + b"".join(parts))
    assert np.array_equal(read_image(tmp_path / "a.nrrd").array[0], voxels)
    assert np.array_equal(read_image(tmp_path / "b.nrrd").array[0], voxels)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag((-1.0, -1, 1, 1))), tmp_path / "a.nii")
    whole = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole[:100]) + gzip.compress(whole[100:]))
    assert np.array_equal(read_image(tmp_path / "b.nii.gz").array[0], voxels.T)


@pytest.mark.parametrize("place", [-6, -400])
def test_a_byte_that_changed_on_the_way_is_noticed(tmp_path: Path, place: int) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (20, 30, 40), dtype=np.uint8)
    gzipped(tmp_path / "a.nrrd", voxels)
    damaged = bytearray((tmp_path / "a.nrrd").read_bytes())
    damaged[place] ^= 1
    (tmp_path / "a.nrrd").write_bytes(damaged)
    with pytest.raises(DataError, match=r"a\.nrrd.*damaged"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.npy", "a.npz", "a.mp4", "a.avi", "a.dcm"])
@pytest.mark.parametrize("content", [b"", b"this is no image at all, whatever its name says\n" * 20])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_image(tmp_path / name)


def test_an_empty_zarr_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DataError, match=r"a\.zarr"):
        read_image(tmp_path / "a.zarr")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii", ".nii.gz", ".npy"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_volume_cut_short_is_named(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 20), dtype=np.uint8)
    if suffix == ".npy":
        np.save(path, noise)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise), str(path), useCompression=compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(DataError, match=rf"a\{suffix}"):
        read_image(path)


def test_a_volume_that_claims_a_terabyte_is_refused_at_once(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((32000, 32000, 1000))
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    with gzip.open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(1 << 20))
    with pytest.raises(DataError, match=r"a\.nii\.gz.*promises"):
        read_image(tmp_path / "a.nii.gz")
    text = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 32000 32000 1000\nencoding: gzip\n"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + gzip.compress(bytes(1 << 20)))
    with pytest.raises(DataError, match=r"a\.nrrd.*promises"):
        read_image(tmp_path / "a.nrrd")


def test_more_than_the_memory_holds_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    SimpleITK.WriteImage(itk_volume(np.eye(3)), str(tmp_path / "a.mha"), useCompression=True)
    small = psutil.virtual_memory()._replace(available=100)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: small)
    with pytest.raises(DataError, match=r"a\.mha.*GiB of memory"):
        read_image(tmp_path / "a.mha")
    write_labels(tmp_path / "a.zarr", np.zeros((20, 20), int), Geometry.pixels(2))
    with pytest.raises(DataError, match=r"a\.zarr.*GiB of memory"):
        read_image(tmp_path / "a.zarr")
    assert read_pyramid(tmp_path / "a.zarr").levels[0].shape == (1, 20, 20)


@pytest.mark.parametrize("spacing", ["0 1 1", "-1 1 1", "nan 1 1"])
def test_spacing_that_is_not_positive_is_named(tmp_path: Path, spacing: str) -> None:
    SimpleITK.WriteImage(itk_volume(np.eye(3)), str(tmp_path / "a.mha"))
    before = (tmp_path / "a.mha").read_bytes()
    after = re.sub(rb"ElementSpacing = [^\n]*", b"ElementSpacing = " + spacing.encode(), before)
    assert after != before
    (tmp_path / "a.mha").write_bytes(after)
    with pytest.raises(DataError, match=r"a\.mha"):
        read_image(tmp_path / "a.mha")


def test_a_singular_direction_is_named(tmp_path: Path) -> None:
    text = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nspace: left-posterior-superior\n"
        "space directions: (1,0,0) (1,0,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + bytes(8))
    with pytest.raises(DataError, match=r"a\.nrrd.*singular"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd"])
def test_headers_that_point_outside_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(120))
    SimpleITK.WriteImage(itk_volume(np.eye(3)), str(folder / "a.mhd"))
    text = (folder / "a.mhd").read_text().replace("a.raw", name)
    (folder / "a.mhd").write_text(text)
    with pytest.raises(DataError, match="outside its folder"):
        read_image(folder / "a.mhd")
    SimpleITK.WriteImage(itk_volume(np.eye(3)), str(folder / "b.nhdr"))
    (folder / "b.nhdr").write_text((folder / "b.nhdr").read_text().replace("b.raw", name))
    with pytest.raises(DataError, match="outside its folder"):
        read_image(folder / "b.nhdr")


def test_sform_and_qform_that_disagree_are_reported_and_the_sform_is_used(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4))
    moved = np.diag((1.0, 1, 1, 1))
    moved[0, 3] = 10
    image.set_sform(moved, 1)
    image.set_qform(np.eye(4), 1)
    nibabel.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    assert "10 mm apart" in read.notices[0]
    assert read.geometry.source is not None
    assert read.geometry.source.affine[0][3] == 10


def test_the_layer_metadata_names_directions_and_tilt() -> None:
    source = SourceFrame.canonical(np.array([[0.9, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]))
    described = Geometry.patient(source, (2, 2, 2)).described()
    assert described["directions"] == {"z": "feet to head", "y": "front to back", "x": "right to left"}
    assert described["tilt in degrees"] == pytest.approx(5.711, abs=1e-3)


def test_a_film_without_pyav_names_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "av", None)  # as where it is not installed
    with pytest.raises(DataError, match=r'a\.mp4.*PyAV.*pip install "av>=13"'):
        read_image(tmp_path / "a.mp4")


@pytest.mark.parametrize("suffix", [".mgz", ".mgh"])
def test_volumes_of_freesurfer_lie_where_nibabel_says(tmp_path: Path, suffix: str) -> None:
    voxels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[-1.0, 0, 0, 9], [0, 0, 2.5, -4], [0, -1.5, 0, 7], [0, 0, 0, 1]])  # as conformed there
    path = tmp_path / f"brain{suffix}"
    nibabel.save(nibabel.MGHImage(voxels, affine), path)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "brain.nii")
    image, same = read_image(path), read_image(tmp_path / "brain.nii")
    assert np.array_equal(image.array, same.array)
    assert image.array.dtype == np.int16
    np.testing.assert_allclose(image.geometry.spacing, same.geometry.spacing, rtol=1e-6)
    np.testing.assert_allclose(image.geometry.origin, same.geometry.origin, rtol=1e-6)
    assert (stem(path), read_header(path).shape) == ("brain", image.array.shape[1:])
    labels, geometry = read_label(path)
    assert np.array_equal(labels, image.array[0])
    written = write_labels(tmp_path / "labels.nii.gz", labels, geometry)
    np.testing.assert_allclose(nibabel.load(written).affine, affine, atol=1e-5)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(DataError, match=r"brain.*damaged"):
        read_image(path)


@pytest.mark.parametrize(("saved", "named"), [("a.mgz", "b.mgh"), ("a.mgh", "b.mgz")])
def test_whether_a_volume_of_freesurfer_is_packed_is_told_by_its_content(
    tmp_path: Path, saved: str, named: str
) -> None:
    voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(nibabel.MGHImage(voxels, np.eye(4)), tmp_path / saved)
    (tmp_path / saved).rename(tmp_path / named)
    assert read_image(tmp_path / named).array.sum() == voxels.sum()


def test_python_objects_in_numpy_files_are_refused_with_what_to_export(tmp_path: Path) -> None:
    path = tmp_path / "scan_seg.npy"
    np.save(path, {"masks": np.zeros((4, 4))}, allow_pickle=True)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Python objects.*export what is in it as \.png"):
        read_label(path)
    np.save(path, np.random.default_rng(0).random((5, 4, 4, 2)))
    with pytest.raises(DataError, match="each image as a file of its own"):
        read_label(path)


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_of_zarr_alone_is_read_and_says_what_is_assumed(tmp_path: Path, version: int) -> None:
    import zarr

    def saved(name: str, shape: tuple[int, ...], kind: str = "int16", axes: list[str] | None = None) -> Path:
        named: dict[str, Any] = {"dimension_names": axes} if version == 3 else {}
        if version == 2 and axes:
            named = {"attributes": {"_ARRAY_DIMENSIONS": axes}}
        stored = zarr.create_array(tmp_path / name, shape=shape, dtype=kind, zarr_format=version, **named)
        stored[...] = np.arange(np.prod(shape)).reshape(shape)
        return tmp_path / name

    image = read_image(saved("a.zarr", (2, 4, 5)))
    assert np.array_equal(image.array[0], np.arange(40).reshape(2, 4, 5))
    assert (image.geometry.axes, image.geometry.unit) == (("z", "y", "x"), "pixel")
    assert image.notices == (
        "'a.zarr' is an array without sizes of its elements; given in pixels, and its axes taken as z, y, x",
    )
    for kind in ("uint8", "uint16", "float32"):
        colour = read_image(saved(f"{kind}.zarr", (4, 5, 3), kind))
        assert colour.array.shape == (3, 4, 5)
        assert "its axes taken as y, x and colour" in colour.notices[0]
    named = read_image(saved("c.zarr", (2, 4, 3), axes=["channel", "y", "x"]))
    assert named.array.shape == (2, 4, 3)
    assert named.notices == ("'c.zarr' is an array without sizes of its elements; given in pixels",)
    assert read_label(saved("d.zarr", (4, 5), "uint8"))[0].shape == (4, 5)
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    assert read_image(tmp_path / "link.zarr").array.shape == (1, 2, 4, 5)
    with pytest.raises(DataError, match="has 4 axes without names; save it as OME-Zarr, or name them"):
        read_image(saved("e.zarr", (2, 2, 4, 3)))
    with pytest.raises(DataError, match="has the axis 'energy', which is not understood"):
        read_image(saved("f.zarr", (2, 4, 3), axes=["energy", "y", "x"]))
    zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=version)
    saved("g.zarr/raw", (4, 5))
    with pytest.raises(DataError, match=r"no OME-Zarr image; give one of the arrays in it, such as '.*raw'"):
        read_image(tmp_path / "g.zarr")


def test_an_array_of_zarr_alone_runs_no_code(tmp_path: Path) -> None:
    described = {"zarr_format": 2, "shape": [3, 3], "chunks": [3, 3], "dtype": "|O", "compressor": None}
    (tmp_path / "a.zarr").mkdir()
    filters = {"fill_value": None, "filters": [{"id": "pickle"}], "order": "C"}
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(described | filters))
    with pytest.raises(DataError, match="is packed by 'pickle', which is not opened because it may run code"):
        read_image(tmp_path / "a.zarr")
