"""The line of a shell, and the lines of Python, that repeat a run; and a line's options as a configuration.

What a field says of itself (``settings``) names its option, and one pair of functions writes and reads its
value, so that what is printed and what is parsed cannot disagree.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import rule_from_text, rule_to_text
from napari_prosma.data.layouts import requirement
from napari_prosma.data.texts import parse_json, read_json
from napari_prosma.errors import ConfigError, DataError
from napari_prosma.events import UNLIMITED_EPOCHS
from napari_prosma.settings import Entry
from napari_prosma.training.config import SETTINGS, TrainConfig, grouped_settings
from napari_prosma.training.objectives import OBJECTIVES, ObjectiveOptions


def config_from_options(options: Mapping[str, Any]) -> TrainConfig:
    """Configuration of a line of ``prosma train``.

    Parameters
    ----------
    options : by field of ``TrainConfig``, ``data`` among them
        Text or number as in the line; a list of texts for an option that is repeated; for a flag the value of
        the field. None and an empty list were not given.

    Raises
    ------
    ConfigError
        A value is not understood or not allowed.
    """
    settings: dict[str, Any] = {}
    objective = OBJECTIVES.get(options.get("objective") or SETTINGS["objective"].default)
    for entry in grouped_settings():
        given = options.get(entry.name)
        if given is None or given == []:
            continue
        if entry.name == "objective_options":
            kind = ObjectiveOptions if objective is None else objective.options
            settings[entry.name] = _named_values(entry.option, kind, given)
        else:
            settings[entry.name] = _read(entry, given)
    return TrainConfig.of(data=options.get("data"), run_dir=options.get("run_dir"), **settings)


def shell_line(config: TrainConfig, folds: int | None = None, scheduler: str | None = None) -> str:
    """``prosma train ...`` with what differs from the defaults, quoted for this system's shell.

    Parameters
    ----------
    folds : int, optional
        Of a cross-validation.
    scheduler : str, optional
        Address of the one that finds a machine to train on.

    Raises
    ------
    ConfigError
        The run does not learn from a folder or a table of cases.
    """
    words = ["prosma", "train", _path_text(_data_of(config)), "--out", _path_text(config.run_dir)]
    changed = set(_changed(config))
    if config.minutes is not None:
        changed = changed - {"epochs"} | ({"epochs"} if config.epochs != UNLIMITED_EPOCHS else set())
    for entry in grouped_settings():
        if entry.name in changed:
            words += _words(entry, getattr(config, entry.name))
    if folds is not None:
        words += ["--folds", str(folds)]
    if scheduler is not None:
        words += ["--scheduler", scheduler]
    return quoted(words)


def quoted(words: Sequence[str]) -> str:
    """Words as a line for this system's shell."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def python_lines(config: TrainConfig, folds: int | None = None, scheduler: str | None = None) -> str:
    """A program that does the same as :func:`shell_line`.

    Raises ``ConfigError``: as :func:`shell_line`.
    """
    _data_of(config)
    settings = {name: _code(getattr(config, name)) for name in _changed(config)}
    used = {
        type(value).__name__: type(value).__module__
        for value in (getattr(config, name) for name in settings)
        if isinstance(value, BaseModel) or is_dataclass(value)
    }
    arguments = "config, data.cases, data.class_names"
    names, call = "TrainConfig, find_cases, train", f"train({arguments})"
    if folds is not None:
        used["cross_validate"] = "napari_prosma.training.folds"
        names, call = "TrainConfig, find_cases", f"cross_validate({arguments}, {folds})"
    if scheduler is not None:
        used["train_elsewhere"] = "napari_prosma.app.elsewhere.run"
        names, call = "TrainConfig, find_cases", f"train_elsewhere({scheduler!r}, {arguments})"
    lines = [f"from napari_prosma import {names}"]
    lines += [f"from {home} import {name}" for name, home in used.items()]
    lines += ["", "config = TrainConfig("]
    lines += [f"    {name}={code}," for name, code in settings.items()]
    chosen = ", images=config.images, masks=config.masks" if config.images is not None else ""
    where = f"config.data, {requirement(True)!r}" if config.labelled_only else "config.data"
    lines += [")", f"data = find_cases({where}, labels=config.labels{chosen})"]
    if config.labelled != "all" and (config.labels is None or not config.labels.is_sparse):
        lines.append(f"data = find_cases({where}, labels=data.labels.sparse(config.labelled){chosen})")
    lines += [f"for event in {call}:", "    print(event)"]
    return "\n".join(lines) + "\n"


