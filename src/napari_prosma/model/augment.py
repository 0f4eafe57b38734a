"""Random changes of training patches: a recipe per modality, done to a whole batch on its device.

What happens to a patch is drawn from a generator of its own, on the CPU. So a patch comes out the same in
every batch, in every process and after every pause.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from napari_prosma.data.fingerprint import Plan

# ---- what is done to the values of one patch (C, *patch), by ``most`` at most -----------------------------


def gain(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Contrast about the mean of the case (0), all channels alike."""
    return image * (1 + rng.uniform(-most, most))


def colour(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Contrast and brightness of each channel for itself."""
    factor, shift = rng.uniform(-most, most, (2, len(image), *[1] * (image.ndim - 1)))
    return image * _beside(image, 1 + factor) + _beside(image, shift)


def gamma(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Power of 1 / (1 + most) to 1 + most of the values between the least and the largest.

    Mean and spread are kept, as MONAI and nnU-Net do it.
    """
    power = (1 + rng.uniform(0, most)) ** rng.choice((-1, 1))
    low, high = image.min(), image.max()
    bent = ((image - low) / (high - low).clamp(min=1e-6)) ** power
    return (bent - bent.mean()) * (
        image.std(correction=0) / bent.std(correction=0).clamp(min=1e-6)
    ) + image.mean()


def depth_gain(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Brighter or darker with depth, the last axis but one."""
    ramp = np.linspace(-1, 1, image.shape[-2])[:, None]
    return _above_black(image, 1 + rng.uniform(-most, most) * _beside(image, ramp))


def shadow(image: Tensor, most: float, rng: Generator) -> Tensor:
    """A dark wedge with soft edges from the top to the bottom."""
    depth, across = np.linspace(0, 1, image.shape[-2])[:, None], np.linspace(0, 1, image.shape[-1])
    beyond = abs(across - rng.uniform()) - rng.uniform(0.04, 0.12) * (0.5 + depth)
    dark = rng.uniform(most / 2, most) / (1 + np.exp(beyond / 0.02))
    return _above_black(image, 1 - _beside(image, dark))


def speckle(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Multiplicative grain, two elements wide."""
    size = image.shape[1:]
    grain = _beside(image, rng.standard_normal([math.ceil(n / 2) for n in size], np.float32))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    grain = F.interpolate(grain[None, None], size, mode=mode)[0, 0]
    return _above_black(image, (1 + rng.uniform(most / 2, most) * grain).clamp(min=0))


def bias_field(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Brightness that changes slowly across the patch, by exp(-most) to exp(most)."""
    waves = np.zeros(image.shape[1:], np.float32)
    for _ in range(3):
        along = [
            np.cos(np.pi * (rng.uniform(0, 1.5) * np.linspace(-1, 1, n) + rng.uniform(0, 2)))
            for n in image.shape[1:]
        ]
        waves += math.prod(np.ix_(*along)) / 3
    return _above_black(image, _beside(image, most * waves).exp())


def noise(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Gaussian noise with a standard deviation up to ``most``."""
    return image + rng.uniform(0, most) * _beside(image, rng.standard_normal(image.shape, np.float32))


def blur(image: Tensor, most: float, rng: Generator) -> Tensor:
    """Gaussian blur with a sigma of half of ``most`` to ``most`` elements, drawn for every axis."""
    for axis in range(1, image.ndim):
        sigma = rng.uniform(most / 2, most)
        offsets = np.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1)
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        places = torch.arange(image.shape[axis], device=image.device)
        image = sum(
            weight * image.index_select(axis, (places + offset).clamp(0, len(places) - 1))
            for weight, offset in zip((weights / weights.sum()).tolist(), offsets.tolist(), strict=True)
        )
    return image


def _beside(image: Tensor, array: np.ndarray) -> Tensor:
    return torch.as_tensor(array, dtype=image.dtype).to(image.device)


def _above_black(image: Tensor, factor: Tensor) -> Tensor:
    """Times ``factor``, counted from the darkest value of each channel: black stays black."""
    black = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    return black + (image - black) * factor


# ---- recipes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """``of`` is done to a patch with ``probability``, by ``most`` at most."""

    of: Callable[[Tensor, float, Generator], Tensor]
    probability: float
    most: float


@dataclass(frozen=True)
class Recipe:
    """How the patches of a modality are changed at random."""

    why: str  # what is done and why, for the user
    # of the values, in this order: strengths are relative, or in standard deviations of the case (``colour``,
    # ``noise``), or in elements (``blur``).
    changes: tuple[Change, ...]
    # left_right, up_down: whether half of the patches are flipped along the last axis, and along the last but
    # one.
    left_right: bool = True
    up_down: bool = False
    # Whether patches that are square in space are turned by 0, 90, 180 or 270 degrees in the plane of the
    # slices.
    quarter_turns: bool = False
    moved: float = 0.7  # probability of a movement: turned, scaled and shifted together
    # rotation, tilt: largest angle in the plane of the slices, and about the other axes of a volume.
    rotation: float = 15.0
    tilt: float = 6.0
    # scale, shift: largest relative change of size; largest shift as a share of the patch; per axis.
    scale: float = 0.2
    shift: float = 0.1
    # Whether values stay within the plan's clip window, or within those of the patch where there is none.
    within_window: bool = False


RECIPES = {
    "ultrasound": Recipe(
        "Left and right are swapped at random, up and down never: depth has a direction, shadows fall away "
        "from the probe. Gain, gain over depth, shadows and speckle vary as they do between scanners.",
        changes=(
            Change(gain, 0.5, 0.2),
            Change(gamma, 0.3, 0.4),
            Change(depth_gain, 0.4, 0.4),
            Change(shadow, 0.3, 0.7),
            Change(speckle, 0.3, 0.2),
            Change(blur, 0.1, 1.0),
        ),
        rotation=10,
    ),
    "ct": Recipe(
        "Hounsfield units mean the same on every scanner: brightness stays, and within the window. Patients "
        "lie and measure a little differently; dose and kernel change noise and sharpness.",
        changes=(Change(noise, 0.2, 0.1), Change(blur, 0.15, 0.6)),
        rotation=10,
        scale=0.15,
        within_window=True,
    ),
    "mr": Recipe(
        "MR has no fixed scale and coils brighten what is near them: contrast, a smooth bias field and noise "
        "vary. Left and right are swapped at random.",
        changes=(
            Change(bias_field, 0.4, 0.4),
            Change(gain, 0.3, 0.2),
            Change(gamma, 0.3, 0.5),
            Change(noise, 0.2, 0.1),
            Change(blur, 0.1, 1.0),
        ),
    ),
    "endoscopy": Recipe(
        "The endoscope turns freely, so no direction is up: flips and quarter turns. Lamp, exposure and "
        "white balance change brightness and each colour.",
        changes=(
            Change(gain, 0.5, 0.2),
            Change(colour, 0.5, 0.15),
            Change(gamma, 0.3, 0.5),
            Change(noise, 0.1, 0.1),
            Change(blur, 0.2, 1.5),
        ),
        up_down=True,
        quarter_turns=True,
        rotation=30,
    ),
    "histology": Recipe(
        "Tissue lies on the glass any way round: flips and quarter turns. Stain and scanner change each "
        "colour, focus the sharpness.",
        changes=(
            Change(colour, 0.6, 0.2),
            Change(gain, 0.3, 0.2),
            Change(noise, 0.1, 0.05),
            Change(blur, 0.2, 1.0),
        ),
        up_down=True,
        quarter_turns=True,
        rotation=30,
    ),
    "other": Recipe(
        "Nothing is known of these images: left and right are swapped at random, they are moved, and "
        "contrast, noise and sharpness vary a little.",
        changes=(
            Change(gain, 0.5, 0.2),
            Change(gamma, 0.3, 0.5),
            Change(noise, 0.2, 0.1),
            Change(blur, 0.1, 1.0),
        ),
    ),
}
"""By ``TrainConfig.modality``. Movements and strengths of ``other`` are about nnU-Net's and MONAI's."""


_SIDED = re.compile(
    r"(?<![^\W\d_])(?:left|right|links|linke[rsnm]?|rechts|rechte[rsnm]?|gauche|droite?|izquierd[oa]|derech[oa]|"
    r"esquerd[oa]|direit[oa]|sinistr[oai]|destr[oai]|sinister|dexter|venstre|h[øo](?:jre|yre)|v[äa]nster|"
    r"h[öo]ger|lew[aey]|praw[aey]|лев\w*|прав\w*)(?![^\W\d_])|左|右|왼|오른",
    re.IGNORECASE,
)
_GLUED = re.compile(r"\b(?:left|right)[a-z]{3,}|[a-z]{3,}(?:left|right)\b", re.IGNORECASE)
_NOT_SIDED = re.compile(
    r"leftovers?|right(?:ful|fully|eous|ness)|(?:b|up|out|down|forth|birth|copy|eyeb)right",
    re.IGNORECASE,
)
"""English words that hold the name of a side and tell of none."""
_LETTER = re.compile(r"(?<![a-z])([lr])[ht]?(?![a-z])", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def _are_sided(class_names: Sequence[str]) -> bool:
    """Whether a class is named left or right, or some L and others R, as word, letter or part of a word."""
    names = [_CAMEL.sub(" ", name).replace("_", " ") for name in class_names]
    whole = {name.casefold() for name in class_names}
    return (
        any(_SIDED.search(name) for name in names)
        or any(not _NOT_SIDED.fullmatch(word) for name in names for word in _GLUED.findall(name))
        or {letter.casefold() for name in names for letter in _LETTER.findall(name)} == {"l", "r"}
        or any(f"r{name[1:]}" in whole for name in whole if name.startswith("l"))
        or any(f"{name[:-1]}r" in whole for name in whole if name.endswith("l"))
    )


def recipe_of(modality: str, plan: Plan) -> Recipe:
    """Recipe of a modality; ``auto`` is ``ct`` where the plan's intensity rule is, else ``other``.

    Nothing is mirrored where a class is named left or right, or some L and others R: a mirrored left kidney
    is no left kidney.
    """
    if modality == "auto":
        modality = "ct" if plan.intensity == "ct" else "other"
    recipe = RECIPES[modality]
    if not _are_sided(plan.class_names):
        return recipe
    why = f"{recipe.why} But a class is named left or right, so nothing is mirrored."
    return replace(recipe, why=why, left_right=False, up_down=False)


class Augmentation:
    """Changes the patches of a batch by a recipe, by default that of ``auto``."""

    def __init__(self, plan: Plan, recipe: Recipe | None = None) -> None:
        self._plan, self._recipe = plan, recipe or recipe_of("auto", plan)
        spacing = plan.of_seen_axes(plan.spacing) or (1.0,) * plan.dims
        self._size = np.array(plan.patch) * spacing

    def __call__(
        self, images: Tensor, labels: Tensor, generators: Sequence[Generator]
    ) -> tuple[Tensor, Tensor]:
        """Changed copies of a batch; each patch depends on itself and its generator alone.

        Parameters
        ----------
        images : (B, C, *patch) float32
        labels : (B, 1, *patch) integers
            Class indices and ``IGNORE``; what comes out holds no others.
        generators : B
            The only source of chance.
        """
        images, labels = self._moved(images, labels, [self._movement(rng) for rng in generators])
        recoloured = [self._recoloured(image, rng) for image, rng in zip(images, generators, strict=True)]
        return torch.stack(recoloured), labels

    def _movement(self, rng: Generator) -> np.ndarray | None:
        """Matrix (dims, dims + 1) from each place of the new patch to where it comes from; None = the same.

        Places are measured from the middle in halves of the patch. Angles are those of space: elements may
        be longer along one axis.
        """
        recipe, dims, size = self._recipe, self._plan.dims, self._size
        matrix, shift = np.eye(dims), np.zeros(dims)
        for axis, flipped in ((-1, recipe.left_right), (-2, recipe.up_down)):
            if flipped:
                matrix[axis] *= rng.choice((-1, 1))
        if recipe.quarter_turns and math.isclose(size[-1], size[-2]):
            matrix = _turn(dims, -2, -1, 90.0 * int(rng.integers(4))) @ matrix
        if rng.random() < recipe.moved:
            matrix = matrix * (1 + rng.uniform(-recipe.scale, recipe.scale, dims))
            for axes in [(-2, -1), (-3, -2), (-3, -1)][: 3 if dims == 3 else 1]:
                most = recipe.rotation if axes == (-2, -1) else recipe.tilt
                matrix = _turn(dims, *axes, rng.uniform(-most, most)) @ matrix
            shift = 2 * rng.uniform(-recipe.shift, recipe.shift, dims)
        if np.allclose(matrix, np.eye(dims)) and not shift.any():
            return None
        return np.column_stack([matrix * size / size[:, None], shift])

    def _moved(
        self, images: Tensor, labels: Tensor, movements: Sequence[np.ndarray | None]
    ) -> tuple[Tensor, Tensor]:
        rows = [n for n, movement in enumerate(movements) if movement is not None]
        if not rows:
            return images, labels
        dims = self._plan.dims
        last_axis_first = np.ix_(range(len(rows)), range(dims)[::-1], (*range(dims)[::-1], dims))
        matrices = np.stack([movement for movement in movements if movement is not None])[last_axis_first]
        shape = [len(rows), 1, *self._plan.patch]
        grid = F.affine_grid(_beside(images, matrices), shape, align_corners=False)
        moved = []
        for held, mode in ((images, "bilinear"), (labels, "nearest")):
            sampled = F.grid_sample(held[rows].float(), grid, mode, "reflection", align_corners=False)
            moved.append(held.index_copy(0, torch.tensor(rows, device=held.device), sampled.to(held.dtype)))
        return moved[0], moved[1]

    def _recoloured(self, image: Tensor, rng: Generator) -> Tensor:
        low, high = image.min(), image.max()
        for change in self._recipe.changes:
            if rng.random() < change.probability:
                image = change.of(image, change.most, rng)
        if not self._recipe.within_window:
            return image
        if self._plan.intensity == "ct":
            return image.clamp(*((end - self._plan.mean) / self._plan.std for end in self._plan.clip))
        return image.clamp(low, high)


def _turn(dims: int, one: int, other: int, degrees: float) -> np.ndarray:
    """Rotation in the plane of two axes."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(dims)
    matrix[one, one] = matrix[other, other] = cosine
    matrix[one, other], matrix[other, one] = -sine, sine
    return matrix
