"""Opening a panel is quick, and its words fit what there is to choose."""

from __future__ import annotations

import subprocess
import sys

from napari_prosma.nn.gates import GATES
from napari_prosma.nn.spec import WIDTHS
from napari_prosma.plugin import choices
from napari_prosma.plugin.inspect_panel import SHOWN_AT_FIRST


def test_opening_a_panel_imports_neither_torch_nor_matplotlib():
    modules = ("train_panel", "segment_panel", "inspect_panel", "reader", "writer", "samples")
    imports = ", ".join(f"napari_prosma.plugin.{name}" for name in modules)
    costly = "('torch', 'monai', 'matplotlib.pyplot', 'matplotlib.figure')"
    program = f"import sys, {imports}\nprint([name for name in {costly} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_choices_are_those_of_the_network():
    assert list(choices.WIDTHS) == list(WIDTHS)
    assert set(choices.GATES) == set(GATES)


def test_maps_shown_at_first_exist():
    from napari_prosma.inspection.maps import KINDS

    assert set(SHOWN_AT_FIRST) <= set(KINDS)
