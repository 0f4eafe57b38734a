"""The figures and splits with which the paper's tables are run again are those of its protocol."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "paper.py"
    spec = importlib.util.spec_from_file_location("paper_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mask(rows: slice, columns: slice) -> torch.Tensor:
    found = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    found[..., rows, columns] = True
    return found


def test_the_families_of_figures_have_their_known_values(paper: ModuleType) -> None:
    """Those of torchmetrics for an object of 10 x 10 pixels that is missed, and half found."""
    truth, missed = mask(slice(10, 20), slice(10, 20)), mask(slice(0), slice(0))
    assert paper.families(missed, truth)["dice_macro"] == pytest.approx(0.4938, abs=1e-4)
    assert paper.families(missed, truth)["dice_img"] == 0
    assert paper.families(missed, missed)["iou_img"] == 1
    half = paper.families(mask(slice(10, 20), slice(10, 15)), truth)
    assert half["iou_batch8"] == pytest.approx(0.5, abs=1e-6)
    assert half["dice_img"] == pytest.approx(2 / 3)
    assert half["dice_macro"] == pytest.approx(0.830, abs=1e-3)


def test_pooled_figures_weigh_batches_by_their_size(paper: ModuleType) -> None:
    torch.manual_seed(0)
    found, truth = torch.rand(11, 1, 6, 6) > 0.6, torch.rand(11, 1, 6, 6) > 0.5

    def iou(part: slice) -> float:
        return float((found[part] & truth[part]).sum() / (found[part] | truth[part]).sum())

    wanted = (8 * iou(slice(8)) + 3 * iou(slice(8, 11))) / 11
    measured = paper.families(found, truth)
    assert measured["iou_batch8"] == pytest.approx(wanted, abs=1e-5)
    assert measured["dice_img"] <= 2 * measured["iou_img"] / (1 + measured["iou_img"])


def test_the_split_is_that_of_scikit_learn_and_keeps_clusters_whole(paper: ModuleType) -> None:
    names = [f"image {n}" for n in range(23)]
    training, held_out = paper.split(names, 2981, None)
    assert held_out.tolist() == np.random.RandomState(2981).permutation(23)[:5].tolist()
    assert sorted([*training, *held_out]) == list(range(23))
    clusters = [["image 0", "image 9"], ["image 3", "image 4", "image 20"]]
    for seed in range(20):
        training, held_out = paper.split(names, seed, clusters)
        assert sorted([*training, *held_out]) == list(range(23))
        sides = [{names[n] for n in part} for part in (training, held_out)]
        assert all(any(set(cluster) <= side for side in sides) for cluster in clusters)
        assert training.tolist() != sorted(training)  # its first ones are chosen on, with --inner
