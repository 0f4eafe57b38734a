"""``Loop``: the epochs of a run, step by step, and what a user changes in between."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

from napari_prosma.data.fingerprint import content_hash
from napari_prosma.errors import ConfigError, DataError, as_sentence
from napari_prosma.events import (
    Baseline,
    CheckpointSaved,
    Event,
    Notice,
    Progress,
    Resumed,
    Started,
)
from napari_prosma.model.checkpoint import LAST
from napari_prosma.training.batches import PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.keeper import Keeper
from napari_prosma.training.learner import Learner
from napari_prosma.training.planning import remarks
from napari_prosma.training.preview import Previewer
from napari_prosma.training.processes import Processes
from napari_prosma.training.state import Beginning, RunData, RunState
from napari_prosma.training.steering import Steering
from napari_prosma.training.tempo import Tempo, ValidationWindows
from napari_prosma.training.validation import gate_warnings

SAVE_EVERY = 120.0
"""Seconds between two last checkpoints within an epoch; more where writing one takes over a fiftieth."""
GATES_CHECKED_EVERY = 10
"""Epochs between two warnings about the gates."""


class Loop:
    """A run in progress; :meth:`events` runs it."""

    def __init__(
        self, config: TrainConfig, data: RunData, begin: Beginning, processes: Processes, steering: Steering
    ) -> None:
        self.state = RunState(config, begin.plan, learned=begin.source.steps if begin.source else 0)
        self.data, self.begin, self.processes, self.steering = data, begin, processes, steering
        self.prepared = PreparedCases(data.cases, begin.plan, folder=config.run_dir)
        windows = ValidationWindows(data.facts, self.prepared, begin.plan, begin.spec.divisor)
        self.tempo = Tempo(self.state, data, begin, windows, processes)
        self.learner = Learner(self.state, data, begin, self.prepared, processes)
        self.keeper = Keeper(data, self.learner, self.tempo, begin, steering)
        if begin.resumed is not None:
            self.learner.resume(begin.resumed)
            self.state.resume(begin.resumed)
        self.previews = Previewer(self.keeper)
        self.next_save = self.tempo.clock.elapsed() + SAVE_EVERY

    def events(self) -> Iterator[Event]:
        """All epochs that are left; closing it saves the last checkpoint.

        An interrupt inside a step does not: half a step is no place to go on from.
        """
        try:
            yield from self.tempo.clock.without_pauses(self._events())
        finally:
            self.prepared.close()
            self.keeper.close()

    def _events(self) -> Iterator[Event]:
        state, clock = self.state, self.tempo.clock
        yield from self._introduction()
        try:
            if self.processes.is_first:
                notices = self.keeper.folder.begin(
                    state.config,
                    state.plan,
                    self.data.facts,
                    self.data.split,
                    self.learner.device,
                    self.begin.resumed is not None,
                )
                yield from map(Notice, notices)
            if state.step == 0:
                yield from self.keeper.keep_source()
            if self.learner.is_compiled:
                compiling = self.learner.execution.compiling
                takes = f"about {compiling:.0f} s" if compiling else "a minute or more"
                yield Notice(f"Compiling the network: the first step takes {takes}")
            if state.step == 0:
                clock.learning_began = clock.elapsed()
            yield from self._epochs()
        except GeneratorExit:
            # The other processes may not be there to take statistics together.
            with self.learner.as_it_is() if self.processes.world > 1 else nullcontext():
                self.keeper.save(LAST)
            raise
        if self.tempo.better is not None:
            return
        if state.is_stopping:
            self.keeper.save(LAST)
            return
        with self.learner.settled():
            yield from self._of_objective(self.learner.objective.ends())
        yield from self.keeper.conclude()
        if not state.is_stopping:
            yield from self.keeper.result()

    def _introduction(self) -> Iterator[Event]:
        """What the run is about to do, with which data, and from where."""
        state, data = self.state, self.data
        learned = len(data.training)
        message = f"Training on {learned} case{'s' * (learned != 1)}"
        if data.has_validation:
            message += f", validating on {len(data.validation)}"
        yield Started(self.tempo.clock.total, message, str(self.learner.device))
        held_out = data.validation if data.has_validation else ()
        yield from map(Notice, remarks(data.facts, state.plan, state.config, held_out, data.is_split_given))
        if state.history:
            yield Resumed(tuple(state.history))
        if state.step and state.baseline:
            yield Baseline(state.baseline)
        resumed, fingerprint = self.begin.resumed, data.unlabelled.fingerprint
        if resumed is not None and resumed.place.get("unlabelled", "") != fingerprint:
            yield Notice(
                "The unlabelled images changed since the run stopped; it resumes with them, so its result "
                "differs from that of an uninterrupted run"
            )
        if state.step:
            return
        if self.learner.transfer is not None:
            yield Notice(self.learner.transfer.in_words())
            yield from self.keeper.compare_with_source()
        elif self.learner.start_thresholds():
            yield Notice(
                "The gates have no batch norm (the printed form): their thresholds were set from the first "
                "batch, and channels can go dead for good; watch the zero fractions."
            )

    def _epochs(self) -> Iterator[Event]:
        state, tempo, keeper = self.state, self.tempo, self.keeper
        clock = tempo.clock
        while state.epoch < state.config.epochs and not state.is_stopping:
            (is_over,) = self.processes.of_first([tempo.is_over()])
            if state.epoch and is_over and not state.losses:  # steps that were left are validated
                return
            began = clock.elapsed()
            yield from self._steps()
            if state.is_stopping or tempo.better is not None:
                return
            learned = clock.elapsed()
            with self.learner.settled():
                validating = clock.elapsed()
                found, whole = yield from keeper.validate(state.judged)
                if state.is_stopping:
                    return
                validating = clock.elapsed() - validating
                ended, saved = keeper.end_epoch(found, whole, clock.elapsed() - began)
            tempo.costs.added(clock.elapsed() - learned - validating)
            tempo.reserve()
            self.next_save = clock.elapsed() + SAVE_EVERY
            yield ended
            yield from saved
            if state.epoch % GATES_CHECKED_EVERY == 0:
                yield from gate_warnings(ended.gates)
            yield from self.previews.show(state.epoch)
            patience = state.config.patience
            has_stalled = patience is not None and state.epoch - state.improved >= patience
            if has_stalled and keeper.has_structures:
                yield Notice(f"No improvement of Dice for {patience} epochs: the run ends")
                return
            if state.is_finishing:
                return

    def _steps(self) -> Iterator[Event]:
        """What is left of the epoch; nothing is yielded between a change of the weights and its count."""
        state, tempo, learner = self.state, self.tempo, self.learner
        clock = tempo.clock
        if state.step == state.epoch * state.steps:
            looks = learner.objective.looks(state.epoch)
            with learner.settled(learner.network) if looks else nullcontext():
                yield from self._of_objective(learner.objective.epoch_begins(state.epoch))
        while state.step < (state.epoch + 1) * state.steps or tempo.ends_soon():
            yield from self._heed()
            now = clock.elapsed()
            first = (
                tempo.rate(state.step, learner.highest_rate),
                clock.is_over(),
                state.is_finishing,
                state.is_stopping,
                now >= self.next_save,
            )
            rate, is_over, finishing, stopping, saving = self.processes.of_first(first)
            state.is_finishing, state.is_stopping = bool(finishing), bool(stopping)
            if state.is_stopping or ((is_over or state.is_finishing) and state.losses):
                return
            if saving and state.losses:
                saved = CheckpointSaved(self.keeper.save(LAST), "last", state.epoch)
                self.next_save = now + max(SAVE_EVERY, 50 * (clock.elapsed() - now))
                yield saved
            began = time.monotonic()
            loss = yield from learner.learn(rate)
            state.losses.append(loss)
            state.step += 1
            state.learned += 1
            yield from tempo.stepped(time.monotonic() - began)
            learner.follow()
            if tempo.better is not None:
                return
            yield Progress(clock.done(state.step), clock.total, f"epoch {state.epoch + 1}, loss {loss:.3f}")
            if self.previews.is_due:
                yield from self.previews.show(state.epoch + 1)

    def _of_objective(self, events: Iterator[Event]) -> Iterator[Event]:
        """What the objective does between steps, up to where it is stopped; its progress is not the run's."""
        clock = self.tempo.clock
        for event in events:
            if isinstance(event, Progress):
                event = replace(event, done=clock.done(self.state.step), total=clock.total)
            yield event
            if self.processes.world == 1 and self.steering.was_stopped:
                return

    def _heed(self) -> Iterator[Event]:
        """Take up what the user changed since the last step."""
        state, clock = self.state, self.tempo.clock
        changes = self.steering.take()
        state.is_finishing |= changes.finish
        state.is_stopping |= changes.stop
        if changes.settings:
            try:
                state.config = TrainConfig.of(**{**dict(state.config), **changes.settings})
            except ConfigError as error:
                yield Notice(f"Not changed: {error}")
            else:
                clock.steps = state.config.epochs * state.steps
                if "minutes" in changes.settings:
                    clock.minutes = state.config.minutes
                if self.processes.is_first:
                    self.keeper.folder.configuration_changed(state.config)
                said = ", ".join(
                    f"{name.replace('_', ' ')} {'by the steps' if value is None else f'{value:g}'}"
                    for name, value in changes.settings.items()
                )
                yield Started(clock.total, f"Training continues with {said}", str(self.learner.device))
        index = self.data.index
        for name in sorted(changes.relabelled & index.keys()):
            try:
                label = self.prepared.relabel(index[name])
            except DataError as error:
                yield Notice(as_sentence(str(error)))
            else:
                self.learner.objective.relabelled(index[name])
                if self.processes.is_first:
                    self.keeper.folder.set_label_hash(name, content_hash(label))
                if clock.minutes != state.config.minutes:  # there is more to learn from
                    clock.minutes = state.config.minutes
                    yield Started(clock.total, "Training on with corrections", str(self.learner.device))
                yield Notice(f"The labels of '{name}' have changed and are learned from now on")
