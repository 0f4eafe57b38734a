"""Segment an image with an exported model: onnxruntime and NumPy only, the mask that `prosma segment` gives.

    python segment_onnx.py model.onnx image.npy labels.npy --spacing 2.5 0.8 0.8

The image is (y, x) or (z, y, x), or has channels first. Its spacing is needed where the model resamples.
A gate sees all that the network is given, so the image goes through windows of the size that the model was
trained for, overlapping by half and blended by Gaussian weights.
"""

import argparse
import json
from itertools import product

import numpy as np
import onnxruntime

OVERLAP = 0.5
THICKER = 1.05
"""Slices are thicker than their elements are wide by more than this factor."""
SAME_SPACING = 0.05
"""An image whose spacing is as close to that of all training images stays as it is."""
NEVER = np.float32(-1e4)
"""The logarithm of the probability of a class in a window of plain background."""


def segment(session, image, spacing=None, across=None):
    """Labels (*spatial) uint8 of an image (C, *spatial).

    ``spacing`` is per spatial axis, in the unit of the model's plan. ``across`` is the axis of a volume along
    which a 2D model goes slice by slice: by default the model's own, or that of the largest spacing.
    """
    about = session.get_modelmeta().custom_metadata_map
    plan, divisor = json.loads(about["plan"]), int(about["divisor"])
    shape, image = image.shape[1:], image.astype(np.float32)
    if len(image) != plan["channels"] or len(shape) not in (plan["dims"], plan["dims"] + 1):
        raise SystemExit(
            f"the model takes {plan['channels']} channel(s) of {plan['dims']} axes, or a stack of these; "
            f"this image has {len(image)} of {len(shape)}"
        )
    sliced = len(shape) > plan["dims"]
    if across is None:
        across = slice_axis(plan, spacing)

    grid = grid_size(shape, plan, spacing, across)
    image = np.stack([resampled(channel, grid) for channel in image])
    image = normalised(image, plan, across if sliced else None)
    if sliced:
        parts = [logarithms(session, part, plan, divisor) for part in np.moveaxis(image, 1 + across, 0)]
        scores = np.stack(parts, 1 + across)
    else:
        scores = logarithms(session, image, plan, divisor)
    if grid != shape:
        scores = np.exp(scores - scores.max(0))
        scores = np.stack([resampled(one, shape) for one in scores / scores.sum(0)])
    return scores.argmax(0).astype(np.uint8)


def slice_axis(plan, spacing):
    """Axis along which a 2D model goes through a volume; of a series, time comes first."""
    if plan["dims"] == 3 or plan["axes"] == 3 or spacing is None:
        return plan["slice_axis"]
    *_, second, largest = sorted(spacing)
    return spacing.index(largest) if largest > THICKER * second else 0


def grid_size(shape, plan, spacing, across):
    """Size of an image on the grid that the model was trained on; axes that it does not see keep theirs."""
    seen = [axis for axis in range(len(shape)) if len(shape) == plan["dims"] or axis != across]
    if plan.get("side"):
        factors = [plan["side"] / min(shape[axis] for axis in seen)] * len(seen)
    elif plan["spacing"] is None:
        return shape
    else:
        wanted, native = (of_seen_axes(plan, plan.get(name)) for name in ("spacing", "native"))
        held = native
        if plan["unit"] == "pixel":
            held = (1.0,) * len(seen)
        elif spacing is not None and len(spacing) == len(shape):
            held = [spacing[axis] for axis in seen]
        if held is None or (spacing is not None and len(spacing) != len(shape)):  # not told, or of other axes
            raise SystemExit(f"give the spacing of the {len(shape)} axes in {plan['unit']}")
        factors = [h / w for h, w in zip(held, wanted, strict=True)]
        if wanted == native and all(abs(factor - 1) <= SAME_SPACING for factor in factors):
            return shape
    factors = dict(zip(seen, factors, strict=True))
    return tuple(max(1, round(n * factors[axis])) if axis in factors else n for axis, n in enumerate(shape))


def of_seen_axes(plan, spacing):
    """Of a spacing of the plan that of the axes that the model sees."""
    if spacing is None or len(spacing) == plan["dims"]:
        return spacing
    return [s for axis, s in enumerate(spacing) if axis != plan["slice_axis"]]


