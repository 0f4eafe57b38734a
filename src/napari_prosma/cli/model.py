"""``prosma models``, ``card``, ``export`` and ``tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_prosma.cli.arguments import MODEL_HELP, Device, Model, Overwrite, require_new
from napari_prosma.cli.follow import exit_codes, follow, say


def models(
    runs: Annotated[
        Path | None, typer.Option(help="Folder of runs.", show_default="prosma-runs in your home")
    ] = None,
) -> None:
    """List the known models: those of the package, those used last, and those of your runs.

    [bold]Example:[/] prosma models
    """
    with exit_codes():
        from napari_prosma.app.models import known_models, runs_folder
        from napari_prosma.app.remembered import MODELS, recent_paths

        listed = list(known_models(runs or runs_folder(), recent_paths(MODELS)))
        for model in listed:
            say(model.in_words())
        if not listed:
            say("There are no models yet; train one with prosma train")


def card(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a page, .html or .md, with pictures of the worst cases."),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Say what a model finds, on which images, how well, and what it must not be used for.

    [bold]Example:[/] prosma card runs/busi --out busi.html
    """
    with exit_codes():
        from napari_prosma.app.card_pages import as_markdown, require_page, write_page
        from napari_prosma.app.card_pictures import pictured_card
        from napari_prosma.app.cards import card_of

        if out is None:
            for line in as_markdown(card_of(model)).splitlines():
                say(line)
            return
        require_page(out)
        require_new([out], overwrite)
        write_page(follow(pictured_card(model, device)), out)
        say(str(out))


def export(
    model: Model,
    onnx: Annotated[Path | None, typer.Option(help="Write an ONNX file.", show_default=False)] = None,
    bioimageio: Annotated[
        Path | None, typer.Option(help="Write a bioimage.io package (.zip).", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model for other programs, after comparing it with PyTorch.

    [bold]Example:[/] prosma export runs/busi --onnx busi.onnx --bioimageio busi.zip
    """
    with exit_codes():
        from napari_prosma.app.card_pages import as_markdown
        from napari_prosma.app.cards import card_of
        from napari_prosma.errors import ConfigError
        from napari_prosma.export.bioimageio import export_bioimageio
        from napari_prosma.export.onnx import export_onnx

        def with_card(model: Path, path: Path) -> Path:
            return export_bioimageio(model, path, card=as_markdown(card_of(model)))

        wanted = [(export_onnx, onnx), (with_card, bioimageio)]
        if not any(path for _, path in wanted):
            raise ConfigError("choose what to write: --onnx FILE, --bioimageio FILE, or both")
        require_new((path for _, path in wanted), overwrite, "choose another name, or --overwrite it")
        for write, path in wanted:
            if path is not None:
                say(str(write(model, path)))


def tune(
    model: Annotated[
        Path | None,
        typer.Argument(help=MODEL_HELP, show_default="the default networks"),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Also try compiling (minutes; slower on many machines) and, on CUDA, fused gates.",
        ),
    ] = False,
    device: Device = "auto",
) -> None:
    """Measure which memory layout is fastest on this machine, and remember it for later runs.

    Measures the windows and batches of a model; with --compile also whether compiling saves more time than it
    takes, and on CUDA the gates' Triton kernel. All ways give the same numbers, to rounding. PROSMA_CACHE
    names another folder than the user's cache for the measurements; where it is empty, nothing is remembered.

    [bold]Example:[/] prosma tune runs/busi
    """
    with exit_codes():
        from napari_prosma.model.checkpoint import load_checkpoint
        from napari_prosma.model.tuning import cache_file, works_of
        from napari_prosma.model.tuning import tune as run

        works = works_of(None if model is None else load_checkpoint(model), device)
        for work, measured in follow(run(works, compiled)).items():
            say(f"{work.in_words()}: {measured.in_words()}")
        file = cache_file()
        say("PROSMA_CACHE is empty: nothing is remembered" if file is None else f"remembered in {file}")
