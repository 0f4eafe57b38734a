"""What every objective is to a run, and what it may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_prosma.data.fingerprint import Plan
from napari_prosma.events import Event
from napari_prosma.nn.build import Network
from napari_prosma.training.batches import Batch, PreparedCases, UnlabelledBatches
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objectives import OBJECTIVES
from napari_prosma.training.processes import Processes


@dataclass(frozen=True, eq=False)
class Context:
    """What an objective may use."""

    # What learns, unwrapped: its parameters, its running statistics, and passes outside of a step.
    network: Network
    plan: Plan
    config: TrainConfig
    # The device and its precision; ``total`` adds up the sums of a loss over all processes of the run,
    # ``gathered`` what each found.
    processes: Processes
    cases: PreparedCases  # all labelled ones
    training: tuple[int, ...]  # indices of those that are learned from
    steps: int  # per epoch
    class_weights: Tensor | None = None  # (classes,): of the cross-entropy, background first
    unlabelled: UnlabelledBatches | None = None  # further images
    # The average of ``network``, where that is what is validated and kept.
    averaged_network: Network | None = None


class Objective:
    """Leaves the gradients of one step in the model; the run then steps its optimizer.

    An objective has to say what a step is; what else it does by itself is to do nothing, with all cases.
    """

    context: Context
    # How many may pass the network at once for each labelled one: a step needs so many times the memory.
    patches = 1

    def prepare(self, context: Context) -> None:
        """Called once before all else.

        Raises ``ConfigError``: the objective has no use for what was given.
        """
        self.context = context

    def looks(self, epoch: int) -> bool:
        """Whether :meth:`epoch_begins` judges by ``Context.network``, whose norms are settled for that."""
        return False

    def epoch_begins(self, epoch: int) -> Iterator[Event]:
        """Called before the first step of ``epoch`` (from 0), not where a run goes on within it.

        A run that is stopped here calls it again when it goes on, so that what is decided must follow from
        the network, the state and the epoch alone. The iterator may be dropped between two events.
        """
        return iter(())

    def cases(self, epoch: int) -> Sequence[int] | None:
        """Indices of the training cases that the epoch draws from, at least one; None = all."""
        return None

    def step(self, model: torch.nn.Module, batch: Batch, backward: Callable[[Tensor], Any]) -> float:
        """Add the gradients of ``batch`` to those in the model, and return the loss.

        Parameters
        ----------
        model : Module
            ``Context.network`` in training mode, wrapped for the processes and the precision of the run.
        batch : Batch
            On the model's device; a part of the step's batch where memory is short.
        backward : loss ()
            Adds the loss's gradients to those that are there, in place of ``loss.backward()``.
        """
        raise NotImplementedError

    def abandoned(self) -> None:
        """Called where a step failed, maybe after some of its parts: it begins anew, or the run ends.

        What was noted of it since :meth:`stepped` is forgotten, and nothing of it is held in memory.
        """

    def stepped(self) -> None:
        """Called after each step of the optimizer."""

    def relabelled(self, index: int) -> None:
        """Called between steps: somebody corrected the label of this case, learned from or not."""

    def figures(self) -> dict[str, float]:
        """Called at the end of each epoch: what it was like, by name, such as ``divergence``."""
        return {}

    def ends(self) -> Iterator[Event]:
        """Called once the run is over, not where it was stopped; may be dropped as ``epoch_begins``."""
        return iter(())

    def state_dict(self) -> dict[str, Tensor]:
        """What must be kept to go on bit for bit; the first process's is taken."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state``, after :meth:`prepare`."""


def make_objective(name: str) -> Objective:
    """Objective ``name``, a key of ``OBJECTIVES``."""
    return OBJECTIVES[name].make()
