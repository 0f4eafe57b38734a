"""The script for the day with a GPU goes on where it was cut off, and says what did not run."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from napari_prosma.training.failures import smaller_parts

PART = """
import json, pathlib, sys, time
out, part = sys.argv[sys.argv.index("--out") + 1], sys.argv[sys.argv.index("--until") - 1]
if part == "halves":
    time.sleep(60)
if part == "memory":
    sys.exit("no memory")
(pathlib.Path(out) / f"{part}.json").write_text(json.dumps({"largest": 0.5}))
"""
"""Stands in for the parts: one works, one hangs, one fails."""


@pytest.fixture
def gpu(benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import gpu

    (tmp_path / "part.py").write_text(PART)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "part.py"))
    monkeypatch.setitem(gpu.SECONDS, "halves", 0.2)
    return gpu


def call(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> object:
    """Its exit status, or what it ends with."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    try:
        gpu.main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_every_part_runs_and_what_did_not_is_named(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = ["--out", str(out), "--device", "cpu", "--parts"]
    assert call(gpu, monkeypatch, *line, "halves", "memory", "losses") == "did not run: halves, memory"
    assert "took more than 0 s" in (out / "halves.failed.txt").read_text()
    assert "no memory" in (out / "memory.failed.txt").read_text()
    assert json.loads((out / "losses.json").read_text()) == {"largest": 0.5}
    assert not (out / "losses.failed.txt").exists()
    assert "largest: 0.5" in capsys.readouterr().out
    assert call(gpu, monkeypatch, *line, "losses") == 0
    assert capsys.readouterr().out.split() == ["losses", "there"]


def test_no_part_begins_when_time_is_up(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--out", str(tmp_path), "--device", "cpu", "--minutes", "0", "--parts", "losses"]
    assert call(gpu, monkeypatch, *line) == "did not run: losses"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "xpu"], "device 'xpu'"),
        (["--device", "cpu", "--data", "nowhere"], "'nowhere' does not exist"),
        (["--device", "cpu", "--parts", "busi"], "busi needs --data"),
        (["--device", "cpu", "--sets", "nowhere"], "'nowhere' is no folder of sets"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(
    options: list[str],
    message: str,
    gpu: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(gpu, monkeypatch, "--out", str(tmp_path / "out"), *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_packed_set_can_be_trained_on(gpu: ModuleType, tmp_path: Path) -> None:
    from paper_data import Pictures, pack

    images, masks = np.full((2, 1, 8, 8), 7, np.uint8), np.ones((2, 1, 8, 8), np.uint8)
    pack(Pictures("BUSI", ("a", "b"), images, masks, ()), tmp_path / "busi.npz")
    cases, names = gpu.cases_of(tmp_path / "busi.npz")
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[0].read_image().array.shape == (1, 8, 8)
    assert cases[0].read_label().shape == (8, 8)
    assert len(names) == 2


def test_parts_have_no_more_than_the_time_of_all(gpu: ModuleType) -> None:
    assert sum(gpu.SECONDS.values()) <= 60 * gpu.MINUTES
    assert gpu.SECONDS.keys() < gpu.PARTS.keys()


def test_what_is_looked_for_in_a_run_that_halves_its_batch_is_said(gpu: ModuleType) -> None:
    state = SimpleNamespace(parts=1, step=0)
    said = smaller_parts(torch.OutOfMemoryError(), SimpleNamespace(names=("a", "b")), state)
    assert gpu.HALVED in said


def test_all_are_tried_though_one_fails(gpu: ModuleType) -> None:
    tried: list[int] = []

    def divide(by: int) -> float:
        tried.append(by)
        return 1 / by

    assert gpu.all_of({"half": lambda: divide(2)}) == {"half": 0.5}
    numbers = {"half": 2, "none": 0, "third": 3}
    with pytest.raises(RuntimeError, match=r"(?s)none: .*ZeroDivision.*these ran: half, third") as caught:
        gpu.all_of({name: partial(divide, by) for name, by in numbers.items()})
    assert tried == [2, 2, 0, 3]
    assert "half: " not in str(caught.value)
