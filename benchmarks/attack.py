"""What damaged files, kills and crowded windows do to the program: nothing, it should be.

    python benchmarks/attack.py --out attack.json [--only files checkpoints ...] [--scale 0.1]

Parts, each by numbered seeds; started again with the same --out it goes on where it was:

files         20,000 mutated files over all formats through the readers
checkpoints    5,000 mutated checkpoints through ``load_checkpoint``
training         200 kills (SIGKILL) at random moments of a run, resumed each time, bit for bit the same
saving           100 kills while labels are saved over their files
stream           100 kills while an image is segmented row by row
orientations  48 orientations, oblique and sheared volumes: read, segmented, saved in five formats, read back
panels           100 times a panel is opened and closed while runs start and stop (needs a display)
dask           a worker is killed in the middle; the labels are the same

A mutant may be read or refused by an error of ours; anything else, 30 s of processor time or 2 GiB of memory
is a failure, kept with its seed. ``--scale`` does a part of each. Linux only.
"""

from __future__ import annotations

import argparse
import bz2
import ctypes
import gc
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import interruptions
import nibabel
import numpy as np
import PIL.Image
import psutil
import SimpleITK as sitk
import tifffile
import torch
import zarr
from measuring import circumstances
from safetensors import safe_open
from safetensors.torch import save_file

from napari_prosma.data.case import Image
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.data.readers import read_header, read_image, read_label
from napari_prosma.data.writers import write_dicom, write_labels
from napari_prosma.errors import ProsmaError
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry, SourceFrame
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from napari_prosma.segmentation.scale_out import segment_to
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

SIZES = {"files": 20_000, "checkpoints": 5_000, "training": 200, "saving": 100, "stream": 100}
SIZES |= {"orientations": 50, "panels": 100, "dask": 1}
BATCH = 50
"""Mutants of one child; a child that dies costs as many seeds as it had left."""
KILLS = 10
"""Of training, between two results."""
CPU_SECONDS, MEMORY = 30, 2 * 2**30


# ---- mutants --------------------------------------------------------------------------------------------


