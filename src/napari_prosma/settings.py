"""What a setting says of itself: its words, choices, limits and unit, written once beside its field.

A field of a configuration (a pydantic model) carries a :class:`Setting` as ``Annotated`` metadata. The
options of the shell, the forms of the panels, the tables of the docs and the lines of *Reproduce* are made
from :func:`entries_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Choice:
    """What a user reads of one choice: a few words in a list, a sentence in its tooltip."""

    words: str
    meaning: str


@dataclass(frozen=True)
class Setting:
    """What a field says of itself; a setting without a label is in no form."""

    help: str  # a sentence; {choices} in it are their names, {named choices} their names and words
    label: str = ""  # in a form
    tip: str = ""  # in a form, by default ``help``
    group: str = ""  # heading in the shell's help and in the docs
    option: str = ""  # name in the shell, by default the field's
    unset: str = ""  # what holds where nothing is given, in words
    choices: Mapping[Any, Choice] | Callable[[], Mapping[Any, Choice]] = field(default_factory=dict)
    by_name: bool = False  # a form shows a choice's value, as a shell knows it, before its words
    unit: str = ""  # of a number; of a share "%", which a form shows as whole percent
    step: float = 1  # of a form's arrows
    decimals: int | None = None  # in a form, by default one more than ``step`` has
    high: float | None = None  # largest number that a form offers, where the field has no limit
    least: str = ""  # what a form calls the lowest number, by default ``unset``
    applies: tuple[str, tuple[Any, ...]] | None = (
        None  # counts only where that setting has one of these values
    )
    usual: tuple[str, Mapping[Any, Any]] | None = None  # its default by the values of that setting


@dataclass(frozen=True)
class Entry:
    """A setting with what its field adds."""

    name: str
    setting: Setting
    default: Any
    types: frozenset[Any]  # of its values, without None; of a choice those of the values
    item_types: frozenset[Any]  # of what a tuple holds
    items_are_positive: bool  # and none of it may be 0 or less
    is_optional: bool  # it may be None
    literals: tuple[Any, ...]  # all that a ``Literal`` allows
    is_chosen: bool  # it allows nothing but these
    low: float | None = None
    high: float | None = None
    is_above: bool = False  # the lower limit itself is not allowed
    is_below: bool = False  # nor the upper one

    @property
    def choices(self) -> Mapping[Any, Choice]:
        """Words for the values that can be chosen now; without words of its own, a value is its own."""
        given = self.setting.choices() if callable(self.setting.choices) else self.setting.choices
        if given or not self.is_chosen:
            return given
        values = (None, *self.literals) if self.is_optional else self.literals
        return {value: Choice(self.setting.unset if value is None else str(value), "") for value in values}

    @property
    def kind(self) -> type:
        """``bool``, ``int`` or ``float``; ``list`` for options within an option; ``str`` for all else."""
        if is_dataclass(self.default) or hasattr(type(self.default), "model_fields"):
            return list
        return next((kind for kind in (bool, int, float) if self.types == {kind}), str)

    @property
    def option(self) -> str:
        """Name in the shell; of a flag, what sets the field to the opposite of its default."""
        name = self.setting.option or self.name.replace("_", "-")
        return f"--no-{name}" if self.kind is bool and self.default else f"--{name}"

    @property
    def default_text(self) -> str:
        """What holds where nothing is given, in words; empty for a flag."""
        if self.kind is bool or self.kind is list or self.default in (None, ()):
            return self.setting.unset
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def help(self) -> str:
        """One sentence, with the names of the choices."""
        named = (f"{name} ({choice.words.lower()})" for name, choice in self.choices.items())
        said = self.setting.help.replace("{choices}", ", ".join(map(str, self.choices)))
        return said.replace("{named choices}", ", ".join(named))


def entries_of(model: type[BaseModel]) -> dict[str, Entry]:
    """Every field of ``model`` that carries a :class:`Setting`, in their order."""
    return {
        name: _entry(name, info, setting)
        for name, info in model.model_fields.items()
        for setting in info.metadata
        if isinstance(setting, Setting)
    }


def register_all(package: str, path: Iterable[str], *first: str) -> None:
    """Import every module of a package, whose contents register themselves; ``first`` lead their lists."""
    for name in dict.fromkeys((*first, *(module.name for module in iter_modules(path)))):
        import_module(f"{package}.{name}")


def _entry(name: str, info: FieldInfo, setting: Setting) -> Entry:
    parts = list(_parts(info.annotation))
    literals = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
    plain = {get_origin(part) or part for part in parts if get_origin(part) is not Literal}
    limits = _limits([*info.metadata, *_annotated(info.annotation)])
    items = [item for part in parts if get_origin(part) is tuple for item in get_args(part)]
    return Entry(
        name=name,
        setting=setting,
        default=info.get_default(call_default_factory=True),
        types=frozenset(plain - {NoneType} | {type(value) for value in literals}),
        item_types=frozenset(kind for item in items for kind in _parts(item)),
        items_are_positive=any(_limits(_annotated(item)).get("gt") == 0 for item in items),
        is_optional=NoneType in plain,
        literals=literals,
        is_chosen=bool(literals) and plain <= {NoneType},
        low=limits.get("ge", limits.get("gt")),
        high=limits.get("le", limits.get("lt")),
        is_above="gt" in limits,
        is_below="lt" in limits,
    )


def _limits(metadata: Iterable[Any]) -> dict[str, float]:
    """The limits of a number among what is annotated to it."""
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(each, name) for each in metadata for name in names if hasattr(each, name)}


def _parts(annotation: Any) -> Iterator[Any]:
    """The alternatives of a type, without what is annotated to them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin is Literal or origin in (tuple, list, dict) or not get_args(annotation):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _parts(part)


def _annotated(annotation: Any) -> Iterator[Any]:
    """What is annotated to the alternatives of a type; pydantic's own ``Field`` holds its limits within."""
    if get_origin(annotation) is Annotated:
        for each in get_args(annotation)[1:]:
            yield from getattr(each, "metadata", [each])
    elif get_origin(annotation) not in (Literal, tuple):
        for part in get_args(annotation):
            yield from _annotated(part)
