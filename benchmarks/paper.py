"""Tables 1 and 3 of the ProSMA paper, run again: its networks, splits, protocol and families of figures.

    python benchmarks/paper.py table1 --data Dataset_BUSI_with_GT --models prosma-unet unet --out runs
    python benchmarks/paper.py table3 --data Dataset_BUSI_with_GT --out runs --budget 10

The protocol is that of U-KAN's public code, which the paper's BUSI and GlaS rows are copied from: 80/20
splits by three seeds, 256 x 256 (GlaS 512 x 512), quarter turns and flips, BCE/2 + Dice, Adam 1e-4 with a
cosine down to 1e-5 over 400 epochs, batches of 8. It has no test set: the best epoch is chosen on the fifth
that is reported. So the last epoch is reported beside it, and with ``--inner`` the best on a part of the
training set. On CUDA it runs in bfloat16, which U-KAN's code does not.

One JSON per run; a run whose JSON is there is not run again. A run that diverged says so in its JSON. With
``--budget`` epochs are cut to so many minutes in all, and whatever is printed says that it was shortened.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.data.layouts import find_cases
from napari_prosma.nn.baselines.ukan import KANLinear
from napari_prosma.nn.build import Network, build_model, choose_device
from napari_prosma.nn.gates import GATES, GateOptions
from napari_prosma.nn.spec import NETWORKS, OURS, WIDTHS, ModelSpec

SEEDS = (2981, 6142, 1187)
"""Of the splits, as in U-KAN; weights and sampling are drawn from ``TORCH_SEED`` in every run."""
TORCH_SEED = 1029
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH, EPOCHS, RATE, LAST_RATE, DECAY, KAN_RATE = 8, 400, 1e-4, 1e-5, 1e-4, 1e-2
SMALL = 1e-5
"""Smoothing of Dice and IoU in the loss and in the tables."""
CLUSTERS = {"BUSI": "busi", "Kvasir-SEG": "kvasir_seg"}
"""Where ``splits.json`` keeps the near-duplicates of a layout."""
PRESETS = ("ukan_exact", "paper2d")
TABLE3 = ("none", "channel", "spatial", "prosma", "dense")
PRINTED = {
    ("BUSI", "ukan"): (63.38, 76.40),
    ("BUSI", "prosma"): (66.24, 79.29),
    ("Kvasir-SEG", "unet"): (54.58, 79.59),
    ("Kvasir-SEG", "attention-unet"): (62.75, 83.36),
    ("Kvasir-SEG", "unet++"): (61.93, 83.33),
    ("Kvasir-SEG", "unext"): (49.50, 76.64),
    ("Kvasir-SEG", "rolling-unet"): (60.28, 82.25),
    ("Kvasir-SEG", "ukan"): (53.78, 78.58),
    ("Kvasir-SEG", "ukan2"): (58.89, 81.04),
    ("Kvasir-SEG", "prosma"): (66.23, 85.43),
}
"""IoU and F1 of Table 1, %, where we have them; U-KAN's as that paper gives them."""
PRINTED_TABLE3 = {"none": 74.05, "channel": 75.22, "spatial": 77.47, "prosma": 80.13}
"""Of a data set that the paper does not name, so it stands beside, not against, ours."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=("table1", "table3"))
    parser.add_argument("--data", type=Path, required=True, help="folder of BUSI, GlaS or Kvasir-SEG")
    parser.add_argument("--out", type=Path, required=True, help="folder of one JSON per run")
    parser.add_argument("--models", nargs="+", choices=[*NETWORKS, *GATES])
    parser.add_argument("--widths", default="published", choices=["published", *WIDTHS])
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=list(SEEDS))
    parser.add_argument("--preset", choices=PRESETS, default=PRESETS[0])
    parser.add_argument("--threshold", type=float, default=math.log(2), help="lambda at the start")
    parser.add_argument("--threshold-rate", type=float, default=1.0, help="theta's, relative (paper2d)")
    parser.add_argument("--gate-norm", choices=("batch", "none"), default="batch")
    parser.add_argument("--inner", type=float, default=0.0, help="part of the training set to choose on")
    parser.add_argument("--clusters", type=Path, help="splits.json; its near-duplicates stay together")
    parser.add_argument("--size", type=int, help="by default 256, GlaS 512")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--budget", type=float, help="minutes in all; epochs are cut to fit")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    found = find_cases(chosen.data)
    cases = sorted((c for c in found.cases if c.group != "normal"), key=lambda case: case.name)
    size = chosen.size or (512 if found.layout == "GlaS" else 256)
    device = choose_device(chosen.device)
    images, masks = held(cases, size, device)
    names = [case.name for case in cases]
    models = [
        "prosma" if name == OURS else name
        for name in chosen.models or (TABLE3 if chosen.table == "table3" else NETWORKS)
    ]
    clusters = None
    if chosen.clusters:
        if found.layout not in CLUSTERS:
            parser.error(f"no near-duplicates are known of {found.layout}, only of {', '.join(CLUSTERS)}")
        clusters = json.loads(chosen.clusters.read_text())[CLUSTERS[found.layout]]["near_duplicate_clusters"]
    runs = [(model, seed) for seed in chosen.seeds for model in models]
    began = time.monotonic()
    for done, (model, seed) in enumerate(runs):
        path = chosen.out / f"{file_name(found.layout, model, seed, chosen)}.json"
        if path.is_file():
            print(f"{path.name} is there")
            continue
        training, held_out = split(names, seed, clusters)
        spec = spec_of(model, chosen)
        left = None
        if chosen.budget:
            left = (60 * chosen.budget - (time.monotonic() - began)) / (len(runs) - done)
        print(f"{path.stem}: {len(training)} for training, {len(held_out)} reported", flush=True)
        result = run(spec, images, masks, training, held_out, chosen, left, device)
        result |= {
            "data": {"layout": found.layout, "size": size, "training": [names[n] for n in training]},
            "reported": [names[n] for n in held_out],
            "model": model,
            "seed": seed,
            "spec": asdict(spec),
            "settings": {key: str(value) for key, value in vars(chosen).items()},
            "versions": {"napari-prosma": __version__, "torch": torch.__version__},
            "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1))
    print_table(found.layout, models, chosen)


def file_name(layout: str, model: str, seed: int, chosen: argparse.Namespace) -> str:
    """Whatever distinguishes a run from another one."""
    parts = [layout, model, chosen.widths, chosen.preset, f"seed{seed}"]
    parts += [f"size{chosen.size}"] * bool(chosen.size) + [f"inner{chosen.inner}"] * bool(chosen.inner)
    parts += ["clusters"] * bool(chosen.clusters) + [f"budget{chosen.budget:g}"] * bool(chosen.budget)
    parts += [f"epochs{chosen.epochs}"] * (chosen.epochs != EPOCHS)
    if model in GATES:
        parts += [f"lambda{chosen.threshold:.2f}", f"x{chosen.threshold_rate:g}", chosen.gate_norm]
    return "_".join(parts)


def spec_of(model: str, chosen: argparse.Namespace) -> ModelSpec:
    """2D, three channels in, one out; the name of a gate is ours with that gate."""
    network = OURS if model in GATES else model
    widths = NETWORKS[network].widths if chosen.widths == "published" else WIDTHS[chosen.widths]
    if network != OURS:
        return ModelSpec(2, 3, 1, widths, network=network)
    return ModelSpec(2, 3, 1, widths, model, GateOptions(threshold=chosen.threshold, norm=chosen.gate_norm))


# ---- data -----------------------------------------------------------------------------------------------


def held(cases: Sequence[Case], size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every image (N, 3, size, size) and mask (N, 1, size, size) as uint8 on the device.

    Several masks of one image are united, which U-KAN's loader does not do; gray images get three channels.
    """
    images, masks = [], []
    for case in cases:
        assert case.read_label is not None
        image = torch.from_numpy(np.ascontiguousarray(case.read_image().array, np.float32))[None]
        mask = torch.from_numpy((case.read_label() > 0).astype(np.float32))[None, None]
        smooth = F.interpolate(image, (size, size), mode="bilinear", align_corners=False)
        images.append(smooth.round().byte().expand(1, 3, -1, -1))
        masks.append(F.interpolate(mask, (size, size), mode="nearest").byte())
    return torch.cat(images).to(device), torch.cat(masks).to(device)


