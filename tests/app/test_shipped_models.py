"""Models by name: those of the package, and of folders that ``PROSMA_MODELS`` names."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from napari_prosma.app.remembered import MODELS, recent_paths, remember_path
from napari_prosma.cli.app import app
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import CheckpointError
from napari_prosma.model.checkpoint import Checkpoint, halved, load_checkpoint, save_checkpoint
from napari_prosma.model.header import SHIPPED, read_header, shipped_models, where_model_is
from napari_prosma.training.config import TrainConfig


@pytest.fixture
def models(
    make_checkpoint: Callable[..., Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of models with one in it, ``tiny-ultrasound``, that the program knows."""
    made = make_checkpoint()
    save_checkpoint(
        tmp_path / "models" / "tiny-ultrasound" / "model.safetensors",
        replace(made, weights=halved(made.weights)),
    )
    monkeypatch.setenv("PROSMA_MODELS", os.pathsep.join([str(tmp_path / "gone"), str(tmp_path / "models")]))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"


def test_a_model_is_known_by_the_name_of_its_folder(models: Path) -> None:
    assert shipped_models()["tiny-ultrasound"] == models / "tiny-ultrasound"
    assert load_checkpoint("tiny-ultrasound").path == models / "tiny-ultrasound" / "model.safetensors"


def test_every_model_in_the_package_opens_and_has_its_card_and_licence() -> None:
    for folder in SHIPPED.iterdir() if SHIPPED.is_dir() else ():
        assert load_checkpoint(folder.name).epoch > 0
        assert {"card.json", "LICENSE.md"} <= {path.name for path in folder.iterdir()}


def test_a_folder_of_that_name_without_a_model_is_not_taken_for_one(models: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-ultrasound").mkdir()
    assert where_model_is("tiny-ultrasound") == models / "tiny-ultrasound"


def test_a_run_of_that_name_goes_first(models: Path, tmp_path: Path, make_checkpoint: Callable) -> None:
    save_checkpoint(tmp_path / "tiny-ultrasound" / "best.safetensors", make_checkpoint(epoch=9))
    assert load_checkpoint("tiny-ultrasound").epoch == 9


def test_an_unknown_name_is_told_with_those_that_there_are(models: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'tiny-ultrasond' does not exist; .* model: tiny-ultrasound"):
        load_checkpoint("tiny-ultrasond")


def test_a_shell_takes_the_name_where_it_takes_a_path(models: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(ultrasound_case(0, (48, 48)).read_image().array[0]).save(image)
    for line in (
        ["segment", "tiny-ultrasound", str(image), "--out", "labels"],
        ["inspect", "tiny-ultrasound", str(image), "--out", "gates"],
    ):
        done = CliRunner().invoke(app, line)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "labels" / "image_labels.png").is_file()


def test_a_run_keeps_where_the_model_is_that_it_starts_from(models: Path, tmp_path: Path) -> None:
    config = TrainConfig.of(run_dir=tmp_path / "run", start_from="tiny-ultrasound")
    assert config.start_from == models / "tiny-ultrasound"


def test_a_header_is_read_without_the_weights(models: Path) -> None:
    path = models / "tiny-ultrasound" / "model.safetensors"
    written = path.read_bytes()
    path.write_bytes(written[:-1000] + bytes(1000))
    assert read_header(path)["plan"]["class_names"] == ["background", "lesion"]
    with pytest.raises(CheckpointError, match="no longer what was written"):
        load_checkpoint("tiny-ultrasound")
    path.write_bytes(written[:-1000])
    for read in (read_header, load_checkpoint):
        with pytest.raises(CheckpointError, match="cut short"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_model_is_told_by_its_header(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other\.safetensors' is"):
        read_header(path)


def test_a_shell_lists_the_models_and_forgets_what_panels_remember(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_checkpoint: Callable
) -> None:
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    save_checkpoint(tmp_path / "home" / "prosma-runs" / "mine" / "best.safetensors", make_checkpoint())
    remember_path(MODELS, tmp_path / "gone")
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0, done.output
    for name in ("tiny-ultrasound", "mine", "gone", "lesion"):
        assert name in done.output
    said = [CliRunner().invoke(app, ["forget"]) for _ in range(2)]
    assert [(result.exit_code, "is deleted" in result.output) for result in said] == [(0, True), (0, False)]
    assert "Nothing is remembered" in " ".join(said[1].output.split())
    assert recent_paths(MODELS) == []


def test_a_shell_warns_of_another_modality_before_it_segments(
    models: Path, tmp_path: Path, make_checkpoint: Callable
) -> None:
    save_checkpoint(
        tmp_path / "us.safetensors", replace(make_checkpoint(), config={"modality": "ultrasound"})
    )
    values = np.random.default_rng(0).integers(-1000, 300, (48, 48)).astype(np.int16)
    tifffile.imwrite(tmp_path / "slice.tif", values)
    done = CliRunner().invoke(app, ["segment", "us.safetensors", "slice.tif", "--out", "labels"])
    assert done.exit_code == 0, done.output
    said = (
        "slice.tif: This model may not fit: it was trained on ultrasound, but the image values look like CT"
    )
    assert said in " ".join(done.output.split())
