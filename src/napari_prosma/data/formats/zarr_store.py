"""Chunks of a Zarr on disk, looked at before they are unpacked: codecs believe what a chunk says of its size.

Kept apart, because Zarr takes a second to import.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from napari_prosma.data.limits import MOST_OF_A_CHUNK, MOST_SHRINKS

_BLOSC = struct.Struct("<4B3i")
"""Header of Blosc: versions, flags, size of an element; then bytes unpacked, of a block, packed."""
_OPEN: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "lzma": lzma.open}
_WIDEST_FILTER = 8
"""Bytes that a filter, such as a delta of bytes kept as int64, can make of one."""
_ZSTD_MAGIC, _ZSTD_DICTIONARY, _ZSTD_SIZE = b"\x28\xb5\x2f\xfd", (0, 1, 2, 4), (0, 2, 4, 8)
_INDEX_ENTRY, _EMPTY = 16, 2**64 - 1


@dataclass(frozen=True)
class Packing:
    """How the chunks of an array are packed."""

    codec: str
    unpacked: int
    in_shard: int = 0  # chunks of a shard, which is a file with an index; 0 where every chunk is a file
    index_bytes: int = 0
    index_first: bool = False


class CheckedStore(LocalStore):
    """A folder, for reading. Chunks that would end the process or fill the memory are refused."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.packings: dict[str, Packing] = {}
        self._sound: set[str] = set()

    def expect(self, name: str, packing: Packing) -> None:
        """The chunks of this array are packed so."""
        self.packings[f"{name.strip('/')}/"] = packing

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As of ``LocalStore``.

        Raises
        ------
        ValueError
            The chunk says something else of its size than is true.
        """
        found = await super().get(key, prototype, byte_range)
        packing = next((one for name, one in self.packings.items() if key.startswith(name)), None)
        is_chunk = not key.rpartition("/")[2].startswith((".z", "zarr.json"))
        if found is None or packing is None or not is_chunk or key in self._sound:
            return found
        content = (self.root / key).read_bytes() if packing.in_shard else found.to_bytes()
        for chunk in _chunks_of_shard(key, content, packing) if packing.in_shard else [content]:
            _require_true_size(key, chunk, packing)
        if packing.in_shard:  # of which zarr asks for one chunk at a time
            self._sound.add(key)
        return found


def _chunks_of_shard(key: str, shard: bytes, packing: Packing) -> Iterator[bytes]:
    index = shard[: packing.index_bytes] if packing.index_first else shard[-packing.index_bytes :]
    if len(index) < packing.index_bytes:
        raise ValueError(f"shard '{key}' is cut short")
    places = np.frombuffer(index[: _INDEX_ENTRY * packing.in_shard], "<u8").reshape(-1, 2).tolist()
    for offset, length in places:
        if offset != _EMPTY:
            if offset + length > len(shard):
                raise ValueError(f"shard '{key}' is damaged: a chunk lies beyond its end")
            yield shard[offset : offset + length]


def _require_true_size(key: str, chunk: bytes, packing: Packing) -> None:
    most = packing.unpacked * _WIDEST_FILTER
    match packing.codec:
        case "blosc":
            if len(chunk) < _BLOSC.size:
                raise ValueError(f"chunk '{key}' is cut short")
            *_, unpacked, block, packed = _BLOSC.unpack_from(chunk)
            if packed != len(chunk) or unpacked != packing.unpacked or not 0 < block <= max(unpacked, 1):
                raise ValueError(f"chunk '{key}' is damaged: it says {packed} bytes, but has {len(chunk)}")
            return
        case "zstd":
            holds = _zstd_size(chunk)
        case "lz4":
            holds = int.from_bytes(chunk[:4], "little")
        case "zlib":
            holds = len(zlib.decompressobj().decompress(chunk, most + 1)) if _may_burst(chunk) else 0
        case "gzip" if not _may_burst(chunk):
            holds = 0
        case codec:
            with _OPEN[codec](io.BytesIO(chunk)) as file:
                holds = len(file.read(most + 1))
    if holds > most:
        raise ValueError(f"chunk '{key}' is damaged: it holds more than {most:,} bytes")


def _may_burst(deflated: bytes) -> bool:
    """Whether it is worth the time to inflate it twice."""
    return len(deflated) * MOST_SHRINKS["deflate"] > MOST_OF_A_CHUNK


def _zstd_size(frame: bytes) -> int:
    """Bytes that a frame of Zstandard says it becomes (RFC 8878, section 3.1.1.1).

    Raises ``ValueError``: it does not say so; zstd itself always does for a chunk that it got whole.
    """
    if len(frame) < 5 or frame[:4] != _ZSTD_MAGIC:
        raise ValueError("a chunk is not packed by zstd")
    flags = frame[4]
    is_whole = bool(flags >> 5 & 1)
    length = _ZSTD_SIZE[flags >> 6] or int(is_whole)
    if not length:
        raise ValueError("a chunk packed by zstd does not say its size; write it again")
    start = 5 + (not is_whole) + _ZSTD_DICTIONARY[flags & 3]
    return int.from_bytes(frame[start : start + length], "little") + 256 * (length == 2)
