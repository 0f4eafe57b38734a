"""A run on a folder of small images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train


@pytest.fixture
def folder_run(tmp_path: Path, settings: Callable[..., TrainConfig]) -> Path:
    """Run folder, beside the folder ``data`` with four images and masks that it learned from."""
    data = tmp_path / "data"
    for kind in ("images", "masks"):
        (data / kind).mkdir(parents=True)
    for seed in range(4):
        case = ultrasound_case(seed, (48, 48))
        assert case.read_label is not None
        Image.fromarray(case.read_image().array[0]).save(data / "images" / f"{seed}.png")
        Image.fromarray(case.read_label() * np.uint8(255)).save(data / "masks" / f"{seed}.png")
    cases = find_cases(data)
    config = settings(tmp_path / "run", data=data, epochs=1)
    for _ in train(config, cases.cases, cases.class_names):
        pass
    return tmp_path / "run"
