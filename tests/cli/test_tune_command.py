"""``prosma tune``: measure how a model computes fastest here, and remember it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from napari_prosma.cli.app import app
from napari_prosma.events import Event
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.model.tuning import CACHE, works_of


def test_tune_remembers_both_uses_of_a_model(
    trained: tuple[Path, list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    done = CliRunner().invoke(app, ["tune", str(trained[0]), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    works = works_of(load_checkpoint(trained[0]), "cpu")
    assert set(json.loads((tmp_path / "tuning.json").read_text())) == {work.key for work in works}
    said = " ".join(done.output.split())
    assert str(tmp_path / "tuning.json") in done.output.replace("\n", "")
    for work in works:
        assert f"{work.in_words()}: " in said


def test_tune_refuses_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    done = CliRunner().invoke(app, ["tune", str(tmp_path / "none.safetensors")])
    assert done.exit_code == 2
    assert "does not exist" in " ".join(done.output.split())
    assert not (tmp_path / "tuning.json").exists()


def test_a_model_is_tuned_for_the_windows_and_batches_that_it_has(trained: tuple[Path, list[Event]]) -> None:
    checkpoint = load_checkpoint(trained[0])
    forward, step = works_of(checkpoint, "cpu")
    assert step.shape == (checkpoint.plan.batch, 1, *checkpoint.plan.patch)
    assert forward.shape[:2] == (1, 1)
    assert all(n % checkpoint.spec.divisor == 0 for n in forward.shape[2:])
    assert {work.spec.dims for work in works_of(None, "cpu")} == {2, 3}
