"""A package that bioimageio.core accepts, with our preparation in its words; the network is never asked."""

from __future__ import annotations

import socket
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event
from napari_prosma.export import bioimageio
from napari_prosma.export.bioimageio import export_bioimageio
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.segment import segment

Make = Callable[..., Checkpoint]


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Imported where these tests run, not by every process that collects them: it takes seconds."""
    for package in ("onnxscript", "onnxruntime", "bioimageio.core"):
        pytest.importorskip(package)
    try:
        bioimageio._require_pydantic()
    except ConfigError as refused:
        pytest.skip(str(refused))


@pytest.fixture(scope="module", autouse=True)
def no_network(packages: None) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the export asked the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def opened(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Description, test tensors and README of a package."""
    import yaml

    with zipfile.ZipFile(path) as package:
        tensors = {n: np.load(package.open(n)) for n in package.namelist() if n.endswith(".npy")}
        return yaml.safe_load(package.read("rdf.yaml")), tensors, package.read("README.md").decode()


def test_a_package_of_an_own_image_passes_and_says_how_to_prepare_it(
    make_checkpoint: Make, tmp_path: Path, noise: Callable, last_of: Callable[[Iterator[Event]], object]
) -> None:
    """The image has 1 mm pixels, the plan 2 mm; 27 x 30 pixels of it become 3 x 3 cells of 4, and a rest."""
    checkpoint = replace(make_checkpoint("none", channels=2, spacing=(2.0, 2.0)), metrics={"dice": 0.875})
    sample = Image(noise(2, 54, 60), Geometry((1.0, 1.0), (0.0, 0.0), "mm"))
    path = export_bioimageio(
        checkpoint,
        tmp_path / "package.zip",
        name="Lesions of the breast",
        description="Finds lesions.",
        authors=["Ada L."],
        license="CC-BY-4.0",
        sample=sample,
        card="# My card\n\n**Finds lesions.**",
    )
    assert [each.name for each in tmp_path.iterdir()] == ["package.zip"]
    said, tensors, readme = opened(path)
    assert (said["name"], said["license"]) == ("Lesions of the breast", "CC-BY-4.0")
    assert said["authors"] == [{"name": "Ada L."}]
    assert readme.startswith("# My card\n\n**Finds lesions.**")
    (image,), (output,) = said["inputs"], said["outputs"]
    assert [axis.get("size") for axis in image["axes"][2:]] == [{"min": 4, "step": 4}] * 2
    assert image["pad"] == {"mode": "reflect"}
    (rule,) = [step for step in image["preprocessing"] if step["id"] != "ensure_dtype"]
    assert (rule["id"], rule["kwargs"]["axes"]) == ("zero_mean_unit_variance", ["y", "x"])
    assert output["axes"][1]["channel_names"] == ["background", "lesion"]
    assert said["config"]["prosma"]["plan"]["spacing"] == [2.0, 2.0]
    for fact in ("Finds lesions.", "resampled to 2 x 2 mm", "do not do it for you", "- dice: 0.875"):
        assert fact in readme
    given, expected = tensors["test_input.npy"], tensors["test_output.npy"]
    assert (given.shape, expected.shape) == ((1, 2, 24, 28), (1, 2, 24, 28))
    assert given.std() > 2  # not normalised: the package says how
    here = Image(given[0], Geometry((2.0, 2.0), (0.0, 0.0), "mm"))
    found = last_of(segment(checkpoint, here))
    np.testing.assert_allclose(expected[0], found.probabilities, atol=1e-5)  # type: ignore[attr-defined]


def test_a_network_of_another_paper_is_not_called_ours(make_checkpoint: Make, tmp_path: Path) -> None:
    made = make_checkpoint()
    model = build_model(ModelSpec(2, 1, made.spec.out_channels, (4, 8, 16), network="unet++"))
    checkpoint = replace(made, spec=model.spec, weights=model.state_dict())
    said, _, readme = opened(export_bioimageio(checkpoint, tmp_path / "other.zip"))
    assert said["name"].startswith("unet++ 2D ")
    assert said["tags"] == ["segmentation", "unet", "unet++", "2d"]
    assert not said.get("cite")
    assert "ProSMA-UNet" not in readme
    assert "gate" not in readme


