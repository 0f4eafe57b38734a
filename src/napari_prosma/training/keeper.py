"""``Keeper``: validates a run, and keeps its checkpoints and its best model."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from napari_prosma.data.metrics import Overlap, dice_in_words, overlaps_of
from napari_prosma.events import (
    OBJECTIVE,
    Baseline,
    CheckpointSaved,
    EpochEnd,
    Event,
    Finished,
    Notice,
    Progress,
    Verdict,
)
from napari_prosma.model.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    split_prefix,
)
from napari_prosma.model.memory import peak_memory
from napari_prosma.training.figures import validation_figures
from napari_prosma.training.learner import Learner
from napari_prosma.training.planning import class_counts
from napari_prosma.training.run_folder import RunFolder, TensorBoardFiles, learned_images
from napari_prosma.training.state import Beginning, RunData, in_place
from napari_prosma.training.steering import Steering
from napari_prosma.training.tempo import Tempo
from napari_prosma.training.transfer import baseline
from napari_prosma.training.validation import gate_state, shown_case, validate
from napari_prosma.training.verdict import verdict

SOURCE = "source"
"""Prefix of the weights that a fine-tuning started from, in the state of a last checkpoint."""
FEW_VALIDATED = 5
"""With fewer validation cases the last model is kept: which epoch is best on them is chance."""
LATE = 1.02
"""A validation ends where the time of the run is over by so much."""


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left its model; ``score`` is the best mean Dice of the validation cases."""

    run_dir: Path
    best: Path
    last: Path
    score: float
    epochs: int

    @classmethod
    def of(cls, folder: Path, last: Checkpoint) -> RunResult:
        """That of a run which ended before, by its last checkpoint."""
        best = folder / BEST
        metrics = (load_checkpoint(best) if best.is_file() else last).metrics
        return cls(folder, best, folder / LAST, metrics["dice"], last.epoch)


