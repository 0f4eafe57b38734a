"""The line and the program that repeat a run: what they say is what is parsed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from napari_prosma.cli.app import app
from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.keep import TABLE, keep_case
from napari_prosma.data.labels import LabelRule
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event, Finished
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.nn.gate_kinds import GATES, GateOptions
from napari_prosma.training.config import SETTINGS, TrainConfig
from napari_prosma.training.lines import (
    UNLIMITED_EPOCHS,
    config_from_options,
    python_lines,
    shell_line,
)
from napari_prosma.training.objectives.dale import DaleOptions
from napari_prosma.training.objectives.dim import DimOptions

PLAN = Plan(
    dims=3,
    channels=2,
    class_names=("background", 'the "left"\'s lobe, 肝'),
    spacing=(0.1 + 0.2, 1 / 3, 1e-7),
    unit="mm",
    patch=(16, 32, 32),
    batch=2,
)


def parsed(line: str) -> TrainConfig:
    """What a shell and ``prosma train`` make of a line."""
    first, second, *words = shlex.split(line)
    assert (first, second) == ("prosma", "train")
    command = get_command(app).commands["train"]  # type: ignore[attr-defined]
    found = command.make_context("train", words).params
    return config_from_options(found)


def test_every_field_is_a_setting_with_an_option() -> None:
    # The cases are the line's argument, and --out is the folder.
    assert {*SETTINGS, "data", "run_dir"} == set(TrainConfig.model_fields)
    assert len({entry.option for entry in SETTINGS.values()}) == len(SETTINGS)
    assert SETTINGS["augment"].option == "--no-augment"
    assert SETTINGS["validation_fraction"].option == "--validation"


def test_the_help_tells_what_holds_where_nothing_is_given() -> None:
    told = {entry.name: entry.default_text for entry in SETTINGS.values()}
    assert (told["epochs"], told["minutes"], told["weight_decay"]) == ("100", "no limit", "0.0001")
    nothing = {name for name, words in told.items() if not words and SETTINGS[name].kind not in (bool, list)}
    assert nothing == {"fold", "start_from", "unlabelled"}, "what is not asked for is not there"


def test_a_run_by_the_defaults_is_a_short_line() -> None:
    config = TrainConfig.of(run_dir="runs/busi", data="/data/Dataset BUSI")
    assert shell_line(config) == "prosma train '/data/Dataset BUSI' --out runs/busi"
    assert python_lines(config).splitlines() == [
        "from napari_prosma import TrainConfig, find_cases, train",
        "",
        "config = TrainConfig(",
        "    run_dir='runs/busi',",
        "    data='/data/Dataset BUSI',",
        ")",
        "data = find_cases(config.data, labels=config.labels)",
        "for event in train(config, data.cases, data.class_names):",
        "    print(event)",
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"minutes": 15, "epochs": UNLIMITED_EPOCHS}, "--minutes 15.0"),
        ({"minutes": 15}, "--minutes 15.0"),
        ({"minutes": 15, "epochs": 100}, "--epochs 100 --minutes 15.0"),
        ({"epochs": UNLIMITED_EPOCHS}, "--epochs 100000"),
        ({"gradient_clip": None}, "--gradient-clip 0"),
        ({"fold": (0, 5)}, "--fold 1/5"),
        ({"augment": False, "compile": True}, "--no-augment --compile"),
        ({"gate_options": GateOptions(latent_ratio=4, dilations=(1,))}, None),
        ({"trains": "gates and head", "start_from": "a.safetensors"}, None),
        ({"class_weights": (1, 2.5)}, "--class-weights 1.0,2.5"),
        ({"widths": (8, 16, 32), "gated_levels": (2,)}, "--widths 8,16,32 --gated-levels 2"),
        (
            {
                "objective": "dim",
                "unlabelled": "more",
                "objective_options": DimOptions(divergence="kl", rho=0.1),
            },
            "--objective dim --unlabelled more --objective-option divergence=kl --objective-option rho=0.1",
        ),
        ({"objective": "dale", "objective_options": DaleOptions(scales=(1, 2), pixel=True)}, None),
        ({"labels": LabelRule.of_names({0: "background", 7: "liver"})}, "--classes 0=background,7=liver"),
    ],
)
def test_what_differs_is_in_the_line(setting: dict[str, Any], words: str | None) -> None:
    config = TrainConfig.of(run_dir="r", data="d", **setting)
    assert parsed(shell_line(config)) == config
    if words is not None:
        assert shell_line(config) == f"prosma train d --out r {words}"


def test_gate_options_are_given_one_by_one() -> None:
    config = TrainConfig.of(run_dir="r", data="d", gate_options=GateOptions(dilations=(1, 3), norm="none"))
    assert shell_line(config).endswith("--gate-option dilations=1,3 --gate-option norm=none")


def test_data_whose_name_begins_with_a_dash_are_no_option() -> None:
    config = TrainConfig.of(run_dir="-r", data="-data", start_from="--from")
    assert shell_line(config) == "prosma train ./-data --out ./-r --from ./--from"
    assert parsed(shell_line(config)) == config


def test_folds_are_said() -> None:
    config = TrainConfig.of(run_dir="r", data="d")
    assert shell_line(config, folds=5) == "prosma train d --out r --folds 5"
    program = python_lines(config, folds=5)
    assert "for event in cross_validate(config, data.cases, data.class_names, 5):" in program
    exec(program.partition("\n\n")[0], {})  # what it imports is there


def test_on_windows_the_line_is_quoted_as_its_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.of(run_dir="my runs", data="it's")
    assert shell_line(config) == """prosma train 'it'"'"'s' --out 'my runs'"""
    monkeypatch.setattr(sys, "platform", "win32")
    assert shell_line(config) == 'prosma train it\'s --out "my runs"'


@pytest.mark.parametrize("lines", [shell_line, python_lines])
def test_a_run_without_a_folder_of_cases_has_no_line(lines: Any) -> None:
    with pytest.raises(ConfigError, match="as files"):
        lines(TrainConfig.of(run_dir="r"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fold": "0/5"}, "write 1/5 for the first"),
        ({"fold": "6/5"}, "write 1/5 for the first"),
        ({"fold": "2"}, "write 1/5 for the first"),
        ({"patch": "16,x"}, "patch.1"),
        ({"labels": "liver"}, "0=background,1=liver"),
        ({"gate_options": ["latent=3"]}, "latent_ratio"),
        ({"objective": "dim", "objective_options": ["roh=3"]}, "'--objective-option roh=3'.*rho"),
        ({"objective": "dim", "objective_options": ["tau=2"]}, "objective_options.tau"),
        ({"objective": "dale", "objective_options": ["align=l2"]}, "objective_options.align"),
        ({"objective_options": ["rho=2"]}, "nothing to choose"),
        ({"objective": "guess", "objective_options": ["rho=2"]}, "unknown objective|nothing to choose"),
        ({"unlabelled": "more"}, "choose the objective dim"),
        ({"gate_options": ["norm"]}, "NAME=VALUE"),
        ({"gate_options": ["latent_ratio=none"]}, "gate_options"),
        ({"plan": "nowhere.json"}, r"run\.json of a run"),
        ({"plan": "{"}, "cannot be read"),
        ({"plan": "[]"}, "cannot be read"),
        ({"plan": '{"a":' * 200_000}, "more than 100 levels"),
        ({"plan": '{"dims": 2}'}, "plan.channels"),
        ({"gradient_clip": "-1"}, "gradient_clip"),
        ({"learning_rate": "fast"}, "learning_rate"),
    ],
)
def test_an_option_that_is_not_understood_is_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config_from_options({"run_dir": "r", "data": "d", **options})


def test_options_may_be_numbers_and_what_was_not_given_is_none() -> None:
    given: Mapping[str, Any] = {
        "run_dir": Path("r"),
        "data": Path("d"),
        "epochs": None,
        "gate_options": [],
        "minutes": 2.5,
        "batch": 4,
        "gradient_clip": 0.0,
        "tensorboard": True,
        "augment": True,
    }
    assert config_from_options(given) == TrainConfig.of(
        run_dir="r",
        data="d",
        epochs=UNLIMITED_EPOCHS,
        minutes=2.5,
        batch=4,
        gradient_clip=None,
        tensorboard=True,
    )


@pytest.mark.parametrize("within_a_run", [False, True])
def test_a_plan_may_lie_in_a_file(tmp_path: Path, within_a_run: bool) -> None:
    content = PLAN.model_dump(mode="json")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": content, "format": 1} if within_a_run else content))
    assert config_from_options({"run_dir": "r", "plan": str(path)}).plan == PLAN


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)
paths = st.builds(Path, text)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
share = st.floats(0, 1, exclude_max=True)
sizes = st.integers(1, 512)
rules = st.builds(LabelRule.of_names, st.dictionaries(st.integers(-9, 70_000), text, min_size=2, max_size=4))
by_the_plan = st.fixed_dictionaries({"plan": st.just(PLAN)}) | st.fixed_dictionaries(
    {},
    optional={
        "dims": st.sampled_from([2, 3]),
        "spacing": st.lists(positive, min_size=1, max_size=3).map(tuple),
        "patch": st.lists(sizes, min_size=1, max_size=3).map(tuple),
        "batch": sizes,
        "intensity": st.sampled_from(["zscore", "ct"]),
    },
)
others = st.fixed_dictionaries(
    {"run_dir": paths, "data": paths},
    optional={
        "labelled": st.sampled_from(["slices", "scribbles"]),
        "labels": rules | st.just(LabelRule.instances("gland").sparse("slices")),
        "modality": st.sampled_from(["ultrasound", "ct", "mr"]),
        "start_from": paths,
        "trains": st.sampled_from(["decoder", "gates and head"]),
        "taken_rate": share,
        "widths": st.sampled_from(["quick", "large", (8, 16, 32, 64)]),
        "gate": st.sampled_from(sorted(GATES)),
        "gate_options": st.builds(
            GateOptions,
            dilations=st.lists(sizes, min_size=1, max_size=3).map(tuple),
            latent_ratio=sizes,
            squeeze_min=sizes,
            norm=st.sampled_from(["batch", "none"]),
            threshold=positive,
        ),
        "gated_levels": st.sampled_from([(1,), (2, 3)]),
        "norm": st.just("instance"),
        "side": st.integers(32, 999),
        "epochs": st.integers(1, 10**6) | st.just(UNLIMITED_EPOCHS),
        "minutes": positive,
        "steps_per_epoch": sizes,
        "learning_rate": positive,
        "weight_decay": positive,
        "warm_up": share,
        "gradient_clip": st.none() | positive,
        "class_weights": st.just("balanced") | st.lists(positive, min_size=1, max_size=3).map(tuple),
        "foreground_share": share,
        "average": share,
        "patience": sizes,
        "threshold_rate": share,
        "validation_fraction": share,
        "fold": st.integers(2, 9).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
        "augment": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
        "device": st.sampled_from(["cpu", "cuda", "mps"]),
        "precision": st.sampled_from(["32-true", "bf16-mixed"]),
        "threads": sizes,
        "compile": st.booleans(),
        "tensorboard": st.booleans(),
    },
)


of_the_objective = (
    st.fixed_dictionaries({})
    | st.fixed_dictionaries(
        {"objective": st.just("dale")},
        optional={
            "objective_options": st.builds(
                DaleOptions, every=sizes, align=st.sampled_from(["w2", "mmd"]), pixel=st.booleans()
            )
        },
    )
    | st.fixed_dictionaries(
        {"objective": st.just("dim")},
        optional={
            "unlabelled": paths,
            "objective_options": st.builds(
                DimOptions,
                rho=positive,
                adaptive=st.booleans(),
                divergence=st.sampled_from(["js", "kl", "tv"]),
                tau=st.floats(0.5, 1),
            ),
        },
    )
)


@given(others, by_the_plan, of_the_objective)
@settings(max_examples=150, deadline=None)
def test_every_configuration_comes_back_from_its_line_and_its_program(
    some: dict[str, Any], of_the_plan: dict[str, Any], of_the_objective: dict[str, Any]
) -> None:
    config = TrainConfig.of(**some, **of_the_plan, **of_the_objective)
    assert parsed(shell_line(config)) == config
    program, _, _ = python_lines(config).partition("data = find_cases")
    names: dict[str, Any] = {}
    exec(program, names)
    assert names["config"] == config


def test_labels_that_say_already_what_is_unlabelled_are_taken_as_they_are() -> None:
    rule = LabelRule("values", ("background", "liver", "tumour"), (1, 2, 3), unlabelled=0)
    config = TrainConfig.of(run_dir="r", data="d", labels=rule, labelled="scribbles")
    assert ".sparse(" not in python_lines(config)
    assert ".sparse(" in python_lines(config.model_copy(update={"labels": None}))


def test_the_lines_of_python_run_and_train_the_same_model(tmp_path: Path) -> None:
    names = [f"phantom {seed}" for seed in range(3)]
    for seed, name in enumerate(names):
        case = ultrasound_case(seed, (32, 32))
        assert case.read_label is not None
        label = case.read_label() * 3
        label[:2] = 1
        image = Image(case.read_image().array, Geometry.pixels(2))
        keep_case(tmp_path / "cases", name, image, label, beside=names)
    config = TrainConfig.of(
        run_dir=tmp_path / "run",
        data=tmp_path / "cases" / TABLE,
        labels=LabelRule("values", ("background", "skin", "lesion"), (0, 1, 3)),
        labelled="scribbles",
        widths=(8, 16, 32),
        gate_options=GateOptions(dilations=(1,)),
        epochs=1,
        steps_per_epoch=1,
        device="cpu",
        threads=1,
    )
    program = python_lines(config)
    assert program.endswith("    print(event)\n")
    events: list[Event] = []
    exec(program, {"print": events.append})
    assert isinstance(events[-1], Finished)
    model = load_checkpoint(config.run_dir)
    assert model.plan.class_names == ("background", "lesion")
    assert TrainConfig.of(**model.config) == config
