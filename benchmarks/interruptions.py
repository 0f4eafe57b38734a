"""What a run loses when it is killed, and what a process keeps of many runs: nothing, it should be.

    python benchmarks/interruptions.py --kills 200 --trainings 100 --out interruptions.json

Kills: a small run on the CPU is killed (SIGKILL) at random moments and resumed each time from whatever its
folder holds, until it ends; then the next one begins. Every finished run must have the loss of every epoch
and every weight of the run that nobody touched, bit for bit. A child process per attempt is forked from one
that has already imported torch, so that kills fall on training and saving and not on imports.

Trainings: resident memory after each of many short trainings in one process. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from napari_prosma.data.case import Case
from napari_prosma.data.phantoms import ultrasound_case
from napari_prosma.errors import ProsmaError
from napari_prosma.events import CheckpointSaved
from napari_prosma.model.checkpoint import LAST, Checkpoint, load_checkpoint
from napari_prosma.training import loop
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

EPOCHS, STEPS = 6, 4


def config_in(folder: Path) -> TrainConfig:
    return TrainConfig.of(
        run_dir=folder,
        widths=(4, 8, 16),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        batch=2,
        patch=(32, 32),
        average=0.9,
        device="cpu",
        threads=1,
        seed=3,
    )


def go_on(folder: Path, cases: Sequence[Case]) -> int:
    """Train to the end from whatever the folder holds; how many checkpoints were written."""
    kept = load_checkpoint(folder / LAST) if (folder / LAST).exists() else None
    events = train(config_in(folder), cases, (), kept)
    return sum(isinstance(event, CheckpointSaved) for event in events)


def attempt(folder: Path, cases: Sequence[Case], seconds: float) -> str:
    """How one child ended that went on with the run: killed after ``seconds``, finished, or failed."""
    child = os.fork()
    if child == 0:
        try:
            go_on(folder, cases)
        except ProsmaError as error:
            print(error)
            os._exit(2)
        except BaseException as error:  # a child must not run its parent's code
            print(f"{type(error).__name__}: {error}")
            os._exit(3)
        os._exit(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "finished" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else "finished"


def losses(checkpoint: Checkpoint) -> list[float]:
    return [epoch["loss"] for epoch in checkpoint.place["history"]]


def differences(found: Checkpoint, reference: Checkpoint) -> list[str]:
    """What is not bit for bit the same."""
    wrong = [] if losses(found) == losses(reference) else ["losses"]
    for part in ("weights", "state"):
        ours, theirs = getattr(found, part), getattr(reference, part)
        if ours.keys() != theirs.keys():
            wrong.append(f"names in {part}")
        wrong += [name for name in ours.keys() & theirs.keys() if not torch.equal(ours[name], theirs[name])]
    return wrong


def measure_kills(kills: int, cases: Sequence[Case], root: Path, seed: int = 0) -> dict[str, Any]:
    """Kill ``kills`` children of as many runs as it takes, at moments that ``seed`` draws."""
    go_on(root / "first", cases)  # imports what is imported late
    began = time.monotonic()
    go_on(root / "reference", cases)
    whole = time.monotonic() - began
    reference = load_checkpoint(root / "reference" / LAST)
    draw, done, runs = random.Random(seed), 0, 0
    steps: list[int] = []
    left_over: list[str] = []
    failures: list[str] = []
    while done < kills:
        folder = root / f"run{runs}"
        outcome = ""
        while outcome != "finished":
            outcome = attempt(folder, cases, draw.uniform(0, whole) if done < kills else 600)
            if outcome == "failed":
                failures.append(f"run {runs} does not go on after {done} kills")
                break
            if outcome == "killed":
                done += 1
                if (folder / LAST).exists():
                    steps.append(load_checkpoint(folder / LAST).place["step"])
        runs += 1
        wrong = differences(load_checkpoint(folder / LAST), reference) if outcome == "finished" else []
        failures += [f"run {runs - 1}: {', '.join(wrong)}"] if wrong else []
        left_over += [path.name for path in folder.iterdir() if path.name.startswith(".writing-")]
    return {
        "kills": done,
        "runs": runs,
        "seconds_of_a_run": whole,
        "folders_opened": len(steps),
        "steps_kept": sorted(set(steps)),
        "temporary_files_left": len(left_over),
        "failures": failures,
    }


def measure_memory(trainings: int, cases: Sequence[Case], root: Path) -> dict[str, object]:
    """Resident MiB after each training."""
    resident = []
    for n in range(trainings):
        go_on(root / f"short{n}", cases)
        gc.collect()
        resident.append(psutil.Process().memory_info().rss / 2**20)
    tenth = resident[min(9, len(resident) - 1)]
    return {
        "trainings": trainings,
        "after_10_MiB": tenth,
        "after_all_MiB": resident[-1],
        "growth": resident[-1] / tenth - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trainings", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("interruptions.json"), help="where the JSON goes")
    options = parser.parse_args()
    loop.SAVE_EVERY = 0.05  # places within an epoch too
    torch.set_num_threads(1)  # a child must not inherit threads that it does not have
    cases = [ultrasound_case(seed, (48, 48)) for seed in range(6)]
    result: dict[str, object] = {"machine": {"system": platform.platform(), "cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory() as folder:
        result["kills"] = measure_kills(options.kills, cases, Path(folder))
        result["memory"] = measure_memory(options.trainings, cases, Path(folder))
    for part in ("kills", "memory"):
        print(part)
        for name, value in result[part].items():  # type: ignore[attr-defined]
            print(f"  {name:24} {value if not isinstance(value, float) else round(value, 3)}")
    options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
