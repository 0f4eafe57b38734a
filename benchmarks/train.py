"""Seconds per training step: ``train`` against a plain PyTorch loop over MONAI's CacheDataset and DataLoader.

    python benchmarks/train.py --out train.json
    python benchmarks/train.py --data2d Dataset_BUSI_with_GT --data3d Task04_Hippocampus --out train.json

Both train the same network (default widths) with the same loss and optimizer on the same prepared cases, the
same patch and batch, and equivalent random changes, on the CPU. They take turns in one process; the first
steps of a turn are not counted, so that what a loader or a thread prepared meanwhile is used up. A third in
the row does nothing but forward, backward and optimizer on one batch that stays the same: what a step of
``train`` takes longer than that is its pipeline.

Prints a table and writes every step's seconds as JSON. A step is the median, an epoch its steps by the mean,
which also holds what ``train`` does now and then, such as a preview. Without data, phantoms are made.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import monai
import numpy as np
import psutil
import torch
from monai.data import CacheDataset, DataLoader
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.transforms import (
    Compose,
    EnsureTyped,
    FgBgToIndicesd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    SpatialPadd,
)
from torch import nn

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan, make_plan, read_facts
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import CT_CLASSES, ULTRASOUND_CLASSES, ct_case, ultrasound_case
from napari_prosma.events import Progress
from napari_prosma.model.augment import Augmentation
from napari_prosma.nn.build import build_model
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.training.batches import Batches, PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objective import Context, make_objective
from napari_prosma.training.processes import Processes
from napari_prosma.training.run import train
from napari_prosma.training.schedule import make_optimizer

MOST_CASES = 60
UNCOUNTED = 5
"""Steps of a turn until loader processes have handed out what they prepared during the others' turns."""


def of_train(config: TrainConfig, cases: list[Case], names: tuple[str, ...]) -> Generator[None, None, None]:
    """``train`` itself; every ``next`` is one step."""
    with closing(train(config, cases, names)) as events:
        for event in events:
            if isinstance(event, Progress) and "loss" in event.message:
                yield


def of_network_alone(config: TrainConfig, plan: Plan, cases: PreparedCases) -> Generator[None, None, None]:
    """Forward, backward and optimizer on the first batch."""
    network = build_model(config.model_spec(plan)).train()
    optimizer = make_optimizer(network, config)
    objective = make_objective("supervised")
    learned = tuple(range(len(cases)))
    objective.prepare(Context(network, plan, config, Processes(config), cases, learned, steps=1))
    batch = Batches(cases, learned, plan, 0, Augmentation(plan)).draw(0)
    while True:
        optimizer.zero_grad(set_to_none=True)
        objective.step(network, batch, lambda loss: loss.backward())
        nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip or math.inf)
        optimizer.step()
        yield


