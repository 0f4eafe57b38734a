"""From ``ModelSpec`` to a module."""

from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet


def build_model(spec: ModelSpec) -> ProSMAUNet:
    """Network of ``spec``, with PyTorch's default initialisation drawn from the global generator."""
    return ProSMAUNet(spec)
