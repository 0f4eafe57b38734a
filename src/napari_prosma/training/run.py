"""``train``: a run as an iterator of events. Closing it stops cleanly and leaves the last checkpoint."""

from __future__ import annotations

import atexit
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from weakref import WeakSet

from napari_prosma.data.atomic import require_writable
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan, balance_in_words, require_fit
from napari_prosma.events import Event, Notice
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.device import best_precision, cpu_threads
from napari_prosma.model.passes import Work
from napari_prosma.model.tuning import Execution, known_execution
from napari_prosma.nn.build import LAYOUTS
from napari_prosma.nn.network_kinds import OURS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.failures import gpu_errors
from napari_prosma.training.keeper import RunResult
from napari_prosma.training.loop import Loop
from napari_prosma.training.planning import pacing_for, pacing_of, require_norm_statistics, with_fitting_batch
from napari_prosma.training.processes import Processes
from napari_prosma.training.reading import (
    read_cases,
    read_unlabelled,
    require_same_cases,
)
from napari_prosma.training.run_claim import claimed
from napari_prosma.training.run_folder import failure_kept
from napari_prosma.training.split import as_it_began, difference_in_words, kept_split, learnable, split_cases
from napari_prosma.training.state import Beginning, RunData
from napari_prosma.training.steering import Steering
from napari_prosma.training.tempo import LEAST_STEPS
from napari_prosma.training.transfer import architecture

__all__ = ["RunResult", "train"]


def train(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    resumed: Checkpoint | None = None,
    steering: Steering | None = None,
    unlabelled: Sequence[Case] = (),
    split: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Event]:
    """Train a network on ``cases``; the last event is ``Finished`` with a :class:`RunResult`.

    On the CPU a run that goes on from its last checkpoint ends bit for bit as if it had never stopped: what a
    step draws depends on the seed and the step alone, and it keeps its memory layout, which is the usual one
    unless ``model.tuning`` found another to be faster on this machine.

    Under ``torchrun`` every process calls this alike; they learn as one with the batches of all, and the
    first one writes.

    Parameters
    ----------
    config : TrainConfig
    cases : every one with a label
    class_names : background first; by default ``background, foreground`` or ``class 1``, ``class 2``, ...
    resumed : Checkpoint, optional
        The last one of a run with the same configuration and cases, to go on from. Its split is kept.
    steering : Steering, optional
        To change the run from another thread while it goes on.
    unlabelled : further cases for the objective ``dim``
        Their labels are not read. By default those in ``config.unlabelled``.
    split : ``Checkpoint.split`` of another run on these cases, optional
        To have its ``training`` and ``validation`` cases; by default those of :func:`split_cases`.

    Raises
    ------
    DataError, ConfigError, CheckpointError
        Before anything is written, unless a checkpoint itself cannot be written.
    ProsmaError
        The loss or a gradient is no longer finite, or memory ran out; the last checkpoint holds weights from
        before.
    """
    run = _events(config, cases, class_names, resumed, steering, unlabelled, split)
    _OPEN.add(run)
    return run


_OPEN: WeakSet[Generator[Event, None, None]] = WeakSet()


@atexit.register
def _close_what_is_open() -> None:
    """A run that a script leaves behind stops as any other does; later torch would end the process."""
    for run in list(_OPEN):
        with suppress(ValueError):  # it goes on in a thread
            run.close()


