"""What the minutes allow: network, image size, batch and patch by a step's cost; a run that ends in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from napari_prosma.app.cards import card_of
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import BATCH_LIMITS, Plan, case_facts, make_plan
from napari_prosma.data.phantoms import ct_case, ultrasound_case
from napari_prosma.events import EpochEnd, Finished, Notice, Progress, Started, Verdict
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import BEST, LAST, ensemble_of, load_checkpoint
from napari_prosma.nn.network_kinds import WIDTHS
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.batches import LEFT_FREE
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.pace import (
    ENOUGH_STEPS,
    FEW_IMAGES,
    FEWEST_IMAGES,
    FINER_STEPS,
    LADDER,
    LEAST_BATCH,
    MANY_STEPS,
    PATCHES_EACH,
    SMALLEST_SIDE,
    VALIDATING,
    Pace,
    Rung,
    enough_seconds,
    most_patches,
    operations,
    pace_for,
    step_seconds,
    validations,
    with_batch,
)
from napari_prosma.training.planning import pacing_for, remarks
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering

CPU = torch.device("cpu")
SPEED = 5e10


def made(rung: Rung) -> tuple[ModelSpec, Plan]:
    plan = Plan(dims=2, channels=1, class_names=("background", "lesion"), patch=(rung.side,) * 2, batch=3)
    return ModelSpec(2, 1, 1, rung.widths, entry=rung.entry), plan


def paced(seconds: float, **free: bool) -> Pace:
    return pace_for(seconds, SPEED, LADDER[:-1], made, **free)


def facts_of(*cases: Case) -> list:
    return [case_facts(case, case.read_image(), case.read_label()) for case in cases]  # type: ignore[misc]


# ---- what is chosen ---------------------------------------------------------------------------------------


def test_a_step_costs_more_on_each_rung() -> None:
    costs = [step_seconds(*made(rung), SPEED) for rung in LADDER]
    assert costs == sorted(costs)
    assert costs[0] < costs[3] / 10


def test_more_time_never_gives_a_cheaper_network() -> None:
    rungs = [LADDER.index(paced(seconds).rung) for seconds in (1, 60, 600, 3600, 36_000, 360_000)]
    assert rungs == sorted(rungs)
    assert rungs[0] == 0
    assert rungs[-1] == len(LADDER) - 2


def test_a_network_that_is_chosen_for_its_worth_makes_enough_steps() -> None:
    for seconds in (3600, 36_000):
        pace = paced(seconds)
        assert LADDER.index(pace.rung) > 0
        patches = pace.steps(seconds) * pace.plan.batch
        assert patches >= ENOUGH_STEPS * LEAST_BATCH


def test_finer_images_wait_until_coarser_ones_have_had_many_steps() -> None:
    fine = step_seconds(made(LADDER[1])[0], with_batch(made(LADDER[1])[1], LEAST_BATCH), SPEED)
    enough = FINER_STEPS * fine / (1 - VALIDATING)
    assert paced(0.95 * enough).rung == LADDER[0]
    assert paced(1.05 * enough).rung == LADDER[1]


def test_a_step_takes_more_patches_where_there_would_be_too_many_steps() -> None:
    few, many = paced(30), paced(10**7)
    assert few.plan.batch == LEAST_BATCH
    assert many.plan.batch == BATCH_LIMITS[1]
    assert many.steps(10**7) >= MANY_STEPS


def test_few_patches_are_not_learned_from_in_few_large_batches() -> None:
    pace = pace_for(10**4, SPEED, LADDER[:1], made, most_patches=6000)
    assert pace.plan.batch == 4
    assert pace_for(10**4, SPEED, LADDER[:1], made).plan.batch > 4


def test_few_images_limit_how_many_patches_are_learned_from() -> None:
    assert most_patches(5, 1) == 5 * PATCHES_EACH
    assert most_patches(1, 1) == FEWEST_IMAGES * PATCHES_EACH
    assert most_patches(5, 8) == 40 * PATCHES_EACH
    assert most_patches(FEW_IMAGES, 1) == float("inf")


def test_a_patch_is_cut_where_hardly_a_step_fits_but_never_to_a_crumb() -> None:
    pace = paced(0.5)
    assert max(pace.plan.patch) < LADDER[0].side
    assert min(paced(1e-6).plan.patch) >= SMALLEST_SIDE
    assert paced(0.5, free_patch=False).plan.patch == (LADDER[0].side,) * 2


def test_what_the_user_gave_stays() -> None:
    assert paced(10**7, free_batch=False).plan.batch == 3
    assert paced(1e-6, free_batch=False, free_patch=False).plan == made(LADDER[0])[1]


def test_it_is_told_from_when_on_the_next_network_pays() -> None:
    pace = paced(60)
    following = LADDER[LADDER.index(pace.rung) + 1]
    seconds = enough_seconds(pace, following, *made(following))
    assert paced(0.9 * seconds).rung == pace.rung
    assert LADDER.index(paced(1.1 * seconds).rung) > LADDER.index(pace.rung)


def test_operations_are_those_of_the_padded_patch() -> None:
    spec = ModelSpec(2, 1, 1, (4, 8, 16))
    assert operations(spec, (30, 31)) == operations(spec, (32, 32))
    assert operations(spec, (64, 64)) == pytest.approx(4 * operations(spec, (32, 32)), rel=0.01)


def test_validations_are_more_in_a_longer_run_and_never_none() -> None:
    counts = [validations(seconds) for seconds in (1, 60, 360, 720, 3600, 10**6)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 20)


# ---- by the configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "entry", "widths"),
    [
        ({"minutes": 1}, 2, WIDTHS["tiny"]),
        ({}, 1, WIDTHS["tiny"]),
        ({"minutes": 1, "widths": "base"}, 1, WIDTHS["base"]),
        ({"minutes": 1, "widths": "quick", "entry": 2}, 2, WIDTHS["quick"]),
        ({"minutes": 1, "entry": 1}, 1, WIDTHS["tiny"]),
        ({"minutes": 1, "epochs": 5}, 1, WIDTHS["tiny"]),
        ({"minutes": 1, "network": "unet"}, 1, WIDTHS["tiny"]),
    ],
)
def test_the_minutes_choose_what_was_not_asked_for(
    changes: dict, entry: int, widths: tuple[int, ...], tmp_path: Path
) -> None:
    config = TrainConfig(run_dir=tmp_path, **changes)
    facts = facts_of(*(ultrasound_case(n, (200, 260)) for n in range(2)))
    seconds = 60.0 if config.is_timed else float("inf")
    pace = pacing_for(config, facts, (), None, seconds, CPU).pace
    assert (pace.spec.entry, pace.spec.widths) == (entry, widths[: len(pace.spec.widths)])


def test_pictures_are_smaller_in_a_short_run_unless_their_size_was_chosen(tmp_path: Path) -> None:
    facts = facts_of(*(pixels(ultrasound_case(n, (256, 256))) for n in range(2)))

    def patch(**changes: object) -> tuple[int, ...]:
        config = TrainConfig(run_dir=tmp_path, minutes=1, **changes)
        return pacing_for(config, facts, (), None, 60.0, CPU).pace.plan.patch

    assert patch() == (128, 128)
    assert patch(side=256) == (256, 256)


def test_it_is_told_where_some_images_do_not_know_their_size(tmp_path: Path) -> None:
    label = np.zeros((64, 64), np.uint8)
    label[20:40] = 1
    image, sized = np.zeros((1, 64, 64), np.uint8), Geometry((0.2, 0.2), (0.0, 0.0), "mm")
    cases = [Case.from_arrays("a", image, label, sized)] + [
        Case.from_arrays(f"b{n}", image, label) for n in range(2)
    ]
    config = TrainConfig(run_dir=tmp_path, minutes=1)

    def told(*chosen: Case) -> list[str]:
        facts = facts_of(*chosen)
        plan = pacing_for(config, facts, (), None, 60.0, CPU).pace.plan
        return [said for said in remarks(facts, plan, config, [0]) if "how large their pixels" in said]

    (said,) = told(*cases)
    assert said.startswith("2 of 3 images do not say how large")
    assert told(*cases[1:]) == told(cases[0]) == []


def test_it_is_told_where_the_prepared_images_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = facts_of(*(pixels(ultrasound_case(n, (64, 64))) for n in range(3)))
    config = TrainConfig(run_dir=tmp_path / "later")
    plan = make_plan(facts, ("background", "lesion"))

    def told() -> list[str]:
        return [said for said in remarks(facts, plan, config, [0]) if " GB " in said]

    def free(number: float) -> None:
        disk = SimpleNamespace(free=LEFT_FREE + number)
        monkeypatch.setattr("napari_prosma.training.planning.disk_usage", lambda _: disk)

    free(2e9)
    assert told() == []
    monkeypatch.setattr("napari_prosma.training.planning.CACHE_BYTES", 3 * 64 * 64 * 5 - 1000)
    assert told() == []
    monkeypatch.setattr("napari_prosma.training.planning.CACHE_BYTES", 3 * 64 * 64 * 5 - 10**9)
    (said,) = told()
    assert said.startswith("1.0 GB of the prepared images do not fit into the ")
    assert "until the run ends" in said
    free(0.4e9)
    (said,) = told()
    assert "has room for 0.4 GB" in said
    assert "free 0.6 GB" in said


def test_thin_structures_keep_pictures_finer_and_a_side_that_loses_them_is_told(tmp_path: Path) -> None:
    label = np.zeros((600, 600), np.uint8)
    label[20:580:40] = label[21:580:40] = label[22:580:40] = 1
    cases = [Case.from_arrays(f"lines {n}", np.zeros((1, 600, 600), np.uint8), label) for n in range(2)]
    facts = facts_of(*cases)

    def planned(**changes: object) -> Plan:
        config = TrainConfig(run_dir=tmp_path, minutes=1, **changes)
        return pacing_for(config, facts, (), None, 60.0, CPU).pace.plan

    plan, usual = planned(), TrainConfig(run_dir=tmp_path, minutes=1)
    assert plan.spacing == pytest.approx((1.5, 1.5), rel=0.01)
    assert any(
        "so images keep a short side of 400 pixels" in said for said in remarks(facts, plan, usual, [1])
    )
    said = list(remarks(facts, planned(side=128), usual, [1]))
    assert any("much of them is lost" in one and "a side of 400 keeps them" in one for one in said)
    fixed = usual.model_copy(update={"spacing": (4.0, 4.0)})
    said = list(remarks(facts, planned(spacing=(4.0, 4.0)), fixed, [1]))
    assert any("much of them is lost" in one and "keeps them" not in one for one in said)


def pixels(case: Case) -> Case:
    """The same picture without a physical size."""
    image, label = case.read_image(), case.read_label
    assert label is not None
    return Case.from_arrays(case.name, image.array, label())


def test_a_network_on_small_images_has_a_level_less(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path, minutes=1)
    small = pacing_for(config, facts_of(ct_case(0)), (), None, 60.0, CPU).pace
    assert len(small.spec.widths) == len(WIDTHS["tiny"]) - 1
    assert small.spec.divisor == 16


def test_a_usual_case_fits_one_window(tmp_path: Path) -> None:
    """Patches are rounded to the nearest multiple, windows up to what holds most cases."""
    facts = facts_of(*(ultrasound_case(n, (36 + n, 50)) for n in range(10)))
    facts = [replace(fact, unit="mm") for fact in facts]
    plan = pacing_for(TrainConfig(run_dir=tmp_path), facts, (), None, float("inf"), CPU).pace.plan
    assert plan.patch == (48, 48)
    assert plan.window == (48, 64)


# ---- a run by its minutes ---------------------------------------------------------------------------------


class Ticking:
    """In the place of ``time``: a step takes a while, a look at the clock a moment, later on more."""

    def __init__(self, step: float = 0.5, slower_from: float = float("inf"), by: float = 10) -> None:
        self.now, self._step, self._slower_from, self._by = 1000.0, step, 1000 + slower_from, by

    def monotonic(self) -> float:
        return self.let_pass(self._step / 100)

    def step(self) -> None:
        self.let_pass(self._step)

    def let_pass(self, seconds: float) -> float:
        self.now += seconds * (self._by if self.now > self._slower_from else 1)
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ticking]:
    def start(**how: float) -> Ticking:
        clock, step = Ticking(**how), torch.optim.AdamW.step

        def timed(*args: Any, **others: Any) -> Any:
            clock.step()
            return step(*args, **others)

        for part in ("run", "loop"):
            monkeypatch.setattr(f"napari_prosma.training.{part}.time", clock)
        monkeypatch.setattr("napari_prosma.training.schedule.time", clock)
        monkeypatch.setattr(torch.optim.AdamW, "step", timed)
        return clock

    return start


@pytest.fixture
def by_minutes(settings: Callable[..., TrainConfig], tmp_path: Path) -> Callable[..., TrainConfig]:
    def make(minutes: float, **changes: object) -> TrainConfig:
        usual = {
            "epochs": 100_000,
            "steps_per_epoch": None,
            "widths": (4, 6, 8),
            "entry": 2,
            "patch": (32, 32),
        }
        return settings(tmp_path / "run", minutes=minutes, **{**usual, **changes})

    return make


@pytest.mark.parametrize("slower_from", [float("inf"), 10.0, 30.0])
def test_a_run_ends_in_its_time_annealed_and_with_a_model(
    slower_from: float, by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    """Also on a machine that gets ten times slower in the middle."""
    ticking(slower_from=slower_from)
    config = by_minutes(1)
    events = list(train(config, ultrasound))
    last, told = load_checkpoint(config.run_dir / LAST), [e for e in events if isinstance(e, EpochEnd)]
    assert 0.95 * 60 < last.place["seconds"] < 1.03 * 60
    assert told[-1].learning_rate < 0.05 * last.place["rate"]
    assert 1 <= len(told) <= 1 + validations(60)
    assert isinstance(events[-1], Finished)
    assert isinstance(events[-2], Verdict)
    assert load_checkpoint(config.run_dir / BEST).spec.entry == 2
    assert card_of(config.run_dir).windows == 0
    assert any("validation" in e.message for e in events if isinstance(e, Notice))
    done = [event.done for event in events if isinstance(event, Progress) and event.total == 60]
    assert done == sorted(done)


def test_a_large_case_is_validated_in_part_so_that_the_run_ends_in_its_time(
    by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    ticking()
    config = by_minutes(0.25, side=320)
    large = ultrasound_case(1, (320, 320))
    events = list(train(config, [large]))
    last = load_checkpoint(config.run_dir / LAST)
    most = last.place["most_windows"]
    assert any(f"on at most {most} windows of each" in e.message for e in events if isinstance(e, Notice))
    ended = [n for n, event in enumerate(events) if isinstance(event, EpochEnd)]
    for first, end in zip([0, *ended], ended, strict=False):
        looked = [e for e in events[first:end] if isinstance(e, Progress) and "validating" in e.message]
        assert 0 < len(looked) <= most + 1 < 19 * 19  # windows of 32 x 32, half over each other
    assert last.place["seconds"] < 1.03 * 15
    assert 0 < last.metrics["score"] < 1
    assert last.windows == most
    assert ensemble_of([last], {}).windows == most
    assert card_of(config.run_dir).windows == most
    resumed = list(train(config.model_copy(update={"minutes": 0.5}), [large], resumed=last))
    assert isinstance(resumed[-1], Finished)
    assert load_checkpoint(config.run_dir / LAST).place["most_windows"] == most


def test_what_was_decided_is_kept_where_a_run_goes_on(
    by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    ticking()
    config = by_minutes(1)
    events = train(config, ultrasound)
    for event in events:
        if isinstance(event, Notice) and event.message.startswith("About"):
            break
    events.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(config.run_dir / LAST)
    assert kept.place["step"] in (3, 6)  # twice three where another batch was tried
    events = list(train(config, ultrasound, resumed=kept))
    assert not any(isinstance(e, Notice) and e.message.startswith("About") for e in events)
    last = load_checkpoint(config.run_dir / LAST)
    for name in ("steps", "expected", "judged", "rate"):
        assert last.place[name] == kept.place[name]
    assert (last.spec, last.plan) == (kept.spec, kept.plan)
    assert 0.93 * 60 < last.place["seconds"] < 1.03 * 60


def test_a_run_left_before_its_pace_was_decided_decides_it_when_it_is_resumed(
    by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    """After the third step, which chose another batch, and before the sixth."""
    ticking()
    config = by_minutes(1)
    events = train(config, ultrasound)
    steps = (event for event in events if isinstance(event, Progress) and "loss" in event.message)
    for _ in range(4):
        next(steps)
    events.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(config.run_dir / LAST)
    assert (kept.place["step"], kept.place["paced"]) == (4, False)
    steering = Steering()
    for event in train(config, ultrasound, resumed=kept, steering=steering):
        if isinstance(event, Started) and event.message.startswith("Training"):
            steering.stop()
    same = load_checkpoint(config.run_dir / LAST)
    assert all(torch.equal(tensor, kept.weights[name]) for name, tensor in same.weights.items())
    told = [e.message for e in train(config, ultrasound, resumed=kept) if isinstance(e, Notice)]
    assert sum(message.startswith("About") for message in told) == 1
    last = load_checkpoint(config.run_dir / LAST)
    assert last.place["steps"] != kept.place["steps"]
    assert last.plan == kept.plan
    assert 0.93 * 60 < last.place["seconds"] < 1.03 * 60


@pytest.fixture
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_prosma.training.pace.PATCHES_EACH", 10)


@pytest.mark.usefixtures("few_patches")
def test_a_run_on_few_images_ends_before_its_time_and_says_so(
    by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    ticking()
    config = by_minutes(10)
    events, told = train(config, ultrasound[:5]), []
    for event in events:
        if isinstance(event, Notice):
            told.append(event.message)
            if event.message.startswith("About"):
                break
    events.close()  # type: ignore[attr-defined]
    assert any("With so few images" in message for message in told)
    kept = load_checkpoint(config.run_dir / LAST)
    ends = 60 * kept.place["minutes"]
    assert ends < 60

    *_, finished = train(config, ultrasound[:5], resumed=kept)
    assert isinstance(finished, Finished)
    last = load_checkpoint(config.run_dir / LAST)
    assert 0.9 * ends < last.place["seconds"] < 1.05 * ends
    assert last.place["history"][-1]["learning_rate"] < 0.05 * last.place["rate"]

    longer = config.model_copy(update={"minutes": 2.0})
    *_, finished = train(longer, ultrasound[:5], resumed=last)
    assert load_checkpoint(config.run_dir / LAST).place["seconds"] > 0.9 * 120


@pytest.mark.usefixtures("few_patches")
def test_corrections_give_a_run_on_few_images_its_time_back(
    by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    ticking()
    config, steering = by_minutes(1.5), Steering()
    for event in train(config, ultrasound[:5], steering=steering):
        if isinstance(event, Notice) and "With so few images" in event.message:
            steering.relabel(ultrasound[0].name)
    assert load_checkpoint(config.run_dir / LAST).place["seconds"] > 0.9 * 90


@pytest.mark.parametrize("count", [1, 2])
def test_no_time_and_one_or_two_images_still_give_a_model(
    count: int, by_minutes: Callable, ticking: Callable, ultrasound: list[Case]
) -> None:
    ticking(step=30.0)
    config = by_minutes(0.05)
    *_, finished = train(config, ultrasound[:count])
    assert isinstance(finished, Finished)
    assert load_checkpoint(config.run_dir / BEST).epoch >= 1
