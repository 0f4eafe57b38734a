"""``train``: a run as an iterator of events. Closing it stops cleanly and leaves the last checkpoint."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Sequence
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
    balance_in_words,
    make_plan,
    read_facts,
    require_fit,
)
from napari_prosma.data.labels import IGNORE, fullest_slice, is_foreground
from napari_prosma.errors import CheckpointError, ConfigError, DataError, ProsmaError
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
from napari_prosma.nn.gates import GateTrace
from napari_prosma.nn.thresholds import start_thresholds
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.windows import Blend, labels_of, predict, probabilities_of, tile, unwrap
from napari_prosma.training.augment import Augmentation
from napari_prosma.training.batches import Batch, Batches, PreparedCase, PreparedCases
from napari_prosma.training.checkpoint import BEST, LAST, Checkpoint, save_checkpoint, split_prefix
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.device import best_precision, cpu_threads, usable_device
from napari_prosma.training.metrics import case_metrics, mean_metrics
from napari_prosma.training.objectives import make_objective
from napari_prosma.training.schedule import Clock, make_optimizer, schedule

LEAST_STEPS = 20
"""An epoch has at least this many steps, so that a handful of cases is not validated all the time."""
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


def train(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    resumed: Checkpoint | None = None,
) -> Iterator[Event]:
    """Train a network on ``cases``; the last event is ``Finished`` with a :class:`RunResult`.

    On the CPU a run that goes on from its last checkpoint ends bit for bit as if it had never stopped: what a
    step draws depends on the seed and the step alone.

    Parameters
    ----------
    config : TrainConfig
    cases : every one with a label
    class_names : background first; by default ``background, foreground`` or ``class 1``, ``class 2``, ...
    resumed : Checkpoint, optional
        The last one of a run with the same configuration and cases, to go on from.

    Raises
    ------
    DataError, ConfigError, CheckpointError
        Before anything is written, unless a checkpoint itself cannot be written.
    ProsmaError
        The loss is no longer finite; the last checkpoint holds the weights of the epoch before.
    """
    _require_writable(config.run_dir)
    if resumed is not None:
        _require_same_cases(resumed, cases, class_names)
    with cpu_threads(config.threads):
        facts: list[CaseFacts] = []
        yield Started(len(cases), "Reading cases")
        for fact in read_facts(cases):
            facts.append(fact)
            yield from map(Notice, fact.notices)
            yield Progress(len(facts), len(cases), fact.name)
        given = config.plan if resumed is None else resumed.plan
        if given is not None:
            require_fit(facts, given)
        plan = given or make_plan(
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
        yield Notice(f"Labelled: {balance_in_words(facts, plan.class_names)}")
        yield from _Run(config, cases, plan, resumed).events()


def _require_same_cases(kept: Checkpoint, cases: Sequence[Case], class_names: Sequence[str]) -> None:
    if not kept.place:
        raise CheckpointError(f"'{kept.path}' is no last checkpoint of a run; give the run's folder")
    if class_names and tuple(class_names) != kept.plan.class_names:
        raise DataError(
            f"the run began with the classes {', '.join(kept.plan.class_names)}, the data now have "
            f"{', '.join(class_names)}; restore the data, or start a new run"
        )
    then, now = {name for part in kept.split.values() for name in part}, {case.name for case in cases}
    if then != now:
        changed = ", ".join(sorted(then ^ now)[:5])
        raise DataError(
            f"the cases are not those that the run began with (different: {changed}); restore the data, or "
            f"start a new run"
        )


def _default_names(facts: Sequence[CaseFacts]) -> list[str]:
    classes = max((len(f.class_counts) for f in facts), default=2)
    if classes <= 2:
        return ["background", "foreground"]
    return ["background", *(f"class {k}" for k in range(1, classes))]


def _batch_elements(config: TrainConfig) -> int:
    """Pixels or voxels of a step; on the CPU it should not take long.

    On a GPU a quarter of the memory: a batch of 3D patches holds two of the largest, and the weights, the
    optimizer and what a convolution needs for itself come on top.
    """
    device = usable_device(config.device)
    if device.type != "cuda":
        return BATCH_ELEMENTS
    memory = torch.cuda.get_device_properties(device).total_memory
    return int(memory / 4 / (BYTES_PER_ELEMENT * config.width_per_level[0]))


class _Run:
    """A run in progress: the network, its optimizer and data, and how far it has come."""

    def __init__(
        self, config: TrainConfig, cases: Sequence[Case], plan: Plan, resumed: Checkpoint | None
    ) -> None:
        self.config, self.plan = config, plan
        self.fabric, self.device = _fabric(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = build_model(config.model_spec(plan))
        _require_norm_statistics(plan, self.network.divisor)
        self.objective = make_objective(config.objective)
        self.objective.prepare(self.network, plan)
        self.model, self.optimizer = self.fabric.setup(self.network, make_optimizer(self.network, config))
        training, held_out = split_cases(cases, config.validation_fraction, config.seed)
        self.has_held_out = bool(held_out)
        self.validation = held_out or training[:1]
        self.split = {
            "training": [cases[n].name for n in training],
            "validation": [cases[n].name for n in self.validation],
        }
        self.prepared = PreparedCases(cases, plan)
        augmentation = Augmentation(plan) if config.augment else None
        self.batches = Batches(self.prepared, training, plan, config.seed, augmentation)
        self.steps = config.steps_per_epoch or max(LEAST_STEPS, math.ceil(len(training) / plan.batch))
        self.clock = Clock(config.epochs * self.steps, config.minutes)
        self.step, self.epoch = 0, 0
        self.losses: list[float] = []
        self.metrics: dict[str, float] = {}
        self.best = -1.0
        if resumed is not None:
            self._go_on_from(resumed)
        self.shown = _shown_case(self.prepared, self.validation)

    def _go_on_from(self, kept: Checkpoint) -> None:
        """Take up weights, optimizer and place, so that what follows is what would have followed."""
        self.network.load_state_dict(kept.weights)
        parts = split_prefix(kept.state, "optimizer")
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in parts.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.objective.load_state_dict(split_prefix(kept.state, "objective"))
        place = kept.place
        self.step, self.epoch, self.losses = place["step"], kept.epoch, list(place["losses"])
        self.metrics, self.best = kept.metrics, place["best"]
        self.clock.set_elapsed(place["seconds"])

    def save(self, name: str) -> Path:
        """Write a checkpoint; the last one holds what a run needs to go on."""
        state: dict[str, torch.Tensor] = {}
        if name == LAST:
            for index, kept in self.optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{index}.{key}": value for key, value in kept.items()}
            state |= {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
        checkpoint = Checkpoint(
            spec=self.network.spec,
            plan=self.plan,
            weights=self.network.state_dict(),
            config=self.config.model_dump(mode="json"),
            epoch=self.epoch,
            metrics=self.metrics,
            split=self.split,
            state=state,
            place={
                "step": self.step,
                "losses": self.losses,
                "best": self.best,
                "seconds": self.clock.elapsed(),
            },
        )
        path = self.config.run_dir / name
        save_checkpoint(path, checkpoint)
        if self.best < 0:  # a run that replaces another one has no best yet, and the other's is none of it
            (self.config.run_dir / BEST).unlink(missing_ok=True)
        return path

    def events(self) -> Iterator[Event]:
        """All epochs that are left; closing it saves the last checkpoint.

        An interrupt inside a step does not: half a step is no place to go on from.
        """
        message = f"Training on {len(self.split['training'])} cases, validating on {len(self.validation)}"
        yield Started(self.clock.total, message, str(self.device))
        if not self.has_held_out:
            yield Notice("No case is held out: the figures are those of a training case and say little.")
        if self.step == 0 and start_thresholds(self.network, self.batches.draw(0).images.to(self.device)):
            yield Notice(
                "The gates have no batch norm (the printed form): their thresholds were set from the first "
                "batch, and channels can go dead for good; watch the zero fractions."
            )
        try:
            yield from self.clock.without_pauses(self._epochs())
        except GeneratorExit:
            self.save(LAST)
            raise
        folder = self.config.run_dir
        yield Finished(RunResult(folder, folder / BEST, folder / LAST, self.best, self.epoch))

    def _epochs(self) -> Iterator[Event]:
        while self.epoch < self.config.epochs and not (self.epoch and self.clock.is_over()):
            began = self.clock.elapsed()
            yield from self._training_steps()
            figures, preview = yield from self._validated()
            loss, self.losses = float(np.mean(self.losses)), []
            self.epoch, self.metrics = self.epoch + 1, figures
            self.step = self.epoch * self.steps
            gates = gate_state(self.network, self.shown, self.plan)
            # Written before anything is yielded: wherever the run is stopped, its files belong together.
            saved = []
            if figures["dice"] > self.best:
                self.best = figures["dice"]
                saved.append(CheckpointSaved(self.save(BEST), "best", self.epoch))
            saved.append(CheckpointSaved(self.save(LAST), "last", self.epoch))
            yield EpochEnd(
                epoch=self.epoch,
                epochs=self.config.epochs,
                loss=loss,
                learning_rate=self._rate(self.step - 1),
                seconds=self.clock.elapsed() - began,
                validation=figures,
                gates=gates,
            )
            if preview is not None:
                yield preview
            yield from saved
            yield from _gate_warnings(gates, self.epoch)

    def _training_steps(self) -> Iterator[Event]:
        """What is left of the epoch; nothing is yielded between a change of the weights and its count."""
        while self.step < (self.epoch + 1) * self.steps:
            rate = self._rate(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["relative_rate"]
            drawn = self.batches.draw(self.step)
            self.model.train()
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.objective.step(self.model, _on(self.device, drawn), self.fabric.backward)
            if not math.isfinite(loss):
                kept = f"'{self.config.run_dir / LAST}' keeps the weights of epoch {self.epoch}"
                raise ProsmaError(
                    f"the loss became {loss} in step {self.step + 1}, on the cases "
                    f"{', '.join(sorted(set(drawn.names)))}; look at them, or lower the learning rate; "
                    f"{kept if self.epoch else 'nothing was written'}"
                )
            self.optimizer.step()
            self.losses.append(loss)
            self.step += 1
            yield Progress(
                self.clock.done(self.step), self.clock.total, f"epoch {self.epoch + 1}, loss {loss:.3f}"
            )
            if self.clock.is_over():
                return

    def _validated(self) -> Generator[Event, None, tuple[dict[str, float], Preview | None]]:
        began, figures, preview = self.clock.elapsed(), [], None
        for case, predicted in _validate(self.model, self.prepared, self.validation, self.plan):
            if predicted is not None:
                figures.append(case_metrics(predicted, case.label, self.plan.class_names))
                if case.name == self.shown.name:
                    preview = _preview(case, predicted, self.epoch + 1)
            message = f"epoch {self.epoch + 1}, validating {case.name}"
            yield Progress(self.clock.done(self.step), self.clock.total, message)
        self.clock.reserve(self.clock.elapsed() - began)
        return mean_metrics([f for f in figures if f] or [{"dice": 0.0, "iou": 0.0}]), preview

    def _rate(self, step: int) -> float:
        return self.config.learning_rate * schedule(self.clock.fraction(step))


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


def _require_norm_statistics(plan: Plan, divisor: int) -> None:
    """Batch norm needs two values per channel, also on the coarsest grid."""
    if plan.batch * math.prod(math.ceil(n / divisor) for n in plan.patch) < 2:
        raise ConfigError(
            f"a batch of {plan.batch} with patches of {' x '.join(map(str, plan.patch))} leaves the network "
            f"one value per channel at its deepest level; choose a batch of at least 2"
        )


def _shown_case(cases: PreparedCases, indices: Sequence[int]) -> PreparedCase:
    """The first case with foreground, among the first few."""
    first = [cases[n] for n in indices[:PREVIEW_CASES]]
    return next((case for case in first if is_foreground(case.label).any()), first[0])


def _preview(case: PreparedCase, predicted: np.ndarray, epoch: int) -> Preview:
    at = fullest_slice(case.label)
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
