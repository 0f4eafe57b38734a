"""A model as ONNX gives what PyTorch gives, for any size, or is not written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.preparation import normalise
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import Event
from napari_prosma.export import onnx
from napari_prosma.export.onnx import PARITY, AnySize, export_onnx, probabilities_of
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.ensemble import Ensemble
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.segment import segment

Make = Callable[..., Checkpoint]

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Make) -> tuple[Checkpoint, Path]:
    checkpoint = make_checkpoint()
    return checkpoint, export_onnx(checkpoint, tmp_path_factory.mktemp("onnx") / "new" / "model.onnx")


@pytest.mark.parametrize(
    ("dims", "norm", "classes"), [(2, "batch", 1), (2, "instance", 3), (3, "instance", 1)]
)
def test_padding_by_index_is_the_networks_own_padding(dims: int, norm: str, classes: int) -> None:
    """Divisor 4: whole cells, odd sizes, less than a cell, too little to mirror, a single cell."""
    torch.manual_seed(0)
    spec = ModelSpec(dims, 2, classes, (4, 6, 8), norm=norm)
    networks = [build_model(spec).eval() for _ in range(2)]
    for network in (networks[0], Ensemble(networks)):
        for size in ((8, 12, 4), (7, 9, 5), (3, 2, 1), (1, 1, 1), (4, 4, 4), (4, 3, 8), (6, 1, 2)):
            image = torch.randn(2, 2, *size[:dims])
            with torch.no_grad():
                found, wanted = AnySize(network)(image), probabilities_of(network(image))
            assert found.shape == (2, max(2, classes), *size[:dims])
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_the_file_takes_any_batch_and_any_size(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, path = exported
    session, network = runtime.InferenceSession(str(path)), checkpoint.build()
    assert [path.name for path in path.parent.iterdir()] == ["model.onnx"]
    assert session.get_inputs()[0].shape == ["batch", 1, "y", "x"]
    assert session.get_outputs()[0].shape == ["batch", 2, "y", "x"]
    for size in ((1, 1, 32, 32), (3, 1, 45, 70), (2, 1, 3, 5), (1, 1, 1, 1)):
        image = np.random.default_rng(0).normal(size=size).astype(np.float32)
        (found,) = session.run(None, {"image": image})
        with torch.no_grad():
            wanted = probabilities_of(network(torch.from_numpy(image))).numpy()
        assert found.shape == (size[0], 2, *size[2:])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=PARITY)
        assert found.std() > 0.01 or found.size < 40


def test_on_one_window_the_file_gives_what_segmenting_gives(
    exported: tuple[Checkpoint, Path], noise: Callable, last_of: Callable[[Iterator[Event]], object]
) -> None:
    checkpoint, path = exported
    array = noise(1, 27, 30)
    found = last_of(segment(checkpoint, Image(array, Geometry.pixels(2))))
    session = runtime.InferenceSession(str(path))
    (probabilities,) = session.run(None, {"image": normalise(array, checkpoint.plan)[None]})
    np.testing.assert_allclose(probabilities[0], found.probabilities, rtol=0, atol=PARITY)  # type: ignore


def test_the_file_says_what_to_do_before_and_what_comes_out(exported: tuple[Checkpoint, Path]) -> None:
    checkpoint, path = exported
    said = runtime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["background", "lesion"]
    assert Plan.model_validate_json(said["plan"]) == checkpoint.plan
    assert "mean 0 and spread 1" in said["preparation"]


def test_a_model_that_does_not_agree_is_not_left_on_disk(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tmp_path / "model.onnx"
    before.write_bytes(b"an older one")
    monkeypatch.setattr(onnx, "PARITY", -1.0)
    with pytest.raises(ProsmaError, match=r"differs from PyTorch by .* 8 x 12, .* was not written"):
        export_onnx(make_checkpoint("none"), before)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert before.read_bytes() == b"an older one"


def test_other_weights_do_not_agree(exported: tuple[Checkpoint, Path], make_checkpoint: Make) -> None:
    with pytest.raises(ProsmaError, match="differs from PyTorch"):
        onnx._require_parity(exported[1], exported[1], make_checkpoint(seed=4), (8, 12))


def test_a_missing_package_is_told_with_the_line_that_installs_it(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r'needs onnxscript; .*pip install "napari-prosma\[export\]"'):
        export_onnx(make_checkpoint(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
