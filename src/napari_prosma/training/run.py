"""``train``: a run as an iterator of events. Closing it stops cleanly and leaves the last checkpoint."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import (
    HASH_BYTES,
    CaseFacts,
    Plan,
    balance_in_words,
    content_hash,
    read_facts,
    require_fit,
)
from napari_prosma.data.labels import BINARY, IGNORE, fullest_slice
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.preparation import grid_size
from napari_prosma.errors import CheckpointError, ConfigError, DataError, ProsmaError
from napari_prosma.events import (
    OBJECTIVE,
    Baseline,
    CheckpointSaved,
    EpochEnd,
    Event,
    Finished,
    LivePreview,
    Notice,
    Preview,
    Progress,
    Resumed,
    Started,
    Verdict,
)
from napari_prosma.nn.build import LAYOUTS, Network, build_model, lay_out
from napari_prosma.nn.spec import OURS, ModelSpec
from napari_prosma.nn.thresholds import start_thresholds
from napari_prosma.segmentation.windows import labels_of
from napari_prosma.training.augment import Augmentation, recipe_of
from napari_prosma.training.batches import Batch, Batches, PreparedCases, UnlabelledBatches
from napari_prosma.training.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    split_prefix,
)
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.device import best_precision, cpu_threads
from napari_prosma.training.figures import Overlap, overlaps_of, validation_figures
from napari_prosma.training.losses import chosen_weights
from napari_prosma.training.memory import peak_memory, ran_out_of_memory, release
from napari_prosma.training.objectives import Setting, make_objective
from napari_prosma.training.pace import (
    PASSES,
    TRIED_STEPS,
    VALIDATING,
    WRONG,
    Pace,
    operations,
    validations,
    with_batch,
)
from napari_prosma.training.passes import Work
from napari_prosma.training.planning import (
    Pacing,
    class_counts,
    pacing_for,
    remarks,
    require_norm_statistics,
    with_fitting_batch,
)
from napari_prosma.training.preview import (
    SETTLED_STEPS,
    Plane,
    Rhythm,
    by_own_statistics,
    on_plane,
    plane_labels,
    plane_probabilities,
)
from napari_prosma.training.processes import Processes
from napari_prosma.training.run_claim import claimed
from napari_prosma.training.run_folder import (
    RunFolder,
    TensorBoardFiles,
    history_from_json,
    history_to_json,
)
from napari_prosma.training.schedule import (
    Clock,
    Costs,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    schedule,
    set_relative_rates,
    usual_rate,
)
from napari_prosma.training.split import as_it_began, learnable, split_cases
from napari_prosma.training.statistics import passes, same_statistics, settle
from napari_prosma.training.steering import Steering
from napari_prosma.training.transfer import architecture, baseline, set_training, take_over, trained_parts
from napari_prosma.training.tuning import Way, known_way
from napari_prosma.training.validation import (
    InPrecision,
    gate_state,
    gate_warnings,
    judged_part,
    shown_case,
    validate,
    validation_windows,
)
from napari_prosma.training.verdict import verdict

LEAST_STEPS = 20
"""An epoch has at least this many steps, so that a handful of cases is not validated all the time."""
SAVE_EVERY = 120.0
"""Seconds between two last checkpoints within an epoch; more where writing one takes over a fiftieth."""
GATES_CHECKED_EVERY = 10
"""Epochs between two warnings about the gates."""
FEW_VALIDATED = 5
"""With fewer validation cases the last model is kept: which epoch is best on them is chance."""
LEAST_JUDGED = 10
"""A validation within a run looks at so many cases at least, where there are so many."""
SLEPT_SECONDS, SLEPT_STEPS = 60.0, 20
"""A step that took longer than both, the second in usual steps, slept with its computer."""
LATE = 1.02
"""A validation ends where the time of the run is over by so much."""
RUNNING = "running"
"""Prefix of the running averages of norms, in the state of a run whose weights have statistics anew."""
NO_TIME = 1e-9
"""Seconds, in the place of none in a division."""
ENDS_SOON = 0.3
"""An epoch that would be followed by less than this share of one goes on to the end."""
STATISTICS = 2
"""Stream of the patches that the statistics of the norms are taken from."""


Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left its model; ``score`` is the best mean Dice of the validation cases."""

    run_dir: Path
    best: Path
    last: Path
    score: float
    epochs: int


def train(
    config: TrainConfig,
    cases: Sequence[Case],
    class_names: Sequence[str] = (),
    resumed: Checkpoint | None = None,
    steering: Steering | None = None,
    unlabelled: Sequence[Case] = (),
) -> Iterator[Event]:
    """Train a network on ``cases``; the last event is ``Finished`` with a :class:`RunResult`.

    On the CPU a run that goes on from its last checkpoint ends bit for bit as if it had never stopped: what a
    step draws depends on the seed and the step alone, and it keeps its memory layout, which a long run takes
    by a measurement on this machine (``training.tuning``).

    Under ``torchrun`` every process calls this alike; they learn as one with the batches of all, and the
    first one writes.

    Parameters
    ----------
    config : TrainConfig
    cases : every one with a label
    class_names : background first; by default ``background, foreground`` or ``class 1``, ``class 2``, ...
    resumed : Checkpoint, optional
        The last one of a run with the same configuration and cases, to go on from.
    steering : Steering, optional
        To change the run from another thread while it goes on.
    unlabelled : further cases for the objective ``dim``
        Their labels are not read. By default those in ``config.unlabelled``.

    Raises
    ------
    DataError, ConfigError, CheckpointError
        Before anything is written, unless a checkpoint itself cannot be written.
    ProsmaError
        The loss or a gradient is no longer finite, or memory ran out; the last checkpoint holds weights from
        before.
    """
    began = time.monotonic()
    _require_writable(config.run_dir)
    if resumed is not None:
        config = as_it_began(config, resumed)
    cases = yield from learnable(cases, config.split, config.together, config.fold is not None)
    if resumed is not None:
        _require_same_cases(resumed, cases, class_names)
    steering = steering or Steering()
    with (
        claimed(config.run_dir, steering, config.data, resumed is not None),
        cpu_threads(config.threads),
        _gpu_errors(config.run_dir),
    ):
        facts = yield from _read(cases, steering)
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
            bare = yield from _read_unlabelled(config, unlabelled, facts, plan, steering)
            if bare is None:
                return
            data = _Data(cases, facts, bare)
            while True:
                require_norm_statistics(plan, spec, spec.divisor)
                way = _way(config, plan, spec, processes, resumed)
                begin = _Beginning(plan, spec, way, source, resumed, pacing, began)
                run = _Run(config, data, begin, processes, steering)
                yield from run.events()
                if run.better is None:
                    return
                plan, spec = run.better.plan, run.better.spec
                yield Notice(_plan_in_words(plan, spec))
                pacing = replace(pacing, pace=run.better, again=None) if pacing else None


