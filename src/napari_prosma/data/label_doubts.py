"""What the values of masks are taken for, by looking at some of them, and what is doubtful about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from napari_prosma.data.formats import pictures
from napari_prosma.data.labels import VALUES_SHOWN, LabelRule, present_values
from napari_prosma.data.planes import slice_axis
from napari_prosma.data.readers import read_image, read_label, read_label_with_note
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

T = TypeVar("T")
SAMPLED_PICTURES = 32
_SAMPLED_VOLUMES = 8
_LOSSY = (".jpg", ".jpeg", ".jfif")
_FEWEST_INSTANCES = 5
_MANY_VALUES = 8
_COLOUR_ABOVE = 0xFFFF
_ONE_PICTURE = 20
"""So many numbers from 1 on, each in one piece, are objects even where a single picture tells."""
_IN_ONE_PIECE = 0.9
_SIZE_DOES_NOT_FOLLOW = 0.5
"""Share of the spread of sizes that is left among equal numbers: classes have their size, objects any."""
_SOFT_VALUES, _INSIDE = 3, 0.05
_FEW_SLICES, _NO_TAPER = 3, 0.75
"""Fewer are no stack; share of its largest section that a structure has left where it ends."""
_FACTORS = (1000, 256)
_FEWEST_COUNTS = 2
"""Where masks hold no more different numbers of them, values are classes, some of which are missing."""
_HOLLOW = 2.0
"""A closed outline encloses more than this times itself."""
_MOST_ELEMENTS = 1 << 22
_DARK, _HALF, _BRIGHT, _A_CLASS = 63, 127, 192, 0.1
"""Between dark and bright JPEG puts no flat part of a mask of two values; share from which it is told."""
_GRAYS, _SAME_GRAY, _MOSTLY = (32, 223), 16, 0.5
"""What no mask of 0 and 255 is; how far JPEG changes it; share of it that a picture keeps under drawings."""


@dataclass(frozen=True)
class LabelLook:
    """What one mask shows."""

    values: frozenset[int] = frozenset()
    note: str = ""  # what was done to read it as whole numbers
    # Between 0 and 255 there are only values at edges, as after resizing with interpolation.
    is_soft: bool = False
    is_hollow: bool = False  # its foreground is one element thin and encloses more than itself
    sizes: tuple[tuple[int, int], ...] = ()  # value -> elements; of many values only
    whole: float = 0.0  # share of the values that lie in one piece; of many values only
    blends: frozenset[int] = frozenset()  # values at edges only, as after resizing with interpolation
    around: int = 0  # value but 0 that every edge of the image has, while 0 lies within; else 0
    in_part: str = ""  # how a foreground lies that only some slices of a volume may have; else ""
    middle: float = 0.0  # share of what is not dark that lies flat between dark and bright; of JPEG only


def guessed_rule(
    masks: Sequence[Path], dims: int, foreground: str = "foreground"
) -> tuple[LabelRule, tuple[str, ...]]:
    """Rule of masks, and what is to be known of them; all are read where there are more than two classes.

    Raises ``DataError``: as ``LabelRule.of_values``.
    """
    sampled = evenly(masks, SAMPLED_PICTURES if dims == 2 else _SAMPLED_VOLUMES)
    looks = [look_at(path, dims) for path in sampled]
    palettes = _palettes(sampled, looks)
    _require_one_palette(palettes)
    lossy = any(is_lossy(path) for path in masks)
    rule, doubts = _rule_of(looks, dims, lossy, foreground)
    if rule.kind == "values":
        doubts += _said_of_palettes([shown for _, shown in palettes], rule)
    seen = set().union(*(look.values for look in looks))
    if rule.kind == "values" or not seen - {0}:
        rest = (_values(path, dims) for path in set(masks) - set(sampled))
        seen = seen.union(*rest)
        if rule.kind != "values" or not seen <= {*rule.stored, rule.unlabelled}:
            rule = _rule_of_values(seen, _factor(looks)[1], lossy, foreground)
        if rule.kind == "values" and 0 not in seen:
            doubts += (
                "0 occurs in no mask, so nothing is learned as background; if one of the values is the "
                "background, set it as such (class table, or --classes VALUE=background,OTHER=NAME)",
            )
    return rule, doubts


def _palettes(masks: Sequence[Path], looks: Sequence[LabelLook]) -> list[tuple[Path, dict[int, int]]]:
    """Masks with a palette, and the colour of every value that occurs in each."""
    read = (
        (path, pictures.palette(path), look.values)
        for path, look in zip(masks, looks, strict=True)
        if look.values and path.name.lower().endswith(pictures.SUFFIXES)
    )
    return [
        (path, {value: palette[value] for value in sorted(values & palette.keys())})
        for path, palette, values in read
        if palette
    ]


def _require_one_palette(palettes: Sequence[tuple[Path, dict[int, int]]]) -> None:
    """Refuse masks whose palettes are sorted each in its own way, as by programs that save few colours.

    Raises ``DataError``: a colour has two numbers.
    """
    shown: dict[int, tuple[int, Path]] = {}
    binary = all(len(palette.keys() - {0}) <= 1 for _, palette in palettes)  # 1 in some, 255 in others
    for path, palette in palettes:
        counts = Counter(palette.values())
        for value, colour in palette.items():
            if counts[colour] > 1:  # of several numbers, it tells none
                continue
            number, first = shown.setdefault(colour, (value, path))
            is_other = number != value and pictures.palette(first) != pictures.palette(path)
            if is_other and not (binary and number and value):
                raise DataError(
                    f"'{path}' shows #{colour:06x} as {value}, but '{first.name}' as {number}: each mask "
                    "sorts its palette in its own way, and its numbers mean nothing; save the masks as RGB"
                )


def _said_of_palettes(palettes: Sequence[dict[int, int]], rule: LabelRule) -> tuple[str, ...]:
    """What to say of values that look the same to whoever drew them."""
    of_colour: dict[int, set[int]] = defaultdict(set)
    for palette in palettes:
        for value, colour in palette.items():
            if value != rule.unlabelled:
                of_colour[colour].add(value)
    said = []
    for same in of_colour.values() if len(of_colour) > 1 else ():
        first, *others = sorted(same)
        for value in others:
            remedy = f"{value}=background" if not first else "one name for both"
            said.append(
                f"the palette of the masks shows {value} in the same colour as {first}"
                f"{', the background' if not first else ''}, but it is read as a class of its own; if that "
                f"is wrong, change it (class table, or --classes with {remedy})"
            )
    return tuple(said)


def require_no_drawing(image: Path, label: Path) -> None:
    """Refuse a label that is its image, perhaps with something drawn on it: its grays are those of the image.

    Raises ``DataError``.
    """
    try:
        ours, theirs = (read_image(path).array for path in (image, label))
    except DataError:  # said when its case is read
        return
    if ours.shape != theirs.shape or ours.dtype != np.uint8 or theirs.dtype != np.uint8:
        return
    gray = (ours >= _GRAYS[0]) & (ours <= _GRAYS[1])
    apart = abs(ours[gray].astype(int) - theirs[gray])
    if gray.any() and float((apart <= _SAME_GRAY).mean()) >= _MOSTLY:
        raise DataError(
            f"'{label}' is the image '{image.name}', perhaps with something drawn on it, not a mask; export "
            "what was drawn as a mask, or as polygons"
        )


def rule_of_arrays(
    arrays: Sequence[np.ndarray], foreground: str = "foreground"
) -> tuple[LabelRule, tuple[str, ...]]:
    """The same of labels in memory."""
    looks = [_look(array, "", Geometry.pixels(array.ndim)) for array in arrays]
    return _rule_of(looks, max(array.ndim for array in arrays), False, foreground)


def _rule_of(
    looks: Sequence[LabelLook], dims: int, lossy: bool, foreground: str
) -> tuple[LabelRule, tuple[str, ...]]:
    seen = set().union(*(look.values for look in looks))
    doubts = list(dict.fromkeys(look.note for look in looks if look.note))
    doubts += _said_of_outlines(looks)
    doubts += slices_in_words([look.in_part for look in looks if look.values - {0}])
    around = {look.around for look in looks if len(look.values) > 1}
    around = {value if value > _BRIGHT else 0 for value in around} if lossy else around
    if len(around) == 1 and 0 not in around:
        (value,) = around
        named = [f",{other}=NAME" for other in ([0] if lossy else sorted(seen - {value}))]
        others = "".join(named[:VALUES_SHOWN]) + (",..." if len(named) > VALUES_SHOWN else "")
        doubts.append(
            f"{value} surrounds all else in every mask: if {value} is the background, set it as such (class "
            f"table, or --classes {value}=background{others})"
        )
    if lossy and any(look.middle > _A_CLASS for look in looks):
        doubts.append(
            "some masks have flat areas of a middle gray or of several colours, as if for other classes, but "
            "JPEG does not keep exact values: only values brighter than half are used; export the masks as "
            "PNG, with a value for each class"
        )
    soft = [look for look in looks if look.is_soft]
    if soft and not lossy and all(look.is_soft or look.values <= {0, 255} for look in looks):
        doubts.append("the masks have soft edges, as after resizing: values brighter than half are used")
        return LabelRule("above", ("background", foreground)), tuple(doubts)
    if not lossy and _are_objects(looks, dims):
        return LabelRule.instances(foreground), tuple(doubts)
    of_one = [look.values for look in looks if {1, 255} <= look.values]
    if of_one and not lossy and seen - {0} <= {1, 255}:
        doubts.append("255 beside 1 is read as an undecided border, and nothing is learned there")
        return LabelRule("values", ("background", foreground), (0, 1), unlabelled=255), tuple(doubts)
    factor, of_objects = _factor(looks)
    rule = _rule_of_values(seen, of_objects, lossy, foreground)
    if factor:
        first = min(value for value in seen if value >= factor and value + 1 in seen)
        product = f"class {first // factor} x {factor} + number of an object"
        doubts.append(
            f"{first} and {first + 1} are read as objects of one class ({product}); to read each value as a "
            "class of its own, use 'Each value a class' below the class table, or name the values (--classes)"
            if of_objects
            else f"{first} and {first + 1} are read as separate classes; if they number objects ({product}), "
            "give those of one class the same name (class table, or --classes)"
        )
    blends = frozenset().union(*(look.blends for look in looks))
    if len(blends) > _SOFT_VALUES and rule.kind == "values":
        example = f"#{min(blends):06x}" if max(blends) > _COLOUR_ABOVE else str(min(blends))
        doubts.append(
            f"{len(blends)} values such as {example} lie only at edges, as after resizing or JPEG, and are "
            "read as classes; export the masks without smoothing, or name only the true values (class "
            "table, or --classes)"
        )
    elif len(rule.class_names) > _ONE_PICTURE and rule.kind == "values" and not factor:
        doubts.append(
            f"{len(rule.class_names) - 1} values are read as separate classes; if they number objects, make "
            "them one class (class table, or --classes any=NAME)"
        )
    elif _may_be_objects(looks):
        doubts.append(
            "values from 1 on are read as separate classes, but each value is one connected region, and "
            "masks have different numbers of them; if they number objects, make them one class (class table, "
            "or --classes any=NAME)"
        )
    return rule, tuple(doubts)


def _factor(looks: Sequence[LabelLook]) -> tuple[int, int]:
    """By what classes are multiplied where values are those products and the number of an object.

    As in Cityscapes (26003 is the fourth car) and KITTI; 0 where they are not. Of the numbers of an atlas
    (1001 to 1035) most masks have as many: the second is 0 where the masks do not vary in them.
    """
    for factor in _FACTORS:
        numbers = [_objects_by_class(look.values, factor) for look in looks if max(look.values, default=0)]
        of_class: dict[int, set[int]] = defaultdict(set)
        for found in numbers:
            for number, objects in found.items():
                of_class[number] |= objects
        in_order = all(
            objects in ({*range(len(objects))}, {*range(1, len(objects) + 1)})
            for found in numbers
            for objects in found.values()
        )
        if in_order and max(map(len, of_class.values()), default=0) > 1:
            counts = [tuple(len(found.get(n, ())) for n in of_class) for found in numbers]
            vary = any(len({*several} - {0}) > _FEWEST_COUNTS for several in zip(*counts, strict=True))
            usual = max(map(counts.count, counts))
            return factor, factor if vary and usual <= len(counts) / 2 else 0
    return 0, 0


def _objects_by_class(values: Iterable[int], factor: int) -> dict[int, set[int]]:
    of_class: dict[int, set[int]] = defaultdict(set)
    for value in values:
        if value >= factor:
            of_class[value // factor].add(value % factor)
    return of_class


def _rule_of_values(seen: Iterable[int], factor: int, lossy: bool, foreground: str) -> LabelRule:
    if not factor:
        return LabelRule.of_values(seen, lossy, foreground)
    classes = {value: value // factor if value >= factor else value for value in sorted(seen)}
    pairs = ((value, f"label {number}") for value, number in classes.items() if number)
    return LabelRule.of_pairs([(0, "background"), *pairs])


def _said_of_outlines(looks: Sequence[LabelLook]) -> list[str]:
    hollow = sum(look.is_hollow for look in looks)
    if not hollow or hollow < sum(bool(look.values - {0}) for look in looks) / 2:
        return []
    return [
        "the labels are outlines one element thin, so only lines would be learned; to learn the area "
        "inside, fill the outlines (class table, or --classes with ,filled at the end)"
    ]


def slices_in_words(found: Sequence[str]) -> tuple[str, ...]:
    """What to say of volumes, each with a foreground that lies as :func:`in_part` says."""
    counts = Counter(found)
    del counts[""]
    (where, number), *_ = counts.most_common(1) or [("", 0)]
    if not number or number < len(found) / 2:
        return ()
    return (
        f"{where} in {number} of {len(found)} volumes checked, and what is not labelled is "
        "counted as background; if the other slices are not drawn yet, "
        "set 'Labels are' to 'only in some slices' (--labelled slices), or add ,slices to the classes",
    )


def look_at(path: Path, dims: int | None = None) -> LabelLook:
    """A look at a mask; at one that cannot be read nothing, which is said when its case is read."""
    try:
        stored, geometry, note = read_label_with_note(path, dims)
    except DataError:
        return LabelLook()
    found = _look(stored, note, geometry)
    if not is_lossy(path):
        return found
    return replace(found, middle=max(_flat_middle(stored), _flat_colours(read_image(path).array)))


def _flat_middle(stored: np.ndarray) -> float:
    """Share of what is not dark whose neighbours in the plane are neither dark nor bright either."""
    return _share_of_flat((stored > _DARK) & (stored < _BRIGHT), stored > _DARK)


def _flat_colours(array: np.ndarray) -> float:
    """Share of what is drawn in (C, y, x) that is flat and of another colour than most of it."""
    bright = array > _HALF
    colour = np.tensordot(1 << np.arange(len(bright)), bright, axes=1)
    counts = np.bincount(colour.ravel())
    counts[0] = 0
    usual = int(np.argmax(counts))
    return _share_of_flat((colour > 0) & (colour != usual), colour > 0)


def _share_of_flat(wanted: np.ndarray, drawn: np.ndarray) -> float:
    from scipy import ndimage

    inside = ndimage.binary_erosion(wanted, np.ones((3, 3) if wanted.ndim == 2 else (1, 3, 3)))
    return float(inside.sum() / max(1, np.count_nonzero(drawn)))


def _look(stored: np.ndarray, note: str, geometry: Geometry) -> LabelLook:
    values = frozenset(int(value) for value in present_values(stored))
    if len(values) < 2 or (stored.size > _MOST_ELEMENTS and stored.ndim < 3):
        return LabelLook(values, note)
    several = len(values) > _FEWEST_INSTANCES
    is_small = stored.size <= _MOST_ELEMENTS and len(values) > 2
    shift = _shift_of(values)
    sizes, whole = (
        _sizes(stored >> shift)
        if (several or is_small) and max(values) >> shift <= 0xFFFF and min(values) >= 0
        else ((), 0.0)
    )
    soft = (
        len(values) >= 2 + _SOFT_VALUES
        and {0, 255} <= values
        and max(values) == 255
        and _has_soft_edges(stored)
    )
    hollow = len(values) <= 3 and is_hollow(stored != 0)
    # Each edge is in many pieces, a small object in one.
    may_blend = max(values) > _COLOUR_ABOVE or (stored.ndim == 2 and whole < _IN_ONE_PIECE)
    blends = _at_edges(stored) if several and may_blend else frozenset()
    part = in_part(stored != 0, geometry) if stored.ndim == 3 else ""
    return LabelLook(values, note, soft, hollow, sizes, whole, blends, _around(stored), part)


def in_part(drawn: np.ndarray, geometry: Geometry) -> str:
    """How the foreground of a volume (z, y, x) lies that may have been drawn in some of its slices only."""
    across = slice_axis(geometry)
    plane = tuple(axis for axis in range(drawn.ndim) if axis != across)
    sizes = np.count_nonzero(drawn, axis=plane)
    (has,) = np.nonzero(sizes)
    if not len(has) or len(sizes) < _FEW_SLICES:
        return ""
    if len(has) == 1:
        return "labels are in a single slice"
    gaps = np.diff(has)
    if gaps.min() > 1:
        return "labels are in single slices with unlabelled ones between them"
    ends = [end for end in (has[0], has[-1]) if 0 < end < len(sizes) - 1]
    is_flat = bool(ends) and min(sizes[ends]) >= _NO_TAPER * sizes.max()
    width = float(np.sqrt(sizes.max() * np.prod([geometry.spacing[axis] for axis in plane])))
    is_thin = len(has) * geometry.spacing[across] < width / 2
    if gaps.max() == 1 and is_flat and (len(has) >= _FEW_SLICES or is_thin):
        return "labels end abruptly from one slice to the next"
    return ""


def _around(stored: np.ndarray) -> int:
    edges = (stored[..., 0, :], stored[..., -1, :], stored[..., 0], stored[..., -1])
    found = {int(value) for edge in edges for value in (edge.min(), edge.max())}
    return found.pop() if len(found) == 1 else 0


def is_hollow(on: np.ndarray) -> bool:
    """Whether a foreground (*spatial) is a closed outline, one element thin, where it is largest."""
    from scipy import ndimage

    if on.ndim > 2:
        counts = [
            np.count_nonzero(on, axis=tuple(m for m in range(on.ndim) if m != n)) for n in range(on.ndim)
        ]
        return any(is_hollow(np.take(on, int(np.argmax(count)), axis=n)) for n, count in enumerate(counts))
    if not on.any() or ndimage.binary_erosion(on, np.ones((3, 3))).any():
        return False
    return float(ndimage.binary_fill_holes(on).sum()) > (1 + _HOLLOW) * float(on.sum())


def _has_soft_edges(stored: np.ndarray) -> bool:
    """Whether values between 0 and 255 hardly ever lie among their own."""
    between = (stored > 0) & (stored < 255)
    return float(_among_its_own(stored)[between].mean()) <= _INSIDE


def _at_edges(stored: np.ndarray) -> frozenset[int]:
    """Values that hardly ever lie among their own."""
    found, order, counts = np.unique(stored, return_inverse=True, return_counts=True)
    within = np.bincount(order.ravel(), _among_its_own(stored).ravel(), len(found))
    return frozenset(found[within <= _INSIDE * counts].tolist())


def _among_its_own(stored: np.ndarray) -> np.ndarray:
    """Where an element has the value of its neighbours in the plane."""
    alike = np.ones(stored.shape, bool)
    for axis in (-2, -1):
        same = np.diff(stored.astype(np.int32), axis=axis) == 0
        before = [(0, 0)] * stored.ndim
        after = list(before)
        before[axis], after[axis] = (1, 0), (0, 1)
        alike &= np.pad(same, before) & np.pad(same, after)
    return alike


def _sizes(stored: np.ndarray) -> tuple[tuple[tuple[int, int], ...], float]:
    """Elements of every value but 0, and the share of these values that lie in one piece."""
    from scipy import ndimage

    # By their order: a few values may be as large as 600,000,000.
    found, order, counts = np.unique(stored, return_inverse=True, return_counts=True)
    order = order.reshape(stored.shape)
    boxes = ndimage.find_objects(order.astype(np.int32) + 1)
    drawn = [place for place, value in enumerate(found) if value]
    pieces = [ndimage.label(order[boxes[place]] == place, np.ones((3,) * stored.ndim))[1] for place in drawn]
    whole = float(np.mean(np.array(pieces) == 1)) if pieces else 0.0
    return tuple((int(found[place]), int(counts[place])) for place in drawn), whole


def _are_objects(looks: Sequence[LabelLook], dims: int) -> bool:
    """Whether the values number objects rather than name classes."""
    drawn = [look for look in looks if look.values - {0}]
    if not drawn or min(min(look.values) for look in drawn) < 0:
        return False
    numbers = [frozenset(value >> _shift_of(look.values) for value in look.values - {0}) for look in drawn]
    highest = [max(found) for found in numbers]
    counted = all(map(_is_counted, numbers))
    is_run = sum(1 < min(found) == max(found) + 1 - len(found) for found in numbers)
    if is_run >= len(numbers) / 2:  # such as vertebrae 8 to 19: parts of the body have their numbers
        return False
    if dims == 2 and counted and len(set(highest)) > 2 and max(highest) >= _FEWEST_INSTANCES:
        return True
    several = [look for look in drawn if look.sizes]
    if not several or max(highest) < _MANY_VALUES or min(look.whole for look in several) < _IN_ONE_PIECE:
        return False
    if len(drawn) == 1:
        return dims == 2 and counted and highest[0] >= _ONE_PICTURE
    return (
        len(set(highest)) > 1
        and _share_within([dict(look.sizes) for look in several]) > _SIZE_DOES_NOT_FOLLOW
    )


def _may_be_objects(looks: Sequence[LabelLook]) -> bool:
    """Whether few values could number objects: from 1 on, each in one piece, of any size."""
    drawn = [look for look in looks if look.values - {0}]
    several = [look for look in drawn if look.sizes]
    return (
        len(several) > 1
        and all(_is_counted(look.values) for look in drawn)
        and len({len(look.values) for look in drawn}) > _FEWEST_COUNTS
        and min(look.whole for look in several) == 1
        and _share_within([dict(look.sizes) for look in several], 2) > _SIZE_DOES_NOT_FOLLOW
    )


def _is_counted(values: Iterable[int]) -> bool:
    """Whether values but 0 run from 1 on without a gap."""
    numbers = {*values} - {0}
    return bool(numbers) and min(numbers) == 1 and max(numbers) == len(numbers)


def _shift_of(values: frozenset[int]) -> int:
    """By how many bits numbers are shifted that a mask in colour holds in its red or its green alone."""
    highest = max(values)
    return next(
        (
            shift
            for shift in (16, 8)
            if highest >= 1 << shift and all(value == value >> shift << shift for value in values)
        ),
        0,
    )


def _share_within(sizes: Sequence[dict[int, int]], fewest: int = _SOFT_VALUES) -> float:
    """Share of the variance of log sizes that is left among equal values; 0 where none occurs twice."""
    by_value: dict[int, list[float]] = {}
    for found in sizes:
        for value, size in found.items():
            by_value.setdefault(value, []).append(float(np.log(size)))
    shared = [np.array(several) for several in by_value.values() if len(several) > 1]
    if len(shared) < fewest:
        return 0.0
    total = float(np.var(np.concatenate(shared), ddof=1))
    within = sum(float(((s - s.mean()) ** 2).sum()) for s in shared) / sum(len(s) - 1 for s in shared)
    return within / total if total > 0 else 1.0


def evenly(items: Sequence[T], number: int) -> list[T]:
    """At most ``number`` of the items, spread evenly, first and last among them."""
    if len(items) <= number:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, number).round().astype(int)]


def is_lossy(path: Path) -> bool:
    """Whether its format changes values."""
    return path.suffix.lower() in _LOSSY


def _values(path: Path, dims: int) -> set[int]:
    try:
        return set(present_values(read_label(path, dims)[0]).tolist())
    except DataError:
        return set()
