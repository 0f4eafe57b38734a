"""Which models are known, and which of them fit an image."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_prosma.app.models import ImageKind, KnownModel, known_model, known_models, shown_name
from napari_prosma.app.remembered import (
    MOST_RECENT,
    forget_all,
    forget_path,
    memory_file,
    recent_paths,
    remember,
    remember_path,
    remembered,
)
from napari_prosma.data.case import Image
from napari_prosma.data.formats.dicom import Series
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint, save_checkpoint

Make = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("XDG_STATE_HOME", "PROSMA_MODELS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_models_are_listed_once_the_newest_run_first(make_checkpoint: Make, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for age, name in enumerate(("new", "old", "used")):
        path = runs / name / "best.safetensors"
        save_checkpoint(path, make_checkpoint())
        os.utime(path, (1e9 - age, 1e9 - age))
    (runs / "empty").mkdir()
    (runs / "notes.txt").write_text("no run")
    found = list(known_models(runs, [runs / "used", tmp_path / "deleted"]))
    assert [(model.name, model.origin) for model in found if model.origin != "shipped"] == [
        ("used", "recent"),
        ("deleted", "recent"),
        ("new", "run"),
        ("old", "run"),
    ]
    # The files of a shipped model are as old as the installation.
    assert [bool(model.day) for model in found if not model.trouble] == [False, False, True, True, True]


def test_a_model_says_what_a_list_shows(make_checkpoint: Make, tmp_path: Path) -> None:
    made = replace(make_checkpoint(), metrics={"dice": 0.8}, config={"modality": "ultrasound"})
    save_checkpoint(tmp_path / "mine" / "best.safetensors", made)
    found = known_model(tmp_path / "mine")
    assert (found.name, found.finds, found.images) == ("mine", ("lesion",), "ultrasound, 2D, gray")
    assert (found.dice, found.trouble) == (0.8, "")
    assert shown_name(tmp_path / "mine" / "best.safetensors") == "mine"
    assert shown_name(tmp_path / "other.safetensors") == "other"


def test_a_dice_that_nobody_could_measure_is_left_out(make_checkpoint: Make, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.safetensors", replace(make_checkpoint(), metrics={"dice": math.nan}))
    found = known_model(tmp_path / "a.safetensors")
    assert found.dice is None
    assert "nan" not in found.in_words()


def newer(written: bytes) -> bytes:
    return written.replace(rb"{\"format\": 3", rb"{\"format\": 9")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (newer, "newer version"),
        (lambda written: written[:40], "cut short"),
        (lambda _: b"", "cut short (it is empty)"),
        (lambda written: written[:-1000], "cut short"),
        (lambda written: written.replace(b"class_names", b"class_namez"), "damaged"),
        (lambda written: written.replace(b"prosma", b"other_"), "no ProSMA checkpoint"),
    ],
)
def test_a_broken_model_is_listed_with_what_is_wrong(
    change: Callable, words: str, make_checkpoint: Make, tmp_path: Path
) -> None:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, make_checkpoint())
    path.write_bytes(change(path.read_bytes()))
    found = known_model(path)
    assert words in found.trouble
    assert str(path) in found.trouble
    assert found.refusal(ImageKind(2, 1)) == found.trouble


def test_a_model_whose_classes_do_not_fit_its_network_is_no_choice(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    made = make_checkpoint()
    plan = made.plan.model_copy(update={"class_names": ("background", "lesion", "cyst", "node")})
    save_checkpoint(tmp_path / "best.safetensors", replace(made, plan=plan))
    assert "disagree in the number of classes" in known_model(tmp_path / "best.safetensors").trouble


def model(**facts: object) -> KnownModel:
    usual = {"name": "m", "path": Path("m"), "dims": 2, "channels": 1, "modality": "ultrasound"}
    return KnownModel(**{**usual, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "kind", "words"),
    [
        ({}, ImageKind(2, 1), ""),
        ({}, ImageKind(2, 3), ""),
        ({}, ImageKind(3, 1), ""),
        ({"dims": 3}, ImageKind(3, 1), ""),
        ({"dims": 3}, ImageKind(2, 1), "needs volumes, but the image is 2D"),
        ({"channels": 4}, ImageKind(2, 1), "needs 4 channels, but the image has 1"),
        ({"channels": 4}, ImageKind(3, 1), ""),
        ({}, ImageKind(2, 4), "needs 1 channel, but the image has 4"),
    ],
)
def test_a_model_is_refused_where_it_cannot_run(facts: dict, kind: ImageKind, words: str) -> None:
    assert words in model(**facts).refusal(kind)
    assert bool(words) == bool(model(**facts).refusal(kind))


def test_another_modality_is_told() -> None:
    ct = ImageKind(2, 1, "ct", "the image header says")
    assert model().doubt(ct) == "it was trained on ultrasound, but the image header says CT"
    assert model(modality="ct").doubt(ct) == ""
    assert model(modality="other").doubt(ct) == ""
    assert model().doubt(ImageKind(2, 1)) == ""
    assert (
        model().doubt(ImageKind(2, 3, is_colour=True))
        == "it was trained on ultrasound, but the image is in colour"
    )
    assert model(modality="endoscopy").doubt(ImageKind(2, 3, is_colour=True)) == ""


def test_the_kind_of_an_image_is_told_by_its_header_or_its_values() -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    assert ImageKind.of(Image(gray, Geometry.pixels(2))) == ImageKind(2, 1)
    for code, modality in (("US", "ultrasound"), ("CT", "ct"), ("XC", ""), ("", "")):
        series = Series("1.2", "", code, (), 1, (8, 8), Geometry.pixels(2))
        assert ImageKind.of(Image(gray, Geometry.pixels(2), series=series)).modality == modality
    volume = np.full((1, 4, 8, 8), -1000, np.int16)
    assert ImageKind.of(Image(volume, Geometry.pixels(3))).modality == "ct"
    assert ImageKind.of(Image(volume - np.float32(0.5), Geometry.pixels(3))).modality == ""
    colour = np.zeros((3, 8, 8), np.uint8)
    colour[0] = 200
    assert ImageKind.of(Image(colour, Geometry.pixels(2))).is_colour
    assert ImageKind.of(Image(colour / np.float32(255), Geometry.pixels(2))).is_colour
    assert not ImageKind.of(Image(np.repeat(gray, 3, axis=0), Geometry.pixels(2))).is_colour


def test_a_list_of_a_thousand_runs_with_broken_ones_takes_no_time(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    import time

    save_checkpoint(tmp_path / "one.safetensors", make_checkpoint())
    content = (tmp_path / "one.safetensors").read_bytes()
    for number in range(1000):
        (tmp_path / "runs" / f"{number}").mkdir(parents=True)
        cut = content if number % 10 else content[:100]
        (tmp_path / "runs" / f"{number}" / "best.safetensors").write_bytes(cut)
    began = time.process_time()
    found = [each for each in known_models(tmp_path / "runs") if each.origin == "run"]
    assert time.process_time() - began < 4
    assert (len(found), sum(bool(each.trouble) for each in found)) == (1000, 100)


def test_what_is_remembered_comes_back_until_it_is_forgotten(home: Path) -> None:
    assert recent_paths("models") == []
    for number in range(MOST_RECENT + 3):
        remember_path("models", home / str(number))
    remember_path("models", home / "5")
    assert recent_paths("models")[:2] == [home / "5", home / "14"]
    assert len(recent_paths("models")) == MOST_RECENT
    forget_path("models", home / "5")
    assert home / "5" not in recent_paths("models")
    remember("form", {"a": 1})
    assert remembered("form") == {"a": 1}
    assert forget_all()
    assert (remembered("form"), recent_paths("models")) == (None, [])
    assert not forget_all()


@pytest.mark.parametrize("content", ["{", "[]", '{"models": 3}', '{"models": [3]}'])
def test_a_damaged_memory_is_an_empty_one(content: str) -> None:
    memory_file().parent.mkdir(parents=True)
    memory_file().write_text(content)
    assert recent_paths("models") == []
    remember("form", 1)
    assert remembered("form") == 1
