"""A GPU's first quarter of an hour: does everything run there, is it right, and is it quick?

    python benchmarks/gpu.py --out gpu
    python benchmarks/gpu.py --out gpu --data Dataset_BUSI_with_GT     # trains on it in the time that is left
    python benchmarks/gpu.py --out gpu --parts paper --sets sets --minutes 25
    python benchmarks/gpu.py --out gpu --device cpu --quick --minutes 60      # tries this script itself

Needs this package with PyTorch for CUDA, and a C compiler for what Triton compiles; networks of MONAI and
nnU-Net are measured where ``monai`` and ``dynamic_network_architectures`` are installed. ``PYTHONPATH=src``
will do in place of an installation.

Each part is a process of its own, which is ended when its time is over, and writes ``PART.json`` under
``--out``; what is there is not run again, so that the same line goes on where a run was cut off. A part that
fails leaves its output in ``PART.failed.txt``, and the others go on. Ends with 0 only if every part ran, with
1 if one did not, and with 2 if there is no such device or no such data. Keep ``PART.json``.

=========  =======  =====================================================================================
part       seconds  what it does
=========  =======  =====================================================================================
commands       230  every command of the shell that computes once, on phantoms
losses          80  twenty steps of every gate and objective, against the same steps of the processor
halves          40  the same in bfloat16 and float16, and that the zeros of the gates stay exact
memory          40  training and segmenting with too little of it: parts are halved, and it goes on
several         60  where there are several GPUs: losses and a teacher's figures against one with the whole
                    batch, and memory that runs out in one; ``--device cpu`` takes two processes
stopping        25  seconds from the wish to stop until the run has ended and its checkpoint is written
alive           25  how late a loop as that of a window is, while a thread trains
gate           140  each gate, computed fast and as written; its finest skip compiled, with CUDA graphs, and
                    with its end as one Triton kernel (``gate.py``)
network         60  forward and training step beside other U-Nets of the same widths (``network.py``)
busi             -  base widths on ``--data`` for 400 epochs, or for the minutes that are left
paper            -  the paper's tables (``paper.py``), what matters most first, for the minutes that are left
=========  =======  =====================================================================================

The seconds are the most that a part may take, for ``--minutes 12``, and more for more. ``busi`` and ``paper``
are left out where their data are not given.

``--data`` may be what ``paper.py pack`` made of BUSI, as well. ``--sets`` holds splits.json with the
near-duplicates and, per set, what ``paper.py pack`` made (busi.npz) or the folder itself (busi, glas, kvasir,
Task04_Hippocampus). Packed at 256 pixels BUSI has 33 MiB; GlaS and Kvasir-SEG are smaller as their folders.
The tables' runs lie in ``OUT/paper``, that of ``busi`` in ``OUT/run``: bring them along to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from measuring import circumstances
from paper_data import read_pictures
from torch import distributed as dist

from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case, Image
from napari_prosma.data.layouts import find_cases
from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.data.writers import write_labels, write_map
from napari_prosma.errors import ConfigError, ProsmaError
from napari_prosma.events import EpochEnd, Event, Finished, Notice, Progress
from napari_prosma.geometry import Geometry
from napari_prosma.inspection.trace import inspect_gates
from napari_prosma.model.checkpoint import LAST, load_checkpoint
from napari_prosma.nn.build import Network, choose_device
from napari_prosma.nn.fast.forward import reference
from napari_prosma.nn.gate_kinds import GATES
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.segmentation.segment import segment
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train
from napari_prosma.training.run_folder import read_metrics

T = TypeVar("T")
HERE = Path(__file__).parent
MINUTES = 12
"""For all parts."""
SECONDS = {
    "commands": 230,
    "losses": 80,
    "halves": 40,
    "memory": 40,
    "several": 60,
    "stopping": 25,
    "alive": 25,
    "gate": 140,
    "network": 60,
}
"""At most, of a part, for so many minutes; the others take what is left."""
LAST_SECONDS = 30
"""Left of a part's time when it stops training: to validate, to write, and to have begun."""
EPOCHS = 400


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="breast lesions, or another data set in any layout")
    parser.add_argument("--sets", type=Path, help="of the paper's tables")
    parser.add_argument("--widths", default="published", help="of the paper's tables")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--parts", nargs="+", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="as little of each part as tries it")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # of a part in its process
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)  # torchrun, of ``several``
    given = parser.parse_args()
    if given.process:
        one_of_several(given)
        return
    if given.until is not None:
        run_here(given)
        return
    needs = {"busi": given.data, "paper": given.sets}
    parts = given.parts or [part for part in PARTS if part not in needs or needs[part] is not None]
    try:
        choose_device(given.device)
        for part in needs.keys() & parts:
            if needs[part] is None:
                parser.error(f"{part} needs {'--data' if part == 'busi' else '--sets'}")
            require_data(needs[part], is_set=part == "busi")
    except (ValueError, ProsmaError) as error:
        parser.error(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # with the part in progress
    ends = time.time() + 60 * given.minutes
    for part in parts:
        print(f"{part:10} {ran(part, given, ends)}", flush=True)
    missing = [part for part in parts if not (given.out / f"{part}.json").is_file()]
    if missing:
        sys.exit(f"did not run: {', '.join(missing)}")


def require_data(path: Path, is_set: bool) -> None:
    """Raises ``ProsmaError``: nothing there can be trained on. Better said now than after ten minutes."""
    if is_set:
        cases_of(path)
    elif not path.is_dir():
        raise ConfigError(f"'{path}' is no folder of sets")


def ran(part: str, given: argparse.Namespace, ends: float) -> str:
    """Run a part in a process of its own, unless its file is there, and say how it went."""
    file, failed = given.out / f"{part}.json", given.out / f"{part}.failed.txt"
    if file.is_file():
        return "there"
    left = ends - time.time()
    limit = min(left, SECONDS.get(part, left) * given.minutes / MINUTES)
    if limit <= 0:
        return "time is up; the same line goes on from here"
    words = [sys.executable, __file__, *sys.argv[1:], "--parts", part, "--until", str(time.time() + limit)]
    began = time.monotonic()
    with failed.open("w+", encoding="utf-8") as said:
        code = result_of(words, said, limit)
        if not file.is_file():
            why = f"took more than {limit:.0f} s" if code is None else f"ended with {code}"
            said.write(f"\n{part} {why}\n")
            return f"failed, see {failed}: {why}"
    failed.unlink()
    return f"{time.monotonic() - began:.1f} s{told_by(file)}"


def result_of(words: Sequence[str], said: IO[str], limit: float) -> int | None:
    """Exit status of a process, which may print to a file; None where it had to be ended, with its own."""
    process = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, process_group=0)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # the first lets torchrun end its own
            with suppress(ProcessLookupError):  # all of them have ended
                os.killpg(process.pid, how)
                until = time.monotonic() + 10
                while time.monotonic() < until:
                    process.poll()
                    os.killpg(process.pid, 0)
                    time.sleep(0.1)


