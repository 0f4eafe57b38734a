"""The order in which unlabelled images and slices are offered, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from napari_prosma.cli.app import app
from napari_prosma.data.case import Case, Image
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import Event, Notice
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import prepare_for
from napari_prosma.model.checkpoint import Checkpoint, ensemble_of, save_checkpoint
from napari_prosma.model.features import coarse_copy, deepest_level
from napari_prosma.model.windows import tile
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.nn.unet import ProSMAUNet
from napari_prosma.segmentation.confidence import entropy
from napari_prosma.segmentation.informative import (
    Candidate,
    CandidateSeen,
    in_order,
    next_images,
    next_slices,
)
from napari_prosma.segmentation.segment import segment

Make = Callable[..., Checkpoint]
Last = Callable[[Iterator[Event]], object]


def candidate(name: str, score: float, *features: float) -> Candidate:
    return Candidate(name, None, score, None, 0.1, np.array(features, np.float32))


@pytest.fixture(scope="module")
def bare(ultrasound: list[Case]) -> list[Case]:
    """Three images without a label, and one with."""
    return [*(replace(case, read_label=None) for case in ultrasound[:3]), ultrasound[3]]


# ---- the order --------------------------------------------------------------------------------------------


def test_the_unsure_come_first_but_not_those_that_are_like_one_before() -> None:
    found = in_order(
        [
            candidate("plain", 0.1, 1, 1),
            candidate("twin", 0.89, 1, 0.01),
            candidate("worst", 0.9, 1, 0),
            candidate("other", 0.5, -1, 0),
        ]
    )
    assert [each.name for each in found] == ["worst", "other", "plain", "twin"]
    assert [each.passed for each in found] == [0, 1, 1, 0]
    assert [each.why.endswith("; new") for each in found] == [False, True, True, False]


def test_where_nothing_is_unsure_what_is_unlike_goes_first_and_a_copy_last() -> None:
    found = in_order([candidate(*each) for each in (("a", 0, 1, 0), ("b", 0, 1, 0), ("c", 0, -1, 0.5))])
    assert [each.name for each in found] == ["a", "c", "b"]


def test_no_more_are_listed_than_are_asked_for() -> None:
    some = [candidate(str(n), n / 10, n, 1) for n in range(5)]
    assert [each.name for each in in_order(some, 2)] == [each.name for each in in_order(some)][:2]
    assert in_order([]) == []


# ---- what a model makes of images -------------------------------------------------------------------------


def test_uncertainty_is_the_mean_entropy_where_something_may_be(
    make_checkpoint: Make, bare: list[Case], last_of: Last
) -> None:
    checkpoint = make_checkpoint()
    found = last_of(next_images(checkpoint, bare))
    assert sorted(each.name for each in found) == sorted(case.name for case in bare[:3])
    by_name = {each.name: each.candidate for each in found}
    for case in bare[:3]:
        probabilities = last_of(segment(checkpoint, case.read_image())).probabilities
        region = probabilities[0] < 0.9
        seen = by_name[case.name]
        assert seen.uncertainty == pytest.approx(entropy(probabilities)[region].mean(), rel=1e-5)
        assert seen.share == pytest.approx(region.mean())
        assert seen.disagreement is None
    assert found[0].candidate.score == max(each.candidate.score for each in found)


@pytest.mark.parametrize("mirror", [False, True])
def test_features_are_kept_of_the_pass_that_segments(
    mirror: bool, make_checkpoint: Make, noise: Callable, last_of: Last, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(patch=(32, 32))
    plan = checkpoint.plan.model_copy(update={"slice_axis": 1})
    checkpoint = replace(checkpoint, plan=plan, config={"modality": "ultrasound"})
    volume = Image(noise(1, 32, 3, 64), Geometry((1, 4, 1), (0, 0, 0), "mm", ("z", "y", "x")))
    plain = last_of(segment(checkpoint, volume, mirror=mirror))
    passes = []
    encode = ProSMAUNet.encode
    monkeypatch.setattr(ProSMAUNet, "encode", lambda self, x: passes.append(len(x)) or encode(self, x))
    found = last_of(segment(checkpoint, volume, mirror=mirror, features=True))
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-6)
    assert sum(passes) == 3 * 3 * (2 if mirror else 1), "three slices of three windows"
    network = checkpoint.build()
    prepared = torch.from_numpy(prepare_for(checkpoint.plan, volume, "x").array)
    with torch.no_grad():
        left = network.encode(prepared[None, :, :, 1, :32]).bottleneck[0]
    assert found.features.shape == (left.shape[0], left.shape[1], 3, 2 * left.shape[2])
    np.testing.assert_allclose(found.features[:, :, 1, 0], left[..., 0], rtol=1e-4, atol=1e-5)


def test_a_network_without_a_deepest_level_has_a_coarse_copy_of_the_image(
    noise: Callable, last_of: Last
) -> None:
    network = build_model(ModelSpec(2, 1, 1, network="unext", widths=(4, 8, 8, 8, 8))).eval()
    assert deepest_level(network, tile((5, 32, 32), (32, 32), 32)) is None
    assert coarse_copy(noise(1, 5, 32, 32), 2).shape == (1, 5, 8, 8)


def test_mirrored_passes_and_ensembles_are_ranked_by_their_disagreement(
    make_checkpoint: Make, bare: list[Case], last_of: Last
) -> None:
    checkpoint = replace(make_checkpoint(), config={"modality": "ultrasound"})
    for ranking in (
        next_images(checkpoint, bare, 2, mirror=True),
        next_images(ensemble_of([checkpoint, make_checkpoint(seed=5)], {}), bare, 2),
    ):
        found = last_of(ranking)
        assert len(found) == 2
        scores = [each.candidate.score for each in found]
        assert scores == [each.candidate.disagreement for each in found]
        assert max(scores) == scores[0] > 0
        assert found[0].why.startswith("passes disagree ")
    with pytest.raises(ConfigError, match="nothing to disagree"):
        last_of(next_images(replace(checkpoint, config={"augment": False}), bare, mirror=True))


def test_slices_lie_across_the_plane_of_the_volume_and_labelled_ones_are_left_out(
    make_checkpoint: Make, noise: Callable, last_of: Last
) -> None:
    volume = Image(noise(1, 32, 5, 32), Geometry((1.0, 3.0, 1.0), (0.0,) * 3, "mm"))
    checkpoint = make_checkpoint()
    events = list(next_slices(checkpoint, volume, "scan", labelled=(1, 3)))
    assert sorted(each.candidate.slice for each in events[-1].result) == [0, 2, 4]
    assert sum(isinstance(event, CandidateSeen) for event in events) == 3
    probabilities = last_of(segment(checkpoint, volume)).probabilities
    for each in events[-1].result:
        one = probabilities[:, :, each.candidate.slice]
        region = one[0] < 0.9
        assert each.candidate.uncertainty == pytest.approx(entropy(one)[region].mean(), rel=1e-5)
    first = events[-1].result[0]
    assert first.name == f"scan, slice {first.candidate.slice}"
    with pytest.raises(DataError, match="every slice of 'scan' is labelled"):
        last_of(next_slices(checkpoint, volume, "scan", labelled=range(5)))
    with pytest.raises(DataError, match="no slices to choose from"):
        last_of(next_slices(checkpoint, Image(noise(1, 32, 32), Geometry.pixels(2)), "scan"))


def test_a_network_of_volumes_ranks_slices_too(make_checkpoint: Make, noise: Callable, last_of: Last) -> None:
    volume = Image(noise(1, 12, 16, 16), Geometry((2.0, 1.0, 1.0), (0.0,) * 3, "mm"))
    found = last_of(next_slices(make_checkpoint(dims=3, patch=(8, 16, 16)), volume, "scan", most=3))
    assert len({each.candidate.slice for each in found}) == 3
    near = {n: each.candidate.features for each in found for n in [each.candidate.slice]}
    assert all(np.isfinite(features).all() for features in near.values())


def test_an_image_that_cannot_be_segmented_is_told_and_left_out(
    make_checkpoint: Make, bare: list[Case]
) -> None:
    broken = Case.from_arrays("two stains", np.ones((2, 48, 48), np.float32))
    *events, last = next_images(make_checkpoint(), [*bare, broken])
    assert len(last.result) == 3
    assert any(isinstance(event, Notice) and "two stains is left out" in event.message for event in events)
    with pytest.raises(DataError, match="none of the 1 images can be segmented"):
        list(next_images(make_checkpoint(), [broken]))


def test_a_folder_without_bare_images_is_refused(make_checkpoint: Make, bare: list[Case]) -> None:
    with pytest.raises(DataError, match="all 1 images have a label"):
        list(next_images(make_checkpoint(), bare[3:]))


def test_the_shell_lists_the_same_and_writes_it(
    make_checkpoint: Make, bare: list[Case], tmp_path: Path, last_of: Last
) -> None:
    import PIL.Image

    for case in bare:
        PIL.Image.fromarray(case.read_image().array[0]).save(tmp_path / f"{case.name}.png")
    label = bare[3].read_label()
    PIL.Image.fromarray(label * 255).save(tmp_path / f"{bare[3].name}_mask.png")
    model, out = tmp_path / "model.safetensors", tmp_path / "next.csv"
    save_checkpoint(model, make_checkpoint())
    words = ["next", str(model), str(tmp_path), "--most", "2", "--out", str(out), "--device", "cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = last_of(next_images(make_checkpoint(), bare, 2))
    lines = out.read_text().splitlines()
    assert lines[0] == "place,image,uncertainty,why"
    assert [line.split(",")[1] for line in lines[1:]] == [each.name for each in found]
    assert found[0].name in result.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2
    assert "choose another --out" in again.output
