"""What is decided before the first step: the plan, the network, the batch, the weights of the classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import torch

from napari_prosma.data.atomic import nearest
from napari_prosma.data.fingerprint import (
    BATCH_ELEMENTS,
    PLANAR_SIDE,
    SAME_SPACING,
    CaseFacts,
    Plan,
    least_side,
    make_plan,
    most_common_slice_axis,
    planned_dims,
    thinnest,
)
from napari_prosma.data.planes import AXES, AXIS_OF, thin_axes
from napari_prosma.data.preparation import grid_size
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Notice
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.device import usable_device
from napari_prosma.model.memory import largest_batch, memory_shares
from napari_prosma.nn.build import build_model
from napari_prosma.nn.network_kinds import OURS, WIDTHS
from napari_prosma.nn.spec import AUTO, ModelSpec
from napari_prosma.training.batches import CACHE_BYTES, LEFT_FREE
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.objective import make_objective
from napari_prosma.training.pace import (
    LADDER,
    Pace,
    Rung,
    enough_seconds,
    most_patches,
    nominal_speed,
    pace_for,
    step_seconds,
)
from napari_prosma.training.processes import Processes
from napari_prosma.training.transfer import adapted_plan

LEAST_DEEPEST = 4
"""Elements of the deepest grid along the shortest axis of a usual image."""
BYTES_PER_ELEMENT = 172
"""Kept for the backward pass per input element and channel of the finest level.

Measured in 2D: 688 MiB for 2**18 pixels at 16 channels."""

GB = 1e9


@dataclass(frozen=True)
class Pacing:
    """What a run begins with, and how it is chosen anew once a step's cost is known."""

    pace: Pace
    # (seconds, operations per second) -> Pace: None where it was chosen anew before.
    again: Callable[[float, float], Pace] | None
    # pace -> seconds: from which on the next network is worth what it costs; None where there is none.
    richer: Callable[[Pace], float | None]
    most_patches: float
    notices: tuple[str, ...] = ()


def pacing_for(
    config: TrainConfig,
    facts: Sequence[CaseFacts],
    class_names: Sequence[str],
    source: Checkpoint | None,
    seconds: float,
    device: torch.device,
) -> Pacing:
    """Network and plan for the data and for the ``seconds`` that are left, infinite without a limit.

    The plan is the one that was given, that of the model to start from, or one made from the data.
    """
    rungs, names = _rungs(config, facts, device), class_names or _default_names(facts)
    made: dict[Rung, tuple[ModelSpec, Plan, tuple[str, ...]]] = {}

    def make(rung: Rung) -> tuple[ModelSpec, Plan]:
        if rung not in made:
            made[rung] = _made(config, facts, names, source, rung)
        return made[rung][:2]

    most = _most_patches(facts, make(rungs[0])[1])

    def choose(seconds: float, speed: float) -> Pace:
        if not math.isfinite(seconds):
            spec, plan = make(rungs[0])
            return Pace(rungs[0], spec, plan, step_seconds(spec, plan, speed))
        free = config.plan is None
        batch, patch = free and config.batch is None, free and config.patch is None
        return pace_for(seconds, speed, rungs, make, batch, patch, most)

    def richer(pace: Pace) -> float | None:
        following = rungs[rungs.index(pace.rung) + 1 :]
        return enough_seconds(pace, following[0], *make(following[0])) if following else None

    pace = choose(seconds, nominal_speed(device, torch.get_num_threads()))
    return Pacing(pace, choose, richer, most, made[pace.rung][2])


def pacing_of(spec: ModelSpec, plan: Plan, facts: Sequence[CaseFacts], device: torch.device) -> Pacing:
    """That of a run which is resumed before its pace was decided: its network and plan stay."""
    step = step_seconds(spec, plan, nominal_speed(device, torch.get_num_threads()))
    pace = Pace(Rung(spec.entry, spec.widths), spec, plan, step)
    return Pacing(pace, None, lambda pace: None, _most_patches(facts, plan))


def _most_patches(facts: Sequence[CaseFacts], plan: Plan) -> float:
    if any(len(fact.shape) > 2 for fact in facts):
        return math.inf
    return most_patches(
        len(facts), np.median([math.prod(grid_of(f, plan)) for f in facts]) / math.prod(plan.patch)
    )


