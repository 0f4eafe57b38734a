"""A run given away as a folder: half the bytes, the same answers, an honest card, no place of its maker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from napari_prosma.app.cards import Card, card_of
from napari_prosma.app.shipping import ship_model
from napari_prosma.data.case import Case
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import CheckpointError, ConfigError, DataError
from napari_prosma.events import Event, Finished
from napari_prosma.model.checkpoint import halved, load_checkpoint
from napari_prosma.segmentation.segment import segment

Trained = tuple[Path, list[Event]]
TERMS = {
    "data": "made-up ultrasound, 6 images",
    "licence": "CC0 1.0",
    "licence_text": "# Licence\n\nCC0 1.0",
    "citation": "A. Author et al., made-up images (2026)",
}


def new_cases(count: int = 3) -> list[Case]:
    """Phantoms that no run of these tests learns from."""
    return [ultrasound_case(seed, (48, 48)) for seed in range(100, 100 + count)]


@pytest.fixture(scope="module")
def shipped(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "phantom-ultrasound"
    *_, last = ship_model(trained[0], folder, new_cases(), not_for=("Photographs.",), device="cpu", **TERMS)
    assert isinstance(last, Finished)
    return folder


def test_weights_are_half_as_large_and_read_as_float32(trained: Trained, shipped: Path) -> None:
    kept = load_file(shipped / "model.safetensors")
    assert kept["encoder.0.body.0.weight"].dtype == torch.float16
    assert kept["encoder.0.body.1.running_var"].dtype == torch.float32
    before, after = load_checkpoint(trained[0]), load_checkpoint(shipped)
    for name, tensor in after.weights.items():
        assert tensor.dtype == before.weights[name].dtype
        assert torch.allclose(tensor, before.weights[name], rtol=1e-3, atol=1e-6), name
    sizes = [
        (folder / name).stat().st_size
        for folder, name in ((shipped, "model.safetensors"), (trained[0], "best.safetensors"))
    ]
    assert sizes[0] < 0.65 * sizes[1]


def test_it_answers_as_the_run_does(trained: Trained, shipped: Path, last_of: Callable) -> None:
    image = new_cases(1)[0].read_image()
    found, expected = (last_of(segment(model, image, device="cpu")) for model in (shipped, trained[0]))
    assert np.abs(found.probabilities - expected.probabilities).max() < 0.01


def test_its_card_is_of_the_cases_that_the_run_never_saw(shipped: Path) -> None:
    card = card_of(shipped)
    assert (card.name, card.measured, card.measured_on) == ("phantom-ultrasound", 3, "test")
    assert card.data == TERMS["data"]
    assert card.worst[0].picture
    assert "Photographs." in card.not_for
    assert card.citation.startswith(TERMS["citation"])
    assert (shipped / "LICENSE.md").read_text(encoding="utf-8") == "# Licence\n\nCC0 1.0\n"


def test_images_that_are_not_ours_to_give_are_not_shown(trained: Trained, tmp_path: Path) -> None:
    list(ship_model(trained[0], tmp_path / "model", new_cases(), pictures=False, device="cpu", **TERMS))
    worst = card_of(tmp_path / "model").worst
    assert worst
    assert not any(row.picture for row in worst)


def test_it_names_no_place_of_its_maker(trained: Trained, shipped: Path) -> None:
    places = (str(trained[0].parent), str(Path.home()))
    for path in shipped.iterdir():
        content = path.read_bytes().decode("latin-1")
        assert not any(place in content for place in places), path.name


def test_a_case_that_the_run_saw_tests_nothing(
    trained: Trained, ultrasound: list[Case], tmp_path: Path
) -> None:
    for cases, words in (([*new_cases(1), ultrasound[0]], "1 of 2 test cases"), ([], "no case to test")):
        with pytest.raises(ConfigError, match=words):
            list(ship_model(trained[0], tmp_path / "model", cases, **TERMS))
    assert not (tmp_path / "model").exists()


def test_a_label_of_further_classes_is_refused(trained: Trained, tmp_path: Path) -> None:
    case = Case.from_arrays("odd", np.zeros((1, 48, 48), np.float32), np.full((48, 48), 7, np.uint8))
    with pytest.raises(DataError, match="'odd' holds class 7, but the model knows 1 structures"):
        list(ship_model(trained[0], tmp_path / "model", [case], device="cpu", **TERMS))


def test_weights_too_large_for_half_precision_are_not_shipped() -> None:
    with pytest.raises(CheckpointError, match=r"'a\.weight' holds weights that are too large"):
        halved({"a.weight": torch.full((2, 2), 1e6)})


def test_a_damaged_card_is_told_with_its_file(shipped: Path, tmp_path: Path) -> None:
    for text in ('{"name": 3}', "{", json.dumps([])):
        (tmp_path / "model.safetensors").write_bytes((shipped / "model.safetensors").read_bytes())
        (tmp_path / "card.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"card '.*card\.json' is damaged"):
            card_of(tmp_path)


def test_the_card_that_is_yielded_is_the_one_that_is_kept(trained: Trained, tmp_path: Path) -> None:
    *_, last = ship_model(trained[0], tmp_path / "model", new_cases(1), device="cpu", **TERMS)
    assert isinstance(last, Finished)
    assert isinstance(last.result, Card)
    assert last.result == card_of(tmp_path / "model")