def resampled(array, size):
    """An array of another size: smoothed where it shrinks, then linear, with its outer edges in place."""
    for axis, (n, m) in enumerate(zip(array.shape, size, strict=True)):
        if m < n:
            sigma = (n / m - 1) / 2
            reach = int(4 * sigma + 0.5)
            weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
            total = np.zeros(array.shape)
            for offset, weight in zip(range(-reach, reach + 1), weights / weights.sum(), strict=True):
                total += weight * array.take(np.clip(np.arange(n) + offset, 0, n - 1), axis)
            array = total.astype(np.float32)
    for axis, (n, m) in enumerate(zip(array.shape, size, strict=True)):
        if m != n:
            place = (np.arange(m) + 0.5) * (n / m) - 0.5
            below = np.floor(place)
            share = (place - below).astype(np.float32).reshape(-1, *[1] * (array.ndim - 1 - axis))
            low, high = (array.take(np.clip(at, 0, n - 1).astype(int), axis) for at in (below, below + 1))
            array = low + share * (high - low)
    return array


def normalised(image, plan, across):
    """Gray values (C, *grid) as the model expects them."""
    if plan["intensity"] == "ct":
        return ((image.clip(*plan["clip"]) - plan["mean"]) / plan["std"]).astype(np.float32)
    axes = tuple(range(1, image.ndim))
    if across is not None and plan["axes"] == plan["dims"]:  # trained on single pictures: slice by slice
        axes = tuple(axis for axis in axes if axis != 1 + across)
    mean, spread = (f(axis=axes, keepdims=True, dtype=np.float64) for f in (image.mean, image.std))
    return ((image - mean) / np.where(spread > 0, spread, 1)).astype(np.float32)


def logarithms(session, image, plan, divisor):
    """Blended logarithms (K, *grid) of the class probabilities of a prepared image (C, *grid)."""
    grid = image.shape[1:]
    image = padded_to(image, divisor)
    sizes = [min(-(-w // divisor) * divisor, n) for w, n in zip(plan["window"], image.shape[1:], strict=True)]
    along = [shares(n, size, divisor) for n, size in zip(image.shape[1:], sizes, strict=True)]
    total = np.zeros((len(plan["class_names"]), *image.shape[1:]), np.float32)
    plain = []
    for starts in product(*along):
        here = (slice(None), *(slice(s, s + n) for s, n in zip(starts, sizes, strict=True)))
        if is_background(image[here], plan):
            plain.append(here)
            continue
        (probabilities,) = session.run(None, {"image": image[here][None]})
        weight = np.ones((), np.float32)
        for share, start in zip(along, starts, strict=True):
            weight = weight[..., None] * share[start]
        total[here] += weight * np.log(probabilities[0].clip(np.finfo(np.float32).tiny))
    for here in plain:
        total[here] = NEVER
        total[0][here[1:]] = 0
    return total[(slice(None), *(slice(0, n) for n in grid))]


def padded_to(image, divisor):
    """An image (C, *grid) padded to multiples: mirrored, or the edge repeated where there is too little."""
    for axis, n in enumerate(image.shape[1:], 1):
        missing = -n % divisor
        pads = [(0, missing) if a == axis else (0, 0) for a in range(image.ndim)]
        image = np.pad(image, pads, "reflect" if missing < n else "edge")
    return image


def shares(length, window, divisor):
    """By the start of each window along an axis: its weights, which add up to 1 over all windows."""
    step = max(divisor, int(window * (1 - OVERLAP)) // divisor * divisor)
    count = -(-(length - window) // step) + 1
    spread = (length - window) / max(1, count - 1)
    starts = sorted({round(k * spread / divisor) * divisor for k in range(count)})
    weight = np.exp(-0.5 * ((np.arange(window) - (window - 1) / 2) / (window / 8)) ** 2)
    weight = weight.clip(1e-3 * weight.max())
    total = np.zeros(length)
    for start in starts:
        total[start : start + window] += weight
    return {start: (weight / total[start : start + window]).astype(np.float32) for start in starts}


def is_background(window, plan):
    """Whether a window (C, *window) is plain: air around a patient, or one value."""
    axes = tuple(range(1, window.ndim))
    lowest = window.min(axes)
    if plan["intensity"] == "ct":
        lowest = np.float32((np.float32(plan["clip"][0]) - plan["mean"]) / plan["std"])
    return bool((window.max(axes) <= lowest).all())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="an ONNX file that prosma export wrote")
    parser.add_argument("image", help="a NumPy file (.npy)")
    parser.add_argument("labels", help="the NumPy file to write")
    parser.add_argument("--spacing", type=float, nargs="+", help="per spatial axis, in the model's unit")
    parser.add_argument("--across", type=int, help="axis of the slices, for a 2D model and a volume")
    given = parser.parse_args()
    model = onnxruntime.InferenceSession(given.model, providers=onnxruntime.get_available_providers())
    array = np.load(given.image)
    if array.ndim == (len(given.spacing) if given.spacing else len(model.get_inputs()[0].shape) - 2):
        array = array[None]
    np.save(given.labels, segment(model, array, given.spacing, given.across))