def seeds_of_files(folder: Path) -> list[Path]:
    """A small sound file, or folder, of every format."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 255, (24, 32), dtype=np.uint8)
    volume = rng.integers(-1000, 1000, (6, 8, 10)).astype(np.int16)
    labels, frame = (volume > 0).astype(np.uint8), Geometry((2.0, 0.5, 0.5), (0.0,) * 3, "mm")
    for mode, suffix in itertools.product(("L", "RGB", "P", "1"), ("png", "bmp", "jpg")):
        if (mode, suffix) not in (("P", "jpg"), ("1", "jpg")):
            PIL.Image.fromarray(plane).convert(mode).save(folder / f"{mode}.{suffix}")
    for name in ("v.nii", "v.nii.gz", "v.nrrd", "v.mha", "v.tif", "v.ome.tif", "v.ome.zarr"):
        write_labels(folder / name, labels, frame, ("background", "a"))
    for packing in ("zlib", "lzw", "packbits"):
        tifffile.imwrite(folder / f"{packing}.tif", volume, compression=packing, photometric="minisblack")
    for suffix in ("mhd", "nhdr"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / f"raw.{suffix}"))
    image = sitk.GetImageFromArray(volume[0])
    for key, value in (("0008|0060", "CT"), ("0020|0032", "0\\0\\0"), ("0020|0037", "1\\0\\0\\0\\1\\0")):
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(folder / "slice.dcm"))
    np.save(folder / "a.npy", volume)
    np.savez_compressed(folder / "a.npz", image=volume)
    _film(folder / "a.avi", rng)
    _older_formats(folder, volume, plane)
    _annotated_sets(folder, plane)
    _study(folder / "study", volume)
    for name, text in (("set", '{"labels": {"0": "background", "1": "a"}, "training": []}'), ("pairs", "")):
        (folder / name).mkdir()
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir()
            PIL.Image.fromarray(plane * (kind == "images") + 1).save(folder / name / kind / "1.png")
        if text:
            (folder / name / "dataset.json").write_text(text)
        else:
            (folder / name / "pairs.csv").write_text("image,label\nimages/1.png,masks/1.png\n")
    return sorted(path for path in folder.iterdir() if path.suffix not in (".img", ".raw", ".zraw"))


def _older_formats(folder: Path, volume: np.ndarray, plane: np.ndarray) -> None:
    """What other encodings, Analyze, SPM, FreeSurfer and JPEG 2000 make of the same voxels."""
    raw = volume.astype("<i2").tobytes()
    packings = {
        "raw\nbyte skip: -1": b"a header" + raw,
        "bzip2": bz2.compress(raw),
        "hex": raw.hex().encode(),
        "ascii\nline skip: 1": b"numbers\n" + " ".join(map(str, volume.ravel())).encode(),
    }
    for number, (encoding, body) in enumerate(packings.items()):
        text = f"NRRD0004\ntype: int16\ndimension: 3\nsizes: 10 8 6\nendian: little\nencoding: {encoding}\n\n"
        (folder / f"packed{number}.nrrd").write_bytes(text.encode() + body)
    nibabel.AnalyzeImage(volume.T, np.eye(4)).to_filename(folder / "analyze.hdr")
    nibabel.Nifti1Pair(volume.T, np.eye(4)).to_filename(folder / "pair.hdr")
    nibabel.MGHImage(volume.T, np.eye(4)).to_filename(folder / "a.mgz")
    for name, picture in (("gray", plane), ("colour", np.stack([plane] * 3, axis=-1))):
        packed = imagecodecs.jpeg2k_encode(picture, reversible=True, codecformat="jp2")
        (folder / f"{name}.jp2").write_bytes(packed)


def _annotated_sets(folder: Path, plane: np.ndarray) -> None:
    """Folders whose labels are polygons, traced frames or a list of nnU-Net's."""
    square = [4.0, 4.0, 20.0, 4.0, 20.0, 16.0, 4.0, 16.0]
    corners = [list(pair) for pair in zip(square[::2], square[1::2], strict=True)]
    coco = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 24, "width": 32} for n in (1, 2)],
        "annotations": [{"image_id": n, "category_id": 1, "segmentation": [square]} for n in (1, 2)],
        "categories": [{"id": 1, "name": "a"}],
    }
    labelme = {"shapes": [{"label": "a", "points": corners}], "imageHeight": 24, "imageWidth": 32}
    points = ";".join(f"{x},{y}" for x, y in corners)
    cvat = "".join(f'<image name="{n}.png"><polygon label="a" points="{points}"/></image>' for n in (1, 2))
    via = {
        "attribute": {},
        "file": {str(n): {"fname": f"{n}.png"} for n in (1, 2)},
        "view": {str(n): {"fid_list": [n]} for n in (1, 2)},
        "metadata": {str(n): {"vid": n, "xy": [7, *square], "av": {"1": "a"}} for n in (1, 2)},
    }
    studio = [{"image": f"{n}.png", "mark": [{"points": corners, "polygonlabels": ["a"]}]} for n in (1, 2)]
    texts = {
        "coco": {"a.json": json.dumps(coco)},
        "via": {"a.json": json.dumps(via)},
        "studio": {"a.json": json.dumps(studio)},
        "labelme": {f"{n}.json": json.dumps(labelme) for n in (1, 2)},
        "cvat": {"a.xml": f"<annotations>{cvat}</annotations>"},
        "yolo": {f"{n}.txt": "0 .1 .1 .9 .1 .9 .9 .1 .9" for n in (1, 2)},
    }
    for name, written in texts.items():
        (folder / name).mkdir()
        for n in (1, 2):
            PIL.Image.fromarray(plane).save(folder / name / f"{n}.png")
        for file, text in written.items():
            (folder / name / file).write_text(text)
    (folder / "traced").mkdir()
    _film(folder / "traced" / "1.avi", np.random.default_rng(1))
    chords = "".join(f"1.avi,{line},1\n" for line in ("9,1,9,9", "2,2,9,2", "2,8,9,8"))
    (folder / "traced" / "VolumeTracings.csv").write_text(f"FileName,X1,Y1,X2,Y2,Frame\n{chords}")
    (folder / "plate").mkdir()
    _plate(folder / "plate" / "a.zarr", plane)
    (folder / "listed").mkdir()
    for name in ("image.png", "label.png"):
        PIL.Image.fromarray((plane > 99).astype(np.uint8)).save(folder / "listed" / name)
    listed = {"labels": {"background": 0, "a": 1}, "dataset": {}}
    listed["dataset"]["1"] = {"images": ["image.png"], "label": "label.png"}
    (folder / "listed" / "dataset.json").write_text(json.dumps(listed))


