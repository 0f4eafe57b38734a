"""Ablation of a run: what they share with it, how they go on, and what has none."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from napari_prosma.cli.app import app
from napari_prosma.data.case import Case
from napari_prosma.data.layouts import DataSet, find_cases
from napari_prosma.errors import CheckpointError, ConfigError, DataError
from napari_prosma.events import EpochEnd, Finished, Notice
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.training.ablation import ABLATION_GATES, Ablation, read_original, train_ablation
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, ultrasound: list[Case]
) -> tuple[Path, Path]:
    """A folder of images and masks, and the folder of a run that learned from it."""
    root = tmp_path_factory.mktemp("original")
    for case in ultrasound[:4]:
        assert case.read_label is not None
        for kind, array in (("images", case.read_image().array[0]), ("masks", case.read_label() * 255)):
            (root / "data" / kind).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(array).save(root / "data" / kind / f"{case.name}.png")
    found = find_cases(root / "data")
    config = settings(root / "run", data=root / "data", labels=found.labels, seed=7)
    list(train(config, found.cases, found.class_names))
    return root / "data", root / "run"


@pytest.fixture
def run(finished: tuple[Path, Path], tmp_path: Path) -> Path:
    """A run folder of one's own."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


@pytest.fixture
def data(finished: tuple[Path, Path]) -> DataSet:
    return find_cases(finished[0])


def ablation_of(run: Path, data: DataSet, *gates: str) -> Ablation:
    last = list(train_ablation(read_original(run), data.cases, data.class_names, gates))[-1]
    assert isinstance(last, Finished)
    return last.result


def test_an_ablation_has_the_null_model_unless_told_otherwise() -> None:
    """``scale``, without which no test says what a gate does beyond a constant."""
    assert ABLATION_GATES == ("scale", "attention", "dense", "prosma-exact")


def test_another_run_differs_from_the_first_by_the_gate_alone(run: Path, data: DataSet) -> None:
    found = ablation_of(run, data, "dense", "prosma")
    assert list(found.folders) == ["dense"]
    original, other = load_checkpoint(run / "last.safetensors"), load_checkpoint(run / "ablation" / "dense")
    assert other.spec.gate == "dense"
    assert other.plan == original.plan
    assert other.split == original.split
    assert other.place["steps"] == original.place["steps"]
    free = {"gate", "run_dir", "plan", "steps_per_epoch"}
    then, now = (TrainConfig.of(**c.config).model_dump(exclude=free) for c in (original, other))
    assert then == now
    assert found.scores["prosma"] == load_checkpoint(run).metrics["dice"]


def test_another_run_has_the_split_of_the_first_whatever_the_data_set_says_by_now(
    run: Path, data: DataSet
) -> None:
    original = load_checkpoint(run / "last.safetensors").split
    by_now = [
        replace(case, split="val" if case.name in original["training"] else "train") for case in data.cases
    ]
    ablation_of(run, replace(data, cases=tuple(reversed(by_now))), "dense")
    assert load_checkpoint(run / "ablation" / "dense").split == original


def test_one_with_the_same_gate_would_be_the_run(run: Path, data: DataSet) -> None:
    """Bit for bit, so the seed, the order of the cases and the steps are those of the run."""
    original = read_original(run)
    config = original.config_with_gate("prosma", run.parent / "again")
    list(train(config, data.cases, data.class_names))
    again, before = load_checkpoint(config.run_dir), load_checkpoint(run)
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in before.weights.items())


def test_stopped_runs_go_on_and_finished_ones_are_not_trained_again(run: Path, data: DataSet) -> None:
    events = train_ablation(read_original(run), data.cases, data.class_names, ("attention", "dense"))
    with closing(events) as stopped:  # type: ignore[type-var]
        ends = 0
        for event in stopped:
            ends += isinstance(event, EpochEnd)
            if ends == 3:  # the first epoch of the second run
                break
    seen = list(train_ablation(read_original(run), data.cases, data.class_names, ("attention", "dense")))
    said = " ".join(event.message for event in seen if isinstance(event, Notice))
    assert "Gate ablation 1 of 2 (attention) is already trained" in said
    assert "Gate ablation 2 of 2 (dense) resumes" in said
    assert sum(isinstance(event, EpochEnd) for event in seen) == 1


