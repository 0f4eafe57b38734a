"""Which model of a run is kept, by which validations, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.app.cards import card_of
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.metrics import Overlap, overlaps_of
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress, Verdict
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint, load_checkpoint, save_checkpoint
from napari_prosma.training import keeper as keeper_module
from napari_prosma.training import schedule, tempo
from napari_prosma.training.batches import PreparedCases
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.figures import validation_figures
from napari_prosma.training.run import train
from napari_prosma.training.split import split_cases
from napari_prosma.training.steering import Steering

Settings = Callable[..., TrainConfig]
SIDE = 16


def case(number: int, split: str, has_structure: bool = True) -> Case:
    image = np.random.default_rng(number).normal(size=(1, SIDE, SIDE)).astype(np.float32)
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[4:12, 4:12] = has_structure
    return replace(Case.from_arrays(f"case {number:02}", image + 2 * label, label), split=split)


def cases(validating: int, without: int = 0) -> list[Case]:
    """Four to learn from, and so many that validate; ``without`` of them hold no structure."""
    training = [case(number, "train") for number in range(4)]
    return training + [case(10 + n, "val", n >= without) for n in range(validating)]


def messages(events: Sequence[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


class Validating:
    """In the place of a validation by the network: finds of each structure what it is told to find.

    ``finds(validation, case)`` is the Dice, by the number of the validation, from 1, and the place of the
    case in it, from 0.
    """

    def __init__(self, finds: Callable[[int, int], float]) -> None:
        self._finds, self.count = finds, 0
        self.after_case: Callable[[], None] = lambda: None

    def __call__(self, model: object, prepared: object, indices: Sequence[int], *_: object) -> Iterator:
        self.count += 1
        for place, index in enumerate(indices):
            held = prepared[index]  # type: ignore[index]
            yield held, None
            self.after_case()
            yield held, with_dice(held.label, self._finds(self.count, place))


def with_dice(label: np.ndarray, dice: float) -> np.ndarray:
    """As many elements as the structure has, this share of them in it; where there is none, one below 1."""
    found, inside, outside = np.zeros_like(label), np.argwhere(label == 1), np.argwhere(label == 0)
    right = round(dice * len(inside))
    wrong = len(inside) - right if len(inside) else int(dice < 1)
    for at in (*inside[:right], *outside[:wrong]):
        found[tuple(at)] = 1
    return found


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Validating]:
    def start(finds: Callable[[int, int], float]) -> Validating:
        validating = Validating(finds)
        monkeypatch.setattr(keeper_module, "validate", validating)
        return validating

    return start


@pytest.fixture
def judged_on_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short epochs, each validated on two of several cases, of which the best one is kept."""
    for part, name, value in (
        (tempo, "LEAST_JUDGED", 2),
        (tempo, "LEAST_STEPS", 2),
        (tempo, "VALIDATING", 0.01),
        (keeper_module, "FEW_VALIDATED", 1),
    ):
        monkeypatch.setattr(part, name, value)


Beginning = Callable[..., Path]


