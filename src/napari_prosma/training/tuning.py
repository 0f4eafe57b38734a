"""Moved to ``model.tuning``; this name works for one more release."""

from napari_prosma.model.tuning import cache_file
from napari_prosma.model.tuning import remembered as _remembered

__all__ = ["_remembered", "cache_file"]
