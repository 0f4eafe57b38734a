"""What runs need is imported in a thread, piece by piece, with a word to the user."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

from napari_prosma.events import Event, Started
from napari_prosma.libraries import map_library
from napari_prosma.plugin.shared.layers import load_layers

TRAINING = {
    "matplotlib.figure": "Matplotlib",
    "torch": "PyTorch",
    "lightning_fabric": "Lightning",
    "napari_prosma.training.run": "the training",
    "napari_prosma.training.curves": "the curves",
}
"""Modules that are slow to import, as the user is told of them; the same below."""
SEGMENTATION = {
    "torch": "PyTorch",
    "napari_prosma.segmentation.segment": "the segmentation",
    "napari_prosma.segmentation.cleaning": "the cleaning",
}
INSPECTION = {
    "torch": "PyTorch",
    "matplotlib.figure": "Matplotlib",
    "napari_prosma.inspection.what_if": "the inspection",
    "napari_prosma.inspection.readout": "the inspection",
}
EVALUATION = {
    "torch": "PyTorch",
    "matplotlib.figure": "Matplotlib",
    "napari_prosma.segmentation.evaluate": "the measures",
}

_LOADING = Lock()
"""Two panels may load at a time."""

SIGN_SECONDS = 0.1
"""For the window to say what is loaded: a library that it needs then must wait while PyTorch's is mapped."""


def loading(modules: Mapping[str, str] = TRAINING) -> Iterator[Event]:
    """Import what is slow to import, with a chance to stop in between."""
    for module, name in modules.items():
        if module in sys.modules:
            import_module(module)  # another thread may be about it
            continue
        yield Started(0, f"Loading {name}")
        if module == "torch":
            map_torch()
        with _no_search_for_garbage():
            import_module(module)
    _load_layers()


@cache
def _load_layers() -> None:
    with _no_search_for_garbage():
        load_layers()


@contextmanager
def _no_search_for_garbage() -> Iterator[None]:
    """Modules are no garbage, and are counted as old without a look.

    A few hundred thousand new objects make Python search for it time and again, in the end all of them at
    once (0.16 s).
    """
    with _LOADING:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            if was_enabled:
                gc.enable()


def map_torch() -> None:
    """Map PyTorch's library, before it is imported in a thread, without halting the other threads.

    An import keeps Python's lock while the system maps a library, here 400 MB: the window stood still for
    0.14 s, and for 0.7 s where the file was not in memory yet. A foreign function gives the lock back. On
    other systems than Linux, or where it cannot be mapped so, the import does it; also with CUDA or ROCm,
    whose libraries torch must choose itself.
    """
    found = find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or found is None or found.origin is None:
        return
    folder = Path(found.origin).parent / "lib"
    if any((folder / f"libtorch_{kind}.so").exists() for kind in ("cuda", "hip")):
        return
    time.sleep(SIGN_SECONDS)
    # In the order and the ways of torch's own start, whose library of dependencies all others may see.
    if map_library(folder / "libtorch_global_deps.so", os.RTLD_NOW | os.RTLD_GLOBAL):
        map_library(folder / "libtorch.so", os.RTLD_NOW)
