"""Which stored value of a label file is which class."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from napari_prosma.errors import ConfigError, DataError

# One-bit, 0/255 and the same as RGB; tools mix them within one data set (BUSI has all).
_ON_VALUES = frozenset((1, 255, 0x010101, 0xFFFFFF))
_HALF = 127
_SMOOTH_MASK_VALUES = 32
_LOOKUP_MAX = 1 << 16
_COLOUR_ABOVE = 0xFFFF
_VOID = {255, 65535}
"""Values that mean "not decided" in masks of small class numbers (Pascal VOC, Cityscapes)."""
_CLASS_NUMBERS = 34
"""Largest class number of those data sets; a lone gray that a person chose is brighter."""
_VOID_COLOUR = 0xE0E0C0
"""The same in Pascal VOC's colours."""
VALUES_SHOWN = 8
_MANY_OF_ONE_CLASS = 4
_MOST_NEGATIVE = 8
"""Values below 0 that a person may have meant by something."""

IGNORE = 255
"""Class index of what nobody labelled; no loss and no measure may count it."""

Overlap = Literal["", "last", "first"]
Sparse = Literal["slices", "scribbles"]
"""How labels that do not cover everything are meant."""


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become class indices 0, 1, 2, ... without gaps."""

    # "on", "above", "any" or "values": ``on``: 0 or one of 1 and 255 (gray or white RGB) -> 0/1. ``above``:
    # brighter than 127 -> 1, for JPEG and smoothed masks. ``any``: every value but 0 -> 1, for instance ids.
    # ``values``: exactly ``values``.
    kind: str
    class_names: tuple[str, ...]  # ``background`` first
    values: tuple[int, ...] = ()  # for ``values``: class i is stored as ``values[i]``
    # For sparse labels: what is stored where nobody labelled, such as 0 between scribbles; becomes
    # ``IGNORE``.
    unlabelled: int | None = None
    labelled_slices_only: bool = False  # for sparse labels: a slice without any label becomes ``IGNORE``
    filled: bool = False  # the labels are outlines: what they enclose in a plane belongs to them
    # "last", "first" or "": which class counts where structures of DICOM objects overlap, by the order of the
    # classes; "" refuses them.
    overlap: Overlap = ""
    # (stored value, class index) each: for ``values``: further values that are one of the classes.
    merged: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_names(cls, names: Mapping[int, str]) -> LabelRule:
        """Rule of a declared table, stored value -> class name; the smallest value is the background.

        Values with one name are one class.
        """
        values = sorted(names)
        return cls.of_pairs([(values[0], "background"), *((value, names[value]) for value in values[1:])])

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[int, str]]) -> LabelRule:
        """The same of values and names in the order of the classes, the background first."""
        numbers: dict[str, int] = {}
        values: list[int] = []
        merged: list[tuple[int, int]] = []
        for value, name in pairs:
            number = numbers.setdefault(name, len(numbers))
            if number == len(values):
                values.append(value)
            else:
                merged.append((value, number))
        return cls("values", tuple(numbers), tuple(values), merged=tuple(merged))

    @property
    def stored(self) -> dict[int, str]:
        """Every stored value of ``values``, in the order of the classes, and its name."""
        return dict(zip(self.values, self.class_names, strict=True)) | {
            value: self.class_names[number] for value, number in self.merged
        }

    @property
    def names(self) -> dict[int, str]:
        """Name of every stored value; of a foreground that has several, of 1."""
        return self.stored if self.kind == "values" else dict(enumerate(self.class_names))

    def reordered(self, names: Sequence[str], places: Sequence[int]) -> LabelRule:
        """The same with class ``i`` as class ``places[i]``, and with other ``names``."""
        values = [value for _, value in sorted(zip(places, self.values, strict=False))]
        merged = tuple((value, places[number]) for value, number in self.merged)
        return replace(self, class_names=tuple(names), values=tuple(values), merged=merged)

    @classmethod
    def instances(cls, name: str = "foreground") -> LabelRule:
        """Rule of masks that number their objects: each is foreground."""
        return cls("any", ("background", name))

    @classmethod
    def of_values(
        cls, found: Iterable[int], lossy: bool = False, foreground: str = "foreground"
    ) -> LabelRule:
        """Rule guessed from the values that occur; ``lossy`` says that they come from JPEG files.

        A value below 0 is unlabelled where it is the only one, and so is 255 or 65535 beside small numbers.

        Raises ``DataError``: several values below 0, or one and no 0, which nothing explains.
        """
        values = {int(value) for value in found}
        binary = ("background", foreground)
        smooth = len(values) > _SMOOTH_MASK_VALUES and {0, 255} <= values and max(values) == 255
        if lossy or smooth:
            return cls("above", binary)
        void = _void(values)
        if void is not None:
            return replace(cls.of_values(values - {void}, lossy, foreground), unlabelled=void)._by_values()
        if values - {0} <= _ON_VALUES:
            return cls("on", binary)
        kept = (0, *sorted(values - {0}))
        if len(kept) == 2:
            return cls("values", binary, kept)
        colours = kept[-1] > _COLOUR_ABOVE
        names = (f"#{value:06x}" if colours else f"label {value}" for value in kept[1:])
        return cls("values", ("background", *names), kept)

    def _by_values(self) -> LabelRule:
        """The same with 0 and 1 spelled out: 255 may mean something else beside them."""
        return replace(self, kind="values", values=(0, 1)) if self.kind == "on" else self

    def with_names(self, told: Iterable[tuple[object, Mapping[int, str]]]) -> LabelRule:
        """The same with the names that label files tell of their values, where all of them agree.

        Parameters
        ----------
        told : where, and stored value -> name there

        Raises
        ------
        DataError
            When a name has another value in another file: the values do not mean the same.
        """
        values = self.values or (0, *sorted(_ON_VALUES))
        names: dict[int, dict[str, str]] = defaultdict(dict)
        first: dict[str, tuple[int, object]] = {}
        for where, table in told:
            for value, name in table.items():
                if value not in values[1:]:
                    continue
                plain = name.strip().casefold()
                names[value].setdefault(plain, name)
                known, there = first.setdefault(plain, (value, where))
                if known != value and self.kind == "values":
                    raise DataError(
                        f"'{name}' is {known} in labels '{there}' but {value} in '{where}'; give the classes "
                        "the same order in all files, or name every value with labels={0: 'background', ...}"
                    )
        agreed = {value: next(iter(found.values())) for value, found in names.items() if len(found) == 1}
        if self.kind == "on" and len(set(agreed.values())) == 1:
            return replace(self, class_names=("background", *set(agreed.values())))
        if self.kind != "values":
            return self
        named = (
            agreed.get(value, name) for value, name in zip(values[1:], self.class_names[1:], strict=True)
        )
        return replace(self, class_names=("background", *named))

    @property
    def is_sparse(self) -> bool:
        """Whether it says what nobody labelled."""
        return self.unlabelled is not None or self.labelled_slices_only

    def sparse(self, kind: Sparse) -> LabelRule:
        """The same for labels that do not cover everything.

        ``slices``: a slice without any label counts as unlabelled. ``scribbles``: 0 is unlabelled, the
        smallest value that was drawn is the background.

        Raises ``DataError``: scribbles with a single value: nothing says what is background.
        """
        if kind == "slices":
            return replace(self, labelled_slices_only=True)
        if self.kind != "values" or len(self.values) < 3:
            raise DataError(
                "scribbles need at least two label values, the smaller for the background (such as 1) and "
                f"another for the structure (such as 2), but in this data set {self.in_words()}; draw some "
                "background too, or set the labels to complete"
            )
        names = ("background", *self.class_names[2:])
        merged = tuple((value, max(number - 1, 0)) for value, number in self.merged)
        return replace(self, values=self.values[1:], class_names=names, unlabelled=0, merged=merged)

    def apply(self, stored: np.ndarray, where: object, slice_axis: int = 0) -> np.ndarray:
        """Class indices of a stored label, uint8 or uint16, with ``IGNORE`` where it is unlabelled.

        Parameters
        ----------
        stored : (*spatial)
        where : path or name
            Of the label, for errors.
        slice_axis : int
            Axis along which the slices of a volume lie.

        Raises
        ------
        DataError
            When a value has no class; ``where`` is named.
        """
        classes = self._sparse(stored, where, slice_axis)
        return _filled(classes, slice_axis) if self.filled else classes

    def _sparse(self, stored: np.ndarray, where: object, slice_axis: int) -> np.ndarray:
        if not self.is_sparse:
            return self._classes(stored, where)
        if len(self.class_names) > IGNORE:
            raise DataError(
                f"sparse labels hold at most {IGNORE} classes, but there are {len(self.class_names)}"
            )
        left_out = np.zeros(stored.shape, dtype=bool)
        if self.unlabelled is not None:
            left_out |= stored == self.unlabelled
        if self.labelled_slices_only:
            drawn = stored != 0 if self.unlabelled is None else (stored != 0) & (stored != self.unlabelled)
            left_out |= ~drawn.any(
                axis=tuple(n for n in range(stored.ndim) if n != slice_axis), keepdims=True
            )
        background = self.values[0] if self.values else 0
        classes = self._classes(np.where(left_out, np.asarray(background, stored.dtype), stored), where)
        return np.where(left_out, np.uint8(IGNORE), classes)

    def _classes(self, stored: np.ndarray, where: object) -> np.ndarray:
        match self.kind:
            case "above":
                return (stored > _HALF).astype(np.uint8)
            case "any":
                return (stored != 0).astype(np.uint8)
            case "on":
                on = stored != 0
                self._require_known(stored[on], _ON_VALUES, where)
                if {1, 255} <= set(present_values(stored[on]).tolist()):
                    raise DataError(
                        f"labels '{where}' hold both 1 and 255, while in this data set {self.in_words()}; if "
                        f"255 marks an undecided border, name the values with the classes "
                        f"0=background,1={self.class_names[-1]},unlabelled=255, else with "
                        f"any={self.class_names[-1]}"
                    )
                return on.astype(np.uint8)
            case _:
                return self._indices(stored, where)

    def in_words(self) -> str:
        """The rule as a sentence."""
        foreground = self.class_names[-1]
        match self.kind:
            case "above":
                said = f"brighter than half (127) is {foreground}"
            case "any":
                said = f"every value but 0 is {foreground} (objects are numbered)"
            case "on":
                said = f"0 is background, 1 or 255 is {foreground}"
            case _:
                said = ", ".join(self._values_in_words())
        if self.unlabelled is not None:
            said += f", {self.unlabelled} is unlabelled"
        if self.filled:
            said += ", outlines are filled"
        if self.overlap:
            said += f", where classes overlap the {_IN_ORDER[self.overlap]} one counts"
        return said + (", slices without any label are unlabelled" if self.labelled_slices_only else "")

    def _values_in_words(self) -> Iterator[str]:
        of_class: dict[str, list[int]] = defaultdict(list)
        for value, name in self.stored.items():
            of_class[name].append(value)
        for value, name in self.stored.items():
            values = of_class[name]
            if len(values) < _MANY_OF_ONE_CLASS:
                yield f"{value} is {name}"
            elif value == values[0]:
                yield f"{len(values)} values from {min(values)} to {max(values)} are {name}"

    def _indices(self, stored: np.ndarray, where: object) -> np.ndarray:
        kind: type[np.unsignedinteger] = np.uint8 if len(self.values) < np.iinfo(np.uint8).max else np.uint16
        known = np.array([*self.stored], dtype=np.int64)
        classes = np.array([*range(len(self.values)), *(number for _, number in self.merged)])
        low, high = (int(stored.min()), int(stored.max())) if stored.size else (0, 0)
        if low >= 0 and high < _LOOKUP_MAX:
            none = np.iinfo(kind).max
            table = np.full(_LOOKUP_MAX, none, dtype=kind)
            in_table = (known >= 0) & (known < _LOOKUP_MAX)
            table[known[in_table]] = classes[in_table]
            indices = table[stored]
            unknown = indices == none
        else:
            ascending = np.argsort(known)
            indices = ascending[np.searchsorted(known, stored, sorter=ascending).clip(max=len(known) - 1)]
            unknown = known[indices] != stored
            indices = classes[indices]
        if unknown.any():
            self._require_known(stored[unknown], frozenset(self.stored), where)
        return indices.astype(kind, copy=False)

    def _require_known(self, stored: np.ndarray, known: frozenset[int], where: object) -> None:
        unknown = sorted({int(value) for value in present_values(stored)} - known)
        if unknown:
            found = ", ".join(str(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise DataError(
                f"labels '{where}' hold the value {found}, but in this data set {self.in_words()}; "
                "correct the label, or name every value with the classes, such as 0=background,1=lesion, or "
                "any=lesion if they number objects"
            )


BINARY = LabelRule("on", ("background", "foreground"))
_BINARY_KINDS = ("on", "above", "any")
_UNLABELLED, _SLICES, _FILLED = "unlabelled", "slices", "filled"
_OVERLAPS: dict[str, Overlap] = {"overlap=last": "last", "overlap=first": "first"}
_IN_ORDER = {"last": "later", "first": "earlier"}


def rule_to_text(rule: LabelRule) -> str:
    """The rule as a line for a shell, such as ``0=background,1=liver``; see :func:`rule_from_text`."""
    pairs = (
        rule.stored.items() if rule.kind == "values" else zip((0, rule.kind), rule.class_names, strict=True)
    )
    items = [f"{key}={name}" for key, name in pairs]
    if rule.unlabelled is not None:
        items.append(f"{_UNLABELLED}={rule.unlabelled}")
    if rule.labelled_slices_only:
        items.append(_SLICES)
    if rule.filled:
        items.append(_FILLED)
    items += [item for item, overlap in _OVERLAPS.items() if overlap == rule.overlap]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(items)
    return line.getvalue()


def rule_from_text(text: str) -> LabelRule:
    """Rule of a line: ``STORED=NAME`` for every class, background first, with commas between them.

    Values with one name are one class, as in ``0=background,1=liver,2=tumour,5=liver``.

    Instead of the stored value of a single foreground class: ``on`` (1 or 255), ``above`` (brighter than 127)
    or ``any`` (all but 0), where the background may be left out, as in ``any=gland``. After the classes may
    follow ``unlabelled=STORED`` for what is stored where nobody labelled, ``slices`` if a slice without any
    label is unlabelled, ``filled`` if the labels are outlines to be filled, and ``overlap=last`` or
    ``overlap=first`` for which class counts where structures of DICOM objects overlap. An item with a comma
    in its name stands in double quotes.

    Raises ``ConfigError``: the line is none of these.
    """
    try:
        ((*items,),) = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        words = (_SLICES, _FILLED, *_OVERLAPS)
        pairs = [tuple(item.split("=", 1)) for item in items if item not in words]
        classes = [(key.strip(), name) for key, name in pairs if key.strip() != _UNLABELLED]
        kind = classes[-1][0] if classes[-1][0] in _BINARY_KINDS else "values"
        if kind != "values" and len(classes) == 1:
            classes.insert(0, ("0", "background"))
        values = tuple(int(key) for key, _ in (classes if kind == "values" else classes[:-1]))
        if kind == "values":
            rule = LabelRule.of_pairs(zip(values, (name for _, name in classes), strict=True))
        else:
            rule = LabelRule(kind, tuple(name for _, name in classes))
        is_odd = kind != "values" and values != (0,)
        if len(set(rule.class_names)) < 2 or len(set(values)) < len(values) or is_odd:
            raise ValueError
        unlabelled = [int(value) for key, value in pairs if key.strip() == _UNLABELLED]
        return replace(
            rule,
            unlabelled=unlabelled[0] if unlabelled else None,
            labelled_slices_only=_SLICES in items,
            filled=_FILLED in items,
            overlap=next((overlap for item, overlap in _OVERLAPS.items() if item in items), ""),
        )
    except (ValueError, IndexError, csv.Error) as error:
        raise ConfigError(
            f"the classes '{text}' are not understood; write every stored value once, the background first, "
            f"as in 0=background,1=liver,2=tumour, or on=lesion, above=lesion or any=lesion for one class"
        ) from error


def is_foreground(label: np.ndarray) -> np.ndarray:
    """Where a label of class indices holds any class but the background; False where it is unlabelled."""
    return (label > 0) & (label != IGNORE)


def _void(values: set[int]) -> int | None:
    """The value that stands for what nobody decided, if there is one."""
    negative = sorted(value for value in values if value < 0)
    if len(negative) > 1 or (negative and 0 not in values):
        shown = ", ".join(str(value) for value in sorted(values)[:VALUES_SHOWN])
        if len(negative) > _MOST_NEGATIVE:
            raise DataError(
                f"the labels hold {len(negative)} values below 0 ({shown}, ...), as images do and no "
                "labels; check that images and labels are not exchanged, or export a label map"
            )
        raise DataError(
            f"the labels hold the values {shown}, and nothing tells what those below 0 mean; name every "
            f"value with the classes, such as 0=background,1=lesion,unlabelled={negative[0]}"
        )
    if negative:
        # Alone beside 0 it is what was drawn: 255 of a mask that was stored with a sign.
        return negative[0] if len(values) > 2 else None
    if _VOID_COLOUR in values and len(values - {0}) > 1:
        return _VOID_COLOUR
    others = values - {0, *_VOID}
    if (
        not others
        or not values & _VOID
        or max(others) > max(2 * (len(others) + 1), _CLASS_NUMBERS)
        or others & _ON_VALUES == others
    ):
        return None
    return max(values & _VOID)


def _filled(classes: np.ndarray, slice_axis: int) -> np.ndarray:
    """Every class with what it encloses in a plane; later classes over earlier ones."""
    from scipy import ndimage

    planes = classes[None] if classes.ndim == 2 else np.moveaxis(classes, slice_axis, 0)
    filled = planes.copy()
    for number in present_values(classes):
        if number in (0, IGNORE):
            continue
        for plane, result in zip(planes, filled, strict=True):
            inside = ndimage.binary_fill_holes(plane == number)
            result[inside & (plane == 0)] = number
    return filled[0] if classes.ndim == 2 else np.moveaxis(filled, 0, slice_axis)


def fullest_slice(label: np.ndarray, axis: int = 0) -> tuple[int | slice, ...]:
    """Index of the plane of a label (*spatial) with the most foreground, the middle one if there is none.

    The plane lies across ``axis`` in a volume, and along the last two axes of anything else.
    """
    plane = tuple(n for n in range(3) if n != axis) if label.ndim == 3 else (label.ndim - 2, label.ndim - 1)
    counts = np.count_nonzero(is_foreground(label), axis=plane)
    most = np.unravel_index(np.argmax(counts), np.shape(counts)) if np.any(counts) else ()
    chosen = iter(most or [n // 2 for n in np.shape(counts)])
    return tuple(slice(None) if n in plane else int(next(chosen)) for n in range(label.ndim))


def united(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two label arrays of one image as one: the higher class wins, any class wins over ``IGNORE``."""
    higher = np.maximum(first, second)
    sparse = higher.dtype == np.uint8 and (np.any(first == IGNORE) or np.any(second == IGNORE))
    if not sparse:
        return higher
    return np.where(first == IGNORE, second, np.where(second == IGNORE, first, higher))