def _study(folder: Path, volume: np.ndarray) -> None:
    """A CT series with a SEG and an RTSTRUCT of it."""
    (folder / "ct").mkdir(parents=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, plane in enumerate(volume):
        image = sitk.GetImageFromArray(plane)
        told = {"0008|0060": "CT", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0032": f"0\\0\\{2 * number}"}
        told |= {"0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0008|0018": f"1.2.3.{number + 1}"}
        told |= {"0020|000d": "1.2.4", "0020|000e": "1.2.5", "0020|0052": "1.2.6", "0028|0030": "1\\1"}
        for key, value in told.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / "ct" / f"{number}.dcm"))
        writer.Execute(image)
    series = read_image(folder / "ct").series
    assert series is not None
    labels = np.zeros(series.shape, np.uint8)
    labels[1:4, 2:6, 3:8] = 1
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        write_dicom(folder / name, labels, series, ("background", "a"))


def _plate(folder: Path, plane: np.ndarray) -> None:
    """A plate of one well with one image that has labels."""
    plate = zarr.open_group(folder, mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}]}
    image = well.create_group("0")
    for group in (image, image.create_group("labels").create_group("cells")):
        group.create_array("0", shape=plane.shape, dtype=plane.dtype)[...] = plane > 99
        group.attrs["multiscales"] = [{"version": "0.4", "axes": ["y", "x"], "datasets": [{"path": "0"}]}]


def _film(path: Path, rng: np.random.Generator) -> None:
    import av

    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(
                rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), format="rgb24"
            )
            film.mux(stream.encode(frame))
        film.mux(stream.encode())


def mutated(content: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them changed, moved, cut or made large; the start, a header, more often."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        at = draw.randrange(len(changed)) if draw.random() < 0.4 else draw.randrange(min(len(changed), 600))
        match draw.randrange(8):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.choice((0, 1, 127, 128, 255, ord("9"), ord("["), ord("-")))
            case 2:
                changed[at : at + 4] = draw.choice(
                    (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 4)
                )
            case 3:
                del changed[at:]
            case 4:
                del changed[at : at + draw.randrange(1, 64)]
            case 5:
                changed[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 32)))
            case 6:
                changed[at:at] = changed[at : at + draw.randrange(1, 256)] * draw.randrange(1, 8)
            case _:
                digits = [n for n, byte in enumerate(changed[:4000]) if 48 <= byte <= 57]
                if digits:
                    place = draw.choice(digits)
                    changed[place : place + 1] = draw.choice((b"999999999", b"-1", b"1e9", b"nan", b"0"))
    return bytes(changed)


def read_mutant(seed: int, sound: list[Path], scratch: Path) -> str:
    """Make the mutant of a seed and read it; how it ended."""
    draw = random.Random(seed)
    source = draw.choice(sound)
    path = scratch / f"{seed}{''.join(source.suffixes)}"
    if source.is_dir():
        shutil.copytree(source, path)
        inside = draw.choice(sorted(file for file in path.rglob("*") if file.is_file()))
        inside.write_bytes(mutated(inside.read_bytes(), draw))
    else:
        path.write_bytes(mutated(source.read_bytes(), draw))
        for beside in source.parent.glob(f"{source.stem}.*raw"):  # voxels of a header of their own
            shutil.copy(beside, scratch)
        if source.suffix == ".hdr":
            shutil.copy(source.with_suffix(".img"), path.with_suffix(".img"))
    readers: tuple[Callable[[Path], object], ...] = (read_header, read_image, read_label)
    outcome = "refused"
    for read in (_read_set,) if source.is_dir() and not source.suffix else readers:
        try:
            found = read(path)
            if isinstance(found, Image):
                np.asarray(found.array).max()
            outcome = "read"
        except ProsmaError:
            pass
    return outcome


def _read_set(folder: Path) -> None:
    """Recognise a folder and read what it holds."""
    for case in find_cases(folder).cases:
        case.read_image()
        if case.read_label is not None:
            case.read_label()


def seeds_of_checkpoints(model: Path, folder: Path) -> list[Path]:
    """The two checkpoints of a run, each also without the checksum that would find any mutation at once."""
    folder.mkdir()
    found = [model, model.with_name(LAST)]
    for path in tuple(found):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = {"prosma": file.metadata()["prosma"]}
        save_file(tensors, folder / path.name, metadata=metadata)
        found += [folder / path.name] * 4
    return found


