"""What runs need is loaded behind a panel that the user sees, and the window stays live meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import napari
import pytest
from pytestqt.qtbot import QtBot
from vispy.visuals.line.dash_atlas import DashAtlas, _make_pattern

from napari_prosma.events import Started
from napari_prosma.plugin.segment.panel import SegmentPanel
from napari_prosma.plugin.shared import loading
from napari_prosma.plugin.shared.layers import load_layers
from napari_prosma.plugin.shared.panel import Panel

SOON = 30_000


@pytest.fixture
def newest(home: Path, run: Path) -> Path:
    """The folder of an earlier run of the user."""
    folder = home / "prosma-runs" / "earlier"
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    return folder


@pytest.fixture
def slow_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that takes a while to import."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.3)")
    monkeypatch.syspath_prepend(tmp_path)
    yield "slow_module"
    sys.modules.pop("slow_module", None)


def test_a_panel_is_painted_before_what_it_needs_is_loaded(
    make_napari_viewer: Callable[..., napari.Viewer],
    qtbot: QtBot,
    newest: Path,
    slow_module: str,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(SegmentPanel, "needs", {slow_module: "a slow module"})
    viewer = make_napari_viewer(show=True)
    _, panel = viewer.window.add_plugin_dock_widget("napari-prosma", "Segment")
    assert panel.model.path == newest
    assert not panel.preparing.is_running
    assert not panel.model.is_reading
    with qtbot.waitSignal(panel.preparing.ended, timeout=SOON):
        qtbot.waitUntil(lambda: panel.preparation.text() == "Loading a slow module…", timeout=SOON)
        assert panel.progress_bar.maximum() == 0  # it moves
        assert slow_module in sys.modules
    assert panel.preparation.text() == ""
    assert panel.progress_bar.maximum() == 1
    qtbot.waitUntil(lambda: panel.model.facts is not None, timeout=SOON)


def test_a_panel_that_nobody_sees_loads_nothing(open_panel: Callable[[str], Panel], qtbot: QtBot):
    panel = open_panel("Evaluate")
    qtbot.wait(100)
    assert not panel.preparing.is_running


def test_a_panel_that_was_painted_unseen_loads_once_it_is_seen(
    open_panel: Callable[[str], Panel], qtbot: QtBot, slow_module: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(SegmentPanel, "needs", {slow_module: "a slow module"})
    panel = open_panel("Segment")
    panel.grab()
    qtbot.wait(50)
    assert slow_module not in sys.modules
    with qtbot.waitSignal(panel.preparing.ended, timeout=SOON):
        panel.window().show()
    assert slow_module in sys.modules


def test_every_panel_says_what_it_needs():
    for needs in (loading.TRAINING, loading.SEGMENTATION, loading.INSPECTION, loading.EVALUATION):
        assert "torch" in needs
        assert all(find_spec(module) is not None for module in needs)


def test_only_what_is_not_there_yet_is_told(slow_module: str):
    needs = {"json": "JSON", slow_module: "a slow module"}
    assert list(loading.loading(needs)) == [Started(0, "Loading a slow module")]
    assert list(loading.loading(needs)) == []


def test_layers_are_loaded_once(monkeypatch: pytest.MonkeyPatch):
    loading._load_layers.cache_clear()
    made = []
    monkeypatch.setattr(loading, "load_layers", lambda: made.append("layers"))
    for _ in range(2):
        list(loading.loading({}))
    assert made == ["layers"]


def test_what_was_imported_is_not_searched_for_garbage_at_once(slow_module: str):
    gc.unfreeze()  # as in a program, where no test came before
    events = loading.loading({slow_module: "a slow module"})
    next(events)
    kept = [[n] for n in range(10 * gc.get_threshold()[0])]
    list(events)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert len(kept) > gc.get_threshold()[0] > gc.get_count()[0]


MAPPING = """
import sys, threading, time
from napari_prosma.plugin.shared.loading import map_torch
thread = threading.Thread(target=map_torch)
thread.start()
time.sleep(0.05)
turns, mapped = 0, False
while thread.is_alive():
    time.sleep(0.001)
    mapped = mapped or "libtorch_cpu" in open("/proc/self/maps").read()
    turns += mapped
assert "torch" not in sys.modules
import torch
assert torch.ones(3, 2).mm(torch.ones(2, 3)).sum() == 18
print(turns)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mapped by the import itself elsewhere")
def test_other_threads_run_while_torch_is_mapped():
    done = subprocess.run([sys.executable, "-c", MAPPING], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 5


def test_the_first_labels_layer_finds_its_dashes_drawn():
    _make_pattern.cache_clear()
    load_layers()
    drawn = _make_pattern.cache_info().misses
    DashAtlas()  # as napari's overlay of a labels layer makes it
    assert _make_pattern.cache_info().misses == drawn > 0
