"""The keys of the program, written once: bound to the viewer, named in tooltips, listed in the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import napari


@dataclass(frozen=True)
class Key:
    """A key as people read it, and what it does."""

    name: str
    does: str

    @property
    def bound(self) -> str:
        """As napari knows it."""
        return self.name.replace("+", "-")


KEYS = {
    "start": Key("Ctrl+Return", "press the main button of the panel that the cursor is in"),
    "fill": Key("Shift+F", "fill between the drawn slices"),
    "fill to here": Key("Shift+H", "continue the nearest drawn slice up to the one on screen"),
    "accept slice": Key("Shift+A", "accept the prediction for the slice on screen"),
    "accept region": Key("A", "accept the predicted region under the cursor"),
    "accept surer": Key("Shift+S", "accept predictions of at least the chosen confidence"),
    "reject region": Key("D", "reject the predicted region under the cursor"),
    "done, next": Key("Shift+N", "save what Annotate next opened, and open the next"),
    "soft tissue": Key("F2", "CT window of soft tissue"),
    "lung": Key("F3", "CT window of the lung"),
    "bone": Key("F4", "CT window of bone"),
    "brain": Key("F6", "CT window of the brain"),
    "liver": Key("F7", "CT window of the liver"),
}
"""By what they do. None is a key of napari's labels, images or viewer."""


def tip(text: str, key: str) -> str:
    """A tooltip that names the key."""
    return f"{text} ({KEYS[key].name})"


def bind(viewer: napari.Viewer, calls: Mapping[str, Callable[[], None]]) -> None:
    """Let keys call these, wherever in the viewer they are pressed."""
    for name, call in calls.items():
        viewer.bind_key(KEYS[name].bound, _ignoring_viewer(call), overwrite=True)


def release(viewer: napari.Viewer, names: Mapping[str, object]) -> None:
    """Let go of keys."""
    for name in names:
        viewer.bind_key(KEYS[name].bound, None)


def _ignoring_viewer(call: Callable[[], None]) -> Callable[[napari.Viewer], None]:
    return lambda _viewer: call()
