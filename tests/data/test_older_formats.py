"""Formats of older and other programs: encodings of NRRD, Analyze, JPEG 2000, tracings of EchoNet."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
import zarr

from napari_prosma.data.layouts import find_cases
from napari_prosma.data.readers import read_header, read_image, read_label
from napari_prosma.errors import DataError

STORED = np.arange(-12, 12, dtype=np.int16).reshape(2, 3, 4)
"""(z, y, x)"""
RAW = STORED.astype("<i2").tobytes()
HEAD = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 3 2\nendian: little\n"
WORDS = " ".join(map(str, STORED.ravel())).encode()


def write_nrrd(path: Path, fields: str, body: bytes) -> Path:
    path.write_bytes(f"{HEAD}{fields}\n\n".encode() + body)
    return path


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("encoding: raw\nbyte skip: 5", b"12345" + RAW),
        ("encoding: raw\nbyteskip: -1", b"a header of some length" + RAW),
        ("encoding: raw\nline skip: 2\nbyte skip: 1", b"one\ntwo\n3" + RAW),
        ("encoding: gzip\nbyte skip: 7", gzip.compress(b"7 bytes" + RAW)),
        ("encoding: gz\nlineskip: 1", b"a line\n" + gzip.compress(RAW)),
        ("encoding: bzip2", bz2.compress(RAW[:20]) + bz2.compress(RAW[20:])),
        ("encoding: bz2\nbyte skip: 3", bz2.compress(b"abc" + RAW)),
        ("encoding: hex", RAW.hex(" ", 10).encode()),
        ("encoding: ascii", WORDS),
        ("encoding: txt\nline skip: 1", b"numbers\n" + WORDS.replace(b" ", b"\n")),
    ],
)
def test_voxels_of_nrrd_are_found_in_every_encoding_and_behind_every_skip(
    tmp_path: Path, fields: str, body: bytes
) -> None:
    image = read_image(write_nrrd(tmp_path / "a.nrrd", fields, body))
    assert np.array_equal(image.array[0], STORED)
    assert image.array.dtype == np.int16


@pytest.mark.parametrize(
    ("fields", "body", "said"),
    [
        ("encoding: gzip\nbyte skip: -1", gzip.compress(RAW), "a byte skip of -1 before gzip"),
        ("encoding: bzip2", bz2.compress(RAW)[:40], "cut short or damaged"),
        ("encoding: bzip2", bz2.compress(RAW[:-4]), "cut short or damaged"),
        ("encoding: hex", RAW[:-4].hex().encode(), "can hold|cut short"),
        ("encoding: hex", b"xy" * 99, "no hexadecimal digits"),
        ("encoding: zstd", RAW, "the encoding 'zstd'"),
        ("encoding: raw\ndata file: LIST\na.raw\nb.raw", b"", "list of files"),
        ("encoding: raw\ndata file: s%03d.raw 1 2 1", b"", "list of files"),
        ("encoding: raw\nbyte skip: -1", RAW[:-2], "promises"),
    ],
)
def test_other_voxels_of_nrrd_are_refused_in_words(
    tmp_path: Path, fields: str, body: bytes, said: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.nrrd'.*({said})"):
        read_image(write_nrrd(tmp_path / "a.nrrd", fields, body))


@pytest.mark.parametrize(
    ("orientation", "to_ours"),
    [
        (0, lambda v: v[:, ::-1]),  # lines run from right to left, to the front, to the head
        (1, lambda v: v.transpose(1, 0, 2)[:, ::-1]),
        (2, lambda v: v.transpose(1, 2, 0)[:, ::-1]),
        (3, lambda v: v),
        (4, lambda v: v.transpose(1, 0, 2)[::-1, ::-1]),
        (5, lambda v: v.transpose(1, 2, 0)[:, ::-1, ::-1]),
    ],
)
def test_analyze_is_taken_as_its_header_orients_it(tmp_path: Path, orientation: int, to_ours) -> None:  # type: ignore[no-untyped-def]
    analyze = nibabel.AnalyzeImage(STORED.T, np.diag((1.5, 2, 3, 1)))
    analyze.to_filename(tmp_path / "a.hdr")
    header = bytearray((tmp_path / "a.hdr").read_bytes())
    header[252] = orientation
    (tmp_path / "a.hdr").write_bytes(header)
    image = read_image(tmp_path / "a.hdr")
    assert np.array_equal(image.array[0], to_ours(STORED))
    assert sorted(image.geometry.spacing) == [1.5, 2, 3]
    assert "does not say how the patient lies" in " ".join(image.notices)


def test_spm_says_beside_analyze_where_it_lies(tmp_path: Path) -> None:
    affine = np.array([[2.0, 0, 0, -10], [0, 3, 0, 5], [0, 0, 4, 7], [0, 0, 0, 1]])
    nibabel.Spm2AnalyzeImage(STORED.T, affine).to_filename(tmp_path / "a.img")
    image = read_image(tmp_path / "a.hdr")
    assert np.array_equal(image.array[0], STORED[:, ::-1, ::-1])
    assert image.geometry.source is not None
    assert np.allclose(image.geometry.source.affine, affine)


def test_the_voxels_of_a_header_lead_to_it(tmp_path: Path) -> None:
    nibabel.AnalyzeImage(STORED.T, np.eye(4)).to_filename(tmp_path / "a.hdr")
    with pytest.raises(DataError, match=r"a\.img' holds the voxels of 'a\.hdr'; give that"):
        read_image(tmp_path / "a.img")


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.int16, 16)])
def test_jpeg_2000_keeps_its_values(tmp_path: Path, suffix: str, kind: type, bits: int) -> None:
    plane = np.random.default_rng(0).integers(0, 2 ** min(bits, 15) - 1, (20, 30)).astype(kind)
    packed = imagecodecs.jpeg2k_encode(plane, bitspersample=bits, reversible=True, codecformat=suffix)
    (tmp_path / f"a.{suffix}").write_bytes(packed)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}").array[0], plane)
    assert read_header(tmp_path / f"a.{suffix}").shape == (20, 30)
    assert np.array_equal(read_label(tmp_path / f"a.{suffix}")[0], plane)


def test_a_damaged_jpeg_2000_is_refused(tmp_path: Path) -> None:
    packed = imagecodecs.jpeg2k_encode(np.ones((20, 30, 3), np.uint8))
    (tmp_path / "a.jp2").write_bytes(packed[:90])
    with pytest.raises(DataError, match=r"a\.jp2' is damaged"):
        read_image(tmp_path / "a.jp2")


def test_dots_per_centimetre_are_a_pixel_size_unless_a_screen_has_them(tmp_path: Path) -> None:
    plane = np.zeros((5, 6), np.uint8)
    for name, per_cm in (("microscope", 10_000 / 0.325), ("screen", 72 / 2.54), ("printer", 118.11)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", plane, resolution=(per_cm, 2 * per_cm), resolutionunit="CENTIMETER"
        )
    microscope = read_image(tmp_path / "microscope.tif").geometry
    assert microscope.unit == "um"
    assert np.allclose(microscope.spacing, (0.1625, 0.325), rtol=1e-4)
    for name in ("screen", "printer"):
        assert read_image(tmp_path / f"{name}.tif").geometry.unit == "pixel"


def test_the_axes_of_an_ome_zarr_may_stand_in_any_order(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    stored = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(4, 3, 2, 5)  # x, y, z, c
    group.create_array("0", shape=stored.shape, dtype=stored.dtype)[...] = stored
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "xyz"]
    scale = {"type": "scale", "scale": [0.5, 1, 3, 1]}
    shift = {"type": "translation", "translation": [10, 20, 30, 0]}
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [*axes, {"name": "c", "type": "channel"}],
            "datasets": [{"path": "0", "coordinateTransformations": [scale, shift]}],
        }
    ]
    image = read_image(tmp_path / "a.zarr")
    assert np.array_equal(image.array, stored.transpose(3, 2, 1, 0))
    assert image.geometry.axes == ("z", "y", "x")
    assert (image.geometry.spacing, image.geometry.origin) == ((3, 1, 0.5), (30, 20, 10))


def test_nnunet_may_list_the_files_of_every_case(tmp_path: Path) -> None:
    frame = np.diag((-1.0, -1, 3, 1))
    listed = {}
    for case in ("b", "a"):
        for name, shift in (("ct", 0), ("pet", 5), ("roi", 0)):
            voxels = np.full((4, 3, 2), shift, np.int16)
            voxels[1:3, 1, 1] = 7 if name == "roi" else shift
            (tmp_path / case).mkdir(exist_ok=True)
            nibabel.Nifti1Image(voxels, frame).to_filename(tmp_path / case / f"{name}.nii.gz")
        listed[case] = {"images": [f"{case}/ct.nii.gz", f"{case}/pet.nii.gz"], "label": f"{case}/roi.nii.gz"}
    content = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "tumour": 7}}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "dataset": listed}))
    data = find_cases(tmp_path)
    assert [case.name for case in data.cases] == ["a", "b"]
    assert (data.layout, data.channels, data.class_names) == ("nnU-Net", 2, ("background", "tumour"))
    assert data.cases[0].read_label is not None
    assert data.cases[0].read_label().sum() == 2
    assert [image[0, 0, 0] for image in data.cases[0].read_image().array] == [0, 5]
    listed["a"]["label"] = "../roi.nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "dataset": listed}))
    with pytest.raises(DataError, match="points outside its folder"):
        find_cases(tmp_path)


def film(path: Path, frames: int) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            plane = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="rgb24")))
        container.mux(stream.encode())


CHORDS = "FileName,X1,Y1,X2,Y2,Frame\n" + "".join(
    f"{clip}.avi,{line},{frame}\n"
    for clip in ("0XA", "0XB")
    for frame in (1, 4)
    for line in ("20,5,20,15", "10,6,30,6", "10,10,30,10", "10,14,30,14")
)
POINTS = "FileName,X,Y,Frame\n" + "".join(
    f"{clip}.avi,{point},{frame}\n"
    for clip in ("0XA", "0XB")
    for frame in ("1", "4", "No Systolic")
    for point in ("10,6", "30,6", "30,14", "10,14")
)


@pytest.mark.parametrize("table", [CHORDS, POINTS])
def test_traced_frames_of_a_clip_are_its_labels_and_others_count_for_nothing(
    tmp_path: Path, table: str
) -> None:
    for clip in ("0XA", "0XB", "0XC"):
        film(tmp_path / "Videos" / f"{clip}.avi", 6)
    (tmp_path / "VolumeTracings.csv").write_text(table)
    (tmp_path / "FileList.csv").write_text("FileName,EF,Split\n0XA,55.1,TRAIN\n0XB,60.2,VAL\n0XC,60.3,TEST\n")
    data = find_cases(tmp_path)
    assert [(case.name, case.split) for case in data.cases] == [("0XA", "train"), ("0XB", "val")]
    assert data.class_names == ("background", "left ventricle")
    assert "1 clips are not traced" in " ".join(data.notices)
    assert data.cases[0].read_label is not None
    label = data.cases[0].read_label()
    assert label.shape == (6, 48, 64)
    assert {n for n in range(6) if (label[n] == 255).all()} == {0, 2, 3, 5}
    for frame in (1, 4):
        assert label[frame, 7:14, 11:30].all()
        assert label[frame].sum() == pytest.approx(9 * 21, rel=0.2)


def test_a_traced_frame_that_is_not_there_is_told(tmp_path: Path) -> None:
    for clip in ("0XA", "0XB"):
        film(tmp_path / "Videos" / f"{clip}.avi", 3)
    (tmp_path / "VolumeTracings.csv").write_text(CHORDS)
    data = find_cases(tmp_path)
    assert data.cases[0].read_label is not None
    with pytest.raises(DataError, match=r"traces frame 4 of '0XA\.avi', which has 3"):
        data.cases[0].read_label()
