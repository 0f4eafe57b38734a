"""The study of the gates: five questions at full length, small enough for two cores.

    python benchmarks/study.py train Dataset_BUSI_with_GT --blocks A --out study     # restartable, run by run
    python benchmarks/study.py train Dataset_BUSI_with_GT --blocks A B E --out study --part 0 2 &
    python benchmarks/study.py look Dataset_BUSI_with_GT --out study                 # blocks C and D

Every run and every look is one JSON under ``--out``; what is there is not made again, and a run that was
stopped goes on. ``--part K N`` takes every N-th run, so that N processes share a block.

=====  ==================================================================================================
block  what is varied
=====  ==================================================================================================
A      none, scale, attention, dense, prosma: five seeds of split and weights each
B      prosma: lambda at the start 0.1 and 1.5, rate of theta x 10 (x 1 is the default, so the prosma of
       A), decay on theta with a start of 0.1; three seeds each
C      noise of the modality on all models of A: area under Dice over its strength
D      gates at their means, deletion with controls, how alike two seeds are on all models of A;
       selectivity and zeros of z on all models
E      the printed form of the gate, without its norms: three seeds
=====  ==================================================================================================

Images are split by clusters of near-duplicates: train, inner (chooses an epoch) and test. All of it is the
program's own training with its whole schedule; reported are the last epoch and the best on the inner part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import circumstances

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.check import check_each, near_duplicates
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.data.metrics import case_metrics
from napari_prosma.events import Event, Finished
from napari_prosma.inspection.citing import content_of
from napari_prosma.inspection.data_set import read_fitting_case
from napari_prosma.inspection.faithfulness import (
    deletion_curve,
    leave_one_out,
    noise_test,
    sanity_check,
)
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.inspection.window import open_window
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint
from napari_prosma.model.windows import labels_of
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.segmentation.segment import segment
from napari_prosma.training import learner as learner_module
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.run_folder import read_metrics
from napari_prosma.training.split import split_cases

SIDE, WIDTHS = 64, "tiny"
EPOCHS, STEPS = 20, 135
"""A hundred times through the images, validated after every fifth: 2,700 steps of 16."""
LEFT_OUT = "normal"
"""Images whose names hold this have no lesion; no Dice can be told of them."""
TEST, INNER = 0.2, 0.15
"""Shares of the images that are reported, and that choose the best epoch."""
LOOKED_AT = 40
"""Test images of each model that blocks C and D look at, evenly chosen."""
DECAYED, DECAY = "decayed theta", 1e-4
"""An arm with L2 decay in the gradient of theta, as the published optimiser has it."""
TRAINED = ("A", "B", "E")


@dataclass(frozen=True)
class Run:
    """One training of the study."""

    block: str
    arm: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.block}-{self.arm}-{self.seed}"


def plan_of(blocks: Sequence[str]) -> list[Run]:
    """The runs of some blocks, seed by seed, so that arms of a seed stand beside each other early."""
    started = {f"start {value:g}": {"gate_options": GateOptions(threshold=value)} for value in (0.1, 1.5)}
    arms: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {
        "A": (5, {gate: {"gate": gate} for gate in ("none", "scale", "attention", "dense", "prosma")}),
        "B": (
            3,
            {
                **started,
                "theta x 10": {"threshold_rate": 10.0},
                "decay on theta": {"gate_options": GateOptions(threshold=0.1), DECAYED: True},
            },
        ),
        "E": (3, {"printed": {"gate_options": GateOptions(norm="none")}}),
    }
    return [
        Run(block, arm, seed, settings)
        for block in blocks
        for seed in range(arms[block][0])
        for arm, settings in arms[block][1].items()
    ]


def split_of(cases: Sequence[Case], clusters: Sequence[Sequence[str]], seed: int) -> dict[str, list[Case]]:
    """Train, inner and test; whole clusters are drawn until a part is full."""
    together = {name: cluster[0] for cluster in clusters for name in cluster}
    units: dict[str, list[Case]] = {}
    for case in cases:
        units.setdefault(together.get(case.name, case.name), []).append(case)
    order = np.random.default_rng(seed).permutation(sorted(units))
    wanted = {"test": TEST * len(cases), "inner": INNER * len(cases), "train": np.inf}
    parts: dict[str, list[Case]] = {part: [] for part in wanted}
    for unit in order:
        part = next(part for part, number in wanted.items() if len(parts[part]) < number)
        parts[part] += units[str(unit)]
    return parts


def train_run(run: Run, data: DataSet, clusters: Sequence[Sequence[str]], given: argparse.Namespace) -> dict:
    """Train one run, or go on with it, and measure it on its test images."""
    parts = split_of(data.cases, clusters, run.seed)
    settings = {k: v for k, v in run.settings.items() if k != DECAYED}
    cases, fraction = _in_order(parts["train"], parts["inner"], run.seed)
    config = TrainConfig.of(
        run_dir=given.out / "runs" / run.name,
        widths=given.widths,
        side=given.side,
        epochs=given.epochs,
        steps_per_epoch=given.steps,
        modality="ultrasound",
        validation_fraction=fraction,
        seed=run.seed,
        threads=1,
        device="cpu",
        **settings,
    )
    began = time.perf_counter()
    last = config.run_dir / LAST
    resumed = load_checkpoint(last) if last.is_file() else None
    if resumed is None or resumed.epoch < config.epochs:
        with decayed_theta() if run.settings.get(DECAYED) else nullcontext():
            for _ in train(config, cases, data.class_names, resumed):
                pass
    models = {
        which: load_checkpoint(config.run_dir / name) for which, name in (("last", LAST), ("best", BEST))
    }
    return {
        "run": run.name,
        "block": run.block,
        "arm": run.arm,
        "seed": run.seed,
        "seconds": time.perf_counter() - began,
        "circumstances": circumstances(torch.device("cpu")),
        "split": {part: sorted(case.name for case in held) for part, held in parts.items()},
        "config": json.loads(config.model_dump_json()),
        "thresholds": _thresholds(models["last"]),
        "lambda": lambda_of(config.run_dir),
        **{
            which: {
                "epoch": model.epoch,
                "steps": model.steps,
                "weights": content_of(model),
                "cases": {case.name: _measured(model, case) for case in parts["test"]},
            }
            for which, model in models.items()
        },
    }


def _in_order(learned: Sequence[Case], inner: Sequence[Case], seed: int) -> tuple[list[Case], float]:
    """The cases in an order of which the run's own split holds out ``inner``, and the share it is told."""
    number = len(learned) + len(inner)
    fraction = (len(inner) - 0.5) / number
    _, held_out = split_cases([*learned, *inner], fraction, seed)
    left, right = iter(learned), iter(inner)
    return [next(right) if n in set(held_out) else next(left) for n in range(number)], fraction


