"""Moved to ``plugin.shared.live``; this name works for one more release."""

from napari_prosma.plugin.shared.live import LiveCase

__all__ = ["LiveCase"]
