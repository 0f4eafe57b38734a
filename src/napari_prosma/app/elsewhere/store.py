"""What is sent to a worker: arrays and models, each once, by the hash of its content.

Imports no torch, so that a worker answers at once whether it is free and has room.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from platformdirs import user_cache_path

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.fingerprint import content_hash
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry

if TYPE_CHECKING:
    from napari_prosma.model.checkpoint import Checkpoint

ARRAY, MODEL = ".npy", ".safetensors"
KEPT_DAYS = 30
"""What was sent and not used for so long is removed."""
_QUICK = 1
"""Level of the packing on the way."""


def cache_folder() -> Path:
    """Where a worker keeps what was sent to it."""
    return user_cache_path("napari-prosma", appauthor=False) / "sent"


@dataclass(frozen=True)
class Sent:
    """A file of the cache: an array, or a checkpoint, by the hash of its content."""

    digest: str
    kind: str

    @property
    def path(self) -> Path:
        """On the worker."""
        return cache_folder() / f"{self.digest}{self.kind}"

    @property
    def is_there(self) -> bool:
        """On the worker: whether it need not be sent; it counts as used now."""
        with suppress(OSError):
            self.path.touch()
            if self.path.stat().st_size:
                return True
            self.path.unlink()
        return False

    def keep(self, packed: bytes) -> None:
        """On the worker: keep what :func:`array_sent` and :func:`model_sent` packed.

        Raises
        ------
        DataError
            The disk is full, or something else arrived than was sent.
        """
        from isal import isal_zlib

        with written_whole(self.path) as temporary:
            temporary.write_bytes(isal_zlib.decompress(packed))
            # A model has a checksum of its own, which is looked at when it is opened.
            if self.kind == ARRAY and content_hash(np.load(temporary)) != self.digest:
                raise DataError("what arrived is not what was sent; try again")

    def opened(self) -> Any:
        """On the worker: the array, mapped (what is changed in it stays in memory), or the checkpoint."""
        if self.kind == ARRAY:
            return np.load(self.path, mmap_mode="c")
        from napari_prosma.model.checkpoint import load_checkpoint

        return load_checkpoint(self.path)


@dataclass(frozen=True)
class SentImage:
    """An :class:`Image` whose array was sent."""

    array: Sent
    geometry: Geometry
    notices: tuple[str, ...] = ()

    def opened(self) -> Image:
        """On the worker."""
        return Image(self.array.opened(), self.geometry, self.notices)


@dataclass(frozen=True)
class SentCase:
    """A case without its files; ``image`` is None where the worker sees them."""

    name: str
    image: SentImage | None
    label: Sent | None
    group: str
    split: str
    patient: str

    def opened(self, label: Callable[[], np.ndarray] | None) -> Case:
        """On the worker, where it was sent; ``label`` reads what it is at that time."""
        assert self.image is not None
        return Case(
            self.name,
            self.image.opened,
            label,
            group=self.group,
            split=self.split,
            patient=self.patient,
        )


@dataclass(frozen=True, eq=False)
class Parcel:
    """Something to send, with what it becomes; packed only where the worker lacks it."""

    sent: Sent
    pack: Callable[[], bytes]


def array_sent(array: np.ndarray) -> Parcel:
    """An array as it is sent."""
    array = np.asarray(array)
    return Parcel(Sent(content_hash(array), ARRAY), partial(_pack_array, array))


def model_sent(model: Checkpoint | Path | str) -> Parcel:
    """A checkpoint as it is sent."""
    from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint

    if not isinstance(model, Checkpoint):
        model = load_checkpoint(model)
    return Parcel(_sent_model(model), partial(_pack_model, model))


def sweep_cache() -> None:
    """On the worker: remove what nobody used for a while."""
    before = time.time() - 86400 * KEPT_DAYS
    for path in cache_folder().glob("*"):
        with suppress(OSError):
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()


@lru_cache(maxsize=8)
def _sent_model(model: Checkpoint) -> Sent:
    from napari_prosma.model.checkpoint import checksum_of

    return Sent(checksum_of(model), MODEL)


def _pack_model(model: Checkpoint) -> bytes:
    from napari_prosma.model.checkpoint import save_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_checkpoint(path, model)
        return _packed(path.read_bytes())


def _pack_array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return _packed(file.getvalue())


def _packed(content: bytes) -> bytes:
    from isal import isal_zlib

    return isal_zlib.compress(content, _QUICK)