def _read(cases: Sequence[Case], steering: Steering) -> Generator[Event, None, list[CaseFacts]]:
    """Facts of every case, or of the first ones where it was stopped."""
    facts: list[CaseFacts] = []
    yield Started(len(cases), "Reading cases")
    for fact in read_facts(cases):
        facts.append(fact)
        yield from map(Notice, fact.notices)
        yield Progress(len(facts), len(cases), fact.name)
        if steering.was_stopped:
            break
    return facts


def _require_alike(case: Case, image: Image, labelled: CaseFacts, plan: Plan) -> None:
    """Refuse an unlabelled image that the network of the labelled ones cannot take."""
    named = f"the unlabelled image '{case.files[0] if case.files else case.name}'"
    array = image.array
    if (array.shape[0], array.ndim - 1) != (plan.channels, len(labelled.shape)):
        raise DataError(
            f"{named} has {array.shape[0]} channel(s) and {array.ndim - 1} axes but the labelled ones have "
            f"{plan.channels} and {len(labelled.shape)}; convert it, or leave it out"
        )
    if not array.size or not np.all(np.isfinite(array)):
        raise DataError(f"{named} is empty or holds NaN or infinite values; re-export it, or leave it out")
    try:
        grid_size(array.shape[1:], image.geometry, plan)
    except DataError as error:
        raise DataError(f"{named} cannot be brought to the spacing of the labelled ones: {error}") from error


@dataclass(frozen=True)
class _Unlabelled:
    """Cases without labels that fit the plan, and one hash over their contents in order."""

    cases: tuple[Case, ...] = ()
    fingerprint: str = ""


def _read_unlabelled(
    config: TrainConfig,
    given: Sequence[Case],
    facts: Sequence[CaseFacts],
    plan: Plan,
    steering: Steering,
) -> Generator[Event, None, _Unlabelled | None]:
    """Look at every unlabelled image once, None where stopped; what is labelled as well is left out."""
    if not given and config.unlabelled is not None:
        data = find_cases(config.unlabelled, require_labels=False, labels=BINARY)  # none of them is read
        yield from map(Notice, data.notices)
        given = data.cases
    if not given:
        return _Unlabelled()
    labelled = {fact.image_hash: fact.name for fact in facts}
    kept: list[Case] = []
    hashes: list[str] = []
    twice: list[str] = []
    yield Started(len(given), "Reading unlabelled images")
    for n, case in enumerate(given, start=1):
        image = case.read_image()
        _require_alike(case, image, facts[0], plan)
        found = content_hash(image.array)
        if found in labelled:
            twice.append(case.name)
        else:
            kept.append(replace(case, read_label=None))
            hashes.append(found)
        yield from map(Notice, image.notices)
        yield Progress(n, len(given), case.name)
        if steering.was_stopped:
            return None
    if twice:
        named = ", ".join(twice[:5]) + (", ..." if len(twice) > 5 else "")
        said = f"{len(twice)} of the {len(given)} unlabelled images ({named}) are among the labelled cases"
        if not kept:
            raise DataError(f"{said}: none is left; give other images, or leave them out")
        yield Notice(f"{said} and are left out of the unlabelled")
    yield Notice(f"Unlabelled: {len(kept)} image{'s' * (len(kept) > 1)}")
    fingerprint = hashlib.blake2b("".join(hashes).encode(), digest_size=HASH_BYTES).hexdigest()
    return _Unlabelled(tuple(kept), fingerprint)


def _way(
    config: TrainConfig, plan: Plan, spec: ModelSpec, processes: Processes, resumed: Checkpoint | None
) -> Way:
    """How the network computes: as the run began, else as is known to be fastest for the first process."""
    precision = best_precision(processes.device) if config.precision == "auto" else config.precision
    work = Work("step", spec, (plan.batch, plan.channels, *plan.patch), processes.device, precision)
    steps = config.epochs * (config.steps_per_epoch or LEAST_STEPS)
    way = known_way(work, steps, math.inf if config.minutes is None else 60 * config.minutes)
    if resumed is not None:
        return Way(resumed.place.get("layout", way.layout), resumed.place.get("compiling", 0.0))
    layout, compiling = processes.of_first([LAYOUTS.index(way.layout), way.compiling])
    return Way(LAYOUTS[int(layout)], compiling)


def _plan_in_words(plan: Plan, spec: ModelSpec) -> str:
    where = "" if spec.entry == 1 else f" on 1/{spec.entry} of the image's grid"
    gate = f", gate {spec.gate}" if spec.network == OURS else ""
    network = f"{spec.network}, widths {', '.join(map(str, spec.widths))}{where}{gate}"
    return f"Plan: {plan.in_words()}; network: {network}"


def _with_architecture(config: TrainConfig, source: Checkpoint) -> TrainConfig:
    """The network of ``source`` wherever the configuration was not told of another one."""
    wanted = {n: value for n, value in architecture(source).items() if n not in config.model_fields_set}
    return TrainConfig.of(**{**dict(config), **wanted})


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


