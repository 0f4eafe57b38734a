"""Filling between slices: drawn slices of a class become the shapes of the slices that lie between them.

Every island (connected piece) of a drawn slice is matched with those of the next drawn one, and the signed
distances to their outlines are blended (Raya and Udupa, IEEE TMI 1990); what is alone fades out on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_prosma.data.labels import present_values
from napari_prosma.errors import DataError

_TOUCHING = np.ones((3, 3), bool)
_REACH = 2.0
"""Islands that do not overlap are one if their centres lie closer than this many times both radii."""
_OUTSIDE = -1e6
"""Signed distance where there is nothing at all; finite, because it is blended."""


@dataclass(frozen=True)
class Filling:
    """Elements to write: their index along each axis, (n,) each, and their values, (n,).

    ``alone`` are classes that are drawn on one slice only, of which nothing was filled.
    """

    indices: tuple[np.ndarray, ...]
    values: np.ndarray
    alone: tuple[int, ...] = ()


def fill_between(
    labels: np.ndarray, spacing: Sequence[float], across: int, classes: Iterable[int] | None = None
) -> Filling:
    """What lies between the drawn slices of each class; nothing that is drawn is among it.

    Parameters
    ----------
    labels : (z, y, x) integers
        0 and below is nothing drawn.
    spacing : (3,)
    across : int
        Axis across which the slices lie.
    classes : values, optional
        Only of these.

    Raises
    ------
    DataError
        No class is drawn on two slices with one between them.
    """
    drawn = _drawn_slices(labels, across, classes)
    gaps = [(value, a, b) for value, slices in drawn.items() for a, b in pairwise(slices) if b - a > 1]
    if not gaps:
        raise DataError(_nothing_between(drawn))
    stack = np.moveaxis(labels, across, 0)
    in_plane = [s for axis, s in enumerate(spacing) if axis != across]
    filling = _filling(stack, across, _blended(stack, in_plane, gaps))
    return replace(filling, alone=tuple(value for value, slices in drawn.items() if len(slices) == 1))


def fill_to(labels: np.ndarray, across: int, to: int, classes: Iterable[int] | None = None) -> Filling:
    """The drawn slice that is nearest to the slice ``to``, continued up to it as it is.

    What is drawn on ``to`` itself needs no continuing, the other classes do. Of two slices that are equally
    near the classes of both; of a class on both the first.

    Raises ``DataError``: nothing is drawn, or every class is on the slice ``to``.
    """
    drawn = _drawn_slices(labels, across, classes)
    if not drawn:
        raise DataError(_nothing_between(drawn))
    drawn = {value: slices for value, slices in drawn.items() if to not in slices}
    if not drawn:
        raise DataError(f"slice {to} is drawn already; go to the slice up to which the shape continues")
    way = min(abs(n - to) for slices in drawn.values() for n in slices)
    stack = np.moveaxis(labels, across, 0)
    scores = []
    for value, slices in drawn.items():
        nearest = next((n for n in slices if abs(n - to) == way), None)
        if nearest is None:
            continue
        mask = stack[nearest] == value
        box = _box(mask)
        step = 1 if to > nearest else -1
        score = _signed_distance(mask[box], (1.0, 1.0))
        scores += [(value, n, box, score) for n in range(nearest + step, to + step, step)]
    return _filling(stack, across, scores)


def shape_between(one: np.ndarray, other: np.ndarray, spacing: Sequence[float], share: float) -> np.ndarray:
    """The mask (y, x) at a share of the way from one mask to another, 0 to 1."""
    found = np.zeros(one.shape, bool)
    if (one | other).any():
        box = _box(one | other)
        pairs = _pairs(one[box], other[box], spacing)
        found[box] = np.max([_between(*pair, share) for pair in pairs], axis=0) > 0
    return found


def drawn_slices(labels: np.ndarray, across: int) -> int:
    """How many slices of a volume hold anything drawn."""
    axes = tuple(axis for axis in range(labels.ndim) if axis != across)
    return int((labels > 0).any(axis=axes).sum())


_Score = tuple[int, int, tuple[slice, ...], np.ndarray]
"""A class, a slice, a box in it, and the signed distance there: above 0 is inside."""


def _drawn_slices(labels: np.ndarray, across: int, classes: Iterable[int] | None) -> dict[int, list[int]]:
    wanted = None if classes is None else set(classes)
    drawn: dict[int, list[int]] = {}
    for number, plane in enumerate(np.moveaxis(labels, across, 0)):
        for value in present_values(plane).tolist():
            if value > 0 and (wanted is None or value in wanted):
                drawn.setdefault(value, []).append(number)
    return drawn


def _nothing_between(drawn: dict[int, list[int]]) -> str:
    if not drawn:
        return "nothing is drawn yet; draw the structure on two slices, then fill between them"
    if all(len(slices) == 1 for slices in drawn.values()):
        value, (number,) = next(iter(drawn.items()))
        return (
            f"class {value} is drawn on slice {number} alone; draw it on a second slice, then fill between "
            "them, or go to the slice up to which it continues and fill to here"
        )
    return "no slice is left between the drawn ones; draw further away, then fill between"


def _blended(
    stack: np.ndarray, spacing: Sequence[float], gaps: Iterable[tuple[int, int, int]]
) -> Iterator[_Score]:
    for value, a, b in gaps:
        masks = stack[a] == value, stack[b] == value
        box = _box(masks[0] | masks[1])
        pairs = _pairs(masks[0][box], masks[1][box], spacing)
        for number in range(a + 1, b):
            t = (number - a) / (b - a)
            yield value, number, box, np.max([_between(*pair, t) for pair in pairs], axis=0)


def _pairs(
    one: np.ndarray, other: np.ndarray, spacing: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Signed distances of islands that belong together, and how far they move."""
    return [
        (_signed_distance(left, spacing), _signed_distance(right, spacing), shift)
        for left, right, shift in _matched(one, other, spacing)
    ]


