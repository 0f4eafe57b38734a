"""Every case of real data sets: opened, trained on, segmented, saved, and read back by SimpleITK.

    python benchmarks/round_trip.py FOLDER [FOLDER ...] --json round_trip.json

For each folder a small network is trained for one epoch; every image is segmented and its labels are
written in the image's own format. SimpleITK then reads both files: the physical coordinates of all corner
voxels must be equal to the last bit (for pictures: the size). Prints a row per folder; exit status 1 if any
case fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from napari_prosma.data.case import Case
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.readers import read_label
from napari_prosma.data.writers import write_labels
from napari_prosma.errors import ProsmaError
from napari_prosma.events import EpochEnd, Finished
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

SMALL = {"widths": (8, 16, 32), "side": 64, "epochs": 1, "device": "cpu", "augment": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    for folder in chosen.folders:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(_round_trip(folder, Path(scratch)))
        row = rows[-1]
        print(
            f"{row['summary']}\n  {row['exact']} of {row['cases']} exact, {row['seconds']:.0f} s", flush=True
        )
        for failure in row["failures"]:
            print(f"  {failure}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=1))
    sys.exit(any(row["failures"] for row in rows))


def _round_trip(folder: Path, scratch: Path) -> dict:
    began = time.monotonic()
    data = find_cases(folder)
    checkpoint, loss = _trained(data, scratch)
    failures = []
    for case in data.cases:
        try:
            failures += _one(case, checkpoint, scratch)
        except ProsmaError as error:
            failures.append(f"{case.name}: {error}")
    return {
        "folder": folder.name,
        "summary": data.summary,
        "cases": len(data.cases),
        "exact": len(data.cases) - len(failures),
        "loss": loss,
        "failures": failures,
        "seconds": time.monotonic() - began,
    }


def _trained(data: DataSet, scratch: Path) -> tuple[Checkpoint, float]:
    config = TrainConfig.of(run_dir=scratch / "run", steps_per_epoch=max(1, len(data.cases) // 16), **SMALL)
    loss = float("nan")
    for event in train(config, data.cases, data.class_names):
        if isinstance(event, EpochEnd):
            loss = event.loss
    return load_checkpoint(scratch / "run"), loss


def _one(case: Case, checkpoint: Checkpoint, scratch: Path) -> list[str]:
    events = segment(checkpoint, case.read_image(), name=case.name, device="cpu", overlap=0)
    found = next(event.result for event in events if isinstance(event, Finished))
    source = case.files[0]
    volume = source.name.endswith((".nii", ".nii.gz"))
    path = scratch / f"labels{'.nii.gz' if volume else '.png'}"
    write_labels(path, found.labels, found.geometry, found.class_names)
    if not np.array_equal(read_label(path)[0], found.labels):
        return [f"{case.name}: the labels read back differ"]
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(path))
    if before.GetSize() != after.GetSize():
        return [f"{case.name}: size {after.GetSize()} instead of {before.GetSize()}"]
    if volume and _corners(before) != _corners(after):
        return [f"{case.name}: lies at {_corners(after)} instead of {_corners(before)}"]
    return []


def _corners(image: sitk.Image) -> list[tuple[float, ...]]:
    ends = [(0, n - 1) for n in image.GetSize()]
    return [image.TransformIndexToPhysicalPoint(corner) for corner in itertools.product(*ends)]


if __name__ == "__main__":
    main()
