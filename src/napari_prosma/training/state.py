"""How far a run has come: what its last checkpoint keeps beside weights and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import CaseFacts, Plan
from napari_prosma.data.metrics import Overlap
from napari_prosma.events import EpochEnd, Verdict
from napari_prosma.model.checkpoint import LAST, Checkpoint
from napari_prosma.model.tuning import Execution
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.planning import Pacing
from napari_prosma.training.reading import Unlabelled

_HISTORY = TypeAdapter(list[EpochEnd])


@dataclass(frozen=True, eq=False)
class RunData:
    """What a run learns from: its cases with their facts, which of them validate, and unlabelled ones."""

    cases: Sequence[Case]
    facts: Sequence[CaseFacts]
    unlabelled: Unlabelled
    training: Sequence[int]
    validation: Sequence[int]
    has_validation: bool

    @cached_property
    def index(self) -> dict[str, int]:
        """Where a case stands, by its name."""
        return {case.name: n for n, case in enumerate(self.cases)}

    @property
    def is_split_given(self) -> bool:
        """Whether the data set names the validation cases, so that no seed chooses others."""
        named = {n for n, case in enumerate(self.cases) if case.split == "val"}
        return self.has_validation and named == {*self.validation}

    @property
    def split(self) -> dict[str, list[str]]:
        """Names of the cases that are learned from, and of those that validate."""
        return {
            "training": [self.cases[n].name for n in self.training],
            "validation": [self.cases[n].name for n in self.validation],
        }


@dataclass(frozen=True, eq=False)
class Beginning:
    """What was decided before the first step.

    ``source`` is the model that a fine-tuning starts from, ``pacing`` how network, plan and batch are chosen
    anew once the cost of a step is known, ``began`` when the run began, by ``time.monotonic``.
    """

    plan: Plan
    spec: ModelSpec
    execution: Execution
    source: Checkpoint | None
    resumed: Checkpoint | None
    pacing: Pacing | None
    began: float

    @property
    def place(self) -> dict[str, Any]:
        """Where the run that is resumed was left; empty for a new one."""
        return {} if self.resumed is None else self.resumed.place


@dataclass
class RunState:
    """Where a run is."""

    config: TrainConfig  # as changed while it goes on
    plan: Plan
    steps: int = 0  # per epoch
    judged: Sequence[int] = ()  # validation cases that are looked at after every epoch
    expected: int = 1  # about how many steps there will be in all
    # step, epoch: finished ones; an epoch that the time ended counts whole.
    step: int = 0
    epoch: int = 0
    learned: int = 0  # steps of the optimizer, with those of the model that a fine-tuning started from
    parts: int = 1  # into which a batch is cut where memory is short
    saved_step: int = 0  # of the newest checkpoint
    losses: list[float] = field(default_factory=list)
    history: list[EpochEnd] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)  # epochs whose validation the end of the time cut short
    metrics: dict[str, float] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()  # of the last validation, of which ``metrics`` are made
    baseline: dict[str, float] = field(default_factory=dict)
    # best, best_epoch, improved: the highest score, the epoch that is kept, and the last that scored higher
    best: float = -1.0
    best_epoch: int = 0
    improved: int = 0
    # least, of_source, steps_of_source: of the model that a fine-tuning started from, where that one is kept
    # as long as none is better: its score on all validation cases, their overlaps, and its steps.
    least: float = -1.0
    of_source: tuple[Overlap, ...] = ()
    steps_of_source: int = 0
    verdict: Verdict | None = None
    # is_stopping, is_finishing: asked to end at once, or to validate and end.
    is_stopping: bool = False
    is_finishing: bool = False

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up where ``checkpoint`` was saved."""
        place = checkpoint.place
        self.step = self.saved_step = place["step"]
        self.epoch, self.learned, self.losses = checkpoint.epoch, checkpoint.steps, list(place["losses"])
        self.metrics, self.best = checkpoint.metrics, place["best"]
        self.overlaps = checkpoint.overlaps
        self.best_epoch = place.get("best_epoch", 0)
        self.history = _HISTORY.validate_python(place.get("history", []))
        self.of_source = tuple(Overlap(*values) for values in place.get("of_source", ()))
        self.steps_of_source = place.get("steps_of_source", 0)
        self.cut = list(place.get("cut", ()))
        self.baseline, self.parts = place.get("baseline", {}), place.get("parts", 1)
        self.least, self.improved = place.get("least", -1.0), place.get("improved", self.best_epoch)

    def place(self, name: str) -> dict[str, Any]:
        """Its part of ``Checkpoint.place`` in the file ``name``."""
        place: dict[str, Any] = {
            "step": self.step,
            "learned": self.learned,
            "steps": self.steps,
            "losses": self.losses,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "improved": self.improved,
            "parts": self.parts,
            "baseline": self.baseline,
            "least": self.least,
            "expected": self.expected,
        }
        if self.verdict is not None:
            place |= in_place(self.verdict)
        if name == LAST:
            place["history"] = [asdict(end) for end in self.history]
            place["cut"] = self.cut
            place["of_source"] = [astuple(overlap) for overlap in self.of_source]
            place["steps_of_source"] = self.steps_of_source
        return place


def in_place(verdict: Verdict) -> dict[str, Any]:
    """A verdict on the model of a checkpoint as it stands in ``Checkpoint.place``."""
    return {"verdict": [verdict.summary, *verdict.advice]}
