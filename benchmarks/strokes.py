"""Strokes and seconds of annotation: by brush alone, with slices filled, and with predictions accepted.

    python benchmarks/strokes.py --ct Task09_Spleen_like --out strokes.json
    python benchmarks/strokes.py --us Dataset_BUSI_with_GT --model runs/half --out strokes-us.json

Counted from the reference as a person would draw it. A region takes two strokes of the brush, along its
edge and over its inside; a correction, of an error that is wider than two pixels, takes one. A stroke takes
as long as its way (the edge, or the area by the width of the brush) at a steady speed and a moment to
begin; so does a button. Every third slice of a volume is drawn, the rest filled and corrected; of a picture
that the model never saw the prediction is accepted and corrected, or drawn anew where that is less work.
What remains are errors of two pixels.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import circumstances
from scipy import ndimage

from napari_prosma.data.between import fill_between
from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.planes import slice_axis
from napari_prosma.events import Finished
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.segmentation.segment import segment

BRUSH, SPEED, MOMENT = 8.0, 80.0, 1.0
"""Pixels of the brush, pixels per second, seconds to begin a stroke or to press a button."""
EVERY = 3
PICTURES = 30
_AROUND = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Work:
    """Strokes, presses of buttons, and seconds."""

    strokes: int = 0
    presses: int = 0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.strokes + other.strokes, self.presses + other.presses, self.seconds + other.seconds)


PRESS = Work(0, 1, MOMENT)


def drawing(mask: np.ndarray) -> Work:
    """Every region of a slice (y, x) by the brush."""
    _, count = ndimage.label(mask, _AROUND)
    edge = mask & ~ndimage.binary_erosion(mask)
    way = np.count_nonzero(edge) + np.count_nonzero(mask) / BRUSH
    return Work(2 * count, 0, way / SPEED + 2 * count * MOMENT)


def correcting(found: np.ndarray, wanted: np.ndarray) -> Work:
    """What is wrong on a slice (y, x), but for errors of up to two pixels."""
    wrong = ndimage.binary_opening(found != wanted, _AROUND)
    _, count = ndimage.label(wrong, _AROUND)
    return Work(count, 0, np.count_nonzero(wrong) / BRUSH / SPEED + count * MOMENT)


def of_volume(case: Case) -> dict[str, Work]:
    assert case.read_label is not None
    label = case.read_label() > 0
    geometry = case.read_image().geometry
    across = slice_axis(geometry)
    stack = np.moveaxis(label, across, 0)
    held = np.flatnonzero(stack.any(axis=(1, 2)))
    kept = np.unique([*np.arange(held[0], held[-1] + 1, EVERY), held[-1]])
    drawn = np.zeros(label.shape, np.uint8)
    np.moveaxis(drawn, across, 0)[kept] = stack[kept]
    filling = fill_between(drawn, geometry.spacing, across)
    drawn[filling.indices] = filling.values
    filled = np.moveaxis(drawn, across, 0) > 0
    others = np.setdiff1d(np.arange(held[0], held[-1] + 1), kept)
    return {
        "brush": sum((drawing(stack[n]) for n in held), Work()),
        "fill": sum((drawing(stack[n]) for n in kept), PRESS)
        + sum((correcting(filled[n], stack[n]) for n in others), Work()),
    }


def of_picture(case: Case, model: Any) -> dict[str, Work]:
    assert case.read_label is not None
    label = case.read_label() > 0
    *_, last = segment(model, case.read_image(), name=case.name, device="cpu")
    assert isinstance(last, Finished)
    by_brush = drawing(label)
    corrected = PRESS + correcting(last.result.labels > 0, label)
    return {"brush": by_brush, "accept": min(corrected, by_brush + PRESS, key=lambda work: work.seconds)}


def total(rows: list[dict[str, Work]]) -> dict[str, Any]:
    sums = {way: sum((row[way] for row in rows), Work()) for way in rows[0]}
    return {"images": len(rows), **{way: vars(work) for way, work in sums.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ct", type=Path, help="volumes with one organ")
    parser.add_argument("--us", type=Path, help="the folder of BUSI")
    parser.add_argument("--model", type=Path, help="that learned from some of these")
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "strokes.json")
    given = parser.parse_args()
    found: dict[str, Any] = {
        **circumstances(torch.device("cpu")),
        "brush": {"pixels": BRUSH, "pixels per second": SPEED, "seconds to begin": MOMENT},
    }
    if given.ct:
        found["ct"] = total([of_volume(case) for case in find_cases(given.ct).cases[: given.volumes]])
    if given.us:
        model = load_checkpoint(given.model)
        seen = {name for part in model.split.values() for name in part}
        pictures = [case for case in find_cases(given.us).cases if case.group != "normal"]
        unseen = [case for case in pictures if case.name not in seen]
        if len(unseen) < PICTURES:
            parser.error(f"the model saw all but {len(unseen)} of the pictures; hold {PICTURES} out")
        chosen = unseen[:: len(unseen) // PICTURES][:PICTURES]
        found["ultrasound"] = total([of_picture(case, model) for case in chosen])
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: found[key] for key in ("ct", "ultrasound") if key in found}, indent=1))


if __name__ == "__main__":
    main()
