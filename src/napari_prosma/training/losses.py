"""Dice plus cross-entropy; what nobody labelled counts in neither. The same over one process or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from napari_prosma.data.labels import IGNORE
from napari_prosma.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]
Total = Callable[[Tensor], Tensor]

SMOOTH = 1e-5
"""Added above and below in Dice, so that a class that is nowhere and found nowhere costs nothing."""


def in_this_process(sums: Tensor) -> Tensor:
    """``total`` of a run in one process: the sums themselves."""
    return sums


def dice_cross_entropy(
    out_channels: int, class_weights: Tensor | None = None, total: Total = in_this_process
) -> Loss:
    """Loss of logits (B, K, *spatial) against class indices (B, 1, *spatial), ``IGNORE`` where unlabelled.

    One channel: half the binary cross-entropy plus the soft Dice loss of the sigmoid (the weights of U-KAN's
    protocol). More: cross-entropy plus the soft Dice loss of the softmax without background. The Dice sums
    run over the whole batch, so that a patch without foreground does not stand alone. Computed in float32.

    Parameters
    ----------
    class_weights : (classes,), optional
        Weight of every class in the cross-entropy, background first (two for one channel); it is divided by
        the sum of the weights that counted, as torch does. By default all alike.
    total : (n,) -> (n,)
        Adds up sums over all processes, so that each has the loss of the whole batch; see
        :func:`summed_over_processes`.
    """

    def binary(logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        counted = labels != IGNORE
        truth = (labels * counted).float()
        weight = counted.float()
        if class_weights is not None:
            weight = weight * class_weights.to(logits)[(labels * counted).long()]
        entropy = F.binary_cross_entropy_with_logits(logits, truth, weight=weight, reduction="sum")
        probability = logits.sigmoid() * counted
        sums = [entropy, weight.sum(), (probability * truth).sum(), probability.sum(), truth.sum()]
        entropy, weights, overlap, found, there = total(torch.stack(sums))
        return 0.5 * entropy / _at_least_one(weights) + _dice_loss(overlap, found, there)

    def multiclass(logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = logits.float(), labels[:, 0].long()
        counted = labels != IGNORE
        known = labels * counted
        log_probability = logits.log_softmax(dim=1)
        weights = torch.ones(out_channels) if class_weights is None else class_weights
        weights = weights.to(logits)
        entropy = F.nll_loss(log_probability, labels, weights, ignore_index=IGNORE, reduction="sum")
        classes = torch.arange(1, out_channels, device=labels.device).view(-1, *[1] * (labels.ndim - 1))
        truth = (known[:, None] == classes).float()
        probability = log_probability[:, 1:].exp() * counted[:, None]
        everywhere = [0, *range(2, logits.ndim)]
        sums = [
            torch.stack([entropy, (weights[known] * counted).sum()]),
            (probability * truth).sum(everywhere),
            probability.sum(everywhere),
            truth.sum(everywhere),
        ]
        (entropy, weight), overlap, found, there = total(torch.cat(sums)).split([2, *[out_channels - 1] * 3])
        return entropy / _at_least_one(weight) + _dice_loss(overlap, found, there).mean()

    return binary if out_channels == 1 else multiclass


def _dice_loss(overlap: Tensor, found: Tensor, there: Tensor) -> Tensor:
    return 1 - (2 * overlap + SMOOTH) / (found + there + SMOOTH)


def _at_least_one(weights: Tensor) -> Tensor:
    """The divisor of the cross-entropy; nothing labelled costs nothing, and divides nothing by zero."""
    return torch.where(weights > 0, weights, torch.ones_like(weights))


class _SumOverProcesses(torch.autograd.Function):
    """all_reduce with its gradient, which is the sum of the gradients of all processes.

    torch's own differentiable one is deprecated in 2.13, and its successor has no gradient in 2.6.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)


def summed_over_processes(sums: Tensor) -> Tensor:
    """Sum of ``sums`` over the processes of the run, differentiable; the tensor itself in a run of one.

    Every process then has the loss L of the whole batch. Its gradient with respect to its own sums is
    multiplied by the number of processes, N, which DDP's mean over processes takes away again: the gradient
    is that of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return sums
    return _SumOverProcesses.apply(sums)


def balanced_weights(class_counts: Sequence[float] | np.ndarray | Tensor) -> Tensor:
    """Weights (K,) that give rare classes more: one over the square root of the frequency, mean 1.

    Plain inverse frequency (King and Zeng 2001; scikit-learn's ``balanced``) makes a lesion of 1 % of the
    image outweigh its surroundings a hundredfold, and everything beside it becomes lesion; the Dice term
    already counts every class alike. The square root is the tempering that Mahajan et al. (2018) use.
    A class that does not occur has weight 1 and is not part of the mean.

    Parameters
    ----------
    class_counts : (K,)
        Elements per class, background first.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    there = counts > 0
    weights = torch.where(there, counts, 1.0).rsqrt()
    return torch.where(there, weights / weights[there].mean(), 1.0).float()


def chosen_weights(
    chosen: Literal["equal", "balanced"] | Sequence[float],
    class_counts: Sequence[float] | np.ndarray | Tensor,
) -> Tensor | None:
    """Class weights (K,) of ``TrainConfig.class_weights`` for data with ``class_counts`` (K,), or None.

    Raises ``ConfigError``: another number of weights than classes.
    """
    if chosen == "equal":
        return None
    if chosen == "balanced":
        return balanced_weights(class_counts)
    if len(chosen) != len(class_counts):
        raise ConfigError(
            f"{len(chosen)} class weights were given but there are {len(class_counts)} classes with the "
            f"background; give one for each"
        )
    return torch.tensor(chosen, dtype=torch.float32)
