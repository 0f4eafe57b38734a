"""A training run: what it says, what it leaves behind, how it stops, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.app.runs import left_run
from napari_prosma.data.case import Case
from napari_prosma.data.fingerprint import Plan
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import (
    CheckpointSaved,
    EpochEnd,
    Event,
    Finished,
    Notice,
    Preview,
    Progress,
    Started,
)
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import RunResult, train
from napari_prosma.training.schedule import make_optimizer, schedule

Settings = Callable[..., TrainConfig]


def of_kind(events: list[Event], kind: type[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def losses(events: list[Event]) -> list[str]:
    """The words of every training step, the loss among them."""
    return [event.message for event in events if isinstance(event, Progress) and "loss" in event.message]


def weights_are_equal(one: Path, other: Path) -> bool:
    first, second = load_checkpoint(one).weights, load_checkpoint(other).weights
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def square(name: str, size: int = 32, channels: int = 1, label: int = 1) -> Case:
    """A bright square of class ``label`` on a slope."""
    image = np.tile(np.linspace(0, 1, size, dtype=np.float32), (channels, size, 1))
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size // 2, size // 3 : size // 2] = label
    return Case.from_arrays(name, image + 2 * (mask > 0), mask)


def cube(name: str, shape: tuple[int, ...] = (20, 24, 24), classes: int = 2) -> Case:
    image = np.random.default_rng(len(name)).normal(size=(1, *shape)).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    for k in range(1, classes):
        label[4:12, 4 * k : 4 * k + 4, 6:16] = k
    return Case.from_arrays(name, image + label, label, Geometry((3.0, 1.0, 1.0), (0.0,) * 3, "mm"))


# ---- what a run says ------------------------------------------------------------------------------------


def test_a_run_tells_its_story_in_order(trained: tuple[Path, list[Event]]) -> None:
    run_dir, events = trained
    reading, training = of_kind(events, Started)
    assert reading.total == 6
    assert training.total == 4
    assert "4 cases, validating on 2" in training.message
    steps = [e.done for e in events[events.index(training) :] if isinstance(e, Progress)]
    messages = [e.message for e in of_kind(events, Progress)]
    assert messages[:6] == [f"reading {n} of 6" for n in range(1, 7)]
    assert [said for said in messages if "epoch 1, validating" in said][::2] == [
        "epoch 1, validating 1 of 2",
        "epoch 1, validating 2 of 2",
    ]
    assert steps == sorted(steps)
    assert steps[-1] == training.total
    assert [e.epoch for e in of_kind(events, EpochEnd)] == [1, 2]
    saved = [(e.kind, e.epoch) for e in of_kind(events, CheckpointSaved)]
    assert saved[:2] == [("best", 1), ("last", 1)]
    assert saved[-1] == ("last", 2)
    best = of_kind(events, EpochEnd)[-1].validation["dice"]  # of two validation cases the last is kept
    assert events[-1] == Finished(
        RunResult(run_dir, run_dir / "best.safetensors", run_dir / "last.safetensors", best, 2)
    )


def test_every_saved_checkpoint_was_there_when_it_was_announced(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    for event in train(settings(tmp_path / "run"), ultrasound):
        if isinstance(event, CheckpointSaved):
            assert load_checkpoint(event.path).epoch == event.epoch


def test_an_epoch_reports_finite_figures_of_its_validation_cases_and_gates(
    trained: tuple[Path, list[Event]],
) -> None:
    for epoch in of_kind(trained[1], EpochEnd):
        assert math.isfinite(epoch.loss)
        assert set(epoch.validation) == {"dice", "iou", "score", "dice/lesion", "iou/lesion"}
        assert set(epoch.gates) == {1, 2}
        for state in epoch.gates.values():
            assert 0 < state["z_zero_fraction"] <= 1
            assert 0 < state["gate_floor"] < 1
            assert state["lambda_min"] <= state["lambda_mean"] <= state["lambda_max"]


def test_preview_is_a_validation_case_on_its_own_grid(trained: tuple[Path, list[Event]]) -> None:
    run_dir, events = trained
    held_out = load_checkpoint(run_dir / "last.safetensors").split["validation"]
    previews = of_kind(events, Preview)
    assert len(previews) == 2
    for preview in previews:
        assert preview.case in held_out
        assert preview.image.shape == (1, *preview.truth.shape)
        assert preview.labels.shape == preview.truth.shape == (48, 48)
        assert preview.truth.any()
        assert preview.geometry.ndim == 2


def test_preview_of_a_volume_is_its_slice_with_the_most_foreground(
    settings: Settings, tmp_path: Path
) -> None:
    case = cube("volume")
    assert case.read_label is not None
    label = case.read_label()
    label[5, 10:20] = 1
    preview = of_kind(list(train(settings(tmp_path, epochs=1, steps_per_epoch=1), [case])), Preview)[-1]
    assert np.array_equal(preview.truth, label[5])
    assert preview.image.shape == (1, 24, 24)


def test_thread_count_of_torch_is_given_back(settings: Settings, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run = train(settings(tmp_path, threads=before + 1), [square("a")])
    next(run)
    assert torch.get_num_threads() == before + 1
    run.close()
    assert torch.get_num_threads() == before


# ---- the same again -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    trained: tuple[Path, list[Event]], settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    run_dir, events = trained
    torch.rand(7)  # the global generator plays no part
    again = list(train(settings(tmp_path / "again"), ultrasound))
    other = list(train(settings(tmp_path / "other", seed=1), ultrasound))
    assert losses(again) == losses(events)
    assert weights_are_equal(run_dir / "last.safetensors", tmp_path / "again" / "last.safetensors")
    assert losses(other) != losses(events)
    assert not weights_are_equal(run_dir / "last.safetensors", tmp_path / "other" / "last.safetensors")


def test_a_run_leaves_the_global_random_numbers_alone(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(train(settings(tmp_path), ultrasound))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


# ---- stop and pause -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_closing_a_run_after_any_step_leaves_a_last_checkpoint(
    steps: int, settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    run = train(settings(tmp_path), ultrasound)
    seen = 0
    for event in run:
        seen += isinstance(event, Progress) and "loss" in event.message
        if seen == steps:
            break
    run.close()
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert last.epoch == (steps - 1) // 2
    assert set(last.split["training"]) | set(last.split["validation"]) == {c.name for c in ultrasound}
    fresh = train(settings(tmp_path / "fresh"), ultrasound)
    list(islice(fresh, 9))
    assert next(fresh)  # the closed run did no harm to the next


def test_closing_a_run_before_its_first_step_writes_nothing(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    run = train(settings(tmp_path / "run"), ultrasound)
    list(islice(run, 5))
    run.close()
    assert not (tmp_path / "run").exists()


LEFT = """
import sys
import numpy as np
from napari_prosma import Case, TrainConfig, train

