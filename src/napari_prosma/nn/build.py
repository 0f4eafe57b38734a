"""From ``ModelSpec`` to a module, and from a device's name to the device."""

import torch

from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet


def build_model(spec: ModelSpec) -> ProSMAUNet:
    """Network of ``spec``, with PyTorch's default initialisation drawn from the global generator.

    2D weights are held channels-last, which is faster; results agree to rounding.
    """
    model = ProSMAUNet(spec)
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
