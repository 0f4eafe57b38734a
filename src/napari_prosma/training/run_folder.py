"""What a run writes beside its checkpoints: ``run.json``, ``metrics.csv`` and files for TensorBoard.

Each file is written whole or not at all, so that a run that was killed leaves a folder that opens.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from napari_prosma import __version__
from napari_prosma.data.atomic import sweep, written_whole
from napari_prosma.data.fingerprint import HASH_BYTES, CaseFacts, Plan
from napari_prosma.data.limits import real
from napari_prosma.data.texts import read_json, read_rows, write_rows
from napari_prosma.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DataMovedError,
    ProsmaError,
    first_of,
)
from napari_prosma.events import EpochEnd
from napari_prosma.model.checkpoint import BEST, LAST, Checkpoint
from napari_prosma.training.config import TrainConfig
from napari_prosma.training.doubt import LABEL_CONFIDENCE
from napari_prosma.training.run_claim import FORMAT as FORMAT  # known from here, too
from napari_prosma.training.run_claim import RUN, claim, release

METRICS, TENSORBOARD = "metrics.csv", "tensorboard"
_PACKAGES = ("torch", "numpy", "scipy")
_OF_EPOCH = tuple(field.name for field in fields(EpochEnd) if field.name not in ("validation", "gates"))
"""Columns of ``metrics.csv`` before the validation figures and those of the gates."""
_GATE_COLUMN = re.compile(r"skip(\d+)/(.+)", re.DOTALL)


@dataclass(frozen=True)
class RunCase:
    """What ``run.json`` keeps of one case.

    Attributes
    ----------
    name : str
    image_hash, label_hash : str
        As in ``CaseFacts``; the label's as it was learned from last.
    shape, spacing : (n,)
        Of the image as it was read, spacing in ``unit``.
    unit : str
    parts : tuple of str
        ``training``, ``validation``, or both where there is a single case.
    """

    name: str
    image_hash: str
    label_hash: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """When a run began or went on (ISO 8601, local time), and with which version of napari-prosma."""

    at: str
    version: str


@dataclass(frozen=True)
class Ended:
    """How a run ended, ``finished`` or ``failed``, and why; a run that was stopped says nothing."""

    how: str
    why: str = ""


@dataclass(frozen=True)
class Run:
    """What ``run.json`` says of a run.

    Attributes
    ----------
    config : TrainConfig
        With whole paths.
    plan : Plan
    cases : tuple of RunCase
    device : str
        In words, such as the name of the GPU.
    versions : dict
        Of Python, the operating system and the packages that the numbers depend on, at the last start.
    started : tuple of Start
        The first one began the run, the others went on with it.
    ended : Ended, optional
        None where it goes on or was stopped.
    """

    config: TrainConfig
    plan: Plan
    cases: tuple[RunCase, ...]
    device: str
    versions: dict[str, str]
    started: tuple[Start, ...]
    ended: Ended | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Background first."""
        return self.plan.class_names

    @property
    def fingerprint(self) -> str:
        """One hash over the names and hashes of all cases, 40 hexadecimal digits."""
        rows = sorted((case.name, case.image_hash, case.label_hash) for case in self.cases)
        return hashlib.blake2b(json.dumps(rows).encode(), digest_size=HASH_BYTES).hexdigest()


