"""Colours of classes: those that layers, segmentation files and DICOM objects show them in."""

from __future__ import annotations

CLASS_COLOURS = (
    *("#00c2ff", "#ffb703", "#ff4d8d", "#70e000", "#b388ff", "#ff7b00"),
    *("#00e5c3", "#f15bb5", "#c6ff00", "#4361ee", "#ffd6a5", "#9b5de5"),
)
"""They stand out on gray images; class 1 has the first one."""


def colour_of(class_index: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a class from 1 on; they come round again."""
    red, green, blue = bytes.fromhex(CLASS_COLOURS[(class_index - 1) % len(CLASS_COLOURS)][1:])
    return red, green, blue
