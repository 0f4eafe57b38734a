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
from napari_prosma.data.labels import IGNORE
from napari_prosma.data.metrics import case_metrics, dice_and_iou
from napari_prosma.errors import ConfigError
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import Batch, PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.losses import balanced_weights, chosen_weights, dice_cross_entropy
from napari_prosma.training.objective import Context, make_objective
from napari_prosma.training.processes import Processes

CLASSES = ("background", "one", "two")


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


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
    objective, config = make_objective("supervised"), TrainConfig.of(run_dir="r", device="cpu")
    cases = PreparedCases([], plan)
    objective.prepare(Context(network, plan, config, Processes(config), cases, (), 1))
    batch = Batch(torch.randn(2, 1, 16, 16), torch.randint(0, classes, (2, 1, 16, 16)), ("a", "b"))
    loss = objective.step(network, batch, lambda value: value.backward())
    with torch.no_grad():
        expected = dice_cross_entropy(logits)(network(batch.images), batch.labels)
    assert loss == pytest.approx(float(expected), rel=1e-3)
    assert all(parameter.grad is not None for parameter in network.parameters())


def monai_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The same loss by MONAI's Dice and torch's cross-entropy."""
    from monai.losses.dice import DiceLoss

    channels = logits.shape[1]
    dice = DiceLoss(batch=True, include_background=channels == 1)
    counted = labels != IGNORE
    if channels == 1:
        truth = (labels * counted).float()
        entropy = 0.5 * F.binary_cross_entropy_with_logits(logits[counted], truth[counted])
        return entropy + dice(logits.sigmoid() * counted, truth)
    truth = F.one_hot((labels * counted)[:, 0], channels).movedim(-1, 1) * counted
    entropy = F.cross_entropy(logits, labels[:, 0], ignore_index=IGNORE)
    return entropy + dice(logits.softmax(dim=1) * counted, truth)


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8)])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_loss_and_its_gradient_are_those_of_monai(channels: int, shape: tuple[int, ...]) -> None:
    logits = (3 * torch.randn(3, channels, *shape)).requires_grad_()
    labels = torch.randint(0, max(2, channels), (3, 1, *shape))
    labels[0, :, 3:] = IGNORE
    ours, theirs = dice_cross_entropy(channels)(logits, labels), monai_loss(logits, labels)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_weights_of_the_classes_weigh_the_cross_entropy_as_torch_does() -> None:
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8))
    labels[0, :, 5:] = IGNORE
    weights = torch.tensor([0.2, 1.0, 5.0])
    weighted, plain = dice_cross_entropy(3, weights)(logits, labels), dice_cross_entropy(3)(logits, labels)
    entropy = [F.cross_entropy(logits, labels[:, 0], w, ignore_index=IGNORE) for w in (weights, None)]
    assert float(weighted - plain) == pytest.approx(float(entropy[0] - entropy[1]), abs=1e-5)


def test_weights_of_background_and_foreground_weigh_the_binary_cross_entropy() -> None:
    logits, labels = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8))
    labels[0, :, 5:] = IGNORE
    weighted = dice_cross_entropy(1, torch.tensor([0.25, 3.0]))(logits, labels)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)  # the softmax of (0, x) is the sigmoid of x
    weights = torch.tensor([0.25, 3.0])
    entropy = [F.cross_entropy(two, labels[:, 0], w, ignore_index=IGNORE) for w in (weights, None)]
    difference = weighted - dice_cross_entropy(1)(logits, labels)
    assert float(difference) == pytest.approx(0.5 * float(entropy[0] - entropy[1]), abs=1e-5)


def test_the_loss_of_half_precision_logits_is_computed_in_full() -> None:
    logits, labels = torch.randn(2, 3, 64, 64).half(), torch.randint(0, 3, (2, 1, 64, 64))
    loss = dice_cross_entropy(3)(logits, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == float(dice_cross_entropy(3)(logits.float(), labels))


def test_rare_classes_weigh_more_but_not_as_much_as_they_are_rare() -> None:
    weights = balanced_weights([9_900, 99, 1])
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(10)
    assert float(weights[2] / weights[0]) == pytest.approx(9_900**0.5)


def test_a_class_that_does_not_occur_changes_no_other_weight() -> None:
    assert balanced_weights([100, 0, 4]).tolist() == pytest.approx(
        [*balanced_weights([100, 4])[:1].tolist(), 1.0, *balanced_weights([100, 4])[1:].tolist()]
    )


def test_weights_are_chosen_by_name_or_number() -> None:
    assert chosen_weights("equal", [9, 1]) is None
    assert torch.equal(chosen_weights("balanced", [9, 1]), balanced_weights([9, 1]))
    assert chosen_weights((1, 3), [9, 1]).tolist() == [1, 3]
    with pytest.raises(ConfigError, match="3 class weights were given but there are 2 classes"):
        chosen_weights((1, 2, 3), [9, 1])


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


def test_classes_that_are_nowhere_hide_no_loss_of_the_others() -> None:
    predicted, truth = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, 0]])
    figures = case_metrics(predicted, truth, CLASSES)
    assert (figures["dice"], figures["iou"]) == pytest.approx((2 / 3, 1 / 2))
    assert figures["dice/two"] == 1
    assert case_metrics(0 * truth, 0 * truth, CLASSES)["dice"] == 1
    predicted[0, 3] = 2  # found where there is none
    assert case_metrics(predicted, truth, CLASSES)["dice"] == pytest.approx((2 / 3 + 0) / 2)
