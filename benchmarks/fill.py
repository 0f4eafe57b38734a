"""How near slices that were filled come to the reference: some slices are taken as drawn, the others filled.

    python benchmarks/fill.py DATA --every 3 --out fill.json

``DATA`` is a folder of volumes and masks, such as the hippocampus of the Medical Segmentation Decathlon. Of
every label each n-th slice of the acquired plane is kept, from the first that holds anything; the Dice is
over all slices between the first and the last, the drawn ones too, and over the filled ones alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from napari_prosma.data.between import fill_between
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.readers import read_header


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / max(np.count_nonzero(one) + np.count_nonzero(other), 1)


def measure(folder: Path, every: int, most: int) -> dict[str, object]:
    data = find_cases(folder)
    rows: list[tuple[float, float]] = []
    seconds = []
    for case in data.cases[:most]:
        assert case.read_label is not None
        label = case.read_label()
        geometry = read_header(case.files[0]).geometry
        across = slice_axis(geometry)
        stack = np.moveaxis(label, across, 0)
        held = np.flatnonzero(stack.any(axis=(1, 2)))
        first, last = held[0], held[-1]
        drawn = np.zeros_like(label)
        kept = np.arange(first, last + 1, every)
        np.moveaxis(drawn, across, 0)[kept] = stack[kept]
        began = time.perf_counter()
        filling = fill_between(drawn, geometry.spacing, across)
        seconds.append(time.perf_counter() - began)
        filled = drawn.copy()
        filled[filling.indices] = filling.values
        guessed = np.setdiff1d(np.arange(first, last + 1), kept)
        result = np.moveaxis(filled, across, 0)
        for value in range(1, len(data.class_names)):
            rows.append(
                (
                    dice(result == value, stack == value),
                    dice(result[guessed] == value, stack[guessed] == value),
                )
            )
    whole, between = np.array(rows).T
    return {
        "folder": folder.name,
        "cases": len(seconds),
        "every": every,
        "dice": float(whole.mean()),
        "dice_lowest": float(whole.min()),
        "dice_of_filled_slices": float(between.mean()),
        "seconds": float(np.mean(seconds)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--most", type=int, default=10_000, help="cases")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.data, options.every, options.most)
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
