"""The optimizer, its learning rate over a run, and the clock that says how far a run is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing

import torch
from torch import nn

from napari_prosma.events import Event
from napari_prosma.training.config import TrainConfig

END_RATE = 0.01
"""The cosine schedule ends at this share of the learning rate."""
WARM_UP = 0.03
"""Share of the run over which the learning rate rises to its full value."""


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; thresholds, norms and biases are not decayed, and thresholds have a rate of their own.

    With weight decay theta would drift to 0 (lambda = ln 2) whatever the data say.
    """
    thresholds: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if name.endswith("theta"):
            thresholds.append(parameter)
        else:
            (plain if parameter.ndim < 2 else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "relative_rate": 1.0},
        {"params": plain, "weight_decay": 0.0, "relative_rate": 1.0},
        {"params": thresholds, "weight_decay": 0.0, "relative_rate": config.threshold_rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate)


def schedule(fraction: float) -> float:
    """Relative learning rate at ``fraction`` of the run: a short linear rise, then a cosine."""
    if fraction < WARM_UP:
        return max(fraction / WARM_UP, END_RATE)
    return END_RATE + (1 - END_RATE) * 0.5 * (1 + math.cos(math.pi * (fraction - WARM_UP) / (1 - WARM_UP)))


class Clock:
    """How far a run is: by its steps, or by its time where that is limited; pauses do not count.

    ``total`` counts steps, or seconds where the time is limited.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self._steps = steps
        self._limit = None if minutes is None else 60 * minutes
        self.total = steps if self._limit is None else max(1, round(self._limit))
        self._began = time.monotonic()
        self._reserved = 0.0

    def elapsed(self) -> float:
        """Seconds so far, pauses left out."""
        return time.monotonic() - self._began

    def set_elapsed(self, seconds: float) -> None:
        """Count on from ``seconds``."""
        self._began = time.monotonic() - seconds

    def reserve(self, seconds: float) -> None:
        """Leave time for a last validation as long as this one."""
        if self._limit is not None:
            self._reserved = min(seconds, self._limit / 2)

    def without_pauses(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events; the time until each next one is asked for is taken out of the clock."""
        with closing(events):  # type: ignore[type-var]
            for event in events:
                left = time.monotonic()
                try:
                    yield event
                finally:
                    self._began += time.monotonic() - left

    def fraction(self, step: int) -> float:
        """Share of the run that is over before ``step``."""
        return min(1.0, max(step / self._steps, self._by_time()))

    def done(self, step: int) -> int:
        """Finished units of ``total``."""
        return int(self.total * self.fraction(step))

    def is_over(self) -> bool:
        return self._by_time() >= 1

    def _by_time(self) -> float:
        if self._limit is None:
            return 0.0
        return self.elapsed() / (self._limit - self._reserved)
