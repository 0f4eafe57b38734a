"""What is decided before the first step: the plan, the network, the batch, the weights of the classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from napari_prosma.data.case import Geometry
from napari_prosma.data.fingerprint import BATCH_ELEMENTS, CaseFacts, Plan, make_plan
from napari_prosma.data.planes import AXES, AXIS_OF, thin_axes
from napari_prosma.data.preparation import grid_size
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Notice
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.checkpoint import Checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.device import usable_device
from napari_prosma.training.memory import largest_batch, memory_shares
from napari_prosma.training.objectives import make_objective
from napari_prosma.training.processes import Processes
from napari_prosma.training.transfer import adapted_plan

BYTES_PER_ELEMENT = 172
"""Kept for the backward pass per input element and channel of the finest level.

Measured in 2D: 688 MiB for 2**18 pixels at 16 channels."""


def plan_for(
    config: TrainConfig, facts: Sequence[CaseFacts], class_names: Sequence[str], source: Checkpoint | None
) -> Generator[Event, None, Plan]:
    """The plan that was given, that of the model to start from, or one made from the data."""
    if config.plan is not None:
        return config.plan
    names = class_names or _default_names(facts)
    rules: dict[str, Any] = {
        "dims": config.dims,
        "side": config.side,
        "divisor": config.divisor,
        "batch_elements": _batch_elements(config),
        "spacing": config.spacing,
        "patch": config.patch,
        "batch": config.batch,
        "intensity": config.intensity,
        "slice_axis": None if config.slices is None else AXIS_OF[config.slices],
    }
    if source is None:
        return make_plan(facts, names, **rules)
    plan, notices = adapted_plan(source, facts, names, **rules)
    yield from map(Notice, notices)
    return plan


def with_fitting_batch(
    plan: Plan, spec: ModelSpec, config: TrainConfig, processes: Processes
) -> Generator[Event, None, Plan]:
    """The plan with the largest batch that the GPU holds, found by trying; elsewhere as it is."""
    if processes.device.type != "cuda":
        return plan
    patches = make_objective(config.objective).patches
    share = memory_shares(build_model(spec), plan, processes.device, processes.fabric.autocast, patches)
    (batch,) = processes.of_first([largest_batch(plan.batch, share)])
    yield Notice(f"{int(batch)} patches per step fit into the GPU's memory")
    return plan.model_copy(update={"batch": int(batch)})


def _default_names(facts: Sequence[CaseFacts]) -> list[str]:
    classes = max((len(f.class_counts) for f in facts), default=2)
    if classes <= 2:
        return ["background", "foreground"]
    return ["background", *(f"class {k}" for k in range(1, classes))]


def _batch_elements(config: TrainConfig) -> int:
    """Pixels or voxels of a step; on the CPU it should not take long.

    On a GPU a quarter of the memory, to begin with: a batch of 3D patches holds two of the largest, and the
    weights, the optimizer and what a convolution needs for itself come on top.
    """
    device = usable_device(config.device)
    if device.type != "cuda":
        return BATCH_ELEMENTS
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(memory / 4 / (BYTES_PER_ELEMENT * config.width_per_level[0]))


def require_norm_statistics(plan: Plan, spec: ModelSpec, divisor: int) -> None:
    """A norm needs two values per channel, also on the coarsest grid."""
    deepest = math.prod(math.ceil(n / divisor) for n in plan.patch)
    if deepest * (plan.batch if spec.norm == "batch" else 1) < 2:
        raise ConfigError(
            f"a batch of {plan.batch} with patches of {' x '.join(map(str, plan.patch))} leaves the "
            f"{spec.norm} norm one value per channel at the network's deepest level; choose larger patches"
            + (" or a batch of at least 2" if spec.norm == "batch" else "")
        )


def grid_of(fact: CaseFacts, plan: Plan) -> tuple[int, ...]:
    """Size of a case on the plan's grid, told from its shape and spacing."""
    geometry = Geometry(fact.spacing, (0.0,) * len(fact.spacing), fact.unit)
    return grid_size(fact.shape, geometry, plan)


def _seen(size: tuple[int, ...], plan: Plan) -> tuple[int, ...]:
    """Of the size of a grid what the network sees at once."""
    thin = thin_axes(len(size), plan.dims, plan.slice_axis)
    return tuple(n for axis, n in enumerate(size) if axis not in thin)


def class_counts(facts: Sequence[CaseFacts], indices: Sequence[int], classes: int) -> np.ndarray:
    """Labelled elements of each class (classes,) in these cases."""
    counts = np.zeros(classes, np.int64)
    for n in indices:
        found = facts[n].class_counts
        counts[: len(found)] += found
    return counts


def remarks(facts: Sequence[CaseFacts], plan: Plan, held_out: Sequence[int]) -> Iterator[str]:
    """What the user should know of the data before the first step."""
    planes = Counter(fact.slice_axis for fact in facts if len(fact.shape) == len(AXES))
    if plan.dims == 2 and plan.axes == len(AXES) and len(planes) > 1:
        said = ", ".join(f"{number} across {AXES[axis]}" for axis, number in planes.most_common())
        yield (
            f"The volumes were acquired in different planes ({said}), and all are cut across "
            f"{AXES[plan.slice_axis]}; train on one kind at a time, or choose the slices"
        )
    if not held_out:
        yield "No case is held out: the figures are those of a training case and say little."
    else:
        counts = class_counts(facts, held_out, len(plan.class_names))
        missing = [name for name, count in zip(plan.class_names, counts, strict=True) if not count]
        if missing:
            yield (
                f"No case that is held out holds {', '.join(missing)}: its figures say nothing; another seed "
                f"holds out other cases"
            )
    small = [
        fact.name
        for fact in facts
        if any(n < m for n, m in zip(_seen(grid_of(fact, plan), plan), plan.patch, strict=True))
    ]
    if small and len(facts) > 1:  # the patch was made from a single one, rounded up
        yield (
            f"{len(small)} of {len(facts)} images are smaller than the patch of "
            f"{' x '.join(map(str, plan.patch))} and are mirrored at their border, such as '{small[0]}'"
        )