@contextmanager
def decayed_theta() -> Iterator[None]:
    """Thresholds with L2 decay in their gradient, which Adam scales to full steps."""
    made = learner_module.make_optimizer

    def with_decay(network: torch.nn.Module, *rest: Any) -> torch.optim.Optimizer:
        for name, theta in network.named_parameters():
            if name.endswith("theta"):
                theta.register_hook(lambda gradient, theta=theta: gradient + DECAY * theta.detach())
        return made(network, *rest)

    learner_module.make_optimizer = with_decay
    try:
        yield
    finally:
        learner_module.make_optimizer = made


def _thresholds(model: Checkpoint) -> dict[str, float]:
    """Mean lambda of every skip."""
    return {
        name.removesuffix(".spatial.theta"): float(torch.nn.functional.softplus(tensor).mean())
        for name, tensor in model.weights.items()
        if name.endswith("theta")
    }


def lambda_of(run_dir: Path) -> dict[str, list[float]]:
    """Mean lambda of every skip, epoch by epoch."""
    means: dict[str, list[float]] = {}
    for epoch in read_metrics(run_dir):
        for level, figures in epoch.gates.items():
            if "lambda_mean" in figures:
                means.setdefault(f"skip{level}", []).append(figures["lambda_mean"])
    return means


def _measured(model: Checkpoint, case: Case) -> dict[str, float]:
    """Dice and IoU on the image's own grid."""
    image, label = read_fitting_case(case, model)
    assert label is not None
    found = finished(segment(model, image, name=case.name, device="cpu"))
    return {k: float(v) for k, v in case_metrics(found.labels, label, model.plan.class_names).items()}


def finished(events: Iterator[Event]) -> Any:
    """The result of a run's last event."""
    return next(event.result for event in events if isinstance(event, Finished))


# ---- looking at what was trained --------------------------------------------------------------------------


def look_at(
    run: Mapping[str, Any], others: Mapping[int, Path], data: DataSet, given: argparse.Namespace
) -> dict:
    """Blocks C and D on one model: what its gates do on test images, and of block A all else, and noise.

    ``others`` are the trainings of the same gate, by seed; the one with the next seed is held beside it.
    """
    checkpoint = load_checkpoint(given.out / "runs" / run["run"] / LAST)
    by_name = {case.name: case for case in data.cases}
    names = run["split"]["test"]
    chosen = [names[k] for k in np.unique(np.linspace(0, len(names) - 1, given.cases).round().astype(int))]
    beside = next_seed(run["seed"], others) if run["block"] == "A" else None
    other = None if beside is None else load_checkpoint(others[beside])
    rows: dict[str, list[Any]] = {"measures": [], "means": [], "noise": [], "deletion": [], "seeds": []}
    seen = {name: read_fitting_case(by_name[name], checkpoint) for name in chosen}
    for name, (image, label) in seen.items():
        about: dict[str, Any] = {"name": name, "label": label, "device": "cpu"}
        record = finished(inspect_gates(checkpoint, image, **about))
        rows["measures"] += [{"image": name, "skip": n, **s.measures} for n, s in record.skips.items()]
        if run["block"] != "A":
            continue
        rows["means"] += finished(leave_one_out(checkpoint, image, **about)).rows
        rows["noise"] += finished(noise_test({run["run"]: checkpoint}, image, kind="speckle", **about)).rows
        if any(skip.psi is not None for skip in record.skips.values()):
            rows["deletion"] += finished(deletion_curve(checkpoint, image, **about)).rows
            if other is not None:
                rows["seeds"] += finished(sanity_check(checkpoint, image, other=other, **about)).rows
    if run["block"] == "A":
        rows["means"] += c_over_images(checkpoint, seen)
    return {
        "run": run["run"],
        "arm": run["arm"],
        "seed": run["seed"],
        "weights": content_of(checkpoint),
        "beside": beside,
        "circumstances": circumstances(torch.device("cpu")),
        "cases": chosen,
        "rows": in_short(rows),
    }


