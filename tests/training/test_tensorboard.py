"""Files for TensorBoard: what TensorBoard itself reads from them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from napari_prosma.errors import ConfigError
from napari_prosma.events import EpochEnd
from napari_prosma.training.run_folder import TENSORBOARD, TensorBoardFiles


def end(epoch: int, loss: float) -> EpochEnd:
    gates = {1: {"lambda_mean": 0.69}, 2: {"z_zero_fraction": 0.5}}
    return EpochEnd(epoch, 9, loss, 1e-3, 2.5, {"dice": 0.7, "dice/lesion": 0.8}, gates, 12)


def write(run_dir: Path, *ends: EpochEnd) -> None:
    files = TensorBoardFiles(run_dir)
    for each in ends:
        files.add(each)
    files.close()


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run_dir / TENSORBOARD))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_reads_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write(tmp_path, end(1, 0.5), end(2, 0.25))
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.25)]
    for tag, value in (("dice/lesion", 0.8), ("skip1/lambda_mean", 0.69), ("memory", 12), ("seconds", 2.5)):
        assert scalars(tmp_path, tag) == [(1, pytest.approx(value)), (2, pytest.approx(value))]


def test_a_run_that_goes_on_from_an_earlier_epoch_hides_what_came_after_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    write(tmp_path, end(1, 0.5), end(2, 0.25), end(3, 0.75))
    write(tmp_path, end(2, 0.125))
    assert scalars(tmp_path, "loss") == [(1, 0.5), (2, 0.125)]


def test_files_are_there_before_the_run_ends(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    files = TensorBoardFiles(tmp_path)
    files.add(end(1, 0.5))
    assert scalars(tmp_path, "loss") == [(1, 0.5)]
    files.close()


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r'pip install "napari-prosma\[tensorboard\]"'):
        TensorBoardFiles(tmp_path)
    assert not list(tmp_path.iterdir())
