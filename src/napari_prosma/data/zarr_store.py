"""Chunks of a Zarr on disk, looked at before they are unpacked: Blosc believes what a chunk says of its size.

Kept apart, because Zarr takes a second to import.
"""

from __future__ import annotations

import struct
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

_HEADER = struct.Struct("<4B3i")
"""Of Blosc: versions, flags, size of an element; then bytes unpacked, of a block, packed."""


class CheckedStore(LocalStore):
    """A folder, for reading. Damaged chunks of Blosc, which would end the process, are refused."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.unpacked: dict[str, int] = {}

    def expect(self, name: str, unpacked: int) -> None:
        """The chunks of this array are packed by Blosc and have so many bytes when they are unpacked."""
        self.unpacked[f"{name.strip('/')}/"] = unpacked

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
        expected = next((size for name, size in self.unpacked.items() if key.startswith(name)), None)
        is_chunk = not key.rpartition("/")[2].startswith((".z", "zarr.json"))
        if found is not None and expected is not None and is_chunk:
            _require_true_sizes(key, found.to_bytes(), expected)
        return found


def _require_true_sizes(key: str, chunk: bytes, expected: int) -> None:
    if len(chunk) < _HEADER.size:
        raise ValueError(f"chunk '{key}' is cut short")
    *_, unpacked, block, packed = _HEADER.unpack_from(chunk)
    if packed != len(chunk) or unpacked != expected or not 0 < block <= max(unpacked, 1):
        raise ValueError(f"chunk '{key}' is damaged: it says {packed} bytes, but has {len(chunk)}")