def split(
    names: Sequence[str], seed: int, clusters: Sequence[Sequence[str]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and of the fifth that is reported, as scikit-learn's ``train_test_split`` draws.

    With ``clusters`` of near-duplicates, whole clusters are drawn until a fifth is full. Both come in the
    order in which they were drawn, so that the first of the training set are no choice by name.
    """
    count, random = len(names), np.random.RandomState(seed)
    fifth = math.ceil(0.2 * count)
    if clusters is None:
        drawn = random.permutation(count)
        return drawn[fifth:], drawn[:fifth]
    together = {name: number for number, cluster in enumerate(clusters) for name in cluster}
    groups: dict[object, list[int]] = {}
    for n, name in enumerate(names):
        groups.setdefault(together.get(name, name), []).append(n)
    keys, training, reported = list(groups), list[int](), list[int]()
    for k in random.permutation(len(keys)):
        (reported if len(reported) < fifth else training).extend(groups[keys[k]])
    return np.array(training), np.array(reported)


def normal(images: Tensor, preset: str) -> Tensor:
    """Normalised by ImageNet; ``ukan_exact``: in the order BGR, and by 255 once more, as its code does."""
    scaled = images.float() / 255
    if preset == "ukan_exact":
        scaled = scaled.flip(1)
    values = (scaled - scaled.new_tensor(MEAN)[:, None, None]) / scaled.new_tensor(SPREAD)[:, None, None]
    return values / 255 if preset == "ukan_exact" else values


def turned(x: Tensor, draws: Tensor) -> Tensor:
    """Each image (B, C, n, n) by its own draws (B, 4): quarter turns in one of two, a flip in one of two."""
    pieces = []
    for piece, (turn, quarter, flip, kind) in zip(x, draws.tolist(), strict=True):
        if turn < 0.5:
            piece = torch.rot90(piece, int(4 * quarter), (1, 2))
        if flip < 0.5:
            piece = piece.flip(((1, 2), (1,), (2,))[int(3 * kind)])
        pieces.append(piece)
    return torch.stack(pieces)


# ---- a run ----------------------------------------------------------------------------------------------


def run(
    spec: ModelSpec,
    images: Tensor,
    masks: Tensor,
    training: np.ndarray,
    held_out: np.ndarray,
    chosen: argparse.Namespace,
    seconds: float | None,
    device: torch.device,
) -> dict[str, Any]:
    """Figures of every epoch on the reported part, and which epochs are chosen."""
    torch.manual_seed(TORCH_SEED)
    random = torch.Generator().manual_seed(TORCH_SEED)
    inner = training[:0]
    if chosen.inner:
        count = math.ceil(chosen.inner * len(training))
        inner, training = training[:count], training[count:]
    network = build_model(spec).to(device)
    optimizer = adam(network, chosen)
    steps = len(training) // BATCH
    if not steps:
        raise SystemExit(f"{len(training)} images for training are fewer than a batch of {BATCH}")
    precision: Callable[[], Any] = lambda: torch.autocast(device.type, torch.bfloat16, device.type == "cuda")  # noqa: E731
    planned, epochs, began = chosen.epochs, [], time.monotonic()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, planned, LAST_RATE)
    diverged = False
    while len(epochs) < planned and not diverged:
        network.train()
        order, losses = torch.randperm(len(training), generator=random), []
        for step in range(steps):
            at = torch.from_numpy(training)[order[step * BATCH : (step + 1) * BATCH]].to(device)
            draws = torch.rand(BATCH, 4, generator=random)
            x, y = turned(images[at], draws), turned(masks[at], draws).float()
            with precision():
                logits = network(normal(x, chosen.preset)).float()
            loss = bce_dice(logits, y)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        trained = float(torch.stack(losses).mean())
        diverged = not math.isfinite(trained)
        with precision():
            reported = figures(network, images, masks, held_out, chosen.preset)
            on_inner = figures(network, images, masks, inner, chosen.preset) if len(inner) else {}
        epochs.append({"loss": trained, "reported": reported, "inner": on_inner})
        if seconds is not None and len(epochs) == 1:
            # The first epoch tells how many there is time for; the cosine ends with the last of them.
            planned = max(1, min(planned, int(seconds / (time.monotonic() - began))))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, planned, LAST_RATE)
        schedule.step()
    best = max(range(len(epochs)), key=lambda n: epochs[n]["reported"]["iou_batch8"])
    selected = {"best on the reported": best, "last": len(epochs) - 1}
    if len(inner):
        selected["best on a part of training"] = max(
            range(len(epochs)), key=lambda n: epochs[n]["inner"]["iou_batch8"]
        )
    return {
        "diverged": diverged,
        "shortened": len(epochs) < EPOCHS,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": time.monotonic() - began,
        "selected": {how: {"epoch": n + 1, **epochs[n]["reported"]} for how, n in selected.items()},
        "epochs": epochs,
    }


def adam(network: Network, chosen: argparse.Namespace) -> torch.optim.Optimizer:
    """Adam with its decay on everything; KAN layers faster. In ``paper2d`` theta is not decayed."""
    layers = [module for module in network.modules() if isinstance(module, KANLinear)]
    kan = {id(p) for layer in layers for p in layer.parameters()}
    groups: dict[str, list[nn.Parameter]] = {"kan": [], "theta": [], "rest": []}
    for name, parameter in network.named_parameters():
        is_theta = chosen.preset == "paper2d" and name.endswith("theta")
        groups["kan" if id(parameter) in kan else "theta" if is_theta else "rest"].append(parameter)
    settings: dict[str, dict[str, float]] = {
        "kan": {"lr": KAN_RATE},
        "theta": {"lr": RATE * chosen.threshold_rate, "weight_decay": 0.0},
        "rest": {},
    }
    return torch.optim.Adam(
        [{"params": parameters, **settings[name]} for name, parameters in groups.items() if parameters],
        lr=RATE,
        weight_decay=DECAY,
    )


def bce_dice(logits: Tensor, y: Tensor) -> Tensor:
    """``BCE / 2 + 1 - Dice``, the soft Dice of each image by itself."""
    p, t = torch.sigmoid(logits).flatten(1), y.flatten(1)
    dice = (2 * (p * t).sum(1) + SMALL) / (p.sum(1) + t.sum(1) + SMALL)
    return 0.5 * F.binary_cross_entropy_with_logits(logits, y) + 1 - dice.mean()


# ---- figures --------------------------------------------------------------------------------------------


@torch.no_grad()
def figures(
    network: Network, images: Tensor, masks: Tensor, indices: np.ndarray, preset: str
) -> dict[str, float]:
    """The four families on these images, in batches of 8 in their order."""
    network.eval()
    found, truth = [], []
    for at in torch.from_numpy(indices).to(images.device).split(BATCH):
        found.append(network(normal(images[at], preset)).float() > 0)
        truth.append(masks[at].bool())
    return families(torch.cat(found), torch.cat(truth))


def families(found: Tensor, truth: Tensor) -> dict[str, float]:
    """IoU and Dice of masks (N, 1, y, x): pooled by batches of 8, per image, over all pixels, and macro.

    Per image two empty masks are 1 and one empty mask 0; ``dice_macro`` is the mean of foreground and
    background Dice per image.
    """
    p, t = found.flatten(1).cpu(), truth.flatten(1).cpu()
    both, either, sizes = (p & t).sum(1).double(), (p | t).sum(1).double(), (p.sum(1) + t.sum(1)).double()
    counts = torch.tensor([len(part) for part in both.split(BATCH)], dtype=torch.float64)
    pooled = torch.stack([(a.sum() + SMALL) / (b.sum() + SMALL) for a, b in _pairs(both, either)])
    dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)
    beyond, blank = (~p & ~t).sum(1).double(), (~p).sum(1).double() + (~t).sum(1).double()
    background = torch.where(blank > 0, 2 * beyond / blank.clamp(min=1), 1.0)
    micro = both.sum() / either.sum().clamp(min=1)
    return {
        "iou_batch8": float((counts * pooled).sum() / counts.sum()),
        "dice_batch8": float((counts * 2 * pooled / (1 + pooled)).sum() / counts.sum()),
        "iou_img": float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean()),
        "dice_img": float(dice.mean()),
        "iou_micro": float(micro),
        "dice_micro": float(2 * micro / (1 + micro)),
        "dice_macro": float((dice + background).mean() / 2),
    }


def _pairs(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.split(BATCH), b.split(BATCH), strict=True)


# ---- the table ------------------------------------------------------------------------------------------


def print_table(layout: str, models: Sequence[str], chosen: argparse.Namespace) -> None:
    """Mean and spread over the seeds in percent, for each way to choose an epoch, beside what is printed."""
    print(
        f"\n{chosen.table}, {layout}, {chosen.preset}, widths {chosen.widths}; IoU / F1 over batches of 8, %"
    )
    for model in models:
        paths = [chosen.out / f"{file_name(layout, model, seed, chosen)}.json" for seed in chosen.seeds]
        runs = [json.loads(path.read_text()) for path in paths if path.is_file()]
        sound = [run for run in runs if not run["diverged"]]
        said = [f"{len(runs) - len(sound)} diverged"] * (len(sound) < len(runs))
        said += [f"shortened to {min(len(run['epochs']) for run in runs)} epochs"] * any(
            run["shortened"] for run in runs
        )
        if (layout, model) in PRINTED and chosen.table == "table1":
            said.append("printed {:.2f} / {:.2f}".format(*PRINTED[layout, model]))
        if chosen.table == "table3" and model in PRINTED_TABLE3:
            said.append(f"printed {PRINTED_TABLE3[model]:.2f} (data set not named)")
        print(
            f"{model} ({len(runs)} of {len(chosen.seeds)} runs; {', '.join(said) or 'nothing printed known'})"
        )
        for how in sound[0]["selected"] if sound else ():
            kept = [run["selected"][how] for run in sound]
            iou, f1, image, macro = (
                spread([100 * figures[name] for figures in kept])
                for name in ("iou_batch8", "dice_batch8", "dice_img", "dice_macro")
            )
            print(f"  {how:28} {iou} / {f1}   per image F1 {image}, macro F1 {macro}")


def spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" +- {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
