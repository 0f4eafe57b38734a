"""Ultrasound clips (AVI, MP4, MOV): (C, t, y, x), one channel where the film is gray.

PyAV reads them, which weighs 100 MB: it comes with the extra ``clips``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_prosma.data.case import Header, Image
from napari_prosma.data.limits import require_room
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

if TYPE_CHECKING:
    from av.container import InputContainer

SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm")
_AXES = ("t", "y", "x")
_GRAY_WITHIN = 12  # of 255: what colour compression does to a gray film
_LOOKED_AT = 5
_INSTALL = 'pip install "av>=13"'


def read_header(path: Path) -> Header:
    """Header of a clip; its packets are counted, few frames are decoded."""
    with _opened(path) as film:
        stream = film.streams.video[0]
        count = sum(packet.size > 0 for packet in film.demux(stream))
        shape = (count, stream.height, stream.width)
    return Header(1 if _is_gray(path) else 3, shape, _geometry())


def read(path: Path) -> Image:
    """All frames of a clip."""
    gray = _is_gray(path)
    with _opened(path) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 0)
        expected = stream.frames
        require_room(path, expected * stream.height * stream.width * (1 if gray else 3))
        frames = []
        for frame in film.decode(stream):
            frames.append(frame.to_ndarray(format="gray8" if gray else "rgb24"))
            require_room(path, 2 * frames[-1].nbytes)  # the header may say nothing of how many there are
    if not frames:
        raise DataError(f"'{path}' holds no frame; export the clip again")
    array = np.stack(frames)
    said = f"a clip of {len(frames)} frames" + (f", {rate:.3g} a second" if rate else "")
    cut = (
        (f"'{path.name}' is cut short: {len(frames)} of {expected} frames",) if len(frames) < expected else ()
    )
    array = array[None] if gray else np.moveaxis(array, -1, 0)
    return Image(array, _geometry(), (said, *cut))


def _geometry() -> Geometry:
    return Geometry((1.0,) * 3, (0.0,) * 3, "pixel", _AXES)


def _is_gray(path: Path) -> bool:
    with _opened(path) as film:
        for number, frame in enumerate(film.decode(video=0)):
            colours = frame.to_ndarray(format="rgb24").astype(np.int16)
            if np.ptp(colours, axis=-1).max() > _GRAY_WITHIN:
                return False
            if number + 1 == _LOOKED_AT:
                break
    return True


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError as error:
        raise DataError(f"'{path}' is a film, which needs PyAV; install it with: {_INSTALL}") from error

    try:
        with av.open(str(path)) as film:
            if not film.streams.video:
                raise DataError(f"'{path}' holds no film; give an AVI or MP4 clip")
            yield film
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"'{path}' is cut short or no film ({error}); export the clip again") from error
