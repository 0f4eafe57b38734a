"""Moved to ``model.tuning``; this name works for one more release."""

from napari_prosma.model.tuning import _remembered, cache_file

__all__ = ["_remembered", "cache_file"]