def test_a_volume_model_for_ct_is_packed_with_a_phantom(make_checkpoint: Make, tmp_path: Path) -> None:
    """Three classes, instance norm, prosma gates, the CT rule; the ONNX weights take any size."""
    import onnxruntime

    made = make_checkpoint(dims=3, classes=("background", "spleen", "lesion 2/b"), patch=(16, 20, 24))
    ct = {"intensity": "ct", "clip": (-100.0, 90.0), "mean": 60.0, "std": 80.0, "axes": 3}
    spec = replace(made.spec, norm="instance")
    plan = Plan(**{**made.plan.model_dump(), **ct, "spacing": (0.5, 0.5, 0.5), "unit": "um"})
    weights = {name: made.weights[name] for name in build_model(spec).state_dict()}
    checkpoint = replace(made, spec=spec, plan=plan, weights=weights)
    path = export_bioimageio(checkpoint, tmp_path / "ct.zip")
    said, tensors, readme = opened(path)
    assert said["name"] == "ProSMA-UNet 3D spleen lesion 2 b"
    steps = {step["id"]: step.get("kwargs") for step in said["inputs"][0]["preprocessing"]}
    assert steps["clip"] == {"min": -100.0, "max": 90.0}
    assert steps["fixed_zero_mean_unit_variance"] == {"mean": 60.0, "std": 80.0}
    assert said["outputs"][0]["axes"][1]["channel_names"] == ["background", "spleen", "lesion 2/b"]
    assert tensors["test_input.npy"].shape == (1, 1, 16, 20, 24)
    assert tensors["test_input.npy"].min() < -100 < 90 < tensors["test_input.npy"].max()
    assert tensors["test_output.npy"].shape == (1, 3, 16, 20, 24)
    assert "clipped to [-100, 90], minus 60, by 80. Programs that read this package apply it." in readme
    with zipfile.ZipFile(path) as package:
        session = onnxruntime.InferenceSession(package.read("weights.onnx"))
    (found,) = session.run(None, {"image": np.zeros((2, 1, 7, 9, 11), np.float32)})
    assert found.shape == (2, 3, 7, 9, 11)


def test_a_rule_that_needs_the_whole_volume_is_left_to_the_user(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    """A 2D model of volumes: the tensors are normalised already, over all slices, and the README says so."""
    made = make_checkpoint("none")
    checkpoint = replace(made, plan=made.plan.model_copy(update={"axes": 3}))
    volume = np.random.default_rng(0).normal(5, 3, (1, 3, 32, 32)).astype(np.float32)
    volume[:, 0] += 100
    (tmp_path / "piece").mkdir()
    bioimageio._write_tensors(tmp_path / "piece", checkpoint, Image(volume, Geometry.pixels(3)))
    given = np.load(tmp_path / "piece" / "test_input.npy")
    np.testing.assert_allclose(given[0, 0], (volume[0, 1] - volume.mean()) / volume.std(), rtol=1e-4)
    assert bioimageio._preprocessing(checkpoint.plan) == []
    readme = bioimageio._readme(checkpoint, "A model", "")
    assert "over the whole volume. **It is not part of this package**" in readme


def test_a_small_image_is_enlarged_to_one_cell(make_checkpoint: Make, tmp_path: Path) -> None:
    bioimageio._write_tensors(tmp_path, make_checkpoint(), Image(np.ones((1, 3, 9)), Geometry.pixels(2)))
    assert np.load(tmp_path / "test_input.npy").shape == (1, 1, 4, 8)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"license": "do as you like"}, "license"), ({"name": "x"}, "name"), ({"name": "Läsion?"}, "name")],
)
def test_what_bioimageio_does_not_take_is_told_before_anything_is_written(
    wrong: dict[str, str], said: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"does not take this description .*{said}"):
        export_bioimageio(make_checkpoint(), tmp_path / "x.zip", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_sample_that_does_not_fit_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expects 1 channel\(s\) but the image has 3"):
        export_bioimageio(
            make_checkpoint(), tmp_path / "x.zip", sample=Image(np.ones((3, 32, 32)), Geometry.pixels(2))
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pydantic", "spec", "works"),
    [
        ("2.13.5", "0.5.12.0", True),
        ("2.14.0b1", "0.5.12.0", False),
        ("2.14.4", "0.5.14.2", False),
        ("2.14.4", "0.5.14.3", True),
        ("3.0", "0.6", True),
    ],
)
def test_a_pydantic_that_the_specification_cannot_work_with_is_refused_with_the_line_that_helps(
    pydantic: str, spec: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"pydantic": pydantic, "bioimageio.spec": spec}
    monkeypatch.setattr(bioimageio, "version", installed.__getitem__)
    if works:
        bioimageio._require_pydantic()
        return
    said = rf'spec {spec} .* pydantic {pydantic}; .*pip install "pydantic<2\.14"'
    with pytest.raises(ConfigError, match=said):
        bioimageio._require_pydantic()
