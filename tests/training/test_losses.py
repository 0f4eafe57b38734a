"""The loss by hand, and the overlap figures by law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor
from torch.nn import functional as F

from napari_prosma.data.fingerprint import Plan
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import dice_cross_entropy
from napari_prosma.training.metrics import case_metrics, dice_and_iou, mean_metrics
from napari_prosma.training.objectives import make_objective

CLASSES = ("background", "one", "two")


def soft_dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice of one class over the whole batch."""
    return 1 - 2 * (probability * truth).sum() / (probability.sum() + truth.sum())


def test_one_class_is_half_the_binary_cross_entropy_plus_dice() -> None:
    logits, labels = torch.randn(3, 1, 8, 8), torch.randint(0, 2, (3, 1, 8, 8))
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, labels.float())
    expected = expected + soft_dice_loss(logits.sigmoid(), labels)
    assert float(dice_cross_entropy(1)(logits, labels)) == pytest.approx(float(expected), abs=1e-4)


def test_several_classes_are_cross_entropy_plus_the_mean_dice_of_the_foreground() -> None:
    logits, labels = torch.randn(2, 3, 6, 7, 8), torch.randint(0, 3, (2, 1, 6, 7, 8))
    probability = logits.softmax(dim=1)
    dice = [soft_dice_loss(probability[:, k], labels[:, 0] == k) for k in (1, 2)]
    expected = F.cross_entropy(logits, labels[:, 0]) + sum(dice) / 2
    assert float(dice_cross_entropy(3)(logits, labels)) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_right_answer_costs_nothing_and_a_wrong_one_more_than_none(channels: int) -> None:
    labels = torch.randint(0, max(2, channels), (2, 1, 8, 8))
    if channels == 1:
        right = 40.0 * (labels * 2 - 1)
    else:
        right = 40.0 * F.one_hot(labels[:, 0], channels).movedim(-1, 1)
    loss = dice_cross_entropy(channels)
    assert float(loss(right, labels)) < 1e-3
    assert float(loss(-right, labels)) > float(loss(torch.zeros_like(right), labels)) > 0.3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_without_foreground_has_a_finite_loss_and_gradient(channels: int) -> None:
    logits = torch.randn(2, channels, 8, 8, requires_grad=True)
    loss = dice_cross_entropy(channels)(logits, torch.zeros(2, 1, 8, 8, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("classes", "logits"), [(2, 1), (3, 3)])
def test_one_foreground_class_has_one_logit_and_more_have_one_each(classes: int, logits: int) -> None:
    plan = Plan(dims=2, channels=1, class_names=CLASSES[:classes], patch=(16, 16), batch=2)
    assert plan.out_channels == logits
    network = build_model(ModelSpec(2, 1, plan.out_channels, (4, 6, 8)))
    objective = make_objective("supervised")
    objective.prepare(network, plan)
    batch = Batch(torch.randn(2, 1, 16, 16), torch.randint(0, classes, (2, 1, 16, 16)), ("a", "b"))
    loss = objective.step(network, batch, lambda value: value.backward())
    with torch.no_grad():
        expected = dice_cross_entropy(logits)(network(batch.images), batch.labels)
    assert loss == pytest.approx(float(expected), rel=1e-3)
    assert all(parameter.grad is not None for parameter in network.parameters())


# ---- figures --------------------------------------------------------------------------------------------

label_arrays = st.tuples(
    arrays(np.uint8, (5, 6), elements=st.integers(0, 2)), arrays(np.uint8, (5, 6), elements=st.integers(0, 2))
)


@given(label_arrays, st.integers(0, 2))
def test_dice_and_iou_say_the_same(pair: tuple[np.ndarray, np.ndarray], label: int) -> None:
    dice, iou = dice_and_iou(*pair, label)
    assert 0 <= iou <= dice <= 1
    assert dice == pytest.approx(2 * iou / (1 + iou))
    assert (dice, iou) == dice_and_iou(*pair[::-1], label)


def test_dice_and_iou_by_hand() -> None:
    predicted, truth = np.array([1, 1, 1, 0, 2]), np.array([0, 1, 1, 1, 2])
    assert dice_and_iou(predicted, truth, 1) == (4 / 6, 2 / 4)
    assert dice_and_iou(predicted, truth, 2) == (1, 1)


def test_a_class_in_neither_is_right_and_in_one_of_them_is_wrong() -> None:
    empty, full = np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)
    assert dice_and_iou(empty, empty, 1) == (1, 1)
    assert dice_and_iou(full, empty, 1) == (0, 0)
    assert dice_and_iou(empty, full, 1) == (0, 0)


def test_the_figures_of_a_case_are_means_over_the_foreground_classes() -> None:
    predicted, truth = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 2]])
    figures = case_metrics(predicted, truth, CLASSES)
    assert set(figures) == {"dice", "iou", "dice/one", "iou/one", "dice/two", "iou/two"}
    assert figures["dice"] == pytest.approx((figures["dice/one"] + figures["dice/two"]) / 2)
    assert figures["iou"] == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_means_are_taken_over_the_cases_that_have_a_figure() -> None:
    assert mean_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
