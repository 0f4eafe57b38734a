"""A file of labels that is written some rows at a time, and what of it is done, kept beside it meanwhile."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from napari_prosma.data.atomic import beside, replace, written_whole
from napari_prosma.data.fingerprint import HASH_BYTES
from napari_prosma.data.formats import nifti, ome_zarr
from napari_prosma.data.names import fitting_name
from napari_prosma.data.texts import read_json
from napari_prosma.errors import DataError
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint

SUFFIXES = (*ome_zarr.SUFFIXES, ".npy", ".nii")
FORMAT = 1
LAYER = 64
"""Rows that are written at once, and the most that an interruption loses on top of a window."""
LAYER_BYTES = 2**26
CHUNK = 128


@dataclass(frozen=True)
class Output:
    """A file of labels (*shape) uint8 that is written in layers of rows."""

    target: Path  # its name in the end
    shape: tuple[int, ...]
    geometry: Geometry
    class_names: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Its name while it is written."""
        return beside(self.target, ".unfinished-")

    @property
    def layer(self) -> int:
        """Rows that are written at once; in a Zarr whole chunks, so that no two writers share one."""
        return max(1, min(LAYER, self.shape[0], LAYER_BYTES // math.prod(self.shape[1:])))

    @property
    def _suffix(self) -> str:
        return self.target.suffix.lower()

    def create(self) -> None:
        """Make it, empty."""
        if self._suffix == ".npy":
            np.lib.format.open_memmap(self.path, mode="w+", dtype=np.uint8, shape=self.shape)
        elif self._suffix == ".nii":
            nothing = np.broadcast_to(np.uint8(0), self.shape)
            nifti.write_labels(self.path, nothing, self.geometry, self.class_names)
        else:
            self._create_zarr()

    def _create_zarr(self) -> None:
        """Levels and metadata as ``ome_zarr.write`` makes them of one row; then the arrays in full size."""
        import zarr

        row = np.broadcast_to(np.uint8(0), (*[1] * (len(self.shape) - 1), max(self.shape[-2:])))
        ome_zarr.write(self.path, row, self.geometry, self.class_names)
        group = zarr.open_group(self.path, mode="r+")
        for level in range(len(list(group.array_keys()))):
            shape = (*self.shape[:-2], *(-(-n // 2**level) for n in self.shape[-2:]))
            group.create_array(
                str(level),
                shape=shape,
                dtype=np.uint8,
                chunks=(min(self.layer, shape[0]), *(min(CHUNK, n) for n in shape[1:])),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                overwrite=True,
            )

    def opened(self) -> Callable[[int, np.ndarray], None]:
        """``write(start, labels)`` for rows from ``start`` on; they are on the disk when it returns."""
        array, flush = self._array()

        def write(start: int, labels: np.ndarray) -> None:
            with _on_disk(self.target):
                array[start : start + len(labels)] = labels
                flush()

        return write

    def _array(self) -> tuple[Any, Callable[[], None]]:
        if self._suffix == ".npy":
            mapped = np.load(self.path, mmap_mode="r+")
            return mapped, mapped.flush
        if self._suffix == ".nii":
            stored: Any = nibabel.load(self.path)
            mapped = np.memmap(self.path, np.uint8, "r+", stored.dataobj.offset, stored.shape, order="F")
            return nifti.as_ours(mapped, self.geometry), mapped.flush
        import zarr

        return zarr.open_group(self.path, mode="r+")["0"], lambda: None

    def finish(self) -> None:
        """Fill the coarser levels of a Zarr; then the file takes its name."""
        with _on_disk(self.target):
            if self._suffix in ome_zarr.SUFFIXES:
                self._fill_levels()
            replace(self.path, self.target)

    def _fill_levels(self) -> None:
        import zarr

        group = zarr.open_group(self.path, mode="r+")
        for level in range(1, len(list(group.array_keys()))):
            finer: Any = group[str(level - 1)]
            coarse: Any = group[str(level)]
            factor = 2 if coarse.ndim == 2 else 1  # only the last two axes become coarser
            for start in range(0, coarse.shape[0], coarse.chunks[0]):
                stop = min(start + coarse.chunks[0], coarse.shape[0])
                coarse[start:stop] = finer[start * factor : stop * factor][..., ::2, ::2]

    def remove(self) -> None:
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


class Unfinished:
    """Which rows of an output are done, kept beside it, for one model, image and set of settings.

    Attributes
    ----------
    window : tuple of int, optional
        Of the run that is gone on with.
    """

    def __init__(self, output: Output, key: str) -> None:
        self._output, self._key = output, key
        self._path = output.path.with_name(fitting_name(output.path.name, ".json"))
        self._done: list[range] = []
        self.window: tuple[int, ...] | None = None
        try:
            kept = read_json(self._path)
            if (kept["format"], kept["key"]) == (FORMAT, key) and output.path.exists():
                self._done = [range(start, stop) for start, stop in kept["done"]]
                self.window = tuple(kept["window"])
        except (DataError, ValueError, KeyError, TypeError):
            pass  # no run to go on with, or none that can be trusted: it begins anew

    @property
    def rows(self) -> int:
        """How many are done."""
        return sum(map(len, self._done))

    def go_on(self, window: tuple[int, ...]) -> bool:
        """Whether there is something to go on with for these windows; else all begins anew."""
        if window == self.window and self._done:
            return True
        with _on_disk(self._output.target):
            self._output.target.parent.mkdir(parents=True, exist_ok=True)
            self._output.remove()
            self._output.create()
        self.window, self._done = window, []
        self._keep()
        return False

    def left(self) -> list[range]:
        """Rows that are not done, in order."""
        spans, begun = [], 0
        for done in [*self._done, range(self._output.shape[0], self._output.shape[0])]:
            if done.start > begun:
                spans.append(range(begun, done.start))
            begun = done.stop
        return spans

    def record(self, rows: range) -> None:
        """These rows are written."""
        merged: list[range] = []
        for span in sorted([*self._done, rows], key=lambda span: span.start):
            if merged and merged[-1].stop >= span.start:
                merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
            else:
                merged.append(span)
        self._done = merged
        self._keep()

    def finish(self) -> None:
        """The output takes its name."""
        self._output.finish()
        self._path.unlink(missing_ok=True)

    def _keep(self) -> None:
        kept = {
            "format": FORMAT,
            "key": self._key,
            "window": self.window,
            "done": [[span.start, span.stop] for span in self._done],
        }
        with written_whole(self._path) as temporary:
            temporary.write_text(json.dumps(kept), encoding="utf-8")


def key_of(checkpoint: Checkpoint, digest: str, **settings: object) -> str:
    """Hash of all that labels depend on, but the window: model, image, its place and settings."""
    found = hashlib.blake2b(digest.encode(), digest_size=HASH_BYTES)
    said = {"spec": asdict(checkpoint.spec), "plan": checkpoint.plan.model_dump(mode="json"), **settings}
    found.update(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(checkpoint.weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


@contextmanager
def _on_disk(target: Path) -> Iterator[None]:
    """An error of the disk, in a user's words."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot write '{target}' ({error}); make room or choose another folder, and start again: what "
            f"is done is kept"
        ) from error
