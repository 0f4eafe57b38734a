"""What nobody labelled counts nowhere: in the plan, the patches, the loss, the figures and the preview."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan, case_facts
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.metrics import case_metrics
from napari_prosma.events import EpochEnd, Preview
from napari_prosma.training.batches import PreparedCases, draw_patch
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.losses import dice_cross_entropy
from napari_prosma.training.run import train

NAMES = ("background", "lesion")


def scribbled(name: str = "a", seed: int = 0) -> Case:
    """A disc on noise, with a stroke of lesion in it and one of background beside it."""
    y, x = np.mgrid[:32, :32]
    disc = (y - 16) ** 2 + (x - 16) ** 2 < 64
    image = np.random.default_rng(seed).normal(size=(1, 32, 32)) + 3 * disc
    label = np.full((32, 32), IGNORE, np.uint8)
    label[16, 12:20], label[2, 4:28] = 1, 0
    return Case.from_arrays(name, image.astype(np.float32), label)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_does_not_see_what_is_unlabelled(channels: int) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, max(2, channels), (2, 1, 8, 8))
    labels[:, :, 4:] = IGNORE
    logits = torch.randn(2, channels, 8, 8, requires_grad=True)
    loss = dice_cross_entropy(channels)(logits, labels)
    seen = dice_cross_entropy(channels)(logits[:, :, :4], labels[:, :, :4])
    assert loss.item() == pytest.approx(seen.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad[:, :, 4:]) == 0
    assert torch.count_nonzero(logits.grad[:, :, :4]) > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_without_any_label_costs_something_finite(channels: int) -> None:
    logits = torch.randn(1, channels, 8, 8, requires_grad=True)
    loss = dice_cross_entropy(channels)(logits, torch.full((1, 1, 8, 8), IGNORE))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.count_nonzero(logits.grad) == 0


def test_the_figures_do_not_count_what_is_unlabelled() -> None:
    truth = np.array([[1, 1, 0, 0], [IGNORE] * 4], np.uint8)
    found = np.array([[1, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
    assert case_metrics(found, truth, NAMES)["iou"] == 0.5


def test_the_facts_do_not_count_what_is_unlabelled() -> None:
    case = scribbled()
    assert case.read_label is not None
    facts = case_facts(case, case.read_image(), case.read_label())
    assert facts.class_counts.tolist() == [24, 8]
    assert facts.foreground.size == 8


def test_every_patch_of_a_sparse_case_holds_something_labelled() -> None:
    plan = Plan(dims=2, channels=1, class_names=NAMES, patch=(8, 8), batch=2)
    prepared = PreparedCases([scribbled()], plan)[0]
    rng = np.random.default_rng(0)
    patches = [draw_patch(prepared, plan.patch, rng)[1] for _ in range(60)]
    assert all((label != IGNORE).any() for label in patches)
    with_lesion = sum((label == 1).any() for label in patches)
    assert 15 <= with_lesion <= 45


def test_scribbles_train_a_network(settings: Callable[..., TrainConfig], tmp_path: Path) -> None:
    cases = [scribbled("a"), scribbled("b", 1)]
    events = list(train(settings(tmp_path, epochs=12, steps_per_epoch=4, augment=False), cases, NAMES))
    figures = [event.validation["dice"] for event in events if isinstance(event, EpochEnd)]
    assert figures[-1] > 0.8
    previews = [event for event in events if isinstance(event, Preview)]
    assert set(np.unique(previews[-1].truth)) == {0, 1}
