"""Which stored value of a label file is which class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from napari_prosma.errors import DataError

# One-bit, 0/255 and the same as RGB; tools mix them within one data set (BUSI has all).
_ON_VALUES = frozenset((1, 255, 0x010101, 0xFFFFFF))
_HALF = 127
_SMOOTH_MASK_VALUES = 32
_LOOKUP_MAX = 1 << 16
_MAX_CLASSES = 1 << 16


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become class indices 0, 1, 2, ... without gaps.

    Attributes
    ----------
    kind : "on", "above", "any" or "values"
        ``on``: 0 or one of 1 and 255 (gray or white RGB) -> 0/1. ``above``: brighter than 127 -> 1, for
        JPEG and smoothed masks. ``any``: every value but 0 -> 1, for instance ids. ``values``: exactly
        ``values``.
    class_names : names
        ``background`` first.
    values : stored values
        For ``values``: class i is stored as ``values[i]``.
    """

    kind: str
    class_names: tuple[str, ...]
    values: tuple[int, ...] = ()

    @classmethod
    def of_names(cls, names: Mapping[int, str]) -> LabelRule:
        """Rule of a declared table, stored value -> class name; the smallest value is the background."""
        values = tuple(sorted(names))
        return cls("values", ("background", *(names[value] for value in values[1:])), values)

    @classmethod
    def of_values(cls, found: Iterable[int], lossy: bool = False) -> LabelRule:
        """Rule guessed from the values that occur; ``lossy`` says that they come from JPEG files."""
        values = {int(value) for value in found}
        binary = ("background", "foreground")
        smooth = len(values) > _SMOOTH_MASK_VALUES and {0, 255} <= values and max(values) == 255
        if lossy or smooth:
            return cls("above", binary)
        if values - {0} <= _ON_VALUES:
            return cls("on", binary)
        kept = tuple(sorted(values | {0}))
        if len(kept) == 2:
            return cls("values", binary, kept)
        colours = kept[-1] > _LOOKUP_MAX
        names = (f"#{value:06x}" if colours else f"label {value}" for value in kept[1:])
        return cls("values", ("background", *names), kept)

    def apply(self, stored: np.ndarray, where: object) -> np.ndarray:
        """Class indices of a stored label, uint8 or uint16.

        Raises
        ------
        DataError
            When a value has no class; ``where`` is named.
        """
        match self.kind:
            case "above":
                return (stored > _HALF).astype(np.uint8)
            case "any":
                return (stored != 0).astype(np.uint8)
            case "on":
                on = stored != 0
                self._require_known(stored[on], _ON_VALUES, where)
                return on.astype(np.uint8)
            case _:
                return self._indices(stored, where)

    def in_words(self) -> str:
        """The rule as a sentence."""
        match self.kind:
            case "above":
                return "masks are cut at half brightness (127)"
            case "any":
                return "every value but 0 is foreground"
            case "on":
                return "0 is background, 1 or 255 is foreground"
            case _:
                pairs = zip(self.values, self.class_names, strict=True)
                return ", ".join(f"{value} is {name}" for value, name in pairs)

    def _indices(self, stored: np.ndarray, where: object) -> np.ndarray:
        kind = np.uint8 if len(self.values) <= np.iinfo(np.uint8).max else np.uint16
        known = np.array(self.values, dtype=np.int64)
        low, high = (int(stored.min()), int(stored.max())) if stored.size else (0, 0)
        if low >= 0 and high < _LOOKUP_MAX:
            table = np.full(max(high, int(known.max())) + 1, _MAX_CLASSES, dtype=np.int32)
            table[known[known >= 0]] = np.flatnonzero(known >= 0)
            indices = table[stored]
            unknown = indices == _MAX_CLASSES
        else:
            indices = np.searchsorted(known, stored).clip(max=len(known) - 1)
            unknown = known[indices] != stored
        if unknown.any():
            self._require_known(stored[unknown], frozenset(self.values), where)
        return indices.astype(kind)

    def _require_known(self, stored: np.ndarray, known: frozenset[int], where: object) -> None:
        unknown = sorted({int(value) for value in present_values(stored)} - known)
        if unknown:
            found = ", ".join(str(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            raise DataError(
                f"labels '{where}' hold the value {found}, but in this data set {self.in_words()}; "
                "correct the label, or name every value with labels={0: 'background', ...}"
            )


BINARY = LabelRule("on", ("background", "foreground"))


def present_values(stored: np.ndarray) -> np.ndarray:
    """The distinct values of an integer array, quickly."""
    if stored.dtype.itemsize > 2 or stored.dtype.kind != "u":
        return np.unique(stored)
    present = np.zeros(np.iinfo(stored.dtype).max + 1, dtype=bool)
    for plane in stored if stored.ndim > 2 else [stored]:
        present[plane] = True
    return np.flatnonzero(present)
