"""What the gates cost a whole network: forward, training step, memory, arithmetic, beside other U-Nets.

    python benchmarks/network.py --out network.json
    python benchmarks/network.py --settings 2d --networks "no gate,prosma,prosma as written" --rounds 9
    python benchmarks/network.py --settings 2d-short,3d-short --threads 1 --rounds 15 \
        --networks "no gate,prosma,prosma fast throughout" --out network-short.json

Networks of the same widths take turns in one process, one pass each per round, so that whatever else the
machine does falls on all of them. The ratio to the network without gates is taken within a round; the median
over the rounds is told. Beside the wall clock the processor time of the process is told, whose ratios hold on
a busy machine. ``prosma as written`` computes every gate by the operations of the paper, ``prosma fast
throughout`` every gate the fast way, also where a batch has few positions.

A step is forward in training mode, loss, backward and AdamW. Saved memory is what the forward pass keeps for
the backward one, each block counted once, without weights and input. Networks of MONAI and
nnU-Net are compared if ``monai`` and ``dynamic_network_architectures`` are installed.
"""

from __future__ import annotations

import os

# Threads that wait by spinning would be counted as work done.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import circumstances, computing, saved_bytes, timed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_prosma.nn.build import build_model
from napari_prosma.nn.fast.forward import reference
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec

SETTINGS: dict[str, tuple[int, ...]] = {
    "2d": (4, 1, 256, 256),
    "3d": (1, 1, 64, 64, 64),
    "2d-short": (2, 1, 64, 80),
    "3d-short": (2, 1, 16, 24, 16),
}
"""The short ones are what the network behind a strided entry is given in a run of a few minutes; networks of
others need more than 16 positions along an axis."""
BASE = "no gate"
OTHERS = {"MONAI": "monai", "nnU-Net": "dynamic_network_architectures"}
"""Of whom networks are, and what has to be installed for them."""


def ours(gate: str) -> Callable[[int, tuple[int, ...]], nn.Module]:
    return lambda dims, widths: build_model(ModelSpec(dims, 1, 1, widths, gate))


