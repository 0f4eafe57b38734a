"""``train``: a run as an iterator of events. Closing it stops cleanly and leaves the last checkpoint."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import (
    BATCH_ELEMENTS,
    CaseFacts,
    Plan,
    make_plan,
    read_facts,
    require_fit,
)
from napari_prosma.data.labels import IGNORE, is_foreground
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import (
    CheckpointSaved,
    EpochEnd,
    Event,
    Finished,
    Notice,
    Preview,
    Progress,
    Started,
)
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gates import GateTrace, ProximalMask
from napari_prosma.nn.thresholds import start_thresholds
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.windows import Blend, labels_of, predict, probabilities_of, tile, unwrap
from napari_prosma.training.augment import Augmentation
from napari_prosma.training.batches import Batch, Batches, PreparedCase, PreparedCases
from napari_prosma.training.checkpoint import BEST, LAST, Checkpoint, save_checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.device import best_precision, cpu_threads, usable_device
from napari_prosma.training.metrics import case_metrics, mean_metrics
from napari_prosma.training.objectives import make_objective

LEAST_STEPS = 20
"""An epoch has at least this many steps, so that a handful of cases is not validated all the time."""
END_RATE = 0.01
"""The cosine schedule ends at this share of the learning rate."""
WARM_UP = 0.03
"""Share of the run over which the learning rate rises to its full value."""
BYTES_PER_ELEMENT = 172
"""Kept for the backward pass per input element and channel of the finest level.

Measured in 2D: 688 MiB for 2**18 pixels at 16 channels."""
PREVIEW_CASES = 20
"""The preview shows the first of this many validation cases that has foreground."""


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left its model; ``score`` is the best mean Dice of the validation cases."""

    run_dir: Path
    best: Path
    last: Path
    score: float
    epochs: int


