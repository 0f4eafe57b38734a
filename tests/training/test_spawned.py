"""Where processes are started anew, as on Windows and macOS: nothing hangs on what a fork would inherit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.errors import ConfigError
from napari_prosma.events import Event
from napari_prosma.model.checkpoint import load_checkpoint
from napari_prosma.segmentation.segment import segment
from napari_prosma.training import statistics
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.run_claim import claimed


def learn(config: TrainConfig, patches: tuple[int, int]) -> None:
    """The run of the fixture ``trained``, from its beginning to its end."""
    torch.set_num_threads(1)
    statistics.PATCHES = patches
    cases = [ultrasound_case(seed, (48, 48)) for seed in range(6)]
    for _ in train(config, cases, ULTRASOUND_CLASSES):
        pass


def labels_of(run_dir: Path) -> np.ndarray:
    """What the model of a run finds in a picture larger than its window."""
    torch.set_num_threads(1)
    *_, last = segment(run_dir, ultrasound_case(7, (96, 80)).read_image(), device="cpu")
    return last.result.labels  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def anew() -> Iterator[Pool]:
    """A process that was started anew."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield pool


def test_a_run_there_is_the_run_here_bit_for_bit(
    anew: Pool, settings: Callable[..., TrainConfig], trained: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    anew.apply(learn, (settings(tmp_path / "run"), statistics.PATCHES))
    there, here = (load_checkpoint(run) for run in (tmp_path / "run", trained[0]))
    assert there.weights.keys() == here.weights.keys()
    assert [name for name, weight in here.weights.items() if not weight.equal(there.weights[name])] == []


def test_a_model_finds_there_what_it_finds_here(anew: Pool, trained: tuple[Path, list[Event]]) -> None:
    found = labels_of(trained[0])
    assert 0 < found.mean() < 1
    np.testing.assert_array_equal(anew.apply(labels_of, (trained[0],)), found)


def test_a_folder_claimed_here_is_refused_there(
    anew: Pool, settings: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    with claimed(tmp_path / "run", object()), pytest.raises(ConfigError, match="in progress"):
        anew.apply(learn, (settings(tmp_path / "run"), statistics.PATCHES))
