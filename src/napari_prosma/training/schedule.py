"""The optimizer, its learning rate over a run, and the clock that says how far a run is."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing

import torch
from torch import Tensor, nn

from napari_prosma.errors import CheckpointError
from napari_prosma.events import Event
from napari_prosma.training.config import TrainConfig

END_RATE = 0.01
"""The cosine schedule ends at this share of the learning rate."""
WARM_UP = 0.03
"""Share of the run over which the learning rate rises to its full value."""


def make_optimizer(
    network: nn.Module, config: TrainConfig, taken: Collection[str] = ()
) -> torch.optim.Optimizer:
    """AdamW; thresholds, norms and biases are not decayed, and thresholds have a rate of their own.

    With weight decay theta would drift to 0 (lambda = ln 2) whatever the data say. Frozen parameters are left
    out. The order of the parameters, by which a checkpoint knows their state, follows from the network,
    ``taken`` and what is frozen alone.

    Parameters
    ----------
    taken : names of parameters
        Taken over from another model: they learn at ``config.taken_rate``.
    """
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {
        (was_taken, kind): [] for was_taken in (False, True) for kind in ("decayed", "plain", "threshold")
    }
    for name, parameter in network.named_parameters():
        kind = "threshold" if name.endswith("theta") else "plain" if parameter.ndim < 2 else "decayed"
        if parameter.requires_grad:
            groups[name in taken, kind].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if kind == "decayed" else 0.0,
                "relative_rate": (config.taken_rate if was_taken else 1.0)
                * (config.threshold_rate if kind == "threshold" else 1.0),
            }
            for (was_taken, kind), parameters in groups.items()
            if parameters
        ],
        lr=config.learning_rate,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimizer by ``<number of the parameter>.<name>``, as a checkpoint keeps it."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, kept in state.items() for name, tensor in kept.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go on from ``tensors``, which :func:`optimizer_tensors` gave.

    Raises
    ------
    CheckpointError
        They do not belong to these parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    expected: dict[str, torch.Size] = {}
    for number, parameter in enumerate(parameters):
        if f"{number}.step" in tensors:  # one that never had a gradient has no state
            expected |= {f"{number}.{name}": parameter.shape for name in ("exp_avg", "exp_avg_sq")}
            expected[f"{number}.step"] = torch.Size()
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
    if wrong:
        raise CheckpointError(
            f"the checkpoint's state of the optimizer does not fit its network (tensor '{wrong[0]}' and "
            f"{len(wrong) - 1} others); start a new run, from the same file if its weights are wanted"
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def schedule(fraction: float, warm_up: float = WARM_UP) -> float:
    """Relative learning rate at ``fraction`` of the run: a linear rise over ``warm_up``, then a cosine."""
    if fraction < warm_up:
        return max(fraction / warm_up, END_RATE)
    return END_RATE + (1 - END_RATE) * 0.5 * (1 + math.cos(math.pi * (fraction - warm_up) / (1 - warm_up)))


class Clock:
    """How far a run is: by its steps, or by its time where that is limited; pauses do not count.

    Both may be changed while the run goes on: what is left of its schedule is stretched or shortened.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self._began = time.monotonic()
        self._reserved = 0.0
        self.set_steps(steps)
        self.set_minutes(minutes)

    def set_steps(self, steps: int) -> None:
        """Let the run have ``steps`` in all."""
        self._steps = steps

    def set_minutes(self, minutes: float | None) -> None:
        """Let the run end ``minutes`` after its begin; None = by its steps alone."""
        self._limit = None if minutes is None else 60 * minutes

    @property
    def total(self) -> int:
        """Steps, or seconds where the time is limited."""
        return self._steps if self._limit is None else max(1, round(self._limit))

    def elapsed(self) -> float:
        """Seconds so far, pauses left out."""
        return time.monotonic() - self._began

    def set_elapsed(self, seconds: float) -> None:
        """Count on from ``seconds``."""
        self._began = time.monotonic() - seconds

    def reserve(self, seconds: float) -> None:
        """Leave time for a last validation as long as this one."""
        self._reserved = seconds

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
        return self.elapsed() / (self._limit - min(self._reserved, self._limit / 2))
