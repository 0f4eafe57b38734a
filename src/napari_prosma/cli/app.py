"""``prosma``: train, segment, evaluate, inspect and more in a shell. Exit codes: 0, 2 bad input, 130 Ctrl-C.

Nothing heavy is imported before a command runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from napari_prosma import __version__
from napari_prosma.cli.data import check, fetch, forget
from napari_prosma.cli.follow import notice
from napari_prosma.cli.inspect import inspect, next_, suspicious
from napari_prosma.cli.model import card, export, models, tune
from napari_prosma.cli.segment import evaluate, segment
from napari_prosma.cli.tables import table
from napari_prosma.cli.train import ablate, demo, require_new_run, train

app = typer.Typer(
    help="Train ProSMA-UNet on your own annotations, segment images with it, and see what each of its gated "
    "skip connections lets through.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"napari-prosma {__version__}")
        raise typer.Exit


# Older names of functions, which scripts import.
_refuse_to_replace, _table = require_new_run, table


def _image_files(paths: list[Path]) -> list[Path]:
    from napari_prosma.app.batch import image_files

    return image_files(paths)


for _command in (
    train,
    ablate,
    segment,
    inspect,
    suspicious,
    evaluate,
    models,
    card,
    export,
    check,
    fetch,
    tune,
    forget,
    demo,
):
    app.command()(_command)
app.command("next")(next_)


def _keep_old_name(old: str, command: Callable[..., None]) -> None:
    """Let ``prosma old`` do the same for one release, with a notice."""

    @wraps(command)
    def renamed(*given: object, **options: object) -> None:
        notice(f"prosma {old} is now called prosma {command.__name__}; the old name will be removed")
        command(*given, **options)

    app.command(old, hidden=True)(renamed)


_keep_old_name("twins", ablate)
_keep_old_name("doubts", suspicious)


def main() -> None:
    """Entry point of ``prosma``."""
    app()
