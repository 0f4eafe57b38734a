"""Packed pixels that pydicom cannot unpack by itself, by imagecodecs: a plugin for pydicom's decoders.

JPEG lossless, JPEG with 12 bits, JPEG-LS, JPEG 2000 in colour with more than 8 bits, and HTJ2K. pydicom
keeps doing what belongs to DICOM: frames, colour spaces and signs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from pydicom import uid

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

_LOSSLESS = (uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEG_LS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
_KNOWN = (uid.JPEGExtended12Bit, *_LOSSLESS, *_JPEG_LS, *_JPEG_2000)
_RESTORED_COLOURS = ("YBR_ICT", "YBR_RCT")

DECODER_DEPENDENCIES = dict.fromkeys(_KNOWN, ("imagecodecs",))


@cache
def register() -> None:
    """Make pydicom fall back to imagecodecs; once is enough."""
    from pydicom.pixels import get_decoder

    for syntax in _KNOWN:
        get_decoder(syntax).add_plugin("imagecodecs", (__name__, "decode_frame"))


def is_available(syntax: str) -> bool:
    """Whether pydicom may ask for ``syntax``; imagecodecs is one of our dependencies."""
    return syntax in _KNOWN


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Samples of one frame as pydicom wants them: little-endian, colour by pixel."""
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax in _LOSSLESS:
        array = imagecodecs.ljpeg_decode(source)
    elif syntax in _JPEG_LS:
        array = imagecodecs.jpegls_decode(source)
    elif syntax in _JPEG_2000:
        array = imagecodecs.jpeg2k_decode(source)
        if runner.photometric_interpretation in _RESTORED_COLOURS:
            runner.set_option("photometric_interpretation", "RGB")
    else:
        array = imagecodecs.jpeg8_decode(source)
    runner.set_option("bits_allocated", array.dtype.itemsize * 8)
    if array.ndim == 3:
        runner.set_option("planar_configuration", 0)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
