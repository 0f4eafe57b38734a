"""How runs stand: running, stopped, finished, failed, damaged; renamed, and refused to be deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from napari_prosma.app.run_list import known_run, known_runs, rename_run, require_deletable
from napari_prosma.data.case import Case
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import CheckpointSaved, EpochEnd, Event
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.run_claim import claimed

Settings = Callable[..., TrainConfig]
Trained = tuple[Path, list[Event]]


@pytest.fixture
def finished(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "runs" / "finished"))


def test_a_run_to_its_end_is_finished(finished: Path) -> None:
    found = known_run(finished)
    assert (found.state, found.length, found.data) == ("finished", "2 of 2 epochs", "open layers")
    assert found.dice is not None
    assert not found.can_resume


def test_a_run_that_ended_early_by_itself_is_finished(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    for _ in train(settings(tmp_path / "run", epochs=9, patience=1, learning_rate=1e-9), ultrasound):
        pass
    found = known_run(tmp_path / "run")
    assert (found.state, found.can_resume) == ("finished", False)


def test_a_run_that_was_stopped_can_be_resumed_and_while_it_goes_on_runs(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    with closing(train(settings(tmp_path / "run", epochs=9), ultrasound)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, CheckpointSaved):
                assert known_run(tmp_path / "run").state == "running"
                break
    found = known_run(tmp_path / "run")
    assert (found.state, found.length, found.can_resume) == ("stopped", "1 of 9 epochs", True)


def test_a_run_that_failed_says_why_and_can_be_resumed(
    settings: Settings, ultrasound: list[Case], tmp_path: Path
) -> None:
    """A folder stands where its figures should be written."""
    events = train(settings(tmp_path / "run", epochs=9), ultrasound)
    next(event for event in events if isinstance(event, EpochEnd))
    (tmp_path / "run" / "metrics.csv").unlink()
    (tmp_path / "run" / "metrics.csv").mkdir()
    with pytest.raises(ProsmaError) as raised:
        list(events)
    found = known_run(tmp_path / "run")
    assert (found.state, found.why, found.can_resume) == ("failed", str(raised.value), True)


def test_a_run_that_goes_on_after_a_failure_is_no_longer_failed(
    settings: Settings, ultrasound: list[Case], finished: Path
) -> None:
    content = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    content["ended"] = {"how": "failed", "why": "the disk was full"}
    (finished / "run.json").write_text(json.dumps(content), encoding="utf-8")
    assert (known_run(finished).state, known_run(finished).why) == ("failed", "the disk was full")
    from napari_prosma.app.runs import left_run

    left = left_run(finished)
    config = left.config.model_copy(update={"epochs": 3})
    events = list(train(config, ultrasound, left.checkpoint.plan.class_names, left.checkpoint))
    assert any(isinstance(event, EpochEnd) for event in events)
    assert known_run(finished).state == "finished"


def test_a_refusal_to_train_into_a_run_does_not_make_it_a_failed_one(
    settings: Settings, ultrasound: list[Case], finished: Path
) -> None:
    with claimed(finished, object(), goes_on=True), pytest.raises(ConfigError, match="another run"):
        list(train(settings(finished), ultrasound))
    assert known_run(finished).state == "finished"


def test_broken_runs_are_listed_and_what_is_no_run_is_not(finished: Path, tmp_path: Path) -> None:
    runs = finished.parent
    for name, damage in (("cut", b"{"), ("newer", b'{"format": 99, "config": {}, "plan": 0, "cases": 0}')):
        shutil.copytree(finished, runs / name)
        (runs / name / "run.json").write_bytes(damage)
    shutil.copytree(finished, runs / "no model")
    (runs / "no model" / "last.safetensors").write_bytes(b"\xff" * 9)
    (runs / "pictures").mkdir()
    (runs / "notes.txt").write_text("none")
    elsewhere = Path(shutil.copytree(finished, tmp_path / "elsewhere"))
    found = {run.folder.name: run.state for run in known_runs(runs, [elsewhere, tmp_path / "gone", finished])}
    assert found == {
        "finished": "finished",
        "elsewhere": "finished",
        "cut": "damaged",
        "newer": "damaged",
        "no model": "damaged",
    }


def test_a_run_gets_another_name(finished: Path) -> None:
    target = rename_run(finished, " breast, 2nd try ")
    assert target == finished.with_name("breast, 2nd try")
    assert known_run(target).state == "finished"
    finished.mkdir()
    for name, words in (
        ("finished", "is there already"),
        ("a/b", "holds /"),
        ("..", "ends in a dot"),
        ("first try.", "ends in a dot"),
        ("NUL", "a device on Windows"),
        ("com1.first", "a device on Windows"),
        ("", "is empty"),
        ("a\nb", "holds"),
        ("a" * 300, "too long"),
    ):
        with pytest.raises(ConfigError, match=words):
            rename_run(target, name)


def test_a_run_that_goes_on_is_neither_renamed_nor_deleted(finished: Path) -> None:
    with claimed(finished, object(), goes_on=True):
        for act in (lambda: rename_run(finished, "other"), lambda: require_deletable(finished)):
            with pytest.raises(ConfigError, match="is in progress; stop it first"):
                act()
    require_deletable(finished)
    shutil.rmtree(finished)
    finished.mkdir()
    (finished / "thesis.docx").write_text("years of work")
    with pytest.raises(ConfigError, match="no longer the folder of a run"):
        require_deletable(finished)
