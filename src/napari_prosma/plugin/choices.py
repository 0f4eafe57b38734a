"""Choices in a user's words; kept apart from ``nn``, so that a panel opens without torch."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

WIDTHS = {
    "quick": "smallest, for a first look",
    "tiny": "small, for a laptop",
    "base": "medium, for a graphics card",
    "large": "the paper's size, for a large graphics card",
}
"""Presets of ``napari_prosma.nn.spec.WIDTHS``."""

GATES = {
    "prosma": "the paper's gate: sparse mask and channel weights",
    "spatial": "only the sparse mask",
    "channel": "only the channel weights",
    "none": "plain U-Net, nothing is gated",
    "attention": "Attention U-Net, to compare with",
    "dense": "the paper's gate without its threshold, to compare with",
    "prosma-exact": "ours: the mask is exactly zero where nothing speaks for a structure",
}
"""Gates of ``napari_prosma.nn.gates.GATES``."""

DEVICES = {
    "auto": "the fastest there is",
    "cpu": "the processor",
    "cuda": "an NVIDIA graphics card",
    "mps": "an Apple graphics chip",
}


def runs_folder() -> Path:
    """Where runs are kept unless the user says otherwise."""
    return Path.home() / "prosma-runs"


def new_run_folder(name: str) -> Path:
    """A folder for a run on the data ``name`` that does not exist yet."""
    wanted = runs_folder() / f"{name}-{datetime.now():%Y-%m-%d}"
    tried = [wanted, *(wanted.with_name(f"{wanted.name}-{n}") for n in range(2, 1000))]
    return next(path for path in tried if not path.exists())


def newest_run() -> Path | None:
    """The run folder with the newest checkpoint."""
    checkpoints = sorted(runs_folder().glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime)
    return checkpoints[-1].parent if checkpoints else None
