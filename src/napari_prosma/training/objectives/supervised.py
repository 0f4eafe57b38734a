"""Learning from labels alone: Dice plus cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_prosma.errors import ConfigError
from napari_prosma.events import Event
from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import Loss, dice_cross_entropy
from napari_prosma.training.objectives import Setting


class Supervised:
    """Mean loss of the batch against its labels.

    Also what the other objectives begin from: each overrides where it differs.
    """

    setting: Setting
    loss: Loss
    patches = 1

    def prepare(self, setting: Setting) -> None:
        if setting.unlabelled is not None and setting.config.objective != "dim":
            raise ConfigError(
                f"the objective {setting.config.objective} learns from labels alone, but unlabelled images "
                f"were given; choose the objective dim, or leave them out"
            )
        self.setting = setting
        self.loss = dice_cross_entropy(
            setting.plan.out_channels, setting.class_weights, setting.processes.total
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