def test_an_ablation_of_an_older_version_goes_on_where_it_lies(run: Path, data: DataSet) -> None:
    (run / "twins").mkdir()
    assert set(ablation_of(run, data, "dense").folders.values()) == {run / "twins" / "dense"}
    ablation_of(run, data, "attention")
    assert not (run / "ablation").exists()


def test_time_becomes_as_many_steps_as_the_run_had(run: Path, data: DataSet) -> None:
    """A run of a minute that ended by itself."""
    kept = json.loads((run / "run.json").read_text())
    kept["config"] |= {"minutes": 0.001, "epochs": 100_000}
    (run / "run.json").write_text(json.dumps(kept))
    config = read_original(run).config_with_gate("dense", run / "ablation" / "dense")
    assert (config.minutes, config.epochs, config.steps_per_epoch) == (None, 2, 2)


def test_a_run_that_was_stopped_has_no_ablation(run: Path) -> None:
    kept = json.loads((run / "run.json").read_text())
    kept["config"]["epochs"] = 5
    (run / "run.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match=r"2 of 5 epochs; complete it first with: prosma train --resume"):
        read_original(run)


def test_a_run_on_open_layers_or_begun_from_a_model_has_no_ablation(run: Path, tmp_path: Path) -> None:
    text = (run / "run.json").read_text()
    for field, value, said in (
        ("data", None, "from open layers"),
        ("start_from", str(tmp_path / "model"), "whose gates are trained"),
    ):
        kept = json.loads(text)
        kept["config"][field] = value
        (run / "run.json").write_text(json.dumps(kept))
        with pytest.raises(ConfigError, match=said):
            read_original(run)
    with pytest.raises(CheckpointError, match="give the folder of a run that is finished"):
        read_original(tmp_path)


@pytest.mark.parametrize(("system", "mark"), [("linux", "'"), ("win32", '"')])
def test_the_line_that_shows_them_is_one_for_this_systems_shell(
    monkeypatch: pytest.MonkeyPatch, system: str, mark: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    found = Ablation(Path("my runs"), Path("data"), {"dense": Path("ablation")}, {})
    assert found.inspect_line().startswith(
        f"prosma inspect {mark}my runs{mark} data --held-out --compare dense="
    )


def test_data_that_changed_give_no_ablation(run: Path, data: DataSet, ultrasound: list[Case]) -> None:
    original = read_original(run)
    with pytest.raises(DataError, match=r"not those of the run .*1 case\(s\) missing: ultrasound"):
        list(train_ablation(original, data.cases[1:], data.class_names, ("dense",)))
    first = data.cases[0]
    assert first.read_label is not None
    label = np.zeros_like(first.read_label())
    corrected = (Case(first.name, first.read_image, lambda: label), *data.cases[1:])
    with pytest.raises(DataError, match=rf"of 1 cases \({first.name}\) changed"):
        list(train_ablation(original, corrected, data.class_names, ("dense",)))
    assert not (run / "ablation").exists()


def test_a_folder_with_another_run_is_not_gone_on_with(run: Path, data: DataSet, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "there" / "dense")
    with pytest.raises(ConfigError, match=r"no ablation of .*different: gate"):
        list(train_ablation(read_original(run), data.cases, data.class_names, ("dense",), tmp_path / "there"))


@pytest.mark.parametrize(("gates", "said"), [(("prox",), "unknown gate 'prox'"), (("prosma",), "itself")])
def test_gates_that_make_no_ablation_are_refused(
    run: Path, data: DataSet, gates: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        list(train_ablation(read_original(run), data.cases, data.class_names, gates))


def test_a_line_of_a_shell_trains_them_and_says_how_to_look_at_them(run: Path) -> None:
    result = CliRunner().invoke(app, ["ablate", str(run), "--gates", "dense"])
    assert result.exit_code == 0, result.stdout + result.stderr
    assert (run / "ablation" / "dense" / "best.safetensors").is_file()
    said = " ".join(result.stdout.split())
    assert f"--held-out --compare dense={run / 'ablation' / 'dense'} --out {run / 'gates'}" in said
    assert "best validation Dice: prosma 0." in said
