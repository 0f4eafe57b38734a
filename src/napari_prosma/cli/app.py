"""``prosma``: train, segment, evaluate, inspect and more in a shell. Exit codes: 0, 2 bad input, 130 Ctrl-C.

A command is imported when it is asked for, and nothing heavy before it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from napari_prosma import __version__

COMMANDS = {
    "train": "train.train",
    "ablate": "train.ablate",
    "segment": "segment.segment",
    "inspect": "inspect.inspect",
    "suspicious": "inspect.suspicious",
    "evaluate": "segment.evaluate",
    "models": "model.models",
    "card": "model.card",
    "export": "model.export",
    "check": "data.check",
    "fetch": "data.fetch",
    "tune": "model.tune",
    "forget": "data.forget",
    "demo": "train.demo",
    "next": "inspect.next_",
}
"""Every command, in the order of the help, and its function in this package."""
OLD_NAMES = {"twins": "ablate", "doubts": "suspicious"}
"""They do the same for one release, with a notice."""
_OLD_FUNCTIONS = {"_refuse_to_replace": "train.require_new_run", "_table": "tables.table"}
"""Older names of functions, which scripts import from here."""
_LOOK: dict[str, Any] = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False}


def _function(place: str) -> Callable[..., None]:
    module, _, name = place.partition(".")
    function: Callable[..., None] = getattr(import_module(f"napari_prosma.cli.{module}"), name)
    return function


class _Commands(Mapping[str, Any]):
    """The commands by their names, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in [*self]:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS | OLD_NAMES)

    def __len__(self) -> int:
        return len(COMMANDS | OLD_NAMES)

    def _make(self, name: str) -> Any:
        from napari_prosma.cli.train import with_settings

        now = OLD_NAMES.get(name, name)
        function = with_settings(_function(COMMANDS[now]))
        single = typer.Typer(add_completion=False, **_LOOK)
        single.command(name, hidden=name in OLD_NAMES)(
            function if name == now else _renamed(name, now, function)
        )
        return get_command(single)


def _renamed(old: str, now: str, command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def renamed(*given: object, **options: object) -> None:
        from napari_prosma.cli.follow import notice

        notice(f"prosma {old} is now called prosma {now}; the old name will be removed")
        command(*given, **options)

    return renamed


class _Group(TyperGroup):
    """``prosma``, whose help names the commands without making them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print what there is, as typer does."""
        named: dict[str, Any] = {
            name: TyperCommand(name, help=getdoc(_function(place)), rich_markup_mode="rich")
            for name, place in COMMANDS.items()
        }
        outline = TyperGroup(
            name=self.name, help=self.help, params=self.params, commands=named, rich_markup_mode="rich"
        )
        outline.format_help(ctx, formatter)


app = typer.Typer(
    help="Train ProSMA-UNet on your own annotations, segment images with it, and see what each of its gated "
    "skip connections lets through.",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    **_LOOK,
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


def __getattr__(name: str) -> Any:
    if name in _OLD_FUNCTIONS:
        return _function(_OLD_FUNCTIONS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _image_files(paths: list[Path]) -> list[Path]:
    from napari_prosma.app.batch import image_files

    return image_files(paths)


def main() -> None:
    """Entry point of ``prosma``."""
    app()