def _words(entry: Entry, value: Any) -> list[str]:
    """What stands in the line to set a field to ``value``."""
    if entry.kind is bool:
        return [entry.option]
    texts = _write(entry, value)
    return [word for text in ([texts] if isinstance(texts, str) else texts) for word in (entry.option, text)]


def _write(entry: Entry, value: Any) -> str | list[str]:
    """A value as text, or as texts where the option is repeated."""
    if entry.name in _TEXTS:
        return _TEXTS[entry.name][0](value)
    if entry.kind is list:
        return _named_texts(value)
    if value is None:
        return "0"  # of a number that is there unless it is turned off
    if isinstance(value, Path):
        return _path_text(value)
    return _value_text(value)


def _read(entry: Entry, given: Any) -> Any:
    """What was given on the line, in a form that ``TrainConfig`` converts; as :func:`_write` writes it."""
    if entry.name in _TEXTS:
        return _TEXTS[entry.name][1](given)
    if entry.kind is list:
        return _named_values(entry.option, type(entry.default), given)
    if entry.kind is float and entry.is_optional and entry.default is not None:
        return float(given) or None
    if tuple in entry.types and not (str in entry.types and given.isalpha()):
        return _list(given)
    return given


def _data_of(config: TrainConfig) -> Path:
    if config.data is None:
        raise ConfigError(
            "this run does not learn from a folder of cases, so no line repeats it; keep the cases as files "
            "and give their folder as data"
        )
    return config.data


def _changed(settings: Any) -> list[str]:
    """Names of the fields that differ from their defaults, of a model or a dataclass."""
    usual = _defaults(type(settings))
    return [name for name, default in usual.items() if not _is_usual(getattr(settings, name), default)]


def _is_usual(value: Any, default: Any) -> bool:
    """Options are usual where none of them was changed, whichever objective they are of."""
    return value == default or (isinstance(default, ObjectiveOptions) and not _changed(value))


def _defaults(kind: Any) -> dict[str, Any]:
    """Defaults by name, of a model or a dataclass."""
    if issubclass(kind, BaseModel):
        return {
            name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()
        }
    return {field.name: field.default for field in fields(kind)}


def _code(value: Any) -> str:
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, BaseModel) or is_dataclass(value):
        settings = (f"{name}={_code(getattr(value, name))}" for name in _changed(value))
        return f"{type(value).__name__}({', '.join(settings)})"
    return repr(value)


def _path_text(path: Path) -> str:
    """A path that begins with a dash would be taken for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _fold_text(fold: tuple[int, int]) -> str:
    return f"{fold[0] + 1}/{fold[1]}"


def _fold(text: str) -> tuple[int, int]:
    try:
        k, n = map(int, text.split("/"))
    except ValueError:
        k, n = 0, 0
    if not 1 <= k <= n:
        raise ConfigError(f"the fold '{text}' is not understood; write 1/5 for the first of five, to 5/5")
    return k - 1, n


def _named_texts(options: Any) -> list[str]:
    return [f"{name}={_value_text(getattr(options, name))}" for name in _changed(options)]


def _value_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _named_values(what: str, kind: type, texts: Sequence[str]) -> dict[str, Any]:
    usual = _defaults(kind)
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in usual:
            names = (
                f"write NAME=VALUE with one of {', '.join(usual)}" if usual else "there is nothing to choose"
            )
            raise ConfigError(f"'{what} {text}' is not understood; {names}")
        found[name] = _list(value) if isinstance(usual[name], tuple) else value
    return found


def _plan_text(plan: Plan) -> str:
    return plan.model_dump_json(exclude_defaults=True)


def _plan(text: str) -> dict[str, Any]:
    """A plan as JSON, or the file of one or of a run."""
    try:
        content = parse_json(text, "it") if text.lstrip().startswith("{") else read_json(Path(text))
    except (DataError, ValueError) as error:
        raise ConfigError(
            f"the plan '{text}' cannot be read ({error}); give a JSON file, such as the run.json of a run"
        ) from error
    return content.get("plan", content) if isinstance(content, dict) else content


_TEXTS: dict[str, tuple[Callable[[Any], str], Callable[[Any], Any]]] = {
    "labels": (rule_to_text, rule_from_text),
    "plan": (_plan_text, _plan),
    "fold": (_fold_text, _fold),
}
"""How values are written and read whose text their type does not tell."""
