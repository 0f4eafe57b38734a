"""Networks and gates in a state where their gates say something."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GateOptions
from napari_prosma.nn.gates import Gate, make_gate
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

NARROW = (4, 6, 8)
"""Three levels: a finest gate, a deepest gate and a bottleneck."""


def settle(module: nn.Module, *inputs: Tensor) -> None:
    """Give every batch norm the statistics of ``inputs`` and a scale and shift; end in eval mode."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
        norm.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(*inputs)
    module.eval()
    for norm in norms:
        norm.momentum = 0.1


@pytest.fixture
def settled_gate() -> Callable[..., tuple[Gate, Tensor, Tensor]]:
    """``settled_gate(name, dims, norm)``: a float64 gate in eval mode, a skip >= 0, a gating tensor."""

    def make(
        name: str, dims: int = 2, norm: str = "batch", threshold: float = 0.3
    ) -> tuple[Gate, Tensor, Tensor]:
        torch.manual_seed(7)
        options = GateOptions(norm=norm, threshold=threshold, latent_min=5)
        gate = make_gate(name, 6, 7, dims, options).double()
        size = (9, 10) if dims == 2 else (5, 6, 7)
        skip = torch.randn(2, 6, *size, dtype=torch.float64).relu()
        gating = torch.randn(2, 7, *size, dtype=torch.float64).relu()
        settle(gate, skip, gating)
        return gate, skip, gating

    return make


@pytest.fixture
def settled_network() -> Callable[..., ProSMAUNet]:
    """``settled_network(**spec)``: a small network in eval mode, its norms fitted to noise."""

    def make(dims: int = 2, in_channels: int = 1, out_channels: int = 1, **spec: object) -> ProSMAUNet:
        torch.manual_seed(11)
        network = build_model(
            ModelSpec(dims, in_channels, out_channels, **{"widths": NARROW, **spec})  # type: ignore[arg-type]
        )
        settle(network, torch.rand(2, in_channels, *(32,) * dims if dims == 2 else (16,) * dims))
        return network

    return make
