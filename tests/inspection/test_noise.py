"""Noise of each modality: what it is made of, how coarse its grain is, and where it means nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_prosma.errors import ConfigError
from napari_prosma.inspection.noise import HU, noise_of, noisy_with, point_spread, require_noise
from napari_prosma.model.checkpoint import Checkpoint

Make = Callable[..., Checkpoint]


def trained_on(make: Make, modality: str, intensity: str = "zscore") -> Checkpoint:
    from dataclasses import replace

    checkpoint = make()
    changes = {"intensity": intensity} | ({"clip": (-100.0, 200.0), "std": 50.0} if intensity == "ct" else {})
    plan = checkpoint.plan.model_copy(update=changes)
    return replace(checkpoint, plan=plan, config={**checkpoint.config, "modality": modality})


@pytest.mark.parametrize(
    ("modality", "intensity", "kind"),
    [
        ("ultrasound", "zscore", "speckle"),
        ("mr", "zscore", "rician"),
        ("auto", "ct", "hu"),
        ("other", "ct", "hu"),
        ("ct", "zscore", "gaussian"),  # perhaps windowed to bytes
        ("auto", "zscore", "gaussian"),
        ("endoscopy", "zscore", "gaussian"),
    ],
)
def test_the_noise_is_that_of_the_modality(modality: str, intensity: str, kind: str, make_checkpoint: Make):
    checkpoint = trained_on(make_checkpoint, modality, intensity)
    assert noise_of(checkpoint) == kind
    values = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    require_noise(kind, checkpoint, values)  # what is chosen is never refused


@pytest.mark.parametrize("kind", ["speckle", "rician", "gaussian"])
def test_hounsfield_units_are_never_multiplied(kind: str, make_checkpoint: Make):
    values = np.full((1, 4, 4), 40.0, np.float32)
    with pytest.raises(ConfigError, match="Hounsfield"):
        require_noise(kind, trained_on(make_checkpoint, "auto", "ct"), values)
    require_noise("hu", trained_on(make_checkpoint, "auto", "ct"), values)
    with pytest.raises(ConfigError, match="trained on CT"):
        require_noise("hu", make_checkpoint(), values)


@pytest.mark.parametrize("kind", ["gaussian", "rician"])
def test_a_constant_image_has_no_spread_to_be_noisy_by(kind: str, make_checkpoint: Make):
    with pytest.raises(ConfigError, match=r"constant, .* choose another image"):
        require_noise(kind, make_checkpoint(), np.full((3, 4, 4), 40.0, np.float32))
    colours = np.repeat(np.arange(3, dtype=np.float32), 16).reshape(3, 4, 4)
    with pytest.raises(ConfigError, match=r"constant, .* choose another image"):
        require_noise(kind, make_checkpoint(), colours)


@pytest.mark.parametrize("kind", ["speckle", "rician"])
def test_images_below_zero_are_no_magnitudes(kind: str, make_checkpoint: Make):
    with pytest.raises(ConfigError, match="without negative values, found -1"):
        require_noise(kind, make_checkpoint(), np.array([[[-1.0, 2.0]]]))


def test_speckle_multiplies_and_is_as_coarse_as_the_image():
    rng = np.random.default_rng(0)
    for width in (0.8, 1.6):
        grain = gaussian_filter(rng.standard_normal((160, 160)), width)
        image = (100 + 20 * grain / grain.std())[None].astype(np.float32)
        assert point_spread(image) == pytest.approx((width, width), rel=0.15)
    noisy = noisy_with("speckle", image, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy(0.0), image)
    ratio = noisy(0.5) / image - 1
    assert ratio.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_allclose(noisy(1.0) / image - 1, 2 * ratio, rtol=1e-3, atol=1e-3)
    alike = np.corrcoef(ratio[0, 1:].ravel(), ratio[0, :-1].ravel())[0, 1]
    assert alike == pytest.approx(np.exp(-1 / (4 * 1.6**2)), abs=0.05)
    gray = np.repeat(image, 3, axis=0)
    three = noisy_with("speckle", gray, np.random.default_rng(0))(0.3)
    np.testing.assert_array_equal(three[0], three[2])


@pytest.mark.parametrize("kind", ["gaussian", "rician", "hu"])
def test_copies_of_a_gray_image_have_one_noise_and_colours_each_their_own(kind: str):
    image = np.random.default_rng(1).normal(100, 20, (1, 40, 40)).astype(np.float32)
    gray, colour = np.repeat(image, 3, axis=0), np.concatenate([image, image + 1, image[:, ::-1]])
    copies = noisy_with(kind, gray, np.random.default_rng(0))(0.5)
    np.testing.assert_array_equal(copies, np.repeat(copies[:1], 3, axis=0))
    seen = noisy_with("gaussian", colour, np.random.default_rng(0))(0.5) - colour
    assert abs(np.corrcoef(seen[0].ravel(), seen[1].ravel())[0, 1]) < 0.1


def test_rician_noise_is_rayleigh_where_there_is_no_signal():
    image = np.zeros((1, 300, 300), np.float32)
    image[:, :, 150:] = 100
    seen = noisy_with("rician", image, np.random.default_rng(0))(0.1)
    sigma = 0.1 * image.std()
    assert seen.min() >= 0
    assert seen[:, :, :150].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.01)
    assert seen[:, :, 150:].std() == pytest.approx(sigma, rel=0.02)


def test_noise_in_hounsfield_units_does_not_depend_on_the_image():
    image = np.random.default_rng(1).normal(0, 400, (1, 200, 200)).astype(np.float32)
    added = noisy_with("hu", image, np.random.default_rng(0))(0.2) - image
    assert added.std() == pytest.approx(0.2 * HU, rel=0.02)
    assert np.corrcoef(added.ravel(), image.ravel())[0, 1] == pytest.approx(0, abs=0.02)
