"""From ``ModelSpec`` to a module, and from a device's name to the device."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import torch
from torch import nn

from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.gates import Gate, ProximalMask
from napari_prosma.nn.network_kinds import NETWORKS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

Module = TypeVar("Module", bound=nn.Module)
Network = ProSMAUNet | Baseline
"""Whatever ``build_model`` gives: ``spec``, ``divisor``, and ``network(image, trace=None)`` -> logits."""
Layout = Literal["contiguous", "channels-last"]
"""How weights, and so what passes through the network, lie in memory."""
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
USUAL_LAYOUT: dict[int, Layout] = {2: "channels-last", 3: "contiguous"}
"""By dims, where nothing was measured."""
_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def build_model(spec: ModelSpec) -> Network:
    """Network of ``spec``, with PyTorch's default initialisation drawn from the global generator.

    Its weights lie as is usual for its dims; ``lay_out`` changes that.
    """
    network = NETWORKS[spec.network].make(spec)
    return lay_out(network, spec.dims, USUAL_LAYOUT[spec.dims])


def lay_out(network: Module, dims: int, layout: Layout) -> Module:
    """The same network with its weights in ``layout``; what it computes agrees to rounding."""
    memory_format = _LAST[dims] if layout == "channels-last" else torch.contiguous_format
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    return network


def fuse(network: nn.Module, on: bool = True) -> bool:
    """Let the end of each proximal gate be one kernel (``nn.fast.tail``), or no longer; False: there is none.

    It needs CUDA and Triton. Elsewhere the gates compute as before; what they compute agrees to rounding.
    """
    gates = [m for m in network.modules() if isinstance(m, Gate) and isinstance(m.spatial, ProximalMask)]
    for gate in gates:
        gate.is_fused = on
    return bool(gates)


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    ValueError
        A device that this machine does not have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available.get(name, False):
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ValueError(f"device {name!r} is not available here; choose auto or one of {there}")
    return torch.device(name)