def told_by(file: Path) -> str:
    """What of a part's result stands beside its time."""
    row = json.loads(file.read_text(encoding="utf-8"))
    return "".join(f", {key}: {row[key]}" for key in ("left out", "largest", "longest") if key in row)


def run_here(given: argparse.Namespace) -> None:
    """The one part in this process."""
    (part,) = given.parts
    began = time.monotonic()
    found = PARTS[part](given)
    seconds = round(time.monotonic() - began, 1)
    row = {**circumstances(torch.device(given.device)), "seconds": seconds, **found}
    with written_whole(given.out / f"{part}.json") as temporary:
        temporary.write_text(json.dumps(row, indent=1, default=str) + "\n", encoding="utf-8")


# ---- parts ------------------------------------------------------------------------------------------------


def commands(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every command, each a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "data", Path(folder) / "run"
        for seed in range(6):
            case = ultrasound_case(seed, (96, 96))
            assert case.read_label is not None
            for kind in ("images", "labels"):
                (data / kind).mkdir(parents=True, exist_ok=True)
            image = case.read_image()
            write_map(data / "images" / f"{case.name}.nii.gz", image.array, image.geometry)
            write_labels(data / "labels" / f"{case.name}.nii.gz", case.read_label(), image.geometry)
        scan, truth = sorted(str(path) for path in data.rglob("*.nii.gz"))[::6]
        device, quick = ["--device", given.device], ["--epochs", "2", "--widths", "quick"]
        quick += ["--steps-per-epoch", "2"] if given.quick else []
        lines: list[list[str]] = [
            ["check", str(data)],
            ["train", str(data), "--out", str(run), *quick, *device],
            ["ablate", str(run), "--gates", "none"],
            ["segment", str(run), scan, "--out", f"{folder}/found", *device],
            ["evaluate", f"{folder}/found", truth],
            ["inspect", str(run), scan, "--out", f"{folder}/gates", *device],
            ["suspicious", str(run), str(data), "--out", f"{folder}/doubts", *device],
            ["next", str(run), str(data / "images"), *device],
            ["models"],
            ["card", str(run)],
            ["tune", str(run), *device, *(() if given.quick else ("--compile",))],
            ["export", str(run), "--onnx", f"{folder}/model.onnx"],
        ]
        taken = all_of({line[0]: partial(seconds_of, line) for line in lines})
    return {"taken": taken}


def losses(given: argparse.Namespace) -> dict[str, Any]:
    """Largest relative difference of the losses of the first epochs."""
    ways = {gate: {"gate": gate} for gate in GATES} | {
        "strided entry": {"entry": 2},
        "averaged": {"average": 0.9},
        "dim": {"objective": "dim"},
        "dale": {"objective": "dale", "objective_options": {"warm_up_epochs": 1, "every": 1}},
    }
    rows = all_of({name: partial(both_losses, given, **changes) for name, changes in ways.items()})
    return {"ways": rows, "largest": max(row["relative"] for row in rows.values())}


def both_losses(given: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    there = losses_of(given, given.device, **changes)
    with reference():
        here = losses_of(given, "cpu", **changes)
    apart = np.abs(np.subtract(there, here)) / np.abs(here)
    return {"there": there, "here": here, "relative": float(apart.max())}


def halves(given: argparse.Namespace) -> dict[str, Any]:
    """Losses in half precision, and the zeros of a gate that computes within autocast."""
    if given.device == "cpu":
        return {"left out": "the processor trains in single precision"}
    rows = {
        kind: losses_of(given, given.device, precision=kind) for kind in ("32-true", "bf16-mixed", "16-mixed")
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = settings(given, run, given.device, precision="bf16-mixed")
        for _ in train(config, pictures(), ULTRASOUND_CLASSES):
            pass
        *_, last = inspect_gates(run, pictures()[0].read_image(), device=given.device)
        assert isinstance(last, Finished)
        zeros = {level: float((skip.z == 0).mean()) for level, skip in last.result.skips.items()}
    return {"losses": rows, "exact zeros by skip": zeros}


def gate(given: argparse.Namespace) -> dict[str, Any]:
    quick = ["--small", "--also", "fused"] if given.quick else ["--also", "compiled", "graphs", "fused"]
    return script(given, "gate.py", *quick)


def network(given: argparse.Namespace) -> dict[str, Any]:
    return script(given, "network.py")


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Notices of halved parts where a tenth of a GiB is all there is."""
    if given.device != "cuda":
        return {"left out": "only CUDA's memory can be limited"}
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 600 * 2**20) / whole)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            config = settings(given, run, given.device, widths="tiny", batch=64, side=192)
            cases = [ultrasound_case(seed, (192, 192)) for seed in range(6)]
            said = [event.message for event in train(config, cases) if isinstance(event, Notice)]
            large = Image(np.zeros((1, 4096, 4096), np.float32), Geometry.pixels(2))
            large.array[:] = np.random.default_rng(0).normal(size=large.array.shape)
            *_, last = segment(run, large, device=given.device, batch=64)
            assert isinstance(last, Finished)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    ran_out = [message for message in said if "emory" in message]
    if not ran_out:
        raise RuntimeError(f"memory was to run out, and did not: {said}")
    return {"said": ran_out}


def several(given: argparse.Namespace) -> dict[str, Any]:
    """How far several processes are from one with the whole batch, and that all halve it when one must."""
    count = torch.cuda.device_count() if given.device == "cuda" else 2
    if count < 2:
        return {"left out": "one GPU: not run"}
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), __file__]
        words += ["--out", folder, "--device", given.device, "--process", *["--quick"] * given.quick]
        subprocess.run([sys.executable, *words], check=True)
        each = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(count)]
        apart = {}
        for name, changes in TOGETHER.items():
            whole = {**changes, "batch": count * BATCH}
            alone = figures_of(run_of(given, Path(folder) / f"alone {name}", **whole))
            for figure, value in alone.items():
                found = {own[name][figure] for own in each}
                if len(found) > 1:
                    raise RuntimeError(f"{name}: the processes do not agree on {figure}: {found}")
                apart[f"{name}, {figure}"] = abs(found.pop() - value) / max(abs(value), 1e-12)
    if not all(own["halved"] for own in each):
        raise RuntimeError(f"memory ran out in one process, and not all halved its batch: {each}")
    return {"processes": count, "relative": apart, "largest": max(apart.values()), "halved": True}


BATCH = 4
"""Of each of several processes."""
HALVED = "into 2 parts"
"""What a run says of batches that did not fit."""
_NO_NORMS = {"norm": "instance", "gate_options": {"norm": "none"}}
"""None that looks across the batch: a processor has no norms that look across processes."""
TOGETHER: dict[str, dict[str, Any]] = {
    "losses": _NO_NORMS,
    # One step: the sharpness of a second one stands on the rounding of the first.
    "dim": {
        **_NO_NORMS,
        "steps_per_epoch": 1,
        "objective": "dim",
        "objective_options": {"rho": 0.05, "ramp": 0.0},
    },
}


def run_of(given: argparse.Namespace, folder: Path, **changes: Any) -> list[Event]:
    config = settings(given, folder, given.device, **{"epochs": 1, "steps_per_epoch": 2, **changes})
    cases, bare = ([ultrasound_case(seed + n, (64, 64)) for n in range(8)] for seed in (0, 20))
    is_dim = config.objective == "dim"
    return list(train(config, cases, ULTRASOUND_CLASSES, unlabelled=bare if is_dim else ()))


def figures_of(events: Sequence[Event]) -> dict[str, float]:
    (end,) = (event for event in events if isinstance(event, EpochEnd))
    return {"loss": end.loss, **end.objective}


def one_of_several(given: argparse.Namespace) -> None:
    """What a process does that torchrun has started; the last has memory for two patches."""
    from napari_prosma.training import learner

    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if given.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Held over all runs: those that a run begins itself cannot be begun again at the same place.
    dist.init_process_group("cpu:gloo,cuda:nccl" if given.device == "cuda" else "gloo")
    found: dict[str, Any] = {
        name: figures_of(run_of(given, given.out / name, **changes, batch=BATCH))
        for name, changes in TOGETHER.items()
    }
    build = learner.build_model

    def short_of_memory(spec: ModelSpec) -> Network:
        network = build(spec)

        def look(module: torch.nn.Module, images: tuple[torch.Tensor]) -> None:
            if module.training and len(images[0]) > BATCH // 2:
                raise torch.OutOfMemoryError("out of memory")

        network.register_forward_pre_hook(look)
        return network

    learner.build_model = short_of_memory if rank == count - 1 else build
    events = run_of(given, given.out / "memory", batch=BATCH)
    found["halved"] = any(isinstance(e, Notice) and HALVED in e.message for e in events)
    (given.out / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def stopping(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds that closing a run takes, from a step in its middle."""
    taken = []
    for _ in range(2 if given.quick else 5):
        with tempfile.TemporaryDirectory() as folder:
            run = train(settings(given, Path(folder) / "run", given.device, widths="tiny"), pictures())
            for _ in range(3):
                next(event for event in run if isinstance(event, Progress) and "loss" in event.message)
            began = time.monotonic()
            run.close()
            taken.append(time.monotonic() - began)
    return {"taken": taken, "largest": max(taken)}


def alive(given: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds by which calls every 5 ms are late: the longest, and one in a hundred."""
    late: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = settings(given, Path(folder) / "run", given.device, widths="tiny", epochs=4)
        thread = threading.Thread(target=lambda: list(train(config, pictures(), ULTRASOUND_CLASSES)))
        thread.start()
        while thread.is_alive():
            began = time.perf_counter()
            time.sleep(0.005)
            late.append(1000 * (time.perf_counter() - began) - 5)
    return {"calls": len(late), "longest": max(late), "one in a hundred": float(np.quantile(late, 0.99))}


def busi(given: argparse.Namespace) -> dict[str, Any]:
    """Dice of base widths by the end of the schedule, or of the minutes."""
    cases, class_names = cases_of(given.data)
    limit = (given.until - time.time() - LAST_SECONDS) / 60
    if limit < 0.5:
        raise TimeoutError("too little time is left to train; the same line goes on from here")
    time_or_epochs = (
        {"epochs": 2, "steps_per_epoch": 2} if given.quick else {"minutes": limit, "epochs": EPOCHS}
    )
    config = TrainConfig.of(
        run_dir=given.out / "run",
        widths="quick" if given.quick else "base",
        modality="ultrasound",
        device=given.device,
        seed=0,
        **time_or_epochs,
    )
    kept = given.out / "run" / LAST
    for _ in train(config, cases, class_names, load_checkpoint(kept) if kept.is_file() else None):
        pass
    ends = read_metrics(given.out / "run")
    return {
        "minutes": limit,
        "epochs": len(ends),
        "seconds of an epoch": [round(end.seconds, 2) for end in ends],
        "dice": [end.validation and end.validation.get("dice") for end in ends],
    }


FIRST = ("--models", "prosma-unet", "unet", "attention-unet")
TABLES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # Ours and the two networks that it is built on: as the paper's tables do it, then honestly.
    ("table1", "busi", FIRST),
    ("table1", "busi", (*FIRST, "--clusters", "splits.json", "--inner", "0.1")),
    ("table1", "busi", ()),
    # Table 3: the prox against the dense gate; the gates' norms; where lambda starts and how fast it moves.
    ("table3", "busi", ()),
    ("table3", "busi", ("--gate-norm", "none")),
    *(
        ("table3", "busi", ("--preset", "paper2d", "--models", "prosma", "--threshold", start, *rate))
        for start in ("0.1", "0.6931471805599453", "1.5")
        for rate in (("--threshold-rate", "1"), ("--threshold-rate", "10"))
    ),
    ("table1", "glas", FIRST),
    ("table1", "kvasir", ("--preset", "kvasir", *FIRST)),
    ("table2", "Task04_Hippocampus", ()),
    ("table1", "glas", ()),
    ("table1", "kvasir", ("--preset", "kvasir")),
    ("table1", "kvasir", ("--preset", "ukan2_exact", "--models", "ukan2", "prosma-unet")),
)
"""What is run, on which set, and how."""


def paper(given: argparse.Namespace) -> dict[str, Any]:
    """Tables of which all runs are there; an error while some are left, so that they go on next time."""
    done, absent = [], []
    for table, name, options in TABLES:
        found = [path for path in (given.sets / name, given.sets / f"{name}.npz") if path.exists()]
        if not found or ("splits.json" in options and not (given.sets / "splits.json").is_file()):
            absent.append([table, name, *options])
            continue
        minutes = (given.until - time.time() - LAST_SECONDS) / 60
        if minutes <= 0:
            break
        words = [sys.executable, str(HERE / "paper.py"), table, "--data", str(found[0])]
        words += ["--out", str(given.out / "paper"), "--widths", given.widths, "--incomplete"]
        words += ["--device", given.device, "--minutes", str(minutes)]
        words += ["--epochs", "1", "--size", "32", "--seeds", "0"] if given.quick else []
        words += [str(given.sets / word) if word == "splits.json" else word for word in options]
        subprocess.run(words, check=True)
        done.append([table, name, *options])
    if time.time() >= given.until - LAST_SECONDS:
        raise TimeoutError(f"time is up after {len(done)} tables; the same line goes on from there")
    return {"done": done, "left out, there are no data": absent}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    part.__name__: part
    for part in (commands, losses, halves, memory, several, stopping, alive, gate, network, busi, paper)
}


# ---- what parts share -------------------------------------------------------------------------------------


def all_of(tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each gives; an error only when all have been tried, with what every one of them said."""
    found, failed = {}, []
    for name, task in tasks.items():
        try:
            found[name] = task()
        except Exception:
            failed.append(f"{name}: {traceback.format_exc()}")
    if failed:
        raise RuntimeError("\n".join([*failed, f"these ran: {', '.join(found) or 'none'}"]))
    return found


def seconds_of(line: Sequence[str]) -> float:
    """Of a command of the shell, in a process of its own."""
    began = time.monotonic()
    words = [sys.executable, "-m", "napari_prosma", *line]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"prosma {line[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return round(time.monotonic() - began, 2)


def pictures() -> list[Case]:
    return [ultrasound_case(seed, (64, 64)) for seed in range(5)]


def settings(given: argparse.Namespace, run: Path, device: str, **changes: Any) -> TrainConfig:
    short = {"epochs": 2, "steps_per_epoch": 2 if given.quick else 10, "widths": "quick", "batch": 4}
    return TrainConfig.of(run_dir=run, device=device, seed=0, **{"precision": "32-true", **short, **changes})


def cases_of(path: Path) -> tuple[Sequence[Case], Sequence[str]]:
    """The cases of a folder, or of what ``paper.py pack`` made, with the names of their classes."""
    if path.suffix != ".npz":
        data = find_cases(path)
        return data.cases, data.class_names
    held = read_pictures(path)
    each = zip(held.names, held.images, held.masks[:, 0], strict=True)
    return [Case.from_arrays(*one) for one in each], ULTRASOUND_CLASSES


def losses_of(given: argparse.Namespace, device: str, **changes: Any) -> Sequence[float]:
    exact = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                settings(given, Path(folder) / "run", device, **changes), pictures(), ULTRASOUND_CLASSES
            )
            return [event.loss for event in run if isinstance(event, EpochEnd)]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = exact


def script(given: argparse.Namespace, name: str, *options: str) -> dict[str, Any]:
    """What another benchmark writes on this device."""
    out = given.out / f"{Path(name).stem}.own.json"
    words = [sys.executable, str(HERE / name), "--device", given.device, "--out", str(out), *options]
    if given.quick:
        words += ["--settings", "2d", "--rounds", "1"]
    subprocess.run(words, check=True)
    return json.loads(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
