"""What looking inside costs: a traced pass against a plain one, and how fast a what-if follows its slider.

    python benchmarks/trace.py --out trace.json
    python benchmarks/trace.py --device cuda --repeats 30 --out trace.json

Plain and traced passes of the same network over the same input take turns in one process, so that whatever
else the machine does falls on both. Beside the wall clock the processor time of the process is told: it
hardly depends on what else runs, but counts waiting threads too: on a busy machine take --threads 1. The
memory of a trace is what it keeps alive once the pass is over, every block counted once; a plain pass keeps
its logits alone.

A what-if is told per coarsest changed skip, maps and measures included. Prints tables and writes JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import circumstances, timed

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.what_if import WhatIf
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.gates import Change, GateTrace
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec

SIZES: dict[str, tuple[int, ...]] = {"2d": (256, 256), "3d": (32, 48, 48)}


def checkpoint_of(gate: str, widths: str, size: tuple[int, ...]) -> Checkpoint:
    """Random weights whose norms have seen noise, so that the gates are neither empty nor all open."""
    dims = len(size)
    torch.manual_seed(0)
    network = build_model(ModelSpec(dims, 1, 1, WIDTHS[widths], gate)).train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.randn(2, 1, *(32,) * dims))
    plan = Plan(dims=dims, channels=1, class_names=("background", "lesion"), patch=size, batch=1)
    return Checkpoint(network.spec, plan, network.state_dict(), config={}, epoch=1)


def kept_bytes(trace: GateTrace) -> int:
    """Memory that a trace keeps alive."""
    tensors = [t for skip in trace.skips.values() for t in vars(skip).values() if isinstance(t, torch.Tensor)]
    blocks = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(blocks.values())


@torch.no_grad()
def passes(
    checkpoint: Checkpoint, size: tuple[int, ...], repeats: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of plain and traced passes that take turns, and the memory of a trace."""
    model = checkpoint.build(device)
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0)).to(device)
    runs: dict[str, Callable[[], object]] = {
        "plain": lambda: model(image),
        "traced": lambda: model(image, GateTrace()),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            taken = timed(run, device)
            if turn >= 2:  # the first ones allocate and choose algorithms
                seconds[name].append(taken)
    trace = GateTrace()
    model(image, trace)
    found: dict[str, Any] = {"kept MiB": kept_bytes(trace) / 2**20, "input MiB": image.nbytes / 2**20}
    for n, clock in enumerate(("wall", "processor")):
        plain, traced = (median(taken[n] for taken in seconds[name]) for name in runs)
        pairs = zip(seconds["plain"], seconds["traced"], strict=True)
        found |= {f"{clock} plain": plain, f"{clock} traced": traced}
        found[f"{clock} ratio"] = median(t[n] / p[n] for p, t in pairs if p[n] > 0)
    if device.type == "cuda":
        for name, run in runs.items():
            torch.cuda.reset_peak_memory_stats()
            run()
            found[f"peak MiB {name}"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def what_if(
    checkpoint: Checkpoint, size: tuple[int, ...], repeats: int, device: torch.device
) -> dict[int, Any]:
    """Seconds from a new setting to its segmentation, maps and measures, by the coarsest changed skip."""
    values = np.random.default_rng(0).normal(size=(1, *size)).cumsum(axis=-1).astype(np.float32)
    label = np.zeros(size, np.uint8)
    label[tuple(slice(n // 4, n // 2) for n in size)] = 1
    image = Image(values, Geometry.pixels(len(size)))
    tried = WhatIf(checkpoint, image, label=label, device=device.type)
    found = {}
    for level in tried.window.levels:
        taken = [
            timed(lambda at=1.1 + 0.01 * turn, k=level: tried.apply({k: Change(at)}), device)
            for turn in range(repeats)
        ]
        tried.apply({})
        found[level] = {clock: median(t[n] for t in taken) for n, clock in enumerate(("wall", "processor"))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", default="prosma,attention", help=f"of {', '.join(GATES)}")
    parser.add_argument("--widths", default="tiny", choices=WIDTHS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("trace.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    result: dict[str, Any] = {
        **circumstances(device),
        "widths": given.widths,
        "passes": {},
        "what if": {},
    }
    print(f"{'':>14} {'plain ms':>9} {'traced ms':>9} {'ratio':>6} {'ratio, processor':>16} {'trace MiB':>9}")
    for gate in given.gates.split(","):
        for name, size in SIZES.items():
            checkpoint = checkpoint_of(gate, given.widths, size)
            found = passes(checkpoint, size, given.repeats, device)
            result["passes"][f"{gate} {name}"] = {"size": size, **found}
            print(
                f"{gate + ' ' + name:>14} {1e3 * found['wall plain']:9.1f} {1e3 * found['wall traced']:9.1f} "
                f"{found['wall ratio']:6.2f} {found['processor ratio']:16.2f} {found['kept MiB']:9.1f}"
            )
    print(f"\n{'what if':>14} " + " ".join(f"{'skip ' + str(k) + ' ms':>10}" for k in range(1, 5)))
    for name, size in SIZES.items():
        checkpoint = checkpoint_of("prosma", given.widths, size)
        followed = what_if(checkpoint, size, given.repeats, device)
        result["what if"][name] = {"size": size, "by coarsest changed skip": followed}
        for clock in ("wall", "processor"):
            cells = " ".join(f"{1e3 * taken[clock]:10.1f}" for taken in followed.values())
            print(f"{name + ' ' + clock:>14} {cells}")
    given.out.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