@pytest.fixture
def beginning(
    make_checkpoint: Callable[..., Checkpoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Beginning:
    """``beginning(finds, class_names)``: a model to start from, and the Dice with which it finds case n."""

    def make(finds: Callable[[int], float], class_names: tuple[str, ...]) -> Path:
        path = tmp_path / "source" / BEST
        model = make_checkpoint(classes=class_names, patch=(SIDE, SIDE))
        save_checkpoint(path, replace(model, split={"training": [], "validation": []}))

        def baseline(
            source: object, prepared: PreparedCases, indices: Sequence[int], plan: Plan, *_: object
        ) -> Generator[str, None, tuple[dict[str, float], list[Overlap]]]:
            found: list[Overlap] = []
            for place, index in enumerate(indices):
                held = prepared[index]
                yield held.name
                predicted = with_dice(held.label, finds(place))
                found += overlaps_of(held.name, predicted, held.label, plan.class_names)
            return validation_figures(found), found

        monkeypatch.setattr(keeper_module, "baseline", baseline)
        return path

    return make


class Skipping:
    """In the place of ``time``: it can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Skipping:
    skipping = Skipping()
    monkeypatch.setattr(schedule, "time", skipping)
    return skipping


# ---- a validation that is cut short ----------------------------------------------------------------------


def test_an_epoch_that_was_validated_in_part_does_not_count_as_better(
    settings: Settings, finding: Callable[..., Validating], tmp_path: Path
) -> None:
    """The minutes are lowered below what has passed; the first case alone is found best."""
    finding(lambda validation, place: 1.0 if place == 0 else 0.5)
    steering, events = Steering(wants_previews=False), []
    for event in train(settings(tmp_path, epochs=5, minutes=30), cases(6), steering=steering):
        events.append(event)
        if isinstance(event, EpochEnd) and event.epoch == 2:
            steering.change(minutes=1e-5)
    assert "Time is up: validated on 1 of 6 cases" in messages(events)
    best, last = (load_checkpoint(tmp_path / name) for name in (BEST, LAST))
    assert (best.epoch, last.epoch) == (1, 3)
    assert len(best.overlaps) == 6
    assert last.place["cut"] == [3]
    assert events[-1].result.score == best.metrics["dice"] < 0.7


def test_the_only_epoch_is_kept_however_it_was_validated_until_one_was_validated_whole(
    settings: Settings, finding: Callable[..., Validating], clock: Skipping, tmp_path: Path
) -> None:
    validating = finding(lambda validation, place: 1.0 if place == 0 else 0.5)

    def late() -> None:
        clock.ahead += 3600 * (validating.count == 1)

    validating.after_case = late
    kept, last = [], None
    for minutes in (30, 1000):
        config = settings(tmp_path, minutes=minutes)
        list(train(config, cases(6), resumed=last, steering=Steering(wants_previews=False)))
        kept.append(load_checkpoint(tmp_path / BEST))
        last = load_checkpoint(tmp_path / LAST)
    assert [(each.epoch, len(each.overlaps)) for each in kept] == [(1, 1), (2, 6)]


@pytest.mark.usefixtures("judged_on_two")
def test_a_pause_during_the_last_validation_takes_none_of_the_time(
    settings: Settings, finding: Callable[..., Validating], clock: Skipping, tmp_path: Path
) -> None:
    finding(lambda validation, place: 0.5)
    events, config = [], settings(tmp_path, epochs=1, steps_per_epoch=None, minutes=10)
    for event in train(config, cases(6), steering=Steering(wants_previews=False)):
        events.append(event)
        if isinstance(event, Progress) and event.message.startswith("the best model"):
            clock.ahead += 3600
    assert not [said for said in messages(events) if "Time is up" in said]
    assert "Dice of the model that is kept, on all 6 validation cases: 0.500" in messages(events)
    assert len(load_checkpoint(tmp_path / BEST).overlaps) == 6


@pytest.mark.usefixtures("judged_on_two")
def test_a_last_validation_that_the_time_cuts_short_leaves_the_figures_as_they_are(
    settings: Settings, finding: Callable[..., Validating], clock: Skipping, tmp_path: Path
) -> None:
    validating = finding(lambda validation, place: 0.5 if validation == 1 else 1.0)

    def late() -> None:
        clock.ahead += 3600 * (validating.count == 2)

    validating.after_case = late
    config = settings(tmp_path, epochs=1, steps_per_epoch=None, minutes=10)
    events = list(train(config, cases(6), steering=Steering(wants_previews=False)))
    assert "Time is up: validated on 1 of 6 cases" in messages(events)
    assert "Dice of the model that is kept, on 2 of 6 validation cases: 0.500" in messages(events)
    assert len(load_checkpoint(tmp_path / BEST).overlaps) == 2
    assert events[-1].result.score == 0.5


@pytest.mark.usefixtures("judged_on_two")
def test_a_stop_during_the_last_validation_says_nothing_of_it_and_resuming_makes_up_for_it(
    settings: Settings, finding: Callable[..., Validating], tmp_path: Path
) -> None:
    finding(lambda validation, place: 0.5)
    steering, events = Steering(wants_previews=False), []
    config = settings(tmp_path, epochs=1, steps_per_epoch=None)
    for event in train(config, cases(6), steering=steering):
        events.append(event)
        if isinstance(event, Progress) and event.message.startswith("the best model"):
            steering.stop()
    assert not [said for said in messages(events) if "model that is kept" in said]
    assert not isinstance(events[-1], Finished)
    kept = load_checkpoint(tmp_path / LAST)
    events = list(train(config, cases(6), resumed=kept, steering=Steering(wants_previews=False)))
    assert "Dice of the model that is kept, on all 6 validation cases: 0.500" in messages(events)
    assert isinstance(events[-1], Finished)


# ---- validation cases without a structure ----------------------------------------------------------------


@pytest.mark.parametrize("split", ["given", "random"])
def test_where_no_validation_case_holds_a_structure_the_last_model_is_kept(
    split: str, settings: Settings, finding: Callable[..., Validating], tmp_path: Path
) -> None:
    """Neither is a run ended by its patience, which no figure tells anything; another split is advised."""
    finding(lambda validation, place: 0.5)
    data = [replace(each, split="") for each in cases(6)] if split == "random" else cases(6, without=6)
    if split == "random":
        held_out = split_cases(data, 0.6, 0)[1]
        data = [replace(case(n, "", n not in held_out), name=each.name) for n, each in enumerate(data)]
    config = settings(tmp_path, epochs=4, patience=1, split=split, seed=0, validation_fraction=0.6)
    events = list(train(config, data, steering=Steering(wants_previews=False)))
    assert load_checkpoint(tmp_path / BEST).epoch == 4
    (remark,) = [said for said in messages(events) if said.startswith("No validation case contains")]
    last = [event for event in events if isinstance(event, Verdict)][-1]
    by_seed, by_split = "another seed", "choose the split random (--split random)"
    assert (by_seed in remark, by_seed in last.advice[0]) == (split == "random",) * 2
    assert (by_split in remark, by_split in last.advice[0].lower()) == (split == "given",) * 2


# ---- the model to start from -----------------------------------------------------------------------------


def from_model(run_dir: Path, source: Path, **changes: object) -> TrainConfig:
    quick = {"epochs": 2, "steps_per_epoch": 2, "device": "cpu", "threads": 1, "start_from": source}
    return TrainConfig.of(run_dir=run_dir, **{**quick, **changes})


@pytest.mark.parametrize(
    ("of_source", "kept"),
    [(("background", "lesion"), 0), (("background", "lesion", "cyst"), 2), (("background", "cyst"), 2)],
)
def test_only_a_model_of_the_same_classes_is_kept_in_the_place_of_a_worse_one(
    of_source: tuple[str, ...],
    kept: int,
    finding: Callable[..., Validating],
    beginning: Beginning,
    tmp_path: Path,
) -> None:
    """One that loses a class is another model, of which the figures of before say nothing."""
    finding(lambda validation, place: 0.25 * validation)
    source = beginning(lambda place: 1.0, of_source)
    events = list(train(from_model(tmp_path / "run", source), cases(6), ("background", "lesion")))
    best = load_checkpoint(tmp_path / "run")
    assert best.epoch == kept
    assert any("No epoch was better" in said for said in messages(events)) == (kept == 0)
    assert events[-1].result.score == best.metrics["dice"] == (0.5 if kept else 1.0)


@pytest.mark.usefixtures("judged_on_two")
@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("of_source", "kept"), [(0.8, 0), (0.5, 1)])
def test_the_model_before_and_after_are_compared_on_the_same_cases(
    of_source: float,
    kept: int,
    resumed: bool,
    finding: Callable[..., Validating],
    beginning: Beginning,
    tmp_path: Path,
) -> None:
    """On two cases the tuned model is better, on all it is not: the model before is given back as it was."""
    validating = finding(lambda validation, place: 0.9 if validation == 1 else 0.7)
    source = beginning(lambda place: of_source, ("background", "lesion"))
    config = from_model(tmp_path / "run", source, epochs=1, steps_per_epoch=None)
    names, steering, events = ("background", "lesion"), Steering(wants_previews=False), []
    for event in train(config, cases(6), names, steering=steering):
        events.append(event)
        if resumed and isinstance(event, Progress) and event.message.startswith("the best model"):
            steering.stop()
    if resumed:
        source.unlink()
        validating.count = 1
        last = load_checkpoint(config.run_dir / LAST)
        events = list(train(config, cases(6), names, last, Steering(wants_previews=False)))
    worse = "On all 6 validation cases, epoch 1 is worse than the model the run started from"
    assert (f"{worse}, so that model is kept" in messages(events)) == (kept == 0)
    best = load_checkpoint(config.run_dir)
    assert best.epoch == kept
    assert len(best.overlaps) == 6
    assert (
        best.metrics["dice"] == events[-1].result.score == pytest.approx(0.8 if kept == 0 else 0.7, abs=0.01)
    )
    if kept == 0:
        began = beginning(lambda place: of_source, names)
        weights = load_checkpoint(began).weights
        assert all(torch.equal(tensor, weights[name]) for name, tensor in best.weights.items())
        assert best.steps == load_checkpoint(began).steps


@pytest.mark.usefixtures("judged_on_two")
def test_a_better_model_is_not_lost_to_cases_that_it_is_not_validated_on(
    finding: Callable[..., Validating], beginning: Beginning, tmp_path: Path
) -> None:
    """The model before finds less in the two cases that the epoch is validated on, more in the others."""
    finding(lambda validation, place: 0.6 if validation == 1 else 0.9)
    names, judged = ("background", "lesion"), np.random.RandomState(0).permutation(6)[:2]
    source = beginning(lambda place: 0.3 if place in judged else 0.9, names)
    config = from_model(tmp_path / "run", source, epochs=1, steps_per_epoch=None, seed=0)
    list(train(config, cases(6), names, steering=Steering(wants_previews=False)))
    assert load_checkpoint(config.run_dir).epoch == 1


# ---- what is said of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_part", [False, True])
def test_the_verdict_in_a_file_and_the_last_one_are_those_of_the_model_that_is_kept(
    is_part: bool,
    settings: Settings,
    finding: Callable[..., Validating],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """The second of three epochs is the best; a later validation found less."""
    if is_part:
        request.getfixturevalue("judged_on_two")
    finding(lambda validation, place: {1: 0.0, 2: 1.0, 3: 0.5, 4: 0.75}[validation])
    steering, events, kept = Steering(wants_previews=False), [], []
    config = settings(tmp_path, epochs=3, steps_per_epoch=None if is_part else 2)
    for event in train(config, cases(6), steering=steering):
        events.append(event)
        if isinstance(event, EpochEnd):
            kept.append(load_checkpoint(tmp_path / BEST).place["verdict"])
    assert [each[0].split(";")[0] for each in kept] == [
        "Finds nothing yet",
        *["Finds foreground with a mean Dice of 1.00"] * 2,
    ]
    said = [event for event in events if isinstance(event, Verdict)][-1]
    assert said.epoch == 2
    dice = "0.75" if is_part else "1.00"
    assert said.summary.startswith(f"Finds foreground with a mean Dice of {dice}")
    assert said.summary.endswith("epoch 2 of 3 is kept")
    assert load_checkpoint(tmp_path / BEST).place["verdict"] == [said.summary, *said.advice]
    assert card_of(tmp_path).advice == said.advice
    assert "hardly begun" not in " ".join(said.advice)
