"""``Tempo``: the time of a run: how long an epoch is, what validations cost, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from napari_prosma.data.fingerprint import CaseFacts, Plan
from napari_prosma.events import Event, Notice, Started
from napari_prosma.model.windows import tile
from napari_prosma.training.batches import PreparedCases
from napari_prosma.training.objectives import OBJECTIVES
from napari_prosma.training.pace import (
    PASSES,
    TRIED_STEPS,
    VALIDATING,
    WRONG,
    Pace,
    operations,
    seconds_for,
    validations,
    with_batch,
)
from napari_prosma.training.planning import grid_of
from napari_prosma.training.processes import Processes
from napari_prosma.training.schedule import Clock, Costs, schedule
from napari_prosma.training.state import Beginning, RunData, RunState
from napari_prosma.training.statistics import passes
from napari_prosma.training.validation import judged_part, labelled_part

LEAST_STEPS = 20
"""An epoch has at least this many steps, so that a handful of cases is not validated all the time."""
LEAST_JUDGED = 10
"""A validation within a run looks at so many cases at least, where there are so many."""
LEAST_WINDOWS = 4
"""Of a case that a validation looks at."""
SLEPT_SECONDS, SLEPT_STEPS = 60.0, 20
"""A step that took longer than both, the second in usual steps, slept with its computer."""
NO_TIME = 1e-9
"""Seconds, in the place of none in a division."""
LEAST_LEFT = 0.03
"""Share of the time of a run, below which what is left of it is not worth another epoch."""
ENDS_SOON = 0.3
"""An epoch that would be followed by less than this share of one goes on to the end."""


class Tempo:
    """Decides the steps of an epoch and the cases of a validation, and keeps the clock.

    Where the minutes set the pace, both are decided once the first steps have told what a step costs.

    Attributes
    ----------
    better : Pace, optional
        With it the run should begin again: its first steps showed that it would come too far or not far
        enough.
    clock : Clock
    costs : Costs
    """

    def __init__(
        self,
        state: RunState,
        data: RunData,
        begin: Beginning,
        windows: ValidationWindows,
        processes: Processes,
    ) -> None:
        self.state, self.validation, self.facts = state, data.validation, data.facts
        self.windows, self.processes, self.pacing = windows, processes, begin.pacing
        self.better: Pace | None = None
        state.steps, state.judged = self._first_epoch(len(data.training), begin.place, data.index)
        state.expected = begin.place.get("expected", self._thought_steps())
        self.clock = Clock(state.config.epochs * state.steps, state.config.minutes, begin.began)
        self.costs = _costs(state.plan)
        thought = 0.0 if begin.pacing is None else begin.pacing.pace.step
        self.windows.most = begin.place.get("most_windows") or self._most_windows(thought)
        self._tried = begin.place.get("step", 0) + TRIED_STEPS
        self._is_decided: bool = begin.place.get("paced", bool(begin.place))
        if begin.place:
            if begin.place.get("asked_minutes") == state.config.minutes:
                self.clock.minutes = begin.place.get("minutes")
            self.clock.count_on_from(begin.place["seconds"])
            self.clock.learning_began = begin.place.get("learning_began", 0.0)

    @property
    def is_paced(self) -> bool:
        """Whether the length of its epochs follows from the minutes; some objectives count epochs."""
        config = self.state.config
        return (
            self.pacing is not None
            and config.is_timed
            and config.steps_per_epoch is None
            and not OBJECTIVES[config.objective].counts_epochs
        )

    def place(self) -> dict[str, Any]:
        """Its part of ``Checkpoint.place``."""
        limit = {"most_windows": self.windows.most} if math.isfinite(self.windows.most) else {}
        return {
            **limit,
            "seconds": self.clock.elapsed(),
            "learning_began": self.clock.learning_began,
            "paced": self._is_decided,
            "minutes": self.clock.minutes,
            "asked_minutes": self.state.config.minutes,
        }

    def most_windows(self) -> int:
        """Windows of a validation case that are looked at, at most; 0 where that is all of them."""
        return int(self.windows.most) if self.windows.are_cut(self.validation) else 0

    def rate(self, step: int, highest: float) -> float:
        """Learning rate of a step."""
        return highest * schedule(self.clock.fraction(step), self.state.config.warm_up)

    def stepped(self, seconds: float) -> Iterator[Event]:
        """A step took so long; the first ones tell how the run goes on."""
        usual = self.costs.step
        if usual and seconds > max(SLEPT_SECONDS, SLEPT_STEPS * usual):
            self.clock.leave_out(seconds - usual)
            yield Notice(f"The computer slept for {_duration(seconds)}; this time does not count")
        elif self.state.step > 1:
            self.costs.stepped(seconds)
        if not self._is_decided and self.state.step >= self._tried:
            yield from self._paced()
        if self.state.config.minutes is not None:
            self.reserve()

    def reserve(self) -> None:
        """Leave time for the last validation, with all that comes with it."""
        windows = self.windows.count(self.state.judged)
        if len(self.state.judged) < len(self.validation):
            windows += self.windows.count(self.validation)
        self.clock.reserved = self.costs.of_windows(windows) + self.costs.extra + self.costs.step / 2

    def is_over(self) -> bool:
        """Whether too little time is left for another epoch; what validations cost may have become known."""
        return self.clock.left() < LEAST_LEFT * self.clock.total

    def ends_soon(self) -> bool:
        """Whether so little time is left after this epoch that it had better be part of it."""
        if not (self.is_paced and self.state.losses) or self.clock.is_over() or self.state.is_finishing:
            return False
        if self.processes.world > 1:  # each would have an answer of its own
            return False
        validating = self.costs.of_windows(self.windows.count(self.state.judged)) + self.costs.extra
        return self.clock.left() - validating < ENDS_SOON * self.state.steps * self.costs.step

    def _first_epoch(
        self, learned: int, place: dict[str, Any], index: dict[str, int]
    ) -> tuple[int, Sequence[int]]:
        """Steps of an epoch, and the validation cases that are looked at after each.

        Once through the training cases, at least ``LEAST_STEPS``; as many cases as a share of that time is
        enough for, at least ``LEAST_JUDGED``, and more steps where these take longer.
        """
        plan, config = self.state.plan, self.state.config
        if "judged" in place:
            return place["steps"], [index[name] for name in place["judged"]]
        if place or config.steps_per_epoch:
            return place.get("steps") or config.steps_per_epoch or LEAST_STEPS, self.validation
        if self.is_paced:
            assert config.minutes is not None
            steps = self._thought_steps() // validations(60 * config.minutes)
            return max(TRIED_STEPS, steps), self.validation
        steps = max(LEAST_STEPS, math.ceil(learned / (plan.batch * self.processes.world)))
        windows = self.windows.count(self.validation)
        patches = PASSES * plan.batch * math.prod(plan.patch) / math.prod(plan.window)
        judged = self._judged(VALIDATING * patches * steps * len(self.validation) / max(windows, 1))
        least = VALIDATING * 3 * patches  # what must be looked at may take three times its share
        return max(steps, math.ceil(self.windows.count(judged) / least)), judged

    def _judged(self, count: float) -> list[int]:
        """So many of the validation cases, at least ``LEAST_JUDGED`` where there are."""
        return judged_part(self.facts, self.validation, max(int(count), LEAST_JUDGED), self.state.config.seed)

    def _most_windows(self, step: float) -> float:
        """Windows that a validation looks at in a case, so that large ones do not take the time to learn."""
        minutes = self.state.config.minutes
        if minutes is None or not step:
            return math.inf
        affordable = 3 * VALIDATING * 60 * minutes / (self.costs.window * step)
        return max(LEAST_WINDOWS, int(affordable / len(self.validation)))

    def _thought_steps(self) -> int:
        """About how many steps there will be."""
        config = self.state.config
        if self.pacing is not None and config.is_timed:
            assert config.minutes is not None
            return max(1, self.pacing.pace.steps(60 * config.minutes))
        return min(config.epochs * self.state.steps, 10**6)

    def _paced(self) -> Iterator[Event]:
        """What the first steps tell: how many there will be, in which batches and validations."""
        state, costs = self.state, self.costs
        step, least, window = self.processes.of_first([costs.step, costs.least_step, costs.of_windows(1)])
        if not self.is_paced:
            self._is_decided = True
            if not state.config.is_timed:
                yield Notice(self._all_steps_in_words(step))
            return
        assert self.pacing is not None
        (left,) = self.processes.of_first([max(self.clock.left(), 0.0)])
        pace = replace(self.pacing.pace, plan=state.plan, step=step)
        if self.pacing.again is not None and left > 0:
            speed = PASSES * state.plan.batch * operations(pace.spec, state.plan.patch) / max(least, NO_TIME)
            other, thought = self.pacing.again(left, speed), self.pacing.pace.step
            is_other = (other.rung, other.plan.patch) != (pace.rung, state.plan.patch)
            if is_other and max(least / thought, thought / max(least, NO_TIME)) > WRONG:
                yield Notice(f"A step takes {least:.2g} s, {thought:.2g} s were expected: planning again")
                self.better = other
                return
            if not is_other and other.plan.batch != state.plan.batch:
                state.plan = with_batch(state.plan, other.plan.batch)
                self.costs = _costs(state.plan)
                self.pacing = replace(self.pacing, pace=other, again=None)
                self._tried = state.step + TRIED_STEPS  # a step of other size is tried anew
                return
        if not state.baseline:  # which was measured on the same windows
            self.windows.most = self._most_windows(step)
        yield from self._long_enough(left, step)
        (left,) = self.processes.of_first([max(self.clock.left(), 0.0)])
        count = validations(left)
        affordable = VALIDATING * left / count / max(window, NO_TIME)
        state.judged = self._judged(affordable / self.windows.count(self.validation) * len(self.validation))
        validating = window * self.windows.count(state.judged)
        count = max(1, min(count, int(3 * VALIDATING * left / max(validating, NO_TIME))))
        steps = max(1, int((left - count * validating) / max(pace.step, NO_TIME)))
        state.steps, state.expected = max(TRIED_STEPS, steps // count), steps
        self.clock.steps = state.config.epochs * state.steps
        self._is_decided = True
        yield Notice(self._in_words(pace, steps, count))

    def _long_enough(self, left: float, step: float) -> Iterator[Event]:
        """End before the time is over where few images would be learned by heart."""
        assert self.pacing is not None
        patches = self.pacing.most_patches / self.processes.world
        enough = seconds_for(patches, self.state.plan.batch, step)
        if enough >= left:
            return
        minutes = (self.clock.elapsed() + enough) / 60
        self.clock.minutes = minutes
        yield Started(self.clock.total, f"Training for {_duration(60 * minutes)}", str(self.processes.device))
        yield Notice(
            f"With so few images, a longer run would overfit: this one ends after about "
            f"{_duration(60 * minutes)}. More annotated images make the model better"
        )

    def _all_steps_in_words(self, step: float) -> str:
        """How long all epochs take, and whether the time is over before."""
        plan, minutes = self.state.plan, self.state.config.minutes
        count = self.state.config.epochs * self.state.steps
        said = f"About {count} steps of {plan.batch} patches, {_duration(count * step)} for all of them"
        if minutes is None:
            return f"{said}; with a limit in minutes network and steps are chosen to fit"
        is_short = (count - self.state.step) * step > self.clock.left()
        return f"{said}; the run ends after {_duration(60 * minutes)}" if is_short else said

    def _in_words(self, pace: Pace, steps: int, count: int) -> str:
        assert self.pacing is not None
        plan, minutes, cases = self.state.plan, self.state.config.minutes, len(self.state.judged)
        said = f"About {steps} steps of {plan.batch} patches of {' x '.join(map(str, plan.patch))}, and "
        said += f"{count} validation{'s' * (count > 1)} on {cases} case{'s' * (cases > 1)}"
        if self.windows.are_cut(self.state.judged):
            said += f", on at most {self.windows.most:.0f} windows of each"
        richer = self.pacing.richer(pace)
        if richer is not None and minutes and richer > 60 * minutes and self.clock.minutes == minutes:
            said += f"; finer images or a wider network pay off from about {_duration(richer)} on"
        return said


class ValidationWindows:
    """How many windows a validation of some cases takes; each case is counted once, since every step asks.

    Attributes
    ----------
    most : float
        Of a case not more than these are looked at.
    """

    def __init__(self, facts: Sequence[CaseFacts], prepared: PreparedCases, plan: Plan, divisor: int) -> None:
        self._facts, self._prepared = facts, prepared
        self._plan, self._divisor = plan, divisor
        self._counted: dict[int, int] = {}
        self.most = math.inf

    def count(self, indices: Sequence[int]) -> float:
        """Windows of these cases."""
        for index in set(indices) - self._counted.keys():
            self._counted[index] = self._of(index)
        return sum(min(self._counted[index], self.most) for index in indices)

    def are_cut(self, indices: Sequence[int]) -> bool:
        """Whether a part of any of these cases is not looked at."""
        return self.count(indices) < sum(self._counted[index] for index in indices)

    def _of(self, index: int) -> int:
        """Told from the shape alone unless the label covers its image in part."""
        fact, window = self._facts[index], self._plan.window
        if fact.class_counts.sum() == math.prod(fact.shape):
            grid = grid_of(fact, self._plan)
            return len(tile(grid, window, self._divisor, across=self._plan.slice_axis).starts)
        case = self._prepared[index]
        tiling = tile(case.label.shape, window, self._divisor, across=case.across)
        return len(labelled_part(tiling, case.label).starts)


def _costs(plan: Plan) -> Costs:
    """What a window and the statistics of norms are thought to cost, as forward passes."""
    window = math.prod(plan.window) / (PASSES * plan.batch * math.prod(plan.patch))
    return Costs(window, passes(plan) / PASSES)


def _duration(seconds: float) -> str:
    """Such as ``40 s``, ``12 minutes`` or ``3.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
