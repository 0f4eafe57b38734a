"""A validation looks at a part of what is large or labelled in part, and at all that matters there."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from napari_prosma.data.labels import IGNORE
from napari_prosma.geometry import Geometry
from napari_prosma.model.windows import tile
from napari_prosma.training.batches import PreparedCase
from napari_prosma.training.validation import judged_part, some_windows


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


@pytest.mark.parametrize(
    ("lesions", "cysts", "without", "held"),
    [
        (20, 0, 20, (5, 0, 5)),
        (30, 0, 10, (8, 0, 2)),
        (3, 0, 37, (3, 0, 7)),
        (0, 0, 40, (0, 0, 10)),
        (10, 10, 20, (3, 2, 5)),
        (30, 2, 0, (8, 2, 0)),
    ],
)
def test_a_part_holds_cases_without_a_structure_in_their_share_and_every_class(
    lesions: int, cysts: int, without: int, held: tuple[int, int, int]
) -> None:
    counts = [(90, 10, 0)] * lesions + [(90, 0, 10)] * cysts + [(100,)] * without
    facts = [SimpleNamespace(class_counts=np.array(each)) for each in counts]
    for seed in range(5):
        part = judged_part(facts, range(len(facts)), 10, seed)  # type: ignore[arg-type]
        assert part == sorted(set(part))
        kinds = [counts[n] for n in part]
        assert tuple(kinds.count(each) for each in ((90, 10, 0), (90, 0, 10), (100,))) == held
