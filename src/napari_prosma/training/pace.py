"""What the minutes allow: network, batch and patch of a run by what a step costs, and its validations.

A wider network learns more from a step and makes fewer of them. What a step costs is estimated from the
network's arithmetic before the first one, and known after a few; these count, and nothing is measured apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch

from napari_prosma.data.fingerprint import BATCH_LIMITS, PLANAR_SIDE, Plan
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec

ENOUGH_STEPS = 2000
"""A wider network is worth its cost where it makes so many steps of the least batch."""
FINER_STEPS = 8000
"""Finer images are worth theirs where there are so many; before, more steps on coarser ones teach more."""
FEW_STEPS = 100
"""With fewer than this a smaller patch is taken."""
SMALLEST_SIDE = 32
"""No axis of a patch is cut below this."""
MANY_STEPS = 4000
"""Where there would be more, a step takes more patches."""
LEAST_BATCH, USUAL_BATCH = BATCH_LIMITS[0], 4
FEW_IMAGES, FEWEST_IMAGES, PATCHES_EACH = 10, 3, 900
"""A run on fewer 2D images than the first, and as if on the second at least, learns from so many patches of
each at most: more made the model worse on average where five were labelled, and better where ten were."""
TRIED_STEPS = 3
"""So many steps tell what a step costs; the first of them, which is slower, is left out."""
WRONG = 2.0
"""Another network is taken after these steps where one is this many times cheaper or dearer than thought."""
SPEED = {"cpu": 5e10, "mps": 1e12, "cuda": 1e13}
"""Operations per second until they are known, on a processor per thread."""
PASSES = 3
"""A step costs as much as so many forward passes."""
VALIDATING = 0.08
"""Share of the time in which validations are made."""
MOST_VALIDATIONS = 20


@dataclass(frozen=True)
class Rung:
    """A network to choose, by the stride of its entry and its widths, and the side of 2D images."""

    entry: int
    widths: tuple[int, ...]
    side: int = PLANAR_SIDE


LADDER = (
    Rung(2, WIDTHS["tiny"], PLANAR_SIDE // 2),
    Rung(2, WIDTHS["tiny"], 3 * PLANAR_SIDE // 4),
    Rung(2, WIDTHS["tiny"]),
    Rung(1, WIDTHS["tiny"]),
    Rung(1, WIDTHS["base"]),
    Rung(1, WIDTHS["large"]),
)
"""From the cheapest to the one that learns most from a step."""


@dataclass(frozen=True)
class Pace:
    """A network and its plan, and how many seconds a step is thought to take."""

    rung: Rung
    spec: ModelSpec
    plan: Plan
    step: float

    def steps(self, seconds: float) -> int:
        """How many fit into ``seconds`` beside the validations."""
        return int((1 - VALIDATING) * seconds / self.step)


@cache
def operations(spec: ModelSpec, patch: tuple[int, ...]) -> float:
    """Floating-point operations of a forward pass of one patch."""
    from torch.utils.flop_counter import FlopCounterMode

    size = (-(-n // spec.divisor) * spec.divisor for n in patch)
    with torch.device("meta"):
        network, image = build_model(spec).eval(), torch.empty(1, spec.in_channels, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return float(counter.get_total_flops())


def nominal_speed(device: torch.device, threads: int) -> float:
    """Operations per second that a device is thought to make before anything ran on it."""
    return SPEED.get(device.type, SPEED["cpu"]) * (threads if device.type == "cpu" else 1)


def step_seconds(spec: ModelSpec, plan: Plan, speed: float) -> float:
    """What a step is thought to take."""
    return PASSES * plan.batch * operations(spec, plan.patch) / speed


def pace_for(
    seconds: float,
    speed: float,
    rungs: tuple[Rung, ...],
    made: Callable[[Rung], tuple[ModelSpec, Plan]],
    free_batch: bool = True,
    free_patch: bool = True,
    most_patches: float = math.inf,
) -> Pace:
    """The richest network that makes enough steps in ``seconds``, else the cheapest.

    Parameters
    ----------
    speed : float
        Operations per second.
    rungs : cheapest first
    made : function
        A network with the plan for it.
    free_batch, free_patch : bool
        Whether these may change, too.
    most_patches : float
        That the run will learn from, whatever time is left.
    """
    pace: Pace | None = None
    for rung in rungs:
        spec, plan = made(rung)
        if free_batch:
            plan = with_batch(plan, LEAST_BATCH)
        richer = Pace(rung, spec, plan, step_seconds(spec, plan, speed))
        if pace is not None and richer.steps(seconds) < _enough(rung, pace.rung):
            break
        pace = richer
    assert pace is not None
    while free_patch and pace.steps(seconds) < FEW_STEPS:
        smaller = _smaller(pace.plan.patch, pace.spec.divisor)
        if smaller is None:
            break
        plan = pace.plan.model_copy(update={"patch": smaller})
        pace = replace(pace, plan=plan, step=step_seconds(pace.spec, plan, speed))
    if not free_batch:
        return pace
    return _with_more_patches(pace, min(seconds, seconds_for(most_patches, pace.plan.batch, pace.step)))


def most_patches(images: int, patches: float) -> float:
    """Patches that a run on 2D images learns from at most, if it has few; one image holds so many."""
    if images >= FEW_IMAGES:
        return math.inf
    return PATCHES_EACH * max(images, FEWEST_IMAGES) * max(patches, 1.0)


def seconds_for(patches: float, batch: int, step: float) -> float:
    """Seconds in which so many patches are learned from, validations counted in."""
    return patches / batch * step / (1 - VALIDATING)


def _enough(rung: Rung, cheaper: Rung) -> int:
    """Steps that a rung must make to be taken instead of the one below it."""
    return FINER_STEPS if rung.side > cheaper.side else ENOUGH_STEPS


def with_batch(plan: Plan, batch: int) -> Plan:
    """The plan with another batch."""
    return plan.model_copy(update={"batch": batch})


def enough_seconds(pace: Pace, rung: Rung, spec: ModelSpec, plan: Plan) -> float:
    """Seconds in which the next rung makes enough steps, by what one takes here."""
    ratio = step_seconds(spec, with_batch(plan, LEAST_BATCH), 1) / step_seconds(pace.spec, pace.plan, 1)
    return _enough(rung, pace.rung) * pace.step * ratio / (1 - VALIDATING)


def validations(seconds: float) -> int:
    """Validations of a run of so many seconds: one a minute at first, then fewer."""
    return max(1, min(round(2.4 * math.sqrt(seconds / 60)), MOST_VALIDATIONS))


def _with_more_patches(pace: Pace, seconds: float) -> Pace:
    """As many patches per step as leave enough steps."""

    def sizes() -> Iterator[tuple[int, int]]:
        yield USUAL_BATCH, ENOUGH_STEPS // 2
        size = 2 * USUAL_BATCH
        while size <= BATCH_LIMITS[1]:
            yield size, MANY_STEPS
            size *= 2

    for size, enough in sizes():
        plan = with_batch(pace.plan, size)
        more = replace(pace, plan=plan, step=pace.step * size / pace.plan.batch)
        if more.steps(seconds) < enough:
            break
        pace = more
    return pace


def _smaller(patch: tuple[int, ...], divisor: int) -> tuple[int, ...] | None:
    """The patch with its longest axis about halved, None where it is as small as can be."""
    longest = max(range(len(patch)), key=lambda axis: patch[axis])
    half = -(-patch[longest] // (2 * divisor)) * divisor
    if half >= patch[longest] or half < SMALLEST_SIDE:
        return None
    return (*patch[:longest], half, *patch[longest + 1 :])
