"""What a model finds in the same images when they come larger or smaller, as from another scanner.

    python benchmarks/image_sizes.py breast-ultrasound Dataset_BUSI_with_GT --clusters splits.json

The test images are those of ``benchmarks/shipped_models.py``, which the model never saw. Every image is
resampled by each factor and segmented, and its mask is brought back. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from learning import parted
from measuring import circumstances
from scipy.ndimage import zoom

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.metrics import dice_and_iou
from napari_prosma.events import Finished
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.model.header import shipped_models
from napari_prosma.segmentation.segment import segment

FACTORS = (0.5, 1.0, 2.0, 3.0, 4.0)
HELD_OUT = 130
WITHOUT = "normal"
"""Images whose names hold this have no lesion."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=shipped_models())
    parser.add_argument("data", type=Path)
    parser.add_argument("--clusters", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/image-sizes.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(shipped_models()[given.model])
    cases = [case for case in find_cases(given.data).cases if WITHOUT not in case.name]
    _, tested = parted(cases, HELD_OUT, given.clusters)
    rows = []
    for factor in FACTORS:
        dice = []
        for case in tested:
            image, label = case.read_image(), case.read_label()
            array = zoom(image.array, (1, factor, factor), order=1)
            events = segment(checkpoint, replace(image, array=array), name=case.name, device="cpu")
            (found,) = (event.result for event in events if isinstance(event, Finished))
            there = [n / m for n, m in zip(label.shape, array.shape[1:], strict=True)]
            dice.append(dice_and_iou(zoom(found.labels, there, order=0), label, 1)[0])
        rows.append({"factor": factor, "images": len(dice), "dice": float(np.mean(dice))})
        print(f"x {factor:g}  {len(dice)} images  Dice {rows[-1]['dice']:.3f}", flush=True)
    made = {"model": given.model, **circumstances(torch.device("cpu")), "rows": rows}
    with written_whole(given.out) as temporary:
        temporary.write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