class Keeper:
    """Says how good the network is, and writes what is kept of it.

    Attributes
    ----------
    folder : RunFolder
    shown : int
        Index of the validation case that previews show.
    has_structures : bool
        Whether any validation case holds one; without, no figure tells one epoch from another.
    """

    def __init__(
        self, data: RunData, learner: Learner, tempo: Tempo, begin: Beginning, steering: Steering
    ) -> None:
        self.state, self.data, self.learner, self.tempo = learner.state, data, learner, tempo
        self.source: Checkpoint | None = begin.source
        self.processes, self.prepared, self.steering = learner.processes, learner.prepared, steering
        run_dir = self.state.config.run_dir
        self.folder = RunFolder(run_dir, steering)
        self.tensorboard = TensorBoardFiles(run_dir) if self.state.config.tensorboard else None
        self.has_structures = any(data.facts[n].class_counts[1:].any() for n in data.validation)
        self.is_few = len(data.validation) < FEW_VALIDATED or not self.has_structures
        # Every process keeps them: only the first writes files, which others may not see.
        self.best_weights: dict[str, Tensor] = {}
        self.learned_by_best = 0
        self.overlaps_of_best: tuple[Overlap, ...] | None = None
        self.of_source: list[Overlap] = []
        resumed = begin.resumed
        self.source_weights = {} if resumed is None else split_prefix(resumed.state, SOURCE)
        self.shown = shown_case(self.prepared, data.validation)

    def close(self) -> None:
        """Let go of the files that are open between epochs."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def save(self, name: str) -> Path:
        """Write a checkpoint; the last one holds what a run needs to go on."""
        path = self.folder.path / name
        with self.learner.settled():
            if self.processes.is_first:
                self.folder.require_there()
                checkpoint = self.learner.checkpoint(name, self.tempo.place())
                state = checkpoint.state
                if name == LAST:
                    state = state | {f"{SOURCE}.{key}": value for key, value in self.source_weights.items()}
                windows = self.tempo.most_windows()
                save_checkpoint(path, replace(checkpoint, state=state, windows=windows))
        self.state.saved_step = self.state.step
        return path

    def compare_with_source(self) -> Iterator[Event]:
        """Figures of the model that a fine-tuning starts from, for the classes that both know."""
        assert self.source is not None
        figures = baseline(
            *(self.source, self.prepared, self.data.validation, self.state.plan, self.learner.device),
            self.tempo.windows.most,
        )
        while True:
            try:
                next(figures)
            except StopIteration as end:
                self.state.baseline, self.of_source = end.value
                break
            yield Progress(0, self.tempo.clock.total, "validating the model before")
        if not self.state.baseline:
            return
        yield Baseline(self.state.baseline)
        yield from map(Notice, self._seen_by_source(self.source))

    def _seen_by_source(self, source: Checkpoint) -> Iterator[str]:
        """Which validation cases the model before learned from: by their images, else by their names."""
        held_out, images = [self.data.facts[n] for n in self.data.validation], learned_images(source)
        better = "its figures are better than it is, and so may be those of this one"
        if images is not None:
            if seen := sum(fact.image_hash in images for fact in held_out):
                yield (
                    f"The model before learned from {seen} of the {len(held_out)} validation cases: {better}"
                )
        elif seen := len({fact.name for fact in held_out} & {*source.split["training"]}):
            yield (
                f"{seen} of the {len(held_out)} validation cases have the names of cases that the model "
                f"before learned from; if they are the same images, {better}"
            )

    def keep_source(self) -> Iterator[Event]:
        """Keep the model that this one starts from as long as none is better on the same cases.

        One that was brought to other channels answers as before; one with more or fewer classes is another
        model.
        """
        state, source, transfer = self.state, self.source, self.learner.transfer
        if source is None or transfer is None or "score" not in state.baseline:
            return
        has_all = len(transfer.kept_classes) == len(source.plan.class_names) - 1
        if transfer.new or transfer.new_classes or not has_all:
            return
        state.least, state.of_source = state.baseline["score"], tuple(self.of_source)
        state.steps_of_source, self.source_weights = state.learned, self._weights()
        state.metrics, state.overlaps = state.baseline, state.of_source
        with self.learner.as_it_is():
            yield CheckpointSaved(self.save(BEST), "best", 0)

    def validate(
        self, indices: Sequence[int], whose: str = ""
    ) -> Generator[Event, None, tuple[list[Overlap], bool]]:
        """Overlaps of these cases, and whether of all: none where stopped, some where the time is over."""
        clock, state = self.tempo.clock, self.state
        began, mine = clock.elapsed(), indices[self.processes.rank :: self.processes.world]
        found: list[list[Overlap]] = []
        late = math.inf if state.config.minutes is None else LATE * 60 * state.config.minutes
        most = self.tempo.windows.most
        for case, predicted in validate(self.learner.evaluated, self.prepared, mine, state.plan, most):
            if predicted is not None:
                found.append(overlaps_of(case.name, predicted, case.label, state.plan.class_names))
            number = len(found) + (predicted is None)
            message = f"{whose or f'epoch {state.epoch + 1}, '}validating {number} of {len(mine)}"
            yield Progress(clock.done(state.step), clock.total, message)
            if self.processes.world == 1 and self.steering.was_stopped:
                state.is_stopping = True
                return [], False
            if 0 < len(found) < len(mine) and self.processes.world == 1 and clock.elapsed() > late:
                yield Notice(f"Time is up: validated on {len(found)} of {len(mine)} cases")
                break
        whole = len(found) == len(mine)
        if whole:
            self.tempo.costs.validated(self.tempo.windows.count(mine), clock.elapsed() - began)
        return [overlap for case in self.processes.gathered(found) for overlap in case], whole

    def end_epoch(
        self, overlaps: Sequence[Overlap], whole: bool, seconds: float
    ) -> tuple[EpochEnd, list[Event]]:
        """Count the epoch and write its files, before anything is yielded: they belong together.

        ``whole`` says whether ``overlaps`` are of all cases that are looked at after every epoch. What is
        returned beside the epoch is to be yielded after it: the files, and the verdict where it is new.
        """
        state, learner = self.state, self.learner
        figures = validation_figures(overlaps)
        loss, state.losses = float(np.mean(state.losses)) if state.losses else math.nan, []
        state.epoch, state.metrics, state.overlaps = state.epoch + 1, figures, tuple(overlaps)
        state.step = max(state.step, state.epoch * state.steps)
        ended = EpochEnd(
            epoch=state.epoch,
            epochs=state.config.epochs,
            loss=loss,
            learning_rate=self.tempo.rate(state.step - 1, learner.highest_rate),
            seconds=seconds,
            validation=figures | {OBJECTIVE + name: n for name, n in learner.objective.figures().items()},
            gates=gate_state(learner.final_network, self.prepared[self.shown], state.plan),
            memory=peak_memory(learner.device),
        )
        state.history.append(ended)
        if not whole:
            state.cut.append(state.epoch)
        is_new, saved = self.judge(overlaps, state.epoch), list[Event]()
        score, least = figures["score"], self._least(overlaps)
        is_best = self._is_best(score, least, whole)
        if whole and score > max(state.best, least):
            state.best, state.improved = score, state.epoch
        if is_best:
            state.best_epoch, self.overlaps_of_best = state.epoch, state.overlaps
            if len(state.judged) < len(self.data.validation):
                self.best_weights, self.learned_by_best = self._weights(), state.learned
            saved.append(CheckpointSaved(self.save(BEST), "best", state.epoch))
        saved.append(CheckpointSaved(self.save(LAST), "last", state.epoch))
        if self.processes.is_first:
            self.folder.write_metrics(state.history)
            if self.tensorboard is not None:
                self.tensorboard.add(ended)
        if is_new and state.verdict is not None:
            saved.append(state.verdict)
        return ended, saved

    def _weights(self) -> dict[str, Tensor]:
        """Those of the network that is kept, as they are now."""
        weights = self.learner.final_network.state_dict()
        return {name: tensor.clone() for name, tensor in weights.items()}

    def _least(self, overlaps: Sequence[Overlap]) -> float:
        """Score on the same cases of the model that the run started from; -1 where that one is not kept."""
        cases = {overlap.case for overlap in overlaps}
        same = [overlap for overlap in self.state.of_source if overlap.case in cases]
        return validation_figures(same)["score"] if same else self.state.least

    def _is_best(self, score: float, least: float, whole: bool) -> bool:
        """Whether a model is the one to keep; of few cases none can be told from the next, so the last is.

        So it is where no validation case holds a structure. Never one that is worse than the model that the
        run started from, which scores ``least`` on the same cases; and one of a validation that was cut short
        only where there is no other.
        """
        if not whole:
            return self.state.best_epoch == 0 and least < 0
        return score >= least if self.is_few else score > max(self.state.best, least)

    def judge(self, overlaps: Sequence[Overlap], epoch: int) -> bool:
        """Put the validation of an epoch into words; whether they are new."""
        state, facts, training = self.state, self.data.facts, self.data.training
        names = state.plan.class_names
        counts = class_counts(facts, training, len(names))
        with_class = {
            name: sum(len(facts[n].class_counts) > k and facts[n].class_counts[k] > 0 for n in training)
            for k, name in enumerate(names)
            if k
        }
        shares = {name: counts[k] / max(1, counts.sum()) for k, name in enumerate(names) if k}
        history = [end for end in state.history if end.epoch not in state.cut]
        said = verdict(
            *(epoch, overlaps, history, with_class, shares, state.step, len(training)),
            is_split_given=self.data.is_split_given,
        )
        before = state.verdict
        if before is not None and (said.summary, said.advice) == (before.summary, before.advice):
            return False
        state.verdict = said
        return True

    def conclude(self) -> Iterator[Event]:
        """The model that was kept on all validation cases, where only part of them was looked at so far."""
        state, validation = self.state, self.data.validation
        is_part = len(state.judged) < len(validation)
        if state.best_epoch == 0 and state.baseline:
            yield self._source_is_kept("No epoch was better than the model the run started from")
            return
        if self.overlaps_of_best is None and is_part:  # of before the run was resumed
            best = load_checkpoint(self.folder.path / BEST)
            self.best_weights, self.learned_by_best = best.weights, best.steps
            self.overlaps_of_best, state.best_epoch = best.overlaps, best.epoch
        of_best = [epoch.validation for epoch in state.history if epoch.epoch == state.best_epoch]
        state.metrics = of_best[-1] if of_best else state.metrics
        if not is_part:
            if state.best_epoch < state.epoch and self.processes.is_first:
                self._judge_kept()
            return
        assert self.overlaps_of_best is not None
        self.learner.final_network.load_state_dict(self.best_weights)
        last = state.epoch, state.learned
        state.epoch, state.learned = state.best_epoch, self.learned_by_best
        try:
            with self.learner.as_it_is():
                found, whole = yield from self.validate(validation, "the best model, ")
                figures = validation_figures(found)
                if whole and figures["score"] < self._least(found):
                    yield self._give_source_back()
                    return
                if whole:
                    state.metrics = state.metrics | figures
                    state.overlaps = tuple(found)
                    self.judge(found, state.best_epoch)
                    self.save(BEST)
        finally:
            state.epoch, state.learned = last
        if state.is_stopping:
            return
        if not whole:
            self.judge(self.overlaps_of_best, state.best_epoch)
        number = "all" if whole else f"{len({overlap.case for overlap in self.overlaps_of_best})} of"
        yield Notice(
            f"Dice of the model that is kept, on {number} {len(validation)} validation cases: "
            f"{dice_in_words(state.metrics['dice'])}"
        )

    def _judge_kept(self) -> None:
        """Put the model that is kept into words, also in its file: by now it is known what followed."""
        path = self.folder.path / BEST
        best = load_checkpoint(path)
        if self.judge(best.overlaps, best.epoch) and self.state.verdict is not None:
            save_checkpoint(path, replace(best, place=best.place | in_place(self.state.verdict)))

    def _give_source_back(self) -> Notice:
        """Keep the model that the run started from after all, in the place of the best epoch."""
        state, number = self.state, len(self.data.validation)
        said = self._source_is_kept(
            f"On all {number} validation cases, epoch {state.best_epoch} is worse than the model the run "
            f"started from"
        )
        self.learner.final_network.load_state_dict(self.source_weights)
        state.epoch = state.best_epoch = 0
        state.learned, state.overlaps = state.steps_of_source, state.of_source
        self.save(BEST)
        return said

    def _source_is_kept(self, why: str) -> Notice:
        """Take over the figures of the model that the run started from."""
        state, said = self.state, f"{why}, so that model is kept"
        state.metrics = state.baseline
        state.verdict = Verdict(0, f"{said}; its Dice is {dice_in_words(state.metrics['dice'])}")
        return Notice(said)

    def result(self) -> Iterator[Event]:
        """The last words of a run that ended by itself."""
        state, folder = self.state, self.folder.path
        if self.processes.is_first:
            self.folder.finished()
        if state.verdict is not None:
            yield state.verdict
        if state.baseline:
            yield Notice(_before_and_after(state.baseline, state.metrics))
        result = RunResult(folder, folder / BEST, folder / LAST, state.metrics["dice"], state.epoch)
        yield Finished(result)


def _before_and_after(before: dict[str, float], after: dict[str, float]) -> str:
    said = (
        f"{name.removeprefix('dice/')} {before[name]:.3f} -> {value:.3f}"
        for name, value in after.items()
        if name.startswith("dice/") and name in before
    )
    return f"Dice of the model before and of the best of this run on the validation cases: {', '.join(said)}"
