"""Learning from labels alone: Dice plus cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import Loss, dice_cross_entropy
from napari_prosma.training.objective import Context, Objective
from napari_prosma.training.objectives import require_use_of_unlabelled


class Supervised(Objective):
    """Mean loss of the batch against its labels.

    Also what the other objectives begin from: each overrides where it differs.
    """

    loss: Loss

    def prepare(self, context: Context) -> None:
        if context.unlabelled is not None:
            require_use_of_unlabelled(context.config.objective, "were given")
        super().prepare(context)
        self.loss = dice_cross_entropy(
            context.plan.out_channels, context.class_weights, context.processes.total
        )

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        loss = self.loss(model(batch.images), batch.labels)
        backward(loss)
        return float(loss.detach())
