"""``Learner``: the network of a run while it learns, with its optimizer, its batches and its average."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from napari_prosma.data.fingerprint import Plan
from napari_prosma.events import Event, Notice
from napari_prosma.model.augment import Augmentation, recipe_of
from napari_prosma.model.checkpoint import LAST, Checkpoint, split_prefix
from napari_prosma.model.memory import ran_out_of_memory, release
from napari_prosma.model.tuning import Execution, not_fused
from napari_prosma.nn.build import Network, build_model, fuse, lay_out
from napari_prosma.nn.thresholds import start_thresholds
from napari_prosma.training.batches import Batch, Batches, PreparedCases, UnlabelledBatches
from napari_prosma.training.failures import first_line, require_finite, smaller_parts
from napari_prosma.training.losses import chosen_weights
from napari_prosma.training.objective import Context, make_objective
from napari_prosma.training.planning import class_counts
from napari_prosma.training.processes import Processes
from napari_prosma.training.schedule import (
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_relative_rates,
    usual_rate,
)
from napari_prosma.training.state import Beginning, RunData, RunState
from napari_prosma.training.statistics import passes, same_statistics, settle
from napari_prosma.training.transfer import set_training, take_over, trained_parts
from napari_prosma.training.validation import InPrecision

RUNNING = "running"
"""Prefix of the running averages of norms, in the state of a run whose weights have statistics anew."""
SCALER = "gradient scaler"
"""Of float16, in the place of a last checkpoint."""
STATISTICS = 2
"""Stream of the patches that the statistics of the norms are taken from."""

Tensors = tuple[Tensor, ...] | list[Tensor]


class Learner:
    """Learns from batches; knows nothing of epochs, validations and files.

    Attributes
    ----------
    network, model : Module
        What learns: itself, and wrapped for the processes and the precision of the run.
    evaluated : Module
        The network that is kept, in the precision of the run.
    objective : Objective
    transfer : Transfer, optional
        What a fine-tuning took over.
    """

    def __init__(
        self, state: RunState, data: RunData, begin: Beginning, prepared: PreparedCases, processes: Processes
    ) -> None:
        self.state, self.processes = state, processes
        self.data, self.prepared, self.execution = data, prepared, begin.execution
        self.device = processes.device
        config, plan, place = state.config, state.plan, begin.place
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build_model(begin.spec)
        self.transfer = None if begin.source is None else take_over(network, begin.source, plan.class_names)
        fuse(network, begin.execution.fused)
        self.network = processes.synchronised(lay_out(network, begin.spec.dims, begin.execution.layout))
        self.taken = frozenset(place.get("taken", self.transfer.taken if self.transfer else ()))
        new = () if place else [*self.network.state_dict()] if self.transfer is None else self.transfer.new
        trained_parts(self.network, config.trains, new)
        optimizer = make_optimizer(self.network, config, self.taken, state.expected, self.device)
        self.is_compiled = config.compile or begin.execution.compiling > 0
        module: Any = torch.compile(self.network) if self.is_compiled else self.network
        self.model, self.optimizer = processes.fabric.setup(module, optimizer)
        self.averaged: AveragedModel | None = None
        if config.average:
            self.averaged = AveragedModel(self.network, multi_avg_fn=_warmed_average(config.average))
        self.evaluated = InPrecision(self.final_network, processes.fabric.autocast)
        recipe = recipe_of(config.modality, plan) if config.augment else None
        self.augmentation = None if recipe is None else Augmentation(plan, recipe)
        self.unlabelled = None
        if data.unlabelled.cases:
            self.unlabelled = UnlabelledBatches(
                PreparedCases(data.unlabelled.cases, plan, prepared), plan, config.seed, recipe, self.device
            )
        self._planned: tuple[Plan, int] | None = None
        self.follow()
        counts = class_counts(data.facts, data.training, len(plan.class_names))
        self.objective = make_objective(config.objective)
        self.objective.prepare(
            Context(
                self.network,
                plan,
                config,
                processes,
                prepared,
                tuple(data.training),
                state.steps,
                chosen_weights(config.class_weights, counts),
                self.unlabelled,
                None if self.averaged is None else self.final_network,
            )
        )
        self.running: dict[str, Tensor] | None = None
        """The running averages while the norms have other statistics; empty = those of the weights."""

    @property
    def final_network(self) -> Network:
        """The network that is validated and kept: the average, where there is one."""
        return self.network if self.averaged is None else cast(Network, self.averaged.module)

    @property
    def highest_rate(self) -> float:
        """Learning rate that the schedule rises to."""
        return self.state.config.learning_rate or usual_rate(self.state.expected)

    def follow(self) -> None:
        """Take up the plan and the number of steps of the state, where they were changed."""
        plan, expected = self.state.plan, self.state.expected
        if self._planned is None or self._planned[0] is not plan:
            self.batches, self.judging = self._batches(plan), self._batches(plan, STATISTICS)
        if self._planned is not None and self._planned[1] != expected:
            set_relative_rates(self.optimizer, self.state.config, expected)
        self._planned = plan, expected

    def _batches(self, plan: Plan, stream: int = 0) -> Batches:
        """The patches of this process, or the same for all in a ``stream`` of their own."""
        return Batches(
            self.prepared,
            self.data.training,
            plan,
            self.state.config.seed,
            self.augmentation,
            foreground_share=self.state.config.foreground_share,
            device=self.device,
            rank=0 if stream else self.processes.rank,
            world=1 if stream else self.processes.world,
            stream=stream,
        )

    def start_thresholds(self) -> bool:
        """Set those of gates without norms from the first batch; whether there are such."""
        return bool(start_thresholds(self.network, self.batches.of_all_processes(0)))

    def learn(self, rate: float) -> Generator[Event, None, float]:
        """One step of the optimizer at this rate; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative_rate"]
        drawn = self.batches.draw(self.state.step, self.objective.cases(self.state.epoch))
        loss = yield from self._gradients(drawn)
        self.optimizer.step()
        self.processes.average_statistics(self.network)
        self.objective.stepped()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)
        return loss

    def _gradients(self, drawn: Batch) -> Generator[Event, None, float]:
        """Loss of a batch, its gradients left in the network; the batch in parts where memory is short."""
        while True:
            try:
                loss, norm = self._try(drawn)
            except Exception as error:
                failed: Exception = error
                if ran_out_of_memory(error):
                    self.processes.meet(ran_out=True)
            else:
                break
            self.optimizer.zero_grad(set_to_none=True)
            self.objective.abandoned()
            yield Notice(self._made_easier(drawn, failed))
            del failed
            release(self.device)
        # Steps in which float16 overflows are left out by the scaler of gradients.
        require_finite(loss, 0.0 if self.processes.scales_gradients else norm, drawn, self.state)
        return loss

    def _try(self, drawn: Batch) -> tuple[float, float]:
        """Loss, and the norm of its gradient before it is clipped."""
        config, fabric = self.state.config, self.processes.fabric
        set_training(self.model, config.trains)
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for part, share in drawn.in_parts(self.state.parts):

            def backward(value: Tensor, share: float = share) -> None:
                self.processes.backward(self.model, value * share)

            loss += share * self.objective.step(self.model, part, backward)
        norm = fabric.clip_gradients(
            self.model,
            self.optimizer,
            max_norm=config.gradient_clip or math.inf,
            error_if_nonfinite=False,
        )
        assert norm is not None
        self.processes.meet()
        return loss, float(norm)

    def _made_easier(self, drawn: Batch, error: Exception) -> str:
        """Change how steps are made so that the failed one may pass, and say so; else raise."""
        eased = smaller_parts(error, drawn, self.state)
        if eased is not None:
            return eased
        if self.is_compiled:
            self.is_compiled, self.execution = False, Execution(self.execution.layout)
            self.model = self.processes.fabric.setup_module(self.network)
            return (
                f"The network cannot be compiled ({first_line(error)}); the run continues without compiling"
            )
        if self.execution.fused:
            self.execution = Execution(self.execution.layout)
            fuse(self.network, False)
            return not_fused(error)
        raise error

    @contextmanager
    def settled(self, network: Network | None = None) -> Iterator[None]:
        """Within, the norms of a network, by default the one that is kept, have no averages that lag.

        Their statistics follow from the weights alone, and the averages come back: a run that is resumed
        learns as one that was never saved.
        """
        if self.running is not None:
            yield
            return
        network = network or self.final_network
        set_training(network, self.state.config.trains)
        with same_statistics(network) as self.running:
            try:
                settle(network, self._seen(), self.processes.fabric.autocast)
                yield
            finally:
                self.running = None

    @contextmanager
    def as_it_is(self) -> Iterator[None]:
        """Within, the norms keep the statistics that they have."""
        self.running = {}
        try:
            yield
        finally:
            self.running = None

    def _seen(self) -> Iterator[Tensor]:
        """Images that the statistics are taken from."""
        for number in range(passes(self.state.plan)):
            for part, _ in self.judging.draw(number).in_parts(self.state.parts):
                yield part.images

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up weights and optimizer, so that what follows is what would have followed."""
        self.network.load_state_dict(split_prefix(checkpoint.state, "raw") or checkpoint.weights)
        if self.averaged is not None:
            self.averaged.module.load_state_dict(checkpoint.weights)
            self.averaged.n_averaged.fill_(checkpoint.place["step"])
        restore_optimizer(self.optimizer, split_prefix(checkpoint.state, "optimizer"))
        if scaler := checkpoint.place.get(SCALER):
            self.processes.fabric.strategy.precision.load_state_dict(scaler)
        self.objective.load_state_dict(split_prefix(checkpoint.state, "objective"))
        for name, buffer in self.network.named_buffers():
            if f"{RUNNING}.{name}" in checkpoint.state:
                buffer.copy_(checkpoint.state[f"{RUNNING}.{name}"])

    def checkpoint(self, name: str, clock: dict[str, float]) -> Checkpoint:
        """What the file ``name`` holds; ``clock`` is where the clock of the run is."""
        state, tensors = self.state, dict[str, Tensor]()
        if name == LAST:
            tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(self.optimizer).items()}
            tensors |= {f"objective.{key}": value for key, value in self.objective.state_dict().items()}
            if self.averaged is not None:
                tensors |= {f"raw.{key}": value for key, value in self.network.state_dict().items()}
            else:
                tensors |= {f"{RUNNING}.{key}": value for key, value in (self.running or {}).items()}
        place = state.place(name) | {
            "taken": sorted(self.taken),
            "unlabelled": self.data.unlabelled.fingerprint,
            "layout": self.execution.layout,
            "compiling": self.execution.compiling,
            "fused": self.execution.fused,
            "rate": self.highest_rate,
            "judged": [self.data.facts[n].name for n in state.judged],
            "settled": True,
        }
        if name == LAST and (scaler := self.processes.fabric.strategy.precision.state_dict()):
            place[SCALER] = scaler
        return Checkpoint(
            spec=self.network.spec,
            plan=state.plan,
            weights=self.final_network.state_dict(),
            config=state.config.model_dump(mode="json"),
            epoch=state.epoch,
            metrics=state.metrics,
            split=self.data.split,
            overlaps=state.overlaps,
            state=tensors,
            place=place | clock,
        )


def _warmed_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """Exponential moving average that forgets the first steps sooner: decay min(d, (1 + n) / (10 + n))."""

    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return average