class RunFolder:
    """The folder of a run in progress, for the one that writes there.

    Parameters
    ----------
    path : Path
        Made by :meth:`begin` if missing.
    holder : object, optional
        Who has claimed it (``run_claim.claimed``); by default it is claimed for as long as this lives.
    """

    def __init__(self, path: Path, holder: object | None = None) -> None:
        self.path = path
        self._holder = holder
        self._run: Run | None = None

    def begin(
        self,
        config: TrainConfig,
        plan: Plan,
        facts: Sequence[CaseFacts],
        split: Mapping[str, Sequence[str]],
        device: torch.device,
        resumed: bool = False,
    ) -> tuple[str, ...]:
        """Write ``run.json``; what another run left here is removed first, unless this one goes on with it.

        So is what a killed process left half-written.

        Parameters
        ----------
        config, plan : of the run
        facts : of every case
        split : names of the ``training`` and the ``validation`` cases
        device : torch.device
        resumed : bool
            The run goes on with what is in the folder.

        Returns
        -------
        tuple of str
            Notices: which images and labels are no longer those that the run was left with.

        Raises
        ------
        ConfigError
            Another run goes on in it, or it holds something else.
        DataError
            The folder cannot be made or written to.
        """
        if self._holder is None:
            self._holder = object()
            weakref.finalize(self, release, claim(self.path, self._holder, config.data, resumed))
        sweep(self.path)
        run = Run(
            config=_with_whole_paths(config),
            plan=plan,
            cases=tuple(_run_case(fact, split) for fact in facts),
            device=_in_words(device),
            versions=_versions(),
            started=(Start(datetime.now().astimezone().isoformat(timespec="seconds"), __version__),),
        )
        notices: tuple[str, ...] = ()
        if resumed and (self.path / RUN).exists():
            try:
                kept = read_run(self.path)
            except CheckpointError as error:
                notices = (f"{error}; it is written again, and whether the data changed is unknown",)
            else:
                notices = tuple(
                    f"{what} changed since the run stopped; it resumes with them, so its result differs "
                    f"from that of an uninterrupted run"
                    for what in changed_data(kept, facts)
                )
                run = replace(run, started=kept.started + run.started)
        self._write(run, () if resumed else (METRICS, BEST, LAST, LABEL_CONFIDENCE))
        return notices

    def set_label_hash(self, case: str, label_hash: str) -> None:
        """Keep the hash (``content_hash`` of the class indices) of a label that was corrected."""
        cases = tuple(
            replace(kept, label_hash=label_hash) if kept.name == case else kept for kept in self._begun.cases
        )
        self.require_there()
        self._write(replace(self._begun, cases=cases))

    def configuration_changed(self, config: TrainConfig) -> None:
        """Keep what a user changed while the run goes on."""
        self.require_there()
        self._write(replace(self._begun, config=_with_whole_paths(config)))

    def finished(self) -> None:
        """Keep that the run ended by itself."""
        self.require_there()
        self._write(replace(self._begun, ended=Ended("finished")))

    def write_metrics(self, history: Sequence[EpochEnd]) -> None:
        """Write ``metrics.csv`` whole: a line per epoch, from the first on.

        Raises
        ------
        DataError
            As :meth:`require_there`, or the folder is full.
        """
        self.require_there()
        write_metrics(self.path / METRICS, history)

    def require_there(self) -> None:
        """Refuse to go on in a folder that is another one by now: writing would silently make it anew.

        Raises
        ------
        DataError
            The folder was moved, renamed or deleted since the run began.
        """
        if not (self.path / RUN).is_file():
            raise DataError(
                f"the run folder '{self.path}' was moved, renamed or deleted during the run ({RUN} is "
                f"no longer there); put it back and resume the run, or train into another folder"
            )

    @property
    def _begun(self) -> Run:
        assert self._run is not None, "begin() comes first"
        return self._run

    def _write(self, run: Run, removed: Sequence[str] = ()) -> None:
        content = {"format": FORMAT, "fingerprint": run.fingerprint, **_RUN.dump_python(run, mode="json")}
        with written_whole(self.path / RUN) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            # Before the new run.json takes its place: never stands a run beside another one's checkpoints.
            for name in removed:
                (self.path / name).unlink(missing_ok=True)
        self._run = run


