"""Follow a run in a shell: a progress bar with the time left, and a line per epoch or notice."""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from platformdirs import user_log_path
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
from rich.text import Text

from napari_prosma import __version__
from napari_prosma.data.names import printable
from napari_prosma.errors import ProsmaError, as_sentence
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
    from napari_prosma.data.layouts import DataSet
    from napari_prosma.training.steering import Steering

T = TypeVar("T")
BAD_INPUT, INTERRUPTED = 2, 130
_LONGEST_SAID = 200

# Under torchrun every process follows the run, and the first one tells of it.
console = Console(soft_wrap=True, highlight=False, quiet=os.environ.get("RANK", "0") != "0")
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


def as_it_is(text: str) -> Text:
    """Text whose brackets and colons are no markup, and that steers no terminal."""
    return Text(printable(text))


def say(text: str) -> None:
    """Print a line as it is."""
    console.print(as_it_is(text))


def describe(data_set: DataSet, notices: Iterable[str] | None = None) -> None:
    """Say what was found in a folder, and what was decided about it."""
    for line in (data_set.summary, *(data_set.notices if notices is None else notices)):
        say(as_sentence(line))


def notice(text: str) -> None:
    """Print a line to stderr, where it is no part of the answer."""
    _errors.print(as_it_is(text))


def complain(error: ProsmaError) -> None:
    """Print an error's own words to stderr."""
    _complain(str(error))


@contextmanager
def exit_codes() -> Iterator[None]:
    """2 for bad input, with the error's own words, and for what nobody foresaw; 130 for Ctrl-C."""
    try:
        yield
    except ProsmaError as error:
        complain(error)
        raise typer.Exit(BAD_INPUT) from error
    except KeyboardInterrupt as stop:
        _errors.print("Stopped")
        raise typer.Exit(INTERRUPTED) from stop
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except MemoryError as error:
        _complain("memory ran out; close other programs, or choose smaller images, patches or networks")
        raise typer.Exit(BAD_INPUT) from error
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_SAID]
        _complain(
            f"unexpected error ({said}); please report it; the details are in '{log(error)}': take names of "
            f"patients out before you attach it"
        )
        raise typer.Exit(BAD_INPUT) from error


def log(error: Exception) -> Path:
    """Append an error with all of its calls to a file of the user's; its path."""
    told = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    for folder in (user_log_path("napari-prosma", appauthor=False), Path(tempfile.gettempdir())):
        path = folder / "prosma-errors.log"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {__version__} {sys.argv}\n".encode() + told)
            return path
    raise error


def _complain(text: str) -> None:
    _errors.print(Text.assemble(("error: ", "bold red"), printable(text)))


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
        task, judged = None, ""
        for event in events:
            match event:
                case Started():
                    if task is not None:
                        bar.remove_task(task)
                    task = bar.add_task(escape(printable(event.message)), total=event.total)
                    if event.device != "cpu":
                        console.print(f"Device: {event.device}")
                case Step() if task is not None:
                    bar.update(task, completed=event.done, total=event.total)
                case Notice():
                    say(event.message)
                case EpochEnd():
                    judged = ""
                    say(_line(event))
                case Resumed():
                    console.print(f"Resuming after epoch {len(event.history)}")
                case Verdict() if event.in_words() != judged:  # a run ends with that of its last epoch
                    judged = event.in_words()
                    say(f"  {judged}")
                case Baseline() if event.figures:
                    figures = ", ".join(
                        f"{k} {v:.3f}" for k, v in event.figures.items() if k.startswith(("dice", "iou"))
                    )
                    say(f"Before fine-tuning: {figures}")
                case CheckpointSaved(kind="best"):
                    say(f"  best so far: {event.path}")
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
    from napari_prosma.data.metrics import dice_in_words, in_percent

    classes = [
        f"{k.removeprefix('dice/')} {v:.3f}" for k, v in event.validation.items() if k.startswith("dice/")
    ]
    zeros = [
        in_percent(state["z_zero_fraction"]) for state in event.gates.values() if "z_zero_fraction" in state
    ]
    epoch = f"{event.epoch}/{event.epochs}" if event.epochs < UNLIMITED_EPOCHS else str(event.epoch)
    dice = event.validation["dice"]
    line = f"epoch {epoch}  loss {event.loss:.3f}  dice {dice_in_words(dice)}"
    if not math.isnan(dice):
        line += f"  iou {event.validation['iou']:.3f}"
    if len(classes) > 1:
        line += f"  ({', '.join(classes)})"
    if zeros:
        line += f"  zeros in z by skip {' '.join(zeros)}"
    line += "".join(f"  {name} {value:.3f}" for name, value in event.objective.items())
    return f"{line}  {event.seconds:.1f} s"