def split_cases(cases: Sequence[Case], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and validation: a permutation drawn from ``seed``, as the papers' code draws it.

    ``RandomState(seed).permutation(n)``, of which the first ``ceil(fraction * n)`` validate. A single case,
    or a fraction of 0, leaves nothing to validate on.
    """
    order = np.random.RandomState(seed).permutation(len(cases)).tolist()
    held_out = min(math.ceil(fraction * len(cases)), len(cases) - 1)
    return sorted(order[held_out:]), sorted(order[:held_out])


def train(config: TrainConfig, cases: Sequence[Case], class_names: Sequence[str] = ()) -> Iterator[Event]:
    """Train a network on ``cases``; the last event is ``Finished`` with a :class:`RunResult`.

    Parameters
    ----------
    config : TrainConfig
    cases : every one with a label
    class_names : background first; by default ``background, foreground`` or ``class 1``, ``class 2``, ...

    Raises
    ------
    DataError, ConfigError, CheckpointError
        Before anything is written, unless a checkpoint itself cannot be written.
    ProsmaError
        The loss is no longer finite; the last checkpoint holds the weights of the epoch before.
    """
    _require_writable(config.run_dir)
    with cpu_threads(config.threads):
        facts: list[CaseFacts] = []
        yield Started(len(cases), "Reading cases")
        for fact in read_facts(cases):
            facts.append(fact)
            yield Progress(len(facts), len(cases), fact.name)
        if config.plan is not None:
            require_fit(facts, config.plan)
        plan = config.plan or make_plan(
            facts,
            class_names or _default_names(facts),
            dims=config.dims,
            side=config.side,
            divisor=2 ** (len(config.width_per_level) - 1),
            batch_elements=_batch_elements(config),
            spacing=config.spacing,
            patch=config.patch,
            batch=config.batch,
            intensity=config.intensity,
        )
        yield Notice(f"Plan: {plan.in_words()}")
        yield from _train(config, cases, plan)


def _default_names(facts: Sequence[CaseFacts]) -> list[str]:
    classes = max((len(f.class_counts) for f in facts), default=2)
    if classes <= 2:
        return ["background", "foreground"]
    return ["background", *(f"class {k}" for k in range(1, classes))]


def _batch_elements(config: TrainConfig) -> int:
    """Pixels or voxels that fit into half of the GPU's memory; on the CPU a step should not take long."""
    device = usable_device(config.device)
    if device.type != "cuda":
        return BATCH_ELEMENTS
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(memory / 2 / (BYTES_PER_ELEMENT * config.width_per_level[0]))


def _train(config: TrainConfig, cases: Sequence[Case], plan: Plan) -> Iterator[Event]:
    fabric, device = _fabric(config)
    _require_norm_statistics(plan.batch, plan, 2 ** (len(config.width_per_level) - 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_model(config.model_spec(plan))
    objective = make_objective(config.objective)
    objective.prepare(network, plan)
    model, optimizer = fabric.setup(network, make_optimizer(network, config))

    training, validation = split_cases(cases, config.validation_fraction, config.seed)
    if not validation:
        validation = training[:1]
        yield Notice("No case is held out: the figures are those of a training case and say little.")
    prepared = PreparedCases(cases, plan)
    augmentation = Augmentation(plan) if config.augment else None
    batches = Batches(prepared, training, plan, config.seed, augmentation)
    steps = config.steps_per_epoch or max(LEAST_STEPS, math.ceil(len(training) / plan.batch))
    split = {"training": [cases[n].name for n in training], "validation": [cases[n].name for n in validation]}

    def keep(name: str, epoch: int, metrics: dict[str, float]) -> Path:
        path = config.run_dir / name
        save_checkpoint(
            path,
            Checkpoint(
                spec=network.spec,
                plan=plan,
                weights=network.state_dict(),
                config=config.model_dump(mode="json"),
                epoch=epoch,
                metrics=metrics,
                split=split,
            ),
        )
        return path

    clock = _Clock(config.epochs * steps, config.minutes)
    yield Started(
        clock.total, f"Training on {len(training)} cases, validating on {len(validation)}", str(device)
    )
    if config.gate_options.norm == "none" and any(isinstance(m, ProximalMask) for m in network.modules()):
        start_thresholds(network, batches.draw(0).images.to(device))
        yield Notice(
            "The gates have no batch norm (the printed form): their thresholds were set from the first "
            "batch, and channels can go dead for good; watch the zero fractions."
        )
    shown = _shown_case(prepared, validation)
    best, metrics, epoch = -1.0, {}, 0

    def epochs() -> Iterator[Event]:
        nonlocal best, metrics, epoch
        while epoch < config.epochs and not (epoch and clock.is_over()):
            began, losses, rate = time.monotonic(), [], 0.0
            for step in range(epoch * steps, (epoch + 1) * steps):
                rate = config.learning_rate * schedule(clock.fraction(step))
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["relative_rate"]
                drawn = batches.draw(step)
                model.train()
                optimizer.zero_grad(set_to_none=True)
                loss = objective.step(model, _on(device, drawn), fabric.backward)
                if not math.isfinite(loss):
                    kept = f"'{config.run_dir / LAST}' keeps the weights of epoch {epoch}"
                    raise ProsmaError(
                        f"the loss became {loss} in step {step + 1}, on the cases "
                        f"{', '.join(sorted(set(drawn.names)))}; look at them, or lower the learning rate; "
                        f"{kept if epoch else 'nothing was written'}"
                    )
                optimizer.step()
                losses.append(loss)
                yield Progress(clock.done(step + 1), clock.total, f"epoch {epoch + 1}, loss {loss:.3f}")
                if clock.is_over():
                    break
            epoch += 1
            trained = time.monotonic()
            figures, preview = [], None
            for case, predicted in _validate(model, prepared, validation, plan):
                if predicted is not None:
                    figures.append(case_metrics(predicted, case.label, plan.class_names))
                    preview = _preview(case, predicted, epoch) if case.name == shown.name else preview
                yield Progress(
                    clock.done(epoch * steps), clock.total, f"epoch {epoch}, validating {case.name}"
                )
            clock.reserve(time.monotonic() - trained)
            metrics = mean_metrics(figures)
            gates = gate_state(network, shown, plan)
            yield EpochEnd(
                epoch=epoch,
                epochs=config.epochs,
                loss=float(np.mean(losses)),
                learning_rate=rate,
                seconds=time.monotonic() - began,
                validation=metrics,
                gates=gates,
            )
            if preview is not None:
                yield preview
            if metrics["dice"] > best:
                best = metrics["dice"]
                yield CheckpointSaved(keep(BEST, epoch, metrics), "best", epoch)
            yield CheckpointSaved(keep(LAST, epoch, metrics), "last", epoch)
            yield from _gate_warnings(gates, epoch)

    try:
        yield from clock.without_pauses(epochs())
    except (GeneratorExit, KeyboardInterrupt):
        keep(LAST, epoch, metrics)
        raise
    yield Finished(RunResult(config.run_dir, config.run_dir / BEST, config.run_dir / LAST, best, epoch))


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


class _Clock:
    """How far a run is: by its steps, or by its time where that is limited; pauses do not count."""

    def __init__(self, total: int, minutes: float | None) -> None:
        self.total = total
        self._limit = None if minutes is None else 60 * minutes
        self._began = time.monotonic()
        self._reserved = 0.0

    def reserve(self, seconds: float) -> None:
        """Leave time for a last validation as long as this one."""
        if self._limit is not None:
            self._reserved = min(seconds, self._limit / 2)

    def without_pauses(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events; the time until each next one is asked for is taken out of the clock."""
        with closing(events):  # type: ignore[type-var]
            for event in events:
                left = time.monotonic()
                yield event
                self._began += time.monotonic() - left

    def fraction(self, step: int) -> float:
        """Share of the run that is over before ``step``."""
        return min(1.0, max(step / self.total, self._by_time()))

    def done(self, step: int) -> int:
        """Finished units of ``total``."""
        return int(self.total * self.fraction(step))

    def is_over(self) -> bool:
        return self._by_time() >= 1

    def _by_time(self) -> float:
        if self._limit is None:
            return 0.0
        return (time.monotonic() - self._began) / (self._limit - self._reserved)


def _fabric(config: TrainConfig) -> tuple[Any, torch.device]:
    from lightning_fabric import Fabric

    device = usable_device(config.device)
    precision = best_precision(device) if config.precision == "auto" else config.precision
    if device.type == "cpu" and precision != "32-true":
        # bfloat16 gradients of dilated depthwise convolutions come out NaN on the CPU (torch 2.13).
        raise ConfigError(f"precision {precision!r} needs a GPU; choose auto or 32-true on the CPU")
    return Fabric(accelerator=device.type, devices=1, precision=precision), device


def _on(device: torch.device, batch: Batch) -> Batch:
    return replace(batch, images=batch.images.to(device), labels=batch.labels.to(device))


def _validate(
    model: nn.Module, cases: PreparedCases, indices: Sequence[int], plan: Plan
) -> Iterator[tuple[PreparedCase, np.ndarray | None]]:
    """After every few windows the case that is being segmented, and at its end with its labels (*grid)."""
    network = unwrap(model)
    model.eval()
    for index in indices:
        case = cases[index]
        tiling = tile(case.label.shape, plan.patch, network.divisor)
        blend = Blend(tiling, network.spec.out_channels)
        for _ in predict(model, case.image, tiling, 1, blend):
            yield case, None
        yield case, labels_of(probabilities_of(blend.result()))


def _require_writable(run_dir: Path) -> None:
    """Better now than after the first epoch."""
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(
            f"'{nearest}' is no folder that can be written to; choose another place than '{run_dir}'"
        )


def _require_norm_statistics(batch: int, plan: Plan, divisor: int) -> None:
    """Batch norm needs two values per channel, also on the coarsest grid."""
    if batch * math.prod(math.ceil(n / divisor) for n in plan.patch) < 2:
        raise ConfigError(
            f"a batch of {batch} with patches of {' x '.join(map(str, plan.patch))} leaves the network one "
            f"value per channel at its deepest level; choose a batch of at least 2"
        )


def _shown_case(cases: PreparedCases, indices: Sequence[int]) -> PreparedCase:
    """The first case with foreground, among the first few."""
    first = [cases[n] for n in indices[:PREVIEW_CASES]]
    return next((case for case in first if is_foreground(case.label).any()), first[0])


def _shown_slice(label: np.ndarray) -> tuple[int, ...]:
    """Index of the slice (y, x) with the most foreground; () in 2D."""
    if label.ndim == 2:
        return ()
    counts = np.count_nonzero(is_foreground(label), axis=(-2, -1))
    return tuple(int(n) for n in np.unravel_index(np.argmax(counts), counts.shape))


def _preview(case: PreparedCase, predicted: np.ndarray, epoch: int) -> Preview:
    at = _shown_slice(case.label)
    whole: tuple[int | slice, ...] = (slice(None), *at)
    return Preview(
        epoch=epoch,
        case=case.name,
        image=case.image[whole],
        labels=predicted[at],
        truth=case.label[at] * (case.label[at] != IGNORE),
        geometry=case.geometry.plane(),
    )


@torch.no_grad()
def gate_state(network: ProSMAUNet, case: PreparedCase, plan: Plan) -> dict[int, dict[str, float]]:
    """Numbers of every gated skip on one window of ``case``, around its foreground."""
    found = np.argwhere(is_foreground(case.label))
    centre = tuple(found[len(found) // 2]) if len(found) else tuple(n // 2 for n in case.label.shape)
    size = (1,) * (case.label.ndim - plan.dims) + plan.patch
    where: list[slice] = [slice(None)]
    for c, m, n in zip(centre, size, case.label.shape, strict=True):
        start = int(np.clip(c - m // 2, 0, max(0, n - m)))
        where.append(slice(start, start + m))
    window: np.ndarray = case.image[tuple(where)]
    window = window.reshape(window.shape[0], *window.shape[-plan.dims :])
    device = next(network.parameters()).device
    trace = GateTrace()
    network.eval()
    network(torch.from_numpy(window[None]).to(device), trace)
    return {level: kept.summary() for level, kept in sorted(trace.skips.items()) if kept.psi is not None}


def _gate_warnings(gates: dict[int, dict[str, float]], epoch: int) -> Iterator[Notice]:
    """What a user should know of gates that have stopped to gate; said every tenth epoch."""
    if epoch % 10:
        return
    for level, state in gates.items():
        if state.get("dead_channel_fraction", 0) > 0.1:
            yield Notice(
                f"skip {level}: {state['dead_channel_fraction']:.0%} of the gate's channels are dead"
            )
        if state.get("floor_pixel_fraction", 0) > 0.95:
            yield Notice(
                f"skip {level}: {state['floor_pixel_fraction']:.0%} of the positions are at the gate floor"
            )
        if state["psi_std"] < 0.01:
            yield Notice(f"skip {level}: psi is the same everywhere (spread {state['psi_std']:.3f})")
