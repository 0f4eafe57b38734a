"""The example that runs an exported model by onnxruntime and NumPy alone gives the mask of ``segment``."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import normalise
from napari_prosma.events import Event
from napari_prosma.export.onnx import export_onnx
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import Segmentation
from napari_prosma.model.checkpoint import Checkpoint, ensemble_of
from napari_prosma.segmentation.segment import segment

Last = Callable[[Iterator[Event]], Segmentation]

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SCRIPT = Path(__file__).parents[2] / "examples" / "segment_onnx.py"
CLOSE = 1e-3
"""Where the two best probabilities lie nearer than this, rounding may decide."""
CT = {"intensity": "ct", "clip": (-8.0, 8.0), "mean": 1.0, "std": 3.0}


@pytest.fixture(scope="module")
def models(make_checkpoint: Callable[..., Checkpoint]) -> dict[str, Checkpoint]:
    """Gates, which take long to export, where the windows are what counts."""
    return {
        "2D": make_checkpoint(),
        "classes": make_checkpoint("none", channels=2, classes=("a", "b", "c")),
        "3D": make_checkpoint(dims=3, patch=(8, 16, 16)),
        "ensemble": ensemble_of([make_checkpoint("none", seed=seed) for seed in (3, 4)], {}),
    }


@pytest.fixture(scope="module")
def export(
    models: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Checkpoint, Path]]:
    """``export(name, **plan)``: a model and its file; what only the plan changes is not exported again."""
    folder, plain = tmp_path_factory.mktemp("exported"), {}

    def make(name: str, **changed: object) -> tuple[Checkpoint, Path]:
        if name not in plain:
            plain[name] = export_onnx(models[name], folder / f"{name}.onnx")
        plan = Plan.model_validate(models[name].plan.model_dump() | changed)
        file = onnx.load(plain[name])
        for entry in file.metadata_props:
            if entry.key == "plan":
                entry.value = plan.model_dump_json()
        path = folder / "changed.onnx"
        onnx.save(file, path)
        return replace(models[name], plan=plan), path

    return make


def structured(*shape: int) -> np.ndarray:
    """Waves of several lengths, louder to the right: windows differ, and so do their channel gates."""
    random = np.random.default_rng(5)
    place = np.meshgrid(*(np.arange(n) for n in shape[1:]), indexing="ij")
    waves = sum(np.sin(axis / length) for axis, length in zip(place, (3.0, 5.0, 9.0), strict=False))
    return ((waves + random.normal(size=shape)) * (1 + place[-1] / 9)).astype(np.float32)


def in_mm(*spacing: float) -> Geometry:
    return Geometry(spacing, (0.0,) * len(spacing), "mm", tuple("zyx"[-len(spacing) :]))


@pytest.mark.parametrize(
    ("model", "plan", "shape", "spacing"),
    [
        pytest.param("2D", {}, (1, 75, 90), (1.0, 1.0), id="picture"),
        pytest.param("ensemble", {}, (1, 45, 70), (1.0, 1.0), id="ensemble"),
        pytest.param("classes", {}, (2, 40, 97), (1.0, 1.0), id="classes"),
        pytest.param("2D", {"spacing": (0.5, 0.8)}, (1, 41, 30), (0.9, 2.3), id="finer"),
        pytest.param("2D", {"spacing": (2.0, 3.0)}, (1, 210, 130), (0.9, 1.3), id="coarser"),
        pytest.param(
            "2D", {"spacing": (1.0, 1.3), "native": (1.0, 1.3)}, (1, 41, 30), (1.02, 1.3), id="as close"
        ),
        pytest.param(
            "2D", {"spacing": (1.0, 1.3), "native": (1.0, 1.3)}, (1, 41, 30), (0.5, 1.3), id="another"
        ),
        pytest.param(
            "2D",
            {"spacing": (2.0, 9.0, 3.0), "axes": 3, "slice_axis": 1},
            (1, 70, 60),
            (1.0, 2.0),
            id="a picture for slices",
        ),
        pytest.param("2D", {"side": 48}, (1, 150, 80), (0.9, 1.3), id="short side"),
        pytest.param(
            "2D", {"side": 48, "axes": 2}, (1, 30, 5, 40), (1.0, 4.0, 1.1), id="short side across y"
        ),
        pytest.param(
            "2D", {"spacing": (2.0, 1.0), "axes": 2}, (1, 60, 7, 50), (1.0, 4.0, 1.1), id="across y"
        ),
        pytest.param("2D", {"axes": 3, "slice_axis": 2}, (1, 50, 40, 4), (1.0, 1.0, 1.0), id="across x"),
        pytest.param("3D", {"axes": 3, **CT}, (1, 13, 30, 21), (1.0, 1.0, 1.0), id="ct"),
    ],
)
def test_the_mask_is_that_of_segment(
    model: str,
    plan: dict[str, object],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    export: Callable[..., tuple[Checkpoint, Path]],
    last_of: Last,
) -> None:
    checkpoint, path = export(model, **plan)
    array = structured(*shape)
    if plan:
        array[:, : shape[1] // 2, : shape[2] // 2] = -20.0  # windows of plain background
    wanted = last_of(segment(checkpoint, Image(array, in_mm(*spacing))))
    found = runpy.run_path(str(SCRIPT))["segment"](runtime.InferenceSession(path), array, spacing)
    assert found.dtype == np.uint8
    assert len(np.unique(wanted.labels)) > 1
    best = np.sort(wanted.probabilities, axis=0)
    clear = best[-1] - best[-2] > CLOSE
    np.testing.assert_array_equal(found[clear], wanted.labels[clear])
    assert (found != wanted.labels).mean() < CLOSE


def test_the_whole_image_at_once_gives_another_mask(
    export: Callable[..., tuple[Checkpoint, Path]], last_of: Last
) -> None:
    """What the windows are for: a channel gate looks at all that the network is given."""
    checkpoint, path = export("2D")
    array = structured(1, 75, 90)
    (at_once,) = runtime.InferenceSession(path).run(None, {"image": normalise(array, checkpoint.plan)[None]})
    wanted = last_of(segment(checkpoint, Image(array, Geometry.pixels(2))))
    assert (at_once[0].argmax(0) != wanted.labels).mean() > 0.01


def test_it_runs_from_a_shell(
    export: Callable[..., tuple[Checkpoint, Path]], last_of: Last, tmp_path: Path
) -> None:
    checkpoint, path = export("2D", spacing=(1.0, 1.0))
    array = structured(1, 60, 45)
    np.save(tmp_path / "image.npy", array[0])
    line = [sys.executable, SCRIPT, path, "image.npy", "labels.npy", "--spacing", "1", "1"]
    subprocess.run(line, cwd=tmp_path, check=True)
    wanted = last_of(segment(checkpoint, Image(array, in_mm(1.0, 1.0))))
    assert (np.load(tmp_path / "labels.npy") != wanted.labels).mean() < CLOSE


@pytest.mark.parametrize(("shape", "words"), [((2, 40, 40), "1 channel"), ((1, 40, 40), "spacing of the 2")])
def test_what_does_not_fit_is_told(
    shape: tuple[int, ...], words: str, export: Callable[..., tuple[Checkpoint, Path]]
) -> None:
    _, path = export("2D", spacing=(1.0, 1.0))
    with pytest.raises(SystemExit, match=words):
        runpy.run_path(str(SCRIPT))["segment"](runtime.InferenceSession(path), np.zeros(shape))
