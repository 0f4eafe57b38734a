"""Time and memory of the window engine against MONAI's and nnU-Net's, and its cost as volumes grow.

    python benchmarks/segment.py                      # the engines, in turns, on 160 x 256 x 256
    python benchmarks/segment.py --part linear        # a volume, and 2, 4 and 8 times as much of it
    python benchmarks/segment.py --part large         # 4 GiB of OME-Zarr into a file of labels

Every measurement is a process of its own. The engines get the same prepared image, the same small network,
windows of 96 x 96 x 96 and an overlap of a half, and give labels; they take turns, and the middle of the runs
counts. ``over`` is what an engine needs on top of the time inside the network, ``peak`` what the process grew
by over the image. ``work`` and ``work over`` are the same in processor seconds of all threads: with
``--threads 1`` these hardly change with what else the machine does. Peers are taken as they come and, as
``+ maxima``, with our way to the labels, since on the CPU much of their time is ``argmax``. nnU-Net's is left
out where nnunetv2 is not installed. Prints tables and writes JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from napari_prosma.data.case import Image
from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.formats import ome_zarr
from napari_prosma.events import Finished
from napari_prosma.geometry import Geometry
from napari_prosma.model.checkpoint import Checkpoint
from napari_prosma.model.windows import labels_of, tile
from napari_prosma.nn.build import build_model
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.scale_out import segment_to
from napari_prosma.segmentation.stream import label_rows

SHAPE, WINDOW, OVERLAP = (160, 256, 256), (96, 96, 96), 0.5
CLASSES = (2, 14)
REPEATS = 5
ENGINES = ("napari-prosma", "MONAI", "nnU-Net", "MONAI + maxima", "nnU-Net + maxima")
LARGE = (1024, 1024, 1024)
GROWTH = (1, 2, 4, 8)
SPACING = Geometry((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), "mm")


def network(classes: int, widths: tuple[int, ...]) -> torch.nn.Module:
    """Without gates, so that what is around it counts; without ``widths`` a single convolution."""
    torch.manual_seed(0)
    model = build_model(ModelSpec(3, 1, classes, widths or (1, 1, 1), gate="none")).eval()
    if not widths:
        model.forward = torch.nn.Conv3d(1, classes, 1).forward  # a larger kernel would need memory itself
    return model


# ---- the engines ------------------------------------------------------------------------------------------


class Prepared:
    """An image that is prepared already, as ``stream.Prepared`` would give it."""

    def __init__(self, array: np.ndarray) -> None:
        self.axis = int(np.argmax(array.shape[1:-1]))
        self._rows = np.moveaxis(array, 1 + self.axis, 1)
        self.size = self.shape = self._rows.shape[1:]

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._rows[:, start:stop]


def ours(model: Any, array: np.ndarray) -> np.ndarray:
    prepared = Prepared(array)
    tiling = tile(prepared.size, WINDOW, model.divisor, OVERLAP)
    labels = np.zeros(array.shape[1:], np.uint8)
    rows = np.moveaxis(labels, prepared.axis, 0)
    for found in label_rows(model, prepared, tiling):  # type: ignore[arg-type]
        if not isinstance(found, int):
            rows[found.start : found.start + len(found.labels)] = found.labels
    return labels


def monai(model: Any, array: np.ndarray, maxima: bool = False) -> np.ndarray:
    from monai.inferers import sliding_window_inference

    with torch.no_grad():
        image = torch.from_numpy(array)[None]
        logits = sliding_window_inference(image, WINDOW, 1, model, overlap=OVERLAP, mode="gaussian")[0]
        return labels_of(logits.numpy()) if maxima else logits.argmax(dim=0).to(torch.uint8).numpy()


def nnunet(model: Any, array: np.ndarray, maxima: bool = False) -> np.ndarray:
    from types import SimpleNamespace

    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=1 - OVERLAP, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
    classes = model.spec.out_channels
    predictor.label_manager = LabelManager({"background": 0, **{f"{k}": k for k in range(1, classes)}}, None)
    predictor.configuration_manager = SimpleNamespace(patch_size=WINDOW)
    predictor.network = model
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(array))
    if maxima:
        return labels_of(logits.numpy())
    return predictor.label_manager.convert_logits_to_segmentation(logits).numpy().astype(np.uint8)


RUN: dict[str, Callable[[Any, np.ndarray], np.ndarray]] = {
    "napari-prosma": ours,
    "MONAI": monai,
    "nnU-Net": nnunet,
    "MONAI + maxima": lambda model, array: monai(model, array, maxima=True),
    "nnU-Net + maxima": lambda model, array: nnunet(model, array, maxima=True),
}


def measure_engine(engine: str, classes: int, widths: tuple[int, ...]) -> dict[str, float]:
    """In this process: seconds in all and inside the network, by both clocks, and the peak in MiB."""
    model = network(classes, widths)
    array = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    # One window takes what happens only once: imports, and the choice of convolutions.
    RUN[engine](model, np.ascontiguousarray(array[(slice(None), *(slice(n) for n in WINDOW))]))
    inside: list[np.ndarray] = []
    model.register_forward_pre_hook(lambda *_: inside.append(-clocks()))
    model.register_forward_hook(lambda *_: inside.append(clocks()))
    with Peak() as peak:
        began = clocks()
        labels = RUN[engine](model, array)
        (total, work), (forward, work_forward) = clocks() - began, sum(inside)
    return {
        "total": total,
        "forward": forward,
        "over": total - forward,
        "work": work,
        "work over": work - work_forward,
        "windows": len(inside) / 2,
        "peak": peak.growth,
        "labels": float(labels.sum(dtype=np.int64)),
    }


def clocks() -> np.ndarray:
    """Seconds on the wall, and of the processor over all threads."""
    return np.array([time.perf_counter(), time.process_time()])


class Peak:
    """The most memory that this process holds, looked at every few milliseconds.

    Attributes
    ----------
    growth, total : float
        In MiB: over what it held before, and all of it, the interpreter and torch too.
    """

    def __enter__(self) -> Peak:
        if sys.platform == "linux":  # what was freed before, but kept by the allocator, is no free memory
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._process = psutil.Process()
        self._before = self._most = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.004):
            self._most = max(self._most, self._process.memory_info().rss)

    @property
    def growth(self) -> float:
        return (self._most - self._before) / 2**20

    @property
    def total(self) -> float:
        return self._most / 2**20


def inside_of(found: dict[str, float]) -> float:
    """Processor seconds inside the network."""
    return found["work"] - found["work over"]


def engines(widths: tuple[int, ...], repeats: int, chosen: tuple[str, ...]) -> dict[str, Any]:
    there = [engine for engine in chosen if "nnU-Net" not in engine or find_spec("nnunetv2")]
    if len(there) < len(chosen):
        print("nnU-Net is left out: nnunetv2 is not installed")
    results: dict[str, Any] = {}
    for classes in CLASSES:
        runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in there}
        for _ in range(repeats):
            for engine in there:
                runs[engine].append(child("--engine", engine, "--classes", str(classes), *said(widths)))
        result = {
            engine: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for engine, found in runs.items()
        }
        results[f"{classes} classes"] = result
        print(f"{classes} classes, {'x'.join(map(str, SHAPE))}, {int(result[there[0]]['windows'])} windows")
        for engine, found in result.items():
            print(
                f"  {engine:<17} {found['total']:8.2f} s {found['forward']:8.2f} s inside the network "
                f"{found['over']:7.2f} s over ({found['over'] / found['forward']:6.1%}; work "
                f"{found['work over']:7.2f} s, {found['work over'] / inside_of(found):6.1%}) "
                f"{found['peak']:6.0f} MiB at the peak"
            )
        peers = [found for engine, found in result.items() if engine in ("MONAI", "nnU-Net")]
        shares = {
            key: result["napari-prosma"][key] / min(peer[key] for peer in peers)
            for key in ("over", "work over", "peak")
        }
        print("  of the better peer's: " + ", ".join(f"{key} {share:.2f}" for key, share in shares.items()))
    return results


# ---- cost and volume --------------------------------------------------------------------------------------


def checkpoint(window: int, widths: tuple[int, ...]) -> Checkpoint:
    """Two classes with a logit each, so that sums are those of two classes."""
    model = network(3, widths)
    plan = Plan(
        dims=3,
        channels=1,
        class_names=("background", "one", "two"),
        patch=(window,) * 3,
        batch=1,
        intensity="ct",
        clip=(-4.0, 4.0),
    )
    return Checkpoint(model.spec, plan, model.state_dict(), config={}, epoch=1)


def measure_growth(times: int, widths: tuple[int, ...]) -> dict[str, float]:
    """In this process: a memory-mapped volume ``times`` as long, into a file."""
    shape = (1, 96 * times, 160, 160)
    with tempfile.TemporaryDirectory() as folder:
        image = np.lib.format.open_memmap(Path(folder) / "in.npy", "w+", np.float32, shape)
        for row in range(shape[1]):
            image[0, row] = np.random.default_rng(row).normal(size=shape[2:])
        model = checkpoint(64, widths)
        with Peak() as peak:
            began = clocks()
            *_, last = segment_to(model, Image(image, SPACING), Path(folder) / "out.npy", device="cpu")
            total, work = clocks() - began
        assert isinstance(last, Finished)
    return {"total": total, "work": work, "peak": peak.growth, "voxels": float(np.prod(shape))}


def growth(widths: tuple[int, ...], repeats: int) -> dict[str, Any]:
    runs: dict[int, list[dict[str, float]]] = {times: [] for times in GROWTH}
    for _ in range(repeats):
        for times in GROWTH:
            runs[times].append(child("--growth", str(times), *said(widths)))
    results = {}
    for times, found in runs.items():
        result = {key: min(run[key] for run in found) for key in found[0]}
        results[f"{times} x"] = result
        million = result["voxels"] / 1e6
        print(
            f"  {times} x {result['total']:8.2f} s, {result['work'] / million:6.2f} s of work per million "
            f"voxels, {result['peak']:6.0f} MiB at the peak, pages of the mapped files included"
        )
    return results


def make_large(path: Path) -> None:
    """Noise around a gradient, chunk by chunk, as float32."""
    import zarr

    ome_zarr.write(path, np.zeros((1, 1, LARGE[2]), np.float32), SPACING)
    group = zarr.open_group(path, mode="r+")
    for level in range(len(list(group.array_keys()))):
        shape = (LARGE[0], *(n // 2**level for n in LARGE[1:]))
        key = {"name": "v2", "separator": "/"}
        array = group.create_array(
            str(level),
            shape=shape,
            dtype=np.float32,
            chunks=(64, 128, 128),
            chunk_key_encoding=key,
            overwrite=True,
        )
        if level == 0:
            for start in range(0, LARGE[0], 64):
                array[start : start + 64] = np.random.default_rng(start).random((64, *LARGE[1:]), np.float32)


def measure_large(path: Path, widths: tuple[int, ...]) -> dict[str, float]:
    """In this process; all of its memory counts."""
    began = clocks()
    target = path.with_name("labels.zarr")
    with Peak() as peak:
        *_, last = segment_to(checkpoint(64, widths), path, target, device="cpu", overlap=0.25)
    assert isinstance(last, Finished)
    total, work = clocks() - began
    return {"total": total, "work": work, "peak": peak.total}


def large(widths: tuple[int, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.zarr"
        subprocess.run([sys.executable, __file__, "--make-large", str(path)], check=True)
        result = child("--large", str(path), *said(widths))
        gib = 4 * np.prod(LARGE) / 2**30
        print(
            f"{gib:.0f} GiB of OME-Zarr: {result['total']:.0f} s, {result['peak']:.0f} MiB held at the most"
        )
    return result


# ---- the script -------------------------------------------------------------------------------------------


def child(*arguments: str) -> dict[str, float]:
    """What one measurement in a process of its own prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def said(widths: tuple[int, ...]) -> tuple[str, ...]:
    return ("--widths", ",".join(map(str, widths)) or "0", "--threads", str(torch.get_num_threads()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=("engines", "linear", "large"), default="engines")
    parser.add_argument(
        "--widths", default="4,4,4", help="channels per level of the network; 0: a convolution is all of it"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--engines", default=",".join(ENGINES), help="which of them, parted by commas")
    parser.add_argument("--out", type=Path, default=Path("segment.json"))
    for name in ("--engine", "--classes", "--growth", "--large", "--make-large"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    widths = tuple(int(width) for width in asked.widths.split(",") if int(width))
    if asked.engine:
        print(json.dumps(measure_engine(asked.engine, int(asked.classes), widths)))
    elif asked.growth:
        print(json.dumps(measure_growth(int(asked.growth), widths)))
    elif asked.make_large:
        make_large(Path(asked.make_large))
    elif asked.large:
        print(json.dumps(measure_large(Path(asked.large), widths)))
    else:
        parts = {
            "engines": lambda: engines(widths, asked.repeats, tuple(asked.engines.split(","))),
            "linear": lambda: growth(widths, asked.repeats),
            "large": lambda: large(widths),
        }
        result = {
            "command": shlex.join(["python", *sys.argv]),
            "machine": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "machine": platform.machine(),
                "system": platform.system(),
                "cores": os.cpu_count(),
                "threads": asked.threads,
                "load": psutil.getloadavg()[0],
            },
            "part": asked.part,
            "widths": widths,
            "results": parts[asked.part](),
        }
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
