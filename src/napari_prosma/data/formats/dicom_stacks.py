"""Frames of one DICOM series that share size and direction -> stacks, each on an even grid.

A series may hold several: two kernels, thick slices among thin ones, echoes, phases. They are told apart by
what their headers say, and refused where nothing tells them apart, since slices of two would make one volume.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from napari_prosma.data.formats.dicom_frames import KINDS, NOT_OF_TIME, Frame

_UNEVEN = 0.1  # of the slice distance: more, and a slice is not where an even grid has it
_NO_GAP = 1.5  # of the usual slice distance: more, and a slice is missing between two
_MOST_MOVED = 0.6  # of the mean slice distance: further, and a slice is not shown at the mean distance
_MOST_UNEVEN = 3  # times the smallest slice distance
_MOST_MISSING = 4  # times as many places as slices are filled; beyond, the grid is none
_SAME_POSITION_MM = 1e-3
_FEW_REPEATED = 1 / 3  # of the places: so many slices may have been taken once more
_FEW_HOLES = 3
_HOLES = 0.25  # of the gaps: more, and no slices are missing, but their distance changes
_MOST_BESIDE = 2  # pixels or slice distances, the larger: further, and slices are of another stack
_APART = "; export the stacks as series of their own"
_STACKED = ("ConvolutionKernel", "SliceThickness")
"""What is one for a whole stack, so that slices of two values that lie among each other are two stacks."""


@dataclass(frozen=True)
class Stack:
    """Frames along their normal, no two in one place, and why they make no volume, if they do not."""

    frames: tuple[Frame, ...]
    of: str = ""  # what tells it from the others, such as "kernel B30f"
    why_none: str = ""
    notice: str = ""


def stacks_of(frames: Sequence[Frame]) -> list[Stack]:
    """The stacks of frames that share their directions."""
    apart = _apart(frames)
    if apart is None:
        return _unexplained(frames)
    return [Stack(tuple(place[0] for place in _places(part)), _of(part, apart)) for part in apart]


def normal_of(frame: Frame) -> np.ndarray:
    """Unit vector across a frame."""
    assert frame.orientation is not None
    return np.cross(frame.orientation[:3], frame.orientation[3:])


def even_places(along: np.ndarray) -> np.ndarray | None:
    """Whole numbers that slices at these distances have on an even grid; None where none fits.

    The usual gap is a first guess, then a small one, in case most have a hole behind them. It is refined by
    all neighbours that nothing is missing between: positions are often rounded, and a step that is off by a
    little is off by slices behind a large hole.
    """
    gaps = np.diff(along)
    for guess in np.quantile(gaps, (0.5, 0.25, 0), method="lower"):
        step = float(gaps[gaps < _NO_GAP * guess].mean())
        places = np.concatenate([[0], np.cumsum(np.round(gaps / step))]).astype(int)
        if places[-1] >= _MOST_MISSING * len(along) or np.any(np.diff(places) < 1):
            continue
        step = float(along @ places / (places @ places))
        if np.abs(along - places * step).max() <= _UNEVEN * step:
            return places
    return None


def frames_beyond(stack: Sequence[Frame], others: Sequence[Frame]) -> list[Frame]:
    """Those of the others that lie above or below a stack and continue its grid."""
    if not others or stack[0].position is None or stack[0].orientation is None:
        return []
    own = _along(stack)
    low, high = own[0] - _SAME_POSITION_MM, own[-1] + _SAME_POSITION_MM
    beyond = {_along([frame])[0]: frame for frame in others if not low < _along([frame])[0] < high}
    is_of_one_place = len(own) > 1 and np.ptp(own) < _SAME_POSITION_MM
    if not beyond or is_of_one_place:
        return []
    both = np.sort([*own, *beyond])
    is_even = len(own) < 3 or even_places(own - own[0]) is not None
    return [] if is_even and even_places(both - both[0]) is None else list(beyond.values())


def why_no_volume(frames: Sequence[Frame]) -> str:
    """Why a stack is none of one volume and what to do, in words; "" where it is."""
    if len(frames) < 3:
        return ""
    along, beside = _along(frames), beside_line(frames)
    gaps = np.diff(along)
    if beside.max() > _MOST_BESIDE * max(*(frames[0].spacing or (1.0,)), float(np.median(gaps))):
        name = frames[int(beside.argmax())].path.name
        return f"lie up to {beside.max():.3g} mm beside each other, '{name}' among them{_APART}"
    places = even_places(along)
    between = np.abs(along - np.linspace(along[0], along[-1], len(along))).max()
    is_in_slabs = gaps.max() > _MOST_UNEVEN * gaps.min()
    if places is None and is_in_slabs and between > _MOST_MOVED * np.ptp(along) / len(gaps):
        return (
            f"lie {gaps.min():.3g} to {gaps.max():.3g} mm apart, in slabs with gaps between them; give each "
            "slab as a series of its own, or resample all to one slice distance"
        )
    holes = 0 if places is None else int(np.sum(np.diff(places) > 1))
    if holes >= _FEW_HOLES and holes > _HOLES * len(gaps):
        apart = f"lie {gaps.min():.3g} to {gaps.max():.3g} mm apart"
        if np.sum(np.abs(np.diff(gaps)) > _UNEVEN * gaps.min()) <= _FEW_HOLES:
            return f"{apart}; resample them to one slice distance, or give those of one distance"
        return f"{apart}, as those of several stacks do{_APART}"
    return ""


def beside_line(frames: Sequence[Frame]) -> np.ndarray:
    """How far each frame of a stack lies from the line between the first and the last, in mm."""
    positions = np.array([frame.position for frame in frames])
    along = (positions - positions[0]) @ normal_of(frames[0])
    return np.linalg.norm(
        positions - positions[0] - np.outer(along / along[-1], positions[-1] - positions[0]), axis=1
    )


def _apart(frames: Sequence[Frame]) -> list[list[Frame]] | None:
    """Frames without two in one place, as few stacks as can be; None where no field tells them apart."""
    repeats = max(len(place) for place in _places(frames))
    if repeats == 1:
        return _among_each_other(frames)
    ways = []
    tried: list[list[list[Frame]]] = []
    for kind in range(len(KINDS)):
        parts = _by_kind(frames, kind)
        if 1 < len(parts) <= repeats and parts not in tried:
            tried.append(parts)
            found = [_apart(part) for part in parts]
            if all(found):
                ways.append([part for several in found if several for part in several])
    return min(ways, key=len) if ways else None


def _among_each_other(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Stacks of which none repeats a place of another, but whose slices lie among those of another."""
    for number, kind in enumerate(KINDS):
        parts = _by_kind(frames, number)
        if not 1 < len(parts) <= len(frames) // 2 or not all(map(_is_whole, parts)):
            continue
        if kind in _STACKED and _overlap(parts):
            return parts
        if not _is_nearly_even(frames) and (number < NOT_OF_TIME or _overlap(parts) or _are_far(parts)):
            return parts
    return [list(frames)]


