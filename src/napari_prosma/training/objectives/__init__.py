"""What a training step minimises: one protocol, parts chosen by name; ``run.py`` knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from napari_prosma.data.fingerprint import Plan
from napari_prosma.training.batches import Batch
from napari_prosma.training.losses import Total, in_this_process


class Objective(Protocol):
    """Leaves the gradients of one step in the model; the run then steps its optimizer."""

    def prepare(
        self,
        model: torch.nn.Module,
        plan: Plan,
        class_weights: Tensor | None = None,
        total: Total = in_this_process,
    ) -> None:
        """Called once before the first step.

        ``class_weights`` (classes,) weigh the cross-entropy, background first; ``total`` adds up the sums
        of a loss over all processes of the run.
        """

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        """Accumulate gradients for ``batch`` (on the model's device) by ``backward``; returns the loss."""

    def state_dict(self) -> dict[str, Any]:
        """What must be kept to go on later."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""


def make_objective(name: str) -> Objective:
    """Objective ``name``."""
    from napari_prosma.training.objectives.supervised import Supervised

    return {"supervised": Supervised}[name]()
