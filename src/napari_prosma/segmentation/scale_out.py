"""``segment_to``: an image of any size becomes a file of labels, on this computer or over a Dask cluster.

The image is read and its labels are written some rows of the first axis at a time, so that memory depends on
the size of a row and of a window, not on the number of rows. What is finished is written down beside the
file, which gets its name when it is whole.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_prosma.data.atomic import require_replaceable
from napari_prosma.data.case import Image, Pyramid
from napari_prosma.data.cluster import connect, workers_of
from napari_prosma.data.planes import AXES
from napari_prosma.data.preparation import cut_axis
from napari_prosma.data.readers import read_pyramid, stem
from napari_prosma.errors import ConfigError, DataError, ProsmaError
from napari_prosma.events import Event, Finished, Notice, Progress, Started
from napari_prosma.model.applying import OVERLAP, named
from napari_prosma.model.checkpoint import Checkpoint, load_checkpoint
from napari_prosma.model.device import cpu_threads, usable_device
from napari_prosma.segmentation.prepared import Prepared, Statistics, needed_rows
from napari_prosma.segmentation.segment import flips_of, mirrored_in_words, require_settings, windows_that_fit
from napari_prosma.segmentation.stream import Background, Labelled, label_rows, window_tiling
from napari_prosma.segmentation.unfinished import SUFFIXES, Output, Unfinished, key_of

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
"""In place of a scheduler's address: the cores of this machine."""
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
    output = Output(target.absolute(), prepared.shape, pyramid.geometry, checkpoint.plan.class_names)
    place = repr(asdict(pyramid.geometry))  # a header may have been corrected since
    key = key_of(checkpoint, prepared.digest, overlap=overlap, flips=flips, place=place)
    unfinished = Unfinished(output, key)

    def in_windows(window: tuple[int, ...]) -> Generator[Event, None, Path]:
        if unfinished.go_on(window):
            yield Notice(f"Resuming {name}: {unfinished.rows:,} of {output.shape[0]:,} rows are done.")
        work = Work(
            checkpoint=checkpoint,
            image=pyramid if path is None else Path(path).absolute(),  # a worker may stand elsewhere
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

        if isinstance(work.image, Path):
            require_seen(client, work.image, work.output.path.parent)
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


def require_seen(client: Client, *paths: Path) -> None:
    """Raises ``ConfigError``: a worker does not see one of these."""
    for path in paths:
        for worker, is_there in client.run(os.path.exists, str(path)).items():
            if not is_there:
                raise ConfigError(
                    f"the worker at '{worker}' does not see '{path}'; share the folder under the same name "
                    f"with all workers, or leave out --stream, so that images are sent"
                )


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
                for worker in workers_of(client, scheduler):  # any of them may be given any rows
                    worker.require_usable()
                yield client
    finally:
        dask.config.set(scheduler=before)
