"""Dice and IoU of a checkpoint on the cases that its training held out, each on its image's own grid.

    python benchmarks/held_out.py runs/busi Dataset_BUSI_with_GT --json busi.json

Prints a row per group of cases (BUSI: benign, malignant, normal) and class, and writes every case as JSON.
A case where neither label nor prediction has the class counts as 1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from napari_prosma.data.layouts import find_cases
from napari_prosma.data.metrics import case_metrics
from napari_prosma.events import Finished
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.segmentation.segment import segment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    checkpoint = load_checkpoint(chosen.model)
    held_out = set(checkpoint.split["validation"])
    rows = []
    for case in find_cases(chosen.data).cases:
        if case.name not in held_out:
            continue
        assert case.read_label is not None
        began = time.perf_counter()
        events = segment(checkpoint, case.read_image(), name=case.name, device="cpu")
        found = next(event.result for event in events if isinstance(event, Finished))
        seconds = time.perf_counter() - began
        figures = case_metrics(found.labels, case.read_label(), checkpoint.plan.class_names)
        rows.append({"case": case.name, "group": case.group, "seconds": seconds, **figures})
    groups = defaultdict(list)
    for row in rows:
        groups["all"].append(row)
        if row["group"]:
            groups[row["group"]].append(row)
    names = [name for name in rows[0] if "/" in name or name in ("dice", "iou", "seconds")]
    print(
        f"{chosen.model}: epoch {checkpoint.epoch}, {len(rows)} held-out cases (mean, and spread over cases)"
    )
    print(f"{'':12}{'cases':>6}  " + "".join(f"{name:>22}" for name in names))
    for group, members in groups.items():
        cells = "".join(
            f"{np.mean([m[name] for m in members]):>14.3f} +-{np.std([m[name] for m in members]):5.3f}"
            for name in names
        )
        print(f"{group:12}{len(members):>6}  {cells}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({"epoch": checkpoint.epoch, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
