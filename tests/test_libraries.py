"""Triton keeps to its own LLVM, whoever imports it and whatever was drawn before."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

DRAWN = """
import os
import numpy
from napari import Viewer
from qtpy.QtWidgets import QApplication
viewer = Viewer()
viewer.add_image(numpy.eye(8))
QApplication.processEvents()
if "libLLVM" not in open("/proc/self/maps").read():
    print("Mesa's LLVM does not draw here")
"""
IMPORTED_BY = {
    "torch": "import napari_prosma, torch._dynamo",
    "a panel that has loaded": """
from napari_prosma.plugin.shared.loading import loading
list(loading())
import torch._dynamo
""",
    "a model that is read, then a kernel": """
from pathlib import Path
import napari_prosma
from napari_prosma.plugin.shared.model_chooser import _reading
list(_reading(Path(napari_prosma.__file__).parent / "models" / "breast-ultrasound"))
import napari_prosma.nn.fast.tail
""",
}


@pytest.mark.skipif(sys.platform != "linux" or find_spec("triton") is None, reason="there is no Triton")
@pytest.mark.parametrize("way", IMPORTED_BY)
def test_a_window_that_mesa_draws_outlives_the_import_of_triton(way: str) -> None:
    script = DRAWN + IMPORTED_BY[way] + "\nos._exit(0)  # Qt's own end is not tested"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
