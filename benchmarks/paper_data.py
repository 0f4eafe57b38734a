"""The image sets of Tables 1 and 3: found, checked for what is missing, split, packed into one file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.layouts import find_cases
from napari_prosma.errors import ConfigError, DataError

LAYOUTS = ("BUSI", "GlaS", "Kvasir-SEG")
SIZES = {"BUSI": 256, "GlaS": 512, "Kvasir-SEG": 256}
"""Side that the code of U-KAN and of U-KAN 2.0 resizes to, in pixels."""
NAMED = {
    "BUSI": [
        f"{group} ({n})" for group, most in (("benign", 437), ("malignant", 210)) for n in range(1, most + 1)
    ],
    "GlaS": [
        f"{part}_{n}"
        for part, most in (("train", 85), ("testA", 60), ("testB", 20))
        for n in range(1, most + 1)
    ],
}
"""Every image of a set whose names count; Kvasir-SEG's do not."""
KVASIR_IMAGES = 1000
CLUSTERS = {"BUSI": "busi", "Kvasir-SEG": "kvasir_seg"}
"""Where ``splits.json`` keeps what it knows of a layout."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set as the runs take it: resized, in the order of its names.

    Attributes
    ----------
    layout : one of ``LAYOUTS``
    names : N names, sorted as U-KAN's code sorts them
    images : (N, 1 or 3, size, size) uint8
    masks : (N, 1, size, size) uint8, 0 or 1
    missing : tuple of str
        What the whole set has and this one does not, in words.
    """

    layout: str
    names: tuple[str, ...]
    images: np.ndarray
    masks: np.ndarray
    missing: tuple[str, ...]

    @property
    def size(self) -> int:
        """Side in pixels."""
        return self.images.shape[-1]


def read_pictures(path: Path, size: int | None = None, incomplete: bool = False) -> Pictures:
    """A folder of BUSI, GlaS or Kvasir-SEG, or what :func:`pack` made of one.

    Images are resized bilinearly, masks to the nearest pixel. Several masks of one image are united, which
    U-KAN's loader does not do; images without a lesion are left out.

    Parameters
    ----------
    size : int, optional
        Side in pixels; by default that of the published protocol.
    incomplete : bool
        Go on with a part of the set.

    Raises
    ------
    DataError
        Another layout, images that are missing, or a packed file of another size.
    """
    found = _unpacked(path, size) if path.suffix == ".npz" else _resized(path, size)
    if found.missing and not incomplete:
        raise DataError(
            f"'{path}' is not the whole of {found.layout}: {'; '.join(found.missing)}. Complete it, or say "
            f"--incomplete to go on without"
        )
    return found


def pack(pictures: Pictures, path: Path) -> None:
    """Write a set as one compressed array file, gray images with one channel, a bit per pixel of a mask."""
    with written_whole(path) as temporary:
        np.savez_compressed(
            temporary,
            layout=pictures.layout,
            names=np.array(pictures.names),
            missing=np.array(pictures.missing, dtype=str),
            images=pictures.images,
            masks=np.packbits(pictures.masks, axis=-1),
        )


def _unpacked(path: Path, size: int | None) -> Pictures:
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; make it with: python benchmarks/paper.py pack")
    try:
        with np.load(path) as held:
            images = held["images"]
            masks = np.unpackbits(held["masks"], axis=-1, count=images.shape[-1])
            layout, names, missing = str(held["layout"]), held["names"].tolist(), held["missing"].tolist()
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"'{path}' is no set packed by this program ({error}); pack it again") from error
    if size not in (None, images.shape[-1]):
        raise DataError(
            f"'{path}' holds images of {images.shape[-1]} pixels, asked for {size}; pack it again"
        )
    return Pictures(layout, tuple(names), images, masks, tuple(missing))


