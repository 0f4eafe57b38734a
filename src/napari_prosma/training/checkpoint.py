"""Moved to ``model.checkpoint``; this name works for one more release."""

from napari_prosma.model.checkpoint import BEST, ENSEMBLE, LAST, Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["BEST", "ENSEMBLE", "LAST", "Checkpoint", "load_checkpoint", "save_checkpoint"]