def attention_unet(dims: int, widths: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.attentionunet import AttentionUnet

    return AttentionUnet(dims, 1, 1, widths, (2,) * (len(widths) - 1))


def basic_unet(dims: int, widths: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.basic_unet import BasicUNet

    return BasicUNet(dims, 1, 1, (*widths, widths[0]))


def dyn_unet(dims: int, widths: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.dynunet import DynUNet

    strides = [1] + [2] * (len(widths) - 1)
    return DynUNet(dims, 1, 1, [3] * len(widths), strides, strides[1:], filters=widths)


def nnunet(name: str) -> Callable[[int, tuple[int, ...]], nn.Module]:
    def make(dims: int, widths: tuple[int, ...]) -> nn.Module:
        from dynamic_network_architectures.architectures import unet

        levels = len(widths)
        blocks = "n_blocks_per_stage" if name == "ResidualEncoderUNet" else "n_conv_per_stage"
        return getattr(unet, name)(
            input_channels=1,
            n_stages=levels,
            features_per_stage=widths,
            conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
            kernel_sizes=3,
            strides=[1] + [2] * (levels - 1),
            num_classes=1,
            n_conv_per_stage_decoder=2 if name == "PlainConvUNet" else 1,
            conv_bias=True,
            norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **{blocks: 2},
        )

    return make


NETWORKS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    BASE: ours("none"),
    "prosma": ours("prosma"),
    "prosma as written": ours("prosma"),
    "prosma fast throughout": ours("prosma"),
    "attention gate": ours("attention"),
    "MONAI AttentionUnet": attention_unet,
    "MONAI BasicUNet": basic_unet,
    "MONAI DynUNet": dyn_unet,
    "nnU-Net PlainConvUNet": nnunet("PlainConvUNet"),
    "nnU-Net ResidualEncoderUNet": nnunet("ResidualEncoderUNet"),
}


class Contender:
    """One network with what it needs for a pass."""

    def __init__(self, name: str, setting: str, widths: tuple[int, ...], device: torch.device) -> None:
        self.name, self.shape = name, SETTINGS[setting]
        torch.manual_seed(0)
        self.network = NETWORKS[name](len(self.shape) - 2, widths).to(device)
        fused = device.type == "cpu" or None
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=fused)
        self.image = torch.randn(self.shape, device=device)
        self.truth = (torch.rand(self.shape, device=device) < 0.2).float()

    def loss(self) -> Tensor:
        with computing(self.name):
            return nn.functional.binary_cross_entropy_with_logits(self.network(self.image), self.truth)

    def forward(self) -> None:
        self.network.eval()
        with torch.no_grad(), computing(self.name):
            self.network(self.image)

    def step(self) -> None:
        self.network.train()
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def saved_bytes(self) -> int:
        """What a training forward pass keeps for the backward pass."""
        self.network.train()
        return saved_bytes(self.loss, (self.image, *self.network.parameters()))

    def flops(self) -> int:
        """Of a forward pass as written: hand-written operations are not seen by the counter."""
        self.network.eval()
        with torch.no_grad(), reference(), FlopCounterMode(display=False) as counter:
            self.network(self.image)
        return counter.get_total_flops()


def compare(contenders: list[Contender], kind: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median seconds and ratios to the first contender of every pass; a first round is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {c.name: [] for c in contenders}
    for turn in range(rounds + 1):
        for contender in contenders:
            seconds = timed(getattr(contender, kind), device)
            if turn:
                taken[contender.name].append(seconds)
    base = taken[contenders[0].name]
    return {
        name: {
            clock: {
                "seconds": median(t[n] for t in own),
                "ratio": median(t[n] / b[n] for t, b in zip(own, base, strict=True)),
            }
            for n, clock in enumerate(("wall", "processor"))
        }
        for name, own in taken.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="2d,3d", help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="the first is what others relate to")
    parser.add_argument("--widths", default="tiny", choices=WIDTHS)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    names = given.networks.split(",")
    missing = [
        name for name in names for of, module in OTHERS.items() if of in name and not find_spec(module)
    ]
    result: dict[str, Any] = {
        **circumstances(device),
        "widths": given.widths,
        "rounds": given.rounds,
        "not installed": missing,
    }
    for setting in given.settings.split(","):
        contenders = [
            Contender(name, setting, WIDTHS[given.widths], device) for name in names if name not in missing
        ]
        forward = compare(contenders, "forward", given.rounds, device)
        step = compare(contenders, "step", given.rounds, device)
        print(f"\n{setting} {' x '.join(map(str, SETTINGS[setting]))}: processor time, ratio to {names[0]}")
        heads = "".join(f" {kind + ' ms':>10} {'ratio':>6} {'(wall)':>7}" for kind in ("forward", "step"))
        print(f"{'':28}{heads} {'saved MiB':>9} {'GFLOP':>6} {'params':>10}")
        rows = result[setting] = {}
        for c in contenders:
            row = rows[c.name] = {
                "forward": forward[c.name],
                "step": step[c.name],
                "saved MiB": c.saved_bytes() / 2**20,
                "GFLOP": c.flops() / 1e9,
                "parameters": sum(p.numel() for p in c.network.parameters()),
            }
            cells = ""
            for kind in ("forward", "step"):
                wall, processor = row[kind]["wall"], row[kind]["processor"]
                cells += f" {1e3 * processor['seconds']:10.0f} {processor['ratio']:6.3f}"
                cells += f" ({wall['ratio']:5.3f})"
            print(
                f"{c.name:28}{cells} {row['saved MiB']:9.0f} {row['GFLOP']:6.1f} {row['parameters']:10,}",
                flush=True,
            )
        for name in missing:
            print(f"{name:28} not installed")
    if given.out:
        given.out.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
