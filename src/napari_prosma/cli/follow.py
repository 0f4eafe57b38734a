"""Follow a run in a shell: a progress bar with the time left, and a line per epoch or notice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from napari_prosma.errors import ProsmaError
from napari_prosma.events import (
    UNLIMITED_EPOCHS,
    Baseline,
    CheckpointSaved,
    EpochEnd,
    Event,
    Finished,
    Notice,
    Resumed,
    Started,
    Verdict,
)
from napari_prosma.events import Progress as Step

if TYPE_CHECKING:
    from napari_prosma.training.steering import Steering

T = TypeVar("T")
BAD_INPUT, INTERRUPTED = 2, 130

# Under torchrun every process follows the run, and the first one tells of it.
console = Console(soft_wrap=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print a line as it is: brackets in a file's name are no markup."""
    console.print(escape(text))


def complain(error: ProsmaError) -> None:
    """Print an error's own words to stderr."""
    _errors.print(f"[bold red]error:[/] {escape(str(error))}")


@contextmanager
def exit_codes() -> Iterator[None]:
    """2 for bad input, with the error's own words; 130 for Ctrl-C."""
    try:
        yield
    except ProsmaError as error:
        complain(error)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt as stop:
        _errors.print("stopped")
        raise typer.Exit(INTERRUPTED) from stop


def track(items: Iterator[T], total: int, message: str) -> Iterator[T]:
    """The same items, with a progress bar."""
    with _progress() as bar:
        yield from bar.track(items, total, description=message)


def follow(events: Iterator[Event], steering: Steering | None = None) -> Any:
    """Pull every event, show it, and return the result of the last.

    ``steering``: Ctrl-C asks the run to end after the step under way, so that it can keep its place.
    """
    result = None
    # Closed at once when Ctrl-C falls between two events, so that a run still keeps its last checkpoint.
    with (
        closing(events),  # type: ignore[type-var]
        _ctrl_c_stops(steering) as pressed,
        _progress() as bar,
    ):
        task = None
        for event in events:
            match event:
                case Started():
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(escape(event.message), total=event.total)
                    if event.device != "cpu":
                        console.print(f"on {event.device}")
                case Step() if task is not None:
                    bar.update(task, completed=event.done, total=event.total)
                case Notice():
                    console.print(escape(event.message))
                case EpochEnd():
                    console.print(escape(_line(event)))
                case Resumed():
                    console.print(f"going on after epoch {len(event.history)}")
                case Verdict():
                    console.print(escape(f"  {event.in_words()}"))
                case Baseline() if event.figures:
                    figures = ", ".join(
                        f"{k} {v:.3f}" for k, v in event.figures.items() if k.startswith(("dice", "iou"))
                    )
                    console.print(escape(f"the model before: {figures}"))
                case CheckpointSaved(kind="best"):
                    console.print(f"  best so far: {escape(str(event.path))}")
                case Finished():
                    result = event.result
        if pressed.is_set() and result is None:
            raise KeyboardInterrupt
    return result


@contextmanager
def _ctrl_c_stops(steering: Steering | None) -> Iterator[Flag]:
    """Set by the first Ctrl-C (torchrun sends SIGTERM), which the run is told; a second one interrupts."""
    pressed = Flag()
    if steering is None:
        yield pressed
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def press(number: int, frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        steering.stop()
        pressed.set()

    for number in before:
        signal.signal(number, press)
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=sys.stdout.isatty())


def _line(event: EpochEnd) -> str:
    classes = [
        f"{k.removeprefix('dice/')} {v:.3f}" for k, v in event.validation.items() if k.startswith("dice/")
    ]
    zeros = [
        f"{state['z_zero_fraction']:.0%}" for state in event.gates.values() if "z_zero_fraction" in state
    ]
    epoch = f"{event.epoch}/{event.epochs}" if event.epochs < UNLIMITED_EPOCHS else str(event.epoch)
    line = (
        f"epoch {epoch}  loss {event.loss:.3f}  dice {event.validation['dice']:.3f}  "
        f"iou {event.validation['iou']:.3f}"
    )
    if len(classes) > 1:
        line += f"  ({', '.join(classes)})"
    if zeros:
        line += f"  zeros in z by skip {' '.join(zeros)}"
    line += "".join(f"  {name} {value:.3f}" for name, value in event.objective.items())
    return f"{line}  {event.seconds:.1f} s"
