"""Whether DiM and DALE help on BUSI: few labels, another domain, and labels of which some are wrong.

    python benchmarks/objectives.py dim --data Dataset_BUSI_with_GT --side 64 --epochs 60 --out runs/dim
    python benchmarks/objectives.py dale --data Dataset_BUSI_with_GT --seeds 0,1,2 --budget 20 --out runs/dale

``dim`` learns from 10 % and 20 % of the labels with the rest as bare images, and from benign lesions with
malignant ones as bare images, tested on malignant ones: supervised, mean teacher (rho = beta = 0), SAM
(mu = beta = 0) and DiM. ``dale`` learns from masks of which 30 % are eroded, dilated, shifted or another
case's: supervised, DALE, and DALE with a part left out. The validation cases of a run, by which its best
epoch is chosen, keep their right masks.

The test cases are the same fifth in every run; near-duplicates are kept out of it with ``--clusters``. All
arms of an experiment have the same cases, seeds and number of steps. One JSON per run; a run whose JSON is
there is not run again. With ``--budget`` the epochs follow from the measured time of a step, so that
everything takes about so many minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import rankdata
from skimage.transform import resize

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.metrics import case_metrics
from napari_prosma.data.preparation import prepare
from napari_prosma.events import OBJECTIVE, EpochEnd, Progress
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import BEST, LAST, load_checkpoint
from napari_prosma.model.windows import labels_of, probabilities_of
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.doubt import look_first
from napari_prosma.training.run import train
from napari_prosma.training.split import split_cases

TESTED, VALIDATED, CORRUPTED = 0.2, 0.2, 0.3
"""Shares: of all cases, of those that a run is given, and of those that it learns from."""
SPLIT_SEED = 2981
"""Of the test cases, as the first split of U-KAN's code."""
KINDS = ("eroded", "dilated", "shifted", "wrong lesion")
STEPS = 20
"""Per epoch."""
PROBED = 2
"""Epochs by which the time of an arm is measured."""
BATCH = 8
SHARES = {"10 %": 0.1, "20 %": 0.2}
DOMAINS = "benign to malignant"
SUPERVISED = "supervised"


@dataclass(frozen=True)
class Arm:
    """A way of learning: an objective with its options."""

    name: str
    objective: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run: which experiment, which arm, which seed."""

    experiment: str
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        return f"{self.experiment}_{self.arm.name}_seed{self.seed}".replace(" ", "-").replace("%", "percent")


ARMS = {
    "dim": (
        Arm(SUPERVISED, SUPERVISED),
        Arm("mean teacher", "dim", {"rho": 0.0, "beta": 0.0}),
        Arm("SAM", "dim", {"mu_max": 0.0, "beta": 0.0}),
        Arm("DiM", "dim"),
    ),
    "dale": (
        Arm(SUPERVISED, SUPERVISED),
        Arm("DALE", "dale"),
        # Nothing is set aside; elements around the boundaries have a confidence of their own instead.
        Arm("DALE without partition", "dale", {"least_cases": 1_000_000}),
        Arm("DALE without confidence", "dale", {"floor": 1.0}),
        Arm("DALE without alignment", "dale", {"align": "none"}),
    ),
}
EXPERIMENTS = {"dim": (*SHARES, DOMAINS), "dale": ("30 % wrong",)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=tuple(ARMS))
    parser.add_argument("--data", type=Path, required=True, help="the folder of BUSI")
    parser.add_argument("--out", type=Path, required=True, help="folder of one JSON per run")
    parser.add_argument("--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--widths", default="quick")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=60, help=f"of {STEPS} steps")
    parser.add_argument("--budget", type=float, help="minutes in all; epochs are cut to fit")
    parser.add_argument("--clusters", type=Path, help="splits.json with the near-duplicates of BUSI")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, help="folder of the summary; by default that of --out")
    given = parser.parse_args()
    # No measurement of layouts in between, and the same one for all.
    os.environ.setdefault("PROSMA_CACHE", "")
    pool, tested = cases_of(given)
    jobs = [
        Job(experiment, arm, seed)
        for seed in given.seeds
        for experiment in EXPERIMENTS[given.which]
        for arm in ARMS[given.which]
    ]
    epochs = epochs_of(given, pool, tested)
    for job in jobs:
        path = given.out / f"{job.name}_side{given.side}_{given.widths}_epochs{epochs}.json"
        if path.is_file():
            print(f"{path.name} is there", flush=True)
            continue
        began = time.perf_counter()
        result = run(job, pool, tested, epochs, given)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1))
        print(f"{job.name}: Dice {result['dice']:.4f} ({time.perf_counter() - began:.0f} s)", flush=True)
        report(given, epochs, tested)
    report(given, epochs, tested, is_shown=True)


# ---- data -----------------------------------------------------------------------------------------------


def cases_of(given: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Lesions of BUSI in memory, ``side`` pixels square: those to learn from and those to test on."""
    found = [case for case in find_cases(given.data).cases if case.group != "normal"]
    found.sort(key=lambda case: case.name)
    near = {}
    if given.clusters:
        known = json.loads(given.clusters.read_text())["busi"]["near_duplicate_clusters"]
        near = {stem(name): n for n, cluster in enumerate(known) for name in cluster}
    groups: dict[Any, list[Case]] = {}
    for case in found:
        groups.setdefault(near.get(stem(case.name), case.name), []).append(case)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(groups))
    shuffled = [[*groups.values()][n] for n in order]
    tested: list[Case] = []
    while len(tested) < TESTED * len(found):
        tested += shuffled.pop()
    pool = [case for group in shuffled for case in group]
    print(f"{len(pool)} lesions to learn from, {len(tested)} to test on", flush=True)
    return [held(case, given.side) for case in pool], [held(case, given.side) for case in tested]


