"""``segment_to``: an image of any size becomes a file of labels, on this computer or over a Dask cluster.

The image is read and its labels are written some rows of the first axis at a time, so that memory depends on
the size of a row and of a window, not on the number of rows. What is finished is written down beside the
file, which gets its name when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import torch

from napari_prosma.data.atomic import beside, replace, require_replaceable, written_whole
from napari_prosma.data.case import Image, Pyramid
from napari_prosma.data.cluster import connect
from napari_prosma.data.fingerprint import HASH_BYTES
from napari_prosma.data.formats import nifti, ome_zarr
from napari_prosma.data.names import fitting_name
from napari_prosma.data.planes import AXES
from napari_prosma.data.preparation import cut_axis
from napari_prosma.data.readers import read_pyramid, stem
from napari_prosma.data.texts import read_json
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.geometry import Geometry
from napari_prosma.model.applying import OVERLAP, named
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.device import cpu_threads, usable_device
from napari_prosma.segmentation.segment import flips_of, mirrored_in_words, require_settings, windows_that_fit
from napari_prosma.segmentation.stream import (
    Background,
    Labelled,
    Prepared,
    Statistics,
    label_rows,
    needed_rows,
    window_tiling,
)

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""In place of a scheduler's address: the cores of this machine."""
SUFFIXES = (*ome_zarr.SUFFIXES, ".npy", ".nii")
FORMAT = 1
LAYER = 64
"""Rows that are written at once, and the most that an interruption loses on top of a window."""
LAYER_BYTES = 2**26
CHUNK = 128
SPANS_PER_WORKER = 2
"""A worker's share is cut in so many parts: enough to even out, few enough not to meet at many borders."""
PATIENCE = 0.5
"""Seconds after which the cluster is asked again, and the caller may stop."""


