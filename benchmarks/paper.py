"""The tables of the ProSMA paper, run again: its networks, splits, protocols and families of figures.

    python benchmarks/paper.py table1 --data Dataset_BUSI_with_GT --models prosma-unet unet --out runs
    python benchmarks/paper.py table2 --data Task09_Spleen --out runs
    python benchmarks/paper.py table3 --data Dataset_BUSI_with_GT --out runs --budget 10
    python benchmarks/paper.py pack --data Dataset_BUSI_with_GT --out busi.npz

The published protocols have no test set: the best epoch is chosen on the part that is reported. So the last
epoch is reported beside it, and with ``--inner`` the best on a part of the training set; with ``--clusters``
near-duplicates never lie on two sides. ``paper_planar.py`` and ``paper_volumes.py`` say what the presets are,
``gpu.py`` in which order a GPU is best used.

One JSON per run; a run whose JSON is there is not run again. ``--minutes`` ends a call in time, in the middle
of a run if need be, and the same line goes on. A run that diverged says so in its JSON and in the table. With
``--budget`` every run has an equal share of so many minutes and as many epochs as fit, and whatever is
printed says that it was shortened. Where the processor computes, these are its minutes, per thread: a run
that is halted or shares its core loses nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from paper_data import CLUSTERS, SIZES, Split, pack, read_pictures, split
from paper_planar import BATCH, PRESETS, PlanarTask
from paper_run import TORCH_SEED, Length, Task, best_flops, fit, flops_per_step, selected
from paper_tables import print_table, summarise
from paper_volumes import EPOCHS, EVERY, VolumeTask, read_volumes

from napari_prosma import __version__
from napari_prosma.data.atomic import written_whole
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.nn.build import choose_device
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.network_kinds import NETWORKS, OURS, WIDTHS
from napari_prosma.nn.spec import OURS_GATE, ModelSpec
from napari_prosma.training.batches import PreparedCases

SEEDS = (2981, 6142, 1187)
"""Of the splits, as in U-KAN."""
TABLE2 = ("unet", "ukan", "ukan2", OURS_GATE)
TABLE3 = ("none", "channel", "spatial", OURS_GATE, "dense", "prosma-exact")

IN_TIME = "Time is up; the same line goes on from here."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("table1", "table2", "table3", "pack"))
    parser.add_argument("--data", type=Path, required=True, help="folder of a set, or what pack made of it")
    parser.add_argument("--out", type=Path, required=True, help="folder of one JSON per run; pack: the .npz")
    parser.add_argument("--models", nargs="+", choices=[*NETWORKS, *GATES])
    parser.add_argument("--widths", default="published", choices=["published", *WIDTHS])
    parser.add_argument("--seeds", type=whole_numbers, default=list(SEEDS), help="of the splits")
    parser.add_argument("--torch-seeds", type=whole_numbers, default=[TORCH_SEED], help="of the weights")
    parser.add_argument("--preset", choices=PRESETS, default="ukan_exact", help="of tables 1 and 3")
    parser.add_argument("--threshold", type=float, default=math.log(2), help="lambda at the start")
    parser.add_argument("--threshold-rate", type=float, default=1.0, help="of theta, relative")
    parser.add_argument("--gate-norm", choices=("batch", "none"), default="batch")
    parser.add_argument("--inner", type=float, help="part of the training set to choose on")
    parser.add_argument("--clusters", type=Path, help="splits.json; its near-duplicates stay together")
    parser.add_argument("--official", type=Path, help="report these: a text file, a name a line")
    parser.add_argument("--incomplete", action="store_true", help="go on with a part of the set")
    parser.add_argument("--size", type=int, help="side in pixels; by default 256, GlaS 512")
    parser.add_argument("--epochs", type=int, help="by default the preset's")
    parser.add_argument("--budget", type=float, help="minutes of all runs together; epochs are cut to fit")
    parser.add_argument("--minutes", type=float, help="stop then; the same line goes on")
    parser.add_argument("--compile", action="store_true", help="compile the networks of tables 1 and 3")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--summary", type=Path, help="write the table's runs in short to this JSON")
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(given)
    try:
        if chosen.what == "pack":
            pictures = read_pictures(chosen.data, chosen.size, chosen.incomplete)
            pack(pictures, chosen.out)
            print(
                f"{len(pictures.names)} images of {pictures.layout} at {pictures.size} pixels, "
                f"{chosen.out.stat().st_size / 2**20:.1f} MiB"
            )
            return
        run_table(chosen, f"python benchmarks/paper.py {shlex.join(given)}")
    except ProsmaError as error:
        parser.error(str(error))


def whole_numbers(text: str) -> list[int]:
    """``1,2,3``."""
    return [int(n) for n in text.split(",")]


@dataclass(frozen=True)
class Ready:
    """A set that is ready to run.

    ``task`` makes the training of a network on a split by a torch seed; ``facts`` go into every JSON;
    ``step`` is the batch and patch of a step.
    """

    name: str
    names: tuple[str, ...]
    facts: dict[str, Any]
    task: Callable[[ModelSpec, Split, int], Task]
    step: tuple[int, tuple[int, ...]]
    channels: int
    classes: int


def run_table(chosen: argparse.Namespace, command: str) -> None:
    """Every run that is not there yet, seed by seed; then the table of all of them."""
    try:
        device = choose_device(chosen.device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    torch.backends.cudnn.benchmark = True  # every step has the same size
    volumes = chosen.what == "table2"
    ready = ready_volumes(chosen, device) if volumes else ready_pictures(chosen, device)
    preset = PRESETS[chosen.preset]
    default = {"table1": tuple(NETWORKS), "table2": TABLE2, "table3": TABLE3}[chosen.what]
    models = [OURS_GATE if name == OURS else name for name in chosen.models or default]
    seeds = [(split_seed, torch_seed) for split_seed in chosen.seeds for torch_seed in chosen.torch_seeds]
    share = chosen.budget / (len(models) * len(seeds)) if chosen.budget else None
    paths = {
        (model, seed): chosen.out / f"{file_name(ready, model, *seed, chosen, share)}.json"
        for seed in seeds
        for model in models
    }
    specs = {model: spec_of(model, chosen, ready) for model in models}
    clusters = clusters_of(chosen.clusters, ready.name) if chosen.clusters else ()
    listed = text_of(chosen.official, "official").split() if chosen.official else None
    reported = None if volumes else listed or preset.reported
    inner = chosen.inner if chosen.inner is not None else 0.0 if volumes else preset.inner
    waiting = [key for key, path in paths.items() if not path.is_file()]
    deadline = time.monotonic() + 60 * chosen.minutes if chosen.minutes else None
    peak = best_flops(device) if waiting else 0.0
    for done, (model, (seed, torch_seed)) in enumerate(waiting):
        if deadline is not None and done and time.monotonic() > deadline:
            print(IN_TIME)
            break
        path, spec = paths[model, (seed, torch_seed)], specs[model]
        parts = split(ready.names, seed, clusters, inner, reported)
        length = Length(
            chosen.epochs or (EPOCHS if volumes else preset.epochs),
            "cosine" if volumes else preset.schedule,
            None if volumes else preset.patience,
            60 * share if share else None,
            deadline,
            EVERY if volumes and not (chosen.epochs or share) else 1,
        )
        print(f"{path.stem}: {len(parts.training)} for training, {len(parts.reported)} reported", flush=True)
        task = ready.task(spec, parts, torch_seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = fit(task, length, path.with_suffix(".part"))
        if result is None:
            print(IN_TIME)
            break
        by_loss = not volumes and preset.patience is not None
        operations = flops_per_step(spec, *ready.step)
        seconds = sorted(epoch["seconds"] for epoch in result["epochs"])
        result |= {
            "model": model,
            "seed": seed,
            "torch seed": torch_seed,
            "selected": selected(result["epochs"], "dice" if volumes else "iou_batch8", by_loss),
            "parameters": sum(p.numel() for p in task.network.parameters()),
            "speed": {
                "seconds per epoch": seconds[len(seconds) // 2],
                "floor of it by arithmetic": operations * task.steps / peak,
                "GFLOP per step": operations / 1e9,
                "GFLOP per second at best": peak / 1e9,
                "compiled": getattr(task, "way", "not asked to compile"),
            },
            "full length": EPOCHS if volumes else preset.epochs,
            "data": {
                **ready.facts,
                "clusters kept whole": bool(clusters),
                **{part: [ready.names[n] for n in getattr(parts, part)] for part in parts_of_split},
            },
            "spec": asdict(spec),
            "settings": {key: str(value) for key, value in vars(chosen).items()},
            "command": command,
            "versions": {"napari-prosma": __version__, "torch": torch.__version__},
            "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
        }
        result["shortened"] |= length.epochs < result["full length"]
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(result, indent=1))
        if result["diverged"]:
            print(f"  DIVERGED in epoch {len(result['epochs'])}", flush=True)
    there = [json.loads(path.read_text()) for path in paths.values() if path.is_file()]
    heading = (
        f"{chosen.what}, {ready.name}, {'msd3d' if volumes else chosen.preset}, widths {chosen.widths}"
        f"{', near-duplicates kept together' * bool(clusters)}; %"
    )
    print_table(chosen.what, heading, there, models, len(seeds))
    if chosen.summary:
        summarise([path for path in paths.values() if path.is_file()], chosen.summary, command)


parts_of_split = ("training", "inner", "reported")


def ready_pictures(chosen: argparse.Namespace, device: torch.device) -> Ready:
    """A set of tables 1 and 3."""
    preset = PRESETS[chosen.preset]
    pictures = read_pictures(chosen.data, chosen.size, chosen.incomplete)

    def task(spec: ModelSpec, parts: Split, torch_seed: int) -> Task:
        return PlanarTask(
            spec, preset, pictures, parts, device, chosen.threshold_rate, chosen.compile, torch_seed
        )

    facts = {"set": pictures.layout, "size": pictures.size, "missing": list(pictures.missing)}
    step = (BATCH, (pictures.size, pictures.size))
    return Ready(pictures.layout, pictures.names, facts, task, step, 3, 1)


def ready_volumes(chosen: argparse.Namespace, device: torch.device) -> Ready:
    """A set of table 2."""
    data, plan, name = read_volumes(chosen.data, chosen.incomplete)
    prepared = PreparedCases(data.cases, plan)

    def task(spec: ModelSpec, parts: Split, torch_seed: int) -> Task:
        return VolumeTask(spec, data, prepared, plan, parts, device, torch_seed)

    facts = {"set": name, "cases": len(data.cases), "plan": plan.in_words()}
    names = tuple(case.name for case in data.cases)
    return Ready(name, names, facts, task, (plan.batch, plan.patch), plan.channels, len(plan.class_names))


def clusters_of(path: Path, layout: str) -> list[list[str]]:
    """The near-duplicates of a set.

    Raises
    ------
    ConfigError
        None are known of it, or the file does not hold them.
    """
    if layout not in CLUSTERS:
        raise ConfigError(f"no near-duplicates are known of {layout}, only of {', '.join(CLUSTERS)}")
    try:
        return json.loads(text_of(path, "clusters"))[CLUSTERS[layout]]["near_duplicate_clusters"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"'{path}' holds no near-duplicates of {layout} ({type(error).__name__}: {error}); it should be "
            f"JSON with lists of names under {CLUSTERS[layout]!r}, 'near_duplicate_clusters'"
        ) from error


def text_of(path: Path, option: str) -> str:
    """What a file holds that an option names.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--{option} '{path}' cannot be read: {error}") from error