def load_mutant(seed: int, sound: list[Path], scratch: Path) -> str:
    """The same of a checkpoint."""
    draw = random.Random(seed)
    path = scratch / f"{seed}.safetensors"
    path.write_bytes(mutated(draw.choice(sound).read_bytes(), draw))
    try:
        load_checkpoint(path).build()
    except ProsmaError:
        return "refused"
    return "read"


def attack(
    seeds: range, attempt: Callable[[int, list[Path], Path], str], sound: list[Path]
) -> tuple[dict[str, int], list[str]]:
    """Try mutants in a child with a watchdog; how many were read and refused, and what went wrong."""
    counts, failures = {"read": 0, "refused": 0}, []
    left = list(seeds)
    while left:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _try_all(left, attempt, sound, write)
        os.close(write)
        with os.fdopen(read) as said:
            lines = [line.rstrip("\n").split(" ", 1) for line in said]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for _, outcome in lines:
            if outcome in counts:
                counts[outcome] += 1
        failures += [f"{seed}: {outcome}" for seed, outcome in lines if outcome not in counts]
        left = left[len(lines) :]
        if left and status != 0:
            failures.append(f"{left[0]}: the process ended with {status}")
            left = left[1:]
    return counts, failures


def _try_all(
    seeds: list[int], attempt: Callable[[int, list[Path], Path], str], sound: list[Path], write: int
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    room = psutil.Process().memory_info().vms + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    with tempfile.TemporaryDirectory() as folder, os.fdopen(write, "w", buffering=1) as said:
        for seed in seeds:
            before = resource.getrusage(resource.RUSAGE_SELF)
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            scratch = Path(folder, str(seed))
            scratch.mkdir()
            try:
                outcome = attempt(seed, sound, scratch)
            except Exception as error:
                outcome = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss) * 1024
            said.write(f"{seed} {outcome if grown < MEMORY else f'{grown / 2**30:.1f} GiB'}\n")
            shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


# ---- kills ----------------------------------------------------------------------------------------------


def killed(work: Callable[[], object], seconds: float) -> bool:
    """Do ``work`` in a child that is killed after so long; whether it was not done by then."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_saving(seed: int, scratch: Path) -> list[str]:
    """Labels of value 2 are saved over those of value 1; one of the two must be there, whole."""
    draw = random.Random(seed)
    path = scratch / draw.choice(("a.png", "a.tif", "a.nii.gz", "a.nrrd", "a.mha", "a.ome.zarr"))
    shape = (256, 256) if path.suffix == ".png" else (16, 256, 256)
    frame = Geometry.pixels(len(shape)) if path.suffix == ".png" else Geometry((1.0,) * 3, (0.0,) * 3, "mm")
    write_labels(path, np.full(shape, 1, np.uint8), frame)
    began = time.monotonic()
    write_labels(path, np.full(shape, 1, np.uint8), frame)
    killed(
        lambda: write_labels(path, np.full(shape, 2, np.uint8), frame),
        draw.uniform(0, time.monotonic() - began),
    )
    values = np.unique(read_label(path)[0]).tolist()
    return [] if values in ([1], [2]) else [f"{seed}: '{path.name}' holds {values}"]


def kill_stream(seed: int, scratch: Path, model: Checkpoint) -> list[str]:
    """A segmentation by rows is killed, then goes on: the labels are those of one that was not."""
    draw = random.Random(seed)
    image = scratch / "image.npy"
    np.save(image, np.random.default_rng(seed).normal(size=(512, 256)).astype(np.float32))
    began = time.monotonic()
    list(segment_to(model, image, scratch / "whole.npy", device="cpu"))
    took, cut = time.monotonic() - began, scratch / "cut.npy"
    write_labels(scratch / "mine.png", np.ones((4, 4), np.uint8), Geometry.pixels(2))
    while killed(lambda: list(segment_to(model, image, cut, device="cpu")), draw.uniform(0.1, 1.5) * took):
        if cut.exists():
            break
    if not np.array_equal(np.load(scratch / "whole.npy"), np.load(cut)):
        return [f"{seed}: other labels after a kill"]
    return []


# ---- geometry -------------------------------------------------------------------------------------------


def affines() -> list[tuple[str, np.ndarray]]:
    """All 48 orientations, half of them left-handed, an oblique frame and a sheared one."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = np.eye(3)[:, list(order)] * np.array((0.5, 0.75, 2.0))[list(order)] * signs
            affine[:3, 3] = (10.0, -20.5, 30.25)
            found.append((f"order {order} signs {signs}", affine))
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    oblique, sheared = np.diag((0.5, 0.75, 2.0, 1.0)), np.diag((0.5, 0.75, 2.0, 1.0))
    oblique[:3, :3] = turn @ oblique[:3, :3]
    sheared[0, 2] = 0.4  # a CT whose gantry was tilted
    return [*found, ("oblique", oblique), ("sheared", sheared)]


