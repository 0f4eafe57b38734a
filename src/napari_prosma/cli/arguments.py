"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, cuda or mps.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Compute on another machine: the address of its Dask scheduler, such as tcp://HOST:8786.",
        show_default=False,
    ),
]
MODEL_HELP = (
    "A checkpoint (.safetensors), a run folder, or the name of a model in the package (see prosma models)."
)
Model = Annotated[Path, typer.Argument(help=MODEL_HELP, show_default=False)]


def require_new(
    paths: Iterable[Path | None], overwrite: bool, instead: str = "choose another --out, or --overwrite it"
) -> None:
    """Refuse to write over what is there (raises ``DataError``), unless that is wanted."""
    from napari_prosma.data.atomic import require_new as require

    if not overwrite:
        require((path for path in paths if path is not None), instead)


def was_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave the argument ``name``."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