def _rungs(config: TrainConfig, facts: Sequence[CaseFacts], device: torch.device) -> tuple[Rung, ...]:
    """Networks to choose from: those of the ladder that fit what was asked for, cheapest first."""
    least = least_side(facts)
    side = config.side or max(PLANAR_SIDE, least)
    across = most_common_slice_axis(facts) if config.slices is None else AXIS_OF[config.slices]
    asked = Rung(config.entry_stride, config.width_per_level, side)
    if config.network != OURS or config.start_from is not None or not config.is_timed:
        return (asked,)
    shrinks = config.plan is None and config.side is None and config.spacing is None
    divisor = min(config.model_copy(update={"entry": rung.entry}).divisor for rung in LADDER)
    shrinks &= (config.dims or planned_dims(facts, divisor, across)) == 2
    if shrinks:  # no further than to what is thin, and a side that shrinks nothing is no other one
        short = math.ceil(np.median([fact.short_side(across) for fact in facts]))
        ladder = [replace(rung, side=min(max(rung.side, least), short)) for rung in LADDER]
    else:
        ladder = [replace(rung, side=side) for rung in LADDER]
    if config.entry != AUTO:
        ladder = [rung for rung in ladder if rung.entry == config.entry]
    if config.widths != AUTO:
        ladder = [replace(asked, side=rung.side) for rung in ladder]
    if device.type != "cuda":
        ladder = [rung for rung in ladder if rung.widths != WIDTHS["large"] or config.widths != AUTO]
    return tuple(dict.fromkeys(ladder))


def _made(
    config: TrainConfig,
    facts: Sequence[CaseFacts],
    names: Sequence[str],
    source: Checkpoint | None,
    rung: Rung,
) -> tuple[ModelSpec, Plan, tuple[str, ...]]:
    """Network and plan of a rung, and what a user should know of the plan."""

    def planned(built: TrainConfig) -> tuple[ModelSpec, Plan, tuple[str, ...]]:
        plan, told = plan_for(built, facts, names, source)
        return built.model_spec(plan), plan, told

    widths = rung.widths
    changes = {"widths": widths, "entry": rung.entry}
    if config.side is not None or source is None:  # a model brings its own
        changes["side"] = rung.side
    found = planned(config.model_copy(update=changes))
    if rung.entry == 1 or config.widths != AUTO:
        return found
    # The levels are one fewer where the deepest would be a few elements wide.
    sizes = np.median([_seen(grid_of(fact, found[1]), found[1]) for fact in facts], axis=0)
    if sizes.min() >= LEAST_DEEPEST * found[0].divisor:
        return found
    return planned(config.model_copy(update={**changes, "widths": widths[:-1]}))