def segment_to(
    checkpoint: Checkpoint | Path | str,
    image: Path | str | Image | Pyramid,
    target: Path | str,
    *,
    name: str = "",
    device: str = "auto",
    overlap: float = OVERLAP,
    batch: int = 1,
    mirror: bool = False,
    scheduler: Client | str | None = None,
) -> Iterator[Event]:
    """Segment an image of any size into a file; the last event is ``Finished`` with the file's path.

    A run that was stopped or killed goes on at the last finished rows when it is started again with the same
    model, image, settings and target: ``.unfinished-NAME`` lies beside the target until then. The labels are
    those of :func:`segment` up to rounding, since the memory layout is always the usual one. They are the
    same on any number of workers, to the last bit if these have the processor and the torch threads of this
    process, since convolutions round differently with them.

    Parameters
    ----------
    checkpoint : Checkpoint or path of one, or of a run folder
    image : path, Image or Pyramid
        OME-Zarr, or a file that can be mapped (``data.readers.read_pyramid``); others are read whole. It is
        read twice: once for its statistics and its hash.
    target : path
        ``.zarr`` (OME-Zarr with its levels), ``.nii`` or ``.npy``; what stands there is replaced in the end.
    scheduler : Client, address such as ``tcp://...:8786``, or "local", optional
        Where to work; by default in this process, with torch's threads. ``local`` is a worker per core in
        this process. Workers must see ``image``, a path then, and ``target`` under the same names. Each of
        their threads holds the rows of a window.
    name, device, overlap, batch, mirror
        As in :func:`segment`.

    Raises
    ------
    CheckpointError, ConfigError, DataError
        Before anything is written, unless a part of the image is damaged or the disk is full.
    ProsmaError
        There is no memory for the smallest window, or workers die of it.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    require_settings(overlap, batch)
    target, path = Path(target), image if isinstance(image, Path | str) else None
    if not target.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"'{target}' cannot be written in parts; choose one of {', '.join(SUFFIXES)}")
    if scheduler is not None and path is None:
        raise ConfigError("a cluster needs the image as a file that all of its workers can open")
    if not name:
        name = target.name if path is None else stem(path)
    if isinstance(image, Image):
        pyramid = Pyramid((image.array,), ((1.0,) * image.geometry.ndim,), image.geometry, image.notices)
    else:
        pyramid = image if isinstance(image, Pyramid) else read_pyramid(image)
    flips, chosen = flips_of(checkpoint) if mirror else (), usable_device(device)
    with named(name):
        if across := cut_axis(checkpoint.plan, pyramid.geometry):
            raise DataError(
                f"the model goes through slices across {AXES[across]}, but rows are written across z; "
                f"segment the volume without --stream"
            )
        prepared = Prepared(pyramid.levels[0], pyramid.geometry, checkpoint.plan, axis=0)
        yield from prepared.survey(name, hashed=True)
    yield from map(Notice, (*pyramid.notices, *prepared.notices))
    if mirror and not flips:
        yield Notice(mirrored_in_words(checkpoint))
    require_replaceable(target)
    output = Output(target, prepared.shape, pyramid.geometry, checkpoint.plan.class_names)
    unfinished = Unfinished(output, key_of(checkpoint, prepared.digest, overlap=overlap, flips=flips))

    def in_windows(window: tuple[int, ...]) -> Generator[Event, None, Path]:
        if unfinished.go_on(window):
            yield Notice(f"Going on with {name}: {unfinished.rows:,} of {output.shape[0]:,} rows are done.")
        work = Work(
            checkpoint=checkpoint,
            image=pyramid if path is None else Path(path),
            statistics=prepared.statistics,
            window=window,
            overlap=overlap,
            batch=batch,
            flips=flips,
            device=chosen,
            output=output,
        )
        background = Background(checkpoint.plan)
        if scheduler is None:
            total = sum(work.windows(prepared, span) for span in unfinished.left())
            yield Started(total, f"Segmenting {name}", str(chosen))
            yield from _here(work, unfinished, background, total, name)
        else:
            total = yield from _on_cluster(work, unfinished, background, prepared, scheduler, name)
        if background.skipped:
            yield background.notice(total)
        unfinished.finish()
        return target

    window = unfinished.window or checkpoint.plan.window
    with named(name):
        yield Finished((yield from windows_that_fit(window, checkpoint.spec.divisor, chosen, in_windows)))


# ---- the work, here or elsewhere --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Work:
    """All that is needed to segment some rows and to write them: what a worker is sent."""

    checkpoint: Checkpoint
    image: Path | Pyramid
    statistics: Statistics | None
    window: tuple[int, ...]
    overlap: float
    batch: int
    flips: tuple[int, ...]
    device: torch.device
    output: Output

    def windows(self, prepared: Prepared, span: range) -> int:
        """Windows that must be looked at for the rows of ``span``."""
        tiling = window_tiling(prepared, self.window, self.checkpoint.spec.divisor, self.overlap)
        rows = needed_rows(prepared.size[0], prepared.shape[0], span.start, span.stop)
        return len(tiling.over(*rows))

    def write(self, span: range, background: Background) -> Iterator[Notice | int | range]:
        """Segment the rows of ``span``; yields notices, how many windows are new, and rows once written."""
        pyramid = self.image if isinstance(self.image, Pyramid) else read_pyramid(self.image)
        prepared = Prepared(
            pyramid.levels[0], pyramid.geometry, self.checkpoint.plan, axis=0, statistics=self.statistics
        )
        model = self.checkpoint.build(self.device)
        tiling = window_tiling(prepared, self.window, model.divisor, self.overlap)
        write = self.output.opened()
        layer = np.empty((self.output.layer, *self.output.shape[1:]), np.uint8)
        begun = span.start
        for found in label_rows(
            model,
            prepared,
            tiling,
            batch=self.batch,
            flips=self.flips,
            background=background,
            span=(span.start, span.stop),
        ):
            if not isinstance(found, Labelled):
                yield found
                continue
            for row, labels in enumerate(found.labels, start=found.start):
                layer[row - begun] = labels
                if row + 1 - begun == len(layer) or row + 1 == span.stop:
                    write(begun, layer[: row + 1 - begun])
                    yield range(begun, row + 1)
                    begun = row + 1


def _here(
    work: Work, unfinished: Unfinished, background: Background, total: int, name: str
) -> Iterator[Event]:
    done = 0
    for span in unfinished.left():
        for found in work.write(span, background):
            if isinstance(found, Notice):
                yield found
            elif isinstance(found, range):
                unfinished.record(found)
            else:
                done += found
                yield Progress(done, total, name)


# ---- over a cluster ---------------------------------------------------------------------------------------


def _on_cluster(
    work: Work,
    unfinished: Unfinished,
    background: Background,
    prepared: Prepared,
    scheduler: Client | str,
    name: str,
) -> Generator[Event, None, int]:
    """The same by tasks of some rows each. Windows across the border of two are looked at for both."""
    with _client_of(scheduler) as client:
        from distributed import Event as Flag
        from distributed import KilledWorker, wait

        workers = max(1, sum(client.nthreads().values()))
        parts = _parted(unfinished.left(), workers * SPANS_PER_WORKER, work.output.layer)
        windows = [work.windows(prepared, span) for span in parts]
        total, done = sum(windows), 0
        yield Started(total, f"Segmenting {name} with {workers} workers", str(work.device))
        stop = Flag(f"prosma-stop-{uuid.uuid4().hex}", client=client)
        sent = client.scatter(work, broadcast=True)
        futures = {
            client.submit(_write_part, sent, span, stop.name, pure=False): n for n, span in enumerate(parts)
        }
        try:
            while futures:
                try:
                    finished = wait(list(futures), timeout=PATIENCE, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    finished = set()
                for future in finished:
                    part = futures.pop(future)
                    skipped, notices = future.result()
                    background.skipped += skipped
                    yield from notices
                    unfinished.record(parts[part])
                    done += windows[part]
                yield Progress(done, total, name)
        except KilledWorker as error:
            raise ProsmaError(
                f"workers died, probably for lack of memory ({error}); start them with one thread and more "
                f"memory each"
            ) from error
        finally:
            if futures:
                stop.set()
                client.cancel(list(futures))
    return total


def _write_part(work: Work, span: range, stop: str) -> tuple[int, list[Notice]]:
    """A task: how many windows were skipped, and what was noticed. Ends between two windows when stopped."""
    from distributed import Event as Flag

    flag, background, notices = Flag(stop), Background(work.checkpoint.plan), []
    for found in work.write(span, background):
        if isinstance(found, Notice):
            notices.append(found)
        if flag.is_set():
            break
    return background.skipped, notices


def _parted(spans: Sequence[range], parts: int, layer: int) -> list[range]:
    """Spans cut at layers into about as many ``parts`` of equal length."""
    rows = sum(map(len, spans))
    step = max(1, math.ceil(rows / parts / layer)) * layer
    return [
        range(start, min(start + step, span.stop))
        for span in spans
        for start in range(span.start, span.stop, step)
    ]


@contextmanager
def _client_of(scheduler: Client | str) -> Iterator[Client]:
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigError("a cluster needs Dask: pip install 'napari-prosma[cluster]'") from error
    if not isinstance(scheduler, str):
        yield scheduler
        return
    # Clients, also those of workers in this process, make themselves Dask's default, and not each undoes it.
    before = dask.config.get("scheduler", None)
    try:
        if scheduler == LOCAL:
            # Dask's profiler asks for all threads a hundred times a second, in which Python 3.11 may lock up.
            with dask.config.set({"distributed.worker.profile.enabled": False}):
                local = LocalCluster(
                    n_workers=os.cpu_count(), threads_per_worker=1, processes=False, dashboard_address=None
                )
            with cpu_threads(1), local, Client(local) as client:
                yield client
        else:
            with connect(scheduler) as client:
                yield client
    finally:
        dask.config.set(scheduler=before)


# ---- the file that is written -----------------------------------------------------------------------------


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
    """Hash of all that labels depend on, but the window: model, image and settings."""
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
