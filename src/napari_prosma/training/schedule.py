"""The optimizer, its learning rate over a run, and the clock that says how far a run is."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from statistics import median

import torch
from torch import Tensor, nn

from napari_prosma.errors import CheckpointError
from napari_prosma.events import Event
from napari_prosma.training.config import TrainConfig

END_RATE = 0.01
"""The cosine schedule ends at this share of the learning rate."""
WARM_UP = 0.03
"""Share of the run over which the learning rate rises to its full value."""
MOST_RESERVED = 0.5
"""Share of the time that is left for what follows the last step at the most."""
RECENT_STEPS = 9
"""The cost of a step is the median of so many."""


FEW_STEPS, MANY_STEPS = 600, 40_000
"""A run of so few steps learns at the highest rate, one of so many at the lowest."""
HIGHEST_RATE, LOWEST_RATE = 8e-3, 1e-3
HIGHEST_TAKEN, LOWEST_TAKEN = 0.3, 0.1
"""Of weights that were taken over, relative to new ones."""


def usual_rate(steps: float) -> float:
    """AdamW's learning rate for a run of so many steps: it falls with their square root.

    Measured on the hippocampus and on breast lesions: 600 steps reached at 8e-3 what 1e-3 did not reach in
    three times as many; long runs keep the rate of the field.
    """
    return min(max(HIGHEST_RATE * math.sqrt(FEW_STEPS / max(steps, 1)), LOWEST_RATE), HIGHEST_RATE)


def usual_taken_rate(steps: float) -> float:
    """Relative learning rate of weights that were taken over; in a short run a tenth hardly moves them."""
    return min(max(HIGHEST_TAKEN * math.sqrt(FEW_STEPS / max(steps, 1)), LOWEST_TAKEN), HIGHEST_TAKEN)


def make_optimizer(
    network: nn.Module,
    config: TrainConfig,
    taken: Collection[str] = (),
    steps: int = MANY_STEPS,
    device: torch.device | str = "cpu",
) -> torch.optim.Optimizer:
    """AdamW; thresholds, norms and biases are not decayed, and thresholds have a rate of their own.

    With weight decay theta would drift to 0 (lambda = ln 2) whatever the data say. Frozen parameters are left
    out. The order of the parameters, by which a checkpoint knows their state, follows from the network,
    ``taken`` and what is frozen alone.

    Parameters
    ----------
    taken : names of parameters
        Taken over from another model: they learn at ``config.taken_rate``.
    steps : int
        About how many there will be.
    device : torch.device or str
        Where the network will learn. On a processor all of a step is one kernel, in less than half of the
        time; elsewhere PyTorch chooses, and scaled gradients (float16) can be clipped.
    """
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {
        (was_taken, kind): [] for was_taken in (False, True) for kind in ("decayed", "plain", "threshold")
    }
    for name, parameter in network.named_parameters():
        kind = "threshold" if name.endswith("theta") else "plain" if parameter.ndim < 2 else "decayed"
        if parameter.requires_grad:
            groups[name in taken, kind].append(parameter)
    is_one_kernel = torch.device(device).type == "cpu"
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if kind == "decayed" else 0.0,
                "was_taken": was_taken,
                "kind": kind,
            }
            for (was_taken, kind), parameters in groups.items()
            if parameters
        ],
        lr=config.learning_rate or usual_rate(steps),
        fused=is_one_kernel or None,
    )
    if is_one_kernel:
        optimizer.register_step_pre_hook(_lay_gradients)
    set_relative_rates(optimizer, config, steps)
    return optimizer


def _lay_gradients(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """A step in one kernel pairs numbers by their place in memory, whatever their layouts are."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = _laid_as(parameter.grad, parameter)