@dataclass(frozen=True, eq=False)
class _Data:
    """What a run learns from: its cases with their facts, and unlabelled ones."""

    cases: Sequence[Case]
    facts: Sequence[CaseFacts]
    bare: _Unlabelled


@dataclass(frozen=True, eq=False)
class _Beginning:
    """What was decided before the first step.

    ``source`` is the model that a fine-tuning starts from, ``pacing`` how network, plan and batch are chosen
    anew once the cost of a step is known, ``began`` when the run began, by ``time.monotonic``.
    """

    plan: Plan
    spec: ModelSpec
    way: Way
    source: Checkpoint | None
    resumed: Checkpoint | None
    pacing: Pacing | None
    began: float


class _Run:
    """A run in progress: the network, its optimizer and data, and how far it has come.

    Attributes
    ----------
    better : Pace, optional
        With it the run should begin again: its first steps showed that it would come too far or not far
        enough.
    """

    def __init__(
        self, config: TrainConfig, data: _Data, begin: _Beginning, processes: Processes, steering: Steering
    ) -> None:
        cases, facts, plan, resumed = data.cases, data.facts, begin.plan, begin.resumed
        self.config, self.facts, self.plan, self.way = config, facts, plan, begin.way
        self.processes, self.steering, self.source = processes, steering, begin.source
        self.device, self.folder = processes.device, RunFolder(config.run_dir, steering)
        self.resumed, self.pacing = resumed, begin.pacing
        self.better: Pace | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_model(begin.spec)
        self.transfer = None if begin.source is None else take_over(network, begin.source, plan.class_names)
        self.tensorboard = TensorBoardFiles(config.run_dir) if config.tensorboard else None
        self.network = processes.synchronised(lay_out(network, begin.spec.dims, begin.way.layout))
        place = {} if resumed is None else resumed.place
        self.taken = frozenset(place.get("taken", self.transfer.taken if self.transfer else ()))
        new = () if resumed else [*self.network.state_dict()] if self.transfer is None else self.transfer.new
        trained_parts(self.network, config.trains, new)
        training, held_out = split_cases(cases, config.validation_fraction, config.seed, config.fold)
        self.has_held_out = bool(held_out)
        self.validation = held_out or training[:1]
        self.is_few = len(self.validation) < FEW_VALIDATED
        self.index = {case.name: n for n, case in enumerate(cases)}
        self.prepared = PreparedCases(cases, plan)
        self.counted: dict[int, int] = {}
        self.steps, self.judged = self._epoch(len(training), place)
        self.expected = place.get("expected", self._thought_steps())
        optimizer = make_optimizer(self.network, config, self.taken, self.expected)
        self.is_compiled = config.compile or begin.way.compiling > 0
        module: Any = torch.compile(self.network) if self.is_compiled else self.network
        self.model, self.optimizer = processes.fabric.setup(module, optimizer)
        self.averaged: AveragedModel | None = None
        if config.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=_warmed_average(config.average))
        self.evaluated = InPrecision(self.kept, processes.fabric.autocast)

        self.split = {
            "training": [cases[n].name for n in training],
            "validation": [cases[n].name for n in self.validation],
        }
        recipe = recipe_of(config.modality, plan) if config.augment else None
        bare = data.bare
        self.bare, self.unlabelled = bare, None
        if bare.cases:
            self.unlabelled = UnlabelledBatches(
                PreparedCases(bare.cases, plan, self.prepared), plan, config.seed, recipe, self.device
            )
        self.training = training
        self.augmentation = None if recipe is None else Augmentation(plan, recipe)
        self.batches = self._batches(plan)
        self.judging = self._batches(plan, STATISTICS)
        self.shown = shown_case(self.prepared, self.validation)
        self.objective = make_objective(config.objective)
        self.objective.prepare(
            Setting(
                self.network,
                plan,
                config,
                processes,
                self.prepared,
                tuple(training),
                self.steps,
                chosen_weights(config.class_weights, class_counts(facts, training, len(plan.class_names))),
                self.unlabelled,
                None if self.averaged is None else self.kept,
            )
        )
        self.clock = Clock(config.epochs * self.steps, config.minutes, begin.began)
        self.costs = _costs(plan)
        self.step, self.epoch, self.parts = 0, 0, 1
        self.tried = TRIED_STEPS
        self.saved_step = 0
        self.losses: list[float] = []
        self.history: list[EpochEnd] = []
        self.metrics: dict[str, float] = {}
        self.baseline: dict[str, float] = {}
        self.best, self.best_epoch, self.improved = -1.0, 0, 0
        self.best_weights: dict[str, Tensor] = {}
        self.least = -1.0
        self.said: Verdict | None = None
        self.running: dict[str, Tensor] | None = None
        self.is_finishing = self.is_stopping = False
        if resumed is not None:
            self._go_on_from(resumed)
        self.rhythm = Rhythm(self.clock.elapsed())
        self.next_save = self.clock.elapsed() + SAVE_EVERY

    def _batches(self, plan: Plan, stream: int = 0) -> Batches:
        """The patches of this process, or the same for all in a ``stream`` of their own."""
        return Batches(
            self.prepared,
            self.training,
            plan,
            self.config.seed,
            self.augmentation,
            foreground_share=self.config.foreground_share,
            device=self.device,
            rank=0 if stream else self.processes.rank,
            world=1 if stream else self.processes.world,
            stream=stream,
        )

    def _epoch(self, learned: int, place: dict[str, Any]) -> tuple[int, list[int]]:
        """Steps of an epoch, and the validation cases that are looked at after each.

        Once through the training cases, at least ``LEAST_STEPS``; as many cases as a share of that time is
        enough for, at least ``LEAST_JUDGED``, and more steps where these take longer. Where the minutes set
        the pace, both are decided when a step's cost is known.
        """
        plan, config = self.plan, self.config
        if "judged" in place:
            return place["steps"], [self.index[name] for name in place["judged"]]
        if place or config.steps_per_epoch:
            return place.get("steps") or config.steps_per_epoch or LEAST_STEPS, self.validation
        if self.is_paced:
            assert config.minutes is not None
            return max(
                TRIED_STEPS, self._thought_steps() // validations(60 * config.minutes)
            ), self.validation
        steps = max(LEAST_STEPS, math.ceil(learned / (plan.batch * self.processes.world)))
        windows = self._windows(self.validation)
        patches = PASSES * plan.batch * math.prod(plan.patch) / math.prod(plan.window)
        affordable = VALIDATING * patches * steps * len(self.validation) / max(windows, 1)
        judged = self._judged(affordable)
        least = VALIDATING * 3 * patches  # what must be looked at may take three times its share
        return max(steps, math.ceil(self._windows(judged) / least)), judged

    @property
    def is_paced(self) -> bool:
        """Whether the length of its epochs follows from the minutes; what DiM and DALE do counts epochs."""
        config = self.config
        return (
            self.pacing is not None
            and config.is_timed
            and config.steps_per_epoch is None
            and config.objective == "supervised"
        )

    def _windows(self, indices: Sequence[int]) -> int:
        """Windows of these cases; each is counted once, since every step asks."""
        for index in set(indices) - self.counted.keys():
            self.counted[index] = validation_windows(
                self.facts, self.prepared, [index], self.plan, self.network.spec.divisor
            )
        return sum(self.counted[index] for index in indices)

    def _judged(self, count: float) -> list[int]:
        """So many of the validation cases, at least ``LEAST_JUDGED`` where there are."""
        return judged_part(self.facts, self.validation, max(int(count), LEAST_JUDGED), self.config.seed)

    def _thought_steps(self) -> int:
        """About how many steps there will be."""
        if self.pacing is not None and self.config.is_timed:
            assert self.config.minutes is not None
            return max(1, self.pacing.pace.steps(60 * self.config.minutes))
        return min(self.config.epochs * self.steps, 10**6)

    @property
    def kept(self) -> Network:
        """The network that is validated and kept: the average, where there is one."""
        return self.network if self.averaged is None else cast(Network, self.averaged.module)

    def _go_on_from(self, kept: Checkpoint) -> None:
        """Take up weights, optimizer and place, so that what follows is what would have followed."""
        self.network.load_state_dict(split_prefix(kept.state, "raw") or kept.weights)
        if self.averaged is not None:
            self.averaged.module.load_state_dict(kept.weights)
            self.averaged.n_averaged.fill_(kept.place["step"])
        restore_optimizer(self.optimizer, split_prefix(kept.state, "optimizer"))
        self.objective.load_state_dict(split_prefix(kept.state, "objective"))
        place = kept.place
        for name, buffer in self.network.named_buffers():
            if f"{RUNNING}.{name}" in kept.state:
                buffer.copy_(kept.state[f"{RUNNING}.{name}"])
        self.saved_step = place["step"]
        self.step, self.epoch, self.losses = place["step"], kept.epoch, list(place["losses"])
        self.metrics, self.best, self.best_epoch = kept.metrics, place["best"], place.get("best_epoch", 0)
        self.history = list(history_from_json(place.get("history", [])))
        self.baseline, self.parts = place.get("baseline", {}), place.get("parts", 1)
        self.least, self.improved = place.get("least", -1.0), place.get("improved", self.best_epoch)
        self.clock.count_on_from(place["seconds"])
        self.clock.learning_began = place.get("learning_began", 0.0)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Within, the norms of the network that is kept have statistics of their own, not averages that lag.

        They follow from the weights alone, and the averages come back: a run that goes on learns as one that
        was never saved.
        """
        if self.running is not None:
            yield
            return
        set_training(self.kept, self.config.trains)
        with same_statistics(self.kept) as self.running:
            try:
                settle(self.kept, self._seen(), self.processes.fabric.autocast)
                yield
            finally:
                self.running = None

    def _seen(self) -> Iterator[Tensor]:
        """Images that the statistics are taken from."""
        for number in range(passes(self.plan)):
            for part, _ in self.judging.draw(number).in_parts(self.parts):
                yield part.images

    def save(self, name: str) -> Path:
        """Write a checkpoint; the last one holds what a run needs to go on."""
        path = self.config.run_dir / name
        with self._settled():
            if self.processes.is_first:
                self.folder.require_there()
                save_checkpoint(path, self._checkpoint(name))
        self.saved_step = self.step
        return path

    def _checkpoint(self, name: str) -> Checkpoint:
        state: dict[str, Tensor] = {}
        if name == LAST:
            state |= {f"optimizer.{key}": value for key, value in optimizer_tensors(self.optimizer).items()}
            state |= {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
            if self.averaged is not None:
                state |= {f"raw.{key}": value for key, value in self.network.state_dict().items()}
            else:
                state |= {f"{RUNNING}.{key}": value for key, value in (self.running or {}).items()}
        place = {
            "step": self.step,
            "steps": self.steps,
            "losses": self.losses,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "improved": self.improved,
            "seconds": self.clock.elapsed(),
            "parts": self.parts,
            "taken": sorted(self.taken),
            "unlabelled": self.bare.fingerprint,
            "baseline": self.baseline,
            "least": self.least,
            "layout": self.way.layout,
            "compiling": self.way.compiling,
            "expected": self.expected,
            "rate": self.highest_rate,
            "learning_began": self.clock.learning_began,
            "judged": [self.facts[n].name for n in self.judged],
            "settled": True,
        }
        if self.said is not None:
            place["verdict"] = [self.said.summary, *self.said.advice]
        if name == LAST:
            place["history"] = history_to_json(self.history)
        return Checkpoint(
            spec=self.network.spec,
            plan=self.plan,
            weights=self.kept.state_dict(),
            config=self.config.model_dump(mode="json"),
            epoch=self.epoch,
            metrics=self.metrics,
            split=self.split,
            state=state,
            place=place,
        )

    def events(self) -> Iterator[Event]:
        """All epochs that are left; closing it saves the last checkpoint.

        An interrupt inside a step does not: half a step is no place to go on from.
        """
        learned = len(self.split["training"])
        message = f"Training on {learned} case{'s' * (learned != 1)}"
        if self.has_held_out:
            message += f", validating on {len(self.validation)}"
        yield Started(self.clock.total, message, str(self.device))
        yield from map(Notice, remarks(self.facts, self.plan, self.validation if self.has_held_out else ()))
        if self.history:
            yield Resumed(tuple(self.history))
        if self.step and self.baseline:
            yield Baseline(self.baseline)
        if self.resumed is not None and self.resumed.place.get("unlabelled", "") != self.bare.fingerprint:
            yield Notice(
                "The unlabelled images changed since the run was left; it goes on with them and is no longer "
                "the run that was never interrupted"
            )
        if self.step == 0:
            yield from self._before_the_first_step()
        try:
            if self.processes.is_first:
                notices = self.folder.begin(
                    self.config, self.plan, self.facts, self.split, self.device, self.resumed is not None
                )
                yield from map(Notice, notices)
            if self.step == 0:
                yield from self._keep_source()
            if self.is_compiled:
                takes = f"about {self.way.compiling:.0f} s" if self.way.compiling else "a minute or more"
                yield Notice(f"The network is being compiled: the first step takes {takes}")
            if self.step == 0:
                self.clock.begin_learning()
            yield from self.clock.without_pauses(self._epochs())
        except GeneratorExit:
            if self.processes.world > 1:  # the others may not be there to take statistics together
                self.running = {}
            self.save(LAST)
            raise
        if self.better is not None:
            return
        if self.is_stopping:
            self.save(LAST)
            return
        with self._settled():
            yield from self._of_objective(self.objective.ends())
        yield from self._concluded()
        if self.is_stopping:
            return
        folder = self.config.run_dir
        if self.said is not None:
            yield self.said
        if self.baseline:
            after = {name: value for name, value in self.metrics.items() if name in self.baseline}
            yield Notice(_before_and_after(self.baseline, after))
        yield Finished(RunResult(folder, folder / BEST, folder / LAST, self.metrics["dice"], self.epoch))

    def _keep_source(self) -> Iterator[Event]:
        """Keep the model that this one starts from as long as none is better on the same cases."""
        whole = self.transfer is not None and not (self.transfer.new or self.transfer.adapted)
        if not whole or "score" not in self.baseline:
            return
        self.least = self.best = self.baseline["score"]
        self.metrics, self.running = self.baseline, {}
        try:
            yield CheckpointSaved(self.save(BEST), "best", 0)
        finally:
            self.running = None

    def _concluded(self) -> Iterator[Event]:
        """The model that was kept on all validation cases, where only part of them was looked at so far."""
        if self.best_epoch == 0 and self.baseline:
            yield Notice("No epoch was better than the model that it started from, which is kept")
            self.metrics = self.baseline
            return
        of_best = [epoch.validation for epoch in self.history if epoch.epoch == self.best_epoch]
        self.metrics = of_best[-1] if of_best else self.metrics
        if len(self.judged) == len(self.validation):
            return
        best = load_checkpoint(self.config.run_dir / BEST) if not self.best_weights else None
        self.kept.load_state_dict(self.best_weights if best is None else best.weights)
        self.epoch, last = self.best_epoch, self.epoch
        self.running = {}  # they are those of its weights
        try:
            found = yield from self._validated(self.validation, "the best model, ")
            if found:
                self.metrics = self.metrics | validation_figures(found)
                self._judge(found)
                self.save(BEST)
        finally:
            self.running, self.epoch = None, last
        yield Notice(
            f"Dice of the model that is kept, on all {len(self.validation)} validation cases: "
            f"{self.metrics['dice']:.3f}"
        )

    def _before_the_first_step(self) -> Iterator[Event]:
        if self.transfer is not None:
            yield Notice(self.transfer.in_words())
            self.baseline = yield from self._compared_with_source()
            if self.baseline:
                yield Baseline(self.baseline)
                assert self.source is not None
                seen = {*self.source.split["training"]} & {*self.split["validation"]}
                if seen:
                    yield Notice(
                        f"The model before learned from {len(seen)} of the {len(self.validation)} cases held "
                        f"out: its figures are better than it is, and so may be those of this one"
                    )
        elif start_thresholds(self.network, self.batches.of_all_processes(0)):
            yield Notice(
                "The gates have no batch norm (the printed form): their thresholds were set from the first "
                "batch, and channels can go dead for good; watch the zero fractions."
            )

    def _compared_with_source(self) -> Generator[Event, None, dict[str, float]]:
        """Figures of the model that this one starts from, for the classes that both know."""
        assert self.source is not None
        figures = baseline(self.source, self.prepared, self.validation, self.plan, self.device)
        while True:
            try:
                case = next(figures)
            except StopIteration as end:
                return end.value
            yield Progress(0, self.clock.total, f"the model before, on {case}")

    def _epochs(self) -> Iterator[Event]:
        while self.epoch < self.config.epochs and not self.is_stopping:
            (is_over,) = self.processes.of_first([self.clock.is_over()])
            if self.epoch and is_over:
                return
            began = self.clock.elapsed()
            yield from self._training_steps()
            if self.is_stopping or self.better is not None:
                return
            learned = self.clock.elapsed()
            with self._settled():
                validating = self.clock.elapsed()
                found = yield from self._validated(self.judged)
                if self.is_stopping:
                    return
                validating = self.clock.elapsed() - validating
                ended, saved = self._ended(found, self.clock.elapsed() - began)
            self.costs.added(self.clock.elapsed() - learned - validating)
            self._reserve()
            self.next_save = self.clock.elapsed() + SAVE_EVERY
            yield ended
            yield from saved
            if self._judge(found):
                assert self.said is not None
                yield self.said
            if self.epoch % GATES_CHECKED_EVERY == 0:
                yield from gate_warnings(ended.gates)
            yield from self._previewed(self.epoch)
            if self._gave_up():
                yield Notice(f"No better Dice for {self.config.patience} epochs: the run ends here")
                return
            if self.is_finishing:
                return

    def _ended(self, found: Sequence[Overlap], seconds: float) -> tuple[EpochEnd, list[CheckpointSaved]]:
        """Count the epoch and write its files, before anything is yielded: they belong together."""
        figures = validation_figures(found)
        loss, self.losses = float(np.mean(self.losses)) if self.losses else math.nan, []
        self.epoch, self.metrics = self.epoch + 1, figures
        self.step = max(self.step, self.epoch * self.steps)
        ended = EpochEnd(
            epoch=self.epoch,
            epochs=self.config.epochs,
            loss=loss,
            learning_rate=self._rate(self.step - 1),
            seconds=seconds,
            validation=figures | {OBJECTIVE + name: n for name, n in self.objective.figures().items()},
            gates=gate_state(self.kept, self.prepared[self.shown], self.plan),
            memory=peak_memory(self.device),
        )
        self.history.append(ended)
        saved = []
        score, is_best = figures["score"], self._is_best(figures["score"])
        if score > self.best:
            self.best, self.improved = score, self.epoch
        if is_best:
            self.best_epoch = self.epoch
            if len(self.judged) < len(self.validation):
                self.best_weights = {name: t.clone() for name, t in self.kept.state_dict().items()}
            saved.append(CheckpointSaved(self.save(BEST), "best", self.epoch))
        saved.append(CheckpointSaved(self.save(LAST), "last", self.epoch))
        if self.processes.is_first:
            self.folder.write_metrics(self.history)
            if self.tensorboard is not None:
                self.tensorboard.add(ended)
        return ended, saved

    def _is_best(self, score: float) -> bool:
        """Whether a model is the one to keep; of few cases none can be told from the next, so the last is.

        Never one that is worse than the model that the run started from.
        """
        return score >= self.least if self.is_few else score > self.best

    def _judge(self, found: Sequence[Overlap]) -> bool:
        """Put a validation into words; whether they are new."""
        counts = class_counts(self.facts, self.training, len(self.plan.class_names))
        with_class = {
            name: sum(
                len(self.facts[n].class_counts) > k and self.facts[n].class_counts[k] > 0
                for n in self.training
            )
            for k, name in enumerate(self.plan.class_names)
            if k
        }
        shares = {name: counts[k] / max(1, counts.sum()) for k, name in enumerate(self.plan.class_names) if k}
        said = verdict(self.epoch, found, self.history, with_class, shares, self.step, len(self.training))
        if self.said is not None and (said.summary, said.advice) == (self.said.summary, self.said.advice):
            return False
        self.said = said
        return True

    def _gave_up(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.epoch - self.improved >= patience

    def _training_steps(self) -> Iterator[Event]:
        """What is left of the epoch; nothing is yielded between a change of the weights and its count."""
        if self.step == self.epoch * self.steps:
            yield from self._of_objective(self.objective.epoch_begins(self.epoch))
        while self.step < (self.epoch + 1) * self.steps or self._ends_soon():
            yield from self._heed()
            now = self.clock.elapsed()
            first = (
                self._rate(self.step),
                self.clock.is_over() or self.is_finishing,
                self.is_stopping,
                now >= self.next_save,
            )
            rate, finishing, stopping, saving = self.processes.of_first(first)
            self.is_finishing, self.is_stopping = bool(finishing), bool(stopping)
            if self.is_stopping or (self.is_finishing and self.losses):
                return
            if saving and self.losses:
                saved = CheckpointSaved(self.save(LAST), "last", self.epoch)
                took = self.clock.elapsed() - now
                self.next_save = now + max(SAVE_EVERY, 50 * took)
                yield saved
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["relative_rate"]
            began = time.monotonic()
            among = self.objective.cases(self.epoch)
            loss = yield from self._gradients(self.batches.draw(self.step, among))
            self.optimizer.step()
            self.objective.stepped()
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
            self.losses.append(loss)
            self.step += 1
            yield from self._timed(time.monotonic() - began)
            if self.better is not None:
                return
            yield Progress(
                self.clock.done(self.step), self.clock.total, f"epoch {self.epoch + 1}, loss {loss:.3f}"
            )
            if self.rhythm.is_due(self.clock.elapsed(), self.steering.view):
                yield from self._previewed(self.epoch + 1)

    def _ends_soon(self) -> bool:
        """Whether so little time is left after this epoch that it had better be part of it."""
        if not (self.is_paced and self.losses) or self.clock.is_over() or self.is_finishing:
            return False
        if self.processes.world > 1:  # each would have an answer of its own
            return False
        validating = self.costs.of_windows(self._windows(self.judged)) + self.costs.extra
        return self.clock.left() - validating < ENDS_SOON * self.steps * self.costs.step

    def _timed(self, seconds: float) -> Iterator[Event]:
        """Note what a step took; the first steps of a run tell how it goes on."""
        usual = self.costs.step
        if usual and seconds > max(SLEPT_SECONDS, SLEPT_STEPS * usual):
            self.clock.leave_out(seconds - usual)
            yield Notice(f"The computer slept for {_duration(seconds)}; that does not count")
        elif self.step > 1:
            self.costs.stepped(seconds)
        if self.step == self.tried:
            yield from self._paced()
        if self.config.minutes is not None:
            self._reserve()

    def _paced(self) -> Iterator[Event]:
        """What the first steps tell: how many there will be, in which batches and validations."""
        step, least, window = self.processes.of_first(
            [self.costs.step, self.costs.least_step, self.costs.of_windows(1)]
        )
        if not self.is_paced:
            count = self.config.epochs * self.steps
            if not self.config.is_timed:
                yield Notice(
                    f"About {count} steps of {self.plan.batch} patches, {_duration(count * step)} for all of "
                    f"them; with a limit in minutes network and steps are chosen to fit"
                )
            return
        assert self.pacing is not None
        (left,) = self.processes.of_first([max(self.clock.left(), 0.0)])
        pace = replace(self.pacing.pace, plan=self.plan, step=step)
        if self.pacing.again is not None and left > 0:
            speed = PASSES * self.plan.batch * operations(pace.spec, self.plan.patch) / max(least, NO_TIME)
            other, thought = self.pacing.again(left, speed), self.pacing.pace.step
            is_other = (other.rung, other.plan.patch) != (pace.rung, self.plan.patch)
            if is_other and max(least / thought, thought / max(least, NO_TIME)) > WRONG:
                yield Notice(
                    f"A step takes {least:.2g} s, {thought:.2g} s were expected: the plan is made anew"
                )
                self.better = other
                return
            if not is_other and other.plan.batch != self.plan.batch:
                self.plan = with_batch(self.plan, other.plan.batch)
                self.batches = self._batches(self.plan)
                self.costs = _costs(self.plan)
                self.pacing = replace(self.pacing, pace=other, again=None)
                self.tried = self.step + TRIED_STEPS  # a step of other size is tried anew
                return
        count = validations(left)
        affordable = VALIDATING * left / count / max(window, NO_TIME)
        self.judged = self._judged(affordable / self._windows(self.validation) * len(self.validation))
        validating = window * self._windows(self.judged)
        count = max(1, min(count, int(3 * VALIDATING * left / max(validating, NO_TIME))))
        steps = max(1, int((left - count * validating) / max(pace.step, NO_TIME)))
        self.steps, self.expected = max(TRIED_STEPS, steps // count), steps
        set_relative_rates(self.optimizer, self.config, steps)
        self.clock.set_steps(self.config.epochs * self.steps)
        yield Notice(self._pace_in_words(pace, steps, count))

    def _pace_in_words(self, pace: Pace, steps: int, count: int) -> str:
        assert self.pacing is not None
        patch, cases = " x ".join(map(str, self.plan.patch)), len(self.judged)
        said = f"About {steps} steps of {self.plan.batch} patches of {patch}, and {count} validation"
        said += f"{'s' * (count > 1)} on {cases} case{'s' * (cases > 1)}"
        richer = self.pacing.richer(pace)
        if richer is not None and self.config.minutes and richer > 60 * self.config.minutes:
            said += f"; finer images or a wider network pay from about {_duration(richer)} on"
        return said

    def _reserve(self) -> None:
        """Leave time for the last validation, with all that comes with it."""
        windows = self._windows(self.judged)
        if len(self.judged) < len(self.validation):
            windows += self._windows(self.validation)
        self.clock.reserve(self.costs.of_windows(windows) + self.costs.extra + self.costs.step / 2)

    def _of_objective(self, events: Iterator[Event]) -> Iterator[Event]:
        """What the objective does between steps, up to where it is stopped; its progress is not the run's."""
        for event in events:
            if isinstance(event, Progress):
                event = replace(event, done=self.clock.done(self.step), total=self.clock.total)
            yield event
            if self.processes.world == 1 and self.steering.was_stopped:
                return

    def _heed(self) -> Iterator[Event]:
        """Take up what the user changed since the last step."""
        changes = self.steering.take()
        self.is_finishing |= changes.finish
        self.is_stopping |= changes.stop
        if changes.settings:
            try:
                self.config = TrainConfig.of(**{**dict(self.config), **changes.settings})
            except ConfigError as error:
                yield Notice(f"Not changed: {error}")
            else:
                self.clock.set_steps(self.config.epochs * self.steps)
                self.clock.set_minutes(self.config.minutes)
                if self.processes.is_first:
                    self.folder.configuration_changed(self.config)
                said = ", ".join(
                    f"{name.replace('_', ' ')} {'by the steps' if value is None else f'{value:g}'}"
                    for name, value in changes.settings.items()
                )
                yield Started(self.clock.total, f"Training on with {said}", str(self.device))
        for name in sorted(changes.relabelled & self.index.keys()):
            try:
                label = self.prepared.relabel(self.index[name])
            except DataError as error:
                yield Notice(str(error))
            else:
                self.objective.relabelled(self.index[name])
                if self.processes.is_first:
                    self.folder.set_label_hash(name, content_hash(label))
                yield Notice(f"The labels of '{name}' are learned as they are now")

    def _gradients(self, drawn: Batch) -> Generator[Event, None, float]:
        """Loss of a batch, its gradients left in the network; the batch in parts where memory is short."""
        while True:
            try:
                loss, norm = self._try(drawn)
            except Exception as error:
                failed: Exception = error
            else:
                break
            self.optimizer.zero_grad(set_to_none=True)
            self.objective.abandoned()
            yield Notice(self._made_easier(drawn, failed))
            del failed
            release(self.device)
        if not (math.isfinite(loss) and (math.isfinite(norm) or self.processes.scales_gradients)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            kept = f"'{self.config.run_dir / LAST}' keeps the weights of step {self.saved_step}"
            raise ProsmaError(
                f"the {what} became {loss if what == 'loss' else norm} in step {self.step + 1}, on the cases "
                f"{', '.join(sorted(set(drawn.names)))}; look at them, or lower the learning rate; "
                + (kept if self.saved_step else "no weights were written yet")
            )
        return loss

    def _try(self, drawn: Batch) -> tuple[float, float]:
        """Loss, and the norm of its gradient before it is clipped."""
        set_training(self.model, self.config.trains)
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part, share in drawn.in_parts(self.parts):

            def backward(value: Tensor, share: float = share) -> None:
                self.processes.fabric.backward(value * share)

            loss += share * self.objective.step(self.model, part, backward)
        norm = self.processes.fabric.clip_gradients(
            self.model,
            self.optimizer,
            max_norm=self.config.gradient_clip or math.inf,
            error_if_nonfinite=False,
        )
        assert norm is not None
        return loss, float(norm)

    def _made_easier(self, drawn: Batch, error: Exception) -> str:
        """Change how steps are made so that the failed one may pass, and say so; else raise."""
        if ran_out_of_memory(error) and self.processes.world == 1:
            if 2 * self.parts <= len(drawn.names):
                self.parts *= 2
                return (
                    f"Memory ran out: from step {self.step + 1} on, each batch of {len(drawn.names)} patches "
                    f"is learned in {self.parts} parts, whose gradients add up"
                )
            raise ProsmaError(
                f"memory ran out in step {self.step + 1} even with the smallest part of a batch; choose a "
                f"smaller patch or network, or close other programs"
            ) from error
        if self.is_compiled:
            self.is_compiled, self.way = False, Way(self.way.layout)
            self.model = self.processes.fabric.setup_module(self.network)
            return f"The network could not be compiled ({_first_line(error)}); it trains as it is"
        raise error

    def _validated(self, indices: Sequence[int], whose: str = "") -> Generator[Event, None, list[Overlap]]:
        """Overlaps of these cases, or of the first of them where the time is over."""
        began, mine = self.clock.elapsed(), indices[self.processes.rank :: self.processes.world]
        found: list[list[Overlap]] = []
        late = math.inf if self.config.minutes is None else LATE * 60 * self.config.minutes
        for case, predicted in validate(self.evaluated, self.prepared, mine, self.plan):
            if predicted is not None:
                found.append(overlaps_of(case.name, predicted, case.label, self.plan.class_names))
            message = f"{whose or f'epoch {self.epoch + 1}, '}validating {case.name}"
            yield Progress(self.clock.done(self.step), self.clock.total, message)
            if self.processes.world == 1 and self.steering.was_stopped:
                self.is_stopping = True
                return []
            if found and self.processes.world == 1 and self.clock.elapsed() > late:
                yield Notice(f"The time is over: validated on {len(found)} of {len(mine)} cases")
                break
        if len(found) == len(mine):
            self.costs.validated(self._windows(mine), self.clock.elapsed() - began)
        return [overlap for case in self.processes.gathered(found) for overlap in case]

    def _previewed(self, epoch: int) -> Iterator[Event]:
        """What the model makes of the plane that the user looks at, else of a validation case."""
        if not self.processes.is_first or not self.steering.wants_previews:
            return
        view, began = self.steering.view, self.clock.elapsed()
        if view is not None and view.case in self.index:
            index = self.index[view.case]
            case, shape = self.prepared[index], self.facts[index].shape
            at = on_plane(view.at, shape, case.label.shape)
        else:
            view, case = None, self.prepared[self.shown]
            fullest = fullest_slice(case.label, slice_axis(case.geometry))
            at = tuple(n if isinstance(n, int) else None for n in fullest)
        found = yield from self._on_plane(case.image, at, case.across)
        now = self.clock.elapsed()
        self.rhythm.shown(began, now, view)
        if found is None:
            return
        if view is not None:
            yield LivePreview(self.step, view.case, plane_labels(found, shape, view.at), view.at)
            return
        inside = tuple(slice(None) if n is None else n for n in at)
        truth = case.label[inside]
        yield Preview(
            epoch=epoch,
            case=case.name,
            image=case.image[(slice(None), *inside)],
            labels=labels_of(found),
            truth=truth * (truth != IGNORE),
            geometry=case.geometry.plane([axis for axis, n in enumerate(at) if n is None]),
        )

    def _on_plane(
        self, image: np.ndarray, at: Plane, across: int
    ) -> Generator[Event, None, np.ndarray | None]:
        is_new = self.transfer is None and self.step < SETTLED_STEPS
        model = by_own_statistics(self.kept) if is_new else self.evaluated
        windows = plane_probabilities(model, image, self.plan, at, across)
        while True:
            try:
                next(windows)
            except StopIteration as end:
                return end.value
            yield Progress(self.clock.done(self.step), self.clock.total, "preview")

    @property
    def highest_rate(self) -> float:
        return self.config.learning_rate or usual_rate(self.expected)

    def _rate(self, step: int) -> float:
        return self.highest_rate * schedule(self.clock.fraction(step), self.config.warm_up)


def _warmed_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average that forgets the first steps sooner: decay min(d, (1 + n) / (10 + n))."""

    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average


def _before_and_after(before: dict[str, float], after: dict[str, float]) -> str:
    said = (
        f"{name.removeprefix('dice/')} {before[name]:.3f} -> {after[name]:.3f}"
        for name in after
        if name.startswith("dice/")
    )
    return f"Dice of the model before and of the best of this run on the cases held out: {', '.join(said)}"


def _costs(plan: Plan) -> Costs:
    """What a window and the statistics of norms are thought to cost, as forward passes."""
    window = math.prod(plan.window) / (PASSES * plan.batch * math.prod(plan.patch))
    return Costs(window, passes(plan) / PASSES)


def _duration(seconds: float) -> str:
    """Such as ``40 s``, ``12 minutes`` or ``3.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]


@contextmanager
def _gpu_errors(run_dir: Path) -> Iterator[None]:
    """An error of the GPU itself in our words: it spoils everything that follows in this process."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise ProsmaError(
            f"the GPU reported an error ({_first_line(error)}); restart the program, then go on with the run "
            f"in '{run_dir}', on the CPU if it happens again"
        ) from error


def _require_writable(run_dir: Path) -> None:
    """Better now than after the first epoch."""
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(
            f"'{nearest}' is no folder that can be written to; choose another place than '{run_dir}'"
        )