def _is_whole(frames: Sequence[Frame]) -> bool:
    """Whether frames are several and lie on an even grid without holes."""
    along = _along(frames)
    places = even_places(along - along[0]) if len(along) > 1 else None
    return places is not None and int(places[-1]) == len(frames) - 1 and not why_no_volume(_sorted(frames))


def _is_nearly_even(frames: Sequence[Frame]) -> bool:
    """Whether frames lie on an even grid of which few slices are missing."""
    along = _along(frames)
    places = even_places(along - along[0])
    return places is not None and int(np.sum(np.diff(places) > 1)) <= _HOLES * (len(frames) - 1)


def _are_far(parts: Sequence[Sequence[Frame]]) -> bool:
    """Whether few stacks lie so far from each other that an even grid over all would be nearly empty."""
    ends = sorted((along[0], along[-1]) for along in map(_along, parts))
    return len(parts) <= _FEW_HOLES and any(
        above[0] - below[1] > _MOST_MISSING * (below[1] - below[0]) for below, above in pairwise(ends)
    )


def _overlap(parts: Iterable[Sequence[Frame]]) -> bool:
    """Whether any stack begins before the one below it ends, by more than a slice."""
    ends = sorted((along[0], along[-1], along[1] - along[0]) for along in map(_along, parts))
    return any(above[0] < below[1] - below[2] for below, above in pairwise(ends))


def _by_kind(frames: Sequence[Frame], kind: int) -> list[list[Frame]]:
    by_kind: dict[str, list[Frame]] = defaultdict(list)
    for frame in sorted(frames, key=lambda frame: frame.number):
        by_kind[frame.kinds[kind]].append(frame)
    return list(by_kind.values())


def _of(part: Sequence[Frame], apart: Sequence[Sequence[Frame]]) -> str:
    """What only the frames of one stack have in common, in words."""
    told = []
    for kind, name in enumerate(KINDS.values()):
        values = [{frame.kinds[kind] for frame in stack} for stack in apart]
        own = {frame.kinds[kind] for frame in part}
        if all(len(value) == 1 for value in values) and own != {""} and len(set(map(tuple, values))) > 1:
            told.append(f"{name} {own.pop()}")
    return ", ".join(told[:2])


def _unexplained(frames: Sequence[Frame]) -> list[Stack]:
    """Frames of which some lie in one place, and no field of the header tells why."""
    places = _places(frames)
    counts = {len(place) for place in places}
    is_numbered = all(len({frame.number for frame in place}) == len(place) for place in places)
    if len(counts) == 1 and (is_numbered or len(places) == 1):
        return [Stack(tuple(place[n] for place in places)) for n in range(counts.pop())]
    extra = sum(len(place) - 1 for place in places)
    first = tuple(place[0] for place in places)
    if extra > _FEW_REPEATED * len(places):
        return [Stack(first, why_none=f"repeat {extra} places, and their headers do not say why{_APART}")]
    return [Stack(first, notice=f"{extra} slices repeat a place and were left out")]


def _sorted(frames: Sequence[Frame]) -> list[Frame]:
    return [frame for place in _places(frames) for frame in place]


def _along(frames: Sequence[Frame]) -> np.ndarray:
    """Where frames lie along their normal, in mm, in order."""
    return np.sort(np.array([frame.position for frame in frames]) @ normal_of(frames[0]))


def _places(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames along their normal, those of one place together."""
    along = np.array([frame.position for frame in frames]) @ normal_of(frames[0])
    places: list[tuple[float, list[Frame]]] = []
    for here, frame in sorted(
        zip(along.tolist(), frames, strict=True), key=lambda one: (one[0], one[1].number)
    ):
        if places and here - places[-1][0] < _SAME_POSITION_MM:
            places[-1][1].append(frame)
        else:
            places.append((here, [frame]))
    return [there for _, there in places]
