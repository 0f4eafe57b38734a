"""Learning from labels alone: Dice plus cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from napari_prosma.data.fingerprint import Plan
from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import Loss, Total, dice_cross_entropy, in_this_process


class Supervised:
    """Mean loss of the batch against its labels."""

    _loss: Loss

    def prepare(
        self,
        model: torch.nn.Module,
        plan: Plan,
        class_weights: Tensor | None = None,
        total: Total = in_this_process,
    ) -> None:
        self._loss = dice_cross_entropy(plan.out_channels, class_weights, total)

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        loss = self._loss(model(batch.images), batch.labels)
        backward(loss)
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""
