"""Several processes under torchrun learn as one: the same losses, one writer, one way to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.training.run_folder import read_metrics

OPTIONS = [
    *("--widths", "4,8,16", "--norm", "instance", "--gate-option", "norm=none", "--batch"),
    "{batch}",
    *("--patch", "32,32", "--steps-per-epoch", "3", "--device", "cpu", "--threads", "1", "--seed", "4"),
]
"""No norm looks across the batch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures with bright squares, and their masks."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    for n in range(8):
        image = rng.integers(0, 120, (40, 40)).astype(np.uint8)
        mask = np.zeros((40, 40), np.uint8)
        y, x = rng.integers(2, 24, 2)
        mask[y : y + 12, x : x + 12] = 255
        Image.fromarray(image + mask // 2).save(root / "images" / f"{n}.png")
        Image.fromarray(mask).save(root / "masks" / f"{n}.png")
    return root


def command(data: Path, out: Path, processes: int, batch: int, *options: str) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    chosen = [option.format(batch=batch) for option in OPTIONS]
    return [
        *(sys.executable, *launch, "-m", "napari_prosma", "train", str(data), "--out", str(out)),
        *(*chosen, *options),
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def test_two_processes_have_the_losses_of_one_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    for name, processes, batch in (("one", 1, 4), ("two", 2, 2)):
        done = subprocess.run(
            command(folder, tmp_path / name, processes, batch, "--epochs", "3"),
            capture_output=True,
            text=True,
            env=environment(),
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("epoch 3/3") == 1  # one of them tells of it
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    # Gradients that are not brought together already show in the first epoch; rounding grows with the steps.
    assert two[0].loss == pytest.approx(one[0].loss, rel=1e-5)
    assert [e.loss for e in two] == pytest.approx([e.loss for e in one], rel=1e-4)
    assert len({e.loss for e in one}) == 3
    for epoch, again in zip(one, two, strict=True):
        assert again.validation == pytest.approx(epoch.validation, abs=1e-3)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_two_processes_stop_at_the_same_step_and_keep_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = subprocess.Popen(
        command(folder, out, 2, 2, "--epochs", "5000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(read_metrics(out)) < 2 and time.monotonic() < end:
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGINT)  # what Ctrl-C does in a terminal
    said, _ = run.communicate(timeout=60)
    kept = load_checkpoint(out / LAST)
    assert kept.place["step"] >= 6, said
    assert "prosma train --resume" in said


def test_folds_of_two_processes_end_with_one_ensemble(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(folder, tmp_path / "run", 2, 2, "--epochs", "1", "--folds", "2"),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_checkpoint(tmp_path / "run").members == 2
