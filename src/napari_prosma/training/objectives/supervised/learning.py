"""Learning from labels alone: Dice plus cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_prosma.events import Event
from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import Loss, dice_cross_entropy
from napari_prosma.training.objective import Context
from napari_prosma.training.objectives import require_use_of_unlabelled


class Supervised:
    """Mean loss of the batch against its labels.

    Also what the other objectives begin from: each overrides where it differs.
    """

    context: Context
    loss: Loss
    patches = 1

    def prepare(self, context: Context) -> None:
        if context.unlabelled is not None:
            require_use_of_unlabelled(context.config.objective, "were given")
        self.context = context
        self.loss = dice_cross_entropy(
            context.plan.out_channels, context.class_weights, context.processes.total
        )

    def looks(self, epoch: int) -> bool:
        """Nothing is judged."""
        return False

    def epoch_begins(self, epoch: int) -> Iterator[Event]:
        """Nothing is decided."""
        return iter(())

    def cases(self, epoch: int) -> Sequence[int] | None:
        """All."""
        return None

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        loss = self.loss(model(batch.images), batch.labels)
        backward(loss)
        return float(loss.detach())

    def abandoned(self) -> None:
        """Nothing was noted."""

    def stepped(self) -> None:
        """Nothing follows."""

    def relabelled(self, index: int) -> None:
        """The next patch of it has the new label."""

    def figures(self) -> dict[str, float]:
        """None but the loss."""
        return {}

    def ends(self) -> Iterator[Event]:
        """Nothing is left to do."""
        return iter(())

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""