image, label = np.zeros((2, 1, 32, 32), np.float32), np.zeros((32, 32), np.uint8)
image[:, :, 8:16] = label[8:16] = 1
cases = [Case.from_arrays(str(n), each, label) for n, each in enumerate(image)]
config = TrainConfig.of(run_dir=sys.argv[1], epochs=9, steps_per_epoch=2, widths="quick", device="cpu")
run = train(config, cases)
next(event for event in run if "loss" in getattr(event, "message", ""))
"""


def test_a_script_that_leaves_its_run_open_ends_well_and_keeps_what_was_learned(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT, str(tmp_path / "run")], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").steps == 1


@pytest.mark.parametrize("closed", [False, True], ids=["ended", "closed"])
def test_a_run_that_is_over_keeps_no_file_of_tensorboard_open(
    closed: bool, settings: Settings, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    run = train(settings(tmp_path, tensorboard=True), [square("a"), square("b")])
    next(event for event in run if isinstance(event, EpochEnd))
    assert writers()
    if closed:
        run.close()
    else:
        list(run)
    assert not writers()


def writers() -> list[threading.Thread]:
    """The threads that write for TensorBoard, each with a file."""
    return [thread for thread in threading.enumerate() if type(thread).__module__.startswith("tensorboard")]


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """``pass_time(seconds)``: so much passes at once."""
    passed, now = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + sum(passed))
    return passed.append


def test_pausing_does_not_count_against_the_minutes(
    settings: Settings, tmp_path: Path, pass_time: Callable[[float], None]
) -> None:
    run = train(settings(tmp_path, minutes=1, epochs=10_000), [square("a"), square("b")])
    steps = (event for event in run if isinstance(event, Progress) and "loss" in event.message)
    next(steps)
    pass_time(66)
    assert next(steps, None) is not None
    run.close()  # type: ignore[attr-defined]


def test_a_run_closed_while_it_is_paused_does_not_keep_the_pause(
    settings: Settings, tmp_path: Path, pass_time: Callable[[float], None]
) -> None:
    run = train(settings(tmp_path, minutes=1, epochs=9), [square("a"), square("b")])
    next(event for event in run if isinstance(event, Progress) and "loss" in event.message)
    pass_time(600)
    run.close()  # type: ignore[attr-defined]
    assert load_checkpoint(tmp_path / "last.safetensors").place["seconds"] < 600


def test_a_run_ends_when_its_minutes_are_over(settings: Settings, tmp_path: Path) -> None:
    events = list(train(settings(tmp_path, minutes=0.01, epochs=10_000), [square("a"), square("b")]))
    assert of_kind(events, EpochEnd)[-1].epoch < 10_000


def test_minutes_that_end_before_the_epochs_are_told(settings: Settings, tmp_path: Path) -> None:
    run = train(settings(tmp_path, minutes=2, epochs=9_000), [square("a"), square("b")])
    notices = (event.message for event in run if isinstance(event, Notice))
    told = next(message for message in notices if "for all of them" in message)
    run.close()  # type: ignore[attr-defined]
    assert told.endswith(" for all of them; the run ends after 2 minutes")


def test_however_few_minutes_there_is_a_model_at_the_end(settings: Settings, tmp_path: Path) -> None:
    result = list(train(settings(tmp_path, minutes=1e-6), [square("a"), square("b")]))[-1].result  # type: ignore[attr-defined]
    assert load_checkpoint(result.best).epoch == 1
    assert 0 <= result.score <= 1


# ---- what is trained ------------------------------------------------------------------------------------


def test_images_that_are_smaller_than_the_patch_are_told(settings: Settings, tmp_path: Path) -> None:
    """Not those for which it was only rounded up."""
    cases = [square(name, size) for name, size in {"a": 16, "b": 62, "c": 63, "d": 63}.items()]
    events = train(settings(tmp_path, modality="histology", widths=(4, 8, 16)), cases)
    told = [notice.message for notice in of_kind(events, Notice)]
    assert any(
        "1 of 4 images are smaller than the patch of" in message and "'a'" in message for message in told
    )


def test_one_case_trains_and_the_user_is_told_what_its_figures_are_worth(
    settings: Settings, tmp_path: Path
) -> None:
    events = list(train(settings(tmp_path), [square("only", size=30)]))
    told = [notice.message for notice in of_kind(events, Notice)]
    assert any("There are no validation cases" in message for message in told)
    assert not any("smaller than the patch" in message for message in told)
    assert of_kind(events, Started)[-1].message == "Training on 1 case"
    assert load_checkpoint(tmp_path).split == {"training": ["only"], "validation": ["only"]}
    assert isinstance(events[-1], Finished)


@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_gate_trains(gate: str, settings: Settings, tmp_path: Path) -> None:
    events = list(train(settings(tmp_path, gate=gate, epochs=1), [square("a"), square("b")]))
    assert load_checkpoint(tmp_path).spec.gate == gate
    gates = of_kind(events, EpochEnd)[-1].gates
    assert bool(gates) == (gate not in ("none", "channel", "scale"))


def test_volumes_of_three_classes_train_with_a_softmax_in_3d(settings: Settings, tmp_path: Path) -> None:
    cases = [cube(name, classes=3) for name in ("a", "bb")]
    events = list(train(settings(tmp_path, epochs=1), cases, ("background", "front", "back")))
    found = load_checkpoint(tmp_path)
    assert (found.spec.dims, found.spec.out_channels) == (3, 3)
    assert {"dice/front", "dice/back"} <= set(of_kind(events, EpochEnd)[0].validation)


def test_a_2d_network_trains_on_volumes_slice_by_slice(settings: Settings, tmp_path: Path) -> None:
    events = list(train(settings(tmp_path, epochs=1, dims=2), [cube("a"), cube("bb")]))
    found = load_checkpoint(tmp_path)
    assert found.spec.dims == 2
    assert found.plan.patch == (24, 24)
    assert of_kind(events, Preview)[0].truth.shape == (24, 24)


def test_classes_without_names_are_numbered(settings: Settings, tmp_path: Path) -> None:
    list(train(settings(tmp_path, epochs=1), [square("a"), square("b", label=2)]))
    assert load_checkpoint(tmp_path).plan.class_names == ("background", "class 1", "class 2")


def test_a_run_learns_a_bright_square(settings: Settings, tmp_path: Path) -> None:
    run = settings(tmp_path, epochs=3, steps_per_epoch=10, augment=False, learning_rate=0.02)
    result = list(train(run, [square("a"), square("b")]))[-1].result  # type: ignore[attr-defined]
    assert result.score > 0.9


def test_the_literal_gate_gets_its_thresholds_from_the_first_batch_and_says_so(
    settings: Settings, tmp_path: Path
) -> None:
    literal = settings(tmp_path, gate_options=GateOptions(norm="none"), epochs=1, threshold_rate=0)
    events = list(train(literal, [square("a"), square("b")]))
    assert any("no batch norm (the printed form)" in notice.message for notice in of_kind(events, Notice))
    theta = load_checkpoint(tmp_path).weights["gates.0.spatial.theta"]
    assert theta.std() > 0  # each channel has its own, and nothing has trained it


def test_a_gate_with_norms_is_not_announced_as_literal(trained: tuple[Path, list[Event]]) -> None:
    assert not any("printed form" in notice.message for notice in of_kind(trained[1], Notice))


# ---- the optimizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["prosma", "prosma-exact", "attention"])
def test_weight_decay_touches_no_threshold_norm_or_bias(
    gate: str, settings: Settings, tmp_path: Path
) -> None:
    network = build_model(ModelSpec(2, 1, 1, (8, 16, 32), gate))
    optimizer = make_optimizer(network, settings(tmp_path, weight_decay=0.1, threshold_rate=10))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            free = name.endswith(("theta", "omega", "bias")) or parameter.ndim == 1
            assert group["weight_decay"] == (0.0 if free else 0.1), name
            assert group["relative_rate"] == (10 if name.endswith("theta") else 1), name
    assert seen == set(names.values())


def test_thresholds_stay_where_they_are_at_rate_0_and_move_otherwise(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    for rate in (0, 1):
        run = settings(tmp_path / str(rate), threshold_rate=rate, weight_decay=1.0, epochs=1)
        list(train(run, ultrasound[:2]))
    kept, moved = (
        load_checkpoint(tmp_path / rate / "last.safetensors").weights["gates.0.spatial.theta"]
        for rate in "01"
    )
    assert torch.all(kept.abs() < 1e-6)  # ln 2, though the decay is large
    assert torch.all(moved.abs() > 1e-6)


def test_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    rates = [schedule(f) for f in np.linspace(0, 1, 101)]
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(1)
    assert peak == 3
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(0.01)


# ---- bad input: one message, nothing written ------------------------------------------------------------


def nan_image() -> Case:
    image = np.ones((1, 32, 32), np.float32)
    image[0, 3, 4] = np.nan
    return Case.from_arrays("broken", image, np.eye(32, dtype=np.uint8))


def labelled(name: str, label: np.ndarray) -> Case:
    return Case.from_arrays(name, np.ones((1, *label.shape), np.float32), label)


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([], "no labelled case"),
        ([square("a", label=0), square("b", label=0)], "every mask is empty"),
        ([square("a"), cube("volume")], "mixes 2D images and volumes: 'a' has 2 axes, 'volume' has 3"),
        ([square("a"), square("b", channels=3)], "'a' has 1, 'b' has 3"),
        ([square("a"), nan_image()], "case 'broken' holds NaN"),
        ([square("a"), Case.from_arrays("bare", np.ones((1, 32, 32)))], "case 'bare' has no label"),
        (
            [square("a"), Case.from_arrays("askew", np.ones((1, 32, 32)), np.eye(31, dtype=np.uint8))],
            r"'askew' has shape \(31, 31\) but its image has \(32, 32\)",
        ),
        ([labelled("minus", -np.eye(32, dtype=int))], "'minus' holds int64 from -1 on"),
        ([labelled("real", np.eye(32))], "'real' holds float64"),
        (
            [labelled("objects", 300 * np.eye(32, dtype=int))],
            "'objects' holds class 300 but 254 is the highest",
        ),
        ([labelled("void", np.zeros((0, 8), np.uint8))], "'void' is empty"),
    ],
)
def test_bad_data_is_refused_by_name_and_nothing_is_written(
    cases: list[Case], words: str, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        list(train(settings(tmp_path / "run"), cases))
    assert files_below(tmp_path) == []


def test_more_classes_than_names_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'b' holds class 2 but only 2 classes"):
        list(train(settings(tmp_path / "run"), [square("a"), square("b", label=2)], ("background", "lesion")))
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (square("two", label=2), "'two' holds class 2"),
        (square("colour", channels=3), "'colour' has 2 axes and 3 channel"),
        (square("empty", label=0), "every mask is empty"),
    ],
)
def test_a_given_plan_must_fit_the_cases(case: Case, words: str, settings: Settings, tmp_path: Path) -> None:
    plan = Plan(dims=2, channels=1, class_names=("background", "x"), patch=(32, 32), batch=2)
    with pytest.raises(DataError, match=words):
        list(train(settings(tmp_path / "run", plan=plan), [case]))
    assert files_below(tmp_path) == []


def test_a_given_plan_is_followed(settings: Settings, tmp_path: Path) -> None:
    plan = Plan(dims=2, channels=1, class_names=("background", "x"), patch=(16, 24), batch=3)
    list(train(settings(tmp_path, plan=plan, epochs=1), [square("a"), square("b")]))
    assert load_checkpoint(tmp_path).plan == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": "mps"}, "device 'mps' is not available"),
        ({"precision": "bf16-mixed"}, "needs a GPU"),
        ({"batch": 1, "widths": (4, 4, 4, 4, 4, 4)}, "batch of at least 2"),
    ],
)
@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has the device")
def test_settings_that_cannot_work_here_are_refused(
    changes: dict, words: str, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        list(train(settings(tmp_path / "run", **changes), [square("a"), square("b")]))
    assert files_below(tmp_path) == []


def test_a_run_folder_that_is_a_file_is_refused_before_the_cases_are_read(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=r"notes\.txt' is no folder"):
        next(train(settings(tmp_path / "notes.txt" / "run"), [square("a")]))
    assert (tmp_path / "notes.txt").read_text() == "keep me"


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_cases(
    settings: Settings, tmp_path: Path
) -> None:
    run = settings(tmp_path / "run", learning_rate=1e30, epochs=1, steps_per_epoch=9)
    with pytest.raises(
        ProsmaError, match=r"the (loss|gradient) became nan in step \d, on the cases .*left.*no weights were"
    ):
        list(train(run, [square("left"), square("right"), square("left too")]))
    assert [path.name for path in files_below(tmp_path)] == ["run.json"]


def test_after_a_loss_that_is_not_finite_the_last_checkpoint_is_that_of_the_epoch_before(
    settings: Settings, tmp_path: Path
) -> None:
    run: Iterator[Event] = train(
        settings(tmp_path, learning_rate=1e30, steps_per_epoch=1, epochs=5), [square("a")]
    )
    with pytest.raises(ProsmaError, match=r"last\.safetensors' keeps the weights of step [1-4]"):
        list(run)
    assert load_checkpoint(tmp_path / "last.safetensors").epoch >= 1


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_path(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    in_the_way = tmp_path / "run" / "best.safetensors"
    run = train(settings(tmp_path / "run"), ultrasound[:2])
    while not (tmp_path / "run" / "run.json").is_file():
        next(run)
    in_the_way.mkdir()
    (in_the_way / "x").write_text("in the way")
    with pytest.raises(DataError, match=r"best\.safetensors"):
        list(run)
    assert {path.name for path in files_below(tmp_path)} <= {"x", "run.json"}


# ---- going on -------------------------------------------------------------------------------------------


THREE = {"epochs": 3, "steps_per_epoch": 3}


@pytest.fixture(scope="module")
def never_stopped(
    settings: Settings, ultrasound: list[Case], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Event]]:
    """Folder and events of a run from its beginning to its end."""
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, list(train(settings(run_dir, **THREE), ultrasound))


@pytest.mark.parametrize("pulled", [12, 14, 17, 19, 22, 24, 26])
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(
    pulled: int,
    never_stopped: tuple[Path, list[Event]],
    settings: Settings,
    ultrasound: list[Case],
    tmp_path: Path,
) -> None:
    run = train(settings(tmp_path, **THREE), ultrasound)
    list(islice(run, pulled))
    run.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(tmp_path / "last.safetensors")
    assert 0 < kept.place["step"] < 9
    went_on = list(train(settings(tmp_path, **THREE), ultrasound, resumed=kept))
    losses = [event.loss for event in of_kind(went_on, EpochEnd)]
    assert losses == [event.loss for event in of_kind(never_stopped[1], EpochEnd)][-len(losses) :]
    for name in ("last.safetensors", "best.safetensors"):
        whole, cut = (load_checkpoint(run_dir / name) for run_dir in (never_stopped[0], tmp_path))
        assert whole.epoch == cut.epoch
        assert whole.metrics == cut.metrics
        assert whole.place["losses"] == cut.place["losses"]
        for held, again in ((whole.weights, cut.weights), (whole.state, cut.state)):
            assert held.keys() == again.keys()
            assert all(torch.equal(held[key], again[key]) for key in held)


def test_a_run_goes_on_only_with_the_cases_that_it_began_with(
    trained: tuple[Path, list[Event]], settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    kept = load_checkpoint(trained[0] / "last.safetensors")
    with pytest.raises(DataError, match=r"not those that the run began with \(1 case\(s\) missing"):
        list(train(settings(tmp_path), ultrasound[1:], resumed=kept))
    with pytest.raises(DataError, match=f"several cases are called '{ultrasound[0].name}'"):
        list(train(settings(tmp_path), [*ultrasound, ultrasound[0]], resumed=kept))
    coloured = [square(case.name, channels=3) for case in ultrasound]
    with pytest.raises(DataError, match=r"1 channel.* has 2 axes and 3 channel.*start a new run"):
        list(train(settings(tmp_path), coloured, resumed=kept))


@pytest.mark.parametrize("change", ["order", "split", "patients"])
def test_a_resumed_run_keeps_its_split_whatever_the_data_set_says_by_now(
    change: str,
    never_stopped: tuple[Path, list[Event]],
    settings: Settings,
    ultrasound: list[Case],
    tmp_path: Path,
) -> None:
    run = train(settings(tmp_path, **THREE), ultrasound)
    next(event for event in run if isinstance(event, CheckpointSaved) and event.kind == "last")
    run.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(tmp_path / "last.safetensors")
    learned, validates = kept.split["training"], kept.split["validation"]
    by_now = {
        "order": ultrasound[::-1],
        "split": [replace(c, split="val" if c.name in learned[:3] else "train") for c in ultrasound],
        "patients": [replace(c, patient=str(n % 2)) for n, c in enumerate(ultrasound)],
    }[change]
    events = list(train(settings(tmp_path, **THREE), by_now, resumed=kept))
    assert load_checkpoint(tmp_path / "last.safetensors").split == kept.split
    assert weights_are_equal(tmp_path, never_stopped[0])
    (said,) = [
        e.message for e in of_kind(events, Notice) if "keeps the split that it began with" in e.message
    ]
    if change == "split":
        assert f"5 case(s) on the other side: {', '.join(sorted([*learned[:3], *validates]))}" in said
    assert ("2 patient(s) are on both sides of it" in said) is (change == "patients")


def test_a_run_without_validation_cases_has_none_when_it_goes_on(settings: Settings, tmp_path: Path) -> None:
    config = settings(tmp_path, validation_fraction=0, epochs=2, steps_per_epoch=1)
    run = train(config, [square("a"), square("b")])
    next(event for event in run if isinstance(event, CheckpointSaved) and event.kind == "last")
    run.close()  # type: ignore[attr-defined]
    kept = load_checkpoint(tmp_path / "last.safetensors")
    events = list(train(config, [square("a"), square("b")], resumed=kept))
    assert of_kind(events, Started)[-1].message == "Training on 2 cases"
    assert not any("keeps the split" in event.message for event in of_kind(events, Notice))


def test_a_replaced_run_does_not_keep_the_best_of_the_other(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    list(train(settings(tmp_path, epochs=1), ultrasound))
    run = train(settings(tmp_path, seed=5), ultrasound)
    first_step = next(e for e in run if isinstance(e, Progress) and "loss" in e.message)
    assert first_step
    run.close()  # type: ignore[attr-defined]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.safetensors", "run.json"]


def test_a_finished_run_that_is_opened_again_has_the_result_it_ended_with(
    trained: tuple[Path, list[Event]],
) -> None:
    folder, events = trained
    left = left_run(folder)
    assert left.is_finished
    assert isinstance(events[-1], Finished)
    assert left.result() == events[-1].result
    assert left.result().score == load_checkpoint(folder).metrics["dice"]
