"""What training and segmentation need is imported in a thread, piece by piece, with a word to the user."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib import import_module

from napari_prosma.events import Event, Started
from napari_prosma.plugin.layers import load_layers

SLOW_TO_IMPORT = {
    "matplotlib.figure": "Matplotlib",
    "torch": "PyTorch",
    "lightning_fabric": "Lightning",
    "napari_prosma.training.run": "the training",
    "napari_prosma.training.curves": "the curves",
}
"""Modules that training needs, as the user is told of them."""


def loading() -> Iterator[Event]:
    """Import what is slow to import, with a chance to stop in between."""
    gc.disable()  # a few hundred thousand new objects make Python search for garbage time and again
    try:
        for module, name in SLOW_TO_IMPORT.items():
            yield Started(0, f"Loading {name}")
            import_module(module)
        load_layers()
    finally:
        gc.enable()
