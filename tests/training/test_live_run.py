"""A run that is changed while it goes on: labels, settings, what is looked at, and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.errors import DataError, ProsmaError
from napari_prosma.events import (
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
)
from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.training import loop as loop_module
from napari_prosma.training import preview as preview_module
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.preview import Rhythm
from napari_prosma.training.run import train
from napari_prosma.training.steering import Steering, View

Settings = Callable[..., TrainConfig]


def picture(side: int = 32) -> Case:
    """A bright square on a slope, labelled."""
    image = np.tile(np.linspace(0, 1, side, dtype=np.float32), (1, side, 1))
    label = np.zeros((side, side), np.uint8)
    label[8:16, 8:16] = 1
    return Case.from_arrays("picture", image + 2 * (label > 0), label)


def volume() -> Case:
    image = np.random.default_rng(0).normal(size=(1, 6, 32, 24)).astype(np.float32)
    label = np.zeros((6, 32, 24), np.uint8)
    label[1:4, 8:20, 6:16] = 1
    return Case.from_arrays("volume", image + 3 * label, label)


def is_step(event: Event) -> bool:
    return isinstance(event, Progress) and "loss" in event.message


def after_steps(run: Iterator[Event], count: int) -> list[Event]:
    """Pull until so many steps are done."""
    events = []
    while count:
        events.append(next(run))
        count -= is_step(events[-1])
    return events


def of_kind(events: list[Event], kind: type[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


class Painted:
    """A label that somebody paints on; reading it may fail."""

    def __init__(self, case: Case) -> None:
        assert case.read_label is not None
        self.label = case.read_label().copy()
        self.error: DataError | None = None
        self.case = replace(case, read_label=self.read)

    def read(self) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return self.label.copy()


def test_a_corrected_label_is_learned_without_a_restart(settings: Settings, tmp_path: Path) -> None:
    painted, steering = Painted(picture()), Steering()
    config = settings(tmp_path, epochs=2, steps_per_epoch=15, learning_rate=0.02, augment=False)
    run = train(config, [painted.case], steering=steering)
    after_steps(run, 2)
    painted.label[:] = 0
    painted.label[18:30, 2:30] = 1
    steering.relabel("picture")
    events = list(run)
    assert any(
        "'picture' have changed and are learned from now on" in n.message for n in of_kind(events, Notice)
    )
    preview = of_kind(events, Preview)[-1]
    assert np.array_equal(preview.truth, painted.label)
    assert of_kind(events, EpochEnd)[-1].validation["dice"] > 0.5  # of the new place, where nothing is bright


def test_a_label_that_cannot_be_read_any_more_does_not_end_the_run(
    settings: Settings, tmp_path: Path
) -> None:
    painted, steering = Painted(picture()), Steering()
    run = train(settings(tmp_path), [painted.case], steering=steering)
    after_steps(run, 1)
    painted.error = DataError("the labels layer was resized; the run continues with the previous labels")
    before = painted.label.copy()
    painted.label[:] = 1
    steering.relabel("picture")
    steering.relabel("nobody")
    events = list(run)
    assert any("The labels layer was resized" in n.message for n in of_kind(events, Notice))
    assert np.array_equal(of_kind(events, Preview)[-1].truth, before)
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("at", [(2, None, None), (None, 9, None), (None, None, 5)])
def test_the_plane_that_is_looked_at_is_previewed_on_its_own_grid(
    at: tuple[int | None, ...], settings: Settings, tmp_path: Path
) -> None:
    steering = Steering()
    steering.look_at(View("volume", at))
    config = settings(tmp_path, dims=2, epochs=1, spacing=(1.0, 2.0, 2.0))
    found = of_kind(list(train(config, [volume()], steering=steering)), LivePreview)
    assert [(p.case, p.at, p.step) for p in found] == [("volume", at, 2)]
    assert found[0].labels.shape == tuple(n if i is None else 1 for i, n in zip(at, (6, 32, 24), strict=True))


def test_looking_elsewhere_brings_a_preview_at_the_next_step(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Rhythm, "FIRST", 0.0)
    monkeypatch.setattr(Rhythm, "EVERY", 1e6)
    steering = Steering()
    steering.look_at(View("volume", (1, None, None)))
    run = train(settings(tmp_path, dims=2, epochs=1, steps_per_epoch=4), [volume()], steering=steering)
    seen = []
    for event in run:
        if isinstance(event, LivePreview):
            seen.append((event.step, event.at[0]))
            if event.step == 2:
                steering.look_at(View("volume", (4, None, None)))
        if is_step(event) and event.done == 2:  # type: ignore[attr-defined]
            steering.look_at(View("volume", (3, None, None)))
    assert seen == [(1, 1), (2, 3), (3, 4), (4, 4)]


def test_a_run_that_is_looked_at_learns_what_one_that_is_not_does(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview_module, "SETTLED_STEPS", 0)  # by the network itself, as later in a run
    kept = {}
    for looks in (True, False):
        monkeypatch.setattr(Rhythm, "is_due", lambda *_, looks=looks: looks)
        run = train(settings(tmp_path / str(looks), steps_per_epoch=4), ultrasound)
        assert len(of_kind(after_steps(run, 3), Preview)) == 2 * looks
        run.close()  # type: ignore[attr-defined]
        kept[looks] = load_checkpoint(tmp_path / str(looks) / LAST)
    assert kept[True].steps == kept[False].steps == 3
    for one, other in ((k.weights | k.state for k in kept.values()),):
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_rate_and_epochs_change_while_it_runs_and_the_checkpoint_knows(
    settings: Settings, tmp_path: Path
) -> None:
    steering = Steering()
    config = settings(tmp_path, epochs=4, warm_up=0)
    run = train(config, [picture()], steering=steering)
    events = after_steps(run, 1)
    steering.change(learning_rate=5e-4)
    steering.change(epochs=2)
    events = list(run)
    (told,) = of_kind(events, Started)
    assert told.total == 4  # two epochs of two steps
    assert "learning rate 0.0005" in told.message
    ends = of_kind(events, EpochEnd)
    assert [(e.epoch, e.epochs) for e in ends] == [(1, 2), (2, 2)]
    assert all(e.learning_rate <= 5e-4 for e in ends)
    kept = load_checkpoint(tmp_path / LAST).config
    assert (kept["epochs"], kept["learning_rate"]) == (2, 5e-4)


def test_a_setting_that_makes_no_sense_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    steering = Steering()
    run = train(settings(tmp_path), [picture()], steering=steering)
    after_steps(run, 1)
    steering.change(learning_rate=-1.0)
    events = list(run)
    assert any("Not changed" in n.message for n in of_kind(events, Notice))
    assert isinstance(events[-1], Finished)
    with pytest.raises(ValueError, match="widths"):
        steering.change(widths=3)


def test_finishing_now_validates_and_keeps_the_best(settings: Settings, tmp_path: Path) -> None:
    steering = Steering()
    run = train(settings(tmp_path, epochs=50), [picture()], steering=steering)
    after_steps(run, 3)
    steering.finish()
    events = list(run)
    assert [e.epoch for e in of_kind(events, EpochEnd)] == [2]
    result = events[-1].result  # type: ignore[attr-defined]
    assert result.epochs == 2
    assert load_checkpoint(result.best).steps == 3  # though the second epoch has none left


def test_stopping_by_steering_keeps_the_place_as_closing_does(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    steering = Steering()
    run = train(settings(tmp_path / "a", epochs=3), ultrasound, steering=steering)
    after_steps(run, 3)
    steering.stop()
    assert not of_kind(list(run), Finished)
    kept = load_checkpoint(tmp_path / "a" / LAST)
    assert kept.place["step"] == 3
    went_on = list(train(settings(tmp_path / "a", epochs=3), ultrasound, resumed=kept))
    whole = list(train(settings(tmp_path / "b", epochs=3), ultrasound))
    told = [event.loss for event in of_kind(whole, EpochEnd)]
    (resumed,) = of_kind(went_on, Resumed)
    assert [e.loss for e in resumed.history] + [e.loss for e in of_kind(went_on, EpochEnd)] == told


@pytest.mark.parametrize("cut", [1, 4])
def test_an_averaged_run_goes_on_bit_for_bit(
    cut: int, settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    changes = {"average": 0.9, "epochs": 3}
    list(train(settings(tmp_path / "whole", **changes), ultrasound))
    run = train(settings(tmp_path / "cut", **changes), ultrasound)
    after_steps(run, cut)
    run.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(tmp_path / "cut" / LAST)
    list(train(settings(tmp_path / "cut", **changes), ultrasound, resumed=kept))
    for name in (LAST, "best.safetensors"):
        whole, again = (load_checkpoint(tmp_path / folder / name) for folder in ("whole", "cut"))
        for held, found in ((whole.weights, again.weights), (whole.state, again.state)):
            assert held.keys() == found.keys()
            assert all(torch.equal(held[key], found[key]) for key in held)


def test_what_is_kept_of_an_averaged_run_is_the_average(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    list(train(settings(tmp_path, average=0.999, epochs=1, steps_per_epoch=3), ultrasound))
    kept = load_checkpoint(tmp_path / LAST)
    name = "head.weight"
    assert not torch.equal(kept.weights[name], kept.state[f"raw.{name}"])
    assert torch.allclose(kept.weights[name], kept.state[f"raw.{name}"], atol=0.1)


def test_a_run_without_progress_ends_by_its_patience(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, epochs=50, patience=2, learning_rate=1e-30, steps_per_epoch=1)
    events = list(train(config, [picture()]))
    assert of_kind(events, EpochEnd)[-1].epoch == 3
    assert any("No improvement of Dice for 2 epochs" in n.message for n in of_kind(events, Notice))
    assert isinstance(events[-1], Finished)


def test_a_short_leash_on_the_gradient_shortens_the_first_step(settings: Settings, tmp_path: Path) -> None:
    moved = {}
    for clip in (1e-12, None):
        config = settings(tmp_path / str(clip), epochs=1, steps_per_epoch=1, gradient_clip=clip, warm_up=0)
        list(train(config, [picture()]))
        # Adam's first moment after one step is a tenth of the gradient that it was given.
        state = load_checkpoint(tmp_path / str(clip) / LAST).state
        moved[clip] = max(float(t.abs().max()) for name, t in state.items() if name.endswith("exp_avg"))
    assert 0 < moved[1e-12] <= 1e-13 * (1 + 1e-3)
    assert moved[None] is not None
    assert moved[None] > 1e-6


def test_a_place_within_the_epoch_is_kept_from_time_to_time(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "SAVE_EVERY", 0.0)
    run = train(settings(tmp_path, epochs=1, steps_per_epoch=5), ultrasound)
    kept = next(event for event in run if isinstance(event, CheckpointSaved))
    assert load_checkpoint(kept.path).place["step"] == 1


def test_memory_that_runs_out_halves_the_batch_and_the_run_goes_on(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, only_room_for: Callable[[int], None]
) -> None:
    only_room_for(2)
    events = list(train(settings(tmp_path, batch=8, epochs=1), ultrasound))
    said = [n.message for n in of_kind(events, Notice) if "Memory ran out" in n.message]
    assert ["into 2 parts" in said[0], "into 4 parts" in said[1]] == [True, True]
    assert len(said) == 2
    assert isinstance(events[-1], Finished)
    assert math.isfinite(of_kind(events, EpochEnd)[0].loss)
    last = load_checkpoint(tmp_path / LAST)
    assert (last.place["parts"], last.steps) == (4, 2)


def test_memory_too_small_for_anything_is_told_in_our_words(
    settings: Settings, ultrasound: list[Case], tmp_path: Path, only_room_for: Callable[[int], None]
) -> None:
    only_room_for(0)
    with pytest.raises(ProsmaError, match="memory ran out in step 1 even with the smallest part"):
        list(train(settings(tmp_path, batch=4), ultrasound))


def test_a_folder_that_moves_during_the_run_is_not_made_anew(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    run = train(settings(tmp_path / "run", epochs=3), ultrasound)
    next(event for event in run if isinstance(event, EpochEnd))
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="moved"):
        list(run)
    assert not (tmp_path / "run").exists()
    kept = load_checkpoint(tmp_path / "moved" / LAST)
    events = list(train(settings(tmp_path / "moved", epochs=3), ultrasound, resumed=kept))
    assert isinstance(events[-1], Finished)


def test_a_network_that_cannot_be_compiled_trains_as_it_is(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_(module, backend=failing))
    events = list(train(settings(tmp_path, compile=True, epochs=1), [picture()]))
    assert any("cannot be compiled" in n.message for n in of_kind(events, Notice))
    assert isinstance(events[-1], Finished)


def test_what_a_killed_process_left_half_written_is_swept_away(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    list(train(settings(tmp_path, epochs=1), ultrasound))
    (tmp_path / ".writing-1-last.safetensors").write_bytes(b"half")
    kept = load_checkpoint(tmp_path / LAST)
    list(train(settings(tmp_path, epochs=2), ultrasound, resumed=kept))
    assert not list(tmp_path.glob(".writing-*"))


def test_a_stop_is_heard_while_cases_are_read_and_while_they_are_validated(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    steering = Steering()
    steering.stop()
    events = list(train(settings(tmp_path / "reading"), ultrasound, steering=steering))
    assert len(of_kind(events, Progress)) == 1
    assert not (tmp_path / "reading").exists()

    steering = Steering()
    run = train(settings(tmp_path / "cut"), ultrasound, steering=steering)
    next(event for event in run if isinstance(event, Progress) and "validating" in event.message)
    steering.stop()
    assert not of_kind(list(run), EpochEnd)
    kept = load_checkpoint(tmp_path / "cut" / LAST)
    assert (kept.epoch, kept.place["step"]) == (0, 2)
    again = list(train(settings(tmp_path / "cut"), ultrasound, resumed=kept))
    whole = list(train(settings(tmp_path / "whole"), ultrasound))
    assert [e.loss for e in of_kind(again, EpochEnd)] == [e.loss for e in of_kind(whole, EpochEnd)]