def _resized(folder: Path, size: int | None) -> Pictures:
    found = find_cases(folder)
    if found.layout not in LAYOUTS:
        raise DataError(
            f"'{folder}' was read as {found.layout} with {len(found.cases)} cases, and the tables are of "
            f"{', '.join(LAYOUTS)}; give the folder as it was published"
        )
    side = size or SIZES[found.layout]
    images, masks, names = [], [], []
    for case in sorted((c for c in found.cases if c.group != "normal"), key=lambda case: case.name):
        assert case.read_label is not None
        image = torch.from_numpy(np.ascontiguousarray(case.read_image().array, np.float32))[None]
        mask = torch.from_numpy((case.read_label() > 0).astype(np.float32))[None, None]
        smooth = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
        images.append(smooth.round().byte().numpy())
        masks.append(F.interpolate(mask, (side, side), mode="nearest").byte().numpy())
        names.append(case.name)
    return Pictures(
        found.layout,
        tuple(names),
        np.concatenate(images),
        np.concatenate(masks),
        _missing(found.layout, names),
    )


def _missing(layout: str, names: Sequence[str]) -> tuple[str, ...]:
    if layout not in NAMED:
        short = KVASIR_IMAGES - len(names)
        return (f"{short} of {KVASIR_IMAGES} images are missing",) if short > 0 else ()
    absent = sorted(set(NAMED[layout]) - set(names))
    if not absent:
        return ()
    rest = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
    return (f"{len(absent)} of {len(NAMED[layout])} images are missing: {', '.join(absent[:5])}{rest}",)


# ---- splits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Indices, each part in the order in which it was drawn.

    ``training`` is learned from, ``inner`` is for choosing an epoch and may be empty, ``reported`` is what
    the tables report.
    """

    training: tuple[int, ...]
    inner: tuple[int, ...]
    reported: tuple[int, ...]


def split(
    names: Sequence[str],
    seed: int,
    clusters: Sequence[Sequence[str]] = (),
    inner: float = 0.0,
    reported: int | Sequence[str] | None = None,
) -> Split:
    """A fifth to report, as scikit-learn's ``train_test_split`` draws it; of the rest a share to choose on.

    Parameters
    ----------
    names : of all images, in order
    seed : int
    clusters : of names, optional
        Near-duplicates. Whole clusters are drawn until a part is full, so that no two parts share one.
    inner : float
        Share of what is not reported.
    reported : number or names, optional
        Report so many, or these, instead of a fifth.

    Raises
    ------
    ConfigError
        Clusters or names of another set.
    """
    together = {name: number for number, cluster in enumerate(clusters) for name in cluster}
    listed = () if reported is None or isinstance(reported, int) else reported
    for what, wanted in (("near-duplicates", together), ("images to report", listed)):
        if wanted and not set(wanted) & set(names):
            raise ConfigError(f"none of the {len(wanted)} {what} is in this set; they belong to another one")
    groups: dict[object, list[int]] = {}
    for n, name in enumerate(names):
        groups.setdefault(together.get(name, name), []).append(n)
    order = np.random.RandomState(seed).permutation(len(groups))
    held = list(groups.values())
    drawn = [held[k] for k in order]
    if listed:
        # A cluster that reaches into the list is reported whole.
        wanted_here = [any(names[n] in set(listed) for n in group) for group in drawn]
        taken = [n for group, here in zip(drawn, wanted_here, strict=True) if here for n in group]
        rest = [group for group, here in zip(drawn, wanted_here, strict=True) if not here]
    else:
        number = reported if isinstance(reported, int) else math.ceil(0.2 * len(names))
        taken, rest = _filled(drawn, number)
    left = sum(map(len, rest))
    chosen_on, training = _filled(rest, math.ceil(inner * left))
    return Split(tuple(n for group in training for n in group), tuple(chosen_on), tuple(taken))


def _filled(groups: Sequence[list[int]], number: int) -> tuple[list[int], list[list[int]]]:
    """Members of the first groups until there are ``number``, and the groups that are left."""
    taken: list[int] = []
    for at, group in enumerate(groups):
        if len(taken) >= number:
            return taken, list(groups[at:])
        taken += group
    return taken, []