def round_trip(number: int, scratch: Path, model: Checkpoint) -> list[str]:
    """A volume of a frame is read, segmented and saved; what others read lies on the same voxels."""
    name, affine = affines()[number]
    stored = np.random.default_rng(number).normal(size=(7, 8, 9)).astype(np.float32)
    source = nibabel.Nifti1Image(stored, affine)
    source.set_sform(affine, 1)
    nibabel.save(source, scratch / "scan.nii.gz")
    image = read_image(scratch / "scan.nii.gz")
    *_, end = segment(model, image, name=name, device="cpu")
    assert isinstance(end, Finished)
    labels = end.result.labels.copy()
    labels.flat[::5] = 1
    wrong = []
    for suffix in (".nii.gz", ".nrrd", ".mha", ".tif", ".ome.zarr"):
        path = scratch / f"labels{suffix}"
        write_labels(path, labels, end.result.geometry, ("background", "a"))
        ours, frame = read_label(path)
        if suffix == ".tif":  # holds our axes, no frame
            wrong += [f"{name}: {suffix} differs"] * (not np.array_equal(ours, labels))
            continue
        back = frame.source.to_stored(ours) if frame.source is not None else ours
        wanted = image.geometry.source.to_stored(labels)  # type: ignore[union-attr]
        if isinstance(frame.source, SourceFrame) and not np.allclose(frame.source.affine, affine, atol=1e-5):
            wrong.append(f"{name}: {suffix} lies elsewhere")
        wrong += [f"{name}: {suffix} differs"] * (not np.array_equal(back, wanted))
    as_nibabel: Any = nibabel.load(scratch / "labels.nii.gz")
    if not np.array_equal(as_nibabel.affine, source.affine):
        wrong.append(f"{name}: nibabel finds another frame")
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        if name == "sheared":  # SimpleITK knows no shear
            continue
        one, other = (
            sitk.ReadImage(str(scratch / "scan.nii.gz")),
            sitk.ReadImage(str(scratch / f"labels{suffix}")),
        )
        for index in itertools.product((0, 3), (0, 4), (0, 6)):
            place = one.TransformIndexToPhysicalPoint(index)
            there = other.TransformPhysicalPointToIndex(place)
            if other[there] != as_nibabel.dataobj[index]:
                wrong.append(f"{name}: SimpleITK finds another label in {suffix} at {index}")
                break
    return wrong


# ---- windows and workers --------------------------------------------------------------------------------


def panels(times: int, scratch: Path) -> dict[str, Any]:
    """Open a panel, start a run, stop or leave it, close the panel; memory after each."""
    os.environ["HOME"] = str(scratch)
    import napari
    from qtpy.QtWidgets import QApplication

    for kind in ("images", "masks"):
        (scratch / "data" / kind).mkdir(parents=True)
        for seed in range(4):
            case = ultrasound_case(seed, (48, 48))
            assert case.read_label is not None
            array = case.read_image().array[0] if kind == "images" else case.read_label() * np.uint8(255)
            PIL.Image.fromarray(array.astype(np.uint8)).save(scratch / "data" / kind / f"{seed}.png")
    viewer, memory, errors = napari.Viewer(show=False), [], []
    for number in range(times):
        dock, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Train")
        panel.settings.fields["widths"].value = "quick"
        panel.source.folder.set_path(scratch / "data")
        panel._begin()
        until = time.monotonic() + random.Random(number).uniform(0.2, 4)
        while time.monotonic() < until:
            QApplication.processEvents()
            time.sleep(0.01)
        if number % 2:
            panel._stop()
            while panel.job.is_running:
                QApplication.processEvents()
                time.sleep(0.01)
        if panel.status.is_error:
            errors.append(f"{number}: {panel.status.plain_text()}")
        viewer.window.remove_dock_widget(dock)
        QApplication.processEvents()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what was freed within a block of memory counts too
        memory.append(psutil.Process().memory_info().rss / 2**20)
    viewer.close()
    return {"times": times, "errors": errors, "memory_MiB": memory}