@contextmanager
def failure_kept(folder: Path) -> Iterator[None]:
    """Keep in ``run.json`` why a run failed that began within the block; the error goes on."""
    before = _written(folder / RUN)
    try:
        yield
    except Exception as error:
        if int(os.environ.get("RANK", "0")) == 0 and _written(folder / RUN) != before:
            with suppress(
                ProsmaError
            ):  # a full disk, a folder that was moved: the error itself is what counts
                content = read_json(folder / RUN)
                content["ended"] = asdict(Ended("failed", str(error)))
                with written_whole(folder / RUN) as temporary:
                    text = json.dumps(content, indent=2, ensure_ascii=False)
                    temporary.write_text(text + "\n", encoding="utf-8")
        raise


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def read_run(folder: str | Path) -> Run:
    """What the ``run.json`` of a run folder says; the folder may have been moved since, with data inside it.

    Raises
    ------
    CheckpointError
        It is missing, damaged, or of a newer format.
    """
    folder = Path(folder)
    path = folder / RUN
    try:
        if not path.exists():
            raise CheckpointError(f"'{folder}' holds no {RUN}; give the folder of a run")
        content = read_json(path)
        if content["format"] > FORMAT:
            raise CheckpointError(
                f"'{path}' was written by a newer version (format {content['format']}, this one reads "
                f"{FORMAT}); update napari-prosma"
            )
        run = _RUN.validate_python(content)
    except (DataError, ValueError, KeyError, TypeError) as error:
        wrong = _first_error(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"'{path}' is damaged ({wrong}); restore it, or start a new run with the same settings"
        ) from error
    return replace(run, config=_as_found_in(folder, run.config))


def changed_data(run: Run, facts: Sequence[CaseFacts]) -> list[str]:
    """Which images and labels are not those of the run, such as ``the labels of 1 case (a)``."""
    kept = {case.name: case for case in run.cases}
    both = [(kept[fact.name], fact) for fact in facts if fact.name in kept]
    images = [new.name for old, new in both if _image_of(old) != _image_of(new)]
    labels = [new.name for old, new in both if old.label_hash != new.label_hash]
    return [
        f"the {what} of {len(names)} case{'s' * (len(names) > 1)} ({first_of(names)})"
        for what, names in (("images", images), ("labels", labels))
        if names
    ]


def _image_of(case: RunCase | CaseFacts) -> tuple[str, tuple[float, ...], str]:
    return case.image_hash, case.spacing, case.unit


def learned_images(checkpoint: Checkpoint) -> frozenset[str] | None:
    """Hashes of the images that a model learned from, as the folder of its run has them.

    None where it lies in no such folder, in a damaged one, or was copied into that of another run.
    """
    if checkpoint.path is None or not (checkpoint.path.parent / RUN).is_file():
        return None
    try:
        run = read_run(checkpoint.path.parent)
    except CheckpointError:
        return None  # nothing hangs on it but a column of a table, or a notice
    parts = {part: {case.name for case in run.cases if part in case.parts} for part in checkpoint.split}
    if parts != {part: {*names} for part, names in checkpoint.split.items()}:
        return None
    return frozenset(case.image_hash for case in run.cases if "training" in case.parts)


def with_data(config: TrainConfig, data: Path | None = None, unlabelled: Path | None = None) -> TrainConfig:
    """The configuration of a run that goes on with its data where they are now.

    Raises
    ------
    DataMovedError
        Nothing is where the data were, and no other place was given.
    """
    given = {"data": data, "unlabelled": unlabelled}
    config = config.model_copy(update={name: real(path) for name, path in given.items() if path})
    for name, words in (("data", "data"), ("unlabelled", "unlabelled images")):
        path = getattr(config, name)
        if path is not None and not path.exists():
            option = "FOLDER" if name == "data" else "--unlabelled FOLDER"
            raise DataMovedError(
                f"the {words} of the run '{config.run_dir}' are no longer in '{path}'; put them back, or say "
                f"where they are now (in a shell: prosma train {option} --resume {config.run_dir})"
            )
    return config


