"""Whether the tuner finds the fastest way: its pick beside the best fixed choice, in six settings.

    python benchmarks/tuner.py --out tuner.json
    python benchmarks/tuner.py --settings "3d tiny" --rounds 15 --out tuner.json

In each setting the tuner measures as it does at the first use on a machine (``model.tuning``). Then every
fixed choice takes its turn in each round. A choice's time is that of its fastest round, since what else the
machine does only adds; choices are told relative to the best. The goal is a pick within 3 % of it. Beside
them stands bfloat16 for the forward pass on the CPU, which the tuner does not choose. What the file holds of
other settings is kept.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from measuring import circumstances

from napari_prosma.events import Finished
from napari_prosma.model.passes import Work, pass_of
from napari_prosma.model.tuning import CACHE, Measured, tune
from napari_prosma.nn.build import LAYOUTS, USUAL_LAYOUT
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec

GOAL = 1.03
SETTINGS: dict[str, tuple[str, tuple[int, ...]]] = {
    "2d tiny": ("tiny", (4, 1, 256, 256)),
    "2d base": ("base", (2, 1, 256, 256)),
    "3d tiny": ("tiny", (1, 1, 64, 64, 64)),
}


def compare(work: Work, rounds: int) -> dict[str, Any]:
    """The tuner's pick, and milliseconds and ratio to the best of every fixed choice."""
    began = perf_counter()
    *_, finished = tune([work])
    tuning = perf_counter() - began
    assert isinstance(finished, Finished)
    found: Measured = finished.result[work]
    choices = {layout: pass_of(work, layout) for layout in LAYOUTS}
    if work.kind == "forward" and work.device.type == "cpu":
        choices |= {f"{n}, bf16": pass_of(replace(work, precision="bf16-mixed"), n) for n in LAYOUTS}
    taken: dict[str, list[float]] = {name: [] for name in choices}
    for turn in range(rounds + 1):
        for name, run in choices.items():
            seconds = run()
            if turn:
                taken[name].append(seconds)
    fastest = {name: min(seconds) for name, seconds in taken.items()}
    best = min(LAYOUTS, key=lambda layout: fastest[layout])
    ratios = {name: seconds / fastest[best] for name, seconds in fastest.items()}
    return {
        "shape": work.shape,
        "picked": found.layout,
        "best": best,
        "ratio of the pick": ratios[found.layout],
        "usual": USUAL_LAYOUT[work.spec.dims],
        "ratio of the usual": ratios[USUAL_LAYOUT[work.spec.dims]],
        "seconds of tuning": tuning,
        "ms": {name: 1e3 * seconds for name, seconds in fastest.items()},
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    os.environ[CACHE] = ""  # nothing is remembered
    torch.set_num_threads(given.threads)
    result: dict[str, Any] = {
        **circumstances(torch.device(given.device)),
        "rounds": given.rounds,
        "goal": GOAL,
        "settings": {},
    }
    if given.out and given.out.exists():
        result["settings"] = json.loads(given.out.read_text(encoding="utf-8"))["settings"]
    for name in given.settings.split(","):
        widths, shape = SETTINGS[name]
        spec = ModelSpec(len(shape) - 2, 1, 1, WIDTHS[widths])
        for kind in ("forward", "step"):
            row = compare(Work(kind, spec, shape, torch.device(given.device)), given.rounds)
            result["settings"][f"{name} {kind}"] = row
            choices = "  ".join(f"{n} {row['ms'][n]:.0f} ms ({row['ratios'][n]:.3f})" for n in row["ms"])
            goal = "" if row["ratio of the pick"] <= GOAL else "  NOT WITHIN THE GOAL"
            print(f"{name} {kind}: {choices}")
            print(
                f"    picked {row['picked']}: {row['ratio of the pick']:.3f} of the best{goal}; usual "
                f"{row['ratio of the usual']:.3f}; tuned in {row['seconds of tuning']:.1f} s",
                flush=True,
            )
            if given.out:
                given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
