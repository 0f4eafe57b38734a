"""What promises more than it holds, names files elsewhere or could run code is refused unopened."""

from __future__ import annotations

import gzip
import json
import os
import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import PIL.Image
import pydicom
import pytest
import tifffile
import zarr
from dicom_files import save_slice

from napari_prosma.data.case import Image
from napari_prosma.data.formats import zarr_store
from napari_prosma.data.readers import SUFFIXES, read_header, read_image, read_label, read_pyramid
from napari_prosma.data.writers import write_image, write_labels
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

HUGE = 300_000_000
MOST_GROWTH = 2**28
"""Bytes that the process may grow by while it refuses a file of some kilobytes."""


def npz(path: Path) -> Path:
    with zipfile.ZipFile(path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        header = {"descr": "|u1", "fortran_order": False, "shape": (HUGE, HUGE)}
        with archive.open("image.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(b"\0" * 64)
    return path / "a.npz"


def ome_tiff(path: Path, size: str = f'SizeZ="{HUGE}"', data: str = "") -> Path:
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
        'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" '
        f'{size} SizeC="1" SizeT="1">{data}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path / "a.ome.tif", np.zeros((8, 8), "u1"), description=xml, metadata=None)
    return path / "a.ome.tif"


def png(path: Path) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    (path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path / "a.png"


def nifti_notes(path: Path) -> Path:
    header = bytearray(
        write_labels(path / "b.nii", np.zeros((4, 4, 16), np.uint8), Geometry.pixels(3)).read_bytes()
    )
    header[108:112] = struct.pack("<f", 2e9)
    header[348:352] = b"\1\0\0\0"
    (path / "a.nii.gz").write_bytes(gzip.compress(bytes(header[:352]) + struct.pack("<ii", 2**31 - 16, 6)))
    return path / "a.nii.gz"


def dicom_frames(path: Path) -> Path:
    save_slice(path / "a.dcm", (0, 0, 0), np.zeros((16, 16), np.int16), NumberOfFrames=HUGE)
    return path / "a.dcm"


def deflated_dicom(path: Path) -> Path:
    """Some 24 kB that become 24 MB."""
    save_slice(path / "a.dcm", (0, 0, 0), np.zeros((16, 16), np.int16))
    data = pydicom.dcmread(path / "a.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path / "a.dcm")
    content = (path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")  # of what is deflated, behind its file meta
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    packed = packer.compress(plain) + b"".join(packer.compress(bytes(2**20)) for _ in range(24))
    (path / "a.dcm").write_bytes(content[:start] + packed + packer.flush())
    return path / "a.dcm"


def zarr_of(path: Path, change: Callable[[dict[str, Any]], object], version: int = 2) -> Path:
    folder = write_labels(path / "a.ome.zarr", np.zeros((8, 8), np.uint8), Geometry.pixels(2))
    if version == 3:
        attributes = dict(zarr.open_group(folder, mode="r").attrs)
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        group.attrs.update(attributes)
        group.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="u1")
    file = folder / "0" / ("zarr.json" if version == 3 else ".zarray")
    stored = json.loads(file.read_text())
    change(stored)
    file.write_text(json.dumps(stored))
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such count")
@pytest.mark.parametrize(
    "make",
    [
        *(npz, ome_tiff, png, nifti_notes, dicom_frames, deflated_dicom),
        lambda path: ome_tiff(path, 'SizeZ="2"', f'<TiffData IFD="0" PlaneCount="{HUGE}"/>'),
        lambda path: ome_tiff(path, 'SizeZ="2"', f'<TiffData IFD="0" FirstZ="{HUGE}"/>'),
        lambda path: zarr_of(path, lambda stored: stored.update(shape=[HUGE, HUGE])),
        lambda path: zarr_of(path, lambda stored: stored.update(shape=[HUGE] * 2, chunks=[HUGE] * 2)),
    ],
)
def test_a_few_kilobytes_neither_fill_memory_nor_hang(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_prosma.data.formats.dicom_frames._MOST_INFLATED", 2**24)
    path = make(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF)
    for read in (read_header, read_image, read_pyramid):
        if (read, path.suffix) != (read_header, ".png"):  # whose size alone does no harm
            with pytest.raises(DataError, match="a\\."):
                read(path)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert (after.ru_maxrss - before.ru_maxrss) * 1024 < MOST_GROWTH
    assert after.ru_utime - before.ru_utime < 5


@pytest.mark.parametrize(
    ("version", "change"),
    [
        (2, lambda stored: stored.update(dtype="|O", filters=[{"id": "vlen-utf8"}])),
        (2, lambda stored: stored.update(compressor={"id": "pickle"})),
        (2, lambda stored: stored.update(filters=[{"id": "json2"}])),
        (2, lambda stored: stored.update(dtype="<U8")),
        (2, lambda stored: stored.update(dtype=[["a", "|O"]])),
        (3, lambda stored: stored.update(codecs=[{"name": "numcodecs.pickle"}])),
        (3, lambda stored: stored.update(data_type="string")),
        (
            3,
            lambda stored: stored.update(
                codecs=[
                    {
                        "name": "sharding_indexed",
                        "configuration": {
                            "chunk_shape": [8, 8],
                            "codecs": [{"name": "vlen-bytes"}],
                            "index_codecs": [{"name": "bytes"}],
                        },
                    }
                ]
            ),
        ),
    ],
)
def test_an_array_that_may_run_code_is_refused_by_us(
    tmp_path: Path, version: int, change: Callable[[dict[str, Any]], object]
) -> None:
    with pytest.raises(DataError, match=r"may run code|no array that can be read"):
        read_pyramid(zarr_of(tmp_path, change, version))


def packed_zarr(folder: Path, codec: str, in_shards: bool = False) -> Image:
    """A square of numbers as OME-Zarr, its one chunk or each of four chunks of its shard packed."""
    image = Image(np.arange(64**2, dtype=np.uint16).reshape(1, 64, 64), Geometry.pixels(2))
    write_image(folder, image)
    attributes = dict(zarr.open_group(folder, mode="r").attrs)
    group = zarr.open_group(folder, mode="w", zarr_format=3 if codec in PACKED_3 else 2)
    group.attrs.update(attributes)
    sizes = {"chunks": (32, 32), "shards": (64, 64)} if in_shards else {"chunks": (64, 64)}
    packer = PACKED_3.get(codec) or PACKED_2[codec]
    group.create_array("0", shape=(64, 64), dtype="u2", compressors=[packer], **sizes)[...] = image.array[0]  # type: ignore[arg-type]
    return image


PACKED_2 = {
    "blosc-2": numcodecs.Blosc(),
    "zlib": numcodecs.Zlib(),
    "lz4": numcodecs.LZ4(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
}
PACKED_3 = {
    "blosc": zarr.codecs.BloscCodec(),
    "zstd": zarr.codecs.ZstdCodec(),
    "gzip": zarr.codecs.GzipCodec(),
}


def file_of_chunk(folder: Path) -> Path:
    (chunk,) = (file for file in (folder / "0").rglob("*") if file.is_file() and file.name[0] not in ".z")
    return chunk


@pytest.mark.parametrize(("codec", "in_shards"), [("blosc-2", False), ("blosc", False), ("blosc", True)])
@pytest.mark.parametrize("place", [4, 8, 12])
def test_a_chunk_that_lies_about_its_size_is_no_crash(
    tmp_path: Path, place: int, codec: str, in_shards: bool
) -> None:
    """Blosc reads as far as the chunk says; in a process of its own this ended napari."""
    folder = tmp_path / "a.ome.zarr"
    image = packed_zarr(folder, codec, in_shards)
    assert np.array_equal(read_image(folder).array, image.array)
    chunk = file_of_chunk(folder)
    content = bytearray(chunk.read_bytes())
    content[place : place + 4] = struct.pack("<i", 2**29)
    chunk.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged chunk.*damaged: it says"):
        read_image(folder)
    lazy = read_pyramid(folder).levels[0]
    with pytest.raises(ValueError, match="damaged"):
        lazy[:, :8, :8].compute()  # of a shard, the part that is asked for


@pytest.mark.parametrize(
    ("codec", "in_shards"),
    [
        *((codec, False) for codec in ("zlib", "lz4", "bz2", "lzma", "zstd", "gzip")),
        *(("zstd", True), ("gzip", True)),
    ],
)
def test_a_chunk_that_unpacks_to_more_than_a_chunk_is_refused(
    tmp_path: Path, codec: str, in_shards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a.ome.zarr"
    image = packed_zarr(folder, codec, in_shards)
    assert np.array_equal(read_image(folder).array, image.array)
    monkeypatch.setattr(zarr_store, "MOST_OF_A_CHUNK", 1)  # as if inflating twice were always worth it
    assert np.array_equal(read_image(folder).array, image.array)
    bomb = bytes(numcodecs.get_codec({"id": codec}).encode(bytes(10**6)))
    if in_shards:
        index = np.full((4, 2), 2**64 - 1, "<u8")
        index[0] = 0, len(bomb)
        bomb += index.tobytes()
        stored = json.loads((folder / "0" / "zarr.json").read_text())
        stored["codecs"][0]["configuration"]["index_codecs"].pop()  # its checksum
        (folder / "0" / "zarr.json").write_text(json.dumps(stored))
    file_of_chunk(folder).write_bytes(bomb)
    with pytest.raises(DataError, match="holds more than"):
        read_image(folder)


@pytest.mark.parametrize("codec", ["zstd", "gzip"])
def test_plain_numbers_of_zarr_3_are_read(tmp_path: Path, codec: str) -> None:
    folder = zarr_of(tmp_path, lambda stored: None, 3)
    read_pyramid(folder)
    changed = zarr_of(tmp_path, lambda stored: stored["codecs"].append({"name": codec}), 3)
    assert changed == folder


def test_what_was_consolidated_is_not_asked(tmp_path: Path) -> None:
    """It could name another array than the one that was looked at."""
    folder = zarr_of(tmp_path, lambda stored: None)
    zarr.consolidate_metadata(folder, zarr_format=2)
    hidden = json.loads((folder / ".zmetadata").read_text())
    hidden["metadata"]["0/.zarray"].update(shape=[4, 4])
    (folder / ".zmetadata").write_text(json.dumps(hidden))
    assert read_image(folder).array.shape == (1, 8, 8)


@pytest.mark.parametrize("name", ["../0", "/0", r"..\0", r"\\server\share", "C:/0"])
def test_a_level_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = zarr_of(tmp_path, lambda stored: None)
    attributes = json.loads((folder / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = name
    (folder / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(DataError, match="points outside its folder"):
        read_image(folder)


@pytest.mark.parametrize(
    "name", ["../secret.tif", "/secret.tif", r"..\secret.tif", r"\\server\share\secret.tif", "C:/secret.tif"]
)
def test_an_ome_tiff_reads_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "received").mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", np.full((8, 8), 77, "u1"))
    data = "".join(
        f'<TiffData IFD="0" FirstZ="{n}"><UUID FileName="{file}">urn:uuid:{n}</UUID></TiffData>'
        for n, file in enumerate(("a.ome.tif", name))
    )
    path = ome_tiff(tmp_path / "received", 'SizeZ="2"', data)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="points outside its folder"):
            read(path)


def test_an_ome_tiff_in_two_files_of_one_folder_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "b.tif", np.full((8, 8), 77, "u1"))
    data = "".join(
        f'<TiffData IFD="0" FirstZ="{n}" PlaneCount="1"><UUID FileName="{file}">urn:uuid:{n}</UUID>'
        "</TiffData>"
        for n, file in enumerate(("a.ome.tif", "b.tif"))
    )
    image = read_image(ome_tiff(tmp_path, 'SizeZ="2"', data))
    assert image.array[0, :, 0, 0].tolist() == [0, 77]


@pytest.mark.parametrize("pages", [3, 150])
def test_pages_that_lead_back_are_not_followed_for_ever(tmp_path: Path, pages: int) -> None:
    """The last page of a TIFF names the first as the next one; tifffile looks at the first hundred only."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for size in range(pages):
            file.write(np.zeros((8, 8 + size), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as stored:
        first, last = stored.pages.first.offset, stored.pages[-1]
        after = last.offset + 2 + 12 * len(last.tags)
    content = bytearray(path.read_bytes())
    assert content[after : after + 4] == b"\0" * 4
    content[after : after + 4] = struct.pack("<I", first)
    path.write_bytes(content)
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="leads back to an earlier one"):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes and devices among its files")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pipes_and_devices_are_not_read(tmp_path: Path, suffix: str) -> None:
    """Reading one waits for ever, or fills the memory; a received folder may hold links to them."""
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        for read in (read_header, read_image, read_pyramid, read_label):
            with pytest.raises(DataError, match="device or a pipe"):
                read(tmp_path / f"{name}{suffix}")


def test_large_blank_pictures_are_no_attack(tmp_path: Path) -> None:
    blank = PIL.Image.new("L", (6000, 6000), 255)
    for name, options in (("a.png", {"optimize": True}), ("a.jpg", {"progressive": True}), ("a.bmp", {})):
        blank.save(tmp_path / name, **options)
        assert read_image(tmp_path / name).array.shape == (1, 6000, 6000)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 2000, 2000), "u1"), compression="zlib")
    assert read_image(tmp_path / "a.tif").array.size == 5 * 2000 * 2000


def test_labels_that_were_set_aside_when_a_process_was_killed_are_read(tmp_path: Path) -> None:
    folder = write_labels(tmp_path / "a.ome.zarr", np.ones((8, 8), np.uint8), Geometry.pixels(2))
    os.rename(folder, tmp_path / ".replaced-a.ome.zarr")
    assert read_image(folder).array.max() == 1
