"""Files of every format so far, written by the programs of their time, still open, segment and go on.

``fixtures/format-1.safetensors`` is the last checkpoint of a run that was stopped in its third epoch of
three, on four squares that :func:`squares` makes again. ``format-2.safetensors`` is the same, with averaged
weights, and ``format-2-ensemble.safetensors`` holds the networks of its two folds. ``format-3.safetensors``
is the model of a run in half precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from napari_prosma.data.case import Case
from napari_prosma.events import EpochEnd, Finished
from napari_prosma.model.checkpoint import FORMAT, load_checkpoint
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

FIXTURES = Path(__file__).parent / "fixtures"
CLASSES = ("background", "square")


def squares() -> list[Case]:
    """Four images (1, 24, 24) of a bright square on a slope."""
    cases = []
    for name, top, left in (("a", 3, 4), ("b", 10, 9), ("c", 12, 3), ("d", 5, 13)):
        image = np.tile(np.linspace(0, 1, 24, dtype=np.float32), (1, 24, 1))
        label = np.zeros((24, 24), np.uint8)
        label[top : top + 8, left : left + 9] = 1
        cases.append(Case.from_arrays(name, image + 2 * (label > 0), label))
    return cases


def test_there_is_a_file_of_every_format() -> None:
    for number in range(1, FORMAT + 1):
        with safe_open(FIXTURES / f"format-{number}.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["prosma"])["format"] == number


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_model_of_an_older_format_segments_as_it_did(path: Path, last_of: Callable) -> None:
    found = load_checkpoint(path)
    assert found.plan.class_names == CLASSES
    assert isinstance(found.build(), Ensemble) == ("ensemble" in path.stem)
    for case in squares():
        assert case.read_label is not None
        result = last_of(segment(found, case.read_image(), device="cpu"))
        assert np.array_equal(result.labels, case.read_label()), case.name


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_a_run_of_an_older_format_goes_on_to_its_end(name: str, tmp_path: Path) -> None:
    kept = load_checkpoint(FIXTURES / f"{name}.safetensors")
    assert (kept.epoch, kept.place["step"]) == (2, 100)
    config = TrainConfig.of(**{**kept.config, "run_dir": tmp_path})
    events = list(train(config, squares(), CLASSES, kept))
    (epoch,) = (event for event in events if isinstance(event, EpochEnd))
    assert epoch.epoch == 3
    assert epoch.loss < 0.05  # it has forgotten nothing
    assert isinstance(events[-1], Finished)
    last = load_checkpoint(tmp_path / "last.safetensors")
    assert last.place["step"] == 120
    assert not torch.equal(last.weights["head.weight"], kept.weights["head.weight"])
