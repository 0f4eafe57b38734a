"""Label descriptions of ITK-SNAP (.txt): value, colour and name of every class, to load beside a label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_prosma.data.class_colours import colour_of

_HEADING = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
"""


def write(path: Path, class_names: Sequence[str]) -> None:
    """Write the classes, background first, as ITK-SNAP's own *Save Label Descriptions* does."""
    rows = []
    for value, name in enumerate(class_names[1:], 1):
        red, green, blue = colour_of(value)
        plain = name.replace('"', "'")
        rows.append(f'{value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{plain}"\n')
    path.write_text(_HEADING + "".join(rows), encoding="utf-8")