def kill_worker(scratch: Path, model: Path) -> dict[str, Any]:
    """Segment over two processes of which one is killed."""
    from distributed import Client, LocalCluster

    image = scratch / "image.npy"
    np.save(image, np.random.default_rng(0).normal(size=(1024, 256)).astype(np.float32))
    list(segment_to(model, image, scratch / "alone.npy", device="cpu"))
    cut = 0
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for _ in segment_to(model, image, scratch / "shared.npy", device="cpu", scheduler=client):
            if not cut:
                workers = [worker.pid for worker in cluster.workers.values() if worker.pid]
                cut = workers[0]
                os.kill(cut, signal.SIGKILL)
    same = np.array_equal(np.load(scratch / "alone.npy"), np.load(scratch / "shared.npy"))
    return {"killed": bool(cut), "failures": [] if same else ["other labels"]}


# ---- all of it ------------------------------------------------------------------------------------------


def model_in(folder: Path) -> Path:
    """A small model of phantoms."""
    config = TrainConfig(
        run_dir=folder, widths=(4, 8, 16), epochs=1, steps_per_epoch=4, batch=2, device="cpu"
    )
    for _ in train(config, [ultrasound_case(seed, (48, 48)) for seed in range(4)]):
        pass
    return folder / BEST


def one_by_one(part: str, number: int, scratch: Path, model: Path) -> list[str]:
    """What went wrong with this seed of a part."""
    match part:
        case "saving":
            return kill_saving(number, scratch)
        case "stream":
            return kill_stream(number, scratch, load_checkpoint(model))
        case _:
            return round_trip(number, scratch, load_checkpoint(model))


def parts(name: str, size: int, done: dict[str, Any], root: Path, model: Path) -> Iterator[dict[str, Any]]:
    """The result of a part so far, after each step of it."""
    if name in ("files", "checkpoints"):
        attempt = read_mutant if name == "files" else load_mutant
        made = root / "sound"
        sound = seeds_of_files(made) if name == "files" else seeds_of_checkpoints(model, made)
        for start in range(done.get("tried", 0), size, BATCH):
            counts, failures = attack(range(start, min(start + BATCH, size)), attempt, sound)
            done = {
                "tried": min(start + BATCH, size),
                **{key: done.get(key, 0) + count for key, count in counts.items()},
                "failures": [*done.get("failures", []), *failures],
            }
            yield done
    elif name == "training":
        cases = [ultrasound_case(seed, (48, 48)) for seed in range(6)]
        interruptions.loop.SAVE_EVERY = 0.05
        for start in range(done.get("tried", 0), size, KILLS):
            found = interruptions.measure_kills(KILLS, cases, root / f"kills{start}", seed=start)
            done = {
                "tried": done.get("tried", 0) + found["kills"],
                **{key: done.get(key, 0) + found[key] for key in ("runs", "temporary_files_left")},
                "failures": [*done.get("failures", []), *found["failures"]],
            }
            yield done
    elif name == "panels":
        yield {"tried": size, **panels(size, root / "home")}
    elif name == "dask":
        yield {"tried": size, **kill_worker(root, model)}
    else:
        for number in range(done.get("tried", 0), size):
            scratch = root / f"{name}{number}"
            scratch.mkdir()
            failures = [*done.get("failures", []), *one_by_one(name, number, scratch, model)]
            done = {"tried": number + 1, "failures": failures}
            shutil.rmtree(scratch)
            yield done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("attack.json"))
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a child must not inherit threads that it does not have
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result["circumstances"] = circumstances(torch.device("cpu"))
    for name in options.only:
        size = SIZES[name] if name in ("orientations", "dask") else max(1, round(SIZES[name] * options.scale))
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            began = time.monotonic()
            for found in parts(name, size, result.get(name, {}), root, model_in(root / "run")):
                found["seconds"] = time.monotonic() - began
                result[name] = found
                options.out.write_text(json.dumps(result, indent=1))
        print(
            name,
            {key: value for key, value in result.get(name, {}).items() if key != "memory_MiB"},
            flush=True,
        )
    sys.exit(any(result[name].get("failures") or result[name].get("errors") for name in options.only))


if __name__ == "__main__":
    main()
