"""Opening a panel is quick, and its words fit what there is to choose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QSpinBox,
)
from superqt import QCollapsible

from napari_prosma.plugin.inspect.panel import SHOWN_AT_FIRST
from napari_prosma.plugin.shared.panel import Panel


def test_opening_a_panel_imports_nothing_slow():
    panels = (
        "train.panel",
        "annotate.panel",
        "train.check_window",
        "segment.panel",
        "inspect.panel",
        "evaluate.panel",
    )
    modules = (*panels, *(f"contributions.{name}" for name in ("reader", "writer", "samples")))
    imports = ", ".join(f"napari_prosma.plugin.{name}" for name in modules)
    costly = "('torch', 'monai', 'matplotlib', 'scipy.ndimage', 'scipy.spatial')"
    program = f"import sys, {imports}\nprint([name for name in {costly} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_maps_shown_at_first_exist():
    from napari_prosma.inspection.maps import KINDS

    assert set(SHOWN_AT_FIRST) <= set(KINDS)


@pytest.mark.parametrize("name", ["Train", "Segment", "Inspect gates"])
def test_the_tab_key_goes_from_top_to_bottom(open_panel: Callable[[str], Panel], name: str):
    panel = open_panel(name)
    chain = [panel.nextInFocusChain()]
    while chain[-1] is not None and chain[-1] is not panel:
        chain.append(chain[-1].nextInFocusChain())
    first = panel.source.folder.line if name == "Train" else panel.model.button
    assert chain.index(first) < chain.index(panel.start_button) < chain.index(panel.stop_button)


def test_every_field_says_what_it_is_for(open_panel: Callable[[str], Panel]):
    kinds = (QComboBox, QLineEdit, QSpinBox, QDoubleSpinBox, QCheckBox, QRadioButton, QPushButton)
    for name in ("Train", "Segment", "Inspect gates"):
        panel = open_panel(name)
        fields = [field for kind in kinds for field in panel.findChildren(kind)]
        own = [field for field in fields if not isinstance(field.parent(), QAbstractSpinBox | QCollapsible)]
        silent = [field for field in own if not field.toolTip() and field is not panel.start_button]
        assert silent == []
