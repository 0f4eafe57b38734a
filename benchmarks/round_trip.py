"""Every case of real data sets: opened, trained on, segmented, saved, and read back by SimpleITK.

    python benchmarks/round_trip.py FOLDER [FOLDER ...] --json round_trip.json

For each folder a small network is trained for one epoch; every image is segmented and its labels are
written in the image's own format, those of DICOM as NIfTI. Without labels, what is brighter than the mean is
one. SimpleITK then reads both files: the physical coordinates of all corner voxels must be equal to the last
bit, those of DICOM to a thousandth of a mm (for pictures: the size). Over a DICOM series the labels are also
written as SEG and RTSTRUCT and read back voxel for voxel, the SEG by highdicom too, and dciodvfy must find
no error in them where it is installed. Prints a line per 20 cases and a row
per folder; exit status 1 if any case fails. The file of results is kept up to date: what it holds is not
done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.formats.dicom import Series
from napari_prosma.data.formats.dicom_labels import describe
from napari_prosma.data.formats.dicom_labels import read_label as read_objects
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.readers import read_label
from napari_prosma.data.writers import write_dicom, write_labels
from napari_prosma.errors import ProsmaError
from napari_prosma.events import EpochEnd, Finished
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

SMALL = {"widths": (8, 16, 32), "side": 64, "epochs": 1, "device": "cpu", "augment": False}


_PRINTED = 20
_SERIES_AGREE = 1e-3
"""mm: ITK adds up the steps between slices in another order, and corners of axes that it turns."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    kept: dict[str, dict[str, Any]] = {}
    if chosen.json is not None and chosen.json.exists():
        kept = json.loads(chosen.json.read_text())

    def keep() -> None:
        if chosen.json is not None:
            with written_whole(chosen.json) as temporary:
                temporary.write_text(json.dumps(kept, indent=1))

    for folder in chosen.folders:
        row = kept.setdefault(folder.name, {"seconds": 0.0, "cases": {}})
        with tempfile.TemporaryDirectory() as scratch:
            _round_trip(folder, Path(scratch), row, keep)
        failures = {name: said for name, said in row["cases"].items() if said}
        exact = len(row["cases"]) - len(failures)
        print(f"{row['summary']}\n  {exact} of {len(row['cases'])} exact, {row['seconds']:.0f} s", flush=True)
        for name, said in failures.items():
            print(f"  {name}: {said}")
    sys.exit(any(said for row in kept.values() for said in row["cases"].values()))


def _round_trip(folder: Path, scratch: Path, row: dict[str, Any], keep: Callable[[], None]) -> None:
    began = time.monotonic()
    data = find_cases(folder, require_labels=False)
    row["summary"] = data.summary
    left = [case for case in data.cases if case.name not in row["cases"]]
    print(f"{data.summary}: {len(left)} left", flush=True)
    labelled = [case for case in data.cases if case.read_label is not None]
    checkpoint = None
    if labelled and left:
        checkpoint, row["loss"] = _trained(replace(data, cases=tuple(labelled)), scratch)
        print(f"  trained after {time.monotonic() - began:.0f} s", flush=True)
    for number, case in enumerate(left, 1):
        try:
            row["cases"][case.name] = _one(case, checkpoint, scratch)
        except ProsmaError as error:
            row["cases"][case.name] = str(error)
        if number % _PRINTED == 0 or number == len(left):
            row["seconds"] += time.monotonic() - began
            began = time.monotonic()
            keep()
            print(f"  {number} of {len(left)}", flush=True)


def _trained(data: DataSet, scratch: Path) -> tuple[Checkpoint, float]:
    config = TrainConfig.of(run_dir=scratch / "run", steps_per_epoch=max(1, len(data.cases) // 16), **SMALL)
    loss = float("nan")
    for event in train(config, data.cases, data.class_names):
        if isinstance(event, EpochEnd):
            loss = event.loss
    return load_checkpoint(scratch / "run"), loss


def _one(case: Case, checkpoint: Checkpoint | None, scratch: Path) -> str:
    """What is wrong with the labels of a case; nothing where they lie exactly over its image."""
    image = case.read_image()
    labels, geometry = (image.array.mean(axis=0) > image.array.mean()).astype(np.uint8), image.geometry
    if checkpoint is not None:
        events = segment(checkpoint, image, name=case.name, device="cpu", overlap=0)
        found = next(event.result for event in events if isinstance(event, Finished))
        labels, geometry = found.labels, found.geometry
    source = case.files[0]
    is_series = image.series is not None
    volume = is_series or source.name.endswith((".nii", ".nii.gz"))
    path = scratch / f"labels{'.nii.gz' if volume else '.png'}"
    write_labels(path, labels, geometry)
    if not np.array_equal(read_label(path)[0], labels):
        return "the labels read back differ"
    before, after = _series(source) if is_series else sitk.ReadImage(str(source)), sitk.ReadImage(str(path))
    sizes = [sorted(one.GetSize()) if is_series else one.GetSize() for one in (before, after)]
    if sizes[0] != sizes[1]:
        return f"size {after.GetSize()} instead of {before.GetSize()}"
    ours, theirs = (
        np.array(sorted(_corners(one)) if is_series else _corners(one)) for one in (after, before)
    )
    if volume and np.abs(ours - theirs).max() > (_SERIES_AGREE if is_series else 0):
        return f"lies at {ours.tolist()} instead of {theirs.tolist()}"
    return _objects(image.series, labels, scratch) if image.series is not None else ""


def _objects(series: Series, labels: np.ndarray, scratch: Path) -> str:
    """What is wrong with the labels as objects in DICOM."""
    names = ("background", *(f"structure {k}" for k in range(1, int(labels.max()) + 1)))
    for suffix in (".seg.dcm", ".rtstruct.dcm"):
        path = scratch / f"labels{suffix}"
        path.unlink(missing_ok=True)
        write_dicom(path, labels, series, names)
        back, _ = read_objects([describe(path)], series, {name: k for k, name in enumerate(names) if k})
        if not np.array_equal(back, labels):
            return f"{suffix} read back differs in {np.count_nonzero(back != labels)} voxels"
        if suffix == ".seg.dcm" and (said := _unlike_highdicom(path, series, labels)):
            return said
        if shutil.which("dciodvfy") is not None:
            done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
            errors = [line for line in done.stderr.decode(errors="replace").splitlines() if "Error" in line]
            if errors:
                return f"{suffix}: {errors[0]}"
    return ""


def _unlike_highdicom(path: Path, series: Series, labels: np.ndarray) -> str:
    """Where highdicom finds another label than ours at the same place in the patient."""
    import highdicom

    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    assert series.geometry.source is not None
    to_lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ series.geometry.source.array_affine(labels.shape)
    there = np.indices(volume.spatial_shape).reshape(3, -1)
    world = volume.affine @ np.vstack([there, np.ones(there.shape[1])])
    at = (np.linalg.inv(to_lps) @ world)[:3].round().astype(int)
    differ = np.count_nonzero(labels[tuple(at)] != volume.array.reshape(-1))
    return f"highdicom finds {differ} voxels of the SEG otherwise" if differ else ""


def _series(folder: Path) -> sitk.Image:
    """A DICOM series as SimpleITK has it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder if folder.is_dir() else folder.parent)))
    return reader.Execute()


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    ends = [(0, n - 1) for n in image.GetSize()]
    return [image.TransformIndexToPhysicalPoint(corner) for corner in itertools.product(*ends)]


if __name__ == "__main__":
    main()
