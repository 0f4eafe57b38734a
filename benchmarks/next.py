"""Whether annotating what ``prosma next`` lists beats a random choice, on BUSI.

    python benchmarks/next.py --data Dataset_BUSI_with_GT --clusters splits.json --out next.json

Every seed begins with the same 20 random images in all arms. A round trains a new network on all images that
were chosen so far, the same number of steps in every arm and round, tests it, and lets it choose 20 of the
rest; there are four such rounds. Arms: ``random``, ``next`` (uncertainty and unlikeness, as ``prosma next``),
``mirrored`` (as ``prosma next --mirror``) and ``uncertain`` (uncertainty alone). The test lesions are the
same fifth in all runs. A round that is in the file is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from measuring import circumstances
from objectives import BATCH, STEPS, cases_of, dice_of

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.segmentation.informative import in_order, next_images
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

RANDOM = "random"
ARMS = (RANDOM, "next", "mirrored", "uncertain")
BEGIN, ROUNDS = 20, 4
"""Images, of which so many more are chosen in each of so many rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of BUSI")
    parser.add_argument("--clusters", type=Path, help="splits.json with the near-duplicates of BUSI")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=ARMS)
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--widths", default="quick")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=30, help=f"of {STEPS} steps")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "next.json")
    given = parser.parse_args()
    os.environ.setdefault("PROSMA_CACHE", "")  # no measurement of layouts in between
    pool, tested = cases_of(given)
    settings = {name: getattr(given, name) for name in ("widths", "side", "epochs")}
    runs = json.loads(given.out.read_text())["runs"] if given.out.is_file() else []
    for seed in given.seeds:
        for arm in given.arms:
            chosen = beginning(pool, seed)
            for number in range(given.rounds + 1):
                shown = RANDOM if number == 0 else arm  # before the first choice all arms are the same
                key = {"arm": shown, "seed": seed, "round": number, **settings}
                row = next((r for r in runs if all(r[name] == value for name, value in key.items())), None)
                if row is None or (number < given.rounds and arm not in row["chooses"]):
                    row = one_round(key, pool, tested, chosen, given, row)
                    runs = [r for r in runs if any(r[name] != value for name, value in key.items())] + [row]
                    write(given.out, runs, tested)
                    print(f"{arm}, seed {seed}, {row['images']} images: Dice {row['dice']:.4f}", flush=True)
                chosen = [*chosen, *row["chooses"].get(arm, [])]
    for line in summary(runs):
        print(line)


def beginning(pool: Sequence[Case], seed: int) -> list[str]:
    """Names of the images that are annotated at first."""
    order = np.random.default_rng([seed, 20]).permutation(len(pool))
    return [pool[n].name for n in order[:BEGIN]]


def one_round(
    key: dict[str, Any],
    pool: Sequence[Case],
    tested: Sequence[Case],
    chosen: Sequence[str],
    given: argparse.Namespace,
    known: dict[str, Any] | None,
) -> dict[str, Any]:
    """Train on what is chosen, test, and choose; ``known`` is the row where only the choice is missing."""
    learned = [case for case in pool if case.name in chosen]
    rest = [replace(case, read_label=None) for case in pool if case.name not in chosen]
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.of(
            run_dir=Path(folder) / "run",
            widths=given.widths,
            patch=(given.side, given.side),
            batch=BATCH,
            epochs=given.epochs,
            steps_per_epoch=STEPS,
            modality="ultrasound",
            validation_fraction=0,
            seed=key["seed"],
            device="cpu",
        )
        for _ in train(config, learned):
            pass
        model = config.run_dir / LAST
        scores = known["cases"] if known else dice_of(model, tested)
        chooses = dict(known["chooses"]) if known else {}
        arms = given.arms if key["round"] == 0 else [key["arm"]]
        if key["round"] < given.rounds:
            chooses |= {arm: choice(arm, model, rest, key) for arm in arms if arm not in chooses}
    return {
        **key,
        "images": len(learned),
        "dice": mean(scores.values()),
        "chooses": chooses,
        "cases": scores,
        "processor seconds": time.process_time() - began,
    }


def choice(arm: str, model: Path, rest: Sequence[Case], key: dict[str, Any]) -> list[str]:
    """Names of the images that an arm annotates next."""
    if arm == RANDOM:
        order = np.random.default_rng([key["seed"], 21, key["round"]]).permutation(len(rest))
        return [rest[n].name for n in order[:BEGIN]]
    *_, last = next_images(load_checkpoint(model), rest, mirror=arm == "mirrored", device="cpu")
    found = last.result
    if arm == "uncertain":
        return [each.name for each in sorted(found, key=lambda each: -each.candidate.score)[:BEGIN]]
    return [each.name for each in in_order([each.candidate for each in found], BEGIN)]


def write(out: Path, runs: list[dict[str, Any]], tested: Sequence[Case]) -> None:
    kept = {
        "what": f"Dice of {len(tested)} test lesions of BUSI after training on images that were chosen",
        **circumstances(torch.device("cpu")),
        "summary": summary(runs),
        "runs": runs,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as temporary:
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def summary(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line per arm and round: mean Dice over the seeds, and the difference from random, paired by seed."""
    lines = []
    dice = {(run["arm"], run["round"], run["seed"]): run["dice"] for run in runs}
    for arm, number in sorted({(arm, number) for arm, number, _ in dice}, key=lambda k: (k[1], k[0])):
        seeds = sorted(seed for a, n, seed in dice if (a, n) == (arm, number))
        values = [dice[arm, number, seed] for seed in seeds]
        line = f"{BEGIN * (number + 1)} images, {arm}: {mean(values):.4f} over {len(seeds)} seeds"
        both = [dice[arm, number, s] - dice[RANDOM, number, s] for s in seeds if (RANDOM, number, s) in dice]
        if arm != RANDOM and both:
            spread = f" +- {stdev(both):.4f}" if len(both) > 1 else ""
            line += f"; minus random {mean(both):+.4f}{spread}"
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
