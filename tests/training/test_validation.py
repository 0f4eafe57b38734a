"""A validation looks at a part of what is large or labelled in part, and at all that matters there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_prosma.data.labels import IGNORE
from napari_prosma.geometry import Geometry
from napari_prosma.model.windows import tile
from napari_prosma.training.batches import PreparedCase
from napari_prosma.training.validation import some_windows


@pytest.fixture
def volume() -> PreparedCase:
    """64 x 64 x 64 with a box in one corner."""
    label = np.zeros((64, 64, 64), np.uint8)
    label[4:20, 4:20, 4:12] = 1
    image = np.zeros((1, *label.shape), np.float32)
    return PreparedCase("a", image, label, Geometry.pixels(3), (), label.shape)


@pytest.mark.parametrize("most", [1, 7, 100])
def test_some_windows_hold_foreground_and_some_none(most: int, volume: PreparedCase) -> None:
    whole = tile(volume.label.shape, (16, 16, 16), 4)
    tiling, case = some_windows(whole, volume, most)
    assert len(set(tiling.starts)) == most
    assert set(tiling.starts) < set(whole.starts)
    holds = sum(bool((volume.label[tiling.at(start)] == 1).any()) for start in tiling.starts)
    having = sum(bool((volume.label[whole.at(start)] == 1).any()) for start in whole.starts)
    assert holds == min(having, (most + 1) // 2)
    covered = np.zeros(case.label.shape, bool)
    for start in tiling.starts:
        covered[tiling.at(start)] = True
    assert np.array_equal(case.label == IGNORE, ~covered)
    assert np.array_equal(case.label[covered], volume.label[covered])


def test_where_everything_is_foreground_all_windows_hold_it(volume: PreparedCase) -> None:
    full = replace(volume, label=np.ones_like(volume.label))
    tiling, case = some_windows(tile(full.label.shape, (16, 16, 16), 4), full, 9)
    assert len(tiling.starts) == 9
    assert set(np.unique(case.label)) == {1, IGNORE}
