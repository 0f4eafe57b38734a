"""Cross-validation: every case held out once, figures over the folds, an ensemble, and going on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Case
from napari_prosma.errors import CheckpointError, ConfigError, DataError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.folds import CrossValidation, cross_validate
from napari_prosma.training.steering import Steering

CLASSES = ("background", "square")
STEPS = 6
"""Per epoch."""


@pytest.fixture(scope="module")
def squares() -> list[Case]:
    """Five images (1, 16, 16) of a bright square."""
    cases = []
    for n in range(5):
        label = np.zeros((16, 16), np.uint8)
        label[2 + n : 9 + n, 3:10] = 1
        image = np.random.default_rng(n).normal(size=(1, 16, 16)).astype(np.float32) + 4 * label
        cases.append(Case.from_arrays(f"square {n}", image, label))
    return cases


@pytest.fixture(scope="module")
def config_of() -> Callable[..., TrainConfig]:
    def make(run_dir: Path, **changes: object) -> TrainConfig:
        quick = {"widths": (4, 8, 16), "epochs": 2, "steps_per_epoch": STEPS, "augment": False}
        quick |= {"device": "cpu", "threads": 1, "learning_rate": 0.02, "batch": 2}
        return TrainConfig.of(run_dir=run_dir, **{**quick, **changes})

    return make


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., TrainConfig], squares: list[Case]
) -> tuple[Path, list[Event]]:
    """Folder and events of a cross-validation of three folds that was never stopped."""
    folder = tmp_path_factory.mktemp("folds") / "run"
    return folder, list(cross_validate(config_of(folder), squares, CLASSES, 3))


def fold(folder: Path, number: int, name: str = "best") -> Checkpoint:
    return load_checkpoint(folder / f"fold{number}" / f"{name}.safetensors")


def epochs_in(events: list[Event]) -> int:
    return sum(isinstance(event, EpochEnd) for event in events)


def result_of(events: list[Event]) -> CrossValidation:
    assert [isinstance(event, Finished) for event in events] == [False] * (len(events) - 1) + [True]
    return events[-1].result  # type: ignore[attr-defined]


def test_over_the_folds_every_case_is_held_out_once_and_all_share_one_plan(
    whole: tuple[Path, list[Event]], squares: list[Case]
) -> None:
    folder, events = whole
    members = [fold(folder, k) for k in (1, 2, 3)]
    assert sorted(n for m in members for n in m.split["validation"]) == [case.name for case in squares]
    assert [m.config["fold"] for m in members] == [[0, 3], [1, 3], [2, 3]]
    assert members[0].plan == members[1].plan == members[2].plan
    assert TrainConfig.of(**members[2].config).plan == members[0].plan  # given to it, not made again
    assert epochs_in(events) == 6
    told = [event.message for event in events if isinstance(event, Notice)]
    assert [words for words in told if words.startswith("Fold")] == [f"Fold {k} of 3." for k in (1, 2, 3)]


def test_figures_are_mean_and_spread_of_the_best_of_every_fold(whole: tuple[Path, list[Event]]) -> None:
    folder, events = whole
    found = result_of(events)
    dice = [fold(folder, k).metrics["dice/square"] for k in (1, 2, 3)]
    assert len(set(dice)) > 1
    assert found.scores == tuple(dice)
    assert found.figures["dice/square"] == (mean(dice), stdev(dice))
    words = f"over 3 folds {mean(dice):.3f} (spread {stdev(dice):.3f}): square {mean(dice):.3f}"
    assert words in found.in_words()
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["1", "2", "3", "mean", "spread"]
    assert [float(rows[k]["dice/square"]) for k in ("1", "2", "3")] == dice
    assert float(rows["mean"]["dice/square"]) == mean(dice)
    assert float(rows["spread"]["dice/square"]) == stdev(dice)


def test_the_folder_opens_as_an_ensemble_that_segments(
    whole: tuple[Path, list[Event]], squares: list[Case], last_of: Callable
) -> None:
    folder, events = whole
    assert result_of(events).ensemble == folder / "ensemble.safetensors"
    image = squares[0].read_image()
    result = last_of(segment(folder, image, device="cpu"))
    alone = [last_of(segment(fold(folder, k), image, device="cpu")).probabilities for k in (1, 2, 3)]
    assert result.class_names == CLASSES
    assert np.allclose(result.probabilities, np.mean(alone, axis=0), atol=1e-5)
    kept = load_checkpoint(folder)
    assert kept.split["training"] == sorted(case.name for case in squares)
    assert kept.config["fold"] is None


def test_the_gates_of_an_ensemble_are_inspected_fold_by_fold(
    whole: tuple[Path, list[Event]], squares: list[Case], last_of: Callable
) -> None:
    folder, _ = whole
    image = squares[0].read_image()
    for first, other in ((folder, None), (folder / "fold1", folder)):
        with pytest.raises(CheckpointError, match=r"ensemble of 3 networks and cannot be inspected.*fold1'"):
            list(inspect_gates(first, image, second=other, device="cpu"))
    assert last_of(inspect_gates(folder / "fold1", image, device="cpu")).skips


@pytest.mark.parametrize("steps", [1, 2 * STEPS + 1, 5 * STEPS + 2])
def test_stopped_anywhere_and_called_again_it_ends_as_if_never_stopped(
    steps: int,
    whole: tuple[Path, list[Event]],
    config_of: Callable[..., TrainConfig],
    squares: list[Case],
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path / "run")
    run, done = cross_validate(config, squares, CLASSES, 3), 0
    for event in run:
        done += isinstance(event, Progress) and "loss" in event.message
        if done == steps:
            break
    run.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "run" / "ensemble.safetensors").exists()
    went_on = list(cross_validate(config, squares, CLASSES, 3))
    assert epochs_in(went_on) == 6 - (steps - 1) // STEPS
    assert replace(result_of(went_on), run_dir=Path(), ensemble=Path()) == replace(
        result_of(whole[1]), run_dir=Path(), ensemble=Path()
    )
    expected, found = (load_checkpoint(folder).weights for folder in (whole[0], tmp_path / "run"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_cross_validation_that_is_over_is_not_trained_again(
    whole: tuple[Path, list[Event]], config_of: Callable[..., TrainConfig], squares: list[Case]
) -> None:
    folder, events = whole
    again = list(cross_validate(config_of(folder), squares, CLASSES, 3))
    assert epochs_in(again) == 0
    assert result_of(again) == result_of(events)


def test_a_fold_that_was_finished_early_is_not_gone_on_with(
    config_of: Callable[..., TrainConfig], squares: list[Case], tmp_path: Path
) -> None:
    config, steering = config_of(tmp_path, epochs=50), Steering()
    run = cross_validate(config, squares, CLASSES, 2, steering)
    for event in run:
        if isinstance(event, Notice) and event.message == "Fold 2 of 2.":
            break
        if isinstance(event, EpochEnd):
            steering.finish()
    run.close()  # type: ignore[attr-defined]
    short = config_of(tmp_path, epochs=1)
    told = [event for event in cross_validate(short, squares, CLASSES, 2) if isinstance(event, Notice)]
    assert Notice("Fold 1 of 2 is already trained.") in told
    assert fold(tmp_path, 1, "last").epoch == 2


def test_a_stopped_run_ends_without_a_result(
    config_of: Callable[..., TrainConfig], squares: list[Case], tmp_path: Path
) -> None:
    steering = Steering()
    events = []
    for event in cross_validate(config_of(tmp_path), squares, CLASSES, 2, steering):
        events.append(event)
        if isinstance(event, Progress) and "loss" in event.message:
            steering.stop()
    assert not any(isinstance(event, Finished) for event in events)
    assert (tmp_path / "fold1" / "last.safetensors").exists()
    assert not (tmp_path / "fold2").exists()


def test_what_was_changed_while_a_fold_went_on_stays_changed(
    config_of: Callable[..., TrainConfig], squares: list[Case], tmp_path: Path
) -> None:
    config, steering = config_of(tmp_path), Steering()
    run = cross_validate(config, squares, CLASSES, 2, steering)
    steps = (event for event in run if isinstance(event, Progress) and "loss" in event.message)
    next(steps)
    steering.change(epochs=1)
    next(steps)
    run.close()  # type: ignore[attr-defined]
    went_on = list(cross_validate(config, squares, CLASSES, 2))
    assert Notice("It keeps settings that were changed during the run: epochs 1.") in went_on
    assert epochs_in(went_on) == 1 + 2


def test_folds_of_other_settings_are_refused_unless_they_may_be_overwritten(
    config_of: Callable[..., TrainConfig], squares: list[Case], tmp_path: Path
) -> None:
    list(cross_validate(config_of(tmp_path, epochs=1), squares, CLASSES, 2))
    other = config_of(tmp_path, epochs=1, gate="attention")
    with pytest.raises(
        ConfigError, match=r"fold1' was trained with other settings \(gate prosma, now attent"
    ):
        list(cross_validate(other, squares, CLASSES, 2))
    with pytest.raises(ConfigError, match=r"other settings \(fold \[0, 2\], now \[0, 3\]\)"):
        list(cross_validate(config_of(tmp_path, epochs=1), squares, CLASSES, 3))
    events = list(cross_validate(other, squares, CLASSES, 2, overwrite=True))
    assert epochs_in(events) == 2
    assert load_checkpoint(tmp_path).spec.gate == "attention"


def test_folds_of_other_data_are_refused_before_anything_is_trained(
    whole: tuple[Path, list[Event]], config_of: Callable[..., TrainConfig], squares: list[Case]
) -> None:
    config = config_of(whole[0])
    more = [*squares, replace(squares[0], name="square 5"), replace(squares[0], name="square 6")]
    for cases, classes, words in (
        (more, CLASSES, r"2 case\(s\) added: square 5, square 6"),
        (squares[1:], CLASSES, r"1 case\(s\) missing: square 0"),
        (
            squares[::-1],
            CLASSES,
            r"2 case\(s\) are in another fold now because their order or patients changed",
        ),
        (squares, ("background", "disk"), "classes background, square, now background, disk"),
    ):
        with pytest.raises(DataError, match=rf"fold1' was trained on other data \({words}"):
            list(cross_validate(config, cases, classes, 3))


def test_labels_that_changed_since_a_fold_was_trained_are_told(
    whole: tuple[Path, list[Event]], config_of: Callable[..., TrainConfig], squares: list[Case]
) -> None:
    def told(cases: list[Case]) -> list[str]:
        events = cross_validate(config_of(whole[0]), cases, CLASSES, 3)
        return [e.message for e in events if isinstance(e, Notice) and "changed since" in e.message]

    corrected = replace(squares[2], read_label=lambda: np.ones((16, 16), np.uint8))
    said = told([*squares[:2], corrected, *squares[3:]])
    assert [words[: words.index(";")] for words in said] == [
        f"The labels of 1 case (square 2) changed since fold {k} was trained" for k in (1, 2, 3)
    ]
    assert told(squares) == []


def test_folds_that_start_from_a_model_have_its_architecture_and_can_go_on(
    whole: tuple[Path, list[Event]],
    config_of: Callable[..., TrainConfig],
    squares: list[Case],
    tmp_path: Path,
) -> None:
    source = tmp_path / "source.safetensors"
    save_checkpoint(source, fold(whole[0], 1))
    given = config_of(tmp_path / "run", start_from=source, epochs=1).model_dump(exclude_unset=True)
    del given["widths"]
    config = TrainConfig.of(**given)
    run = cross_validate(config, squares, CLASSES, 2)
    next(event for event in run if isinstance(event, Notice) and event.message == "Fold 2 of 2.")
    run.close()  # type: ignore[attr-defined]
    found = result_of(list(cross_validate(config, squares, CLASSES, 2)))
    assert load_checkpoint(found.ensemble).spec == load_checkpoint(source).spec


@pytest.mark.parametrize(
    ("folds", "changes", "words"),
    [
        (1, {}, "at least 2 folds, found 1"),
        (6, {}, "cannot be cut into 6 folds"),
        (3, {"fold": (0, 3)}, "leave out the fold"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    folds: int,
    changes: dict,
    words: str,
    config_of: Callable[..., TrainConfig],
    squares: list[Case],
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=words):
        list(cross_validate(config_of(tmp_path / "run", **changes), squares, CLASSES, folds))
    assert not (tmp_path / "run").exists()


def test_the_folder_of_a_single_run_is_left_alone(
    whole: tuple[Path, list[Event]],
    config_of: Callable[..., TrainConfig],
    squares: list[Case],
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path / "best.safetensors", fold(whole[0], 1))
    with pytest.raises(ConfigError, match=r"folder of a single run \(best.safetensors\)"):
        list(cross_validate(config_of(tmp_path), squares, CLASSES, 2))
