"""What is done on a worker: a training, or any other function that gives events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_prosma.app.elsewhere.store import Sent, SentCase, SentImage
from napari_prosma.app.elsewhere.worker import Place
from napari_prosma.app.runs import cases_of
from napari_prosma.data.atomic import written_whole
from napari_prosma.data.case import Case
from napari_prosma.errors import DataError
from napari_prosma.events import CheckpointSaved, Event, Finished
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.keeper import RunResult
from napari_prosma.training.run import train


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint of this kind was written there."""

    kind: str
    epoch: int


@dataclass(frozen=True)
class Ended(Event):
    """A training is over by itself."""

    score: float
    epochs: int


@dataclass(frozen=True)
class TrainJob:
    """A training.

    Attributes
    ----------
    settings : dict
        What is set of its ``TrainConfig``, as JSON values; paths are those of the worker, ``run_dir`` is its
        own.
    cases, unlabelled : tuple of SentCase
    class_names : tuple of str
    start_from, resumed : Sent, optional
        Checkpoints.
    kept : file name -> content
        What else a run that is resumed has in its folder.
    wants_previews : bool
    """

    settings: dict[str, Any]
    cases: tuple[SentCase, ...]
    class_names: tuple[str, ...]
    unlabelled: tuple[SentCase, ...] = ()
    start_from: Sent | None = None
    resumed: Sent | None = None
    kept: dict[str, Sent | bytes] = field(default_factory=dict)
    wants_previews: bool = True

    def events(self, place: Place) -> Iterator[Event]:
        """Those of ``train``, with no path of the worker in them."""
        place.steering.wants_previews = self.wants_previews
        place.labels.update({case.name: case.label for case in self.cases if case.label is not None})
        resumed = None if self.resumed is None else self.resumed.opened()
        for name, content in self.kept.items():
            with written_whole(place.folder / name) as temporary:
                temporary.write_bytes(content if isinstance(content, bytes) else content.path.read_bytes())
        settings = {**self.settings, "run_dir": place.folder}
        if self.start_from is not None:
            settings["start_from"] = self.start_from.path
        config = TrainConfig.of(**settings)
        run = train(
            config,
            self._cases(config, place),
            self.class_names,
            resumed,
            place.steering,
            tuple(case.opened(None) for case in self.unlabelled),
        )
        for event in run:
            match event:
                case CheckpointSaved():
                    yield Saved(event.kind, event.epoch)
                case Finished(RunResult() as result):
                    yield Ended(result.score, result.epochs)
                case _:
                    yield event

    def _cases(self, config: TrainConfig, place: Place) -> list[Case]:
        there: dict[str, Case] = {}
        if any(case.image is None for case in self.cases):
            there = {case.name: case for case in cases_of(config).cases}
            missing = [case.name for case in self.cases if case.name not in there]
            if missing:
                raise DataError(
                    f"'{config.data}' is another data set there, without {len(missing)} of the cases, such "
                    f"as '{missing[0]}'; give both machines the same files, or the folder another name there"
                )
        cases = []
        for case in self.cases:
            sent = partial(_label_now, place.labels, case.name)
            if case.image is not None:
                cases.append(case.opened(None if case.label is None else sent))
                continue
            seen = there[case.name]
            read = seen.read_label and partial(_label_now, place.labels, case.name, seen.read_label)
            cases.append(
                replace(seen, read_label=read, group=case.group, split=case.split, patient=case.patient)
            )
        return cases


def _label_now(
    labels: dict[str, Sent], case: str, read: Callable[[], np.ndarray] | None = None
) -> np.ndarray:
    """The label that was sent last, else that in the file."""
    sent = labels.get(case)
    if sent is None:
        assert read is not None
        return read()
    return np.array(sent.opened())


@dataclass(frozen=True)
class CallJob:
    """Any function that gives events; what was sent among its arguments is opened."""

    function: Callable[..., Iterator[Event]]
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)

    def events(self, place: Place) -> Iterator[Event]:
        """Those of the function."""
        return self.function(*map(_opened, self.arguments), **{n: _opened(v) for n, v in self.named.items()})


def _opened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _opened(held) for name, held in value.items()}
    return value.opened() if isinstance(value, Sent | SentImage) else value


def without_paths(config: TrainConfig, sees_data: bool) -> dict[str, Any]:
    """What is set of a configuration, as a worker takes it."""
    settings = config.model_dump(mode="json", exclude_unset=True)
    here = {"run_dir", "unlabelled", "start_from"} | (set() if sees_data else {"data", "images", "masks"})
    return {name: value for name, value in settings.items() if name not in here}


def as_here(settings: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    """The settings in a file from there, with the paths of this machine."""
    paths = {name: getattr(config, name) for name in ("run_dir", "data", "unlabelled", "start_from")}
    return {**settings, **{name: path and str(Path(path).absolute()) for name, path in paths.items()}}