def file_name(
    ready: Ready, model: str, seed: int, torch_seed: int, chosen: argparse.Namespace, share: float | None
) -> str:
    """Whatever distinguishes a run from another one; ``share`` is its minutes."""
    preset = "msd3d" if chosen.what == "table2" else chosen.preset
    given = {"inner": chosen.inner, "minutes": share, "epochs": chosen.epochs}
    if torch_seed != TORCH_SEED:
        given = {"torch": torch_seed, **given}
    size = ready.facts.get("size")
    if size != SIZES.get(ready.name):
        given = {"size": size, **given}
    parts = [ready.name, model, chosen.widths, preset, f"seed{seed}"]
    parts += [f"{name}{value:g}" for name, value in given.items() if value is not None]
    parts += [name for name in ("clusters", "official") if getattr(chosen, name)]
    if model in GATES:
        parts += [f"lambda{chosen.threshold:.2f}", f"x{chosen.threshold_rate:g}", chosen.gate_norm]
    return "_".join(parts)


def spec_of(model: str, chosen: argparse.Namespace, ready: Ready) -> ModelSpec:
    """The name of a gate is ours with that gate.

    Raises
    ------
    ConfigError
        There is no such network in 3D, or no such gate.
    """
    dims = len(ready.step[1])
    network = OURS if model in GATES else model
    # MONAI's and our own 3D networks are published, or run, at the widths of ``tiny``.
    published = WIDTHS["tiny"] if dims == 3 and network in (OURS, "unet") else NETWORKS[network].widths
    try:
        options = GateOptions(threshold=chosen.threshold, norm=chosen.gate_norm)
        gate = {"gate": model, "gate_options": options} if network == OURS else {}
        return ModelSpec(
            dims,
            ready.channels,
            ready.classes,
            published if chosen.widths == "published" else WIDTHS[chosen.widths],
            network=network,
            **gate,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


if __name__ == "__main__":
    main()
