"""Two processes learn as one where memory runs out in one of them, and where a teacher looks at both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.multiprocessing import spawn

from napari_prosma.data.phantoms import ULTRASOUND_CLASSES, ultrasound_case
from napari_prosma.errors import ProsmaError
from napari_prosma.events import EpochEnd, Event, Notice
from napari_prosma.model.checkpoint import LAST, load_checkpoint, split_prefix
from napari_prosma.nn.spec import ModelSpec
from napari_prosma.training import learner
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.run import train

PROCESSES = 2
BATCH = 4
TEACHER = {"mu_max": 1.0, "tau": 0.5, "rho": 0.05, "beta": 0.5, "ramp": 0.0}


def configured(folder: Path, **changes: object) -> TrainConfig:
    usual = {"run_dir": folder, "widths": (4, 8, 16), "epochs": 1, "steps_per_epoch": 2, "device": "cpu"}
    return TrainConfig.of(**{**usual, "threads": 1, "seed": 4, "batch": BATCH, **changes})


def told(config: TrainConfig) -> list[Event]:
    cases = [ultrasound_case(seed, (40, 40)) for seed in range(8)]
    bare = [ultrasound_case(seed, (40, 40)) for seed in range(20, 26)]
    dim = config.objective == "dim"
    return list(train(config, cases, ULTRASOUND_CLASSES, unlabelled=bare if dim else ()))


def ends(events: list[Event]) -> list[EpochEnd]:
    return [event for event in events if isinstance(event, EpochEnd)]


class RanOut(torch.autograd.Function):
    """Has no memory on the way back."""

    @staticmethod
    def forward(ctx: object, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")


@dataclass(frozen=True)
class Room:
    """What passes a network whose memory holds so many patches, in a forward or in a backward pass."""

    patches: int
    backward: bool
    make: Callable[[ModelSpec], nn.Module] = learner.build_model
    made: list[nn.Module] = field(default_factory=list)

    def build(self, spec: ModelSpec) -> nn.Module:
        network = self.make(spec)

        def look(module: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> torch.Tensor | None:
            if not module.training or len(given[0]) <= self.patches:
                return None
            if self.backward:
                return RanOut.apply(out)
            raise torch.OutOfMemoryError("out of memory")

        network.register_forward_hook(look)
        self.made.append(network)
        return network


@dataclass(frozen=True)
class Kept:
    """What a process says of a run."""

    loss: float
    figures: dict[str, float]  # of the objective
    notices: list[str]
    weights: dict[str, torch.Tensor]


def run_all(rank: int, folder: str, port: int) -> None:
    """One run after the other, as torchrun would start them."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES}.items():
            patch.setenv(name, str(value))
        patch.setenv("LOCAL_WORLD_SIZE", str(PROCESSES))
        patch.setenv("TORCHELASTIC_RUN_ID", "test")
        meeting = dist.TCPStore("127.0.0.1", port)
        dist.init_process_group("gloo", store=meeting, rank=rank, world_size=PROCESSES)
        kept: dict[str, Kept] = {}
        for name, (room, changes) in RUNS.items():
            memory = room.get(rank, Room(2 * BATCH, backward=False))
            patch.setattr(learner, "build_model", memory.build)
            try:
                events = told(configured(Path(folder) / name, **changes))
            except ProsmaError as error:
                kept[name] = Kept(math.nan, {}, [str(error)], {})
                continue
            (end,) = ends(events)
            said = [event.message for event in events if isinstance(event, Notice)]
            kept[name] = Kept(end.loss, end.objective, said, memory.made[-1].state_dict())
        torch.save(kept, f"{folder}/{rank}.pt")
        dist.barrier()
        dist.destroy_process_group()


ALONE = {"norm": "instance", "gate_options": {"norm": "none"}}
"""No norm looks across the batch."""
RUNS: dict[str, tuple[dict[int, Room], dict[str, object]]] = {
    "forward": ({1: Room(2, backward=False)}, {}),
    "backward": ({0: Room(2, backward=True)}, {}),
    "nothing fits": ({1: Room(0, backward=False)}, {}),
    "teacher": ({}, {"objective": "dim", "objective_options": TEACHER, "steps_per_epoch": 1, **ALONE}),
    "teacher of norms": ({}, {"objective": "dim", "objective_options": TEACHER}),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Kept]]]:
    """The folder of all runs, and what each process says of them."""
    folder: Path = tmp_path_factory.mktemp("processes")
    # Held by this process, so that it outlives both: a file that the last of them removes can go too early.
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn(run_all, (str(folder), meeting.port), nprocs=PROCESSES)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.mark.parametrize("run", ["forward", "backward"])
def test_memory_that_runs_out_in_one_process_halves_the_parts_of_all(
    run: str, both: tuple[Path, list[dict[str, Kept]]]
) -> None:
    folder, (one, other) = both[0], (kept[run] for kept in both[1])
    for kept in (one, other):
        assert [note for note in kept.notices if "Memory ran out" in note and "into 2 parts" in note]
    assert math.isfinite(one.loss)
    assert one.loss == other.loss
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=0)
    assert load_checkpoint(folder / run / LAST).place["parts"] == 2


def test_memory_too_small_for_anything_ends_the_run_in_all(both: tuple[Path, list[dict[str, Kept]]]) -> None:
    for kept in both[1]:
        (said,) = kept["nothing fits"].notices
        assert "memory ran out in step 1 even with the smallest part" in said


def test_a_teacher_of_two_processes_teaches_as_that_of_one_with_twice_the_batch(
    both: tuple[Path, list[dict[str, Kept]]], tmp_path: Path
) -> None:
    one, other = (kept["teacher"] for kept in both[1])
    (alone,) = ends(told(configured(tmp_path / "run", **RUNS["teacher"][1], batch=PROCESSES * BATCH)))
    assert one.figures == other.figures == pytest.approx(alone.objective, rel=1e-3)
    assert {"divergence", "sharpness", "teacher sure"} <= alone.objective.keys()
    assert one.loss == other.loss == pytest.approx(alone.loss, rel=1e-5)


def test_running_statistics_are_those_of_all_processes(both: tuple[Path, list[dict[str, Kept]]]) -> None:
    one, other = (kept["teacher of norms"] for kept in both[1])
    assert [name for name in one.weights if name.endswith("running_var")]
    torch.testing.assert_close(one.weights, other.weights, rtol=0, atol=0)
    assert split_prefix(load_checkpoint(both[0] / "teacher of norms" / LAST).state, "objective")