def stem(name: str) -> str:
    return name.split("/")[-1].removesuffix(".png")


def held(case: Case, side: int) -> Case:
    """The case in memory, ``side`` pixels square."""
    assert case.read_label is not None
    image, label = case.read_image().array, case.read_label()
    size = (side, side)
    small = np.stack([resize(channel.astype(np.float32), size, anti_aliasing=True) for channel in image])
    mask = resize(label.astype(bool), size, order=0).astype(np.uint8)
    kept = Case.from_arrays(case.name, small.astype(np.float32), mask, Geometry.pixels(2))
    return Case(kept.name, kept.read_image, kept.read_label, group=case.group)


def label_of(case: Case) -> np.ndarray:
    assert case.read_label is not None
    return case.read_label()


def with_label(case: Case, label: np.ndarray) -> Case:
    return Case(case.name, case.read_image, lambda: label, group=case.group)


def corrupted(cases: Sequence[Case], rng: np.random.Generator) -> dict[str, tuple[Case, str]]:
    """Wrong masks for a share of the cases, each kind alike: by name, with what was done."""
    chosen = rng.permutation(len(cases))[: round(CORRUPTED * len(cases))]
    wrong = {}
    for place, n in enumerate(chosen):
        kind, mask = KINDS[place % len(KINDS)], label_of(cases[n]).astype(bool)
        if kind == "eroded":
            new = changed_until(mask, ndimage.binary_erosion, lambda area: area < 0.5)
        elif kind == "dilated":
            new = changed_until(mask, ndimage.binary_dilation, lambda area: area > 2)
        elif kind == "shifted":
            rows, columns = (np.ptp(at) // 2 + 1 for at in np.nonzero(mask))
            signs = rng.choice((-1, 1), 2)
            new = ndimage.shift(mask, (signs[0] * rows, signs[1] * columns), order=0)
        else:
            other = (n + 1 + int(rng.integers(len(cases) - 1))) % len(cases)
            new = label_of(cases[other])
        wrong[cases[n].name] = (with_label(cases[n], np.asarray(new, np.uint8)), kind)
    return wrong


def changed_until(mask: np.ndarray, change: Any, is_enough: Any) -> np.ndarray:
    """A mask changed element by element until its area, relative to before, is enough; never empty."""
    new = mask
    while not is_enough(new.sum() / mask.sum()):
        following = change(new)
        if not following.any() or following.all():
            break
        new = following
    return new


# ---- runs -----------------------------------------------------------------------------------------------


def sets_of(job: Job, pool: list[Case]) -> tuple[list[Case], list[Case], dict[str, str]]:
    """Labelled cases, bare ones, and what was done to which masks."""
    rng = np.random.default_rng([job.seed, 7])
    if job.experiment == DOMAINS:
        return [c for c in pool if c.group == "benign"], [c for c in pool if c.group == "malignant"], {}
    if job.experiment in SHARES:
        order = rng.permutation(len(pool))
        count = round(SHARES[job.experiment] * len(pool))
        return [pool[n] for n in order[:count]], [pool[n] for n in order[count:]], {}
    learned, _ = split_cases(pool, VALIDATED, job.seed)
    wrong = corrupted([pool[n] for n in learned], rng)
    cases = [wrong[case.name][0] if case.name in wrong else case for case in pool]
    return cases, [], {name: kind for name, (_, kind) in wrong.items()}


def config_of(job: Job, epochs: int, given: argparse.Namespace) -> TrainConfig:
    options: dict[str, Any] = {}
    if job.arm.objective == "dim":
        options["objective_options"] = {"ramp": max(1, epochs // 4), **job.arm.options}
    elif job.arm.objective == "dale":
        phases = {"warm_up_epochs": max(1, epochs // 3), "every": max(1, epochs // 8)}
        options["objective_options"] = {**phases, **job.arm.options}
    return TrainConfig.of(
        run_dir=given.out / "runs" / job.name,
        widths=given.widths,
        patch=(given.side, given.side),
        batch=BATCH,
        epochs=epochs,
        steps_per_epoch=STEPS,
        objective=job.arm.objective,
        modality="ultrasound",
        validation_fraction=VALIDATED,
        seed=job.seed,
        device=given.device,
        **options,
    )


def run(
    job: Job, pool: list[Case], tested: list[Case], epochs: int, given: argparse.Namespace
) -> dict[str, Any]:
    labelled, bare, wrong = sets_of(job, pool)
    config = config_of(job, epochs, given)
    needs_bare = job.arm.objective == "dim" and job.arm.options.get("mu_max", 1) > 0
    figures, seconds = [], []
    for event, took in timed(train(config, labelled, unlabelled=bare if needs_bare else ())):
        if isinstance(event, Progress) and "loss" in event.message:
            seconds.append(took)
        elif isinstance(event, EpochEnd):
            figures.append({"loss": event.loss, **event.validation})
    cases = [case for case in tested if job.experiment != DOMAINS or case.group == "malignant"]
    best, last = (dice_of(config.run_dir / name, cases) for name in (BEST, LAST))
    result: dict[str, Any] = {
        "experiment": job.experiment,
        "arm": job.arm.name,
        "seed": job.seed,
        "dice": mean(best.values()),
        "dice of the last epoch": mean(last.values()),
        "cases": best,
        "processor seconds per step": median(seconds),
        "epochs": epochs,
        "labelled": len(labelled),
        "bare": len(bare) if needs_bare else 0,
        "figures": figures,
        "config": config.model_dump(mode="json"),
        "versions": {"napari-prosma": __version__, "torch": torch.__version__},
        "machine": platform.machine(),
    }
    if wrong:
        result["wrong"] = wrong
    if wrong and job.arm.objective == "dale":
        rows = look_first(config.run_dir)
        is_wrong = np.array([row.case in wrong for row in rows])
        result["area under the curve"] = {
            "1 - confidence": area(is_wrong, [1 - row.confidence for row in rows]),
            "place in the list": area(is_wrong, [-place for place in range(len(rows))]),
            "fuzziness": area(is_wrong, [row.fuzziness for row in rows]),
        }
        result["confidence"] = {row.case: row.confidence for row in rows}
    shutil.rmtree(config.run_dir)
    return result


def timed(events: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Events with the processor seconds that each took, which say more on a busy machine than the clock."""
    began = time.process_time()
    for event in events:
        yield event, time.process_time() - began
        began = time.process_time()


@torch.no_grad()
def dice_of(path: Path, cases: Sequence[Case]) -> dict[str, float]:
    """Dice of a model on each case, as small as it was trained."""
    checkpoint = load_checkpoint(path)
    model, names = checkpoint.build(), checkpoint.plan.class_names
    scores = {}
    for first in range(0, len(cases), 4 * BATCH):
        part = cases[first : first + 4 * BATCH]
        prepared = [prepare(Image(c.read_image().array, Geometry.pixels(2)), checkpoint.plan) for c in part]
        logits = model(torch.from_numpy(np.stack([p.array for p in prepared]))).float().numpy()
        for case, answer in zip(part, logits, strict=True):
            found = labels_of(probabilities_of(answer))
            scores[case.name] = case_metrics(found, label_of(case), names)["dice"]
    return scores


def area(is_wrong: np.ndarray, scores: Sequence[float]) -> float:
    """Under the ROC curve: how often a wrong label has a higher score than a right one; a tie is a half."""
    ranks, count = rankdata(scores), is_wrong.sum()
    return float((ranks[is_wrong].sum() - count * (count + 1) / 2) / (count * (~is_wrong).sum()))


def epochs_of(given: argparse.Namespace, pool: list[Case], tested: list[Case]) -> int:
    """As many as were asked for, or fit into the budget; kept, so that the next call does the same."""
    if given.budget is None:
        return given.epochs
    kept = given.out / f"{given.which}_budget{given.budget:g}_side{given.side}_{given.widths}.json"
    if kept.is_file():
        return json.loads(kept.read_text())["epochs"]
    per_epoch, fixed = 0.0, 0.0
    for experiment in EXPERIMENTS[given.which]:
        for arm in ARMS[given.which]:
            began = time.process_time()
            result = run(Job(experiment, arm, 0), pool, tested, PROBED, given)
            whole = time.process_time() - began
            training = STEPS * result["processor seconds per step"]
            per_epoch += (whole - fixed_part(whole, training)) / PROBED
            fixed += fixed_part(whole, training)
    left = 60 * given.budget - len(given.seeds) * fixed
    epochs = int(np.clip(left / (len(given.seeds) * per_epoch), 4, given.epochs))
    given.out.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"epochs": epochs, "seconds per epoch of all arms": per_epoch}))
    print(f"{epochs} epochs of {STEPS} steps fit into {given.budget:g} minutes", flush=True)
    return epochs


def fixed_part(whole: float, training: float) -> float:
    """Seconds of a probe that do not grow with its epochs: what is neither steps nor validation."""
    return max(0.0, whole - PROBED * 1.4 * training)


# ---- report ---------------------------------------------------------------------------------------------


def report(given: argparse.Namespace, epochs: int, tested: Sequence[Case], is_shown: bool = False) -> None:
    """Tables of what is there so far, written into the results and shown at the end."""
    pattern = f"*_side{given.side}_{given.widths}_epochs{epochs}.json"
    runs = [json.loads(path.read_text()) for path in sorted(given.out.glob(pattern))]
    rows = [
        summary(experiment, arm.name, runs)
        for experiment in EXPERIMENTS[given.which]
        for arm in ARMS[given.which]
    ]
    rows = [row for row in rows if row["runs"]]
    kept = {
        "what": f"{given.which} on BUSI at {given.side} pixels, network {given.widths}, {epochs} epochs of "
        f"{STEPS} steps, batch {BATCH}; Dice of {len(tested)} test lesions (fewer across domains) on that "
        f"grid, best epoch by validation",
        "command": f"python benchmarks/objectives.py {shlex.join(sys.argv[1:])}",
        "seeds": given.seeds,
        "near duplicates kept together": bool(given.clusters),
        "versions": runs[0]["versions"] if runs else {},
        "rows": rows,
    }
    results = given.results or given.out
    results.mkdir(parents=True, exist_ok=True)
    with written_whole(results / f"objectives-{given.which}.json") as temporary:
        temporary.write_text(json.dumps(kept, indent=1))
    if is_shown:
        print(f"\n{kept['what']}")
        for row in rows:
            print(in_words(row))


def summary(experiment: str, arm: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An arm's mean and spread over the seeds, and its paired difference from the supervised one."""
    here = {run["seed"]: run for run in runs if (run["experiment"], run["arm"]) == (experiment, arm)}
    plain = {run["seed"]: run for run in runs if (run["experiment"], run["arm"]) == (experiment, SUPERVISED)}
    row: dict[str, Any] = {"experiment": experiment, "arm": arm, "runs": len(here)}
    if not here:
        return row
    for name in ("dice", "dice of the last epoch"):
        row[name] = spread([run[name] for run in here.values()])
    both = sorted(here.keys() & plain.keys())
    if both and arm != SUPERVISED:
        differences = [
            mean(here[seed]["cases"][case] - plain[seed]["cases"][case] for seed in both)
            for case in here[both[0]]["cases"]
        ]
        row["difference per case"] = mean(differences)
        row["95 % interval over cases"] = 1.96 * stdev(differences) / len(differences) ** 0.5
        row["difference per seed"] = [here[seed]["dice"] - plain[seed]["dice"] for seed in both]
        cost = "processor seconds per step"
        row["cost of a step"] = mean(here[seed][cost] / plain[seed][cost] for seed in both)
    told = {
        name
        for run in here.values()
        for epoch in run["figures"]
        for name in epoch
        if name.startswith(OBJECTIVE)
    }
    if told:
        row["means over the epochs"] = {
            name.removeprefix(OBJECTIVE): spread(
                [mean(e[name] for e in run["figures"] if name in e) for run in here.values()]
            )
            for name in sorted(told)
        }
    curves = [run["area under the curve"] for run in here.values() if "area under the curve" in run]
    if curves:
        row["area under the curve"] = {name: spread([c[name] for c in curves]) for name in curves[0]}
    return row


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0}


def in_words(row: dict[str, Any]) -> str:
    dice = row["dice"]
    said = f"{row['experiment']:20} {row['arm']:24} {dice['mean']:.4f} +- {dice['deviation']:.4f}"
    if "difference per case" in row:
        seeds = ", ".join(f"{d:+.3f}" for d in row["difference per seed"])
        said += (
            f"  minus supervised {row['difference per case']:+.4f} (+- "
            f"{row['95 % interval over cases']:.4f} over cases; seeds {seeds}), "
            f"step x {row['cost of a step']:.2f}"
        )
    for name, found in row.get("area under the curve", {}).items():
        said += f", AUC of {name} {found['mean']:.3f} +- {found['deviation']:.3f}"
    return f"{said} ({row['runs']} runs)"


if __name__ == "__main__":
    main()
