"""A run that starts from another model: what comes over, what learns, what is said of before and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError
from napari_prosma.events import Baseline, EpochEnd, Event, Finished, Notice, Progress, Verdict
from napari_prosma.model.checkpoint import BEST, LAST, load_checkpoint
from napari_prosma.training import learner
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.transfer import _common_classes

Settings = Callable[..., TrainConfig]
Trained = tuple[Path, list[Event]]


def of_kind(events: list[Event], kind: type[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def from_model(run_dir: Path, source: Path, **changes: object) -> TrainConfig:
    """Settings that say nothing of the network."""
    quick = {"epochs": 2, "steps_per_epoch": 2, "device": "cpu", "threads": 1, "start_from": source}
    return TrainConfig.of(run_dir=run_dir, **{**quick, **changes})


def test_the_network_and_plan_are_those_of_the_model_and_its_figures_come_first(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    source = load_checkpoint(trained[0])
    events = list(train(from_model(tmp_path, trained[0]), ultrasound, source.plan.class_names))
    kept = load_checkpoint(tmp_path)
    assert kept.spec == source.spec
    assert kept.plan == source.plan
    (before,) = of_kind(events, Baseline)
    assert before.figures == pytest.approx(source.metrics)  # the same cases are held out by the same seed
    said = [notice.message for notice in of_kind(events, Notice)]
    assert any("tensors taken over" in line for line in said)
    assert any("Dice of the model before" in line for line in said)
    assert not any("better than it is" in line for line in said)
    first_step = next(n for n, e in enumerate(events) if isinstance(e, Progress) and "loss" in e.message)
    assert events.index(before) < first_step


def test_a_chosen_side_goes_before_the_models(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    old = load_checkpoint(trained[0]).plan
    assert min(old.patch) == 48
    list(train(from_model(tmp_path, trained[0], side=32, epochs=1), ultrasound, old.class_names))
    found = load_checkpoint(tmp_path).plan
    assert min(found.patch) == 32
    assert found.spacing == pytest.approx([48 / 32 * step for step in old.spacing])
    assert (found.intensity, found.class_names) == (old.intensity, old.class_names)


def test_figures_on_cases_that_the_model_learned_from_are_called_too_good(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    names = load_checkpoint(trained[0]).plan.class_names
    events = list(train(from_model(tmp_path, trained[0], seed=3), ultrasound, names))
    assert any("better than it is" in notice.message for notice in of_kind(events, Notice))


def test_other_images_of_the_same_names_are_not_said_to_be_learned_from(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    """Where the folder of the run does not tell them apart, it is said that only the names are the same."""
    names = load_checkpoint(trained[0]).plan.class_names
    others = [
        Case.from_arrays(case.name, case.read_image().array + 1, case.read_label()) for case in ultrasound
    ]
    config = from_model(tmp_path / "run", trained[0], seed=3, epochs=1)
    said = [notice.message for notice in of_kind(list(train(config, others, names)), Notice)]
    assert not any("better than it is" in line for line in said)
    alone = tmp_path / "alone" / BEST
    alone.parent.mkdir()
    alone.write_bytes((trained[0] / BEST).read_bytes())
    config = from_model(tmp_path / "other", alone, seed=3, epochs=1)
    said = [notice.message for notice in of_kind(list(train(config, others, names)), Notice)]
    (line,) = [line for line in said if "better than it is" in line]
    assert "have the names of cases that the model before learned from; if they are the same images" in line


def test_another_class_begins_anew_and_nothing_is_said_of_before(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    events = list(train(from_model(tmp_path, trained[0]), ultrasound, ("background", "cyst")))
    assert any("cyst new" in notice.message for notice in of_kind(events, Notice))
    assert not of_kind(events, Baseline)
    assert load_checkpoint(tmp_path).plan.class_names == ("background", "cyst")


@pytest.mark.parametrize(
    ("trains", "parts"), [("decoder", ["encoder"]), ("gates and head", ["encoder", "up"])]
)
def test_what_does_not_learn_stays_bit_for_bit_with_its_norms(
    trains: str, parts: list[str], trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    source = load_checkpoint(trained[0])
    list(train(from_model(tmp_path, trained[0], trains=trains), ultrasound, source.plan.class_names))
    kept = load_checkpoint(tmp_path / LAST)
    for name, tensor in source.weights.items():
        if name.split(".")[0] in parts:
            assert torch.equal(kept.weights[name], tensor), name
    assert not torch.equal(kept.weights["head.weight"], source.weights["head.weight"])


def test_a_fine_tuning_goes_on_bit_for_bit_without_the_model_it_started_from(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    names = load_checkpoint(trained[0]).plan.class_names
    source = tmp_path / "source.safetensors"
    source.write_bytes((trained[0] / BEST).read_bytes())
    changes = {"trains": "decoder", "average": 0.9}
    whole = list(train(from_model(tmp_path / "whole", source, **changes), ultrasound, names))
    run = train(from_model(tmp_path / "cut", source, **changes), ultrasound, names)
    next(event for event in run if isinstance(event, Progress) and "loss" in event.message)
    run.close()  # type: ignore[attr-defined]
    source.unlink()
    kept = load_checkpoint(tmp_path / "cut" / LAST)
    again = list(train(from_model(tmp_path / "cut", source, **changes), ultrasound, names, kept))
    assert of_kind(again, Baseline) == of_kind(whole, Baseline)
    assert [e.loss for e in of_kind(again, EpochEnd)] == [e.loss for e in of_kind(whole, EpochEnd)]
    one, other = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "cut"))
    assert one.steps == other.steps == 8, "four of them from the model before"
    for held, found in ((one.weights, other.weights), (one.state, other.state)):
        assert held.keys() == found.keys()
        assert all(torch.equal(held[key], found[key]) for key in held)


def test_a_colour_image_can_go_on_from_a_gray_model(trained: Trained, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.zeros((48, 48), np.uint8)
    label[10:20, 10:20] = 1
    cases = [
        Case.from_arrays(name, rng.normal(size=(3, 48, 48)).astype(np.float32) + label, label)
        for name in ("a", "b")
    ]
    names = load_checkpoint(trained[0]).plan.class_names
    events = list(train(from_model(tmp_path, trained[0]), cases, names))
    assert any("adapted from 1 to 3 channel" in notice.message for notice in of_kind(events, Notice))
    assert of_kind(events, Baseline)
    assert load_checkpoint(tmp_path).spec.in_channels == 3


def test_a_part_alone_learns_only_where_there_is_a_model_to_start_from(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="decoder"):
        list(train(settings(tmp_path / "run", trains="decoder"), ultrasound))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [("background", "lesion"), ("background", "foreground")])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fine_tuning_never_ends_below_the_model_that_it_began_with(
    trained: Trained,
    ultrasound: list[Case],
    tmp_path: Path,
    names: tuple[str, ...],
    channels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also on colour images of gray ones, and where nobody named the structure."""
    made = learner.make_optimizer

    def ruining(network: torch.nn.Module, *rest: Any) -> torch.optim.Optimizer:
        optimizer = made(network, *rest)
        bias = network.get_parameter("head.bias")
        optimizer.register_step_post_hook(lambda *_: bias.data.fill_(-100.0))  # so that it finds nothing
        return optimizer

    monkeypatch.setattr(learner, "make_optimizer", ruining)
    cases = [
        Case.from_arrays(case.name, np.repeat(case.read_image().array, channels, axis=0), case.read_label())
        for case in ultrasound
    ]
    events = list(train(from_model(tmp_path, trained[0]), cases, names))
    (before,) = of_kind(events, Baseline)
    said = [notice.message for notice in of_kind(events, Notice)]
    assert "No epoch was better than the model the run started from, so that model is kept" in said
    finished, kept = events[-1], load_checkpoint(tmp_path)
    assert isinstance(finished, Finished)
    assert finished.result.score == kept.metrics["dice"] == before.figures["dice"]
    assert kept.epoch == 0
    assert {overlap.case for overlap in kept.overlaps} == set(kept.split["validation"])
    last = of_kind(events, Verdict)[-1]
    assert "that model is kept; its Dice is" in last.summary


def test_another_structure_of_a_name_of_its_own_is_not_taken_for_the_old_one() -> None:
    assert _common_classes(("background", "lesion"), ("background", "mask")) == {0: 0, 1: 1}
    assert _common_classes(("background", "class 1"), ("background", "polyp")) == {0: 0, 1: 1}
    assert _common_classes(("background", "lesion"), ("background", "polyp")) == {}
    assert _common_classes(("background", "lesion"), ("background", "mask", "cyst")) == {}
