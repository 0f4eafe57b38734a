"""From ``ModelSpec`` to a module, and from a device's name to the device."""

from __future__ import annotations

import torch

from napari_prosma.nn.baselines.attention_unet import AttentionUNet
from napari_prosma.nn.baselines.baseline import Baseline
from napari_prosma.nn.baselines.nested_unet import NestedUNet
from napari_prosma.nn.baselines.rolling_unet import RollingUNet
from napari_prosma.nn.baselines.ukan import UKAN
from napari_prosma.nn.baselines.ukan2 import UKAN2
from napari_prosma.nn.baselines.unet import UNet
from napari_prosma.nn.baselines.unext import UNeXt
from napari_prosma.nn.baselines.volume_unet import VolumeUNet
from napari_prosma.nn.spec import OURS, ModelSpec
from napari_prosma.nn.unet import ProSMAUNet

Network = ProSMAUNet | Baseline
"""Whatever ``build_model`` gives: ``spec``, ``divisor``, and ``network(image, trace=None)`` -> logits."""
_CLASSES: dict[str, type[ProSMAUNet] | type[Baseline]] = {
    OURS: ProSMAUNet,
    "unet": UNet,
    "attention-unet": AttentionUNet,
    "unet++": NestedUNet,
    "unext": UNeXt,
    "rolling-unet": RollingUNet,
    "ukan": UKAN,
    "ukan2": UKAN2,
}


def build_model(spec: ModelSpec) -> Network:
    """Network of ``spec``, with PyTorch's default initialisation drawn from the global generator.

    2D weights are held channels-last, which is faster; results agree to rounding.
    """
    kind = VolumeUNet if (spec.network, spec.dims) == ("unet", 3) else _CLASSES[spec.network]
    model = kind(spec)
    if spec.dims == 2:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


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