def plan_for(
    config: TrainConfig, facts: Sequence[CaseFacts], names: Sequence[str], source: Checkpoint | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The plan that was given, or one by the rules and what was asked for; and what a user should know."""
    if config.plan is not None:
        return config.plan, ()
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
        "same_scale": config.modality == "histology",
    }
    told: tuple[str, ...] = ()
    if source is None:
        plan = make_plan(facts, names, **rules)
    else:
        plan, told = adapted_plan(source, facts, names, **rules)
    if plan.dims == 2:
        return plan, told
    sizes = [grid_of(fact, plan) for fact in facts]
    if source is not None and source.plan.largest and source.plan.spacing == plan.spacing:
        sizes.append(source.plan.largest)
    return plan.model_copy(update={"largest": tuple(np.max(sizes, axis=0).tolist())}), told


def with_fitting_batch(
    plan: Plan, spec: ModelSpec, config: TrainConfig, processes: Processes
) -> Generator[Event, None, Plan]:
    """The plan with the largest batch that the GPU holds, found by trying; elsewhere as it is."""
    if processes.device.type != "cuda":
        return plan
    patches = make_objective(config.objective).patches
    share = memory_shares(build_model(spec), plan, processes.device, processes.fabric.autocast, patches)
    (batch,) = processes.of_first([largest_batch(plan.batch, share)])
    if config.is_timed:  # more patches per step would leave fewer steps than were chosen
        batch = min(batch, plan.batch)
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


def _about_thin(facts: Sequence[CaseFacts], plan: Plan, config: TrainConfig) -> Iterator[str]:
    """To what images are shrunk for a 2D network, where a structure is so thin that it matters."""
    thin = thinnest(facts)
    if thin is None or plan.dims != 2:
        return
    side = round(float(np.median([min(_seen(grid_of(fact, plan), plan)) for fact in facts])))
    said = f"Structures of {plan.class_names[thin.of_class]} are about {thin.thickness:.2g} pixels thick"
    follows_side = config.spacing is None and config.plan is None and config.start_from is None
    if side < thin.side * (1 - SAME_SPACING):
        yield f"{said}, and much of them is lost where images are shrunk to a short side of {side} pixels" + (
            f"; a side of {thin.side} keeps them" if follows_side else ""
        )
    elif follows_side and config.side is None and min(thin.side, side) > PLANAR_SIDE:
        yield f"{said}, so images keep a short side of {side} pixels, and a step takes longer"


def _about_room(facts: Sequence[CaseFacts], plan: Plan, run_dir: Path) -> Iterator[str]:
    """Where the prepared images are kept that do not fit into memory."""
    each = 4 * plan.channels + 1  # float32 values and a label
    beyond = sum(math.prod(grid_of(fact, plan)) * each for fact in facts) - CACHE_BYTES
    if beyond < GB / 10:
        return
    room = max(0, disk_usage(nearest(run_dir)).free - LEFT_FREE)
    said = (
        f"{beyond / GB:.1f} GB of the prepared images do not fit into the {CACHE_BYTES / GB:.0f} GB of "
        f"memory for them"
    )
    if room >= beyond:
        yield f"{said}: they are kept on the disk of the run folder until the run ends"
        return
    yield (
        f"{said}, and the disk of the run folder has room for {room / GB:.1f} GB: the rest is read "
        f"again each time, which is slow; free {(beyond - room) / GB:.1f} GB, or choose a run folder on "
        f"another disk"
    )


def remarks(
    facts: Sequence[CaseFacts],
    plan: Plan,
    config: TrainConfig,
    held_out: Sequence[int],
    is_split_given: bool = False,
) -> Iterator[str]:
    """What the user should know of the data before the first step.

    ``is_split_given`` says whether the data set names the cases ``held_out``.
    """
    planes = Counter(fact.slice_axis for fact in facts if len(fact.shape) == len(AXES))
    if plan.dims == 2 and plan.axes == len(AXES) and len(planes) > 1:
        said = ", ".join(f"{number} across {AXES[axis]}" for axis, number in planes.most_common())
        yield (
            f"The volumes were acquired in different planes ({said}), and all are cut across "
            f"{AXES[plan.slice_axis]}; train on one kind at a time, or choose the slices"
        )
    unsized = sum(fact.unit == "pixel" for fact in facts)
    if plan.side is not None and 0 < unsized < len(facts):
        yield (
            f"{unsized} of {len(facts)} images do not say how large their pixels are, so physical size "
            f"is not used: each image is resized to the same short side"
        )
    yield from _about_thin(facts, plan, config)
    yield from _about_room(facts, plan, config.run_dir)
    if not held_out:
        yield "There are no validation cases: the figures are those of a training case and say little."
    else:
        counts = class_counts(facts, held_out, len(plan.class_names))
        missing = [name for name, count in zip(plan.class_names, counts, strict=True) if not count]
        if missing:
            other = "another seed chooses other validation cases"
            if is_split_given:
                random = "choose the split random (--split random) to draw others"
                other = f"the data set names the validation cases; {random}"
            yield f"No validation case contains {', '.join(missing)}: its figures say nothing; {other}"
    divisor = config.divisor
    small = [
        fact.name
        for fact in facts
        if any(n + divisor <= m for n, m in zip(_seen(grid_of(fact, plan), plan), plan.patch, strict=True))
    ]
    if small:  # not where the patch was only rounded up
        yield (
            f"{len(small)} of {len(facts)} images are smaller than the patch of "
            f"{' x '.join(map(str, plan.patch))} and are mirrored at their border, such as '{small[0]}'"
        )
