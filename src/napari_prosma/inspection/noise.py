"""Noise as the modality makes it: correlated speckle, Rician, additive in Hounsfield units, or Gaussian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_prosma.errors import ConfigError
from napari_prosma.model.checkpoint import Checkpoint

HU = 100.0
"""Standard deviation of the noise of strength 1 in CT, about that of a very low dose."""
_ROUGH = 8.0  # pixels: what is smoother than this is anatomy, not speckle
_POINT = (0.3, 4.0)  # least and largest width of a point spread, in pixels

NOISES: dict[str, str] = {
    "speckle": "grows with the image's own values and is as coarse as its speckle: ultrasound",
    "rician": "as in magnitude images: MR",
    "hu": f"the same everywhere, strength 1 = {HU:g} HU: CT",
    "gaussian": "the same everywhere, strength 1 = the spread of the image",
}
"""Kinds of noise, and whose they are."""
IN_WORDS = {"rician": "Rician", "hu": "additive (HU)", "gaussian": "Gaussian"}
"""Kinds as they are called in a sentence, where that is not their name."""
_OF_MODALITY = {"ultrasound": "speckle", "mr": "rician"}


def noise_of(checkpoint: Checkpoint) -> str:
    """The kind that fits what a model was trained on: by its modality, or CT by its rule of intensity.

    CT under another rule need not be in Hounsfield units: it may have been windowed to bytes.
    """
    if checkpoint.plan.intensity == "ct":
        return "hu"
    return _OF_MODALITY.get(str(checkpoint.config.get("modality", "auto")), "gaussian")


def require_noise(kind: str, checkpoint: Checkpoint, values: np.ndarray) -> None:
    """Refuse noise that is unknown, or that the values of an image cannot have (raises ``ConfigError``)."""
    if kind not in NOISES:
        raise ConfigError(f"noise is one of {', '.join(NOISES)}, found {kind!r}")
    is_ct = checkpoint.plan.intensity == "ct"
    if is_ct and kind != "hu":
        raise ConfigError(
            f"the model was trained on CT in Hounsfield units, whose zero is water: {kind} noise means "
            "nothing there; choose the noise 'hu'"
        )
    if not is_ct and kind == "hu":
        raise ConfigError(
            "noise in Hounsfield units is for a model that was trained on CT in these units; choose another "
            "kind of noise"
        )
    if kind in ("gaussian", "rician") and not np.ptp(values.reshape(len(values), -1), axis=1).any():
        raise ConfigError(
            f"the image is constant, and {IN_WORDS[kind]} noise is relative to the spread of the image; "
            "choose another image"
        )
    if kind in ("speckle", "rician") and values.min() < 0:
        raise ConfigError(
            f"{kind} noise is that of images without negative values, found {values.min():g}; choose the "
            "noise 'gaussian', or give the image as the machine stored it"
        )


def noisy_with(kind: str, values: np.ndarray, rng: np.random.Generator) -> Callable[[float], np.ndarray]:
    """A function of the strength that gives ``values`` (C, *spatial) with the same noise, scaled.

    Channels have one and the same speckle. Of other noise each has its own, but for copies of a gray image.
    """
    if kind == "speckle":
        grain = _speckle(values, rng)
        return lambda strength: values * (1 + strength * grain)
    own = values[:1] if (values == values[:1]).all() else values
    drawn = rng.standard_normal((2, *own.shape), dtype=np.float32)
    if kind == "hu":
        return lambda strength: values + strength * HU * drawn[0]
    spread = values.std(axis=tuple(range(1, values.ndim)), keepdims=True)
    if kind == "rician":
        return lambda strength: np.hypot(values + strength * spread * drawn[0], strength * spread * drawn[1])
    return lambda strength: values + strength * spread * drawn[0]


def _speckle(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White noise (*spatial) as wide as the image's own point spread, of standard deviation 1."""
    white = rng.standard_normal(values.shape[1:], dtype=np.float32)
    grain = gaussian_filter(white, point_spread(values), mode="wrap")
    return grain / grain.std()


def point_spread(values: np.ndarray) -> tuple[float, ...]:
    """Width per axis, in pixels, of the Gaussian that makes noise as smooth as the grain of (C, *spatial).

    White noise filtered so correlates by ``exp(-1 / (4 w^2))`` with itself one pixel further.
    """
    image = values.mean(axis=0, dtype=np.float32)
    grain = image - gaussian_filter(image, _ROUGH)
    widths = []
    for axis in range(grain.ndim):
        if grain.shape[axis] < 2 or not grain.any():
            widths.append(0.0)
            continue
        along = np.moveaxis(grain, axis, 0)
        alike = float((along[1:] * along[:-1]).mean() / np.square(along).mean())
        width = np.sqrt(-1 / (4 * np.log(np.clip(alike, 1e-6, 1 - 1e-6))))
        widths.append(float(np.clip(width, *_POINT)))
    return tuple(widths)