def _laid_as(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def set_relative_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> None:
    """Say in every group of the optimizer how fast it learns, in a run of about so many steps."""
    taken_rate = usual_taken_rate(steps) if config.taken_rate is None else config.taken_rate
    for group in optimizer.param_groups:
        group["relative_rate"] = (taken_rate if group["was_taken"] else 1.0) * (
            config.threshold_rate if group["kind"] == "threshold" else 1.0
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of the optimizer by ``<number of the parameter>.<name>``, as a checkpoint keeps it."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, kept in state.items() for name, tensor in kept.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Go on from ``tensors``, which :func:`optimizer_tensors` gave.

    Raises ``CheckpointError``: they do not belong to these parameters.
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
        parameter = parameters[int(index)]
        state.setdefault(int(index), {})[name] = tensor if name == "step" else _laid_as(tensor, parameter)
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

    Parameters
    ----------
    steps : int
        In all.
    minutes : float, optional
        When the run ends, after its begin; None = by its steps alone.
    began : float, optional
        When the run began by ``time.monotonic``, if not now: what was read before the first step counts.

    Attributes
    ----------
    reserved : float
        Seconds that are left for what follows the last step.
    learning_began : float
        Seconds after the begin of the run when its schedule begins, whatever the time before was needed for.
    """

    def __init__(self, steps: int, minutes: float | None, began: float | None = None) -> None:
        self._began = time.monotonic() if began is None else began
        self.steps, self.minutes = steps, minutes
        self.reserved = self.learning_began = 0.0

    @property
    def _limit(self) -> float | None:
        return None if self.minutes is None else 60 * self.minutes

    @property
    def total(self) -> int:
        """Steps, or seconds where the time is limited."""
        return self.steps if self._limit is None else max(1, round(self._limit))

    def elapsed(self) -> float:
        """Seconds so far, pauses left out."""
        return time.monotonic() - self._began

    def count_on_from(self, seconds: float) -> None:
        """A run that goes on had ``seconds`` before; those since this one's begin count as well."""
        self._began -= seconds

    def leave_out(self, seconds: float) -> None:
        """Do not count ``seconds`` that passed, as while the computer slept."""
        self._began += seconds

    def left(self) -> float:
        """Seconds that are left for steps, infinite without a limit."""
        return math.inf if self._limit is None else self._for_steps(self._limit) - self.elapsed()

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
        """Share of the schedule that is over before ``step``."""
        return min(1.0, max(step / self.steps, self._by_time()))

    def done(self, step: int) -> int:
        """Finished units of ``total``."""
        if self._limit is None:
            return int(self.total * self.fraction(step))
        return min(self.total, max(int(self.elapsed()), int(self.total * step / self.steps)))

    def is_over(self) -> bool:
        return self._by_time() >= 1

    def _by_time(self) -> float:
        if self._limit is None:
            return 0.0
        whole = self._for_steps(self._limit) - self.learning_began
        return (self.elapsed() - self.learning_began) / whole if whole > 0 else 1.0

    def _for_steps(self, limit: float) -> float:
        return limit - min(self.reserved, MOST_RESERVED * limit)


class Costs:
    """Seconds that a step takes, and a validation window in units of it, as they were lately.

    Where a machine gets slower, both do.

    Parameters
    ----------
    window, extra : float
        Thought cost of a window, and of what comes with a validation, in steps, until they are measured.

    Attributes
    ----------
    window : float
        Cost of a validation window, in steps.
    """

    def __init__(self, window: float, extra: float = 0.0) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self.window, self._extra = window, extra
        self._measured = self._added = False

    def stepped(self, seconds: float) -> None:
        """A step took so long."""
        self._steps.append(seconds)

    def validated(self, windows: float, seconds: float) -> None:
        """So many windows took ``seconds``: the fewest steps count, since what is beside it only adds."""
        if self._steps and windows:
            found = seconds / windows / self.step
            self.window = min(self.window, found) if self._measured else found
            self._measured = True

    def added(self, seconds: float) -> None:
        """What came with a validation, statistics of norms and checkpoints, took so long."""
        if self._steps:
            found = seconds / self.step
            self._extra = min(self._extra, found) if self._added else found
            self._added = True

    @property
    def extra(self) -> float:
        """Seconds that would come with a validation now."""
        return self._extra * self.step

    @property
    def step(self) -> float:
        """Seconds of a usual step, 0 before the first."""
        return median(self._steps) if self._steps else 0.0

    @property
    def least_step(self) -> float:
        """Seconds of the quickest of the last steps: what a step costs where nothing disturbs it."""
        return min(self._steps, default=0.0)

    def of_windows(self, windows: float) -> float:
        """Seconds that a validation of so many windows would take now."""
        return windows * self.window * self.step
