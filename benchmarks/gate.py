"""One gate at a time: computed fast against computed as written, against the attention gate and against none.

    python benchmarks/gate.py --out gate.json
    python benchmarks/gate.py --settings 2d-short,3d-short --threads 1 --rounds 15 --out gate-short.json
    python benchmarks/gate.py --device cuda --rounds 30 --also compiled graphs fused --out gate.json
    TRITON_INTERPRET=1 python benchmarks/gate.py --small --also compiled fused      # tries this script itself

For every skip of a network of the widths asked for, at its real size: the ways to gate take turns in one
process, forward (evaluation, no gradients) and forward with backward (training). What is timed gives
``[x~, t]``, as the decoder takes it; for no gate that is their concatenation. Milliseconds are medians of
processor time, on CUDA of the wall clock. Saved memory is what is kept for the backward pass beside x and t.

``prosma as written`` computes by the operations of the paper, ``prosma fast`` the fast way, also where a
batch has few positions; ``prosma`` is one of the two, by the number of positions.

``share`` is the part of the bandwidth of a copy on the same device that the forward pass reaches, if it read
x and t and wrote ``[x~, t]`` once each and nothing else.

``--also`` adds further ways: compiled, compiled with CUDA graphs, and with the gate's end as one Triton
kernel (``fused``). Compiling takes its time, so it is tried on the finest skip alone, which costs most. A way
that this machine lacks is left out, and its row says why.
"""

from __future__ import annotations

import os

# Threads that wait by spinning would be counted as work done.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import circumstances, computing, saved_bytes, timed
from torch import Tensor

from napari_prosma.nn.build import fuse
from napari_prosma.nn.fast.forward import fuses
from napari_prosma.nn.gates import make_gate
from napari_prosma.nn.network_kinds import WIDTHS

SETTINGS: dict[str, tuple[int, tuple[int, ...]]] = {
    "2d": (4, (256, 256)),
    "3d": (1, (64, 64, 64)),
    "2d-short": (2, (64, 80)),
    "3d-short": (2, (16, 24, 16)),
}
"""Images and their size; the short ones are those of ``network.py``."""
WAYS = {
    "no gate": "none",
    "attention": "attention",
    "prosma": "prosma",
    "prosma as written": "prosma",
    "prosma fast": "prosma",
}
ALSO = {name: f"prosma {name}" for name in ("compiled", "graphs", "fused")}
MODES = {ALSO["compiled"]: None, ALSO["graphs"]: "reduce-overhead"}
"""Of the compiler."""


class Way:
    """One way to gate one skip."""

    def __init__(self, name: str, channels: int, batch: int, size: tuple[int, ...], device: str) -> None:
        torch.manual_seed(0)
        dims = len(size)
        self.name = name
        self.gate = make_gate(WAYS.get(name, "prosma"), channels, channels, dims).to(device)
        shape = (batch, channels, *size)
        self.skip, self.gating = (torch.randn(shape, device=device).relu() for _ in range(2))
        if dims == 2:
            # As the network holds them.
            self.gate.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.skip, self.gating = (
                t.contiguous(memory_format=torch.channels_last) for t in (self.skip, self.gating)
            )
        self.skip.requires_grad_()
        self.gating.requires_grad_()
        if name == ALSO["fused"]:
            fuse(self.gate)
            if not fuses(self.skip):
                raise RuntimeError("needs CUDA, or TRITON_INTERPRET=1, and Triton")
        self.compute = self.gate.joined
        if name in MODES:
            if MODES[name] and device != "cuda":
                raise RuntimeError("needs CUDA")
            self.compute = torch.compile(self.gate.joined, mode=MODES[name])
        self.joined()
        self.given = torch.randn_like(self.joined())

    def joined(self) -> Tensor:
        with computing(self.name):
            return self.compute(self.skip, self.gating)

    def forward(self) -> None:
        self.gate.eval()
        with torch.no_grad():
            self.joined()

    def step(self) -> None:
        self.gate.train()
        self.joined().backward(self.given)
        self.skip.grad = self.gating.grad = None

    def saved_bytes(self) -> int:
        """Kept for the backward pass, each block once, without x, t and the weights."""
        self.gate.train()
        return saved_bytes(self.joined, (self.skip, self.gating, *self.gate.parameters()))


def made(name: str, *shape: Any) -> Way | str:
    """A way that has gated once forward and back, or why it is left out."""
    try:
        way = Way(name, *shape)
        way.forward()
        way.step()
    except Exception as error:  # whatever a compiler says of this machine
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return way


def medians(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Milliseconds of each, taking turns; a first round is not counted."""
    clock = 0 if device == "cuda" else 1
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = timed(run, torch.device(device))[clock]
            if turn:
                taken[name].append(seconds)
    return {name: 1e3 * median(own) for name, own in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="2d,3d", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--widths", default="tiny", choices=WIDTHS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--also", nargs="*", choices=ALSO, default=[])
    parser.add_argument("--small", action="store_true", help="an eighth of each side, to try this script")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    result: dict[str, Any] = {
        **circumstances(torch.device(given.device)),
        "widths": given.widths,
        "rounds": given.rounds,
    }
    print(f"{'':10} {'':20} {'forward ms':>10} {'share':>6} {'step ms':>8} {'saved MiB':>9}")
    for setting in given.settings.split(","):
        batch, size = SETTINGS[setting]
        size = tuple(n // 8 for n in size) if given.small else size
        rows = result[setting] = {}
        for level, channels in enumerate(WIDTHS[given.widths][:-1], 1):
            at = tuple(n // 2 ** (level - 1) for n in size)
            names = [*WAYS, *(ALSO[also] for also in given.also if level == 1 or ALSO[also] not in MODES)]
            found = {name: made(name, channels, batch, at, given.device) for name in names}
            ways = {name: way for name, way in found.items() if isinstance(way, Way)}
            for name, why in found.items():
                if isinstance(why, str):
                    rows[f"skip {level}, {name}"] = {"left out": why}
            # A copy of x and t reads and writes as much as the least that gating them can.
            whole = torch.cat([ways["no gate"].skip, ways["no gate"].gating], dim=1).detach()
            other = torch.empty_like(whole)
            forward = medians(
                {"copy": lambda a=other, b=whole: a.copy_(b), **{n: w.forward for n, w in ways.items()}},
                given.rounds,
                given.device,
            )
            step = medians({n: w.step for n, w in ways.items()}, given.rounds, given.device)
            for name, way in ways.items():
                row = rows[f"skip {level}, {name}"] = {
                    "forward ms": forward[name],
                    "share": forward["copy"] / forward[name],
                    "step ms": step[name],
                    "saved MiB": way.saved_bytes() / 2**20,
                }
                print(
                    f"{setting + ' skip ' + str(level):10} {name:20} {row['forward ms']:10.2f} "
                    f"{row['share']:6.2f} {row['step ms']:8.2f} {row['saved MiB']:9.1f}",
                    flush=True,
                )
    if given.out:
        given.out.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