def read_metrics(folder: str | Path) -> tuple[EpochEnd, ...]:
    """The epochs in the ``metrics.csv`` of a run folder, digit for digit; none if there is no such file.

    Raises
    ------
    DataError
        It is damaged.
    """
    path = Path(folder) / METRICS
    try:
        return tuple(map(_epoch_end, read_rows(path))) if path.exists() else ()
    except (DataError, ValueError, TypeError) as error:
        wrong = _first_error(error) if isinstance(error, ValidationError) else error
        raise DataError(
            f"'{path}' is damaged ({wrong}); the run's {LAST} has the same figures, and resuming writes it "
            f"again"
        ) from error


def write_metrics(path: Path, history: Sequence[EpochEnd]) -> None:
    """CSV with a line per epoch: its figures, those of the validation, then ``skip1/lambda_mean`` and so on.

    What an epoch has no figure of stays empty.
    """
    write_rows(path, map(_row, history), () if history else _OF_EPOCH, end="\n")


class TensorBoardFiles:
    """The figures of a run for TensorBoard, in ``RUN/tensorboard``.

    Raises
    ------
    ConfigError
        TensorBoard is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "files for TensorBoard need the package tensorboard; install it with: "
                'pip install "napari-prosma[tensorboard]", or train without them'
            ) from error
        self._make = SummaryWriter
        self._folder = run_dir / TENSORBOARD
        self._writer: SummaryWriter | None = None

    def add(self, end: EpochEnd) -> None:
        """Write the figures of an epoch; what an earlier run left of it and later ones is hidden."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=end.epoch)
        for name, value in _row(end).items():
            if name not in ("epoch", "epochs"):
                self._writer.add_scalar(name, value, end.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Nothing more is written."""
        if self._writer is not None:
            self._writer.close()


_RUN, _EPOCH = TypeAdapter(Run), TypeAdapter(EpochEnd)


def _run_case(fact: CaseFacts, split: Mapping[str, Sequence[str]]) -> RunCase:
    parts = tuple(part for part, names in split.items() if fact.name in names)
    return RunCase(fact.name, fact.image_hash, fact.label_hash, fact.shape, fact.spacing, fact.unit, parts)


def _with_whole_paths(config: TrainConfig) -> TrainConfig:
    """So that the run can be resumed from another working directory."""
    paths = {name: getattr(config, name) for name in ("run_dir", "data", "unlabelled", "start_from")}
    return config.model_copy(update={name: real(path) for name, path in paths.items() if path})


def _as_found_in(folder: Path, config: TrainConfig) -> TrainConfig:
    """With what lay within the run's folder where that is now."""
    inside = {
        name: folder / path.relative_to(config.run_dir)
        for name in ("data", "unlabelled")
        if (path := getattr(config, name)) is not None and path.is_relative_to(config.run_dir)
    }
    return config.model_copy(update={"run_dir": folder, **inside})


def _in_words(device: torch.device) -> str:
    match device.type:
        case "cuda":
            return torch.cuda.get_device_name(device)
        case "mps":
            return f"Apple GPU ({platform.machine()})"
        case _:
            return f"CPU ({platform.machine()})"


def _versions() -> dict[str, str]:
    found = {"napari-prosma": __version__, "Python": platform.python_version(), "on": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _row(end: EpochEnd) -> dict[str, float]:
    row = {name: getattr(end, name) for name in _OF_EPOCH} | end.validation
    for level, figures in sorted(end.gates.items()):
        row |= {f"skip{level}/{name}": value for name, value in figures.items()}
    return row


def _epoch_end(row: Mapping[str, str]) -> EpochEnd:
    own: dict[str, str] = {}
    validation: dict[str, str] = {}
    gates: dict[str, dict[str, str]] = {}
    for column, text in row.items():
        gate = _GATE_COLUMN.fullmatch(column)
        if not text:
            continue
        if column in _OF_EPOCH:
            own[column] = text
        elif gate:
            gates.setdefault(gate[1], {})[gate[2]] = text
        else:
            validation[column] = text
    return _EPOCH.validate_python({**own, "validation": validation, "gates": gates})


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