def count_instances(stored: np.ndarray) -> int:
    """Number of objects in a mask whose rule is ``any``: each value but 0 is one."""
    return int((present_values(stored) != 0).sum())


def present_values(stored: np.ndarray) -> np.ndarray:
    """The distinct values of an integer array, without sorting where they lie close together."""
    low, high = (int(stored.min()), int(stored.max())) if stored.size else (0, 0)
    if high - low >= _LOOKUP_MAX:
        return np.unique(stored)
    present = np.zeros(high - low + 1, dtype=bool)
    for plane in stored if stored.ndim > 2 else [stored]:
        present[plane.astype(np.int64) - low] = True
    return np.flatnonzero(present) + low


def highest_class(label: np.ndarray) -> int:
    """The largest class index in a label, 0 where there is none; ``IGNORE`` is no class."""
    highest = int(label.max(initial=0))
    if highest != IGNORE:
        return highest
    return int(label.max(initial=0, where=label != IGNORE))


def count_classes(label: np.ndarray) -> np.ndarray:
    """How many elements each class has, (n,) with the highest that occurs last; of ``IGNORE`` none."""
    highest = int(label.max(initial=0))
    counts = np.zeros(highest + 1, dtype=np.int64)
    for plane in label:  # as a whole it would be counted as 64-bit numbers
        counts += np.bincount(plane.ravel(), minlength=highest + 1)
    counts[IGNORE:][:1] = 0
    return np.trim_zeros(counts, "b")
