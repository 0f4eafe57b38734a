"""Several models on one image: one scale, one foreground, and numbers that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from napari_prosma.data.case import Image
from napari_prosma.errors import DataError
from napari_prosma.events import Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.compare import (
    BINS,
    Comparison,
    compare,
    comparison_figure,
    histogram_figure,
)
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]
OFF = "prox, lambda = 0 (not retrained)"


@pytest.fixture(scope="module")
def models(make_checkpoint: Make) -> dict[str, Checkpoint]:
    gates = {
        "prox": "prosma",
        "dense": "dense",
        "oktay": "attention",
        "exact": "prosma-exact",
        "bare": "none",
    }
    return {name: make_checkpoint(gate, seed=n) for n, (name, gate) in enumerate(gates.items())}


@pytest.fixture(scope="module")
def image() -> Image:
    array = np.random.default_rng(0).normal(size=(1, 40, 36)).cumsum(axis=-1).astype(np.float32)
    return Image(array, Geometry((0.5, 0.25), (3.0, 4.0), "mm"))


@pytest.fixture(scope="module")
def label() -> np.ndarray:
    label = np.zeros((40, 36), np.uint8)
    label[6:24, 9:25] = 1
    return label


@pytest.fixture(scope="module")
def comparison(models: dict[str, Checkpoint], image: Image, label: np.ndarray) -> Comparison:
    found = list(compare(models, image, label, name="it"))[-1].result  # type: ignore[attr-defined]
    assert isinstance(found, Comparison)
    return found


def words_of(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


def test_every_model_is_inspected_as_alone_and_prox_also_without_its_thresholds(
    comparison: Comparison, models: dict[str, Checkpoint], image: Image, label: np.ndarray
) -> None:
    assert list(comparison.records) == [
        "prox", OFF, "dense", "oktay", "exact", "exact, lambda = 0 (not retrained)", "bare",
    ]  # fmt: skip
    assert comparison.levels == (1, 2)
    for name, checkpoint in models.items():
        alone = list(inspect_gates(checkpoint, image, label=label))[-1].result  # type: ignore[attr-defined]
        for level, skip in alone.skips.items():
            np.testing.assert_array_equal(comparison.psi(name, level), skip.psi)
            assert comparison.records[name].skips[level].measures == skip.measures
    for level in (1, 2):
        assert comparison.records[OFF].skips[level].measures["z_zero_fraction"] == 0
        assert comparison.records["prox"].skips[level].measures["z_zero_fraction"] > 0.1


def test_rows_hold_what_each_gate_has(comparison: Comparison) -> None:
    rows = {(row["model"], row["skip"]): row for row in comparison.rows()}
    assert len(rows) == 7 * 2
    for (model, _), row in rows.items():
        assert row["foreground"] == "label"
        assert 0 <= row["dice"] <= 1  # type: ignore[operator]
        assert ("psi_auc" in row) == (model != "bare")
        assert ("z_zero_fraction" in row) == (model not in ("dense", "oktay", "bare"))
        assert row["retained_energy_ratio"] > 0  # type: ignore[operator]
        assert "psi_zero_fraction" not in row or row["psi_zero_fraction"] == (
            # The one counts positions, the other is a mean over windows.
            pytest.approx(row.get("floor_pixel_fraction", 0), abs=0.01) if model == "exact" else 0
        )
    assert rows["bare", 1]["retained_energy_ratio"] == pytest.approx(1)
    assert rows["oktay", 1]["psi_zero_fraction"] == 0


def test_differences_and_histograms_are_those_of_the_masks(comparison: Comparison, label: np.ndarray) -> None:
    found = comparison.difference("prox", "dense", 2)
    assert found is not None
    first, second = comparison.psi("prox", 2), comparison.psi("dense", 2)
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(found[0], first - second)
    assert found[1] == comparison.records["prox"].skips[2].geometry
    assert comparison.difference("prox", "bare", 1) is None
    assert comparison.histogram("bare", 1) is None
    shares = comparison.histogram("prox", 1)
    mask = comparison.psi("prox", 1)
    assert shares is not None
    assert mask is not None
    for share, where in zip(shares, (label == 1, label == 0), strict=True):
        assert share.sum() == pytest.approx(1)
        lowest = (mask[where] < BINS[10]).mean()
        assert share[:10].sum() == pytest.approx(lowest, abs=1e-6)


def test_without_a_label_the_first_models_prediction_is_foreground_for_all(
    models: dict[str, Checkpoint], image: Image
) -> None:
    two = {name: models[name] for name in ("prox", "oktay")}
    events = list(compare(two, image, counterfactual=False))
    found = events[-1].result  # type: ignore[attr-defined]
    assert list(found.records) == ["prox", "oktay"]
    assert found.reference == "prediction"
    assert all(record.label is None for record in found.records.values())
    np.testing.assert_array_equal(
        found.records["oktay"].skips[1].inside, found.records["prox"].skips[1].inside
    )
    np.testing.assert_array_equal(
        found.records["oktay"].skips[1].inside, found.records["prox"].segmentation.labels == 1
    )
    assert all("dice" not in row for row in found.rows())
    (started,) = [event for event in events if isinstance(event, Started)]
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == started.total == 2


def test_the_figures_name_the_floor_and_what_has_no_mask(comparison: Comparison) -> None:
    words = words_of(comparison_figure(comparison))
    floor = comparison.records["prox"].skips[1].floor
    assert f"floor {floor:.2f}" in words
    assert "no mask: bare" in words
    assert OFF in words
    assert words_of(histogram_figure(comparison)).count("skip 1") == 1
    drawn = comparison_figure(comparison).axes
    limits = {image.get_clim() for axes in drawn[1:3] for image in axes.get_images()}
    assert limits == {(0.0, 1.0)}


def test_a_model_without_gates_is_named(models: dict[str, Checkpoint], image: Image) -> None:
    events = list(compare({"bare": models["bare"]}, image))
    assert any(isinstance(e, Notice) and e.message.startswith("bare: The model has no gates") for e in events)
    assert isinstance(comparison_figure(events[-1].result), Figure)  # type: ignore[attr-defined]
    assert isinstance(histogram_figure(events[-1].result), Figure)  # type: ignore[attr-defined]


def test_models_of_which_none_has_a_mask_are_told_as_such(make_checkpoint: Make, image: Image) -> None:
    found = list(compare({"a": make_checkpoint("none"), "b": make_checkpoint("scale")}, image))[-1].result
    for figure in (comparison_figure, histogram_figure):
        assert "none of these models has a mask psi" in words_of(figure(found))


def test_other_classes_and_other_shapes_are_refused(models: dict[str, Checkpoint], image: Image) -> None:
    plan = models["oktay"].plan.model_copy(update={"class_names": ("background", "vessel")})
    with pytest.raises(DataError, match="'b' knows the classes background, vessel, 'a' background, lesion"):
        list(compare({"a": models["prox"], "b": replace(models["oktay"], plan=plan)}, image))
    with pytest.raises(DataError, match="shape"):
        list(compare(models, image, np.zeros((36, 40), np.uint8)))


def test_models_with_other_skips_are_shown_but_not_subtracted(
    models: dict[str, Checkpoint], make_checkpoint: Make, image: Image
) -> None:
    coarse = make_checkpoint("attention", spacing=(1.0, 0.5))
    found = list(compare({"a": models["prox"], "b": coarse}, image))[-1].result  # type: ignore[attr-defined]
    assert found.difference("a", "b", 1) is None
    assert isinstance(comparison_figure(found), Figure)


def test_models_that_are_no_ablation_of_the_first_are_told(
    models: dict[str, Checkpoint], image: Image
) -> None:
    other = replace(models["dense"], split={"training": ("somewhere else",)})
    events = list(compare({"prox": models["prox"], "dense": other}, image))
    said = "dense is no gate ablation of prox: they differ in split"
    assert any(event.message.startswith(said) for event in events if isinstance(event, Notice))
    assert events[-1].result.cautions[0].startswith(said)  # type: ignore[attr-defined]
    pair = list(inspect_gates(models["prox"], image, second=other))
    assert any(
        event.message.startswith("The second model is no gate ablation of the model: they differ in split")
        for event in pair
        if isinstance(event, Notice)
    )
    alone = list(compare({"prox": models["prox"]}, image))
    assert alone[-1].result.cautions == ()  # type: ignore[attr-defined]


def test_an_image_of_another_kind_is_told_by_whoever_looks_at_it(
    models: dict[str, Checkpoint], image: Image
) -> None:
    trained = replace(models["prox"], config={"modality": "ultrasound"})
    for events in (inspect_gates(trained, image), compare({"prox": trained}, image)):
        told = [event.message for event in events if isinstance(event, Notice)]
        assert sum("trained on ultrasound, whose values are not negative" in words for words in told) == 1