def _events(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str],
    resumed: Checkpoint | None,
    steering: Steering | None,
    unlabelled: Sequence[Case],
    split: Mapping[str, Sequence[str]] | None,
) -> Generator[Event, None, None]:
    began = time.monotonic()
    require_writable(config.run_dir)
    if resumed is not None:
        config = as_it_began(config, resumed)
    cases = yield from learnable(cases, config.split, config.together, config.fold is not None)
    if resumed is not None:
        require_same_cases(resumed, cases, class_names)
    steering = steering or Steering()
    with (
        claimed(config.run_dir, steering, config.data, resumed is not None),
        failure_kept(config.run_dir),
        cpu_threads(config.threads),
        gpu_errors(config.run_dir),
    ):
        facts = yield from read_cases(cases, steering)
        if len(facts) < len(cases):
            return
        with Processes(config) as processes:
            source = None
            if config.start_from is not None and resumed is None:
                source = load_checkpoint(config.start_from)
                config = _with_architecture(config, source)
            pacing = None
            if resumed is not None:
                plan, spec = resumed.plan, resumed.spec
                if not resumed.place.get("paced", True):
                    pacing = pacing_of(spec, plan, facts, processes.device)
            else:
                left = math.inf
                if config.is_timed:
                    left = 60 * (config.minutes or 0) - (time.monotonic() - began)
                (left,) = processes.of_first([max(left, 1.0)])
                pacing = pacing_for(config, facts, class_names, source, left, processes.device)
                yield from map(Notice, pacing.notices)
                plan, spec = pacing.pace.plan, pacing.pace.spec
            require_fit(facts, plan)
            if resumed is None and config.batch is None and config.plan is None:
                plan = yield from with_fitting_batch(plan, spec, config, processes)
            yield Notice(_plan_in_words(plan, spec))
            yield Notice(f"Labelled: {balance_in_words(facts, plan.class_names)}")
            unlabelled_cases = yield from read_unlabelled(config, unlabelled, facts, plan, steering)
            if unlabelled_cases is None:
                return
            if split is None:
                parts = split_cases(cases, config.validation_fraction, config.seed, config.fold)
            else:
                parts = kept_split(split, cases)
            if resumed is not None:
                kept = kept_split(resumed.split, cases)
                yield from map(Notice, difference_in_words(kept, parts, cases))
                parts = kept
            training, validation = parts
            data = RunData(
                cases,
                facts,
                unlabelled_cases,
                training,
                validation or training[:1],
                has_validation=bool(validation),
            )
            while True:
                require_norm_statistics(plan, spec, spec.divisor)
                execution = _execution(config, plan, spec, processes, resumed)
                begin = Beginning(plan, spec, execution, source, resumed, pacing, began)
                loop = Loop(config, data, begin, processes, steering)
                yield from loop.events()
                better = loop.tempo.better
                if better is None:
                    return
                plan, spec = better.plan, better.spec
                yield Notice(_plan_in_words(plan, spec))
                pacing = replace(pacing, pace=better, again=None) if pacing else None


def _execution(
    config: TrainConfig, plan: Plan, spec: ModelSpec, processes: Processes, resumed: Checkpoint | None
) -> Execution:
    """How the network computes: as the run began, else as is known to be fastest for the first process."""
    precision = best_precision(processes.device) if config.precision == "auto" else config.precision
    work = Work("step", spec, (plan.batch, plan.channels, *plan.patch), processes.device, precision)
    steps = config.epochs * (config.steps_per_epoch or LEAST_STEPS)
    execution = known_execution(work, steps, math.inf if config.minutes is None else 60 * config.minutes)
    if resumed is not None:
        place = resumed.place
        return Execution(
            place.get("layout", execution.layout), place.get("compiling", 0.0), place.get("fused", False)
        )
    layout, compiling, fused = processes.of_first(
        [LAYOUTS.index(execution.layout), execution.compiling, execution.fused]
    )
    return Execution(LAYOUTS[int(layout)], compiling, bool(fused))


def _plan_in_words(plan: Plan, spec: ModelSpec) -> str:
    where = "" if spec.entry == 1 else f" on 1/{spec.entry} of the image's grid"
    gate = f", gate {spec.gate}" if spec.network == OURS else ""
    network = f"{spec.network}, widths {', '.join(map(str, spec.widths))}{where}{gate}"
    return f"Plan: {plan.in_words()}; network: {network}"


def _with_architecture(config: TrainConfig, source: Checkpoint) -> TrainConfig:
    """The network of ``source`` wherever the configuration was not told of another one."""
    wanted = {n: value for n, value in architecture(source).items() if n not in config.model_fields_set}
    return TrainConfig.of(**{**dict(config), **wanted})
