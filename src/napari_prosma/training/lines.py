"""The line of a shell, and the lines of Python, that repeat a run; and a line's options as a configuration.

One table says for every field of ``TrainConfig`` which option sets it and how its value is written and read,
so that what is printed and what is parsed cannot disagree.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from napari_prosma.data.fingerprint import Plan
from napari_prosma.data.labels import rule_from_text, rule_to_text
from napari_prosma.errors import ConfigError
from napari_prosma.nn.gates import GateOptions
from napari_prosma.training.config import TrainConfig

UNLIMITED_EPOCHS = 100_000
"""Epochs of a run that is limited by its minutes alone."""


@dataclass(frozen=True)
class Option:
    """An option of ``prosma train``.

    Attributes
    ----------
    field : str
        Of ``TrainConfig``.
    name : str
        As in the shell; of a flag, what sets the field to the opposite of its default.
    help : str
    write : value -> text, or a list of texts for an option that is repeated
    read : the reverse; what it leaves as text is converted by ``TrainConfig``
    """

    field: str
    name: str
    help: str
    write: Callable[[Any], str | list[str]] = str
    read: Callable[[Any], Any] = str

    @property
    def default(self) -> Any:
        """Of the field."""
        return TrainConfig.model_fields[self.field].get_default(call_default_factory=True)

    @property
    def is_flag(self) -> bool:
        """Whether the option stands alone, without a value."""
        return isinstance(self.default, bool)

    @property
    def is_repeated(self) -> bool:
        """Whether the option may be given several times."""
        return self.write is _gate_texts

    def words(self, value: Any) -> list[str]:
        """What stands in the line to set the field to ``value``."""
        if self.is_flag:
            return [self.name]
        texts = self.write(value)
        return [word for text in ([texts] if isinstance(texts, str) else texts) for word in (self.name, text)]


def config_from_options(options: Mapping[str, Any]) -> TrainConfig:
    """Configuration of a line of ``prosma train``.

    Parameters
    ----------
    options : by field of ``TrainConfig``, ``data`` among them
        Text as in the line, or a number; a list of texts for an option that is repeated; for a flag the value
        of the field. None and an empty list were not given.

    Raises
    ------
    ConfigError
        A value is not understood or not allowed.
    """
    settings: dict[str, Any] = {}
    for option in OPTIONS:
        given = options.get(option.field)
        if given is None or given == []:
            continue
        as_it_is = option.is_flag or option.is_repeated
        settings[option.field] = option.read(given if as_it_is else str(given))
    if "minutes" in settings:
        settings.setdefault("epochs", UNLIMITED_EPOCHS)
    return TrainConfig.of(data=options.get("data"), **settings)


def shell_line(config: TrainConfig, folds: int | None = None) -> str:
    """``prosma train ...`` with what differs from the defaults, quoted for this system's shell.

    Parameters
    ----------
    config : TrainConfig
    folds : int, optional
        Of a cross-validation.

    Raises
    ------
    ConfigError
        The run does not learn from a folder or a table of cases.
    """
    words = ["prosma", "train", _path_text(_data_of(config))]
    for option in OPTIONS:
        value = getattr(config, option.field)
        left_out = option.default
        if option.field == "epochs" and config.minutes is not None:
            left_out = UNLIMITED_EPOCHS
        if value != left_out:
            words += option.words(value)
    if folds is not None:
        words += ["--folds", str(folds)]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def python_lines(config: TrainConfig, folds: int | None = None) -> str:
    """A program that does the same as :func:`shell_line`.

    Raises
    ------
    ConfigError
        As :func:`shell_line`.
    """
    _data_of(config)
    settings = {name: _code(getattr(config, name)) for name in _changed(config)}
    used = {
        name: home for name, home in _HOMES.items() if any(f"{name}(" in code for code in settings.values())
    }
    lines = ["from napari_prosma import TrainConfig, find_cases, train"]
    lines += [f"from {home} import {name}" for name, home in used.items()]
    lines += ["", "config = TrainConfig("]
    lines += [f"    {name}={code}," for name, code in settings.items()]
    lines += [")", "data = find_cases(config.data, labels=config.labels)"]
    if config.labelled != "all":
        lines.append("data = find_cases(config.data, labels=data.labels.sparse(config.labelled))")
    lines += ["for event in train(config, data.cases, data.class_names):", "    print(event)"]
    return "\n".join(lines) + "\n"


_HOMES = {
    "GateOptions": "napari_prosma.nn.gates",
    "LabelRule": "napari_prosma.data.labels",
    "Plan": "napari_prosma.data.fingerprint",
}
"""Where the lines of Python import from what is not a public name."""


def _data_of(config: TrainConfig) -> Path:
    if config.data is None:
        raise ConfigError(
            "this run does not learn from a folder of cases, so no line repeats it; keep the cases as files "
            "and give their folder as data"
        )
    return config.data


def _changed(settings: Any) -> list[str]:
    """Names of the fields that differ from their defaults, of a model or a dataclass."""
    if isinstance(settings, BaseModel):
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(settings).model_fields.items()
        }
    else:
        defaults = {field.name: field.default for field in fields(settings)}
    return [name for name, default in defaults.items() if getattr(settings, name) != default]


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


def _list_text(value: str | Sequence[float]) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))


def _whole(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _word_or_list(text: str) -> str | tuple[str, ...]:
    return text if text.isalpha() else _list(text)


def _clip_text(value: float | None) -> str:
    return "0" if value is None else str(value)


def _clip(text: str) -> str | None:
    return None if text in ("0", "0.0") else text


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


def _gate_texts(options: GateOptions) -> list[str]:
    return [f"{name}={_gate_text(getattr(options, name))}" for name in _changed(options)]


def _gate_text(value: Any) -> str:
    return _list_text(value) if isinstance(value, tuple) else str(value)


def _gate_options(texts: Sequence[str]) -> dict[str, Any]:
    usual = {field.name: field.default for field in fields(GateOptions)}
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in usual:
            names = ", ".join(usual)
            raise ConfigError(
                f"the gate option '{text}' is not understood; write NAME=VALUE with one of {names}"
            )
        found[name] = _list(value) if isinstance(usual[name], tuple) else value
    return found


def _plan_text(plan: Plan) -> str:
    return plan.model_dump_json(exclude_defaults=True)


def _plan(text: str) -> dict[str, Any]:
    """A plan as JSON, or the file of one or of a run."""
    is_json = text.lstrip().startswith("{")
    try:
        content = json.loads(text if is_json else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the plan '{text}' cannot be read ({error}); give a JSON file, such as the run.json of a run"
        ) from error
    return content.get("plan", content) if isinstance(content, dict) else content


OPTIONS: tuple[Option, ...] = (
    Option("run_dir", "--out", "Run folder for the checkpoints.", _path_text),
    Option(
        "labelled",
        "--labelled",
        "all; slices: only where a slice holds a label; scribbles: only where something is drawn, the "
        "smallest value being background.",
    ),
    Option(
        "labels",
        "--classes",
        "Which stored value is which class, such as 0=background,1=liver; on=NAME, above=NAME or any=NAME "
        "for masks of one class.",
        rule_to_text,
        rule_from_text,
    ),
    Option(
        "modality",
        "--modality",
        "What the images are, which decides how patches are changed at random: ultrasound, ct, mr, "
        "endoscopy, histology, other, or auto.",
    ),
    Option("start_from", "--from", "Model whose weights are taken over, with its plan.", _path_text),
    Option("trains", "--trains", "What of it still learns: all, decoder, or gates and head."),
    Option("taken_rate", "--taken-rate", "Learning rate of what was taken over, relative to what is new."),
    Option(
        "widths",
        "--widths",
        "Size of the network: quick, tiny, base or large, or channels per level such as 16,32,64.",
        _list_text,
        _word_or_list,
    ),
    Option("gate", "--gate", "prosma, spatial, channel, none, attention, dense or prosma-exact."),
    Option(
        "gate_options",
        "--gate-option",
        "Choice within the gate as NAME=VALUE, such as latent_ratio=4; may be repeated.",
        _gate_texts,
        _gate_options,
    ),
    Option(
        "gated_levels", "--gated-levels", "Skips with a gate, 1 = finest, such as 2,3,4.", _list_text, _list
    ),
    Option("norm", "--norm", "batch, or instance for batches of one or two."),
    Option(
        "plan",
        "--plan",
        "What is done to the images, instead of by the data: a JSON file, such as the run.json of a run.",
        _plan_text,
        _plan,
    ),
    Option("dims", "--dims", "2 = slice by slice, 3 = volumes.", read=_whole),
    Option("side", "--side", "Pixel images are shrunk until their median short side is this."),
    Option("epochs", "--epochs", "Rounds of training."),
    Option("minutes", "--minutes", "Stop after this time; the schedule is stretched over it."),
    Option("steps_per_epoch", "--steps-per-epoch", "Steps of a round."),
    Option("spacing", "--spacing", "Resample to this, such as 3,1,1 (z, y, x).", _list_text, _list),
    Option("patch", "--patch", "Patch and window, such as 32,96,96.", _list_text, _list),
    Option("batch", "--batch", "Patches per step."),
    Option("intensity", "--intensity", "zscore, or ct for Hounsfield units."),
    Option("learning_rate", "--learning-rate", "AdamW's, at its highest."),
    Option("weight_decay", "--weight-decay", "AdamW's."),
    Option("warm_up", "--warm-up", "Share of the run over which the learning rate rises."),
    Option("gradient_clip", "--gradient-clip", "Largest norm of the gradient; 0 = any.", _clip_text, _clip),
    Option(
        "class_weights",
        "--class-weights",
        "equal, balanced (rare classes count more), or numbers such as 1,2.5, background first.",
        _list_text,
        _word_or_list,
    ),
    Option("foreground_share", "--foreground-share", "Share of the patches that hold foreground."),
    Option(
        "average", "--average", "Decay per step of a moving average of the weights, such as 0.999; 0 = none."
    ),
    Option("patience", "--patience", "End after so many rounds without a better validation Dice."),
    Option(
        "threshold_rate", "--threshold-rate", "Learning rate of the gates' thresholds, relative to others."
    ),
    Option("validation_fraction", "--validation", "Share of the cases that is held out."),
    Option(
        "fold", "--fold", "Hold out one part of several instead: 1/5 is the first of five.", _fold_text, _fold
    ),
    Option("augment", "--no-augment", "Learn from the patches as they are.", read=bool),
    Option("seed", "--seed", "Split, weights, sampling and augmentation follow from it."),
    Option("device", "--device", "auto (CUDA, then MPS, then CPU), cpu, cuda or mps."),
    Option("precision", "--precision", "auto, 32-true, bf16-mixed or 16-mixed."),
    Option("threads", "--threads", "Threads on the CPU."),
    Option("compile", "--compile", "Compile the network, which takes a minute or more at first.", read=bool),
    Option("tensorboard", "--tensorboard", "Write the figures for TensorBoard too.", read=bool),
)
"""Every option of ``prosma train`` that sets a field of ``TrainConfig``; ``data`` is its argument."""
