"""Small files of every kind that users bring, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest

SHAPE = (4, 5, 6)  # stored i, j, k, all different, so that no mix-up of axes goes unseen


@pytest.fixture
def save_picture(tmp_path: Path) -> Callable[..., Path]:
    """Save an array as a picture under ``tmp_path``."""

    def save(name: str, array: np.ndarray, mode: str | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(path)
        return path

    return save


@pytest.fixture
def save_volume(tmp_path: Path) -> Callable[..., Path]:
    """Save voxels (i, j, k) with an affine as NIfTI under ``tmp_path``."""

    def save(name: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag((2.0, 3, 4, 1)) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def lesion() -> np.ndarray:
    """Mask (y, x) with a square of ones."""
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[5:12, 8:15] = 1
    return mask


@pytest.fixture
def scan() -> np.ndarray:
    """Gray image (y, x)."""
    return np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
