"""Which kinds of files of a reading are images, which are labels, and which are neither: a few are opened.

Where two kinds of labels lie beside an image, they are told apart by what they mark: each a class of its own,
parts of one, the same once more, or the field that a camera saw.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from napari_prosma.data.formats import pictures, polygons
from napari_prosma.data.label_doubts import is_lossy
from napari_prosma.data.layouts.pairing import Key, Reading, Role
from napari_prosma.data.readers import label_names, may_hold_channels, read_header, read_image, stem
from napari_prosma.errors import DataError

_LABEL_WORDS = re.compile(
    r"mas[kq]|label|segm|[_-]seg|anno|truth|(?<![a-z])gt(?![a-z])|manual|contour|outline|target|roi|polygon"
)
_SHOWN_WORDS = re.compile(r"visuali[sz]|overlay|preview|thumb")
_OBJECT_WORDS = re.compile(r"object|instance|(?<![a-z])inst(?![a-z])")
"""Decide only where the contents do not."""
_CASES_OPENED, _MANY_ROLES = 3, 8
_ELEMENTS = 1 << 21
_FEW_VALUES, _MOST_VALUES = 3, 4096
_WIDE, _NEAR_END, _BIMODAL = 200, 16, 0.9
_FLAT = 0.5
_SAME_FOREGROUND = 0.5
_WITHIN = 0.98
_MOST_OF_IMAGE, _NEARLY_ALL = 0.4, 0.9
_SAME_IN_ALL = 0.95
_SAME_GRAYS = 0.9
"""Correlation of two images of which one is the other in another format."""
_OUTLINED = 0.5
"""Share of the border of a structure that its outline runs along."""
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Look:
    """What a file showed."""

    kind: str  # "image", "label", "empty" (one value everywhere), "polygons" or "unreadable"
    shape: tuple[int, ...] = ()  # (*spatial)
    channels: int = 1
    values: int = 0  # how many differ
    # (*spatial) bool, where it is not 0
    on: np.ndarray = field(default_factory=lambda: np.zeros(0, bool), repr=False)

    @cached_property
    def share(self) -> float:
        """Of the elements that are not 0."""
        return float(self.on.mean()) if self.on.size else 0.0

    @cached_property
    def is_thin(self) -> bool:
        """Whether nothing is left when one element is taken off every edge."""
        return self.share > 0 and not _eroded(self.on).any()


@dataclass(frozen=True)
class Judged:
    """A reading with the part that every role plays."""

    reading: Reading
    # images, labels: several images of a case are its channels, several labels its ``classes`` or parts of
    # one.
    images: tuple[Role, ...]
    labels: tuple[Role, ...]
    classes: tuple[str, ...]  # names, by label role: empty where all labels mean the same
    notices: tuple[str, ...]

    @property
    def aside(self) -> tuple[Role, ...]:
        """Roles that are not used."""
        return tuple(role for role in self.reading.roles if role not in (*self.images, *self.labels))


class Judge:
    """Opens files, each once, and says what the roles of a reading are."""

    def __init__(self) -> None:
        self._looks: dict[Path, Look] = {}

    def judged(self, reading: Reading, masks: Collection[Path] | None = None) -> Judged | None:
        """The parts of its roles, None where it holds no images with labels.

        Parameters
        ----------
        masks : files, optional
            Those that are labels, as the user says; all others are images.

        Raises
        ------
        DataError
            Several labels or images lie beside each other, and nothing tells what they are.
        """
        looks = self._looks_of(reading)
        if masks is None:
            images, labels = _told_apart(looks)
        else:
            sides = {role: {path in masks for path in reading.files(role)} for role in reading.roles}
            images = tuple(role for role, side in sides.items() if side == {False})
            labels = tuple(role for role, side in sides.items() if side == {True})
            if len(images) + len(labels) < len(sides):
                return None
        of_case = reading.cases.values()
        if not any(any(r in files for r in images) and any(r in files for r in labels) for files in of_case):
            return None
        if masks is None and len(images) > 1:
            reading, images = _with_alternatives(reading, images)
            of_case, looks = reading.cases.values(), self._looks_of(reading)
        _require_one_kind_of_axes(reading, looks, images, labels)
        notices: list[str] = []
        labels, classes = _chosen_labels(reading, looks, images, labels, notices)
        images = _chosen_images(reading, looks, images, labels, notices)
        number = sum(images[0] in files and any(r in files for r in labels) for files in of_case)
        if not number:
            return None
        for role in reading.roles:
            if all(look.kind == "unreadable" for look in looks[role].values()):
                notices.append(f"{_counted(reading, role)} cannot be read as images and are not used")
        several = "images" if len(images) == 1 else "channels"
        said = f"{_listed(images)} as {several}, {_listed(labels)} as {'classes' if classes else 'labels'}"
        return Judged(reading, images, labels, classes, (f"{number} pairs: {said}", *notices))

    def shows_field(self, judged: Judged) -> bool:
        """Whether the labels of a reading are large and the same in every case, as fields of view are."""
        looks = self._looks_of(judged.reading)
        of_labels = [look for role in judged.labels for look in looks[role].values() if look.on.size]
        if len(judged.labels) > 1 or len(of_labels) < _CASES_OPENED:
            return False
        first = of_labels[0].on
        alike = all(
            look.on.shape == first.shape and _overlap(first, look.on) >= _SAME_IN_ALL for look in of_labels
        )
        return alike and min(look.share for look in of_labels) >= _MOST_OF_IMAGE

    def look(self, path: Path) -> Look:
        """What a file shows."""
        if path not in self._looks:
            self._looks[path] = _look(path)
        return self._looks[path]

    def _looks_of(self, reading: Reading) -> dict[Role, dict[Key, Look]]:
        """Looks at the roles of the few cases that have most of them."""
        roles = reading.roles
        fullest = max(len(files) for files in reading.cases.values())
        full = [key for key, files in reading.cases.items() if len(files) == fullest]
        number = _CASES_OPENED if len(roles) <= _MANY_ROLES else 1
        chosen = [full[n] for n in sorted({round(n) for n in np.linspace(0, len(full) - 1, number)})]
        looks: dict[Role, dict[Key, Look]] = {role: {} for role in roles}
        for role in roles:
            keys = [key for key in chosen if role in reading.cases[key]]
            keys = keys or [key for key, files in reading.cases.items() if role in files][:1]
            for key in keys:
                looks[role][key] = self.look(reading.cases[key][role])
        return looks


def _with_alternatives(reading: Reading, images: tuple[Role, ...]) -> tuple[Reading, tuple[Role, ...]]:
    """Images that differ by a folder and never lie in one case are one role: ``part1/*``, ``part2/*``."""
    first = images[0]
    names = {(role.before, role.after, role.whole, len(role.folders)) for role in images}
    differ = [
        n
        for n, parts in enumerate(zip(*(role.folders for role in images), strict=False))
        if len({*parts}) > 1
    ]
    if (
        len(names) > 1
        or len(differ) != 1
        or any(sum(role in files for role in images) > 1 for files in reading.cases.values())
    ):
        return reading, images
    folders = tuple("*" if n == differ[0] else name for n, name in enumerate(first.folders))
    one = replace(first, folders=folders)
    cases = {
        key: {one if role in images else role: path for role, path in files.items()}
        for key, files in reading.cases.items()
    }
    return replace(reading, cases=cases), (one,)


def _look(path: Path) -> Look:
    if polygons.may_be(path):
        return Look("polygons") if polygons.is_of_one_image(path) else Look("unreadable")
    try:
        array = read_image(path).array
    except DataError:
        return Look("unreadable")
    channels, shape = len(array), array.shape[1:]
    if channels == 3 and array.dtype == np.uint8:
        red, green, blue = array.astype(np.uint32)
        gray = np.array_equal(red, green) and np.array_equal(green, blue)
        plane, channels = (red, 1) if gray else ((red << 16) | (green << 8) | blue, 3)
    elif channels == 1:
        plane = array[0]
    else:
        return Look("image", shape, channels)
    step = -(-plane.size // _ELEMENTS)
    seen = plane[tuple(slice(None, None, step if axis == 0 else 1) for axis in range(plane.ndim))]
    if seen.dtype.kind == "f" and not np.isfinite(seen).all():
        return Look("image", shape, channels)
    kind, values = _kind(seen)
    return Look(kind, shape, channels, values, np.asarray(plane) != 0)


def _kind(seen: np.ndarray) -> tuple[str, int]:
    """Whether an array looks like labels, and how many values it holds."""
    found = np.unique(seen)
    if len(found) == 1:
        return "empty", 1
    if len(found) <= _FEW_VALUES:
        return "label", len(found)
    low, high = float(found[0]), float(found[-1])
    near = _NEAR_END / 255 * (high - low)
    of_bytes = seen.dtype == np.uint8 and high - low >= _WIDE
    if of_bytes or (seen.dtype.kind == "f" and (low, high) == (0.0, 1.0)):
        at_ends = float(((seen <= low + near) | (seen >= high - near)).mean())
        if at_ends >= _BIMODAL and float((seen >= high - near).mean()) > 0.01:
            return "label", 2
    if len(found) > _MOST_VALUES or not np.array_equal(np.round(found), found):
        return "image", len(found)
    usual = int(np.argmax(np.bincount(np.searchsorted(found, seen).ravel())))
    left, right = seen[..., :-1], seen[..., 1:]
    inside = (left != found[usual]) | (right != found[usual])
    flat = float((left == right)[inside].mean()) if inside.any() else 0.0
    return ("label" if flat >= _FLAT else "image"), len(found)


def _told_apart(looks: dict[Role, dict[Key, Look]]) -> tuple[tuple[Role, ...], tuple[Role, ...]]:
    """The roles of images and of labels: by what the files show, and by words where that does not tell."""
    kinds: dict[Role, str] = {}
    for role, seen in looks.items():
        counts = Counter(look.kind for look in seen.values() if look.kind not in ("unreadable", "empty"))
        empty = any(look.kind == "empty" for look in seen.values())
        kinds[role] = counts.most_common(1)[0][0] if counts else "empty" if empty else "unreadable"
    worded = {role for role in kinds if _LABEL_WORDS.search(role.pattern.casefold())}
    images = [role for role, kind in kinds.items() if kind == "image"]
    labels = [role for role, kind in kinds.items() if kind in ("label", "polygons")]
    labels += [role for role, kind in kinds.items() if kind == "empty" and role in worded]
    if not labels:
        labels = [role for role in images if role in worded]
        images = [role for role in images if role not in worded]
    if not images:
        images = [role for role in labels if role not in worded and kinds[role] == "label"]
        labels = [role for role in labels if role not in images]
    return tuple(images), tuple(labels)


def _require_one_kind_of_axes(
    reading: Reading,
    looks: dict[Role, dict[Key, Look]],
    images: tuple[Role, ...],
    labels: tuple[Role, ...],
) -> None:
    """Refuse pictures as labels of volumes of a patient: a mask per slice is neither class nor object."""
    axes = [
        {len(look.shape) for role in roles for look in looks[role].values() if look.shape}
        for roles in (images, labels)
    ]
    if axes != [{3}, {2}]:
        return
    image, label = reading.files(images[0])[0], reading.files(labels[0])[0]
    header = read_header(image)
    if min(header.shape) > 1 and not may_hold_channels(header.channels, header.geometry, header.shape[0]):
        raise DataError(
            f"'{image}' is a volume, but its masks are pictures, such as '{label.name}'; save those of its "
            "slices as one label volume that lies where the image does (.nii.gz, .nrrd)"
        )


def _chosen_labels(
    reading: Reading,
    looks: dict[Role, dict[Key, Look]],
    images: tuple[Role, ...],
    labels: tuple[Role, ...],
    notices: list[str],
) -> tuple[tuple[Role, ...], tuple[str, ...]]:
    """The label roles to use, and class names where each is a class."""
    drawn = [role for role in labels if all(look.kind != "polygons" for look in looks[role].values())]
    if drawn and len(drawn) < len(labels):
        for role in set(labels) - set(drawn):
            notices.append(f"{_counted(reading, role)} hold polygons beside masks and are not used")
    kept = drawn or list(labels[:1])
    for role in sorted(kept):
        others = [other for other in kept if other != role]
        why = next((why for other in others if (why := _is_no_label(looks, role, other))), "")
        if why:
            kept = others
            notices.append(f"{_counted(reading, role)} {why} and are not used")
    kept = _without_unions(reading, looks, kept, notices)
    kept = _without_repeats(reading, looks, kept, notices)
    if len(kept) < 2:
        return tuple(kept), ()
    if len({(role.folders, _NUMBERS.sub("#", role.pattern)) for role in kept}) == 1 or _are_parts(kept):
        return tuple(kept), ()  # the objects of an image, a file each
    if any(look.values > _FEW_VALUES - 1 for role in kept for look in looks[role].values()):
        raise DataError(
            f"beside each image lie {len(kept)} kinds of labels of several values ({_listed(kept)}), and "
            f"nothing tells which are meant; {_to_choose(reading, images, kept[:1])}"
        )
    size = {role: np.mean([look.share for look in looks[role].values()]) for role in kept}
    kept = sorted(kept, key=lambda role: (-size[role], role))  # what lies within another one is drawn over it
    told = [{*label_names(reading.files(role)[0]).values()} for role in kept]
    if all(len(names) == 1 for names in told) and len(set().union(*told)) == len(kept):
        return tuple(kept), tuple(name for names in told for name in names)
    return tuple(kept), _class_names(kept)


def _to_choose(reading: Reading, images: Sequence[Role], labels: Sequence[Role]) -> str:
    """How a person says which of several kinds of files are meant, with an example from them."""
    files = max(reading.cases.values(), key=lambda files: ({*images} <= {*files}, len(files)))
    image, mask = (
        _of_all([_pattern_of(reading, files, role) for role in roles]) for roles in (images, labels)
    )
    return (
        f"choose by patterns (--images '{image}' --masks '{mask}', in the panel under Files), or list the "
        "pairs in a table with the columns 'image' and 'label'"
    )


def _of_all(patterns: Sequence[str]) -> str:
    """One pattern for several with equally many folders, else the first of them."""
    parts = [pattern.split("/") for pattern in patterns]
    if len({*map(len, parts)}) > 1:
        return patterns[0]
    return "/".join(names[0] if len({*names}) == 1 else "*" for names in zip(*parts, strict=True))


def _pattern_of(reading: Reading, files: Mapping[Role, Path], role: Role) -> str:
    """The name of a case's file where other cases call theirs the same, else what names share."""
    names = [stem(path) for path in reading.files(role)]
    name = stem(files[role]) if role in files else names[0]
    is_told_by_folder = any(folder != "*" for folder in role.folders)
    if is_told_by_folder or names.count(name) == 1:
        return role.pattern
    return "/".join((*role.folders, name))


def _are_parts(roles: Sequence[Role]) -> bool:
    """Whether the roles are one name and the same with numbers behind it: ``*_mask``, ``*_mask_1``."""
    stems = {(role.folders, role.before, re.sub(r"[\W_]*\d+$", "", role.after), role.whole) for role in roles}
    return len(stems) == 1


def _is_no_label(looks: dict[Role, dict[Key, Look]], role: Role, other: Role) -> str:
    """Why a role marks nothing to learn beside another one: a field of view, or an outline of the other."""
    from scipy import ndimage

    pairs = _both(looks, role, other)
    if not pairs:
        return ""
    holds = all(_within(theirs.on, ours.on) for ours, theirs in pairs)
    shares = [ours.share for ours, _ in pairs]
    first = pairs[0][0].on
    alike = all(_overlap(first, ours.on) >= _SAME_IN_ALL for ours, _ in pairs if ours.on.shape == first.shape)
    larger = all(ours.share > theirs.share for ours, theirs in pairs)
    if larger and holds and (min(shares) >= _NEARLY_ALL or (min(shares) >= _MOST_OF_IMAGE and alike)):
        return "show the field of view rather than a structure"
    thin = all(ours.is_thin and not theirs.is_thin for ours, theirs in pairs)
    if thin and all(
        _within(ours.on, ndimage.binary_dilation(theirs.on))
        and _within(theirs.on & ~_eroded(theirs.on), ndimage.binary_dilation(ours.on), _OUTLINED)
        for ours, theirs in pairs
    ):
        return f"are outlines of '{other.pattern}'"
    return ""


def _without_unions(
    reading: Reading, looks: dict[Role, dict[Key, Look]], kept: Sequence[Role], notices: list[str]
) -> list[Role]:
    """Of one label of several values and masks that mark the same in parts: no part twice.

    Masks of structures are kept, for they have names; masks of objects are not, for they are no classes.
    """
    for role in kept:
        others = [other for other in kept if other != role]
        numbers = [_OBJECT_WORDS.search(other.pattern.casefold()) is not None for other in (role, *others)]
        whole = {key: look.on for key, look in looks[role].items()}
        parts = {key: [looks[other][key].on for other in others if key in looks[other]] for key in whole}
        if not others or any(part.shape != whole[key].shape for key in whole for part in parts[key]):
            continue  # polygons, or masks of another size
        if numbers == [False, *(True for _ in others)] and all(
            _within(part, whole[key], _NEARLY_ALL) for key in whole for part in parts[key]
        ):
            notices += [
                f"{_counted(reading, other)} mark objects of '{role.pattern}' and are not used"
                for other in others
            ]
            return [role]
        has_classes = any(look.values > _FEW_VALUES - 1 for look in looks[role].values())
        if has_classes and all(
            len(parts[key]) > 1 and _overlap(np.logical_or.reduce(parts[key]), whole[key]) >= _SAME_IN_ALL
            for key in whole
        ):
            notices.append(f"{_counted(reading, role)} hold what others hold in parts and are not used")
            return others
    return list(kept)


def _without_repeats(
    reading: Reading, looks: dict[Role, dict[Key, Look]], kept: Sequence[Role], notices: list[str]
) -> list[Role]:
    """Of roles that mark the same (two observers, classes and objects) the one with the fewest values."""
    left = list(kept)
    for first, second in combinations(kept, 2):
        if first not in left or second not in left:
            continue
        pairs = _both(looks, first, second)
        if not pairs or min(_overlap(a.on, b.on) for a, b in pairs) < _SAME_FOREGROUND:
            continue
        values = {role: max(look.values for look in looks[role].values()) for role in (first, second)}
        colours = {role: max(look.channels for look in looks[role].values()) for role in (first, second)}
        numbers = {role: _OBJECT_WORDS.search(role.pattern.casefold()) is not None for role in kept}
        taken, other = sorted(
            (first, second),
            key=lambda role: (numbers[role], -len(reading.files(role)), values[role], colours[role], role),
        )
        left.remove(other)
        notices.append(
            f"{_counted(reading, other)} mark the same as '{taken.pattern}' and are not used; to use them "
            "instead, choose them by patterns (--images and --masks, in the panel under Files), or list the "
            "pairs in a table with the columns 'image' and 'label'"
        )
    return left


def _chosen_images(
    reading: Reading,
    looks: dict[Role, dict[Key, Look]],
    images: tuple[Role, ...],
    labels: tuple[Role, ...],
    notices: list[str],
) -> tuple[Role, ...]:
    """The image roles to use: one, or several channels of one size."""
    kept = _without_copies(reading, images, notices)
    shapes = {key: look.shape for role in labels for key, look in looks[role].items() if look.shape}
    for role in sorted(kept):
        seen = looks[role]
        fits = all(look.shape == shapes.get(key, look.shape) for key, look in seen.items())
        derived = any(_extends(role, other) for other in kept)
        shown = _SHOWN_WORDS.search(role.pattern.casefold()) is not None
        if len(kept) > 1 and (derived or shown or not fits):
            kept.remove(role)
            why = (
                "are named after another image"
                if derived
                else "show labels over images, by their name"
                if shown
                else "have another size than the labels"
            )
            notices.append(f"{_counted(reading, role)} {why} and are not used")
    if len(kept) == 1:
        return tuple(kept)
    if all(role.whole and role.before.isdecimal() for role in kept):
        raise DataError(
            f"the folder of a case holds {len(kept)} or more numbered images beside its label, such as "
            f"'{reading.files(kept[0])[0]}'; save slices of one volume as a volume, or list the "
            "pairs in a table with the columns 'image' and 'label'"
        )
    channels = {look.channels for role in kept for look in looks[role].values()}
    sizes = [{looks[role][key].shape for role in kept if key in looks[role]} for key in looks[kept[0]]]
    if channels != {1} or any(len(found) > 1 for found in sizes):
        raise DataError(
            f"beside each label lie {len(kept)} kinds of images ({_listed(kept)}) that are no channels of "
            "one image, and nothing tells on which the labels were drawn; "
            f"{_to_choose(reading, kept[:1], labels)}"
        )
    return tuple(sorted(kept))


def _without_copies(reading: Reading, images: Sequence[Role], notices: list[str]) -> list[Role]:
    """Of roles that show the same images in several formats the one that lost least."""

    def lost(role: Role) -> tuple[bool, bool, Role]:
        path = reading.files(role)[0]
        return is_lossy(path), path.name.lower().endswith(pictures.SUFFIXES), role

    kept = list(images)
    for first, second in combinations(sorted(images, key=lost), 2):
        if not {first, second} <= {*kept} or lost(first)[:2] == lost(second)[:2]:
            continue
        both = [
            (files[first], files[second]) for files in reading.cases.values() if {first, second} <= {*files}
        ]
        if both and all(_show_the_same(*both[n]) for n in {0, len(both) - 1}):
            kept.remove(second)
            notices.append(
                f"{_counted(reading, second)} show the same as '{first.pattern}' in another format and are "
                "not used"
            )
    return kept


def _show_the_same(first: Path, second: Path) -> bool:
    """Whether the grays of two images follow each other, as after a window was chosen and saved as JPEG."""
    try:
        arrays = [read_image(path).array.mean(axis=0, dtype=float) for path in (first, second)]
    except DataError:  # said when its case is read
        return False
    if arrays[0].shape != arrays[1].shape or not all(array.std() > 0 for array in arrays):
        return False
    return float(np.corrcoef(arrays[0].ravel(), arrays[1].ravel())[0, 1]) >= _SAME_GRAYS


def _extends(role: Role, other: Role) -> bool:
    """Whether the names of ``role`` are those of ``other`` with something behind: ``x_flows`` of ``x``."""
    bare = not other.whole and not other.before and not other.after
    return bare and role.folders == other.folders and role != other


def _both(looks: dict[Role, dict[Key, Look]], first: Role, second: Role) -> list[tuple[Look, Look]]:
    """What two roles show of the same cases, where both show something."""
    keys = looks[first].keys() & looks[second].keys()
    pairs = [(looks[first][key], looks[second][key]) for key in sorted(keys)]
    return [(a, b) for a, b in pairs if a.on.size and a.on.shape == b.on.shape and a.share and b.share]


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _within(first: np.ndarray, second: np.ndarray, share: float = _WITHIN) -> bool:
    return float((first & second).sum()) >= share * float(first.sum())


def _eroded(on: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_erosion(on, np.ones((3,) * on.ndim) if on.ndim == 2 else None)


def _class_names(roles: Sequence[Role]) -> tuple[str, ...]:
    """What is different about roles: the folder, the name or its end."""
    parts = [
        tuple(part.replace("*", "").removesuffix(".seg").strip(" _.-") for part in (*role.folders, *name))
        for role in roles
        for name in [(role.before, role.after)]
    ]
    depth = max(len(part) for part in parts)
    columns = list(zip(*((("",) * (depth - len(part)) + part) for part in parts), strict=True))
    telling = [column for column in columns if len(set(column)) > 1]
    names = [" ".join(filter(None, words)) for words in zip(*telling, strict=True)]
    own = [next(filter(None, reversed(part)), role.pattern) for part, role in zip(parts, roles, strict=True)]
    return tuple(name or other for name, other in zip(names, own, strict=True))


def _listed(roles: Sequence[Role]) -> str:
    shown = [f"'{role.pattern}'" for role in roles[:6]]
    return ", ".join(shown) + (f" and {len(roles) - 6} more" if len(roles) > 6 else "")


def _counted(reading: Reading, role: Role) -> str:
    files = reading.files(role)
    return f"{len(files)} files '{role.pattern}' (the first is '{files[0].name}')"


def case_name(reading: Reading, key: Key, image: Path, role: Role, several: bool) -> str:
    """What a case is called: its folder where files have the same name in all, else what names share."""
    if any(image in path.parents for path in reading.cases[key].values()):  # its label lies in its folder
        return image.name
    if role.whole and "*" in role.folders:
        return image.parents[role.folders[::-1].index("*")].name
    name = stem(image)
    shared = name[len(role.before) : len(name) - len(role.after)]
    return shared if several and shared else name