def _between(one: np.ndarray, other: np.ndarray, shift: np.ndarray, t: float) -> np.ndarray:
    """Signed distance at the share ``t`` of the way; ``shift`` (2,) is how far the island moves on it."""
    if other.max() <= 0:
        return one - t * one.max()
    if one.max() <= 0:
        return other - (1 - t) * other.max()
    if shift.any():
        one = ndimage.shift(one, t * shift, order=1, mode="nearest")
        other = ndimage.shift(other, (t - 1) * shift, order=1, mode="nearest")
    return (1 - t) * one + t * other


def _matched(
    one: np.ndarray, other: np.ndarray, spacing: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Islands of two slices that belong together, as masks, and how far they move; one may be empty.

    Islands that overlap belong together, all of them where one parts into several; of the others the nearest.
    """
    (ones, n), (others, m) = (ndimage.label(mask, _TOUCHING) for mask in (one, other))
    both = (ones > 0) & (others > 0)
    links = np.unique(np.stack([ones[both] - 1, others[both] - 1 + n]), axis=1)
    links = np.concatenate([links, _nearest(ones, others, set(links.ravel().tolist()), spacing)], axis=1)
    graph = coo_array((np.ones(links.shape[1]), (links[0], links[1])), shape=(n + m, n + m))
    count, group = connected_components(graph, directed=False)
    for number in range(count):
        members = np.flatnonzero(group == number)
        left = np.isin(ones, members[members < n] + 1)
        right = np.isin(others, members[members >= n] - n + 1)
        moved = np.zeros(2)
        if len(members) == 2 and left.any() and right.any():
            moved = np.subtract(ndimage.center_of_mass(right), ndimage.center_of_mass(left))
        yield left, right, moved


def _nearest(ones: np.ndarray, others: np.ndarray, linked: set[int], spacing: Sequence[float]) -> np.ndarray:
    """Links (2, k) between islands that overlap nothing, nearest first, where they are near enough."""
    n = int(ones.max())
    alone = (
        [i for i in range(n) if i not in linked],
        [j for j in range(int(others.max())) if j + n not in linked],
    )
    centres, radii = [], []
    for labelled, numbers in zip((ones, others), alone, strict=True):
        places = ndimage.center_of_mass(labelled > 0, labelled, [i + 1 for i in numbers])
        centres.append(np.reshape(places, (-1, 2)) * spacing)
        areas = np.bincount(labelled.ravel())[[i + 1 for i in numbers]] * np.prod(spacing)
        radii.append(np.sqrt(areas / np.pi))
    apart = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1)
    apart[apart > _REACH * (radii[0][:, None] + radii[1][None])] = np.inf
    links: list[tuple[int, int]] = []
    while apart.size and np.isfinite(apart.min()):
        i, j = np.unravel_index(np.argmin(apart), apart.shape)
        links.append((alone[0][i], alone[1][j] + n))
        apart[i], apart[:, j] = np.inf, np.inf
    return np.array(links, int).reshape(-1, 2).T


def _signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance to the outline, positive inside."""
    if not mask.any():
        return np.full(mask.shape, _OUTSIDE, np.float32)
    inside, outside = (ndimage.distance_transform_edt(part, spacing) for part in (mask, ~mask))
    return (inside - outside).astype(np.float32)


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask and one element more, so that its outline lies within."""
    found = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    return tuple(slice(max(int(at[0]) - 1, 0), int(at[-1]) + 2) for at in found)


def _filling(stack: np.ndarray, across: int, scores: Iterable[_Score]) -> Filling:
    """Where a class is inside and nothing is drawn; of several the one that is deeper inside."""
    best = np.zeros(stack.shape, np.float32)
    filled = np.zeros(stack.shape, stack.dtype)
    for value, number, box, score in scores:
        there, result = best[number][box], filled[number][box]
        wins = (score > there) & (stack[number][box] == 0)
        there[wins] = score[wins]
        result[wins] = value
    indices = list(np.nonzero(filled))
    values = filled[tuple(indices)]
    indices.insert(across, indices.pop(0))
    return Filling(tuple(indices), values)