def next_seed(seed: int, others: Iterable[int]) -> int | None:
    """The next larger of the other seeds, or the smallest."""
    left = sorted(set(others) - {seed})
    return next((each for each in left if each > seed), left[0] if left else None)


def c_over_images(checkpoint: Checkpoint, seen: Mapping[str, tuple[Image, np.ndarray | None]]) -> list[dict]:
    """What it costs to set every channel's c to its mean over the images: whether c follows the image."""
    windows = {
        name: open_window(checkpoint, image, name=name, label=label, device="cpu")
        for name, (image, label) in seen.items()
    }
    channels: dict[int, list[torch.Tensor]] = {}
    usual = {}
    for name, window in windows.items():
        trace = GateTrace()
        usual[name] = window.dice(labels_of(window.probabilities(trace=trace)))["dice"]
        for level, skip in trace.skips.items():
            if skip.channel is not None:
                channels.setdefault(level, []).append(skip.channel[0])
    if not channels:
        return []
    changes = {
        level: Change(c=tuple(torch.stack(each).mean(dim=0).tolist())) for level, each in channels.items()
    }
    dice = {
        name: window.dice(labels_of(window.probabilities(changes)))["dice"]
        for name, window in windows.items()
    }
    about = {"skip": 0, "part": "c over the images"}
    return [{"image": name, **about, "worth": before - dice[name]} for name, before in usual.items()]


def in_short(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What the page needs: the mean over each deletion curve, and Dice under noise once an image."""
    curves: dict[tuple[str, int, str], list[float]] = {}
    for row in rows["deletion"]:
        curves.setdefault((row["image"], row["skip"], row["order"]), []).append(row["dice"])

    def only(what: str, *columns: str) -> list[dict[str, Any]]:
        return [{k: row[k] for k in columns if k in row} for row in rows[what]]

    noise = only("noise", "image", "strength", "dice")
    return {
        "measures": only("measures", "image", "skip", "selectivity", "z_zero_fraction"),
        "means": only("means", "image", "skip", "part", "worth"),
        "noise": [dict(one) for one in dict.fromkeys(tuple(row.items()) for row in noise)],
        "deletion": [
            {"image": image, "skip": skip, "order": order, "dice": float(np.mean(dice))}
            for (image, skip, order), dice in curves.items()
        ],
        "seeds": only("seeds", "image", "skip", "randomised", "correlation"),
    }


# ---- the command ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("train", "look"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--blocks", nargs="+", default=list(TRAINED), choices=TRAINED)
    parser.add_argument("--part", nargs=2, type=int, default=(0, 1), metavar=("K", "N"))
    parser.add_argument("--seeds", type=int, help="at most so many; by default as many as the block has")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--steps", type=int, default=STEPS, help="per epoch")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--widths", default=WIDTHS)
    parser.add_argument("--cases", type=int, default=LOOKED_AT, help="that each look takes")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = find_cases(given.data)
    data = replace(data, cases=tuple(case for case in data.cases if LEFT_OUT not in case.name))
    clusters = _clusters(data, given.out / "clusters.json")
    if given.what == "train":
        for run in plan_of(given.blocks)[given.part[0] :: given.part[1]]:
            if given.seeds is None or run.seed < given.seeds:
                kept(given.out / f"{run.name}.json", lambda run=run: train_run(run, data, clusters, given))
        return
    runs = [json.loads(path.read_text()) for path in sorted(given.out.glob("[ABE]-*-?.json"))]
    models = {run["run"]: given.out / "runs" / run["run"] / LAST for run in runs}
    runs = [run for run in runs if models[run["run"]].is_file()]
    for run in runs[given.part[0] :: given.part[1]]:
        others = {r["seed"]: models[r["run"]] for r in runs if r["arm"] == run["arm"]}
        path = given.out / f"look-{run['run']}.json"
        kept(path, lambda run=run, others=others: look_at(run, others, data, given))


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What a file holds; made and written whole if it is missing."""
    if not path.is_file():
        made = make()
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(made, indent=1))
        print(path, flush=True)
    return dict(json.loads(path.read_text()))


def _clusters(data: DataSet, path: Path) -> list[list[str]]:
    found = kept(path, lambda: {"clusters": [list(c) for c in near_duplicates(list(check_each(data)))]})
    return list(found["clusters"])


if __name__ == "__main__":
    main()
