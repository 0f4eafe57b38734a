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
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

Kind = TypeVar("Kind", bound="Placed")


@dataclass(frozen=True)
class Choice:
    """What a user reads of one choice: a few words in a list, a sentence in its tooltip."""

    words: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a field says of itself.

    Attributes
    ----------
    help : str
        One sentence; ``{choices}`` in it stands for the names of the choices, ``{named choices}`` for them
        with their words.
    group : str
        Heading in the shell's help and in the docs.
    option : str
        Name in the shell; by default that of the field.
    unset : str
        What holds where nothing is given, in words.
    label : str
        In a form; a setting without one is in none.
    tip : str
        In a form; by default ``help``.
    choices : mapping of values to Choice, or a function that gives it
        Words for the values that can be chosen; a function where they register themselves.
    by_name : bool
        A form shows the value, as a shell knows it, before the words of a choice.
    unit : str
        Of a number; of a share "%", which a form shows as whole percent.
    step : float
        Of a form's arrows.
    decimals : int, optional
        That a form shows; by default one more than ``step`` has.
    high : float, optional
        Largest number that a form offers, where the field itself has no limit.
    least : str
        What a form calls the lowest number; by default ``unset``.
    applies : (name, values), optional
        It counts only where another setting has one of these values.
    usual : (name, {value: default}), optional
        Its default where another setting has this value.
    """

    help: str
    group: str = ""
    option: str = ""
    unset: str = ""
    label: str = ""
    tip: str = ""
    choices: Mapping[Any, Choice] | Callable[[], Mapping[Any, Choice]] = field(default_factory=dict)
    by_name: bool = False
    unit: str = ""
    step: float = 1
    decimals: int | None = None
    high: float | None = None
    least: str = ""
    applies: tuple[str, tuple[Any, ...]] | None = None
    usual: tuple[str, Mapping[Any, Any]] | None = None


@dataclass(frozen=True)
class Entry:
    """A setting with what its field adds.

    Attributes
    ----------
    name : str
        Of the field.
    setting : Setting
    default : object
    types : set of type
        Of its values, without None; of a choice those of the values.
    item_types : set of type
        Of what a tuple holds.
    is_optional : bool
        It may be None.
    literals : tuple
        All that a ``Literal`` allows.
    low, high : float or None
        Limits of a number.
    is_above, is_below : bool
        The limit itself is not allowed.
    """

    name: str
    setting: Setting
    default: Any
    types: frozenset[Any]
    item_types: frozenset[Any]
    is_optional: bool
    literals: tuple[Any, ...]
    low: float | None = None
    high: float | None = None
    is_above: bool = False
    is_below: bool = False

    @property
    def choices(self) -> Mapping[Any, Choice]:
        """Words for the values that can be chosen now."""
        given = self.setting.choices
        return given() if callable(given) else given

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


class Placed(Protocol):
    """What registers itself says where it stands in lists, from the front."""

    @property
    def place(self) -> int: ...


def register_all(registry: dict[str, Kind], package: str, path: Iterable[str]) -> None:
    """Import every module of a package, whose contents register themselves, and put them in their places."""
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")
    in_order = sorted(registry.items(), key=lambda entry: (entry[1].place, entry[0]))
    registry.clear()
    registry.update(in_order)


def _entry(name: str, info: FieldInfo, setting: Setting) -> Entry:
    parts = list(_parts(info.annotation))
    literals = tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))
    plain = {get_origin(part) or part for part in parts if get_origin(part) is not Literal}
    limits = [*info.metadata, *(limit for part in _annotated(info.annotation) for limit in part)]
    found = {key: getattr(limit, key) for limit in limits for key in _LIMITS if hasattr(limit, key)}
    return Entry(
        name=name,
        setting=setting,
        default=info.get_default(call_default_factory=True),
        types=frozenset(plain - {NoneType} | {type(value) for value in literals}),
        item_types=frozenset(
            kind
            for part in parts
            if get_origin(part) is tuple
            for item in get_args(part)
            for kind in _parts(item)
        ),
        is_optional=NoneType in plain,
        literals=literals,
        low=found.get("ge", found.get("gt")),
        high=found.get("le", found.get("lt")),
        is_above="gt" in found,
        is_below="lt" in found,
    )


_LIMITS = ("ge", "gt", "le", "lt")


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


def _annotated(annotation: Any) -> Iterator[list[Any]]:
    """What is annotated to the alternatives of a type; pydantic's own ``Field`` holds its limits within."""
    if get_origin(annotation) is Annotated:
        for each in get_args(annotation)[1:]:
            yield getattr(each, "metadata", [each])
    elif get_origin(annotation) not in (Literal, tuple):
        for part in get_args(annotation):
            yield from _annotated(part)