def of_plain_loop(
    config: TrainConfig, plan: Plan, cases: PreparedCases, workers: int
) -> Generator[None, None, None]:
    """What one writes with PyTorch and MONAI, from prepared cases in memory."""
    held = [{"image": cases[n].image.copy(), "label": cases[n].label[None].copy()} for n in range(len(cases))]
    both, dims = ["image", "label"], plan.dims
    transforms = Compose(
        [
            EnsureTyped(both, track_meta=False),
            SpatialPadd(both, plan.patch, mode="symmetric"),
            FgBgToIndicesd("label"),
            RandCropByPosNegLabeld(
                both,
                "label",
                plan.patch,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            RandFlipd(both, prob=0.5, spatial_axis=dims - 1),
            RandAffined(
                both,
                prob=0.7,
                rotate_range=(0.26,) if dims == 2 else (0.26, 0.1, 0.1),
                scale_range=(0.2,) * dims,
                translate_range=tuple(0.1 * n for n in plan.patch),
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            RandScaleIntensityd("image", factors=0.2, prob=0.5),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            RandGaussianNoised("image", prob=0.2, std=0.1),
            RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
        ]
    )
    loader = DataLoader(
        CacheDataset(held, transforms, progress=False),
        batch_size=plan.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    network = ProSMAUNet(config.model_spec(plan)).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    dice, entropy = DiceLoss(batch=True, sigmoid=True), nn.BCEWithLogitsLoss()
    several = DiceCELoss(batch=True, softmax=True, to_onehot_y=True, include_background=False)
    while True:
        for drawn in loader:
            # A list where the crop gives several samples; here it gives one.
            images, labels = drawn["image"], drawn["label"]
            optimizer.zero_grad()
            logits = network(images)
            if plan.out_channels == 1:
                loss = dice(logits, labels) + 0.5 * entropy(logits, labels.float())
            else:
                loss = several(logits, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip or math.inf)
            optimizer.step()
            loss.item()
            yield


def in_turns(
    contenders: dict[str, Generator[None, None, None]], rounds: int, steps: int
) -> dict[str, list[list[float]]]:
    """Seconds of every counted step, by contender and round; the order changes from round to round."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for contender in contenders.values():
        next(contender)
    for n in range(rounds):
        names = list(contenders)
        for name in names[n % len(names) :] + names[: n % len(names)]:
            turn = []
            for _ in range(UNCOUNTED + steps):
                began = time.perf_counter()
                next(contenders[name])
                turn.append(time.perf_counter() - began)
            seconds[name].append(turn[UNCOUNTED:])
    return seconds


def measured(dims: int, cases: list[Case], names: tuple[str, ...], rounds: int, steps: int) -> dict[str, Any]:
    """Figures of one data set."""
    plan = make_plan(list(read_facts(cases)), names, dims=dims)
    prepared = PreparedCases(cases, plan)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.of(
            run_dir=folder, plan=plan, epochs=1, steps_per_epoch=10**6, device="cpu", validation_fraction=0
        )
        contenders = {
            "train": of_train(config, cases, names),
            "network alone": of_network_alone(config, plan, prepared),
            "plain loop, in the process": of_plain_loop(config, plan, prepared, 0),
            "plain loop, 2 workers": of_plain_loop(config, plan, prepared, 2),
        }
        seconds = in_turns(contenders, rounds, steps)
        for contender in contenders.values():
            contender.close()
    batches = Batches(prepared, range(len(cases)), plan, 0, Augmentation(plan))
    drawing = []
    for step in range(2 * len(cases)):
        began = time.perf_counter()
        batches.draw(step)
        drawing.append(time.perf_counter() - began)
    per_step = {name: float(np.median(turns)) for name, turns in seconds.items()}
    per_round = {name: np.array([median(turn) for turn in turns]) for name, turns in seconds.items()}
    plain = min(("plain loop, in the process", "plain loop, 2 workers"), key=per_step.__getitem__)
    return {
        "dims": dims,
        "cases": len(cases),
        "plan": plan.in_words(),
        "seconds_per_step": per_step,
        "seconds_per_epoch": {
            name: float(np.mean(turns)) * math.ceil(len(cases) / plan.batch)
            for name, turns in seconds.items()
        },
        "better_plain_loop": plain,
        "plain_over_train": list(per_round[plain] / per_round["train"]),
        "pipeline_share": list(1 - per_round["network alone"] / per_round["train"]),
        "seconds_to_draw_a_batch": median(drawing),
        "every_step": seconds,
    }


def phantoms(dims: int, count: int) -> tuple[list[Case], tuple[str, ...]]:
    if dims == 2:
        return [ultrasound_case(seed, (256, 256)) for seed in range(count)], ULTRASOUND_CLASSES
    return [ct_case(seed, (36, 64, 64), (6.0, 5.0, 5.0), True) for seed in range(count)], CT_CLASSES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data2d", type=Path, help="folder of labelled 2D images (default: phantoms)")
    parser.add_argument("--data3d", type=Path, help="folder of labelled volumes (default: phantoms)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="counted steps per turn")
    parser.add_argument("--dims", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    # No measurement of layouts in between, and the same one for all.
    os.environ.setdefault("PROSMA_CACHE", "")
    warnings.filterwarnings("ignore", module="monai")
    warnings.filterwarnings("ignore", message="A NumPy version")
    rows = []
    print(
        f"torch {torch.__version__}, MONAI {monai.__version__}, {torch.get_num_threads()} threads, "
        f"{platform.machine()}, load {psutil.getloadavg()[0]:.1f}"
    )
    for dims in chosen.dims:
        folder = chosen.data2d if dims == 2 else chosen.data3d
        if folder is None:
            cases, names = phantoms(dims, 16)
        else:
            found = find_cases(folder)
            cases, names = list(found.cases[:MOST_CASES]), found.class_names
        row = measured(dims, cases, names, chosen.rounds, chosen.steps)
        rows.append({"data": str(folder or "phantoms"), **row})
        print(f"\n{rows[-1]['data']}, {len(cases)} cases: {row['plan']}")
        per_step = row["seconds_per_step"]
        for name, seconds in per_step.items():
            print(f"  {name:28}{seconds:8.3f} s/step{row['seconds_per_epoch'][name]:10.1f} s/epoch")
        ratios, shares = row["plain_over_train"], row["pipeline_share"]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {row['better_plain_loop']} over train: {median(ratios):.2f} {spread}")
        spread = f"({min(shares):.1%} to {max(shares):.1%})"
        print(f"  pipeline's share of the step: {median(shares):.1%} {spread}")
        alone = row["seconds_to_draw_a_batch"]
        print(
            f"  drawing a batch by itself: {1000 * alone:.1f} ms ({alone / per_step['train']:.1%} of a step)"
        )
    if chosen.out is not None:
        chosen.out.write_text(json.dumps({"torch": torch.__version__, "runs": rows}, indent=1))


if __name__ == "__main__":
    main()
